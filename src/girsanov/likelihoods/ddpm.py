r"""The discrete DDPM bound, under that name only: L_0, the curve of L_t and L_T of a chain of K Gaussian steps.

With betas :math:`\beta_1 \dots \beta_K`, :math:`\bar\alpha_k = \prod (1 - \beta_j)`, levels :math:`l_k =
\log \bar\alpha_k / (1 - \bar\alpha_k)` and :math:`D_k = l_{k-1} - l_k` (note of paper 2, section 2.5):

.. math::
    L_0 = \tfrac d2 \log \tfrac{2 \pi \beta_1}{1 - \beta_1} + \tfrac12 \mathrm{mse}_1, \qquad
    L_{k-1} = w_k\, \mathrm{mse}_k, \quad w_k = \tfrac12 (e^{D_k} - 1), \qquad
    L_T = \tfrac12 \big(\bar\alpha_K \|x\|^2 - d \bar\alpha_K - d \log(1 - \bar\alpha_K)\big),

and :math:`-(L_0 + \sum_k L_{k-1} + L_T)` bounds the log-density of the *chain* with posterior variances from below.
It is never log p: at 1000 steps it lies 0.3-0.5 nats per dimension below the continuous bound that the same
evaluations give, :math:`\sum_k w_k \mathrm{mse}_k - \tfrac12 \int \mathrm{mse}\, dl` apart.
"""

__all__ = ["SCHEDULES", "DDPMBound", "NoiseSchedule", "ddpm_bound"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from girsanov.calculus import sum_event
from girsanov.display import Shown
from girsanov.inputs import checked
from girsanov.likelihoods.denoising import IntegrationRule, squared_errors
from girsanov.pairs import ScorePair
from girsanov.types import Estimate, InputError, Nats, State

LOG_2PI = math.log(2.0 * math.pi)


@final
@dataclass(frozen=True, repr=False)
class NoiseSchedule(Shown):
    """A DDPM noise schedule; everything is float64 and without the cancellation of 1 - alpha-bar.

    Args:
        betas: shape ``k``, each in (0, 1), step 1 next to the data.
        name: how reports call it.

    Raises:
        InputError: for a beta outside (0, 1) or fewer than two.

    Example:
        >>> schedule = NoiseSchedule(torch.tensor([0.1, 0.5]))
        >>> schedule.alpha_bar, schedule.weights
        (tensor([0.9000, 0.4500], dtype=torch.float64), tensor([5.0000], dtype=torch.float64))
    """

    betas: Tensor
    name: str = "betas"

    def __post_init__(self) -> None:
        betas = self.betas.double()
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0.0) & (betas < 1.0)).all()):
            raise InputError("A DDPM schedule needs two or more betas, each between 0 and 1")
        object.__setattr__(self, "betas", betas)

    @cached_property
    def log_alpha_bar(self) -> Tensor:
        """Logarithms of the cumulated products, shape ``k``."""
        return torch.log1p(-self.betas).cumsum(0)

    @property
    def alpha_bar(self) -> Tensor:
        """The signal's share of the variance, shape ``k``."""
        return self.log_alpha_bar.exp()

    @cached_property
    def log_snr(self) -> Tensor:
        """Levels, shape ``k``, decreasing."""
        return self.log_alpha_bar - torch.log(-torch.expm1(self.log_alpha_bar))

    @property
    def weights(self) -> Tensor:
        """Weights w_2 .. w_K of the squared errors in the bound, shape ``k - 1``."""
        return 0.5 * torch.expm1(-self.log_snr.diff())

    @property
    def left_weights(self) -> Tensor:
        """The paper's other reading: weights of the squared errors at levels 1 .. K-1, shape ``k - 1``."""
        return 0.5 * self.betas[1:] / -torch.expm1(self.log_alpha_bar[:-1])

    @property
    def trapezoid_weights(self) -> Tensor:
        """Weights of all K squared errors in the continuous bound, its residual at the data end included."""
        half = -0.25 * self.log_snr.diff()
        weights = torch.zeros_like(self.betas)
        weights[1:] += half
        weights[:-1] += half
        weights[0] += 0.5
        return weights

    def distortion(self) -> float:
        """Largest over smallest ratio of the discrete to the continuous weight of a level; 1 if proportional.

        A network that minimises the discrete loss lacks at most this many times what the minimiser of the
        continuous loss lacks to the entropy of the data: both losses are positive sums over levels.
        """
        discrete = torch.cat([self.betas.new_tensor([0.5]), self.weights])
        ratio = discrete / self.trapezoid_weights
        return float(ratio.max() / ratio.min())


def _linear(steps: int = 1000) -> NoiseSchedule:
    """DDPM's, from 1e-4 to 0.02 at 1000 steps, scaled to other numbers of steps."""
    return NoiseSchedule(torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000.0 / steps), f"linear, {steps}")


def _scaled_linear(steps: int = 1000) -> NoiseSchedule:
    """Latent diffusion's: linear in the root of beta."""
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64)
    return NoiseSchedule(roots.square() * (1000.0 / steps), f"scaled_linear, {steps}")


def _cosine(steps: int = 1000) -> NoiseSchedule:
    """Improved DDPM's cosine schedule, betas at most 0.999."""
    ends = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((ends + 0.008) / 1.008 * math.pi / 2).square()
    return NoiseSchedule((1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999), f"cosine, {steps}")


def _theory(steps: int = 1000, c0: float = 2.0, c1: float = 4.0) -> NoiseSchedule:
    """The schedule of convergence proofs: beta_1 = K^-c0, then geometric growth at rate c1 log K / K, capped."""
    rate, first = c1 * math.log(steps) / steps, steps**-c0
    growth = first * (1.0 + rate) ** torch.arange(1, steps, dtype=torch.float64)
    betas = torch.cat([growth.new_tensor([first]), rate * growth.clamp_max(1.0)])
    return NoiseSchedule(betas, f"theory, {steps}")


#: schedules by name, each a function of the number of steps
SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "cosine": _cosine,
    "theory": _theory,
}


@final
@dataclass(frozen=True, repr=False)
class DDPMBound(Shown):
    """The terms of the discrete bound, and what the same evaluations say about the continuous one.

    Attributes:
        schedule: the betas.
        errors: squared errors of the noise prediction, shape ``r k n``.
        last: L_T, shape ``n``.
        event_dim: number of dimensions d of a row.
        nfe: network evaluations per row.
    """

    schedule: NoiseSchedule
    errors: Tensor
    last: Nats
    event_dim: int
    nfe: int

    @property
    def first(self) -> Tensor:
        """L_0 by replicate, shape ``r n``."""
        beta = self.schedule.betas[0]
        return 0.5 * self.event_dim * (LOG_2PI + torch.log(beta / (1.0 - beta))) + 0.5 * self.errors[:, 0]

    @property
    def curve(self) -> Tensor:
        """L_1 .. L_{K-1} by replicate, shape ``r k-1 n``."""
        return self.schedule.weights.to(self.errors)[:, None] * self.errors[:, 1:]

    @property
    def estimate(self) -> Estimate:
        """The discrete bound: a lower bound on the log-density of the chain of K steps."""
        first, steps = self.first, self._total(self.schedule.weights, self.errors[:, 1:])
        terms = {"L_0": -first.mean(0), "L_t": -steps.mean(0), "L_T": -self.last}
        return self._estimate(-(first + steps + self.last), kind="lower_bound", model="chain", terms=terms)

    @property
    def gap(self) -> Estimate:
        """Continuous minus discrete bound, from the same evaluations."""
        weights = -self.schedule.trapezoid_weights
        weights[0] += 0.5
        weights[1:] += self.schedule.weights
        return self._estimate(self._total(weights, self.errors), kind="estimate", model="sde")

    @property
    def continuous(self) -> Estimate:
        """The continuous bound by the trapezoid rule in log-SNR between the same levels, residual included.

        Of kind ``estimate``: the rule's own error has no sign.
        """
        discrete, gap = self.estimate.replicates, self.gap.replicates
        assert discrete is not None
        assert gap is not None
        return self._estimate(discrete + gap, kind="estimate", model="sde")

    def discretised_formula(self, *, left: bool = False) -> Nats:
        """The paper's discrete sum, shape ``n``: no L_T, and d/2 in place of L_0's squared error. Not a bound.

        Args:
            left: weights at the left ends of the steps instead of those of the bound.
        """
        errors, beta = self.errors.mean(0), self.schedule.betas[0]
        constant = -0.5 * self.event_dim * (1.0 + LOG_2PI + beta.log())
        if left:
            return constant - self.schedule.left_weights.to(errors) @ errors[:-1]
        return constant - self.schedule.weights.to(errors) @ errors[1:]

    @staticmethod
    def _total(weights: Tensor, errors: Tensor) -> Tensor:
        """Weighted sum over levels, ``r k n -> r n``, contiguous by row: the others do not change its bits."""
        return (errors.transpose(1, 2).contiguous() * weights.to(errors)).sum(2)

    def _estimate(self, replicates: Tensor, **fields: object) -> Estimate:
        levels = self.schedule.log_snr
        return Estimate.from_replicates(
            replicates,
            nfe=self.nfe,
            event_dim=self.event_dim,
            log_snr_range=(float(levels[-1]), float(levels[0])),
            **fields,
        )


@checked
def ddpm_bound(
    pair: ScorePair,
    x: State,
    *,
    schedule: NoiseSchedule | None = None,
    noise: IntegrationRule | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> DDPMBound:
    """Evaluate every term of the DDPM bound of a score on rows.

    Args:
        pair: the model; of its process only the log-SNR matters, so any linear one serves, and the squared error of its
            reference under the same noise is the control variate.
        x: rows ``n *d`` in the score's coordinates.
        schedule: the chain; default ``SCHEDULES["linear"](1000)``.
        noise: how the mean over the noise is taken; default ``MonteCarlo()``, K evaluations per replicate and row.
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.likelihoods.denoising import Quadrature
        >>> from girsanov.processes import VariancePreserving
        >>> pair = ScorePair(Gaussian(torch.zeros(1).double(), 1.0).score(VariancePreserving()))
        >>> x = torch.zeros(1, 1, dtype=torch.float64)
        >>> bound = ddpm_bound(pair, x, schedule=SCHEDULES["linear"](100), noise=Quadrature())
        >>> bound.estimate.value < bound.continuous.value, bound.estimate.model
        (tensor([True]), 'chain')
    """
    schedule = schedule or SCHEDULES["linear"]()
    errors = squared_errors(pair, x, schedule.log_snr, noise=noise, condition=condition, generator=generator)
    d, low = x[0].numel(), schedule.log_snr[-1]
    signal = schedule.alpha_bar[-1]
    # -log(1 - alpha_bar) is softplus of the log-SNR
    last = 0.5 * (signal * sum_event(x.double().square()) + d * (softplus(low) - signal))
    return DDPMBound(schedule, errors, last, d, errors.shape[0] * errors.shape[1])
