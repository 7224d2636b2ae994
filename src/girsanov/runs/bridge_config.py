"""Settings of a bridge between two sources, checked when they are made and completed by the data."""

__all__ = ["BridgeConfig", "CommonBridgeConfig", "LawBridgeConfig"]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from girsanov.bridges import AlternatingConfig, JointConfig, NetworkConfig, SchrodingerBridge
from girsanov.networks import takes_convolutions
from girsanov.processes import BrownianMotion
from girsanov.runs.ends import Ends
from girsanov.types import InputError, require_counts

SMALL = 256  # pixels up to which images take fewer channels
ROUNDS = 3  # and one after a warm start, which brings both ends about
PATHS, IMAGE_PATHS = 10_000, 4000  # simulated for a projection unless said: of tables at most, of images


@dataclass(frozen=True)
class CommonBridgeConfig(ABC):
    """Settings of every bridge that a run fits.

    Attributes:
        sigma: of the Brownian reference over the whole time, in spreads of the columns: how much a path may stray.
        start: ``gaussian``, ``mixture`` or ``reference``, see :class:`girsanov.SchrodingerBridge`.
        steps: training steps.
        time_budget: seconds of training, from which the steps are planned.
        chain_steps: steps of a path.
        network: ``mlp`` or ``conv``; by default ``conv`` for images whose sides are even and at least 4.
        width: of the networks; by default 128 units; of images 16 channels, or 32.
        blocks: of the networks.
        batch_size: of training.
        seed: decides everything random.

    Raises:
        InputError: for a value that cannot work.
    """

    sigma: float = 0.5
    start: str = "gaussian"
    steps: int | None = None
    time_budget: float | None = None
    chain_steps: int = 40
    network: str | None = None
    width: int | None = None
    blocks: int = 2
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "chain_steps", "width", "blocks", "batch_size")
        for name in ("sigma", "time_budget"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InputError(f"{name} must be positive; got {value}")
        if self.steps is not None and self.time_budget is not None:
            raise InputError("give either steps or a time budget, from which they are planned")
        if self.start not in ("gaussian", "mixture", "reference"):
            raise InputError(f"start must be gaussian, mixture or reference; got {self.start!r}")
        if self.network not in (None, "mlp", "conv"):
            raise InputError(f"network must be mlp or conv; got {self.network!r}")

    def completed(self, ends: Ends) -> Self:
        """With the settings that the data decide.

        Raises:
            InputError: for a setting that these data cannot have.
        """
        shape, images = tuple(ends.schema.event_shape), ends.schema.kind == "images"
        if self.network == "conv" and not takes_convolutions(shape):
            raise InputError(
                "A convolutional network needs images (c, h, w) with even sides of 4 or more; "
                f"these rows have shape {shape}: use mlp"
            )
        network = self.network or ("conv" if images and takes_convolutions(shape) else "mlp")
        channels = 16 if math.prod(shape) <= SMALL else 32
        return replace(self, network=network, width=self.width or (channels if network == "conv" else 128))

    def notes(self, ends: Ends) -> list[str]:
        """What people should know about the choices that :meth:`completed` makes for them."""
        shape = tuple(ends.schema.event_shape)
        if self.network is not None or ends.schema.kind != "images" or takes_convolutions(shape):
            return []
        return [f"images of shape {shape} get mlp networks: convolutions need (c, h, w) with even sides of 4 or more"]

    def _bridge(self, event_shape: Sequence[int], **options: Any) -> SchrodingerBridge:
        """The bridge that completed settings ask for, before it is fitted."""
        assert self.width is not None
        return SchrodingerBridge(
            BrownianMotion(sigma=self.sigma),
            event_shape=(math.prod(event_shape),) if self.network == "mlp" else tuple(event_shape),
            start=self.start,  # type: ignore[arg-type]
            steps=self.chain_steps,
            network=NetworkConfig(width=self.width, blocks=self.blocks),
            **options,
        )

    @abstractmethod
    def blank(self, event_shape: Sequence[int], steps: int) -> SchrodingerBridge:
        """The bridge that completed settings ask for, of so many training steps, before it is fitted."""


@dataclass(frozen=True)
class BridgeConfig(CommonBridgeConfig):
    """Settings of a bridge between two sets of rows; those of every bridge are told in the class above.

    Attributes:
        steps: training steps of a projection, by default 1500.
        warm_start: ``minibatch``, pairs of rows by optimal transport in small batches, to which both halves are matched
            before they alternate; or ``none``. By default the first with convolutions, whose corrections of a closed
            form would take many alternations.
        rounds: alternations; by default 3, and 1 after a warm start.
        paths: paths simulated for a projection, and pairs of a warm start; by default one from each row, 10,000 at
            most; with convolutions 4,000, some from the same rows.
    """

    warm_start: str | None = None
    rounds: int | None = None
    paths: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "rounds", "paths")
        if self.warm_start not in (None, "minibatch", "none"):
            raise InputError(f"warm_start must be minibatch or none; got {self.warm_start!r}")

    def completed(self, ends: Ends) -> "BridgeConfig":
        """With the settings that the data decide."""
        if len(ends.x) == 1:
            raise InputError("A bridge to a normal law is fitted jointly, without alternations: give a LawBridgeConfig")
        known, rows = super().completed(ends), min(len(splits.train) for splits in ends.splits)
        convolutions, images = known.network == "conv", ends.schema.kind == "images"
        warm = self.warm_start or ("minibatch" if convolutions else "none")
        return replace(
            known,
            warm_start=warm,
            rounds=self.rounds or (ROUNDS if warm == "none" else 1),
            paths=self.paths or (IMAGE_PATHS if convolutions else min(rows, IMAGE_PATHS if images else PATHS)),
        )

    def blank(self, event_shape: Sequence[int], steps: int, rounds: int | None = None) -> SchrodingerBridge:
        """The bridge before it is fitted; with ``rounds`` given, of so many alternations and no warm start."""
        assert self.rounds is not None
        assert self.paths is not None
        warm = self.warm_start == "minibatch" and rounds is None
        alternating = AlternatingConfig(
            rounds=self.rounds if rounds is None else rounds,
            steps=steps,
            paths=self.paths,
            batch_size=self.batch_size,
            warm_start="minibatch" if warm else None,
            warm_steps=steps,
        )
        return self._bridge(event_shape, alternating=alternating)


@dataclass(frozen=True)
class LawBridgeConfig(CommonBridgeConfig):
    """Settings of a bridge from rows to a normal law, both halves fitted jointly: those of every bridge.

    Attributes:
        sigma: by default 1: nothing need stay as it was.
        steps: training steps of the joint fit, by default 2000.
        chain_steps: by default 20, since training walks whole paths.
    """

    sigma: float = 1.0
    chain_steps: int = 20

    def blank(self, event_shape: Sequence[int], steps: int) -> SchrodingerBridge:
        """The bridge before it is fitted."""
        joint = JointConfig(steps=steps, warm_steps=max(1, steps // 2), batch_size=self.batch_size)
        return self._bridge(event_shape, joint=joint)
