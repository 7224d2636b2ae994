"""Settings of a bridge between two sources, checked when they are made and completed by the data."""

__all__ = ["BridgeConfig"]

import dataclasses
import math
from dataclasses import dataclass

from girsanov.runs.ends import Ends
from girsanov.types import InputError

SIGMA = 0.5  # default of the reference, in spreads of the columns
SMALL = 256  # pixels up to which images take fewer channels
PATHS, IMAGE_PATHS = 10_000, 4000  # most that are simulated for a projection unless said


@dataclass(frozen=True)
class BridgeConfig:
    """Settings of a bridge between two sources.

    Attributes:
        sigma: of the Brownian reference over the whole time, in spreads of the columns: how much a path may stray;
            default 0.5, and 1 to a normal law, where nothing need stay as it was.
        start: ``gaussian``, ``mixture`` or ``reference``, see :class:`girsanov.SchrodingerBridge`.
        rounds: alternations.
        steps: training steps of a projection, or of a joint fit to a normal law; by default 1500 and 2000.
        time_budget: seconds of training, from which the steps are planned.
        paths: paths simulated for a projection; by default one from each row, 10,000 (images: 4,000) at most. More than
            the rows repeat them, and then what a projection holds out no longer shows whether it overfits.
        chain_steps: steps of a path; by default 40, and 20 to a normal law, where training walks whole paths.
        network: ``mlp`` or ``conv``; chosen by the data.
        width: of the networks; by default 128 units; of images 16 channels, or 32.
        blocks: of the networks.
        batch_size: of training.
        seed: decides everything random.

    Raises:
        InputError: for a value that cannot work.
    """

    sigma: float | None = None
    start: str | None = None
    rounds: int = 3
    steps: int | None = None
    time_budget: float | None = None
    paths: int | None = None
    chain_steps: int | None = None
    network: str | None = None
    width: int | None = None
    blocks: int = 2
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "paths", "chain_steps", "width", "blocks", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}")
        for name in ("sigma", "time_budget"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InputError(f"{name} must be positive; got {value}")
        if self.steps is not None and self.time_budget is not None:
            raise InputError("give either steps or a time budget, from which they are planned")
        if self.start not in (None, "gaussian", "mixture", "reference"):
            raise InputError(f"start must be gaussian, mixture or reference; got {self.start!r}")
        if self.network not in (None, "mlp", "conv"):
            raise InputError(f"network must be mlp or conv; got {self.network!r}")

    def completed(self, ends: Ends) -> "BridgeConfig":
        """With the settings that the data decide."""
        images, d = ends.schema.kind == "images", math.prod(ends.schema.event_shape)
        to_law = len(ends.x) == 1
        network = self.network or ("conv" if images and len(ends.schema.event_shape) == 3 else "mlp")
        channels = 16 if d <= SMALL else 32
        rows = min(len(splits.train) for splits in ends.splits)
        if network == "conv" and len(ends.schema.event_shape) != 3:
            raise InputError("A convolutional network needs images of shape (channels, height, width): use mlp")
        return dataclasses.replace(
            self,
            sigma=self.sigma or (1.0 if to_law else SIGMA),
            start=self.start or "gaussian",
            chain_steps=self.chain_steps or (20 if to_law else 40),
            paths=self.paths or min(rows, IMAGE_PATHS if images else PATHS),
            network=network,
            width=self.width or (channels if network == "conv" else 128),
        )
