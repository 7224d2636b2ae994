r"""Null distributions of Stein tests: what the discrepancy would be, were the sample from the model.

Under the model the U-statistic is degenerate, and its law depends on model and kernel. Four ways to it:

- wild bootstrap, for independent points: :math:`\sum_{i \ne j} \epsilon_i \epsilon_j k_0(x_i, x_j)` with random signs;
- the same with one sign for each block of successive rows, for the output of a sampler: independent signs reject 83 %
  of true nulls at an autocorrelation of 0.9 (note of paper 4, section 3.4). The V-statistic is used, since near pairs
  count;
- parametric bootstrap, where the model can be sampled; with a refit it is also right for parameters fitted to x;
- linear-time statistics, in :mod:`girsanov.stein.linear_time`.

All kernels of a test share their signs, so that its replicates can be compared across kernels.
"""

__all__ = [
    "MarkovBootstrap",
    "Method",
    "Outcome",
    "ParametricBootstrap",
    "Problem",
    "SignForms",
    "WildBootstrap",
    "autocorrelation_time",
    "random_signs",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from girsanov.stein.discrepancy import sliced_sums
from girsanov.stein.gram import GramSums, gram_sums
from girsanov.stein.kernels import RadialKernel
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.types import InputError, State

LEAST_WORTH = 30.0  # independent rows that a chain must be worth to be tested
LEAST_BLOCKS = 7  # 64 patterns of signs, of which three make a twentieth
CHUNK = 8192  # points at once
NOISE = 1.5  # standard errors of white noise, up to which the correlation at two lags is taken for nothing
BLOCKS = 1.1  # blocks per root of that worth: each is worth root(w) / 1.1 rows, so that neighbours hardly correlate


@dataclass(frozen=True)
class Problem:
    """What a method needs to know of a test.

    Attributes:
        points: n points with generalised scores.
        kernels: k kernels with bandwidths, names for sliced ones.
        resolve: the kernels that the caller's argument means on other points.
        diffusion: the matrix that the caller gave.
        directions: slices, shape ``c d``, or ``None``.
        score: the score that the caller gave.
        generator: source of all draws.
        block: points per side of a tile.
        unit: what the caller's rows were divided by.
    """

    points: SteinPoints
    kernels: Sequence[str | RadialKernel]
    resolve: Callable[[SteinPoints], Sequence[str | RadialKernel]]
    diffusion: DiffusionLike
    directions: Tensor | None
    score: ScoreLike
    generator: torch.Generator
    block: int | None = None
    unit: float = 1.0

    def sums(self, weights: Tensor | None = None, *, rows: bool = False) -> GramSums:
        """Sums over all pairs, sliced or not."""
        if self.directions is not None:
            return sliced_sums(self.points, self.kernels, self.directions, weights=weights, rows=rows, block=self.block)
        return gram_sums(self.points, self.radial, weights=weights, rows=rows, block=self.block)

    @property
    def radial(self) -> list[RadialKernel]:
        """The kernels, where all have a bandwidth."""
        return [kernel for kernel in self.kernels if isinstance(kernel, RadialKernel)]

    def on(self, x: State, score: ScoreLike) -> "Problem":
        """The same test of other rows and another score."""
        points = SteinPoints.at(x, score, self.diffusion).in_units(self.unit)
        return replace(self, points=points, kernels=self.resolve(points), score=score)


@dataclass(frozen=True)
class SignForms:
    """The quadratic form q of signs behind a statistic q(1, 1) and its replicates q(e, e), for k kernels; float64.

    Attributes:
        whole: q(1, 1), an estimate of the squared norm of the mean feature, shape ``k``.
        crossed: q(1, e), shape ``k B``.
        balance: mean of the signs e, shape ``B``.
    """

    whole: Tensor
    crossed: Tensor
    balance: Tensor

    @classmethod
    def of(cls, rows: Tensor, signs: Tensor, pairs: float) -> "SignForms":
        """From sums over each point's partners, shape ``k n``, and signs ``n B``; means over so many ordered pairs."""
        crossed = rows.new_zeros(len(rows), signs.shape[1])
        for part in torch.arange(len(signs), device=rows.device).split(CHUNK):  # signs are as wide as B
            crossed += rows[:, part] @ signs[part].to(rows)
        return cls(rows.sum(1) / pairs, crossed / pairs, signs.sum(0).double() / len(signs))


@dataclass(frozen=True)
class Outcome:
    """Statistics with their replicates under the null, for k kernels; float64.

    Attributes:
        statistics: squared discrepancies, shape ``k``.
        replicates: shape ``k B``.
        effect_sizes: mean of the Stein kernel over pairs, over its root mean square, shape ``k``.
        stderr: standard error of the squared discrepancy where the model is wrong, shape ``k``.
        effective_n: number of independent points that the sample is worth.
        n: number of points tested.
        spread: number of pairs that the squares of a kernel amount to, shape ``k``, where replicates are of signs:
            with few, no statistic is large among them; ``None`` for other nulls.
        forms: what moves the replicates to another mean than zero; ``None`` for other nulls.
        radii: of the balls that the statistics are tested against, shape ``k``; ``None`` for the model itself.
    """

    statistics: Tensor
    replicates: Tensor
    effect_sizes: Tensor
    stderr: Tensor
    effective_n: float
    n: int
    spread: Tensor | None = None
    forms: SignForms | None = None
    radii: Tensor | None = None


class Method(ABC):
    """A statistic with its null distribution.

    To implement one, define :meth:`run`.
    """

    resamples: int

    @abstractmethod
    def run(self, problem: Problem) -> Outcome:
        """Statistics and replicates of one test."""


@final
@dataclass(frozen=True)
class WildBootstrap(Method):
    """U-statistic with independent random signs: for independent rows.

    Args:
        resamples: number of replicates B; the smallest p-value is 1/(B + 1).

    Example:
        >>> WildBootstrap(199).resamples
        199
    """

    resamples: int = 999

    def run(self, problem: Problem) -> Outcome:
        n = len(problem.points)
        signs = random_signs(n, self.resamples, problem.generator).to(problem.points.x.device)
        sums = problem.sums(signs, rows=True)
        assert sums.forms is not None
        assert sums.rows is not None
        moving = SignForms.of(sums.rows, signs, n * (n - 1))
        return _outcome(sums, sums.u, sums.forms / (n * (n - 1)), float(n), moving)


@final
@dataclass(frozen=True)
class MarkovBootstrap(Method):
    r"""V-statistic with a random sign for each block: for the successive states of one Markov chain, in their order.

    A chain of n states with the integrated autocorrelation time :math:`\tau` is worth :math:`w = n / \tau` independent
    rows. It is cut into :math:`1.1 \sqrt w` blocks, at least seven. Under the model their sums are nearly independent
    and normal with mean zero, so that all patterns of signs are as likely as the one seen: a test of signs has its
    level with few blocks, where an estimate of the variance from the same few blocks has not (Canay, Romano and Shaikh
    2017).

    Args:
        resamples: number of replicates B.
        flip: probability that a sign changes from one state to the next, at most 1/2: signs that are a Markov chain
            in the place of blocks (Chwialkowski, Strathmann and Gretton 2016), whatever the chain is worth.

    Raises:
        InputError: on :meth:`run`, for a ``flip`` that is no such probability; without one, for a chain that is worth
            fewer than 30 rows by :func:`autocorrelation_time` of rows and scores, the slowest coordinate's.

    Example:
        >>> MarkovBootstrap(flip=0.02).flip
        0.02
    """

    resamples: int = 999
    flip: float | None = None

    def run(self, problem: Problem) -> Outcome:
        points, n = problem.points, len(problem.points)
        worth = n / autocorrelation_time(torch.cat([points.x, points.b], 1))
        signs = self._signs(n, worth, problem.generator).to(points.x.device)
        sums = problem.sums(signs, rows=True)
        assert sums.forms is not None
        assert sums.rows is not None
        unchanged = signs.sum(0).abs() == n  # few blocks: a tie, which no rounding may break
        forms = torch.where(unchanged, sums.pairs[:, None], sums.forms)
        moving = SignForms.of(sums.rows, signs, n**2)
        return _outcome(sums, sums.v, (forms + sums.diagonal[:, None]) / n**2, worth, moving)

    def _signs(self, n: int, worth: float, generator: torch.Generator) -> Tensor:
        """Signs ``n B``, alike within each block or flipping as asked."""
        if self.flip is not None:
            if not 0.0 < self.flip <= 0.5:
                raise InputError(f"Signs must change with a probability above 0, at most 1/2; got flip={self.flip}")
            return random_signs(n, self.resamples, generator, self.flip)
        if worth < LEAST_WORTH:
            raise InputError(
                f"The {n} states of this chain are worth {worth:.1f} independent rows, too few for a test, which needs "
                f"{LEAST_WORTH:.0f}: run the chain longer, or thin it less"
            )
        blocks = max(LEAST_BLOCKS, round(BLOCKS * math.sqrt(worth)))
        return random_signs(blocks, self.resamples, generator)[torch.arange(n) * blocks // n]


@final
@dataclass(frozen=True)
class ParametricBootstrap(Method):
    """U-statistic of samples drawn from the model: exact where the model is given, and right where it was fitted to x.

    Args:
        sample: ``(n, generator) -> rows n *d`` drawn from the tested model.
        fit: ``rows -> score``: the fit by which the tested score came from x, repeated on every sample; leave it out
            where nothing was fitted to x.
        resamples: number of samples B.

    Example:
        >>> draw = lambda n, generator: torch.randn(n, 1, generator=generator)
        >>> ParametricBootstrap(draw, resamples=99).resamples
        99
    """

    sample: Callable[[int, torch.Generator], State]
    fit: Callable[[State], ScoreLike] | None = None
    resamples: int = 199

    def run(self, problem: Problem) -> Outcome:
        n = len(problem.points)
        if self.fit is None and isinstance(problem.score, Tensor):
            raise InputError("New samples need the score as a function: give score as a callable, not as a tensor")
        columns = []
        for _ in range(self.resamples):
            x = self.sample(n, problem.generator).to(problem.points.x)
            columns.append(problem.on(x, problem.score if self.fit is None else self.fit(x)).sums().u)
        sums = problem.sums(rows=True)
        return replace(_outcome(sums, sums.u, torch.stack(columns, 1), float(n)), spread=None)


def random_signs(n: int, count: int, generator: torch.Generator, flip: float = 0.5) -> Tensor:
    """Signs ``n count``, int8: in each column a Markov chain that changes sign with probability ``flip``.

    Example:
        >>> random_signs(2, 4, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 4])
    """
    if flip == 0.5:
        return torch.randint(0, 2, (n, count), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    changes = torch.rand(n, count, generator=generator) < flip
    changes[0] = torch.rand(count, generator=generator) < 0.5
    return changes.cumsum(0).remainder_(2).mul_(2).sub_(1).to(torch.int8)


def autocorrelation_time(series: Tensor) -> float:
    r"""Integrated autocorrelation time :math:`1 + 2 \sum_k \rho_k` of the slowest column, 1 or more.

    Each sum is Geyer's (1992): over pairs of successive lags, none larger than the one before, as long as they are
    above 1.5 standard errors of white noise. The sample's own mean was taken off, which lowers every covariance by
    about 1/n of the long-run variance; that is added back, since in short chains it is most of the sum.

    Args:
        series: successive values, shape ``n k``.

    Example:
        >>> signs = random_signs(20000, 1, torch.Generator().manual_seed(0), flip=0.05).double()
        >>> 17.0 < autocorrelation_time(signs) < 21.0  # (1 - 0.05) / 0.05 = 19
        True
    """
    n = len(series)
    centred = series.double() - series.double().mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=0)[: n - n % 2]
    moving = covariance[0] > 1e-12 * covariance[0].max()
    correlation = covariance[:, moving] / covariance[0, moving]
    if not correlation.numel():
        return 1.0
    pairs = correlation[::2] + correlation[1::2]
    above = pairs > NOISE * math.sqrt(2.0 / n)
    above[0] = True
    inside = above.cumprod(0)
    found = 2.0 * (pairs.cummin(0).values * inside).sum(0) - 1.0
    lags = (4.0 * inside.sum(0) - 1.0) / n  # of both signs, in units of n
    # found = (time - lags time) / (1 - time / n), solved for the time
    return max(1.0, float((found / ((1.0 - lags).clamp_min(1e-3) + found / n)).max()))


def _outcome(
    sums: GramSums, statistics: Tensor, replicates: Tensor, effective_n: float, forms: SignForms | None = None
) -> Outcome:
    """The outcome of a quadratic-time statistic; its standard error is that of the projection on one point."""
    assert sums.rows is not None
    projection = sums.rows / (sums.n - 1)
    stderr = 2.0 * projection.std(1) / math.sqrt(effective_n)
    return Outcome(statistics, replicates, sums.effect, stderr, effective_n, sums.n, sums.spread, forms)
