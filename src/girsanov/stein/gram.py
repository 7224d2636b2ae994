r"""Sums over all pairs of a Stein kernel, in tiles that fit the cache.

With :math:`R = x - y`, :math:`\varphi` the radial profile in :math:`u = \|R\|^2`, and b, m at both points,

.. math::
    k_0(x, y) = \varphi\, W + 2 \varphi' D - 4 \varphi'' Q, \qquad
    W = b \cdot b', \quad Q = (m^\top R) \cdot (m'^\top R), \quad
    D = b' \cdot (m^\top R) - b \cdot (m'^\top R) - \langle m, m' \rangle_F

(note of paper 4, section 2.5, equation 6). u, W, D and, unless m is a full matrix, Q are each one matrix product of
per-point features, shared by all bandwidths; the difference tensor ``n n d`` never exists. Only tiles on and above the
diagonal are computed. They are as wide as the cache allows, where elementwise work is quick; compiled, that work saves
a third of the time and costs tens of seconds once, which pays from hundreds of thousands of rows on. Tiles have the
points' dtype; sums over tiles are float64. With gradients, tiles are computed again in the backward pass, so that
memory stays O(n block).
"""

__all__ = ["GramSums", "dense_gram", "diagonal", "gram_features", "gram_sums", "kernel_tile", "paired"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from girsanov.stein.kernels import RadialKernel
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError

CPU_BLOCK, CUDA_BLOCK = 256, 8192
SMALLEST_BLOCK = 128
COMPILED_ROWS = 200_000  # from so many rows on the epilogue is compiled

Combine: TypeAlias = Callable[[RadialKernel, Tensor, Tensor, Tensor, Tensor], Tensor]


class _Features(NamedTuple):
    """Per-point features: left times right, transposed, gives u, W, D, and Q (``None`` where it is u, rescaled)."""

    u: tuple[Tensor, Tensor]
    w: Tensor
    d: tuple[Tensor, Tensor]
    q: tuple[Tensor, ...] | None
    scale: Tensor | None  # scalar m

    def split(self, size: int) -> "list[_Features]":
        """Blocks of points; one node each in the graph of gradients."""
        count = len(self.w.split(size))

        def cut(group: tuple[Tensor, ...] | None) -> list[Any]:
            return [None] * count if group is None else list(zip(*(a.split(size) for a in group), strict=True))

        scale = [None] * count if self.scale is None else self.scale.split(size)
        blocks = zip(cut(self.u), self.w.split(size), cut(self.d), cut(self.q), scale, strict=True)
        return [_Features(*block) for block in blocks]


def gram_features(points: SteinPoints) -> _Features:
    """What the products behind every kernel are made of, for points ``n d``."""
    x, b, m = points.x, points.b, points.m
    one, xx = x.new_ones(len(x), 1), x.square().sum(1, keepdim=True)
    u = (torch.cat([-2.0 * x, xx, one], 1), torch.cat([x, one, xx], 1))
    if m is None or m.ndim == 1:
        a = one if m is None else m[:, None]
        dot = (x * b).sum(1, keepdim=True)
        left = torch.cat([a * x, b, -dot, -a], 1)
        right = torch.cat([b, a * x, a, dot + x.shape[1] * a], 1)
        return _Features(u, b, (left, right), None, None if m is None else m)
    if m.ndim == 2:
        left, right = torch.cat([m * x, -m, -b * x, b], 1), torch.cat([b, b * x + m, m, m * x], 1)
        q = (torch.cat([m * x.square(), m, -2.0 * m * x], 1), torch.cat([m, m * x.square(), m * x], 1))
        return _Features(u, b, (left, right), q, None)
    projected, flat, outer = (x[:, None] @ m)[:, 0], m.flatten(1), (x[:, :, None] * b[:, None]).flatten(1)
    left = torch.cat([projected, -flat, -outer, b], 1)
    right = torch.cat([b, outer + flat, flat, projected], 1)
    return _Features(u, b, (left, right), (projected, m, x), None)


def _products(left: _Features, right: _Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, W, D, Q of one tile."""
    u = (left.u[0] @ right.u[1].T).clamp_min(0.0)
    w, d = left.w @ right.w.T, left.d[0] @ right.d[1].T
    if left.q is None or right.q is None:
        q = u if left.scale is None or right.scale is None else left.scale[:, None] * right.scale * u
    elif len(left.q) == 2:
        q = left.q[0] @ right.q[1].T
    else:
        q = _full_product(left.q, right.q)
    return u, w, d, q


def _full_product(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Tensor:
    """Sum over the columns c of m of (m_c(x)'x - m_c(x)'y) (m_c(y)'x - m_c(y)'y)."""
    (mx, m, x), (my, m_, y) = left, right
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for c in range(m.shape[2]):
        total = total + (mx[:, c, None] - m[:, :, c] @ y.T) * (x @ m_[:, :, c].T - my[:, c])
    return total


def _combine(kernel: RadialKernel, u: Tensor, w: Tensor, d: Tensor, q: Tensor) -> Tensor:
    """The Stein kernel from the four products; temporaries are reused where no gradient needs them."""
    phi, first, second = kernel.profile(u)
    inner = torch.addcmul(d, second, q, value=-2.0)
    if torch.is_grad_enabled():
        return phi * (w + 2.0 * first * inner)
    return torch.add(w, inner.mul_(first), alpha=2.0).mul_(phi)


def _combiner(points: SteinPoints, kernels: Sequence[RadialKernel]) -> Combine:
    """The epilogue for tiles without gradients: compiled where it pays and a compiler is at hand."""
    if len(points) < COMPILED_ROWS or len(kernels) > 1:  # every bandwidth would be compiled for itself
        return _combine
    try:
        compiled = torch.compile(_combine, dynamic=True)
        some = _products(*[gram_features(points[:SMALLEST_BLOCK])] * 2)
        compiled(kernels[0], *(a.clamp_min(1.0) for a in some))
    except RuntimeError:  # no compiler
        return _combine
    return compiled


def kernel_tile(
    kernels: Sequence[RadialKernel], left: _Features, right: _Features, same: bool, combine: Combine = _combine
) -> list[Tensor]:
    """The kernels on one tile, the diagonal of which is zero where both sides are the same points."""
    u, w, d, q = _products(left, right)
    if not same:
        return [combine(kernel, u, w, d, q) for kernel in kernels]
    eye = torch.eye(len(u), dtype=torch.bool, device=u.device)
    u = u.masked_fill(eye, 1.0)  # away from 0, where some profiles have no derivative
    return [combine(kernel, u, w, d, q).masked_fill(eye, 0.0) for kernel in kernels]


def diagonal(points: SteinPoints, kernel: RadialKernel) -> Tensor:
    """The Stein kernel of each point with itself, phi(0) |b|^2 - 2 phi'(0) |m|^2, float64 of shape ``n``.

    Example:
        >>> from girsanov.stein.kernels import InverseMultiquadric
        >>> diagonal(SteinPoints(torch.zeros(1, 3), torch.ones(1, 3)), InverseMultiquadric(2.0))
        tensor([3.7500], dtype=torch.float64)
    """
    phi, first, _ = kernel.profile(torch.zeros((), dtype=torch.float64, device=points.x.device))
    return phi * (points.b.double().square().sum(1) - 2.0 * first * points.squared_norm().double())


def paired(points: SteinPoints, others: SteinPoints, kernels: Sequence[RadialKernel]) -> Tensor:
    """The Stein kernels of the i-th point with the i-th other one, about one centre, float64 of shape ``k n``."""
    x, b, y, b_ = (a.double() for a in (points.x, points.b, others.x, others.b))
    difference = x - y
    left, right = (_applied(side, difference) for side in (points, others))
    d = (b_ * left).sum(1) - (b * right).sum(1) - _frobenius(points, others)
    u, w, q = difference.square().sum(1), (b * b_).sum(1), (left * right).sum(1)
    return torch.stack([_combine(kernel, u, w, d, q) for kernel in kernels])


def _applied(points: SteinPoints, vectors: Tensor) -> Tensor:
    """Vectors m'v, one per point."""
    if points.m is None:
        return vectors
    m = points.m.to(vectors.dtype)
    if m.ndim == 3:
        return (vectors[:, None] @ m)[:, 0]
    return (m[:, None] if m.ndim == 1 else m) * vectors


def _frobenius(points: SteinPoints, others: SteinPoints) -> Tensor | float:
    if points.m is None or others.m is None:
        return float(points.x.shape[1])
    product = points.m.double() * others.m.double()
    return points.x.shape[1] * product if product.ndim == 1 else product.flatten(1).sum(1)


@torch.no_grad()
def dense_gram(points: SteinPoints, kernel: RadialKernel, others: SteinPoints | None = None) -> Tensor:
    """The whole matrix ``n n`` (or ``n k``), for small n.

    Args:
        points: the rows.
        kernel: a radial kernel with a bandwidth.
        others: the columns, about the same centre; default the points, with the exact diagonal.
    """
    left = gram_features(points)
    if others is not None:
        return kernel_tile([kernel], left, gram_features(others), same=False)[0]
    (gram,) = kernel_tile([kernel], left, left, same=True)
    gram.diagonal().copy_(diagonal(points, kernel))
    return gram


@dataclass(frozen=True)
class GramSums:
    """Sums over pairs of different points, and over points, for k kernels; all float64.

    Attributes:
        pairs: sum over ordered pairs i != j, shape ``k``.
        diagonal: sum over points of the kernel with itself, shape ``k``.
        squares: sum over i != j of k0_ij^2, shape ``k``; of several slices its upper bound; zero unless asked for.
        largest: largest k0_ij in absolute value over i != j, shape ``k``; as squares.
        rows: the sum over j != i for every i, shape ``k n``; ``None`` unless asked for.
        forms: sum over i != j of w_i w_j k0_ij for each of B columns of weights, shape ``k B``; ``None`` unless asked.
        n: number of points.
    """

    pairs: Tensor
    diagonal: Tensor
    squares: Tensor
    largest: Tensor
    rows: Tensor | None
    forms: Tensor | None
    n: int

    @property
    def u(self) -> Tensor:
        """U-statistic: the unbiased one, without the diagonal."""
        return self.pairs / (self.n * (self.n - 1))

    @property
    def v(self) -> Tensor:
        """V-statistic: the squared discrepancy of the empirical measure, never negative."""
        return (self.pairs + self.diagonal) / self.n**2

    @property
    def effect(self) -> Tensor:
        """Mean of the kernel over pairs, over its root mean square: free of n, of units, and at most 1."""
        return self.u / (self.squares / (self.n * (self.n - 1))).sqrt()

    @property
    def spread(self) -> Tensor:
        """How many pairs of the largest value would have the same sum of squares, shape ``k``."""
        return 0.5 * self.squares / self.largest.square().clamp_min(torch.finfo(torch.float64).tiny)

    def __add__(self, other: "GramSums") -> "GramSums":
        """Sums of a sum of kernels on the same points."""
        squares = (self.squares.sqrt() + other.squares.sqrt()).square()  # the triangle inequality
        pairs = zip(self._others(), other._others(), strict=True)
        rows, forms = (None if a is None or b is None else a + b for a, b in pairs)
        pairs, diagonal_, largest = (
            getattr(self, name) + getattr(other, name) for name in ("pairs", "diagonal", "largest")
        )
        return GramSums(pairs, diagonal_, squares, largest, rows, forms, self.n)

    def __truediv__(self, divisor: float) -> "GramSums":
        """Sums of a kernel divided by a number."""
        rows, forms = (None if a is None else a / divisor for a in self._others())
        squares = self.squares / divisor**2
        pairs, diagonal_, largest = (a / divisor for a in (self.pairs, self.diagonal, self.largest))
        return GramSums(pairs, diagonal_, squares, largest, rows, forms, self.n)

    def _others(self) -> tuple[Tensor | None, Tensor | None]:
        return self.rows, self.forms


def gram_sums(
    points: SteinPoints,
    kernels: Sequence[RadialKernel],
    *,
    weights: Tensor | None = None,
    rows: bool = False,
    block: int | None = None,
) -> GramSums:
    """One pass over all pairs for all kernels and all weights.

    Args:
        points: n points; gradients reach whatever they, and the kernels' bandwidths, are attached to.
        kernels: k kernels with bandwidths.
        weights: shape ``n B``: bootstrap multipliers; they and ``rows`` carry no gradients.
        rows: also sum each row, and squares.
        block: points per side of a tile; default by device, halved where a GPU's memory is too small.

    Raises:
        InputError: for a block of less than one point.

    Example:
        >>> from girsanov.stein.kernels import InverseMultiquadric
        >>> points = SteinPoints.at(torch.tensor([[0.0], [1.0]]), lambda x: -x)
        >>> gram_sums(points, [InverseMultiquadric(1.0)]).u
        tensor([-0.5303], dtype=torch.float64)
    """
    if block is not None and block < 1:
        raise InputError(f"A tile has at least one point a side; got block={block}")
    size = block or (CUDA_BLOCK if points.x.is_cuda else CPU_BLOCK)
    total = torch.stack([diagonal(points, kernel).sum() for kernel in kernels])
    if torch.is_grad_enabled() and (points.x.requires_grad or points.b.requires_grad or total.requires_grad):
        pairs = _attached_pairs(points, kernels, size)
        return GramSums(pairs, total, torch.zeros_like(pairs), torch.zeros_like(pairs), None, None, len(points))
    with torch.no_grad():
        while True:
            try:
                return _detached_sums(points, kernels, weights, rows, size, total)
            except torch.cuda.OutOfMemoryError:
                if block is not None or size <= SMALLEST_BLOCK:
                    raise
                size //= 2


def _tiles(
    features: _Features, size: int
) -> Iterator[tuple[tuple[slice, _Features], tuple[slice, _Features], bool, float]]:
    """Tiles on and above the diagonal: both sides, whether they are the same, how often the tile counts."""
    blocks = features.split(size)
    sides = [(slice(k * size, k * size + len(block.w)), block) for k, block in enumerate(blocks)]
    for left, right in combinations_with_replacement(sides, 2):
        same = left is right
        yield left, right, same, 1.0 if same else 2.0


def _detached_sums(
    points: SteinPoints, kernels: Sequence[RadialKernel], weights: Tensor | None, rows: bool, size: int, total: Tensor
) -> GramSums:
    n, k = len(points), len(kernels)
    pairs, squares, largest = total.new_zeros(3, k)
    by_row = total.new_zeros(k, n) if rows else None
    forms = None if weights is None else total.new_zeros(k, weights.shape[1])
    combine = _combiner(points, kernels)
    for (i, left), (j, right), same, times in _tiles(gram_features(points), size):
        for index, tile in enumerate(kernel_tile(kernels, left, right, same, combine)):
            pairs[index] += times * tile.sum(dtype=torch.float64)
            if by_row is not None:
                squares[index] += times * tile.flatten().dot(tile.flatten())
                largest[index] = torch.maximum(largest[index], tile.abs().max().double())
                by_row[index, i] += tile.sum(1)
                if not same:
                    by_row[index, j] += tile.sum(0)
            if forms is not None and weights is not None:
                products = (tile @ weights[j].to(tile)).mul_(weights[i].to(tile))
                forms[index] += times * products.sum(0, dtype=torch.float64)
    return GramSums(pairs, total, squares, largest, by_row, forms, n)


def _attached_pairs(points: SteinPoints, kernels: Sequence[RadialKernel], size: int) -> Tensor:
    """Sums over pairs with gradients: nothing of a tile is kept but where it is."""

    def tile_sums(left: _Features, right: _Features, same: bool) -> Tensor:
        return torch.stack([tile.sum(dtype=torch.float64) for tile in kernel_tile(kernels, left, right, same)])

    total = points.x.new_zeros(len(kernels), dtype=torch.float64)
    for (_, left), (_, right), same, times in _tiles(gram_features(points), size):
        sums = checkpoint(tile_sums, left, right, same, use_reentrant=False)
        assert isinstance(sums, Tensor)
        total = total + times * sums
    return total
