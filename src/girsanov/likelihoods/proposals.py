r"""Fitting the density in log-SNR from which the grids of later evaluations are drawn, with its control variate.

For a fixed number of evaluations the variance of a systematic grid is least where its density is proportional to the
root of what fluctuates at each level (note of paper 2, section 2.6), once a control variate has taken its share.
"""

__all__ = ["fit_proposal"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.calculus import Noised, noised
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
    values, _ = rows.values(grid[-1], noise, at_end=True)
    sizes, slopes = torch.tensor(fits, dtype=torch.float64).T
    end_size = float(values.square().mean().sqrt())
    return LogSNRDensity.from_sizes(low, high, grid, sizes, end_size=end_size, slope=slopes)


@dataclass(frozen=True)
class _Rows:
    """The rows that a law is fitted on, and where a baseline is about others, these."""

    baseline: Baseline
    x: State
    near: State | None
    condition: Tensor | None

    def values(self, level: Tensor, noise: torch.Generator, *, at_end: bool = False) -> tuple[Nats, Nats]:
        """The sampled integrand at one level and the baseline's excess under the same noise, shape ``n`` each."""
        x, near = self.x, self.near
        levels = level.to(x.device).expand(len(x))
        eps = torch.randn(x.shape, generator=noise, dtype=x.dtype).to(x.device)
        moved = None if near is None else noised(level, near, eps)
        mask = torch.full((len(x),), at_end, device=x.device)
        excess = self.baseline.excess(x if near is None else near, levels[:, None], eps[:, None])[:, 0]
        return self.baseline.sampled(Noised(levels, noised(level, x, eps), eps, self.condition), mask, moved), excess


def _fit_level(rows: _Rows, level: Tensor, noise: torch.Generator) -> tuple[float, float]:
    """Size of the sampled integrand at one level, and its slope on the baseline's excess, from two draws a row."""
    (v, c), (v2, c2) = (rows.values(level, noise) for _ in range(2))
    rise, run = v - v2, c - c2
    energy = float(run.square().sum())
    slope = float((rise * run).sum()) / energy if energy > 0.0 else 0.0
    within = 0.5 * float((rise - slope * run).square().mean())
    return math.sqrt(within + MEAN_SHARE * float(v.square().mean())), slope
