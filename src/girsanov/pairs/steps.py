r"""One step of a chain: its law given the state that it leaves, one that was taken, and all that were.

A kernel is standard normal noise in stated coordinates: the change of the state for each noise, the noise of a change
and the derivative's determinant between them. That is all a density, a draw and a divergence need.
"""

__all__ = ["GaussianKernel", "Kernel", "Move", "Path"]

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.display import Shown
from girsanov.linear import Diagonal, Isotropic, LinearMap, Spectral
from girsanov.types import Nats, State

LOG_2PI = math.log(2.0 * math.pi)


class Kernel(ABC):
    """The law of one step, given the state that it leaves: a change of the state for each standard normal noise."""

    @abstractmethod
    def change(self, eps: State) -> State:
        """The change of the state that noise ``eps`` makes, shape ``b *d``."""

    @abstractmethod
    def noise(self, change: State) -> State:
        """The noise that makes ``change``."""

    @abstractmethod
    def log_det(self, change: State) -> Nats:
        """Log-determinant of the change's derivative in the noise, shape ``b``, float64."""

    def log_prob(self, change: State) -> Nats:
        """Log-density of a change of the state, shape ``b``, float64."""
        square = sum_event(self.noise(change).double().square())
        return -0.5 * (square + change[0].numel() * LOG_2PI) - self.log_det(change)

    @abstractmethod
    def divergence(self, other: Self) -> Nats:
        """Kullback-Leibler divergence from this law to another of the same kind and state, shape ``b``, float64."""


@final
@dataclass(frozen=True, repr=False)
class GaussianKernel(Shown, Kernel):
    """A Gaussian step: ``x + shift + exp(log_variance / 2) scale eps``.

    Attributes:
        shift: mean minus the present state, shape ``b *d``.
        scale: what multiplies the noise.
        log_variance: learned offset of the output's log-variance, one number or one per dimension (``*d``), or such for
            every row (``b 1``, ``b *d``).
        pull: what a network contributed to the shift, before its factor, shape ``b *d``; ``None`` where nobody asks.
    """

    shift: State
    scale: LinearMap
    log_variance: Tensor
    pull: State | None = None

    def change(self, eps: State) -> State:
        """The shift, and the noise in its scale."""
        return self.shift + self._spread(eps)

    def noise(self, change: State) -> State:
        """What is left beyond the shift, over its scale."""
        return self._whitened(change - self.shift)

    def log_det(self, change: State) -> Nats:
        """Log-determinant of the scale, shape ``b``."""
        offset = self.log_variance.double()
        each = offset.ndim == change.ndim
        total = sum_event(offset.expand(change.shape)) if each else offset.expand(change.shape[1:]).sum()
        return self.scale.log_det(change) + 0.5 * total

    def divergence(self, other: "GaussianKernel") -> Nats:
        r"""The divergence in closed form, with R and R' the roots of both covariances, m and m' the means.

        .. math:: \tfrac12 \big(\|R'^{-1} (m - m')\|^2 + \|R'^{-1} R\|_F^2 - d\big) + \log|\det R'| - \log|\det R|
        """
        x = self.shift
        apart = sum_event(other._whitened(self.shift - other.shift).double().square())
        spread = self._relative_variance(other) - x[0].numel()
        return 0.5 * (apart + spread) + other.log_det(x) - self.log_det(x)

    def _spread(self, eps: State) -> State:
        """R eps, of R the root of the covariance."""
        return (0.5 * self.log_variance).exp().to(eps.dtype) * self.scale.times(eps)

    def _whitened(self, difference: State) -> State:
        """R^{-1} y, of R the root of the covariance."""
        return self.scale.solve((-0.5 * self.log_variance).exp().to(difference.dtype) * difference)

    def _relative_variance(self, other: "GaussianKernel") -> Nats:
        """Squared Frobenius norm of the one root in units of the other, ``b``."""
        x, scales = self.shift, (self.scale, other.scale)
        if all(isinstance(scale, Isotropic | Diagonal) for scale in scales):
            return sum_event(other._whitened(self._spread(torch.ones_like(x))).double().square())
        offset = (self.log_variance - other.log_variance).double()
        if isinstance(scales[0], Spectral) and isinstance(scales[1], Spectral) and offset.ndim == 0:
            ratio = scales[0].relative_spectrum(scales[1])
            if ratio is not None:
                return (offset.exp() * ratio.square().sum()).expand(len(x))
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
        columns = [other._whitened(self._spread(unit.expand(x.shape))) for unit in units]
        return torch.stack([sum_event(column.double().square()) for column in columns]).sum(0)


@dataclass(frozen=True, repr=False)
class Move(Shown):
    """One step of a walk.

    Attributes:
        k: its number; forward it leads from state k to state k + 1, backward from k + 1 to k.
        before: the state that it left, shape ``b *d``.
        after: the state that it reached.
        change: their difference, as it was made.
        eps: its noise.
        kernel: the law it was drawn from.
    """

    k: int
    before: State
    after: State
    change: State
    eps: State
    kernel: Kernel

    def returned(self, back: Kernel) -> State:
        """The noise with which the kernel ``back`` of the other direction undoes this move."""
        return back.noise(-self.change)

    def gain(self, back: Kernel) -> Nats:
        """Log-density of the way back less that of the way here, shape ``b``, float64."""
        noise = self.returned(back)
        log_det = self.kernel.log_det(self.change) - back.log_det(-self.change)
        return log_det + 0.5 * sum_event((self.eps - noise) * (self.eps + noise))


@dataclass(frozen=True, repr=False)
class Path(Shown):
    """Rows that a chain drew, with every state on the way: in the order of drawing, from the prior to the data.

    Attributes:
        states: of the prior, and after each step, ``n steps+1 *d``, in the chain's coordinates.
        changes: what each step added to its state, as it was made, ``n steps *d``.
        noise: standard normal, of each step, ``n steps *d``.
        log_prior: log-density of the first states, ``n``, float64.
        step_log_prob: log-density of each step under the chain that drew it, summed over dimensions, ``n steps``,
            float64.
        condition: of the rows, leading dimension ``n``; ``None`` where there was none.
    """

    states: Tensor
    changes: Tensor
    noise: Tensor
    log_prior: Nats
    step_log_prob: Tensor
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def x(self) -> State:
        """The rows: the last states, ``n *d``."""
        return self.states[:, -1]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.changes.shape[1]

    @property
    def log_prob(self) -> Nats:
        """Log-density of the whole path under the chain that drew it, ``n``: not that of its last state."""
        return self.log_prior + self.step_log_prob.sum(1)

    def rows(self, index: Tensor | slice) -> "Path":
        """The paths of some of the rows: a batch."""
        return replace(
            self,
            **{name: value[index] for name, value in vars(self).items() if value is not None},
        )
