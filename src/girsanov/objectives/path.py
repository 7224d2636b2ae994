r"""The bound of a conditional path: one random time per row, no simulation, everything in it learnable.

For a generative SDE with drift v (written forward in t) and diffusion g, and any path with velocity w and conditional
score s_c (note of paper 3, section 2.8),

.. math::
    \log p(x) \ge E[\log p(x \mid x_0)] - \mathrm{KL}(q(x_T \mid x) \| \pi)
      - \int E \frac{\| w - \tfrac12 g^2 s_c - v(t, x_t) \|^2}{2 g^2}\, dt ,

with equality where the path is the generative process's own posterior. As a loss its value is minus the bound in
nats, with gradients for the path, the drift, the diffusion and the decoder alike.
"""

__all__ = ["PathObjective", "gaussian_decoder"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Density, StandardNormal
from girsanov.objectives.bound_loss import BoundLoss, LossDraws
from girsanov.objectives.denoising import Batch
from girsanov.objectives.times import low_discrepancy
from girsanov.processes import ConditionalPath
from girsanov.randomness import normal_like, source_of
from girsanov.types import Kind, Nats, State, Time

LOG_2PI = math.log(2.0 * math.pi)

Decoder = Callable[[State, State], Nats]  #: ``(x, x_0) -> log p(x | x_0)``, shape ``b``


def gaussian_decoder(variance: float) -> Decoder:
    """The decoder N(x; x_0, variance I).

    Example:
        >>> gaussian_decoder(1.0)(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([-1.8379], dtype=torch.float64)
    """

    def decode(x: State, x_0: State) -> Nats:
        return -0.5 * (sum_event((x - x_0).square()) / variance + x[0].numel() * (LOG_2PI + math.log(variance)))

    return decode


class PathObjective(BoundLoss):
    """Minus the bound of a conditional path, ``loss(drift, batch, generator, step) -> b``.

    Args:
        path: the inference.
        diffusion: g, ``t -> b``; the generative process has the same one.
        decoder: ``(x, x_0) -> log p(x | x_0)`` at the data end.
        prior: law at the noise end; default N(0, I).

    The bound itself is reported by :func:`girsanov.likelihoods.loss_bound`.

    Example:
        >>> from girsanov.pairs import ScorePair
        >>> from girsanov.processes import OrnsteinUhlenbeck, ProcessPath
        >>> process = OrnsteinUhlenbeck(2.0, log_snr_range=(-1.85, 5.0))
        >>> diffusion = lambda t: process.rates(t)[1].sqrt()
        >>> objective = PathObjective(ProcessPath(process), diffusion, gaussian_decoder(0.01))
        >>> drift = ScorePair(lambda t, x: -x, process).generative_drift
        >>> objective(drift, Batch(torch.zeros(4, 2)), torch.Generator().manual_seed(0)).shape
        torch.Size([4])
    """

    kind: Kind = "lower_bound"
    blocks, probes = 3, 0

    def __init__(
        self,
        path: ConditionalPath,
        diffusion: Callable[[Time], Tensor],
        decoder: Decoder,
        prior: Density | None = None,
    ) -> None:
        super().__init__()
        self.path, self.diffusion, self.decoder = path, diffusion, decoder
        self.prior = prior or StandardNormal()

    def forward(
        self,
        drift: Callable[[Time, State], State],
        batch: Batch,
        generator: torch.Generator | None = None,
        step: int = 0,
    ) -> Nats:
        """Loss of every row, shape ``b``: minus a one-draw estimate of the bound."""
        del step
        generator, x = source_of(generator), batch.x
        positions = low_discrepancy(len(x), generator).to(x.device)
        noise = normal_like(x, generator, blocks=(self.blocks,))
        return -sum(self.terms(drift, x, LossDraws(positions, noise)).values())  # type: ignore[return-value]

    def terms(
        self,
        model: Callable[[Time, State], State],
        x: State,
        draws: LossDraws,
        condition: Tensor | None = None,
    ) -> dict[str, Nats]:
        """One-draw estimates of the bound's three terms: ``prior``, ``diffusion`` and ``residual``, each ``b``.

        Args:
            model: the drift v, written forward in t.
            x: rows ``b *d``.
            draws: the three blocks of noise are for the data end, the time between and the noise end.
            condition: the drift knows none.
        """
        del condition
        first, eps, last = draws.noise
        t, weight = self.path.clock(draws.positions)
        t = t.to(x.dtype)
        g = self.diffusion(t)
        wide = g if g.ndim == x.ndim else expand_as_rows(g, x)
        error = self.path.reverse_drift(t, x, eps, g) - model(t, self.path.sample(t, x, eps))
        start, end = (torch.full((len(x),), time, dtype=x.dtype, device=x.device) for time in self.path.span)
        return {
            "prior": self._prior(end, x, last),
            "diffusion": -0.5 * weight * sum_event((error / wide).square()),
            "residual": self.decoder(x, self.path.sample(start, x, first)),
        }

    def _prior(self, end: Tensor, x: State, eps: State) -> Nats:
        """Minus the divergence of q(x_T | x) from the prior; closed form for N(0, I)."""
        mean, scale = self.path.mean_and_scale(end, x)
        entropy = sum_event(scale.log()) + 0.5 * x[0].numel() * (1.0 + LOG_2PI)
        if isinstance(self.prior, StandardNormal):
            second = sum_event(mean.square() + scale.square())
            return entropy - 0.5 * (second + x[0].numel() * LOG_2PI)
        return entropy + self.prior.log_prob(mean + scale * eps)
