r"""Kernel Stein discrepancies: how far a sample is from a model of which only the score is known.

.. math::
    \mathrm{KSD}^2(q \| p) = E\, k_0(X, X') = E\big[ \delta(X)^\top m(X)\, k(X, X')\, m(X')^\top \delta(X') \big],
    \qquad \delta = \nabla \log p - \nabla \log q

(note of paper 4, section 2.5, equation 7): a smoothed diffusion score matching with an absolute zero. It needs a
vector field alone, not its potential, so a score network will do. The U-statistic is unbiased and may be negative; the
V-statistic is the squared discrepancy of the empirical measure. Sliced, the points and scores are projected on random
directions g, :math:`x \mapsto g \cdot x, s \mapsto g \cdot s`, and one-dimensional discrepancies averaged: sensitive
in many dimensions, and blind to the part of a score's error that is free of divergence under q.
"""

__all__ = ["kernel_stein_discrepancy", "random_directions", "sliced_sums"]

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from girsanov.inputs import checked
from girsanov.randomness import seed_of
from girsanov.stein.gram import GramSums, gram_sums
from girsanov.stein.kernels import RadialKernel, listed_kernels, resolve_kernels
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.types import InputError, State


@checked
def kernel_stein_discrepancy(
    x: State,
    score: ScoreLike,
    *,
    kernel: str | RadialKernel | Sequence[str | RadialKernel] | None = None,
    diffusion: DiffusionLike = None,
    statistic: Literal["u", "v"] = "u",
    slices: int | None = None,
    block: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared kernel Stein discrepancy of a sample from a model, differentiable.

    Gradients reach the rows, the parameters of the score and of the diffusion matrix, and bandwidths that are tensors;
    tiles are computed again for them, so that memory stays O(n block). Unlike in score matching, the matrix may
    depend on the parameters that are trained.

    Args:
        x: rows ``n *d``, two or more; float32 rows are computed with in float32, sums in float64.
        score: ``State -> State``, asked once per row, or the scores, shape ``n *d``.
        kernel: a name (``imq``, ``gaussian``, ``matern``, ``inverse_log``), a kernel, or several, which share one pass;
            default the inverse multiquadric. A kernel without a bandwidth gets the median distance.
        diffusion: the matrix m, see :func:`girsanov.stein.matrices.as_diffusion`; default the identity.
        statistic: ``u`` or ``v``.
        slices: number of random directions of the sliced discrepancy; default none.
        block: rows per side of a tile; default by device.
        generator: decides the rows of the median and the directions; ``None`` means seed 0.

    Returns:
        A float64 scalar for one kernel, shape ``k`` for several.

    Raises:
        InputError: for rows, scores or kernels that cannot be used.

    Example:
        >>> x = torch.randn(500, 2)
        >>> [round(float(kernel_stein_discrepancy(x, -factor * x)), 2) for factor in (1.0, 2.0)]
        [-0.0, 0.14]
    """
    if statistic not in ("u", "v"):
        raise InputError(f"The statistic is 'u' or 'v'; got {statistic!r}")
    points = SteinPoints.at(x, score, diffusion, attached=torch.is_grad_enabled())
    if slices is None:
        kernels = resolve_kernels(kernel, points.x, generator=generator)
        sums = gram_sums(points, kernels, block=block)
    else:
        kernels, directions = listed_kernels(kernel), random_directions(points, slices, generator)
        sums = sliced_sums(points, kernels, directions, block=block)
    value = sums.u if statistic == "u" else sums.v
    return value if isinstance(kernel, Sequence) and not isinstance(kernel, str) else value[0]


def random_directions(points: SteinPoints, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Unit vectors ``count d``, uniform on the sphere.

    Raises:
        InputError: for no directions, or a matrix other than the identity, which slices replace.
    """
    if count < 1:
        raise InputError(f"A sliced discrepancy needs one direction or more; got slices={count}")
    if points.m is not None:
        raise InputError("Slices are a diffusion matrix of their own: leave diffusion out, or leave slices out")
    source = torch.Generator().manual_seed(seed_of(generator))
    draws = torch.randn(count, points.x.shape[1], generator=source, dtype=torch.float64)
    return torch.nn.functional.normalize(draws, dim=1).to(points.x)


def sliced_sums(
    points: SteinPoints,
    kernels: Sequence[str | RadialKernel],
    directions: Tensor,
    *,
    weights: Tensor | None = None,
    rows: bool = False,
    block: int | None = None,
) -> GramSums:
    """Means over slices of one-dimensional sums; a kernel without a bandwidth gets each slice's own median.

    Args:
        points: n points with the identity as their matrix.
        kernels: k kernels.
        directions: unit vectors, one per slice, shape ``c d``.
        weights: see :func:`girsanov.stein.gram.gram_sums`.
        rows: see there.
        block: see there.

    Example:
        >>> points = SteinPoints.at(torch.randn(50, 3), lambda x: -x)
        >>> sliced_sums(points, ["imq"], torch.eye(3)).u.shape
        torch.Size([1])
    """
    total: GramSums | None = None
    for direction in directions:
        slice_ = SteinPoints(points.x @ direction[:, None], points.b @ direction[:, None])
        resolved = resolve_kernels(kernels, slice_.x)
        sums = gram_sums(slice_, resolved, weights=weights, rows=rows, block=block)
        total = sums if total is None else total + sums
    assert total is not None
    return total / len(directions)
