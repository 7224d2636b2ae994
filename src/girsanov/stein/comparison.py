r"""Which of two models is nearer to a sample, by their Stein discrepancies under one kernel.

With :math:`h = k_0^p - k_0^q`, the difference of U-statistics is asymptotically normal where the models differ,
:math:`\sqrt n\, (U_p - U_q) \to N(0, 4\, \mathrm{var}_i(E_j h_{ij}))` (note of paper 4, section 8.1; Jitkrittum et al.
2018): no bootstrap, and neither model needs to be right.
"""

__all__ = ["ComparisonResult", "compare_scores"]

import math
import sys
from dataclasses import dataclass

import torch

from girsanov.display import Shown
from girsanov.inputs import checked
from girsanov.stein.gram import gram_sums
from girsanov.stein.kernels import RadialKernel, resolve_kernel
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.types import InputError, State


@dataclass(frozen=True, repr=False)
class ComparisonResult(Shown):
    """Result of :func:`compare_scores`.

    Attributes:
        statistic: squared discrepancy of the first model minus that of the second: negative where the first is nearer.
        stderr: its standard error.
        pvalue: two-sided, of the hypothesis that both are equally far.
        discrepancies: of the first and of the second model.
        n: number of rows.
    """

    statistic: float
    stderr: float
    pvalue: float
    discrepancies: tuple[float, float]
    n: int


@checked
@torch.no_grad()
def compare_scores(
    x: State,
    first: ScoreLike,
    second: ScoreLike,
    *,
    kernel: str | RadialKernel | None = None,
    diffusion: DiffusionLike = None,
    block: int | None = None,
    generator: torch.Generator | None = None,
) -> ComparisonResult:
    """Test whether two models are equally far from the law of the rows.

    Args:
        x: rows ``n *d`` that neither model was fitted to.
        first: score of one model, ``State -> State`` or ``n *d``.
        second: score of the other.
        kernel: as in :func:`kernel_stein_discrepancy`, one alone.
        diffusion: the matrix m, shared.
        block: rows per side of a tile.
        generator: decides the rows of the median bandwidth; ``None`` means seed 0.

    Raises:
        InputError: for rows or scores that cannot be used, or scores that agree at all rows.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> result = compare_scores(x, lambda x: -1.1 * x, lambda x: -x + 1.0)
        >>> result.statistic < 0, result.pvalue < 0.01
        (True, True)
    """
    projections = []
    for score in (first, second):
        points = SteinPoints.at(x, score, diffusion)
        chosen = resolve_kernel(kernel, points.x, "Two models are compared", generator)
        rows = gram_sums(points, [chosen], rows=True, block=block).rows
        assert rows is not None
        projections.append(rows[0] / (len(points) - 1))
    from scipy.special import stdtr

    first_rows, second_rows = projections
    gap, n = first_rows - second_rows, len(x)
    stderr = 2.0 * float(gap.std()) / math.sqrt(n)
    if stderr == 0.0:
        raise InputError("The two scores agree at all rows: there is nothing to compare")
    statistic = float(gap.mean())
    pvalue = 2.0 * float(stdtr(n - 1, -abs(statistic) / stderr))
    discrepancies = float(first_rows.mean()), float(second_rows.mean())
    return ComparisonResult(statistic, stderr, max(pvalue, sys.float_info.min), discrepancies, n)
