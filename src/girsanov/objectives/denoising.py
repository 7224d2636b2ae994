r"""Denoising score matching in log-SNR with the likelihood's own weight.

The part of the bound that a network can change is the gain over the Gaussian reference,

.. math::
    \tfrac12 \int E[\|\varepsilon - \hat\varepsilon_G\|^2 - \|\varepsilon - \hat\varepsilon\|^2]\, dl .

Its negative, per dimension, is the loss: an unbiased gradient of the bound, whose value reads as nats per
dimension below the Gaussian. Levels are low-discrepancy, :math:`l_k = Q^{-1}((k + u)/B)` with one u for
the batch, and q follows the root mean square of the gain as training goes on (note of paper 2, section 2.6).
"""

__all__ = ["Batch", "DenoisingObjective", "DequantisedLoss", "GainObjective"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from girsanov.calculus import gain, noised, sum_event
from girsanov.objectives.times import low_discrepancy
from girsanov.pairs import ScoreModel
from girsanov.randomness import drawn_rows, normal_like, uniform_like, whole_batch
from girsanov.solvers import LogSNRDensity
from girsanov.transforms import Transform
from girsanov.types import Nats, State

CELLS = 48
FLOOR = 0.15
RATE = 0.02  # weight of a new observation of a cell's mean square
REFRESH = 10  # steps between two updates of the proposal


@dataclass(frozen=True)
class Batch:
    """Rows in data units, float64 or float32, and their conditions."""

    x: State
    condition: Tensor | None = None


class DequantisedLoss(nn.Module):
    """A loss of rows in data units, seen in another space and dequantised afresh at every step.

    Args:
        transform: from data units to the other space; default none.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__()
        self.transform = [transform]  # not a submodule: its tensors belong to the model

    @torch.no_grad()
    def rows(self, x: State, generator: torch.Generator) -> State:
        """Rows of the other space, ``b *d``."""
        (transform,) = self.transform
        if transform is None:
            return x
        uniform = uniform_like(x, generator)
        return transform(x, uniform)[0]


class GainObjective(DequantisedLoss):
    """What objectives of the gain over the reference share; a subclass says at which levels it is evaluated.

    Args:
        model: a score model with a reference.
        transform: from data units to the model's space; dequantises afresh at every step; default none.
        drop_condition: probability of hiding a label or condition (classifier-free training).
    """

    def __init__(self, model: ScoreModel, transform: Transform | None = None, *, drop_condition: float = 0.0) -> None:
        super().__init__(transform)
        assert model.reference is not None
        self.drop_condition = drop_condition
        self.low, self.high = model.log_snr_range

    def _gain(
        self, model: ScoreModel, x: State, levels: Tensor, condition: Tensor | None, generator: torch.Generator
    ) -> Nats:
        """One-draw gains at levels ``b``, in whose graph the levels are where they have one.

        Where the reference is far from the score, its error would hide the score's: then half the squared error, less.
        """
        assert model.reference is not None
        with torch.set_grad_enabled(levels.requires_grad):
            eps = normal_like(x, generator)
            z = noised(levels, x, eps)
            noise = model.reference.noise(levels, z)
            remainder = eps - noise
        delta = model.deviation(levels, z, self._condition(condition, generator), noise=noise)
        found = gain(remainder, delta)
        beside = model.head is None or model.head.beside_reference
        return found if beside else found - 0.5 * sum_event(remainder.square())

    def _condition(self, condition: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if condition is None or self.drop_condition == 0.0:
            return condition
        hidden = drawn_rows(
            lambda n: torch.rand(n, generator=generator) < self.drop_condition, len(condition), generator
        )
        hidden = hidden.to(condition.device)
        if condition.dtype.is_floating_point:
            return condition.masked_fill(hidden[:, None], math.nan)
        return condition.masked_fill(hidden, -1)


class DenoisingObjective(GainObjective):
    """The negative gain over the reference per dimension, ``loss(model, batch, generator, step) -> b``.

    Levels come from a density that follows the root mean square of the gain.

    Args:
        model: see :class:`GainObjective`.
        transform: see :class:`GainObjective`.
        drop_condition: see :class:`GainObjective`.
    """

    second_moment: Tensor
    refreshed: Tensor

    def __init__(self, model: ScoreModel, transform: Transform | None = None, *, drop_condition: float = 0.0) -> None:
        super().__init__(model, transform, drop_condition=drop_condition)
        assert model.reference is not None
        start = LogSNRDensity.from_spectrum(self.low, self.high, model.reference.spectrum())
        middle = torch.linspace(self.low, self.high, 2 * CELLS + 1, dtype=torch.float64)[1::2].contiguous()
        cell = torch.searchsorted(start.edges, middle).clamp(1, len(start.masses)) - 1
        self.register_buffer("second_moment", (start.masses[cell] * len(start.masses)).square())
        # as they were at the last refresh: a resumed run goes on with the same density
        self.register_buffer("refreshed", self.second_moment.clone())
        self._density: LogSNRDensity | None = None

    def forward(self, model: ScoreModel, batch: Batch, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every row of ``batch``, shape ``b``."""
        x = self.rows(batch.x, generator).to(torch.get_default_dtype())
        levels, weights, cell = (part.to(x.device) for part in self._levels(len(x), generator, step))
        gain = self._gain(model, x, levels, batch.condition, generator)
        if model.training:
            self._observe(whole_batch(cell, generator), whole_batch(gain.detach(), generator))
        return -(weights * gain) / x[0].numel()

    def _levels(self, count: int, generator: torch.Generator, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Low-discrepancy levels in random order, their weights, and their cells."""
        if step % REFRESH == 0:
            self.refreshed.copy_(self.second_moment)
        if self._density is None or step % REFRESH == 0:
            sizes = self.refreshed.sqrt().cpu()
            edges = torch.linspace(self.low, self.high, CELLS + 1, dtype=torch.float64)
            masses = (1.0 - FLOOR) * sizes / sizes.sum() + FLOOR / CELLS
            self._density = LogSNRDensity(edges, masses)
        levels, weights, _ = self._density.quantile(low_discrepancy(count, generator))
        cell = ((levels - self.low) / (self.high - self.low) * CELLS).long().clamp(0, CELLS - 1)
        return levels, weights, cell

    @torch.no_grad()
    def _observe(self, cell: Tensor, gain: Tensor) -> None:
        """Move the mean squares of the visited cells towards what was seen."""
        count = torch.zeros_like(self.second_moment).index_add_(0, cell, torch.ones_like(gain))
        total = torch.zeros_like(self.second_moment).index_add_(0, cell, gain.square())
        share = 1.0 - (1.0 - RATE) ** count
        self.second_moment += share * (total / count.clamp_min(1.0) - self.second_moment)
