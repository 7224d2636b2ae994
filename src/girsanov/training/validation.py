"""Validation of the averaged weights, and the best of them."""

__all__ = ["Validation", "Validator"]

import math
import time
from collections.abc import Callable
from typing import TypeAlias, final

from torch import Tensor, nn

from girsanov.training.batches import StepRandomness
from girsanov.training.meter import NonFiniteLossError
from girsanov.training.state import TrainingState
from girsanov.types import MeanEstimate

#: ``validate(averaged_module, step)``: a number to maximise, or its mean estimate.
Validation: TypeAlias = Callable[[nn.Module, int], float | MeanEstimate]


@final
class Validator:
    """Calls the validation and keeps the best averaged weights.

    Args:
        validate: what to call, or ``None``.
        state: receives the best value, its step and the validations since.
        randomness: seeds the global generators for the validation, keyed by the step.

    Attributes:
        best: tensors of the best averaged module, ``None`` before the first validation.
        seconds: time spent in validations by this process.
    """

    def __init__(
        self,
        validate: Validation | None,
        state: TrainingState,
        randomness: StepRandomness,
    ) -> None:
        self._validate, self._state, self._randomness = validate, state, randomness
        self.best: dict[str, Tensor] | None = None
        self.seconds = 0.0

    def run(self, averaged: nn.Module) -> tuple[float | None, float | None]:
        """Validate, and keep the weights if they are the best so far.

        Args:
            averaged: the averaged module.

        Returns:
            The value and its standard error, ``None`` where there is none.

        Raises:
            NonFiniteLossError: if the value is not finite.
        """
        state = self._state
        state.last_step = state.step
        if self._validate is None:
            return None, None
        begun = time.monotonic()
        self._randomness.start(state.step)
        outcome = self._validate(averaged, state.step)
        averaged.eval()  # a validation may have switched it
        value, stderr = _split(outcome)
        state.validation_seconds = time.monotonic() - begun
        self.seconds += state.validation_seconds
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the validation after {state.step} steps is {value:g}: lower learning_rate, and "
                "check the data for extreme values"
            )
        self._compare(averaged, value, stderr)
        return value, stderr

    def _compare(self, averaged: nn.Module, value: float, stderr: float | None) -> None:
        state = self._state
        if state.best_value is not None and value <= state.best_value:
            state.stale += 1
            return
        state.stale = 0
        state.best_value, state.best_stderr, state.best_step = value, stderr, state.step
        self.best = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}


def _split(outcome: float | MeanEstimate) -> tuple[float, float | None]:
    if isinstance(outcome, MeanEstimate):
        stderr = outcome.stderr
        return outcome.value, stderr if math.isfinite(stderr) else None
    return float(outcome), None
