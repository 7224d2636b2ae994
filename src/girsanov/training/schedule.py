r"""The plan of a run: how many steps, when to validate, and the learning rate of each step.

With N planned steps and W steps of warm-up, step s = 0, ..., N - 1 has the learning rate

.. math:: \eta_s = \eta \, \frac{s + 1}{W} \ (s < W), \qquad
          \eta_s = \eta \, \big(r + (1 - r)\,\tfrac12 (1 + \cos \pi u_s)\big), \
          u_s = \frac{s + 1 - W}{N - W} \ (s \ge W):

it peaks at the end of the warm-up and ends at :math:`r \eta`. A time budget is turned into N once, from
measured seconds per step and per validation, and N is stored: the same steps follow after a resume,
whatever the clock says then.
"""

__all__ = ["Plan", "StepClock", "make_plan"]

import math
from dataclasses import dataclass
from typing import final

from girsanov.training.config import TrainingConfig

VALIDATIONS = 25
VALIDATION_SHARE = 0.15
SAFETY = 1.03  # steps measured early on are slightly optimistic: logging and checkpoints come on top


@dataclass(frozen=True)
class Plan:
    """What was decided about a run.

    Attributes:
        steps: number of steps.
        validate_every: steps between validations.
    """

    steps: int
    validate_every: int

    def rate(self, step: int, config: TrainingConfig) -> float:
        """Learning rate of step 0, 1, ..., ``steps - 1``.

        Example:
            >>> config = TrainingConfig(learning_rate=1.0, warmup=2, final_rate=0.0)
            >>> [round(Plan(22, 5).rate(step, config), 6) for step in (0, 1, 11, 21)]
            [0.5, 1.0, 0.5, 0.0]
        """
        warmup = min(config.warmup, self.steps // 10)
        if step < warmup:
            return config.learning_rate * (step + 1) / warmup
        progress = min(1.0, (step + 1 - warmup) / max(1, self.steps - warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return config.learning_rate * (config.final_rate + (1.0 - config.final_rate) * cosine)


def unplanned_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate while the steps are still being timed: the warm-up as configured."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))


def make_plan(
    config: TrainingConfig,
    *,
    step: int = 0,
    remaining: float = math.inf,
    step_seconds: float = 0.0,
    validation_seconds: float = 0.0,
) -> Plan:
    """Fix the number of steps and the validations.

    Args:
        config: ``steps`` is never exceeded.
        step: steps already done.
        remaining: seconds left of the budget.
        step_seconds: seconds per step.
        validation_seconds: seconds per validation.

    Returns:
        The plan, at least one step beyond ``step`` unless ``config.steps`` are done.

    Example:
        >>> make_plan(TrainingConfig(steps=1000)).validate_every
        40
        >>> plan = make_plan(TrainingConfig(), remaining=103.0, step_seconds=0.01)
        >>> plan.steps
        10000
    """
    if math.isinf(remaining):
        return Plan(config.steps, config.validate_every or max(1, math.ceil(config.steps / VALIDATIONS)))
    step_seconds = max(step_seconds * SAFETY, 1e-7)
    if config.validate_every is not None:
        each = step_seconds + validation_seconds / config.validate_every
        left = int((remaining - validation_seconds) / each)
        return Plan(min(config.steps, step + max(1, left)), config.validate_every)
    affordable = VALIDATIONS
    if validation_seconds > 0.0:
        affordable = int(VALIDATION_SHARE * remaining / validation_seconds)
    count = max(1, min(VALIDATIONS, affordable))
    left = int((remaining - count * validation_seconds) / step_seconds)
    steps = min(config.steps, step + max(1, left))
    return Plan(steps, max(1, math.ceil(steps / count)))


@final
class StepClock:
    """Measures the seconds per step from a few steps after the start of the process.

    Args:
        budget: the time budget; the measurement takes about 3 % of it and at most five seconds.
    """

    SKIPPED = 5  # first calls allocate and choose kernels
    LEAST = 10

    def __init__(self, budget: float) -> None:
        self._window = min(0.03 * budget, 5.0)
        self._ticks = 0
        self._start = 0.0

    def tick(self, seconds: float) -> float | None:
        """Note the end of a step.

        Args:
            seconds: time so far, validations excluded.

        Returns:
            Seconds per step once they are known, else ``None``.
        """
        self._ticks += 1
        if self._ticks == self.SKIPPED:
            self._start = seconds
        counted = self._ticks - self.SKIPPED
        if counted < 1:
            return None
        elapsed = seconds - self._start
        if (counted < self.LEAST and elapsed < 4.0 * self._window) or elapsed < self._window:
            return None
        return elapsed / counted
