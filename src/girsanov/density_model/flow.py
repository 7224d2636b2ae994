r"""The limit without noise: a continuous normalizing flow, trained by maximum likelihood.

As the diffusion of the generative process vanishes, its path weight becomes the change of variables along an ODE,
:math:`\log p_0(x) = \log \pi(x_T) + \int \mathrm{div}\, w\, dt`, and the bound an equality (note of paper 1, section
2.5). The same network, whitened coordinates and solver as a diffusion model's, with the loss

.. math::
    -\tfrac1d \log p_0(x),

make an ordinary continuous flow: it starts at the Gaussian reference, and every step differentiates through a fixed
grid.
"""

__all__ = ["FlowObjective"]

import torch
from torch import Tensor

from girsanov.calculus import Exact, Hutchinson
from girsanov.likelihoods import ode_log_prob
from girsanov.objectives.denoising import Batch, DequantisedLoss
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.solvers import FixedGrid
from girsanov.transforms import Transform

EXACT_DIMENSIONS = 3  # beyond, one probe trains better in the same time
STEPS = 8


class FlowObjective(DequantisedLoss):
    """Negative log-density of the ODE per dimension, ``loss(model, batch, generator, step) -> b``.

    Args:
        model: a score model with a reference, which whitens and gives the prior.
        transform: from data units to the model's space; dequantises afresh at every step.
        steps: Runge-Kutta steps of the training solver.
    """

    def __init__(self, model: ScoreModel, transform: Transform, *, steps: int = STEPS) -> None:
        super().__init__(transform)
        assert model.reference is not None
        self.pair = [ScorePair.around(model)]  # no submodule either
        d = model.reference.event_dim
        self.divergence = Exact() if d <= EXACT_DIMENSIONS else Hutchinson(probes=1)
        self.solver = FixedGrid(steps)

    def forward(self, model: ScoreModel, batch: Batch, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every row of ``batch``, shape ``b``."""
        del step
        (pair,), x = self.pair, self.rows(batch.x, generator)
        estimate = ode_log_prob(
            pair if pair.score is model else ScorePair.around(model),
            x,
            divergence=self.divergence,
            solver=self.solver,
            condition=batch.condition,
            generator=generator,
            differentiable=torch.is_grad_enabled(),
        )
        return -estimate.value / x[0].numel()
