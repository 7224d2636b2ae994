"""The settings of a training run, checked when they are made."""

__all__ = ["TrainingConfig"]

import math
from dataclasses import asdict, dataclass
from typing import Any

from girsanov.types import InputError, require_counts

# Settings that only say when to stop or to write, not what is computed: a resume may change them.
FREE = ("time_budget", "checkpoint_seconds", "checkpoint_steps", "log_every")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of :func:`girsanov.training.train`.

    Attributes:
        steps: number of optimiser steps, an upper limit when there is a time budget.
        batch_size: rows per step, all processes together.
        learning_rate: peak learning rate of AdamW.
        warmup: steps of linear warm-up, at most a tenth of the planned steps.
        final_rate: learning rate of the last step, as a fraction of the peak (cosine in between).
        weight_decay: decoupled decay of parameters with two or more axes; others have none.
        clip_norm: largest global norm of the gradient; ``None`` does not clip.
        ema_decay: largest decay of the average of the weights, see
            :class:`girsanov.training.MovingAverage`.
        time_budget: seconds, over all resumes; the number of steps is planned to fit. ``None``: no
            limit.
        validate_every: steps between validations; ``None`` plans about 25 of them, fewer when they
            would take more than 15 % of the time budget.
        patience: validations without improvement before stopping; ``None`` never stops early.
        checkpoint_seconds: seconds between checkpoints; slow disks stretch it so that writing takes
            at most 5 % of the time.
        checkpoint_steps: additionally, steps between checkpoints.
        log_every: steps between lines of ``train.jsonl``.
        seed: keys the order of the rows and the noise of every step.

    Raises:
        InputError: if a value is out of its range.

    Example:
        >>> TrainingConfig(steps=100, time_budget=60.0).batch_size
        256
    """

    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 200
    final_rate: float = 0.01
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999
    time_budget: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "batch_size", "log_every", "validate_every", "patience", "checkpoint_steps")
        require_counts(self, "warmup", "seed", least=0)
        self._check_float("learning_rate", 0.0, math.inf, open_low=True)
        self._check_float("final_rate", 0.0, 1.0)
        self._check_float("weight_decay", 0.0, math.inf)
        self._check_float("checkpoint_seconds", 0.0, math.inf)
        self._check_float("ema_decay", 0.0, 1.0, open_high=True)
        for name in ("clip_norm", "time_budget"):
            if getattr(self, name) is not None:
                self._check_float(name, 0.0, math.inf, open_low=True)

    def numerics(self) -> dict[str, Any]:
        """The settings that change the numbers: a resumed run must have the same."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}

    def _check_float(
        self, name: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False
    ) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and low <= value <= high and not (open_low and value == low) and not (open_high and value == high):
            return
        left, right = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
        raise InputError(f"{name} must be a number in {left}{low:g}, {high:g}{right}; got {value!r}")
