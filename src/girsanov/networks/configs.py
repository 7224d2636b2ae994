r"""Which network a model has, and of what size: a frozen record for each kind, with the settings of that kind alone.

``None`` means: chosen by the number of training rows.
"""

__all__ = [
    "NETWORKS",
    "ConvConfig",
    "ImageConfig",
    "MLPConfig",
    "NetworkKind",
    "TwoLayerConfig",
    "UNetConfig",
    "default_network",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from girsanov.networks.convolutions import ConvNetwork, takes_convolutions
from girsanov.networks.dense import ResidualMLP, TwoLayerNetwork
from girsanov.networks.images import ImageNetwork
from girsanov.networks.unet import UNet
from girsanov.processes.base import is_number
from girsanov.types import InputError, require_count, require_counts

UNET_WIDTH = 8  # of whose multiples its channels are
EVEN_SIDES = (
    "The {name} network needs images (c, h, w) with even sides of 4 or more; these rows have shape {shape}: leave the "
    "network out"
)
LARGE_ROW = 256  # numbers, above which a row tells as much as several
FEW_ROWS = 20_000  # fewer rows than these get dropout, and some kinds two members
DROPOUT = {5000: 0.5, FEW_ROWS: 0.1}  # of the network of images, for fewer rows than these


@dataclass(frozen=True)
class NetworkKind(ABC):
    """Settings of one kind of network.

    Attributes:
        name: of the kind.
        network: the class that is built.
        learning_rate: the peak that suits it.
        few_steps: training steps where there are few rows.
        moved: share of few images that are moved in training.
        one_map: whether it maps one map of a row to one, which heads with experts do not content.
        few_members: networks whose predictions are averaged by default where there are few rows.
    """

    name: ClassVar[str]
    network: ClassVar[type[nn.Module]]
    learning_rate: ClassVar[float] = 1.5e-3
    few_steps: ClassVar[int] = 1250
    moved: ClassVar[float] = 0.0
    one_map: ClassVar[bool] = False
    few_members: ClassVar[int] = 1

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        require_counts(self, *({"width", "blocks"} & set(settings)))
        dropout = settings.get("dropout")
        if dropout is not None and not (is_number(dropout) and 0.0 <= dropout < 1.0):
            raise InputError(f"dropout must be a number from 0 to below 1; got {dropout!r}")

    @classmethod
    def batch_size(cls, event_shape: Sequence[int]) -> int:
        """Rows per training step and member that suit it."""
        del event_shape
        return 256

    def members(self, rows: int) -> int:
        """Networks whose predictions are averaged, for so many training rows."""
        return self.few_members if rows < FEW_ROWS else 1

    def require(self, event_shape: Sequence[int]) -> None:  # noqa: B027  (most kinds serve every shape)
        """Raise an :class:`InputError` if the network cannot serve rows of this shape."""

    @abstractmethod
    def arguments(self, rows: int) -> dict[str, Any]:
        """Arguments of the network's class, for so many training rows."""


@dataclass(frozen=True)
class _Convolutions(NetworkKind):
    """What kinds of convolutional networks share."""

    width: int | None = None
    blocks: int | None = None
    dropout: float | None = None

    def require(self, event_shape: Sequence[int]) -> None:
        """Images whose sides can be halved."""
        if not takes_convolutions(event_shape):
            raise InputError(EVEN_SIDES.format(name=self.name, shape=tuple(event_shape)))


@dataclass(frozen=True)
class ConvConfig(_Convolutions):
    """Convolutions at two resolutions, smooth in their input: :class:`girsanov.networks.ConvNetwork`.

    Attributes:
        width: channels; default 32.
        blocks: residual blocks at the lower resolution; default 2.
        dropout: rate inside the blocks; default 0.4 for few rows, else 0.1.
    """

    name: ClassVar[str] = "conv"
    network: ClassVar[type[nn.Module]] = ConvNetwork
    few_members: ClassVar[int] = 2

    def arguments(self, rows: int) -> dict[str, Any]:
        """Of :class:`girsanov.networks.ConvNetwork`."""
        width, dropout = self.width or 32, 0.4 if rows < FEW_ROWS else 0.1
        deep = {"deep_width": 5 * width // 2, "deep_blocks": self.blocks or 2}
        return {"width": width, **deep, "dropout": dropout if self.dropout is None else self.dropout}


@dataclass(frozen=True)
class ImageConfig(_Convolutions):
    """Convolutions for images of every even size: :class:`girsanov.networks.ImageNetwork`.

    Attributes:
        width: channels, of which at half the resolution twice as many; default 64.
        blocks: residual blocks at the lowest resolution; default 2.
        dropout: rate inside the blocks; default 0.5 for fewer than 5,000 rows, 0.1 for fewer than 20,000, else 0.

    Example:
        >>> ImageConfig(width=32).arguments(rows=60_000)
        {'width': 32, 'deep_width': 64, 'deep_blocks': 2, 'dropout': 0.0}
    """

    name: ClassVar[str] = "image"
    network: ClassVar[type[nn.Module]] = ImageNetwork
    learning_rate: ClassVar[float] = 2e-3
    few_steps: ClassVar[int] = 3500
    moved: ClassVar[float] = 0.4

    @classmethod
    def batch_size(cls, event_shape: Sequence[int]) -> int:
        """64, and 128 of images of up to 256 numbers."""
        return 64 if math.prod(event_shape) > LARGE_ROW else 128

    def arguments(self, rows: int) -> dict[str, Any]:
        """Of :class:`girsanov.networks.ImageNetwork`."""
        width, dropout = self.width or 64, next((rate for most, rate in DROPOUT.items() if rows < most), 0.0)
        sizes = {"width": width, "deep_width": 2 * width, "deep_blocks": self.blocks or 2}
        return {**sizes, "dropout": dropout if self.dropout is None else self.dropout}


@dataclass(frozen=True)
class MLPConfig(NetworkKind):
    """A residual multilayer perceptron on flattened rows: :class:`girsanov.networks.ResidualMLP`.

    Attributes:
        width: units; default 128.
        blocks: residual blocks; default 3.
        dropout: rate inside the blocks; default 0.1 for few rows, else 0.

    Example:
        >>> MLPConfig(width=16).arguments(rows=1000)
        {'width': 16, 'blocks': 3, 'dropout': 0.1}
    """

    name: ClassVar[str] = "mlp"
    network: ClassVar[type[nn.Module]] = ResidualMLP
    few_members: ClassVar[int] = 2

    width: int | None = None
    blocks: int | None = None
    dropout: float | None = None

    def arguments(self, rows: int) -> dict[str, Any]:
        """Of :class:`girsanov.networks.ResidualMLP`."""
        dropout = 0.1 if rows < FEW_ROWS else 0.0
        sizes = {"width": self.width or 128, "blocks": self.blocks or 3}
        return {**sizes, "dropout": dropout if self.dropout is None else self.dropout}


@dataclass(frozen=True)
class TwoLayerConfig(NetworkKind):
    """Two hidden layers, whose divergence has a closed form: :class:`girsanov.networks.TwoLayerNetwork`.

    Attributes:
        width: units of both layers; default 256.
    """

    name: ClassVar[str] = "two-layer"
    network: ClassVar[type[nn.Module]] = TwoLayerNetwork
    one_map: ClassVar[bool] = True

    width: int | None = None

    def arguments(self, rows: int) -> dict[str, Any]:
        """Of :class:`girsanov.networks.TwoLayerNetwork`."""
        del rows
        return {"width": self.width or 256}


@dataclass(frozen=True)
class UNetConfig(NetworkKind):
    """The U-net of diffusers, for images.

    Attributes:
        width: channels at full resolution, a multiple of 8; default 32.
        blocks: residual blocks at each resolution; default 1.
        dropout: rate inside the blocks; default 0.
        multipliers: channels at each resolution, in units of ``width``; default 1, 2, 4.
    """

    name: ClassVar[str] = "unet"
    network: ClassVar[type[nn.Module]] = UNet

    width: int | None = None
    blocks: int | None = None
    dropout: float | None = None
    multipliers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.width % UNET_WIDTH:
            raise InputError(f"width of the unet network must be a multiple of {UNET_WIDTH}; got {self.width}")
        if self.multipliers is not None:
            object.__setattr__(self, "multipliers", _factors(self.multipliers))

    def require(self, event_shape: Sequence[int]) -> None:
        """Images."""
        if len(event_shape) != 3:
            raise InputError(f"The unet network needs images (c, h, w); these rows have shape {tuple(event_shape)}")

    def arguments(self, rows: int) -> dict[str, Any]:
        """Of the network's class."""
        del rows
        given = {} if self.multipliers is None else {"multipliers": list(self.multipliers)}  # as JSON gives them back
        return {"width": self.width or 32, "layers": self.blocks or 1, "dropout": self.dropout or 0.0, **given}


def _factors(multipliers: Any) -> tuple[int, ...]:
    if isinstance(multipliers, list | tuple) and multipliers:
        try:
            return tuple(require_count("multipliers", factor) for factor in multipliers)
        except InputError:
            pass
    raise InputError(f"multipliers must be positive whole numbers, as in [1, 2, 4]; got {multipliers!r}")


#: kinds of networks, by the name that a setting may give
NETWORKS: dict[str, type[NetworkKind]] = {
    kind.name: kind for kind in (ConvConfig, ImageConfig, MLPConfig, TwoLayerConfig, UNetConfig)
}


def default_network(event_shape: Sequence[int]) -> str:
    """Name of the kind that suits rows of a shape: ``image`` for images with even sides of 4 or more, else ``mlp``.

    Example:
        >>> default_network((5,)), default_network((1, 8, 8)), default_network((3, 7, 7))
        ('mlp', 'image', 'mlp')
    """
    return "image" if takes_convolutions(event_shape) else "mlp"
