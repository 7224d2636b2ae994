r"""Bridges between Gaussian mixtures in closed form: the exact oracle that is not Gaussian, in any dimension.

Choose the two potentials as mixtures and let the ends follow (note of paper 3, section 4.3). With
:math:`\rho = \alpha_T/\alpha_t` and :math:`V = \alpha_T^2 (\tau_T - \tau_t)` of the reference,

.. math::
    \psi_t(x) = \sum_k w_k \mathcal{N}(\rho x; m_k, S_k + V I), \qquad
    \hat\psi_t(x) = \sum_j c_j \mathcal{N}(x; \alpha_t n_j, \alpha_t^2 L_j + \sigma_t^2 I), \qquad
    q_t = \psi_t \hat\psi_t / Z,

where q_t is itself a mixture of J K Gaussians at every time and Z does not depend on it: both ends have exact
densities, draws and drifts.

One-sided (the construction of the entropic transport benchmark of Gushchin et al., 2023): any law starts, and the end
given :math:`x_0` is the mixture of the components' posteriors, with weights proportional to
:math:`w_k \mathcal{N}(\alpha_T x_0; m_k, S_k + \sigma_T^2 I)`. The plan, the forward drift and draws of both ends are
exact; the density of the end and the backward drift are not closed forms.
"""

__all__ = ["ConditionalMixture", "EndPotential", "MixtureBridge", "OneSidedBridge", "PotentialBridge"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from girsanov.bridges.closed import Bridge, ClosedBridge, require_one_shape
from girsanov.bridges.reference import Clock
from girsanov.calculus import expand_as_rows
from girsanov.densities import Density, GaussianMixture
from girsanov.densities.gaussian import LOG_2PI
from girsanov.inputs import checked
from girsanov.processes import LinearProcess
from girsanov.randomness import source_of
from girsanov.types import State, Time


@final
@dataclass(frozen=True)
class ConditionalMixture:
    """One mixture of K Gaussians for each of n rows, with shared covariances.

    Attributes:
        weights: shape ``n K``.
        means: shape ``n K d`` over the flattened event.
        covariances: shape ``K d d``.
        event_shape: shape of one row.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    event_shape: torch.Size

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``n d`` and covariance ``n d d`` of each row's law."""
        mean = torch.einsum("nk,nkd->nd", self.weights, self.means)
        centred = self.means - mean[:, None]
        between = torch.einsum("nk,nki,nkj->nij", self.weights, centred, centred)
        return mean, between + torch.einsum("nk,kij->nij", self.weights, self.covariances)

    def sample(self, *, generator: torch.Generator | None = None) -> State:
        """One draw for each row, ``n *d``."""
        generator = source_of(generator)
        component = torch.multinomial(self.weights.cpu(), 1, generator=generator)[:, 0].to(self.means.device)
        eps = torch.randn(self.means[:, 0].shape, generator=generator, dtype=self.means.dtype).to(self.means.device)
        noise = torch.einsum("nij,nj->ni", torch.linalg.cholesky(self.covariances)[component], eps)
        chosen = self.means[torch.arange(len(component)), component]
        return (chosen + noise).reshape(len(component), *self.event_shape)


@final
class EndPotential(nn.Module):
    r"""The potential :math:`\psi_T = \sum_k w_k \mathcal{N}(m_k, S_k)` and the forward half of a bridge that it makes.

    Args:
        reference: linear process that remembers its start.
        mixture: the potential at the horizon.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> potential = EndPotential(BrownianMotion(), GaussianMixture([1.0], [[2.0]], [[1.0]]))
        >>> potential.conditional(torch.zeros(1, 1)).means  # half way to the potential's mean
        tensor([[[1.]]], dtype=torch.float64)
    """

    def __init__(self, reference: LinearProcess, mixture: GaussianMixture) -> None:
        super().__init__()
        self.reference, self.mixture = reference, mixture
        self.clock = Clock(reference)

    def drift(self, t: Time, x: State) -> State:
        r"""Forward drift :math:`a x + g^2 \nabla \log \psi_t` at float64 times ``b`` and rows ``b *d``."""
        rate, squared = self.reference.rates(t)
        rho, variance = self._remaining(t)
        pull = self.mixture.diffused_score(torch.ones_like(rho), variance.sqrt(), expand_as_rows(rho, x) * x)
        return expand_as_rows(rate, x) * x + expand_as_rows(squared * rho, x) * pull

    def conditional(self, x: State, t: float = 0.0) -> ConditionalMixture:
        """Law of the end given the state ``x`` at ``t``, rows ``n *d``."""
        rho, variance = self._remaining(torch.tensor(t, dtype=torch.float64, device=x.device))
        mixture, flat = self.mixture, x.double().flatten(1)
        d = flat.shape[1]
        bases = mixture.bases if mixture.bases is not None else torch.eye(d).to(flat).expand(len(mixture.weights), d, d)
        means, own = mixture.means.flatten(1), mixture.variances
        centred = torch.einsum("nki,kij->nkj", rho * flat[:, None] - means, bases)
        evidence = centred.square() / (own + variance) + (own + variance).log() + LOG_2PI
        weights = (mixture.weights.log() - 0.5 * evidence.sum(2)).softmax(1)
        moved = torch.einsum("nkj,kij->nki", centred * own / (own + variance), bases)
        spread = own * variance / (own + variance)
        covariances = torch.einsum("kij,kj,klj->kil", bases, spread, bases)
        return ConditionalMixture(weights, means + moved, covariances, x.shape[1:])

    def _remaining(self, t: Time) -> tuple[Tensor, Tensor]:
        """Factor rho and variance V of the reference from ``t`` to the horizon."""
        alpha, tau = self.clock(t)
        return self.clock.scale / alpha, self.clock.scale.square() * (self.clock.total - tau)


class PotentialBridge(Bridge):
    """A bridge by a mixture potential at its end: exact plan, forward drift and draws."""

    end_potential: EndPotential

    def forward_drift(self, t: float | Time, x: State) -> State:
        r"""Drift :math:`u = a x + g^2 \nabla \log \psi_t`, shape ``b *d``; one time for all rows or one for each."""
        times, rows = self._rows(t, x)
        return self.end_potential.drift(times, rows).to(x.dtype)

    def conditional(self, x: State) -> ConditionalMixture:
        """Law of the end given the start: the entropic plan's rows."""
        return self.end_potential.conditional(x)

    @checked
    def sample_coupling(self, n: int, *, generator: torch.Generator | None = None) -> tuple[State, State]:
        generator = source_of(generator)
        x0 = self.start.sample(n, generator=generator).double()
        return x0, self.conditional(x0).sample(generator=generator)


@final
class MixtureBridge(PotentialBridge, ClosedBridge):
    r"""The Schroedinger bridge whose two potentials are Gaussian mixtures.

    Args:
        reference: linear process that remembers its start.
        start_potential: :math:`\hat\psi_0`, not the law of the start: that is ``.start``.
        end_potential: :math:`\psi_T`, not the law of the end: that is ``.end``.

    Raises:
        InputError: if the event shapes differ or the reference forgets its start.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> psi = GaussianMixture([0.5, 0.3, 0.2], [[-2.0], [0.5], [2.5]], [[0.2], [0.1], [0.4]])
        >>> psihat = GaussianMixture([0.6, 0.4], [[-0.5], [1.0]], [[0.8], [0.3]])
        >>> bridge = MixtureBridge(BrownianMotion(sigma=0.5**0.5), psihat, psi)
        >>> bridge.start.log_prob(torch.tensor([[-1.0], [0.7]]))
        tensor([-1.5210, -0.9124], dtype=torch.float64)
    """

    start: GaussianMixture
    end: GaussianMixture

    def __init__(
        self, reference: LinearProcess, start_potential: GaussianMixture, end_potential: GaussianMixture
    ) -> None:
        require_one_shape("Both potentials", start_potential.event_shape, end_potential.event_shape)
        clock = Clock(reference)
        ends = (_product(clock, start_potential, end_potential, t)[1] for t in (torch.zeros(()), clock.horizon))
        super().__init__(reference, *ends)
        self.start_potential = start_potential
        self.end_potential = EndPotential(reference, end_potential)

    def backward_drift(self, t: float | Time, x: State) -> State:
        r"""Drift :math:`v = a x - g^2 \nabla \log \hat\psi_t`, written forward in t, shape ``b *d``."""
        times, rows = self._rows(t, x)
        rate, squared = self.reference.rates(times)
        alpha, tau = self.clock(times)
        score = self.start_potential.diffused_score(alpha, alpha * tau.sqrt(), rows)
        return (expand_as_rows(rate, rows) * rows - expand_as_rows(squared, rows) * score).to(x.dtype)

    def marginal(self, t: float | Tensor) -> GaussianMixture:
        """The mixture q_t, with a component for each pair of components of the potentials."""
        return self._product(t)[1]

    def log_normaliser(self, t: float | Tensor = 0.0) -> float:
        """Log Z, the same at every time."""
        return float(self._product(t)[0])

    def _product(self, t: float | Tensor) -> tuple[Tensor, GaussianMixture]:
        time = torch.as_tensor(t, dtype=torch.float64)
        return _product(self.clock, self.start_potential, self.end_potential.mixture, time)


@final
class OneSidedBridge(PotentialBridge):
    """A bridge from any start by a mixture potential at the end: no density of the end, no backward drift.

    Args:
        reference: linear process that remembers its start.
        start: law at t = 0.
        end_potential: the potential at the horizon, not the law of the end.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import BrownianMotion
        >>> potential = GaussianMixture([0.5, 0.5], [[-4.0], [4.0]], [[1.0], [1.0]])
        >>> bridge = OneSidedBridge(BrownianMotion(), Gaussian(torch.zeros(1), 1.0), potential)
        >>> x0, x1 = bridge.sample_coupling(1000)
        >>> bool(((x0 > 0) == (x1 > 0)).double().mean() > 0.8)  # the nearer mode
        True
    """

    def __init__(self, reference: LinearProcess, start: Density, end_potential: GaussianMixture) -> None:
        require_one_shape("The start and the potential", start.event_shape, end_potential.event_shape)
        super().__init__(reference, start)
        self.end_potential = EndPotential(reference, end_potential)


def _product(
    clock: Clock, start_potential: GaussianMixture, end_potential: GaussianMixture, t: Tensor
) -> tuple[Tensor, GaussianMixture]:
    """Log Z and the normalised product of both potentials at ``t``: Kalman's update of psihat by each of psi."""
    alpha, tau = clock(t)
    rho, remaining = clock.scale / alpha, clock.scale.square() * (clock.total - tau)
    (w, m, S), (c, n, L) = _dense(end_potential), _dense(start_potential)
    eye = torch.eye(m.shape[1]).to(m)
    B = alpha.square() * (L + tau * eye)
    innovation = (S + remaining * eye)[None] + rho.square() * B[:, None]  # J K d d
    surprise = m[None] - rho * alpha * n[:, None]
    gain = torch.linalg.solve(innovation, rho * B[:, None]).mT
    means = alpha * n[:, None] + torch.einsum("jkab,jkb->jka", gain, surprise)
    covariances = B[:, None] - rho * gain @ B[:, None]
    root = torch.linalg.cholesky(innovation)
    whitened = torch.linalg.solve_triangular(root, surprise[..., None], upper=False)[..., 0]
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_weights = c.log()[:, None] + w.log() - 0.5 * (whitened.square().sum(-1) + m.shape[1] * LOG_2PI) - log_det
    log_z, d = log_weights.flatten().logsumexp(0), m.shape[1]
    weights = (log_weights - log_z).exp().flatten()
    kept = weights > 0.0  # pairs of components so far apart that their product underflows
    covariances = 0.5 * (covariances + covariances.mT).reshape(-1, d, d)[kept]
    means = means.reshape(-1, *start_potential.event_shape)[kept]
    return log_z, GaussianMixture(weights[kept], means, covariances)


def _dense(mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``K``, means ``K d`` and covariances ``K d d``."""
    if mixture.bases is None:
        return mixture.weights, mixture.means.flatten(1), torch.diag_embed(mixture.variances)
    covariances = torch.einsum("kij,kj,klj->kil", mixture.bases, mixture.variances, mixture.bases)
    return mixture.weights, mixture.means.flatten(1), covariances
