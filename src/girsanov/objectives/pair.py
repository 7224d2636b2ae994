r"""Diffusion score matching of a pair with its own matrix: the likelihood's objective, for any shared diffusion.

While the rows of the inference process obey :math:`dX = u\, dt + G(t, X)\, dW`, the law of the generative process
approaches theirs at the rate of diffusion score matching with m = G (note of paper 4, section 2.6, equation 9):

.. math::
    \mathrm{KL}(q_0 \| p_0) \le \mathrm{KL}(q_T \| \pi)
        + \int_0^T \tfrac12 E_{q_t} \| G^\top (s_p - s_q) \|^2\, dt, \qquad s_p = D^{-1} (u - v - \mathrm{div} D),

with equality where :math:`s_p` is the score of a law that the inference process carries on. The integrand is
:func:`girsanov.stein.drift_score_matching` plus terms free of v: no weight is chosen, none is left out.
"""

__all__ = ["PairObjective"]

import torch
from torch import Tensor, nn

from girsanov.calculus import Divergence, Exact, expand_as_rows
from girsanov.objectives.denoising import Batch
from girsanov.objectives.times import low_discrepancy
from girsanov.pairs import Pair
from girsanov.processes import LinearProcess
from girsanov.randomness import normal_like, source_of
from girsanov.stein import drift_score_matching
from girsanov.types import State, Time


class PairObjective(nn.Module):
    """Minus the bound of a pair per dimension, up to terms free of v, at one random time for each row.

    ``loss(pair, batch, generator, step) -> b``. A linear inference process is drawn from its kernel; any other one is
    simulated by Euler steps up to the time, whose bias falls with their number. The inference process is not trained.

    Args:
        steps: Euler steps from the data to the time.
        divergence: of the control, ``Exact()`` or ``Hutchinson(probes)``.

    Example:
        >>> from girsanov.densities import StandardNormal
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> process = OrnsteinUhlenbeck(2.0)
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> PairObjective()(pair, Batch(torch.zeros(5, 2)), torch.Generator().manual_seed(0)).shape
        torch.Size([5])
    """

    def __init__(self, steps: int = 32, *, divergence: Divergence = Exact()) -> None:  # noqa: B008  (a frozen value)
        super().__init__()
        self.steps, self.divergence = steps, divergence

    def forward(self, pair: Pair, batch: Batch, generator: torch.Generator | None = None, step: int = 0) -> Tensor:
        """Loss of every row of ``batch``, shape ``b``: one draw of the integral over time."""
        del step
        generator = source_of(generator)
        t = pair.horizon * low_discrepancy(len(batch.x), generator).to(batch.x.device)
        x = self.draw(pair, batch, t, generator)
        found = drift_score_matching(
            t,
            x,
            drift=lambda t, x: pair.inference_drift(t, x, batch.condition),
            reverse_drift=lambda t, x: pair.generative_drift(t, x, batch.condition),
            diffusion=lambda t, x: pair.inference.diffusion(t.to(x.dtype), x),
            divergence=self.divergence,
            generator=generator,
        )
        return pair.horizon * found.rows / x[0].numel()

    @torch.no_grad()
    def draw(self, pair: Pair, batch: Batch, t: Time, generator: torch.Generator | None = None) -> State:
        """Rows of the inference process at times ``t`` of their own, shape ``b *d``."""

        def noise() -> State:
            return normal_like(batch.x, generator)

        if isinstance(pair.inference, LinearProcess):
            alpha, sigma = (expand_as_rows(scale.to(batch.x.dtype), batch.x) for scale in pair.inference.marginal(t))
            return alpha * batch.x + sigma * noise()
        x, _ = pair.begin(batch.x, noise(), batch.condition)
        length = expand_as_rows((t / self.steps).to(x.dtype), x)
        for k in range(self.steps):
            now = t * (k / self.steps)
            dw = length.sqrt() * noise()
            x = x + length * pair.inference_drift(now, x, batch.condition) + pair.scale(now, x).times(dw)
        return x
