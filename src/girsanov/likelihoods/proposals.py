r"""Fitting the density in log-SNR from which the grids of later evaluations are drawn, with its control variate.

For a fixed number of evaluations the variance of a systematic grid is least where its density is proportional to the
root of what fluctuates at each level (note of paper 2, section 2.6), once a control variate has taken its share.
"""

__all__ = ["fit_proposal"]

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from girsanov.calculus import Noised, noised, sum_event
from girsanov.inputs import checked
from girsanov.likelihoods.baselines import Baseline, baseline_of
from girsanov.pairs import ScorePair
from girsanov.randomness import seed_of
from girsanov.solvers import LogSNRDensity
from girsanov.types import Nats, State

MEAN_SHARE = 0.1  # weight of the integrand's square beside its variance


@checked
@torch.no_grad()
def fit_proposal(
    pair: ScorePair,
    x: State,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    levels: int = 40,
) -> LogSNRDensity:
    r"""Fit where to evaluate, and how much of the baseline's fluctuation to remove, on held-out rows.

    Where a reference's error hides the score's, so that the sampled integrand is larger with the baseline than without
    (in the mean square, slope and all), none is taken.

    With v the sampled integrand of a row and c the baseline's excess under the same noise, the slope at a level is the
    least-squares coefficient of v on c within rows, and the density is proportional to the root of what variance it
    leaves, plus a share of :math:`v^2` for the grid's own error. Neither changes an expectation.

    Args:
        pair: the model.
        x: rows that will not be evaluated with the result, ``n *d``; some hundred suffice.
        condition: see :func:`elbo`.
        generator: see :func:`elbo`.
        levels: number of levels at which the integrand is measured, two evaluations per row each.
    """
    low, high = pair.log_snr_range
    baseline = baseline_of(pair, pair.decoder)
    noise = torch.Generator().manual_seed(seed_of(generator))
    x = x.to(pair.dtype(x))
    near = baseline.near(x)
    rows = _Rows(baseline, x, None if near is None else near.to(x.dtype), condition)
    grid = torch.linspace(low, high, levels, dtype=torch.float64)
    fits = [_fit_level(rows, level, noise) for level in grid]
    values, _, own = rows.values(grid[-1], noise, at_end=True)
    alone = sum(fit.own_square for fit in fits) <= sum(fit.square for fit in fits)
    sizes = torch.tensor([fit.own if alone else fit.size for fit in fits], dtype=torch.float64)
    slope = None if alone else torch.tensor([fit.slope for fit in fits], dtype=torch.float64)
    found = LogSNRDensity.from_sizes(low, high, grid, sizes, end_size=_root(own if alone else values), slope=slope)
    return replace(found, alone=alone)


@dataclass(frozen=True)
class _Rows:
    """The rows that a law is fitted on, and where a baseline is about others, these."""

    baseline: Baseline
    x: State
    near: State | None
    condition: Tensor | None

    def values(self, level: Tensor, noise: torch.Generator, *, at_end: bool = False) -> tuple[Nats, Nats, Nats]:
        """The sampled integrand at one level, the baseline's excess, and the integrand without one, each ``n``."""
        x, near = self.x, self.near
        levels = level.to(x.device).expand(len(x))
        eps = torch.randn(x.shape, generator=noise, dtype=x.dtype).to(x.device)
        moved = None if near is None else noised(level, near, eps)
        mask = torch.full((len(x),), at_end, device=x.device)
        excess = self.baseline.excess(x if near is None else near, levels[:, None], eps[:, None])[:, 0]
        value, error, _ = self.baseline.compared(
            Noised(levels, noised(level, x, eps), eps, self.condition), mask, moved
        )
        return value, excess, -0.5 * sum_event(error.square())


@dataclass(frozen=True)
class _Level:
    """What two draws of each row say about the integrand at one level.

    Attributes:
        size: of what fluctuates beside the baseline, and its share of the square.
        slope: on the baseline's excess.
        square: root mean square beside the baseline.
        own: the size without a baseline.
        own_square: root mean square without one.
    """

    size: float
    slope: float
    square: float
    own: float
    own_square: float


def _fit_level(rows: _Rows, level: Tensor, noise: torch.Generator) -> _Level:
    (v, c, a), (v2, c2, a2) = (rows.values(level, noise) for _ in range(2))
    rise, run = v - v2, c - c2
    energy = float(run.square().sum())
    slope = float((rise * run).sum()) / energy if energy > 0.0 else 0.0
    size = _size(rise - slope * run, v)
    return _Level(size, slope, _root(v - slope * c), _size(a - a2, a), _root(a))


def _size(difference: Tensor, values: Tensor) -> float:
    """Root of the variance within rows, that of a ``difference`` of two draws, and a share of the mean square."""
    return math.sqrt(0.5 * float(difference.square().mean()) + MEAN_SHARE * float(values.square().mean()))


def _root(values: Tensor) -> float:
    return math.sqrt(float(values.square().mean()))
