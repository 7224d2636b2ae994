r"""The loss of a pair of drifts that share a diffusion coefficient: likelihood training with state-dependent noise.

Two laws that obey the Fokker-Planck equation of one SDE :math:`dX = u\, dt + G(t, X)\, dW` approach each other at the
rate of diffusion score matching with the SDE's own matrix (note of paper 4, section 2.6, equation 9),

.. math::
    \tfrac{d}{dt} \mathrm{KL}(q_t \| p_t) = -\tfrac12 E_{q_t}\|G^\top (s_p - s_q)\|^2 .

So this loss, integrated over time with no further weight, is the likelihood's. A generative drift v, written forward in
time, stands for the score :math:`s = D^{-1} c` with :math:`c = u - v - \mathrm{div}\, D`, :math:`D = G G^\top`, and

.. math:: \tfrac12 \|G^\top s\|^2 + \mathrm{div}(D s) = \tfrac12 \|G^{-1} c\|^2 + \mathrm{div}\, c

needs neither a score nor a derivative of an inverse. G is that of the process and is not trained by it.
"""

__all__ = ["drift_score_matching", "entropy_rate", "score_of_drifts"]

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from girsanov.calculus import Divergence, Exact, Hutchinson
from girsanov.linear.fields import Map
from girsanov.randomness import keyed_generators, keyed_rademacher, seed_of
from girsanov.stein.matrices import as_diffusion
from girsanov.stein.score_matching import ScoreMatching, fisher_divergence, squared_matrix
from girsanov.types import InputError, State, Time

Drift: TypeAlias = Callable[[Time, State], State]  #: ``(t, x) -> n *d``
#: ``(t, x) -> G``: ``n`` a scalar per row, ``n d`` a diagonal, ``n d r`` a matrix
Diffusion: TypeAlias = Callable[[Time, State], Tensor]


def score_of_drifts(t: Time, drift: Drift, reverse_drift: Drift, diffusion: Diffusion) -> Map:
    """The score D^{-1}(u - v - div D) that a pair of drifts stands for at times ``t``, as a function of rows.

    Args:
        t: times, shape ``n``, one per row.
        drift: u, of the inference process.
        reverse_drift: v, of the generative process, written forward in time.
        diffusion: G, of full row rank.

    Example:
        >>> process = lambda t, x: -0.5 * x, lambda t, x: x.new_ones(len(x))
        >>> score = score_of_drifts(torch.zeros(1), process[0], lambda t, x: 0.5 * x, process[1])
        >>> score(torch.tensor([[2.0]]))
        tensor([[-2.]])
    """

    def score(x: State) -> State:
        strategy = as_diffusion(lambda x: diffusion(t, x), x)
        matrix, square_divergence = strategy.drift(x)
        control = (drift(t, x) - reverse_drift(t, x)).flatten(1) - square_divergence
        return matrix.squared().solve(control).reshape(x.shape)

    return score


def drift_score_matching(
    t: Time,
    x: State,
    *,
    drift: Drift,
    reverse_drift: Drift,
    diffusion: Diffusion,
    divergence: Divergence = Exact(),  # noqa: B008  (a frozen value)
    generator: torch.Generator | None = None,
) -> ScoreMatching:
    """The loss of a generative drift at rows of the inference process: per unit time, in nats, up to a constant.

    For rows x drawn at times t its mean, integrated over time, is minus the evidence lower bound of the generative
    SDE up to terms free of v. Gradients reach the parameters of v (and of u, for which they are not the bound's: the
    law of the rows moves with u).

    Args:
        t: times, shape ``n``.
        x: rows ``n *d`` of the inference process at these times.
        drift: u, ``(t, x) -> n *d``.
        reverse_drift: v, likewise, forward in time.
        diffusion: G, ``(t, x) -> n``, ``n d`` or ``n d d``, invertible, without trainable parameters.
        divergence: ``Exact()`` or ``Hutchinson(probes)``.
        generator: keys the probes, row by row; ``None`` means seed 0.

    Raises:
        InputError: if G carries gradients of parameters or is not square.

    Example:
        >>> t, x = torch.zeros(4), torch.randn(4, 2)
        >>> loss = drift_score_matching(t, x, drift=lambda t, x: -0.5 * x, reverse_drift=lambda t, x: 0.5 * x,
        ...                             diffusion=lambda t, x: torch.ones(len(x)))
        >>> torch.allclose(loss.rows.detach(), 0.5 * x.double().square().sum(1) - 2.0)
        True
    """
    values = squared_matrix(x, lambda x: diffusion(t, x))
    if values.columns != x[0].numel():
        raise InputError("The loss of a pair of drifts needs a square diffusion coefficient")
    strategy = as_diffusion(lambda x: diffusion(t, x), x)

    def control(point: State) -> State:
        with torch.enable_grad():
            _, square_divergence = strategy.drift(point)
        return drift(t, point) - reverse_drift(t, point) - square_divergence.reshape(point.shape)

    probes = None
    if isinstance(divergence, Hutchinson):
        generators = keyed_generators(seed_of(generator), "drift score matching", x)
        probes = keyed_rademacher(generators, (divergence.probes, *x.shape[1:]), x).transpose(0, 1)
    c, traces = divergence(control, x.detach(), probes)
    if not bool(values.matrix.log_det(x).isfinite().all()):
        raise InputError("The diffusion coefficient is singular, so that no drift can be told from another there")
    whitened = values.matrix.solve(c.flatten(1))
    return ScoreMatching(0.5 * whitened.double().square().sum(1) + traces.mean(0))


def entropy_rate(t: Time, x: State, score: Map | Tensor, other: Map | Tensor, diffusion: Diffusion) -> Tensor:
    """Minus the change in time of KL(q_t || p_t), by rows of q_t: nats per unit time, shape ``n``, float64.

    Args:
        t: times, shape ``n``.
        x: rows of q_t.
        score: of p_t at these times, a function of rows or its values.
        other: of q_t, likewise.
        diffusion: G, ``(t, x) -> n``, ``n d`` or ``n d r``; it may depend on the state.

    Example:
        >>> x = torch.randn(3, 1)
        >>> entropy_rate(torch.zeros(3), x, -x, -x, lambda t, x: 0.6 * x)
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    return fisher_divergence(x, score, other, lambda x: diffusion(t, x))
