"""A training loss whose value is, up to its sign, one draw of a bound on the log-likelihood."""

__all__ = ["BoundLoss", "LossDraws"]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.display import Shown
from girsanov.types import Kind, Nats, State


@dataclass(frozen=True, repr=False)
class LossDraws(Shown):
    """What evaluations of a loss draw.

    Attributes:
        positions: uniform on [0, 1), ``b``: where in the law of times.
        noise: standard normal, ``blocks b *d``.
        signs: Rademacher vectors ``probes b *d``, or ``None`` where none are drawn.
    """

    positions: Tensor
    noise: Tensor
    signs: Tensor | None = None


class BoundLoss(nn.Module, ABC):
    """A loss over random times of which :func:`girsanov.likelihoods.loss_bound` makes an estimate.

    To implement one, define :meth:`terms`, and say what an evaluation draws and costs.

    Attributes:
        kind: what the mean of the terms' sum is.
        blocks: standard normal blocks that an evaluation draws.
        probes: Rademacher vectors that it draws.
    """

    kind: Kind
    blocks: int
    probes: int

    @abstractmethod
    def terms(self, model: Any, x: State, draws: LossDraws, condition: Tensor | None = None) -> dict[str, Nats]:
        """One draw of every term of the bound, each ``b``, in nats.

        Args:
            model: what is trained.
            x: rows ``b *d``.
            draws: for these rows.
            condition: leading dimension ``b``.
        """

    def cost(self, event_dim: int) -> int:
        """Evaluations of the model in one of the loss, a backward pass counted as two."""
        del event_dim
        return 1

    def dtype(self, model: Any, x: State) -> torch.dtype:
        """Dtype of noise."""
        del model
        return x.dtype

    def log_snr_range(self, model: Any) -> tuple[float, float] | None:
        """The range of log-SNR that the bound is about, where it has one."""
        del model
        return None
