r"""What a fit is made of: a frozen record for each kind of model, with the settings of that kind alone."""

__all__ = ["CONFIGS", "LEARNED", "PROCESSES", "Config", "ContinuousFlowConfig", "FitConfig", "type_name"]

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from girsanov.networks.configs import NETWORKS, NetworkKind
from girsanov.networks.predictions import PREDICTIONS
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
#: what may be given in place of a name
OBJECTS: dict[str, Any] = {
    "process": LinearProcess,
    "network": (NetworkKind, nn.Module, Callable, type(None)),
    "dequantise": type(None),
}
SEEDS = 2**63  # what a generator takes
LEARNED = "learned"  # the process whose schedule is trained with the network

#: what the number of a setting must be, in words: above or from the first limit, and below the second
NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("a positive number", lambda value: 0.0 < value < math.inf),
    "weight_decay": ("a number from 0", lambda value: 0.0 <= value < math.inf),
    "ema_decay": ("a number from 0 to below 1", lambda value: 0.0 <= value < 1.0),
    "time_budget": ("a positive number of seconds", lambda value: 0.0 < value < math.inf),
    "test": ("a share from 0 to below 1", lambda value: 0.0 <= value < 1.0),
    "moved": ("a share from 0 to below 1", lambda value: 0.0 <= value < 1.0),
    "validation": ("a share above 0 and below 1", lambda value: 0.0 < value < 1.0),
}


def type_name(value: Any) -> str:
    """What a value of a user's own is called, in records and sentences."""
    return getattr(value, "__qualname__", type(value).__qualname__)


@dataclass(frozen=True)
class FitConfig:
    """Settings of every model that :func:`girsanov.fit` fits; ``None`` means: chosen from the data's kind and size.

    Attributes:
        network: ``image`` (images), ``conv`` (small ones, at two resolutions), ``mlp``, ``two-layer`` (closed-form
            divergence) or ``unet`` (diffusers); or one of these with its sizes, as in
            ``girsanov.networks.MLPConfig(width=256)``; or
            a network of one's own, a module ``network(log_snr, features, condition)`` that maps ``b 1 *d`` to
            ``b 1 *d`` at levels ``b``, of which a copy is trained; or what makes one,
            ``make(event_shape, signature)`` with the number of maps in a :class:`girsanov.networks.Signature`, for
            which more heads are there: a class of :mod:`girsanov.networks`, or ``functools.partial`` of one.
        members: networks whose predictions are averaged; each sees its own share of a batch in training.
        process: the forward process, or its name.
        predicts: what the network predicts.
        rank: principal components of the Gaussian reference; all by default.
        gaussianise: whether the columns of tables are mapped to normal marginals first.
        dequantise: how discrete dimensions enter a continuous model: ``uniform`` noise, ``truncated-normal`` noise, or
            ``variational`` (learned) noise; uniform by default.
        logit: whether dequantised pixels or columns are modelled in logit space (where their range is known: all
            dimensions discrete).
        conditional: learn log p(x given label) too, where the data have labels or continuous conditions.
        steps: largest number of training steps.
        batch_size: rows per step and member; by default what suits the network: 64 or, of up to
            256 numbers, 128 for ``image``, else 256.
        moved: share of the images of a training step that are moved by one pixel, their border repeated: what few
            images do not show by themselves. By default 0.4 of fewer than 20,000 with the ``image`` network, else 0.
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

    model: ClassVar[str]
    choices: ClassVar[dict[str, tuple[str, ...]]]

    network: str | NetworkKind | nn.Module | Callable[..., nn.Module] | None = None
    members: int | None = None
    process: str | LinearProcess = "vp"
    predicts: str = "v"
    rank: int | None = None
    gaussianise: bool = True
    dequantise: str | None = None
    logit: bool = False
    conditional: bool = False
    steps: int | None = None
    batch_size: int | None = None
    moved: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    ema_decay: float = 0.998
    patience: int | None = 12
    time_budget: float | None = None
    test: float = 0.2
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "batch_size", "members", "rank", "patience")
        require_counts(self, "seed", least=0)
        if self.seed >= SEEDS:
            raise InputError(f"seed must be below 2**63; got {self.seed}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise InputError(f"{field.name} must be True or False; got {value!r}")
        for name, (words, holds) in NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (is_number(value) and holds(value)):
                raise InputError(f"{name} must be {words}; got {value!r}")
        self._require_choices()

    def _require_choices(self) -> None:
        """Names that are known, or objects in their place; a network's name stands for its default sizes."""
        if isinstance(self.process, LearnedSchedule):
            raise InputError(f"A schedule that is to be learned is asked for by process={LEARNED!r}")
        if isinstance(self.network, type) and issubclass(self.network, NetworkKind):
            object.__setattr__(self, "network", self.network())
        for name, known in {"network": tuple(NETWORKS), "predicts": tuple(PREDICTIONS), **self.choices}.items():
            value = getattr(self, name)
            if not (value in known if isinstance(value, str) else isinstance(value, OBJECTS.get(name, ()))):
                raise InputError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}")
        if isinstance(self.network, str):
            object.__setattr__(self, "network", NETWORKS[self.network]())

    @property
    def takes_one_map(self) -> bool:
        """Whether the network reads one map of a row and returns one, which heads with experts do not content."""
        network = self.network
        return network.one_map if isinstance(network, NetworkKind) else isinstance(network, nn.Module)

    def forward_process(self) -> LinearProcess:
        """The process, a copy of one that was given; of a schedule to be learned the one whose ends it has."""
        if isinstance(self.process, LinearProcess):
            return copy.deepcopy(self.process)
        return PROCESSES["vp" if self.process == LEARNED else self.process]()

    def to_json(self) -> dict[str, Any]:
        """The kind and all fields; what is no plain value by the name of its class."""
        values = {"model": self.model} | {field.name: getattr(self, field.name) for field in fields(self)}
        network, process = self.network, self.process
        if isinstance(network, NetworkKind):
            values |= {"network": network.name, **asdict(network)}
            values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        elif network is not None:
            values["network"] = type_name(network)
        return values | {"process": process if isinstance(process, str) else type_name(process)}


@dataclass(frozen=True)
class Config(FitConfig):
    """Settings of a diffusion model, trained through its bound.

    Those of every model (``network``, ``members``, ``predicts``, ``rank``, ``gaussianise``, ``logit``,
    ``conditional``, ``steps``, ``batch_size``, ``moved``, ``learning_rate``, ``weight_decay``, ``ema_decay``,
    ``patience``, ``time_budget``, ``test``, ``validation``, ``seed``) are told in
    :class:`girsanov.density_model.FitConfig`.

    Attributes:
        process: the forward process or its name; or ``learned``: a variance-preserving one with the ends of ``vp``,
            whose schedule is trained with the network so that the bound's estimate at uniform times has the least
            variance; the bound does not change by it.
        dequantise: as of every model, or ``categorical``: no noise, the model's last step decodes cells. By default
            ``categorical`` for images, and ``uniform`` for all else.
        flow: whether a spline flow may become the last transform of a table, where it pays on held-out rows.
        lattice_head: whether discrete data with few cells, and images whose decoder is categorical, get a head that
            knows their lattice.
        mixed: whether the model of a table may be a mixture of its diffusion, its start and a mixture of Gaussians,
            with weights from the validation rows.
    """

    model: ClassVar[str] = "diffusion"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "process": (*PROCESSES, LEARNED),
        "dequantise": ("uniform", "truncated-normal", "variational", "categorical"),
    }

    flow: bool = True
    lattice_head: bool = True
    mixed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logit and self.dequantise == "categorical":
            raise InputError("The categorical decoder's lattice must stay evenly spaced: leave logit out")

    @property
    def learns_schedule(self) -> bool:
        """Whether the noise schedule is trained with the network."""
        return self.process == LEARNED


@dataclass(frozen=True)
class ContinuousFlowConfig(FitConfig):
    """Settings of a continuous normalizing flow: the network's ODE, trained by maximum likelihood (Chen et al., 2018).

    They are those of every model, which :class:`girsanov.density_model.FitConfig` tells.
    """

    model: ClassVar[str] = "cnf"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "process": tuple(PROCESSES),
        "dequantise": ("uniform", "truncated-normal", "variational"),
    }


#: settings of each kind of model, by its name
CONFIGS: dict[str, type[FitConfig]] = {kind.model: kind for kind in (Config, ContinuousFlowConfig)}
