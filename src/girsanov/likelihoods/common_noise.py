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

__all__ = ["Draws", "deviations", "draw", "gain"]

from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.calculus import noised, sum_event
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_normal, keyed_uniform
from girsanov.solvers import LogSNRDensity
from girsanov.types import Nats, State


@dataclass(frozen=True)
class Draws:
    """Evaluation points, those of one row and replicate next to each other.

    Attributes:
        levels: shape ``m``, float64.
        weights: reciprocal densities over the number of points of a replicate, shape ``m``.
        z: variance-preserving states, shape ``m *d``.
        eps: their noise, shape ``m *d``.
    """

    levels: Tensor
    weights: Tensor
    z: State
    eps: State

    def take(self, index: Tensor) -> "Draws":
        """The points of an index ``k``."""
        return Draws(self.levels[index], self.weights[index], self.z[index], self.eps[index])


def draw(rows: State, x: State, proposal: LogSNRDensity, *, seed: int, round_: int, dtype: torch.dtype) -> Draws:
    """Draw one antithetic pair for every state of ``x``.

    Args:
        rows: raw rows ``b *e``, whose content keys the draws.
        x: states of the model's space, ``b r p *d``: p pairs in each of r replicates.
        proposal: density in log-SNR.
        seed: any integer.
        round_: successive rounds are independent.
        dtype: of states and noise.

    Returns:
        Points flattened from ``b r p 2``.
    """
    replicates, pairs, shape = x.shape[1], x.shape[2], x.shape[3:]
    generators = keyed_generators(seed, "paired", rows, round_)
    offset = keyed_uniform(generators, (replicates,), rows).flatten()
    half = keyed_normal(generators, (replicates, pairs, *shape), x.new_empty(0, dtype=dtype)).flatten(0, 2)
    eps = torch.stack([half, -half], 1).flatten(0, 1)
    grid = proposal.systematic(offset, pairs)
    levels, weights, at_end = (part.flatten().repeat_interleave(2) for part in grid)
    weights = torch.where(at_end, 0.0, 0.5 * weights)  # the atom of a bound's residual is no part of the integral
    clean = x.to(dtype).flatten(0, 2).repeat_interleave(2, 0)
    return Draws(levels, weights, noised(levels, clean, eps), eps)


def deviations(pair: ScorePair, draws: Draws, condition: Tensor | None) -> tuple[State, State]:
    """The reference's error ``eps - noise`` and the score's deviation from the reference, both ``m *d``."""
    if pair.reference is None:
        return draws.eps, pair.noise(draws.levels, draws.z, condition)
    noise, delta = pair.deviation(draws.levels, draws.z, condition)
    return draws.eps - noise, delta


def gain(error: State, delta: State) -> Nats:
    """Gain of a deviation over the reference, per point, float64."""
    return 0.5 * sum_event(delta * (2.0 * error - delta))
