r"""Which network fits which data, and how it is rebuilt from its record."""

__all__ = ["Architecture", "build_network", "choose_network", "require_network"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from girsanov.density_model.config import Config
from girsanov.models import ConvNetwork, Ensemble, Head, ResidualMLP, Signature, TwoLayerNetwork, takes_convolutions
from girsanov.models.unet import UNet
from girsanov.types import InputError


@final
@dataclass(frozen=True)
class Architecture:
    """How a score model is built, for one that is saved and built again.

    Attributes:
        network: name, constructor arguments and number of members, as :func:`choose_network` returns them.
        process: name of the forward process.
        schedule: ``fixed`` or ``learned``.
        model: ``diffusion``, or ``cnf`` for a continuous flow, which is trained as an ODE.
    """

    network: Mapping[str, Any]
    process: str
    schedule: str = "fixed"
    model: str = "diffusion"


NETWORKS: dict[str, type[nn.Module]] = {
    "conv": ConvNetwork,
    "mlp": ResidualMLP,
    "two-layer": TwoLayerNetwork,
    "unet": UNet,
}
SMALL_IMAGE = 16  # sides up to this get the two-level network with learned positions


def choose_network(
    config: Config, event_shape: Sequence[int], rows: int, classes: int, condition_dim: int = 0
) -> dict[str, Any]:
    """Record of the network for ``rows`` training rows of ``event_shape``: its name and constructor arguments."""
    name = config.network or _default(event_shape)
    small_data = rows < 20_000
    options: dict[str, Any] = {"classes": classes} if classes else {}
    options |= {"condition_dim": condition_dim} if condition_dim else {}
    if name == "conv":
        width = config.width or 32
        dropout = config.dropout if config.dropout is not None else (0.4 if small_data else 0.1)
        options |= {"width": width, "deep_width": 5 * width // 2, "deep_blocks": config.blocks or 2}
        options |= {"dropout": dropout}
    elif name == "mlp":
        dropout = config.dropout if config.dropout is not None else (0.1 if small_data else 0.0)
        options |= {"width": config.width or 128, "blocks": config.blocks or 3, "dropout": dropout}
    elif name == "two-layer":
        options |= {"width": config.width or 256}
    else:
        options |= {"width": config.width or 32, "layers": config.blocks or 1, "dropout": config.dropout or 0.0}
        options |= {"multipliers": list(config.multipliers)} if config.multipliers else {}
    members = config.members or (2 if small_data and name in ("conv", "mlp") else 1)
    return {"name": name, "config": options, "members": members}


def require_network(config: Config, event_shape: Sequence[int]) -> None:
    """Refuse a network that cannot serve these data, before anything is fitted.

    Raises:
        InputError: if it needs images and these rows are none, or are too small or odd for it.
    """
    if config.network == "conv" and _default(event_shape) == "mlp":
        raise InputError(
            f"The conv network needs images (c, h, w) with even sides of 4 or more; these rows have shape "
            f"{tuple(event_shape)}: leave the network out"
        )
    if config.network == "unet" and len(event_shape) != 3:
        raise InputError(f"The unet network needs images (c, h, w); these rows have shape {tuple(event_shape)}")


def _default(event_shape: Sequence[int]) -> str:
    if not takes_convolutions(event_shape):
        return "mlp"
    return "conv" if max(event_shape[1:]) <= SMALL_IMAGE else "unet"


def build_network(record: Mapping[str, Any], event_shape: Sequence[int], head: Head) -> nn.Module:
    """The network or ensemble of a record, with as many maps as ``head`` exchanges.

    Raises:
        InputError: if the network cannot serve these data.
    """
    count = record["members"]
    if count == 1:
        return _build_member(record, event_shape, head)
    return Ensemble([_build_member(record, event_shape, head) for _ in range(count)])


def _build_member(record: Mapping[str, Any], event_shape: Sequence[int], head: Head) -> nn.Module:
    name, options = record["name"], dict(record["config"])
    condition = {key: options.pop(key) for key in ("classes", "condition_dim") if key in options}
    if name == "two-layer":
        if head.inputs != 1:
            raise InputError("The two-layer network reads one map: set lattice=False (--no-lattice-head)")
        return TwoLayerNetwork(event_shape, Signature(**condition), **options)
    if name not in NETWORKS or math.prod(event_shape) == 0:
        raise InputError(f"Unknown network {name!r}")
    return NETWORKS[name](event_shape, Signature(head.inputs, head.outputs, **condition), **options)
