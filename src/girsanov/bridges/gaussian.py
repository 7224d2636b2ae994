r"""The Schroedinger bridge between two Gaussians over any linear reference, in closed form.

With :math:`X_T \mid x_0 \sim \mathcal{N}(\alpha x_0, \sigma^2 I)` under the reference and
:math:`M = S_0^{1/2} S_1 S_0^{1/2}`, the bridge couples its ends by

.. math::
    C = \mathrm{Cov}(X_0, X_T) = S_0^{1/2}\, 2 \alpha M \Big[ (4 \alpha^2 M + \sigma^4 I)^{1/2} + \sigma^2 I \Big]^{-1}
        S_0^{-1/2},

which for a Brownian reference of total variance :math:`b = \sigma^2` is the familiar
:math:`\tfrac12 (S_0^{1/2} D S_0^{-1/2} - b I)`, here without its cancellation at large b. Between the ends the
reference is pinned, :math:`X_t = A X_0 + B X_T + \sqrt c\, \varepsilon` (:mod:`girsanov.bridges.reference`), so

.. math::
    m_t &= A m_0 + B m_1, \qquad S_t = A^2 S_0 + B^2 S_1 + A B (C + C^\top) + c I, \\
    u(t, x) &= a x + \frac{g^2}{\alpha_t \alpha\, \tau_T} \Big[ m_1 - \alpha m_0 + K_t S_t^{-1} (x - m_t) \Big],
    \quad K_t = A C^\top + B S_1 - \alpha (A S_0 + B C) - B \sigma^2 I, \\
    v(t, x) &= u + g^2 S_t^{-1} (x - m_t),

where nothing divides by the time that is left, so both drifts are as exact at the ends as between them (note of
paper 3, sections 4.1 and 4.2).

One convention differs between codes: the bridge of a reference of total variance b is entropic transport of cost
:math:`\|x - y\|^2/2` with regularisation b, that is of cost :math:`\|x - y\|^2` with regularisation **2b**.
"""

__all__ = ["GaussianBridge", "GaussianBridgeChain", "Transition", "gaussian_bridge", "least_deviation"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from girsanov.bridges.closed import ClosedBridge, require_one_shape
from girsanov.densities import Gaussian
from girsanov.display import Shown
from girsanov.inputs import checked
from girsanov.linear import Full
from girsanov.pairs import Chain, GaussianKernel
from girsanov.processes import LinearProcess
from girsanov.randomness import source_of
from girsanov.types import InputError, Nats, State, Time

LEAST = 1e-3  # of the spread, that a column at one end has at least


def least_deviation(*rows: State) -> float:
    """The least deviation of a column in the Gaussian of an end, for one that is constant there: 0.001 spreads.

    Example:
        >>> round(least_deviation(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])), 6)
        0.001
    """
    return LEAST * float(torch.stack([x.double().var(0).mean() for x in rows]).mean().sqrt())


def gaussian_bridge(
    m0: Tensor, S0: Tensor | float, m1: Tensor, S1: Tensor | float, *, reference: LinearProcess
) -> "GaussianBridge":
    r"""The Schroedinger bridge from N(m0, S0) at t = 0 to N(m1, S1) at the reference's horizon.

    Args:
        m0: mean of the start, of any event shape.
        S0: its covariance ``(d, d)`` over the flattened event, variances of the event shape, or one variance.
        m1: mean of the end, of the same shape.
        S1: its covariance.
        reference: linear process that remembers its start: Brownian, variance exploding or preserving, OU.

    Raises:
        InputError: if shapes differ, a covariance is not positive definite, or the reference forgets its start.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> bridge = gaussian_bridge(-torch.ones(1), 1.0, torch.ones(1), 1.0, reference=BrownianMotion())
        >>> bridge.covariance(0.0, 1.0)  # (sqrt(5) - 1) / 2
        tensor([[0.6180]], dtype=torch.float64)
        >>> round(bridge.kl(), 5)
        2.12257
    """
    return GaussianBridge(reference, Gaussian(m0, S0), Gaussian(m1, S1))


@dataclass(frozen=True, repr=False)
class Transition(Shown):
    """A linear Gaussian kernel between two times: ``N(mean(x), covariance)``.

    Attributes:
        gain: factor of the given state, ``d d`` over the flattened event.
        offset: shape ``d``.
        covariance: shape ``d d``.
    """

    gain: Tensor
    offset: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The lower triangular factor of the covariance, ``d d``."""
        return torch.linalg.cholesky(self.covariance)

    def mean(self, x: State) -> State:
        """Mean given rows ``n *d``, of the same shape and dtype."""
        return (x.double().flatten(1) @ self.gain.T + self.offset).reshape(x.shape).to(x.dtype)

    def kernel(self, x: State, log_variance: Tensor) -> GaussianKernel:
        """The step from rows ``n *d`` as one of a chain."""
        return GaussianKernel(self.mean(x) - x, Full(self.root.to(x.dtype).expand(len(x), -1, -1)), log_variance)


@final
class GaussianBridge(ClosedBridge):
    """See :func:`gaussian_bridge`.

    Args:
        reference: linear process that remembers its start.
        start: Gaussian at t = 0.
        end: Gaussian at the horizon, of the same event shape.

    Attributes:
        cross: Cov(X_0, X_T), shape ``d d`` over the flattened event; not symmetric in general.
    """

    start: Gaussian
    end: Gaussian
    m0: Tensor
    m1: Tensor
    S0: Tensor
    S1: Tensor
    cross: Tensor

    def __init__(self, reference: LinearProcess, start: Gaussian, end: Gaussian) -> None:
        require_one_shape("Both ends", start.event_shape, end.event_shape)
        super().__init__(reference, start, end)
        alpha, tau = self.clock.scale, self.clock.total
        variance = alpha.square() * tau
        for i, law in enumerate((start, end)):
            self.register_buffer(f"m{i}", law.mean.flatten())
            self.register_buffer(f"S{i}", law.covariance)
        self.register_buffer("cross", _cross_covariance(start, end, alpha, variance))
        self._alpha, self._variance = alpha, variance

    def forward_drift(self, t: float | Time, x: State) -> State:
        """Drift u, shape ``b *d``; see the module for the formula."""
        return self._drift(t, x, self._slope)

    def backward_drift(self, t: float | Time, x: State) -> State:
        return self._drift(t, x, self._backward_slope)

    def marginal(self, t: float | Tensor) -> Gaussian:
        time = torch.as_tensor(t, dtype=torch.float64).reshape(1)
        mean, covariance = self._moments(time)
        values, basis = torch.linalg.eigh(covariance[0])
        return Gaussian.from_spectrum(mean[0].reshape(self.event_shape), basis, values)

    def covariance(self, s: float | Tensor, t: float | Tensor) -> Tensor:
        """Cov(X_s, X_t) over the flattened event, ``d d``: rows belong to s."""
        s, t = (torch.as_tensor(v, dtype=torch.float64) for v in (s, t))
        if s > t:
            return self.covariance(t, s).T
        first, second = self.clock.pinned(s), self.clock.pinned(t)
        (alpha_s, tau_s), (alpha_t, tau_t) = self.clock(s), self.clock(t)
        shared = alpha_s * alpha_t * tau_s * (1.0 - tau_t / self.clock.total)
        return (
            first.start * second.start * self.S0
            + first.end * second.end * self.S1
            + first.start * second.end * self.cross
            + first.end * second.start * self.cross.T
            + shared * self._eye()
        )

    def transition(self, s: float | Tensor, t: float | Tensor) -> Transition:
        """The exact kernel of X_t given X_s, in either direction of time.

        ``transition(0, horizon)`` is the static conditional of the entropic plan. Consecutive kernels of a grid make
        the bridge's exact chain (:meth:`chain`).
        """
        (given, S_s), (mean, S_t) = (
            tuple(part[0] for part in self._moments(torch.as_tensor(v, dtype=torch.float64).reshape(1))) for v in (s, t)
        )
        cross = self.covariance(s, t)
        gain = torch.linalg.solve(S_s, cross).T
        covariance = S_t - gain @ cross
        return Transition(gain, mean - gain @ given, 0.5 * (covariance + covariance.T))

    @checked
    def sample_coupling(self, n: int, *, generator: torch.Generator | None = None) -> tuple[State, State]:
        generator = source_of(generator)
        x0 = self.start.sample(n, generator=generator)
        law = self.transition(0.0, self.horizon)
        eps = torch.randn(n, len(self.cross), generator=generator, dtype=torch.float64).to(x0.device)
        noise = eps @ law.root.T
        return x0, law.mean(x0) + noise.reshape(x0.shape)

    def chain(self, times: Tensor) -> "GaussianBridgeChain":
        """The bridge on a finite grid, with its exact kernels in both directions."""
        return GaussianBridgeChain(self, times)

    def kl(self) -> float:
        r"""KL(bridge || reference from the same start), nats: :math:`\tfrac12 \int E\|u - f\|^2 / g^2\, dt`."""
        d, variance = len(self.cross), self._variance
        residual = self.S1 - self.cross.T @ torch.linalg.solve(self.S0, self.cross)
        cost = self._squared_distance() / variance
        return float(0.5 * (cost + d * variance.log() - d - torch.logdet(residual)))

    def entropic_cost(self) -> float:
        r"""Value :math:`\min_\pi E\|X_T - \alpha X_0\|^2 + 2 \sigma^2\, \mathrm{KL}(\pi \| \mu \otimes \nu)`.

        For a Brownian reference of total variance b, entropic transport of the squared distance with regularisation
        2b: POT's ``reg = 2 b``.
        """
        return float(self._squared_distance() + 2.0 * self._variance * self.mutual_information())

    def mutual_information(self) -> float:
        """KL of the coupling from the product of its ends, nats."""
        gain = torch.linalg.solve(self.S0, self.cross)
        share = torch.linalg.solve(self.S1, self.cross.T @ gain)
        return float(-0.5 * torch.logdet(self._eye() - share))

    def _squared_distance(self) -> Tensor:
        """Mean of the squared distance between the end and the scaled start under the bridge."""
        alpha = self._alpha
        shift = self.m1 - alpha * self.m0
        spread = alpha.square() * self.S0 + self.S1 - 2.0 * alpha * self.cross
        return shift.square().sum() + spread.trace()

    def _moments(self, t: Time) -> tuple[Tensor, Tensor]:
        """m_t ``k d`` and S_t ``k d d`` at ``k`` times."""
        law = self.clock.pinned(t.to(self.cross.device))
        A, B, c = (v[:, None, None] for v in (law.start, law.end, law.variance))
        mean = law.start[:, None] * self.m0 + law.end[:, None] * self.m1
        ends = A.square() * self.S0 + B.square() * self.S1
        return mean, ends + A * B * (self.cross + self.cross.T) + c * self._eye()

    def _drift(self, t: float | Time, x: State, slope: Callable[[Time, Tensor], Tensor]) -> State:
        """A x + shift_t + slope_t (x - m_t) with one matrix for each different time."""
        times, rows = self._rows(t, x)
        unique, index = torch.unique(times, return_inverse=True)
        rate, squared = self.reference.rates(unique)
        mean, covariance = self._moments(unique)
        matrix, centred = slope(unique, covariance), rows.flatten(1) - mean[index]
        pull = centred @ matrix[0].T if len(unique) == 1 else torch.einsum("bij,bj->bi", matrix[index], centred)
        push = self._push(unique)[index, None] * (self.m1 - self._alpha * self.m0)
        flow = rate[index, None] * rows.flatten(1) + squared[index, None] * (push + pull)
        return flow.reshape(x.shape).to(x.dtype)

    def _push(self, t: Time) -> Tensor:
        alpha, _ = self.clock(t)
        return 1.0 / (alpha * self._alpha * self.clock.total)

    def _slope(self, t: Time, covariance: Tensor) -> Tensor:
        """Hessian of log psi_t, ``k d d``."""
        law = self.clock.pinned(t)
        A, B = law.start[:, None, None], law.end[:, None, None]
        forward = A * self.cross.T + B * self.S1
        backward = A * self.S0 + B * self.cross
        K = forward - self._alpha * backward - B * self._variance * self._eye()
        return self._push(t)[:, None, None] * torch.linalg.solve(covariance, K, left=False)

    def _backward_slope(self, t: Time, covariance: Tensor) -> Tensor:
        return self._slope(t, covariance) + torch.linalg.inv(covariance)

    def _eye(self) -> Tensor:
        return torch.eye(len(self.cross), dtype=torch.float64, device=self.cross.device)


@final
class GaussianBridgeChain(Chain):
    """A Gaussian bridge on a finite grid: its log-weights are the log-density of the start on every path, at any N.

    Args:
        bridge: the bridge.
        times: increasing grid from 0 to the horizon, shape ``N + 1``.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> bridge = gaussian_bridge(-torch.ones(2), 1.0, torch.ones(2), 2.0, reference=BrownianMotion())
        >>> x, chain = torch.zeros(3, 2), bridge.chain(torch.linspace(0.0, 1.0, 5))
        >>> torch.allclose(chain.log_weights(x, lambda count: torch.randn(count, 3, 2)), bridge.start.log_prob(x))
        True
    """

    def __init__(self, bridge: GaussianBridge, times: Tensor) -> None:
        grid = times.double()
        if grid.ndim != 1 or not bool((grid.diff() > 0).all()) or (grid[0], grid[-1]) != (0.0, bridge.horizon):
            raise InputError(f"times must increase from 0 to {bridge.horizon}; got {grid.tolist()[:4]} ...")
        super().__init__(len(grid) - 1)
        self.bridge = bridge
        self._up = [bridge.transition(s, t) for s, t in pairwise(grid)]
        self._down = [bridge.transition(t, s) for s, t in pairwise(grid)]

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        return self._up[k].kernel(x, self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        return self._down[k].kernel(x, self.decoder_log_variance[k])

    def log_prior(self, x: State) -> Nats:
        return self.bridge.end.log_prob(x)

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        return self.bridge.end.sample(n, generator=generator)


def _cross_covariance(start: Gaussian, end: Gaussian, alpha: Tensor, variance: Tensor) -> Tensor:
    """C of the module's first equation."""
    eye = torch.eye(start.event_dim, dtype=torch.float64, device=start.mean.device)
    root, inverse = start.spectral(eye, torch.sqrt), start.spectral(eye, torch.rsqrt)
    values, U = torch.linalg.eigh(root @ end.covariance @ root)
    values = values.clamp_min(0.0)  # an eigenvalue below rounding may come out negative
    squared = (4.0 * alpha.square() * values + variance.square()).sqrt()
    return root @ (U * (2.0 * alpha * values / (squared + variance))) @ U.T @ inverse
