r"""Which network and which process a model has, how they are recorded, and how they are built again from the record.

What is a class of this package with plain arguments is recorded as such. A network or process of a user's own is
recorded by the name of its class, and is given again when the model is loaded.
"""

__all__ = ["Architecture", "build_network", "build_process", "habits", "suited"]

import copy
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.density_model.config import LEARNED, PROCESSES, FitConfig, type_name
from girsanov.networks import NETWORKS, Ensemble, Head, NetworkKind, Signature, default_network
from girsanov.processes import LearnedSchedule, LinearProcess
from girsanov.types import InputError

GIVEN = "given"  # the name of what a user made


@final
@dataclass(frozen=True)
class Architecture:
    """How a score model is built, for one that is saved and built again.

    Attributes:
        network: name, constructor arguments and number of members.
        process: name of the forward process and its arguments.
        model: ``diffusion``, or ``cnf`` for a continuous flow, which is trained as an ODE.
    """

    network: Mapping[str, Any]
    process: Mapping[str, Any]
    model: str = "diffusion"

    @classmethod
    def chosen(
        cls, config: FitConfig, event_shape: Sequence[int], rows: int, classes: int = 0, condition_dim: int = 0
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
        kind = suited(config, event_shape)
        if isinstance(kind, NetworkKind):
            members = config.members or kind.members(rows)
            record = {"name": kind.name, "config": options | kind.arguments(rows), "members": members}
        else:
            record = _given_network(kind, options, config.members or 1)
        return cls(record, _process_record(config.process), config.model)


def suited(config: FitConfig, event_shape: Sequence[int]) -> Any:
    """The network of the settings, or the kind that rows of this shape get by default.

    Raises:
        InputError: if it cannot serve such rows, or they should be moved and are no images.
    """
    if config.moved and len(event_shape) != 3:
        raise InputError(
            f"moved= moves images by a pixel, and rows of shape {tuple(event_shape)} are none: leave it out"
        )
    kind = config.network or NETWORKS[default_network(event_shape)]()
    if isinstance(kind, NetworkKind):
        kind.require(event_shape)
    return kind


def habits(kind: Any) -> type[NetworkKind] | NetworkKind:
    """How a network is trained where the settings do not say: as its kind is, and one of a user's own as most kinds."""
    return kind if isinstance(kind, NetworkKind) else NetworkKind


def _given_network(network: Any, options: dict[str, Any], members: int) -> dict[str, Any]:
    """The record of what makes a network, or is one: by name where it is a class of ours with plain arguments."""
    made, plain = (network.func, network.keywords) if isinstance(network, functools.partial) else (network, {})
    name = next((name for name, kind in NETWORKS.items() if kind.network is made), None)
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
    name = built.process["name"]
    if name == LEARNED:
        return LearnedSchedule(span).float()  # it has exact ends, so it must know its range
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in built.process["config"].items()}
    if name != GIVEN:
        return PROCESSES[name](**options)
    return _again("process", built.process["type"], given)


def _again(what: str, name: str, given: Any) -> Any:
    if given is None:
        raise InputError(f"This model has a {what} of your own, {name}: load it with from_pretrained(..., {what}=...)")
    return given


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
    return NETWORKS[name].network(event_shape, signature, **options)


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
