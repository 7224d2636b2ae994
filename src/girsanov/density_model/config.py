r"""What a fit is made of: one frozen record, saved with the model; a setting that is not used is not a field."""

__all__ = ["DEQUANTISERS", "PROCESSES", "SCHEDULES", "Config", "make_process"]

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

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

NETWORKS = ("conv", "mlp", "two-layer", "unet")
CHOICES = {
    "process": PROCESSES,
    "schedule": SCHEDULES,
    "network": NETWORKS,
    "model": ("diffusion", "cnf"),
    "dequantise": DEQUANTISERS,
}


def make_process(name: str, schedule: str, log_snr_range: tuple[float, float]) -> LinearProcess:
    """The forward process of a model; a learned schedule has exact ends, so it must know its range."""
    return PROCESSES[name]() if schedule == "fixed" else LearnedSchedule(log_snr_range).float()


@dataclass(frozen=True)
class Config:
    """Settings of :func:`girsanov.fit`. ``None`` means: chosen from the data's kind and size.

    Attributes:
        model: ``diffusion``, trained through its bound; or ``cnf``, the same network's ODE trained by maximum
            likelihood: an ordinary continuous flow.
        network: ``conv`` (small images), ``mlp``, ``two-layer`` (closed-form divergence) or ``unet`` (diffusers).
        width: channels or units of the network.
        blocks: number of residual blocks, of ``unet`` at each resolution.
        multipliers: channels of ``unet`` at each resolution, in units of ``width``.
        members: networks whose predictions are averaged; each sees its own share of a batch in training.
        dropout: rate inside the blocks.
        process: name of the forward process.
        schedule: ``fixed``, or ``learned``: a variance-preserving one with the ends of ``vp``, trained with the network
            so that the bound's estimate at uniform times has the least variance; the bound does not change by it.
        predicts: what the network predicts.
        rank: principal components of the Gaussian reference; all by default.
        gaussianise: whether the columns of tables are mapped to normal marginals first.
        flow: whether a spline flow may become the last transform of a table, where it pays on held-out rows.
        lattice: whether discrete data with few cells get the lattice head.
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
    network: str | None = None
    width: int | None = None
    blocks: int | None = None
    multipliers: Sequence[int] | None = None
    members: int | None = None
    dropout: float | None = None
    process: str = "vp"
    schedule: str = "fixed"
    predicts: str = "v"
    rank: int | None = None
    gaussianise: bool = True
    flow: bool = True
    lattice: bool = True
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
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (name == "network" and value is None):
                raise InputError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}")
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

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

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
