r"""Goodness of fit: a p-value and an effect size for "this sample is from this model", from scores alone.

A test with k kernels rejects where the smallest of the k p-values is small among the same minimum of its replicates
(Westfall and Young's min-p), so that one p-value covers all bandwidths and nothing is split off or corrected twice.
Signs alone cannot make a statistic of four pairs large, 2^-4 being above 5 %: kernels whose squares amount to fewer
than five pairs of the largest one, as narrow ones in few rows, take no part, since their p-values would only raise the
minimum of the replicates. That depends on absolute values alone, so that the level is kept.
The p-value counts the sample among its replicates, :math:`p = (1 + \#\{T_b \ge T\}) / (B + 1)`, and is never 0.

The effect size is the mean of the Stein kernel over pairs, over its root mean square: 0 for the model's own samples, 1
at most, free of n and of units. The replicates of the U-statistic have a standard deviation of :math:`\sqrt2 / n` in
these units, so an effect e shows in some 5/e rows. A p-value tells whether an error shows in n points; the effect size
tells how large it is.
"""

__all__ = ["BLIND_SPOTS", "GoodnessOfFitResult", "goodness_of_fit"]

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from girsanov.display import Shown, Summary, in_words
from girsanov.inputs import checked
from girsanov.randomness import seed_of
from girsanov.stein.discrepancy import random_directions
from girsanov.stein.kernels import (
    InverseMultiquadric,
    RadialKernel,
    bandwidth_collection,
    listed_kernels,
    resolve_kernels,
)
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.nulls import Method, Outcome, Problem, WildBootstrap
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.types import InputError, State, require_count

TIE_SHARE = 1e-7  # far below the gap between two ranks
LEAST_PAIRS = 5.0  # that the squares of a kernel amount to, for it to take part beside others

#: what a Stein test cannot see, as sentences for reports
BLIND_SPOTS = (
    "Weights of far-apart modes: a score hardly depends on them, so wrong proportions stay unseen at small noise.",
    "Mild errors of scale in few points: a score that is 10 % too long passes at 500 rows.",
    "Tails, where the score decays: use a diffusion matrix that grows, such as diffusion='heavy_tailed'.",
    "Rows that the model was fitted to: the p-value is of held-out or generated rows only.",
)


@dataclass(frozen=True, repr=False)
class GoodnessOfFitResult(Shown):
    """Result of :func:`goodness_of_fit`.

    Attributes:
        statistic: what was compared with ``null_distribution``: for one kernel the squared discrepancy, for several
            the logarithm of the smallest p-value over kernels, its sign changed.
        pvalue: share of the null distribution, the sample included, that is at least as large; never 0.
        null_distribution: the statistic's replicates under the model, shape ``B``.
        discrepancy: squared discrepancy of the kernel that decides: the one with the smallest p-value.
        stderr: its standard error where the model is wrong; where it is right, replicates are the measure.
        effect_size: near 0 for the model's own samples, at most 1; an effect e shows in some 5/e rows.
        kernels: the k kernels.
        discrepancies: shape ``k``.
        pvalues: of each kernel alone, shape ``k``: not corrected for their number, and of those too that take no part
            in the test, since they rest on fewer than five pairs of rows.
        effect_sizes: shape ``k``.
        n: rows tested.
        effective_n: independent rows that they are worth.
        radius: of the ball that was tested, for the kernel that decides, to be compared with the root of
            ``discrepancy``; 0 where the model itself was tested.
    """

    statistic: float
    pvalue: float
    null_distribution: Tensor = field(repr=False)
    discrepancy: float
    stderr: float
    effect_size: float
    kernels: tuple[str | RadialKernel, ...] = field(repr=False)
    discrepancies: Tensor = field(repr=False)
    pvalues: Tensor = field(repr=False)
    effect_sizes: Tensor = field(repr=False)
    n: int
    effective_n: float
    radius: float = 0.0

    def _summary(self) -> Summary:
        told = (
            f"p = {self.pvalue:.2g}, effect {self.effect_size:.2g}, {self.n:,} rows: Stein test of rows against a score"
        )
        names = ("statistic", "discrepancy", "stderr", "effective_n", "kernels", "pvalues", "effect_sizes", "radius")
        return Summary(told, {name: in_words(getattr(self, name)) for name in names})


@checked
@torch.no_grad()
def goodness_of_fit(
    x: State,
    score: ScoreLike,
    *,
    kernel: str | RadialKernel | Sequence[str | RadialKernel] | None = None,
    diffusion: DiffusionLike = None,
    method: Method | None = None,
    slices: int | None = None,
    block: int | None = None,
    generator: torch.Generator | None = None,
) -> GoodnessOfFitResult:
    """Test whether rows are a sample of the model with this score.

    Args:
        x: rows ``n *d`` that the model was not fitted to; float32 rows are tested in float32.
        score: ``State -> State``, asked once per row in batches, or the scores, shape ``n *d``.
        kernel: as in :func:`kernel_stein_discrepancy`; several are aggregated. Default ten inverse multiquadrics with
            bandwidths from a tenth of the median distance to the largest one, over d.
        diffusion: the matrix m; see :func:`girsanov.stein.matrices.as_diffusion`.
        method: statistic and null distribution: :class:`WildBootstrap` (the default: independent rows),
            :class:`MarkovBootstrap` (a chain), :class:`ParametricBootstrap` (a model fitted to x),
            :class:`FiniteSet` or :class:`IncompleteU` (linear time), :class:`SteinBall` (a model that is nearly right).
        slices: number of random directions of a sliced test; default none.
        block: rows per side of a tile.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for rows, scores, kernels or options that cannot be used.

    Example:
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> goodness_of_fit(x, lambda x: -x).pvalue > 0.05, goodness_of_fit(x, lambda x: -x + 0.5).pvalue
        (True, 0.001)
        >>> goodness_of_fit(x, -x, kernel="imq", method=WildBootstrap(99))  # doctest: +ELLIPSIS
        p = ..., effect ..., 300 rows: Stein test of rows against a score
          statistic     ...
    """
    method = method or WildBootstrap()
    require_count("resamples", method.resamples)
    source = torch.Generator().manual_seed(seed_of(generator))
    score = score if callable(score) else torch.as_tensor(score)
    with torch.set_grad_enabled(not isinstance(score, Tensor)):  # scores of energies differentiate inside
        points = SteinPoints.at(x, score, diffusion)
    unit = points.unit()  # so that squares of squares stay in range, in any units of the rows
    points = points.in_units(unit)
    directions = None if slices is None else random_directions(points, slices, source)

    def resolve(at: SteinPoints) -> Sequence[str | RadialKernel]:
        if directions is None and kernel is None:
            return [InverseMultiquadric(bandwidth) for bandwidth in bandwidth_collection(at.x)]
        given = _in_units(listed_kernels(kernel), unit)
        return given if directions is not None else resolve_kernels(given, at.x)

    problem = Problem(points, resolve(points), resolve, diffusion, directions, score, source, block, unit)
    return _result(method.run(problem), tuple(_in_units(problem.kernels, 1.0 / unit)), unit)


def _in_units(kernels: Sequence[str | RadialKernel], unit: float) -> list[str | RadialKernel]:
    """The same kernels of rows divided by ``unit``."""
    return [kernel.in_units(unit) if isinstance(kernel, RadialKernel) else kernel for kernel in kernels]


def _result(outcome: Outcome, kernels: tuple[str | RadialKernel, ...], unit: float) -> GoodnessOfFitResult:
    """The result in the caller's units, of an outcome in units of ``unit``."""
    parts = outcome.statistics, outcome.replicates, outcome.stderr
    statistics, replicates, stderr = (a.cpu() / unit**2 for a in parts)
    pooled = torch.cat([statistics[:, None], replicates], 1)
    ranks = _upper_shares(pooled)
    excess = (pooled - pooled.mean(1, keepdim=True)) / pooled.std(1, keepdim=True).clamp_min(1e-300)
    pvalues, ranks = ranks[:, 0], ranks.masked_fill(_apart(outcome)[:, None], torch.inf)
    # equal ranks, of which there are many at the top, are told apart by the excess
    lead = torch.where(ranks == ranks.amin(0), excess, -torch.inf)
    best = int(lead[:, 0].argmax())
    smallest = -ranks.amin(0).log() + TIE_SHARE * lead.amax(0) / lead.amax(0).abs().amax().clamp_min(1e-300)
    combined = pooled[0] if len(pooled) == 1 else smallest
    effects = outcome.effect_sizes.cpu()
    return GoodnessOfFitResult(
        statistic=float(combined[0]),
        pvalue=float(_upper_shares(combined[None])[0, 0]),
        null_distribution=combined[1:],
        discrepancy=float(statistics[best]),
        stderr=float(stderr[best]),
        effect_size=float(effects[best]),
        kernels=kernels,
        discrepancies=statistics,
        pvalues=pvalues,
        effect_sizes=effects,
        n=outcome.n,
        effective_n=outcome.effective_n,
        radius=0.0 if outcome.radii is None else float(outcome.radii[best]) / unit,
    )


def _apart(outcome: Outcome) -> Tensor:
    """Which kernels rest on too few pairs to take part, never all of them; shape ``k``."""
    if outcome.spread is None:
        return torch.zeros(len(outcome.statistics), dtype=torch.bool)
    spread = outcome.spread.cpu()
    return (spread < LEAST_PAIRS) & (spread < spread.max())


def _upper_shares(values: Tensor) -> Tensor:
    """Share of each row's entries that are at least as large as each entry, shape kept.

    Raises:
        InputError: if a value is not a number, of which no rank could be told.
    """
    if not bool(values.isfinite().all()):
        raise InputError("The discrepancy overflows: rescale the rows, or compute in float64")
    count = values.shape[1]
    below = torch.searchsorted(values.sort(1).values.contiguous(), values.contiguous(), right=False)
    return (count - below).to(torch.float64) / count
