r"""Log-weights of Euler paths: Girsanov's theorem and the Feynman-Kac density, discretised.

Along :math:`dX = u\, dt + G\, dW` from a data point,

.. math::
    W = \log \pi(X_T) - \int (\tfrac12 \|a\|^2 - \mathrm{div}\, v - \tfrac12 \mathrm{ddD})\, dt - \int a \cdot dW,

whose exponential has the model density as its mean and whose own mean is the evidence lower bound (note of paper 1,
sections 2.2 to 2.4). The martingale :math:`\int a \cdot dW` stays in: at the tight control W is constant. The
Feynman-Kac density is the member a = 0, whose paths follow :math:`v + \mathrm{div} D`. On Euler paths both carry a
discretisation error of either sign, so no value made here is a bound; :mod:`girsanov.pairs.chain` makes those.
"""

__all__ = ["Noise", "euler_log_weights"]

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from girsanov.calculus import Divergence, Exact, sum_event
from girsanov.pairs.pair import Pair
from girsanov.types import Nats, State

#: ``count -> standard normal draws``, shape ``count b *d``, a fresh block at every call
Noise = Callable[[int], Tensor]


def euler_log_weights(
    pair: Pair,
    x: State,
    noise: Noise,
    *,
    steps: int,
    controlled: bool = True,
    condition: Tensor | None = None,
    divergence: Divergence | None = None,
) -> Nats:
    """Log-weight of one Euler path per row, shape ``b``, float64.

    Args:
        pair: the two processes.
        x: rows ``b *d``.
        noise: source of standard normal blocks.
        steps: number of Euler steps on ``pair.times``.
        controlled: whether paths follow the inference process, with Girsanov's W as their weights; else ``v + div D``,
            with the Feynman-Kac integrand.
        condition: passed on to conditional drifts, leading dimension ``b``.
        divergence: of the generative drift; default exact.
    """
    rule, times = divergence or Exact(), pair.times(steps).to(x.device)
    x, total = pair.begin(x, noise(1)[0], condition)
    for t, following in pairwise(times):
        h = following - t
        probes = noise(rule.probes).sign() if rule.probes else None
        step = pair.step(t.expand(len(x)), x, condition, rule, probes)
        step = step if controlled else step.uncontrolled()
        dw = h.sqrt().to(x.dtype) * noise(1)[0]
        total = total + h * (step.potential.mean(0) - 0.5 * sum_event(step.control.square()))
        total = total - sum_event(step.control * dw)
        x = x + h.to(x.dtype) * step.drift + step.scale.times(dw)
    return total + pair.log_prior(x)
