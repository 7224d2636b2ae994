r"""Levels and noise drawn once per row, under which any number of conditions are compared.

Of two conditions' squared errors at the same :math:`(l, \varepsilon)` nearly all fluctuation is common and cancels in
their difference (note of paper 2, section 3.2: sixty times less variance for a classifier's margin). The unit is the
antithetic pair :math:`(l, \pm\varepsilon)`: at one level the odd part of a difference cancels, and it is most of the
noise. The pairs of a replicate form a systematic grid in log-SNR; all is keyed by the row's content.

The gain of a noise prediction over the reference's, and without a reference over the zero prediction, is

.. math::
    g_c(l, \varepsilon) = \tfrac12 (\|\varepsilon - \hat\varepsilon_G\|^2 - \|\varepsilon - \hat\varepsilon_c\|^2)
      = \tfrac12\, \delta_c \cdot (2 (\varepsilon - \hat\varepsilon_G) - \delta_c),
    \qquad \delta_c = \hat\varepsilon_c - \hat\varepsilon_G ;

what is subtracted is the same for every condition and leaves their differences alone.
"""

__all__ = ["antithetic", "deviations", "draw", "draw_net", "systematic"]

import torch
from torch import Tensor

from girsanov.calculus import Noised
from girsanov.likelihoods.evaluation_noise import evaluation_noise
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_normal, keyed_uniform
from girsanov.rows import conditions_for
from girsanov.solvers import LogSNRDensity
from girsanov.types import State


def draw(
    rows: State, x: State, proposal: LogSNRDensity, *, seed: int, round_: int, dtype: torch.dtype
) -> tuple[Noised, Tensor]:
    """Draw one antithetic pair for every state of ``x``.

    Args:
        rows: raw rows ``b *e``, whose content keys the draws.
        x: states of the model's space, ``b r p *d``: p pairs in each of r replicates.
        proposal: density in log-SNR.
        seed: any integer.
        round_: successive rounds are independent.
        dtype: of states and noise.

    Returns:
        Points flattened from ``b r p 2``, and their weights: reciprocal densities over the number of points of a
        replicate.
    """
    replicates, pairs, shape = x.shape[1], x.shape[2], x.shape[3:]
    generators = keyed_generators(seed, "paired", rows, round_)
    offset = keyed_uniform(generators, (replicates,), rows).flatten()
    half = keyed_normal(generators, (replicates, pairs, *shape), x.new_empty(0, dtype=dtype)).flatten(0, 1)
    eps = antithetic(half, 2 * pairs).flatten(0, 1)
    grid = proposal.systematic(offset, pairs)
    levels, weights, at_end = (part.flatten().repeat_interleave(2) for part in grid)
    weights = torch.where(at_end, 0.0, 0.5 * weights)  # the atom of a bound's residual is no part of the integral
    clean = x.to(dtype).flatten(0, 2).repeat_interleave(2, 0)
    return Noised.of(levels, clean, eps), weights


def draw_net(rows: State, x: State, proposal: LogSNRDensity, *, seed: int, dtype: torch.dtype) -> tuple[Noised, Tensor]:
    """Draw two points of a net for every state of ``x``; arguments and result as of :func:`draw`.

    In few dimensions their errors are nearer to normal than those of as many antithetic pairs, and the net is even by
    itself.
    """
    replicates, points = x.shape[1], 2 * x.shape[2]
    generators = keyed_generators(seed, "paired", rows)
    offset = keyed_uniform(generators, (replicates,), rows).flatten()
    eps, ratio = evaluation_noise(generators, replicates, points, x[:, 0, 0].to(dtype))
    levels, weights, at_end = proposal.systematic(offset, points)
    weights = torch.where(at_end, 0.0, weights).flatten()
    clean = x.to(dtype).flatten(0, 2).repeat_interleave(2, 0)
    weights = weights if ratio is None else weights * ratio.flatten()
    return Noised.of(levels.flatten(), clean, eps.flatten(0, 2)), weights


def antithetic(half: State, count: int) -> State:
    """Noise of neighbouring levels, of opposite signs: ``b (count + 1)//2 *d`` to ``b count *d``."""
    return torch.stack([half, -half], 2).flatten(1, 2)[:, :count]


def systematic(
    x: State, proposal: LogSNRDensity, offset: Tensor, half: State, count: int, condition: Tensor | None = None
) -> tuple[Noised, Tensor]:
    """A systematic grid of every row, whose neighbouring levels take antithetic noise.

    Args:
        x: states of the model's space, ``b *d``.
        proposal: density in log-SNR.
        offset: uniform, of each row's grid, ``b``.
        half: noise of every other level, ``b (count + 1)//2 *d``, in the dtype of the points.
        count: points of a row.
        condition: leading dimension ``b`` or 1.

    Returns:
        Points flattened from ``b count``, and their weights.
    """
    levels, weights, _ = (grid.flatten() for grid in proposal.systematic(offset, count))
    clean = x.to(half.dtype).repeat_interleave(count, 0)
    given = conditions_for(condition, len(x), count)
    return Noised.of(levels, clean, antithetic(half, count).flatten(0, 1), given), weights


def deviations(pair: ScorePair, at: Noised, condition: Tensor | None) -> tuple[State, State]:
    """The reference's error ``eps - noise`` and the score's deviation from the reference, both ``m *d``."""
    if pair.reference is None:
        return at.eps, pair.noise(at.log_snr, at.z, condition)
    noise, delta = pair.deviation(at.log_snr, at.z, condition)
    return at.eps - noise, delta
