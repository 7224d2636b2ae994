r"""Log-weights of Euler paths: Girsanov's theorem and the Feynman-Kac density, discretised.

Along :math:`dX = u\, dt + G\, dW` from a data point,

.. math::
    W = \log \pi(X_T) - \int (\tfrac12 \|a\|^2 - \mathrm{div}\, v - \tfrac12 \mathrm{ddD})\, dt - \int a \cdot dW,

whose exponential has the model density as its mean and whose own mean is the evidence lower bound (note of paper 1,
sections 2.2 to 2.4). The martingale :math:`\int a \cdot dW` stays in: at the tight control W is constant. The
Feynman-Kac density is the member a = 0, whose paths follow :math:`v + \mathrm{div} D`. On Euler paths both carry a
discretisation error of either sign, so no value made here is a bound; :mod:`girsanov.pairs.chain` makes those.
"""

__all__ = ["Noise", "feynman_kac_log_weights", "girsanov_log_weights"]

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from girsanov.calculus import Divergence, Exact, sum_event
from girsanov.pairs.pair import Pair, Step
from girsanov.types import Nats, State

#: ``count -> standard normal draws``, shape ``count b *d``, a fresh block at every call
Noise = Callable[[int], Tensor]


def girsanov_log_weights(
    pair: Pair,
    x: State,
    noise: Noise,
    *,
    steps: int,
    condition: Tensor | None = None,
    divergence: Divergence | None = None,
) -> Nats:
    """W along one Euler path of the inference process per row, shape ``b``, float64.

    Args:
        pair: the two processes.
        x: rows ``b *d``.
        noise: source of standard normal blocks.
        steps: number of Euler steps on ``pair.times``.
        condition: passed on to conditional drifts, leading dimension ``b``.
        divergence: of the generative drift; default exact.
    """
    return _log_weights(pair, x, noise, steps, condition, divergence or Exact(), _as_it_is)


def feynman_kac_log_weights(
    pair: Pair,
    x: State,
    noise: Noise,
    *,
    steps: int,
    condition: Tensor | None = None,
    divergence: Divergence | None = None,
) -> Nats:
    """Logarithm of the Feynman-Kac integrand along one Euler path of ``v + div D`` per row; see the other."""
    return _log_weights(pair, x, noise, steps, condition, divergence or Exact(), _uncontrolled)


def _as_it_is(step: Step) -> Step:
    return step


def _uncontrolled(step: Step) -> Step:
    """The drift without the part that the control adds."""
    return replace(step, drift=step.drift - step.scale.times(step.control), control=torch.zeros_like(step.control))


def _log_weights(
    pair: Pair,
    x: State,
    noise: Noise,
    steps: int,
    condition: Tensor | None,
    divergence: Divergence,
    change: Callable[[Step], Step],
) -> Nats:
    times = pair.times(steps).to(x.device)
    x, total = pair.begin(x, noise(1)[0], condition)
    for t, following in pairwise(times):
        h = following - t
        probes = noise(divergence.probes).sign() if divergence.probes else None
        step = change(pair.step(t.expand(len(x)), x, condition, divergence, probes))
        dw = h.sqrt().to(x.dtype) * noise(1)[0]
        total = total + h * (step.potential.mean(0) - 0.5 * sum_event(step.control.square()))
        total = total - sum_event(step.control * dw)
        x = x + h.to(x.dtype) * step.drift + step.scale.times(dw)
    return total + pair.log_prior(x)
