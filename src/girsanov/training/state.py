"""What a run remembers besides tensors: position, plan and best validation, as plain JSON."""

__all__ = ["Outcome", "TrainingState"]

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from girsanov.training.schedule import Plan
from girsanov.types import InputError

Outcome: TypeAlias = Literal["finished", "patience", "time"]


@dataclass
class TrainingState:
    """Position of a run.

    Attributes:
        step: completed steps.
        seconds: time spent, over all resumes.
        planned_steps: number of steps once it is fixed.
        validate_every: steps between validations once they are fixed.
        best_value: best validation so far, of the averaged weights.
        best_stderr: its standard error, where the validation gave one.
        best_step: completed steps at the best validation.
        last_step: completed steps at the last validation.
        stale: validations since the best.
        validation_seconds: duration of the last validation.
        stopped: why the run ended, if it has.
        time_budget: the budget that it ended with.
        loss_sum: sum of the losses since the last line of the log.
        norm_sum: sum of the gradient norms since then.
        count: steps since then.

    Example:
        >>> TrainingState.from_json(TrainingState(step=3).to_json()).step
        3
    """

    step: int = 0
    seconds: float = 0.0
    planned_steps: int | None = None
    validate_every: int | None = None
    best_value: float | None = None
    best_stderr: float | None = None
    best_step: int | None = None
    last_step: int | None = None
    stale: int = 0
    validation_seconds: float = 0.0
    stopped: Outcome | None = None
    time_budget: float | None = None
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    count: int = 0

    @property
    def plan(self) -> Plan | None:
        """The plan, once it is fixed."""
        if self.planned_steps is None or self.validate_every is None:
            return None
        return Plan(self.planned_steps, self.validate_every)

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.planned_steps, self.validate_every = plan.steps, plan.validate_every

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainingState":
        """Read the fields back.

        Raises:
            InputError: if a field is missing, unknown or of the wrong type.
        """
        expected = get_type_hints(cls)
        for name, hint in expected.items():
            if name not in content or not _fits(content[name], hint):
                raise InputError(f"the checkpoint's {name} is malformed: remove it to start again")
        if unknown := set(content) - set(expected):
            raise InputError(f"the checkpoint has an unknown {min(unknown)}: use the version that wrote it")
        return cls(**content)


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) or (hint,)
    if value is None:
        return type(None) in kinds
    if Outcome in kinds:
        return value in get_args(Outcome)
    if isinstance(value, bool):
        return False
    if int in kinds:
        return isinstance(value, int) and value >= 0
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
