r"""Steps along the field of the noise: a chain whose bound is that of the continuum, also where G depends on the state.

An Euler decoder cannot undo a step whose spread depends on where it begins: seen from its end, the step is skewed by
order :math:`\sqrt h`, and a Gaussian has no skewness. Over all steps the bound then stays below the log-density of the
continuum by a number that no number of steps removes, in one dimension :math:`3 \int E |G'|^2 dt`. Here the noise
moves the state along its own field :math:`x \mapsto G(x)\, w`, by the implicit midpoint rule:

.. math::
    x' = x + G\big(\tfrac{x + x'}2\big)\, w, \qquad w = h\, G(x)^{-1} (u(x) - c(x)) + \sqrt h\, \varepsilon,
    \qquad c_i = \tfrac12 \sum_{jk} G_{jk}\, \partial_j G_{ik}.

The drift u is Ito's, and u - c Stratonovich's, whose noise moves along the field. The decoder has minus the generative
drift in its place and undoes a step with -w exactly: the rule is its own inverse. With
:math:`A = \partial_x [G(x)\, w]` at the midpoint, the densities of both steps are those of their w over
:math:`|\det G| / |\det(I - \tfrac12 A)|` on the way up and :math:`|\det G| / |\det(I + \tfrac12 A)|` on the way down.
As of any chain, the bound holds at every number of steps N for the chain of N steps; where the processes undo each
other its gap to the log-density of the continuum falls like 1/N.
"""

__all__ = ["MidpointChain", "MidpointKernel"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.calculus import sum_event, where_rows
from girsanov.linear import ValueMap
from girsanov.linear.fields import ito_correction, log_det_about
from girsanov.pairs.euler import PairChain
from girsanov.pairs.steps import Kernel
from girsanov.types import InputError, Nats, State

ITERATIONS = 100  # of the implicit rule; each makes the error smaller by half the relative change of G along a step
TOO_LONG = (
    "A step of the noise is too long for how fast diffusion(t, x) changes with x: take more steps, or times that are "
    "closer together there"
)


@final
@dataclass(frozen=True)
class MidpointKernel(Kernel):
    r"""The law of ``change`` in :math:`\mathrm{change} = G(x + \tfrac12 \mathrm{change})\, w`, v normal.

    Attributes:
        x: the state that is left, shape ``b *d``.
        mean: of w, shape ``b *d``.
        width: standard deviation of w.
        log_variance: learned offset of its log-variance; see :class:`girsanov.pairs.GaussianKernel`.
        coefficient: G at rows, half way through the step.
    """

    x: State
    mean: State
    width: float
    log_variance: Tensor
    coefficient: Callable[[State], ValueMap]

    def change(self, eps: State) -> State:
        """The change of the state that noise ``eps`` makes, shape ``b *d``.

        Raises:
            InputError: where the rule has no solution near: the step is too long.
        """
        w = self.mean + self._spread(eps) * eps
        change, settled = self.coefficient(self.x).times(w), torch.zeros(len(w), dtype=torch.bool, device=w.device)
        tolerance = 16.0 * torch.finfo(w.dtype).eps
        for _ in range(ITERATIONS):
            following = self.coefficient(self.x + 0.5 * change).times(w)
            moved = (following - change).flatten(1).norm(dim=1).detach()
            # a row that has settled stays as it is: its bits do not depend on how long others take
            change = where_rows(settled, change, following)
            settled = settled | (moved <= tolerance * change.flatten(1).norm(dim=1).detach())
            if bool(settled.all()):
                return change
        raise InputError(TOO_LONG)

    def noise(self, change: State) -> State:
        """The noise that makes ``change``."""
        w = self.coefficient(self.x + 0.5 * change).solve(change)
        return (w - self.mean) / self._spread(w)

    def log_det(self, change: State) -> Nats:
        """Log-determinant of the change's derivative in the noise, shape ``b``."""
        middle = self.x + 0.5 * change
        g = self.coefficient(middle)
        bent = log_det_about(lambda y: self.coefficient(y).value, middle, -0.5 * g.solve(change))
        if not bool(bent.isfinite().all()):
            raise InputError(TOO_LONG)
        spread = sum_event(self._spread(change).double().log().expand(change.shape))
        return g.log_det(change) + spread - bent

    def divergence(self, other: "MidpointKernel") -> Nats:
        """That of the laws of w: the change is the same function of it in both.

        Raises:
            InputError: for another coefficient, whose laws are of other coordinates.
        """
        mine, theirs = (kernel.coefficient(kernel.x).value for kernel in (self, other))
        if mine.shape != theirs.shape or not torch.equal(mine, theirs):
            raise InputError("Midpoint steps have a closed-form divergence only where they share diffusion(t, x)")
        apart, spread = (self.mean - other.mean) / other._spread(self.mean), self._spread(self.mean)
        ratio = (spread / other._spread(self.mean)).double().expand(apart.shape)
        return 0.5 * sum_event(apart.double().square() + ratio.square() - 1.0 - 2.0 * ratio.log())

    def _spread(self, like: State) -> Tensor:
        return self.width * (0.5 * self.log_variance).exp().to(like.dtype)


@final
class MidpointChain(PairChain):
    r"""Midpoint steps of a pair, for noise that depends on the state; see the module.

    Arguments are those of :class:`girsanov.EulerChain`, whose steps these are where the coefficient is constant. Drifts
    are evaluated once a step, G some ten times.

    Example:
        >>> from girsanov.pairs import Pair
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> from girsanov.densities import StandardNormal
        >>> process = OrnsteinUhlenbeck(2.0)
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> chain = MidpointChain(pair, 64)
        >>> x, noise = torch.zeros(1000, 2), lambda count: torch.randn(count, 1000, 2)
        >>> chain.log_weights(x, noise).mean().round(decimals=1)  # log N(0; 0, I) is -1.84
        tensor(-1.8000, dtype=torch.float64)
    """

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """The step of the inference process."""
        t = self._time(k, x)
        return self._kernel(k, t, x, self.pair.inference_drift(t, x, condition), self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """The step of the generative process, down from the later time."""
        t = self._time(k + 1, x)
        return self._kernel(k, t, x, -self.pair.generative_drift(t, x, condition), self.decoder_log_variance[k])

    def _kernel(self, k: int, t: Tensor, x: State, drift: State, log_variance: Tensor) -> MidpointKernel:
        h, half = self._width(k), 0.5 * (self._time(k, x) + self._time(k + 1, x))
        bend = ito_correction(lambda y: self.pair.inference.diffusion(t.to(y.dtype), y), x)
        mean = h * self.pair.scale(t, x).solve(drift - bend)
        return MidpointKernel(x, mean, h**0.5, log_variance, lambda y: self.pair.scale(half, y))
