r"""Gaussian mixtures with full covariances, exact under every linear process at every time.

:math:`p(x) = \sum_k w_k \mathcal{N}(x; m_k, S_k)`; noised, each component stays Gaussian with mean
:math:`\alpha m_k` and covariance :math:`\alpha^2 S_k + \sigma^2 I`, and the score is the responsibility-weighted
sum of the components' scores. Covariances are kept in their eigenbases, so that one decomposition serves all times.
"""

__all__ = ["GaussianMixture"]

import torch
from torch import Tensor

from girsanov.densities.base import Density
from girsanov.densities.gaussian import LOG_2PI, Gaussian
from girsanov.inputs import checked
from girsanov.randomness import source_of
from girsanov.types import InputError, Nats, State


class GaussianMixture(Density):
    """A mixture of K Gaussians on rows of any event shape.

    Args:
        weights: shape ``K``, positive; normalised to sum to one.
        means: shape ``K *event_shape``.
        covariances: ``(K, d, d)`` over the flattened event, or variances of the shape of ``means``.

    Raises:
        InputError: if shapes disagree, a weight is not positive or a covariance not positive definite.

    Example:
        >>> mixture = GaussianMixture(
        ...     torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [1.5]]), torch.tensor([[0.25], [0.6]])
        ... )
        >>> mixture.log_prob(torch.tensor([[0.5]]))
        tensor([-1.8535], dtype=torch.float64)
    """

    weights: Tensor
    means: Tensor
    bases: Tensor | None
    variances: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        weights, means, covariances = (torch.as_tensor(a).double() for a in (weights, means, covariances))
        count, d = means.shape[0], means[0].numel()
        if weights.shape != (count,):
            raise InputError(f"Expected weights.shape ({count},); got {tuple(weights.shape)}")
        if not bool(((weights > 0) & weights.isfinite()).all() and means.isfinite().all()):
            raise InputError("Mixture weights must be positive and means finite: drop the empty components")
        if covariances.shape == (count, d, d) and covariances.shape != means.shape:
            variances, bases = torch.linalg.eigh(covariances)
        elif covariances.shape == means.shape:
            variances, bases = covariances.flatten(1), None
        else:
            raise InputError(
                f"Expected covariances.shape ({count}, {d}, {d}) or {tuple(means.shape)}; "
                f"got {tuple(covariances.shape)}"
            )
        self._set(weights / weights.sum(), means, variances, bases)

    def _set(self, weights: Tensor, means: Tensor, variances: Tensor, bases: Tensor | None) -> None:
        if not bool((variances > 0).all()):
            raise InputError("A mixture covariance is not positive definite: add noise or a ridge")
        self.event_shape = means.shape[1:]
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("bases", bases)

    @checked
    def log_prob(self, x: State) -> Nats:
        rows = x.double()
        ones = rows.new_ones(len(rows))
        return self._joint_log_prob(ones, 0.0 * ones, rows)[0].logsumexp(1)

    @checked
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> State:
        generator = source_of(generator)
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means[0].numel(), dtype=torch.float64, generator=generator)
        y = noise * self.variances[component].sqrt()
        if self.bases is not None:
            y = torch.einsum("nij,nj->ni", self.bases[component], y)
        return self.means[component] + y.reshape(n, *self.event_shape)

    def diffused(self, alpha: float | Tensor, sigma: float | Tensor) -> "GaussianMixture":
        alpha, sigma = torch.as_tensor(alpha).to(self.means), torch.as_tensor(sigma).to(self.means)
        mixture = GaussianMixture.__new__(GaussianMixture)
        Density.__init__(mixture)
        mixture._set(self.weights, alpha * self.means, alpha.square() * self.variances + sigma.square(), self.bases)
        return mixture

    def diffused_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        """Score of alpha X + sigma eps at ``x``, one alpha and sigma per row or one for all."""
        if len(x) and bool((alpha == alpha[0]).all() and (sigma == sigma[0]).all()):
            return self._shared_score(alpha[0].to(self.means), sigma[0].to(self.means), x)
        joint, coordinates, variances = self._joint_log_prob(alpha, sigma, x)
        responsibility = joint.softmax(1).to(x.dtype)
        precise = responsibility[:, :, None] * coordinates / variances
        if self.bases is None:
            return -precise.sum(1).reshape(x.shape)
        return -torch.einsum("bkj,kij->bi", precise, self.bases.to(x.dtype)).reshape(x.shape)

    def _shared_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        """The same at one time, as in simulation: precisions once, and matrix products with all rows; float64."""
        y, means = x.flatten(1).double(), alpha * self.means.flatten(1)
        variances = alpha.square() * self.variances + sigma.square()
        if self.bases is None:
            weighted = means / variances  # P m
            quadratic = y.square() @ variances.reciprocal().T - 2.0 * y @ weighted.T
        else:
            precise = (self.bases / variances[:, None]) @ self.bases.mT  # P, K d d
            weighted = (precise @ means[:, :, None])[:, :, 0]
            moved = (y @ precise.transpose(0, 1).flatten(1)).reshape(len(y), *means.shape)  # P y, b K d
            quadratic = torch.einsum("bi,bki->bk", y, moved) - 2.0 * y @ weighted.T
        constant = (means * weighted).sum(1) + variances.log().sum(1)
        share = (self.weights.log() - 0.5 * (quadratic + constant)).softmax(1)
        if self.bases is None:
            pulled = y * (share @ variances.reciprocal())
        else:
            pulled = torch.einsum("bk,bki->bi", share, moved)
        return (share @ weighted - pulled).reshape(x.shape).to(x.dtype)

    def variance_range(self) -> tuple[float, float]:
        """Smallest variance within a component, largest of the whole."""
        return float(self.variances.min()), float(self.moment_match().spectrum().max())

    def moment_match(self) -> Gaussian:
        """The Gaussian with the mixture's mean and covariance."""
        means = self.means.flatten(1)
        mean = self.weights @ means
        centred = means - mean
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        if self.bases is None:
            within = torch.diag(self.weights @ self.variances)
        else:
            within = torch.einsum("k,kij,kj,klj->il", self.weights, self.bases, self.variances, self.bases)
        values, vectors = torch.linalg.eigh(between + within)
        return Gaussian.from_spectrum(mean.reshape(self.event_shape), vectors, values)

    def _joint_log_prob(self, alpha: Tensor, sigma: Tensor, x: State) -> tuple[Tensor, Tensor, Tensor]:
        """Log joint of component and row ``b K``, coordinates ``b K d`` in the eigenbases, their variances."""
        dtype = x.dtype
        centred = x.flatten(1)[:, None] - alpha.to(dtype)[:, None, None] * self.means.to(dtype).flatten(1)
        if self.bases is not None:
            centred = torch.einsum("bki,kij->bkj", centred, self.bases.to(dtype))
        squares = (alpha.square().to(dtype), sigma.square().to(dtype))
        variances = squares[0][:, None, None] * self.variances.to(dtype) + squares[1][:, None, None]
        log_normaliser = (variances.log() + LOG_2PI).sum(2, dtype=torch.float64)
        quadratic = (centred.square() / variances).sum(2, dtype=torch.float64)
        return self.weights.log() - 0.5 * (quadratic + log_normaliser), centred, variances
