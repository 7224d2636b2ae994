"""Settings of a bridge between two sources, checked when they are made and completed by the data."""

__all__ = ["BridgeConfig"]

import dataclasses
import math
from dataclasses import dataclass

from girsanov.models import takes_convolutions
from girsanov.runs.ends import Ends
from girsanov.types import InputError, require_counts

SIGMA = 0.5  # default of the reference, in spreads of the columns
SMALL = 256  # pixels up to which images take fewer channels
ROUNDS = 3  # and one after a warm start, which brings both ends about
PATHS, IMAGE_PATHS = 10_000, 4000  # simulated for a projection unless said: of tables at most, of images


@dataclass(frozen=True)
class BridgeConfig:
    """Settings of a bridge between two sources.

    Attributes:
        sigma: of the Brownian reference over the whole time, in spreads of the columns: how much a path may stray;
            default 0.5, and 1 to a normal law, where nothing need stay as it was.
        start: ``gaussian``, ``mixture`` or ``reference``, see :class:`girsanov.SchrodingerBridge`.
        warm_start: ``minibatch``, pairs of rows by optimal transport in small batches, to which both halves are matched
            before they alternate; or ``none``. By default the first with convolutions, whose corrections of a closed
            form would take many alternations. A bridge to a normal law has none.
        rounds: alternations between two sets of rows; by default 3, and 1 after a warm start. A bridge to a normal law
            has none.
        steps: training steps of a projection, or of a joint fit to a normal law; by default 1500 and 2000.
        time_budget: seconds of training, from which the steps are planned.
        paths: paths simulated for a projection, and pairs of a warm start; by default one from each row, 10,000 at
            most; with convolutions 4,000, some from the same rows. A bridge to a normal law has no projections.
        chain_steps: steps of a path; by default 40, and 20 to a normal law, where training walks whole paths.
        network: ``mlp`` or ``conv``; by default ``conv`` for images whose sides are even and at least 4.
        width: of the networks; by default 128 units; of images 16 channels, or 32.
        blocks: of the networks.
        batch_size: of training.
        seed: decides everything random.

    Raises:
        InputError: for a value that cannot work.
    """

    sigma: float | None = None
    start: str | None = None
    warm_start: str | None = None
    rounds: int | None = None
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
        require_counts(self, "rounds", "steps", "paths", "chain_steps", "width", "blocks", "batch_size")
        for name in ("sigma", "time_budget"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InputError(f"{name} must be positive; got {value}")
        if self.steps is not None and self.time_budget is not None:
            raise InputError("give either steps or a time budget, from which they are planned")
        if self.start not in (None, "gaussian", "mixture", "reference"):
            raise InputError(f"start must be gaussian, mixture or reference; got {self.start!r}")
        if self.warm_start not in (None, "minibatch", "none"):
            raise InputError(f"warm_start must be minibatch or none; got {self.warm_start!r}")
        if self.network not in (None, "mlp", "conv"):
            raise InputError(f"network must be mlp or conv; got {self.network!r}")

    def completed(self, ends: Ends) -> "BridgeConfig":
        """With the settings that the data decide.

        Raises:
            InputError: for a setting that these data cannot have, or that has no effect on them.
        """
        shape, images, to_law = tuple(ends.schema.event_shape), ends.schema.kind == "images", len(ends.x) == 1
        self._require_network(shape)
        if to_law:
            self._require_effect()
        network = self.network or ("conv" if images and takes_convolutions(shape) else "mlp")
        warm = "none" if to_law else self.warm_start or ("minibatch" if network == "conv" else "none")
        channels = 16 if math.prod(shape) <= SMALL else 32
        rows = min(len(splits.train) for splits in ends.splits)
        return dataclasses.replace(
            self,
            sigma=self.sigma or (1.0 if to_law else SIGMA),
            start=self.start or "gaussian",
            warm_start=warm,
            rounds=self.rounds or (ROUNDS if warm == "none" else 1),
            chain_steps=self.chain_steps or (20 if to_law else 40),
            paths=self.paths or (IMAGE_PATHS if network == "conv" else min(rows, IMAGE_PATHS if images else PATHS)),
            network=network,
            width=self.width or (channels if network == "conv" else 128),
        )

    def notes(self, ends: Ends) -> list[str]:
        """What people should know about the choices that :meth:`completed` makes for them."""
        shape = tuple(ends.schema.event_shape)
        if self.network is not None or ends.schema.kind != "images" or takes_convolutions(shape):
            return []
        return [f"images of shape {shape} get mlp networks: convolutions need (c, h, w) with even sides of 4 or more"]

    def _require_network(self, shape: tuple[int, ...]) -> None:
        if self.network == "conv" and not takes_convolutions(shape):
            raise InputError(
                "A convolutional network needs images (c, h, w) with even sides of 4 or more; "
                f"these rows have shape {shape}: use mlp"
            )

    def _require_effect(self) -> None:
        """Refuse what a joint fit would ignore: it alternates no projections."""
        for name in ("warm_start", "rounds", "paths"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} has no effect on a bridge to a normal law, which alternates no projections: leave it out"
                )
