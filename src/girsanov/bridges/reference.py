r"""The clock of a linear reference, and the reference pinned at both ends.

With :math:`\alpha(t) = e^{\int_0^t a}` and :math:`\tau(t) = \int_0^t g^2/\alpha^2`, the process :math:`X/\alpha` is a
Brownian motion in the clock tau (note of paper 3, section 4.2), so that

.. math::
    X_t \mid X_s = x \sim \mathcal{N}\Big(\frac{\alpha_t}{\alpha_s} x,\; \alpha_t^2 (\tau_t - \tau_s) I\Big),
    \qquad
    X_t \mid X_s, X_u \sim \mathcal{N}\Big( \frac{\alpha_t}{\alpha_s} (1 - q) X_s + \frac{\alpha_t}{\alpha_u} q X_u,\;
    \alpha_t^2 (\tau_t - \tau_s)(1 - q) I \Big), \quad q = \frac{\tau_t - \tau_s}{\tau_u - \tau_s}.

The pinned process is what every Schroedinger bridge with this reference mixes over its coupling.
"""

__all__ = ["Clock", "Pinned", "pinned_path"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows
from girsanov.processes import LinearProcess
from girsanov.randomness import source_of
from girsanov.types import InputError, State, Time


@dataclass(frozen=True)
class Pinned:
    """Law of the reference at a time between two ends: ``start x_0 + end x_T + std eps``, float64.

    Attributes:
        start: factor of the earlier state, of the shape of the time.
        end: factor of the later state.
        variance: what both leave open.
    """

    start: Tensor
    end: Tensor
    variance: Tensor

    def state(self, x0: State, x1: State, eps: State) -> State:
        """A draw for each row of the two ends and of standard normal ``eps``, shape ``b *d``."""
        a, b, s = (expand_as_rows(v, x0) for v in (self.start, self.end, self.variance.sqrt()))
        return a * x0 + b * x1 + s * eps


@final
class Clock:
    r"""Mean scale alpha and clock tau of a linear reference, in float64.

    Args:
        reference: a linear process that remembers its start at the horizon.

    Raises:
        InputError: if the reference forgets its start entirely, so that no path joins two given ends.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> clock = Clock(BrownianMotion(sigma=2.0))
        >>> clock.total, clock.pinned(torch.tensor([0.5])).variance
        (tensor(4., dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """

    def __init__(self, reference: LinearProcess) -> None:
        self.reference = reference
        self.horizon = torch.tensor(reference.horizon, dtype=torch.float64)
        self._origin = self._kernel(torch.zeros((), dtype=torch.float64))
        self.scale, self.total = self(self.horizon)
        if not (self.scale > 0 and self.total.isfinite()):
            raise InputError(
                f"{type(reference).__name__} forgets its start entirely at its horizon, so it has no bridge between "
                f"two ends: use VariancePreserving, OrnsteinUhlenbeck, VarianceExploding or BrownianMotion"
            )

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """Scale alpha and clock tau at ``t``, 1 and 0 at t = 0."""
        alpha_0, tau_0 = self._origin
        alpha, tau = self._kernel(t.double())
        return alpha / alpha_0, alpha_0.square() * (tau - tau_0)

    def pinned(self, t: Time) -> Pinned:
        """The reference at ``t`` given its states at 0 and at the horizon."""
        return self.pinned_between(torch.zeros_like(t, dtype=torch.float64), t)

    def pinned_between(self, s: Time, t: Time) -> Pinned:
        """The reference at ``t`` given its states at ``s``, not after t, and at the horizon."""
        (alpha_s, tau_s), (alpha, tau) = self(s), self(t)
        q = (tau - tau_s) / (self.total - tau_s)
        return Pinned(alpha / alpha_s * (1.0 - q), alpha / self.scale * q, alpha.square() * (tau - tau_s) * (1.0 - q))

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.reference.marginal(t)
        return alpha.detach(), (sigma / alpha).square().detach()


def pinned_path(
    reference: LinearProcess, times: Tensor, x0: State, x1: State, *, generator: torch.Generator | None = None
) -> State:
    """Draw the reference at increasing times given its two ends, exactly whatever the grid.

    Args:
        reference: the linear process.
        times: increasing, from 0 to the horizon, shape ``m``.
        x0: states at 0, shape ``n *d``.
        x1: states at the horizon.
        generator: source of the noise; ``None`` means seed 0.

    Returns:
        Shape ``m n *d``; the first and the last are the two ends where the grid holds their times.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> x0, x1 = torch.zeros(2, 3), torch.ones(2, 3)
        >>> path = pinned_path(BrownianMotion(), torch.linspace(0.0, 1.0, 5), x0, x1)
        >>> path.shape, torch.equal(path[0], x0), torch.equal(path[-1], x1)
        (torch.Size([5, 2, 3]), True, True)
    """
    generator = source_of(generator)
    clock, before, x, states = Clock(reference), torch.zeros((), dtype=torch.float64), x0, []
    for t in times.double():
        if t > before:
            eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            x = x1 if t == clock.horizon else clock.pinned_between(before, t).state(x, x1, eps)
        before = t
        states.append(x)
    return torch.stack(states)
