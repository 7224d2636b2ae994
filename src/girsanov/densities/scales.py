r"""A Gaussian whose covariance is multiplied by a factor that is another one in every row.

Patches of photographs are smooth or rough as a whole: the same correlations, of a hundred times the variance. With a
few factors c of weights w,

.. math::
    p(x) = \sum_c w_c\, \mathcal{N}(x; m, c S), \qquad
    \hat\varepsilon(y) = r \sum_c w_c(y)\, (c S + r^2 I)^{-1} (y - m)

for :math:`y = x + r \varepsilon`, where :math:`w_c(y)` are the factors' responsibilities. All of them have the
eigenvectors of S, so that the exact denoiser costs what that of one Gaussian does.
"""

__all__ = ["FACTORS", "ScaleMixture"]

import math

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.densities.gaussian import LOG_2PI, Gaussian
from girsanov.types import Nats, State

#: logarithms of the factors, whose neighbours a row in many dimensions tells apart
FACTORS = tuple(math.log(2.0) * k for k in range(-9, 5))
ROUNDS = 50  # of expectation and maximisation
LEAST = 1e-4  # weight of a factor
PAYS = 0.1  # nats per dimension of held-out rows, from which factors are worth their time
ROWS = 64  # that are worked on at a time


class ScaleMixture(nn.Module):
    """Gaussians with one mean and covariances in proportion.

    Args:
        law: the Gaussian of factor one, of full rank.
        log_weights: of the factors, shape ``k``; default the Gaussian itself.

    Example:
        >>> law = Gaussian(torch.zeros(2), 2.0 * torch.eye(2))
        >>> noise, log_factor = ScaleMixture(law).denoised(torch.ones(1), torch.ones(1, 2))
        >>> noise, log_factor
        (tensor([[0.3333, 0.3333]]), tensor([0.]))
    """

    log_weights: Tensor
    log_factors: Tensor

    def __init__(self, law: Gaussian, log_weights: Tensor | None = None) -> None:
        super().__init__()
        self.reference = law
        self.register_buffer("log_factors", torch.tensor(FACTORS), persistent=False)
        alone = torch.where(self.log_factors == 0.0, 0.0, -torch.inf)
        self.register_buffer("log_weights", (alone if log_weights is None else log_weights).float())

    @classmethod
    def fit(cls, law: Gaussian, x: State, held: State) -> "ScaleMixture":
        """The mixture whose weights make rows likeliest, or the Gaussian alone where other rows do not gain by it.

        Args:
            law: fitted to the rows.
            x: rows ``n *d``.
            held: others, ``m *d``.
        """
        found = cls(law)
        if len(law.eigenvalues) < law.event_dim:
            return found
        parts, weights = found.log_probs(x), torch.full((len(FACTORS),), 1.0 / len(FACTORS), dtype=torch.float64)
        for _ in range(ROUNDS):
            weights = torch.softmax(parts + weights.log(), 1).mean(0).clamp_min(LEAST)
            weights = weights / weights.sum()
        others = found.log_probs(held)
        gain = torch.logsumexp(others + weights.log(), 1) - others[:, FACTORS.index(0.0)]
        return cls(law, weights.log()) if float(gain.mean()) > PAYS * law.event_dim else found

    @property
    def is_plain(self) -> bool:
        """Whether it is the Gaussian alone."""
        return int(self.log_weights.isfinite().sum()) == 1

    def log_probs(self, x: State) -> Nats:
        """Log-density of rows ``n *d`` under every factor, ``n k``."""
        y = (x.double() - self.reference.mean).flatten(1)
        return self._log_probs(self._coordinates(y), y.new_zeros(len(y)))

    def denoised(self, r: Tensor, y: State) -> tuple[State, Tensor]:
        """The exact noise prediction at rows ``y = x + r eps``, and the mean log-factor given them, ``b``.

        Args:
            r: noise ``b``.
            y: noisy rows ``b *d``.
        """
        centred = (y - self.reference.mean.to(y.dtype)).flatten(1)
        coordinates, shrunk, factors = self._coordinates(centred), [], []
        for r_part, part in zip(r.split(ROWS), coordinates.split(ROWS), strict=True):
            weights = torch.softmax(self._log_probs(part, r_part.square()) + self.log_weights.to(part.dtype), 1)
            precision = torch.einsum("bk,bkd->bd", weights, 1.0 / self._variances(part, r_part.square()))
            shrunk.append(r_part.to(part.dtype)[:, None] * precision * part)
            factors.append(weights @ self.log_factors.to(part.dtype))
        noise = torch.cat(shrunk)
        if self.reference.basis is not None:
            noise = noise @ self.reference.rounded_basis(noise.dtype).T
        return noise.reshape(y.shape), torch.cat(factors)

    def _coordinates(self, y: Tensor) -> Tensor:
        """In the eigenvectors of the covariance, ``n d``."""
        return y if self.reference.basis is None else y @ self.reference.rounded_basis(y.dtype)

    def _variances(self, like: Tensor, squared: Tensor) -> Tensor:
        """Of noisy coordinates under every factor, ``n k d``."""
        scaled = torch.exp(self.log_factors.double())[:, None] * self.reference.eigenvalues
        return scaled.to(like.dtype) + expand_as_rows(squared, like)[..., None]

    def _log_probs(self, coordinates: Tensor, squared: Tensor) -> Tensor:
        parts = []
        for part, noise in zip(coordinates.split(ROWS), squared.split(ROWS), strict=True):
            variances = self._variances(part, noise)
            parts.append(-0.5 * (part.square()[:, None] / variances + variances.log() + LOG_2PI).sum(2))
        return torch.cat(parts)
