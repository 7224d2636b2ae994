r"""A Gaussian with a small share of a broad law: the prior of models that no row may leave.

:math:`p(x) = (1 - \pi)\, \mathcal{N}(x; m, S) + \pi\, |S|^{-1/2} \prod_i \frac{1}{\mathrm{\pi}\,(1 + w_i^2)}`,
:math:`w = S^{-1/2} (x - m)`: independent Cauchy variables in whitened coordinates. A row k deviations away costs
some :math:`2 \log k` nats in each dimension, and not :math:`k^2 / 2`.
"""

__all__ = ["BroadGaussian"]

import math

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.densities.base import Density
from girsanov.densities.gaussian import Gaussian
from girsanov.inputs import checked
from girsanov.randomness import source_of
from girsanov.types import InputError, Nats, State

SHARE = math.exp(-18.0)  # as much as a score model's flat law has


class BroadGaussian(Density):
    """A mixture of a Gaussian and independent Cauchy variables of its location and scale.

    Args:
        law: the Gaussian.
        share: weight of the Cauchy variables.

    Example:
        >>> law = Gaussian(torch.zeros(1), 1.0)
        >>> x = torch.tensor([[0.0], [1000.0]])
        >>> law.log_prob(x), BroadGaussian(law).log_prob(x)
        (tensor([-9.1894e-01, -5.0000e+05], dtype=torch.float64), tensor([ -0.9189, -32.9602], dtype=torch.float64))
    """

    def __init__(self, law: Gaussian, share: float = SHARE) -> None:
        super().__init__()
        if not 0.0 < share < 1.0:
            raise InputError(f"share must lie between 0 and 1; got {share}")
        self.law, self.share = law, share
        self.event_shape = law.event_shape

    @checked
    def log_prob(self, x: State) -> Nats:
        return self._mixed(self.law.log_prob(x), self._white(x).square())

    def expected_log_prob(self, mean: State, variance: Tensor) -> Nats:
        r"""A lower bound of :math:`E[\log p(Y)]` for :math:`Y \sim \mathcal{N}(\mathrm{mean}, \mathrm{variance}\, I)`.

        The logarithm of a sum is at least the same of its terms' expected logarithms (by Jensen, with constant shares),
        and :math:`E \log(1 + w^2) \le \log(1 + E w^2)`: short of the mean by the share at most, where rows are near.
        """
        spread = self.law.marginal_precision(torch.zeros(1).to(self.law.mean))[0] * variance
        return self._mixed(self.law.expected_log_prob(mean, variance), self._white(mean).square() + spread)

    @checked
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> State:
        generator = source_of(generator)
        x = self.law.sample(n, generator=generator)
        chosen = (torch.rand(n, dtype=torch.float64, generator=generator) < self.share).to(x.device)
        if not bool(chosen.any()):
            return x
        wide = torch.empty(int(chosen.sum()), *self.event_shape, dtype=torch.float64).cauchy_(generator=generator)
        x[chosen] = self.law.mean + self.law.spectral(wide.to(x.device), torch.sqrt)
        return x

    def diffused(self, alpha: float | Tensor, sigma: float | Tensor) -> Density:
        """Refused: a noised Cauchy variable has no closed form."""
        raise InputError("A broad Gaussian stands at the noise end and has no noised version: diffuse its law")

    def diffused_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        raise InputError("A broad Gaussian stands at the noise end and has no noised version: diffuse its law")

    def _white(self, x: State) -> State:
        return self.law.spectral(x.double() - self.law.mean, torch.rsqrt)

    def _mixed(self, narrow: Nats, squares: State) -> Nats:
        cauchy = -sum_event(torch.log1p(squares) + math.log(math.pi)) - 0.5 * self.law.spectrum().log().sum()
        return torch.logaddexp(narrow + math.log1p(-self.share), cauchy + math.log(self.share))
