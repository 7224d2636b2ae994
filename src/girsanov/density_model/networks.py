r"""Which network and which process a model has, how they are recorded, and how they are built again from the record.

What is a class of this package with plain arguments is recorded as such. A network or process of a user's own is
recorded by the name of its class, and is given again when the model is loaded.
"""

__all__ = ["Architecture", "build_network", "build_process", "learned_schedule", "require_network"]

import copy
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.density_model.config import PROCESSES, Config, type_name
from girsanov.models import ConvNetwork, Ensemble, Head, ResidualMLP, Signature, TwoLayerNetwork, takes_convolutions
from girsanov.models.unet import UNet
from girsanov.processes import LearnedSchedule, LinearProcess
from girsanov.types import InputError

GIVEN = "given"  # the name of what a user made
NETWORKS: dict[str, type[nn.Module]] = {
    "conv": ConvNetwork,
    "mlp": ResidualMLP,
    "two-layer": TwoLayerNetwork,
    "unet": UNet,
}
SMALL_IMAGE = 16  # sides up to this get the two-level network with learned positions


@final
@dataclass(frozen=True)
class Architecture:
    """How a score model is built, for one that is saved and built again.

    Attributes:
        network: name, constructor arguments and number of members.
        process: name of the forward process and its arguments.
        schedule: ``fixed`` or ``learned``.
        model: ``diffusion``, or ``cnf`` for a continuous flow, which is trained as an ODE.
    """

    network: Mapping[str, Any]
    process: Mapping[str, Any]
    schedule: str = "fixed"
    model: str = "diffusion"

    @classmethod
    def chosen(
        cls, config: Config, event_shape: Sequence[int], rows: int, classes: int = 0, condition_dim: int = 0
    ) -> "Architecture":
        """What the settings ask for, and the data decide where they leave it open.

        Args:
            config: of the fit.
            event_shape: of a row.
            rows: number of training rows.
            classes: number of classes.
            condition_dim: length of a continuous condition.
        """
        options = ({"classes": classes} if classes else {}) | (
            {"condition_dim": condition_dim} if condition_dim else {}
        )
        network, small = config.network, rows < 20_000
        if network is None or isinstance(network, str):
            name = network or _default(event_shape)
            options |= _sizes(name, config, small)
            members = config.members or (2 if small and name in ("conv", "mlp") else 1)
            record = {"name": name, "config": options, "members": members}
        else:
            record = _given_network(network, options, config.members or 1)
        return cls(record, _process_record(config.process), config.schedule, config.model)


def _sizes(name: str, config: Config, small: bool) -> dict[str, Any]:
    """Arguments of a network by its name: those of the settings, or what suits the number of rows."""
    dropout = config.dropout
    if name == "conv":
        width, dropout = config.width or 32, dropout if dropout is not None else (0.4 if small else 0.1)
        deep = {"deep_width": 5 * width // 2, "deep_blocks": config.blocks or 2}
        return {"width": width, **deep, "dropout": dropout}
    if name == "mlp":
        dropout = dropout if dropout is not None else (0.1 if small else 0.0)
        return {"width": config.width or 128, "blocks": config.blocks or 3, "dropout": dropout}
    if name == "two-layer":
        return {"width": config.width or 256}
    multipliers = {"multipliers": list(config.multipliers)} if config.multipliers else {}
    return {"width": config.width or 32, "layers": config.blocks or 1, "dropout": dropout or 0.0, **multipliers}


def _given_network(network: Any, options: dict[str, Any], members: int) -> dict[str, Any]:
    """The record of what makes a network, or is one: by name where it is a class of ours with plain arguments."""
    made, plain = (network.func, network.keywords) if isinstance(network, functools.partial) else (network, {})
    name = next((name for name, kind in NETWORKS.items() if kind is made), None)
    if name is not None and all(isinstance(value, int | float | tuple | list) for value in plain.values()):
        return {"name": name, "config": {**plain, **options}, "members": members}
    return {"name": GIVEN, "type": type_name(network), "config": options, "members": members}


def _process_record(process: str | LinearProcess) -> dict[str, Any]:
    """Name and arguments of a process of this package, by which it is made again; the class of another one."""
    if isinstance(process, str):
        return {"name": process, "config": {}}
    name = next((name for name, kind in PROCESSES.items() if kind is type(process)), None)
    if name is None:
        return {"name": GIVEN, "type": type_name(process), "config": {}}
    known = {key: getattr(process, key) for key in inspect.signature(type(process)).parameters}
    if not process.declares_range:
        del known["log_snr_range"]
    return {"name": name, "config": known}


def build_process(built: Architecture, span: tuple[float, float], given: LinearProcess | None = None) -> LinearProcess:
    """The forward process of an architecture.

    Args:
        built: its record.
        span: log-SNR range of the score.
        given: a process of a user's own.

    Raises:
        InputError: if one is needed.
    """
    if built.schedule == "learned":
        return learned_schedule(span)
    name = built.process["name"]
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in built.process["config"].items()}
    if name != GIVEN:
        return PROCESSES[name](**options)
    return _again("process", built.process["type"], given)


def learned_schedule(span: tuple[float, float]) -> LearnedSchedule:
    """A schedule to be learned; it has exact ends, so it must know its range."""
    return LearnedSchedule(span).float()


def _again(what: str, name: str, given: Any) -> Any:
    if given is None:
        raise InputError(f"This model has a {what} of your own, {name}: load it with from_pretrained(..., {what}=...)")
    return given


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


def build_network(
    record: Mapping[str, Any],
    event_shape: Sequence[int],
    head: Head,
    given: Any = None,
) -> nn.Module:
    """The network or ensemble of a record, with as many maps as ``head`` exchanges.

    Args:
        record: of :class:`Architecture`.
        event_shape: of a row.
        head: what reads the network.
        given: a network of a user's own, which is copied, or what makes one.

    Raises:
        InputError: if the network cannot serve these data, or one of a user's own is missing.
    """
    count = record["members"]
    if count == 1:
        return _build_member(record, event_shape, head, given)
    return Ensemble([_build_member(record, event_shape, head, given) for _ in range(count)])


def _build_member(record: Mapping[str, Any], event_shape: Sequence[int], head: Head, given: Any) -> nn.Module:
    name, options = record["name"], dict(record["config"])
    condition = {key: options.pop(key) for key in ("classes", "condition_dim") if key in options}
    signature = Signature(head.inputs, head.outputs, **condition)
    if name == GIVEN:
        return _own_network(_again("network", record["type"], given), event_shape, signature)
    if name == "two-layer" and head.inputs != 1:
        raise InputError("The two-layer network reads one map: set lattice_head=False (--no-lattice-head)")
    if name not in NETWORKS or math.prod(event_shape) == 0:
        raise InputError(f"Unknown network {name!r}")
    return NETWORKS[name](event_shape, signature, **options)


def _own_network(given: Any, event_shape: Sequence[int], signature: Signature) -> nn.Module:
    """A copy of a user's network, or what their function makes, if it maps rows as it has to."""
    network = copy.deepcopy(given) if isinstance(given, nn.Module) else given(event_shape, signature)
    seen, wanted = (signature.inputs, *event_shape), (signature.outputs, *event_shape)
    rule = f"network(log_snr, features, condition) must map {('b', *seen)} to {('b', *wanted)}"
    if not isinstance(network, nn.Module):
        raise InputError(f"{rule}, as a torch.nn.Module; got {type_name(network)}")
    try:
        with torch.no_grad():
            answer = network(torch.zeros(2), torch.zeros(2, *seen), None)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{rule}; of two rows it raises {type(error).__name__}: {error}") from error
    if not isinstance(answer, Tensor) or answer.shape != (2, *wanted):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type_name(answer)
        raise InputError(f"{rule}; that of two rows is {shape}")
    return network
