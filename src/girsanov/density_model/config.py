r"""What a fit is made of: one frozen record, saved with the model; a setting that is not used is not a field."""

__all__ = ["DEQUANTISERS", "PROCESSES", "SCHEDULES", "Config", "type_name"]

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from girsanov.processes import (
    Cosine,
    HarmonicVP,
    LearnedSchedule,
    LinearProcess,
    OrnsteinUhlenbeck,
    StraightPath,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from girsanov.processes.base import is_number
from girsanov.types import InputError, require_counts

#: processes that a fitted model can have, by name
PROCESSES: dict[str, Callable[[], LinearProcess]] = {
    "vp": VariancePreserving,
    "sub-vp": SubVariancePreserving,
    "ve": VarianceExploding,
    "ou": OrnsteinUhlenbeck,
    "cosine": Cosine,
    "harmonic": HarmonicVP,
    "straight": StraightPath,
}


#: ways in which discrete data enter a continuous model
DEQUANTISERS = ("uniform", "truncated-normal", "variational", "categorical")

#: whether the forward process keeps its schedule or learns one
SCHEDULES = ("fixed", "learned")

#: what may be given in place of a name
OBJECTS: dict[str, tuple[type, ...]] = {"process": (LinearProcess,), "network": (nn.Module, Callable, type(None))}  # type: ignore[dict-item]
#: settings of a network that those of each name take, beside ``width`` and ``members``
SIZES = {
    "conv": ("blocks", "dropout"),
    "mlp": ("blocks", "dropout"),
    "two-layer": (),
    "unet": ("blocks", "dropout", "multipliers"),
}
CHOICES = {
    "process": PROCESSES,
    "schedule": SCHEDULES,
    "network": SIZES,
    "model": ("diffusion", "cnf"),
    "dequantise": DEQUANTISERS,
}


def type_name(value: Any) -> str:
    """What a value of a user's own is called, in records and sentences."""
    return getattr(value, "__qualname__", type(value).__qualname__)


#: numbers that a setting may be: from the first, and below the second
LIMITS = {
    "dropout": (0.0, 1.0),
    "learning_rate": (1e-12, math.inf),
    "weight_decay": (0.0, math.inf),
    "ema_decay": (0.0, 1.0),
    "time_budget": (-math.inf, math.inf),  # whose own sentence is below, as that of the shares
    "test": (-math.inf, math.inf),
    "validation": (-math.inf, math.inf),
}


@dataclass(frozen=True)
class Config:
    """Settings of :func:`girsanov.fit`. ``None`` means: chosen from the data's kind and size.

    Attributes:
        model: ``diffusion``, trained through its bound; or ``cnf``, the same network's ODE trained by maximum
            likelihood: an ordinary continuous flow.
        network: ``conv`` (small images), ``mlp``, ``two-layer`` (closed-form divergence) or ``unet`` (diffusers); or
            a network of one's own, a module ``network(log_snr, features, condition)`` that maps ``b 1 *d`` to
            ``b 1 *d`` at levels ``b``, of which a copy is trained; or what makes one,
            ``make(event_shape, signature)`` with the number of maps in a :class:`girsanov.models.Signature`, for which
            more heads are there: a class of :mod:`girsanov.models`, or ``functools.partial`` of one.
        width: channels or units of the network.
        blocks: number of residual blocks, of ``unet`` at each resolution.
        multipliers: channels of ``unet`` at each resolution, in units of ``width``.
        members: networks whose predictions are averaged; each sees its own share of a batch in training.
        dropout: rate inside the blocks.
        process: the forward process, or its name.
        schedule: ``fixed``, or ``learned``: a variance-preserving one with the ends of ``vp``, trained with the network
            so that the bound's estimate at uniform times has the least variance; the bound does not change by it.
        predicts: what the network predicts.
        rank: principal components of the Gaussian reference; all by default.
        gaussianise: whether the columns of tables are mapped to normal marginals first.
        flow: whether a spline flow may become the last transform of a table, where it pays on held-out rows.
        lattice_head: whether discrete data with few cells get the lattice head.
        dequantise: how discrete dimensions enter a continuous model: ``uniform`` noise, ``truncated-normal`` noise,
            ``variational`` (learned) noise, or ``categorical``: no noise, the model's last step decodes cells.
        logit: whether dequantised pixels or columns are modelled in logit space (where their range is known: all
            dimensions discrete).
        conditional: learn log p(x given label) too, where the data have labels or continuous conditions.
        steps: largest number of training steps.
        batch_size: rows per step and member.
        learning_rate: peak of the schedule.
        weight_decay: AdamW's, on matrices only.
        ema_decay: of the averaged weights.
        patience: validations without improvement before training stops.
        time_budget: seconds for training, or ``None``.
        test: share of the rows held out for the final figures; may be 0.
        validation: share of the others that early stopping looks at.
        seed: of splits, weights, batches and noise.

    Raises:
        InputError: for a value that cannot work.
    """

    model: str = "diffusion"
    network: str | nn.Module | Callable[..., nn.Module] | None = None
    width: int | None = None
    blocks: int | None = None
    multipliers: Sequence[int] | None = None
    members: int | None = None
    dropout: float | None = None
    process: str | LinearProcess = "vp"
    schedule: str = "fixed"
    predicts: str = "v"
    rank: int | None = None
    gaussianise: bool = True
    flow: bool = True
    lattice_head: bool = True
    dequantise: str = "uniform"
    logit: bool = False
    conditional: bool = False
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    weight_decay: float | None = None
    ema_decay: float = 0.998
    patience: int | None = 12
    time_budget: float | None = None
    test: float = 0.2
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "batch_size", "width", "blocks", "members", "rank", "patience")
        require_counts(self, "seed", least=0)
        self._require_values()
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if not (value in known if isinstance(value, str) else isinstance(value, OBJECTS.get(name, ()))):
                raise InputError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}")
        self._require_effect()
        if self.schedule == "learned" and (self.process != "vp" or self.model == "cnf"):
            raise InputError("A learned schedule is a variance-preserving diffusion's: leave process and model out")
        if self.model == "cnf" and self.dequantise == "categorical":
            raise InputError("A continuous flow has no cells to decode: choose another dequantise than categorical")
        if self.logit and self.dequantise == "categorical":
            raise InputError("The categorical decoder's lattice must stay evenly spaced: leave logit out")
        if self.time_budget is not None and not (math.isfinite(self.time_budget) and self.time_budget > 0):
            raise InputError(f"time_budget must be a positive number of seconds; got {self.time_budget}")
        if not (0.0 <= self.test < 1.0 and 0.0 < self.validation < 1.0):
            raise InputError(f"test and validation must be shares below 1; got {self.test} and {self.validation}")
        if self.multipliers is not None:
            object.__setattr__(self, "multipliers", _whole_numbers(self.multipliers))

    def _require_values(self) -> None:
        """Refuse what is no truth value, or no number that a setting may be."""
        for name in ("gaussianise", "flow", "lattice_head", "logit", "conditional"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False; got {getattr(self, name)!r}")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (is_number(value) and least <= value < most):
                span = "" if least == -math.inf else f" from {least:g} to below {most:g}"
                raise InputError(f"{name} must be a number{span}; got {value!r}")

    def _require_effect(self) -> None:
        """Refuse what the chosen network or model would ignore."""
        if isinstance(self.process, LearnedSchedule):
            raise InputError("A schedule that is to be learned is asked for by schedule='learned': leave process out")
        sizes = {"width", "members", "blocks", "dropout", "multipliers"}
        if isinstance(self.network, str):
            unused, who = sizes - {"width", "members", *SIZES[self.network]}, f"the {self.network} network"
        elif self.network is None:
            return
        else:
            unused, who = sizes - {"members"}, "a network that is given"
        for name in sorted(unused):
            if getattr(self, name) is not None:
                raise InputError(f"{name} has no effect on {who}: leave it out")

    @property
    def takes_one_map(self) -> bool:
        """Whether the network reads one map of a row and returns one, which heads with experts do not content."""
        return self.network == "two-layer" or isinstance(self.network, nn.Module)

    def forward_process(self) -> LinearProcess:
        """The process, a copy of one that was given."""
        return PROCESSES[self.process]() if isinstance(self.process, str) else copy.deepcopy(self.process)

    def to_json(self) -> dict[str, Any]:
        """All fields; what is no plain value by the name of its class."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in OBJECTS:
            if not isinstance(values[name], str | None):
                values[name] = type_name(values[name])
        return values

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Config":
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: for a field that does not exist.
        """
        unknown = set(record) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"Unknown setting {sorted(unknown)[0]!r} in config.json: use the version that wrote it")
        return cls(**record)


def _whole_numbers(multipliers: Sequence[int]) -> list[int]:
    """Multipliers as JSON gives them back."""
    if not multipliers or any(type(factor) is not int or factor < 1 for factor in multipliers):
        raise InputError(f"multipliers must be positive whole numbers; got {multipliers}")
    return list(multipliers)
