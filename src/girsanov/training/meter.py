"""Loss and gradient norm since the last line of the log, and the check that both are finite."""

__all__ = ["Meter", "NonFiniteLossError"]

from typing import final

import torch
from torch import Tensor

from girsanov.training.state import TrainingState
from girsanov.types import InputError

INFINITE = float("inf")


class NonFiniteLossError(InputError):
    """The loss, its gradient, the weights or the validation became infinite or NaN."""


@final
class Meter:
    """Collects scalars of the steps and looks at them in groups.

    Looking at each would make an accelerator wait.

    Args:
        state: receives the sums.
    """

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._pending: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Keep the scalars of a step."""
        self._pending.append((loss.detach(), norm))

    def check(self, learning_rate: float) -> None:
        """Look at what was kept, and add it to the state's sums.

        Args:
            learning_rate: of now, for the message.

        Raises:
            NonFiniteLossError: naming the first step whose loss or gradient is not finite.
        """
        if not self._pending:
            return
        first = self._state.step - len(self._pending)
        values = torch.stack([torch.stack([loss.double(), norm.double()]) for loss, norm in self._pending]).tolist()
        self._pending.clear()
        for step, (loss, norm) in enumerate(values, start=first):
            if not (abs(loss) < INFINITE and norm < INFINITE):
                raise NonFiniteLossError(_explain(step, loss, norm, learning_rate))
            self._state.loss_sum += loss
            self._state.norm_sum += norm
            self._state.count += 1

    def take(self) -> tuple[float | None, float | None]:
        """Mean loss and gradient norm since the last call, ``None`` without a step."""
        state = self._state
        if state.count == 0:
            return None, None
        means = state.loss_sum / state.count, state.norm_sum / state.count
        state.loss_sum, state.norm_sum, state.count = 0.0, 0.0, 0
        return means


def _explain(step: int, loss: float, norm: float, learning_rate: float) -> str:
    what = f"the loss is {loss:g} and its gradient norm {norm:g} at step {step}"
    if step == 0:
        return f"{what}: check the data for NaN, infinite or extreme values"
    return (
        f"{what} (learning rate {learning_rate:.3g}), so training has diverged: lower learning_rate "
        "or clip_norm, and check the scale of the data"
    )
