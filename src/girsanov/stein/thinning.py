r"""Few points, or weights of points, that stand for a model: Stein thinning and Stein importance weights.

Thinning picks greedily the point that brings the discrepancy of the chosen ones down most, :math:`\arg\min_x
\tfrac12 k_0(x, x) + \sum_{j} k_0(x_j, x)`, repetitions allowed (Riabiz et al. 2022). Weights minimise
:math:`w^\top K_0 w` over sums of 1 (Liu and Lee 2017). Both correct a biased sampler, and leave out its burn-in.
"""

__all__ = ["stein_thinning", "stein_weights"]

import torch
from torch import Tensor

from girsanov.inputs import checked
from girsanov.stein.gram import dense_gram, diagonal
from girsanov.stein.kernels import RadialKernel, resolve_kernel
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.types import State

PURPOSE = "Points are chosen and weighed"
RIDGE = 1e-10  # of the mean diagonal: rounding must not make the matrix indefinite


@checked
@torch.no_grad()
def stein_thinning(
    x: State,
    score: ScoreLike,
    count: int,
    *,
    kernel: str | RadialKernel | None = None,
    diffusion: DiffusionLike = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose rows whose empirical measure is near the model, in O(n) per choice.

    Args:
        x: candidate rows ``n *d``, such as the states of a chain.
        score: ``State -> State``, or the scores, shape ``n *d``.
        count: number of choices; a row may be chosen again.
        kernel: as in :func:`kernel_stein_discrepancy`, one alone.
        diffusion: the matrix m.
        generator: decides the rows of the median bandwidth; ``None`` means seed 0.

    Returns:
        Indices of rows in the order of choice, int64 of shape ``count``: the first m are the choice of m.

    Raises:
        InputError: for rows, scores or kernels that cannot be used, or no choice at all.

    Example:
        >>> x = torch.tensor([[-1.0], [0.1], [5.0], [1.0]])
        >>> stein_thinning(x, lambda x: -x, 3)
        tensor([1, 0, 3])
    """
    points = SteinPoints.at(x, score, diffusion)
    chosen_kernel = resolve_kernel(kernel, points.x, PURPOSE, generator)
    own = diagonal(points, chosen_kernel)
    objective, chosen = 0.5 * own, []
    for _ in range(count):
        index = int(objective.argmin())
        chosen.append(index)
        column = dense_gram(points, chosen_kernel, points[index : index + 1])[:, 0].double()
        column[index] = own[index]
        objective = objective + column
    return torch.tensor(chosen)


@checked
@torch.no_grad()
def stein_weights(
    x: State,
    score: ScoreLike,
    *,
    kernel: str | RadialKernel | None = None,
    diffusion: DiffusionLike = None,
    signed: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Weights of rows under which they are nearest to the model; memory O(n^2), for thousands of rows.

    Args:
        x: rows ``n *d``.
        score: ``State -> State``, or the scores, shape ``n *d``.
        kernel: as in :func:`kernel_stein_discrepancy`, one alone.
        diffusion: the matrix m.
        signed: allow negative weights: smaller discrepancy, and a linear system in the place of least squares.
        generator: decides the rows of the median bandwidth; ``None`` means seed 0.

    Returns:
        Weights that sum to 1, float64 of shape ``n``.

    Example:
        >>> stein_weights(torch.tensor([[-1.0], [0.0], [1.0], [8.0]]), lambda x: -x).round(decimals=2)
        tensor([0.3300, 0.3400, 0.3300, 0.0000], dtype=torch.float64)
    """
    points = SteinPoints.at(x, score, diffusion)
    chosen_kernel = resolve_kernel(kernel, points.x, PURPOSE, generator)
    gram = dense_gram(points, chosen_kernel).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    factor = torch.linalg.cholesky(gram)
    ones = gram.new_ones(len(gram), 1)
    if signed:
        weights = torch.cholesky_solve(ones, factor)[:, 0]
    else:
        # min w'Kw over the simplex is, up to its sum, min v'Kv - 2 sum(v) over v >= 0: least squares in the factor
        from scipy.optimize import nnls

        target = torch.linalg.solve_triangular(factor, ones, upper=False)[:, 0]
        solution, _ = nnls(factor.T.cpu().numpy(), target.cpu().numpy(), maxiter=30 * len(gram))
        weights = torch.from_numpy(solution).to(gram)
    return weights / weights.sum()
