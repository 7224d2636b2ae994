r"""Column-wise Gaussianisation: a monotone spline per column that makes its marginal about N(0, 1).

Tables have skewed, heavy-tailed, discrete and atomic columns; what a diffusion model is good at is their joint law.
Each column j gets :math:`y_j = T_j(x_j)` with log-determinant :math:`\sum_j \log T_j'(x_j)`, and the model only sees
the copula. Candidates per column, chosen by the likelihood of held-out rows under N(0, 1):

- affine;
- a rational-quadratic spline through :math:`(q, \Phi^{-1}(F(q)))` at some quantiles q: smooth columns;
- for columns on a lattice, the piecewise-linear map with knots at cell edges: it makes the uniform boxes of
  dequantisation exactly Gaussian where a level is frequent.

Beyond the training range the map grows like a logarithm, so that an outlier costs a heavy tail, not a Gaussian one.
"""

__all__ = ["Gaussianise"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.transforms.base import Transform
from girsanov.types import State

SMOOTH_BINS = (6, 12, 24)
ROWS_PER_BIN = 15
ATOM_SHARES = (0.004, 0.03)  # share of the rows from which a level gets knots of its own
MARGIN = 0.003  # nats per row by which a richer candidate must beat a plainer one


@dataclass(frozen=True)
class _Spline:
    """Bins of one column: knots x and y ``b + 1``, derivatives at the left and right end of each bin ``b``."""

    x: Tensor
    y: Tensor
    left: Tensor
    right: Tensor


class Gaussianise(Transform):
    """Monotone rational-quadratic splines, one per column.

    Args:
        columns: number of columns d.
        bins: number b of bins that the buffers hold; columns with fewer repeat empty ones beyond their range.

    Example:
        >>> x = torch.distributions.Exponential(1.0).sample((2000, 1)).double()
        >>> spline = Gaussianise.fit(x, x[:500], step=torch.zeros(1))
        >>> y, log_det = spline(x)
        >>> bool(y.mean().abs() < 0.1), bool((y.std() - 1).abs() < 0.1), torch.allclose(spline.inverse(y), x)
        (True, True, True)
    """

    x: Tensor
    y: Tensor
    left: Tensor
    right: Tensor
    used: Tensor

    def __init__(self, columns: int, bins: int) -> None:
        super().__init__()
        self.columns, self.bins = columns, bins
        for name in ("x", "y"):
            self.register_buffer(name, torch.zeros(columns, bins + 1, dtype=torch.float64))
        for name in ("left", "right"):
            self.register_buffer(name, torch.ones(columns, bins, dtype=torch.float64))
        self.register_buffer("used", torch.ones(columns, dtype=torch.int64))

    @classmethod
    def fit(cls, x: State, held_out: State, step: Tensor, lower: Tensor | None = None) -> "Gaussianise":
        """Fit to training rows ``n d`` and choose by ``held_out`` rows, both dequantised.

        Args:
            x: training rows.
            held_out: other rows.
            step: lattice step per column, 0 where continuous.
            lower: lower edge of one cell per column; default 0.
        """
        lower = torch.zeros_like(step) if lower is None else lower
        splines = [
            _choose(x[:, j].double(), held_out[:, j].double(), float(step[j]), float(lower[j]))
            for j in range(x.shape[1])
        ]
        transform = cls(len(splines), max(len(spline.left) for spline in splines))
        for j, spline in enumerate(splines):
            transform._store(j, spline)
        return transform

    def _store(self, j: int, spline: _Spline) -> None:
        count = len(spline.left)
        self.used[j] = count
        self.x[j, : count + 1], self.y[j, : count + 1] = spline.x, spline.y
        # padding that is never reached: increasing knots beyond the last
        extra = torch.arange(1, self.bins - count + 1, dtype=torch.float64)
        self.x[j, count + 1 :], self.y[j, count + 1 :] = spline.x[-1] + extra, spline.y[-1] + extra
        self.left[j, :count], self.right[j, :count] = spline.left, spline.right

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        values, inside, low, high = self._within(self.x, x)
        x0, y0, width, height, left, right = self._bins(self.x, values)
        slope = height / width
        t = (inside - x0) / width
        u = t * (1.0 - t)
        bend = slope + (left + right - 2.0 * slope) * u
        y = y0 + height * (slope * t.square() + left * u) / bend
        rise = right * t.square() + 2.0 * slope * u + left * (1.0 - t).square()
        log_det = 2.0 * slope.log() + rise.log() - 2.0 * bend.log()
        tail, tail_log_det = self._tails(values, low, high)
        log_det = torch.where(values != inside, tail_log_det, log_det)
        return (y + tail).T.to(x.dtype), log_det.sum(0)

    def inverse(self, y: State) -> State:
        values, inside, low, high = self._within(self.y, y)
        x0, y0, width, height, left, right = self._bins(self.y, values)
        slope = height / width
        share = (inside - y0) / height
        curve = left + right - 2.0 * slope
        a = (slope - left) + share * curve
        b = left - share * curve
        c = -slope * share
        t = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp_min(0.0).sqrt())
        x = x0 + width * t
        first, last = self._end_slopes()
        x = x - torch.expm1((low - values).clamp_min(0.0)) / first + torch.expm1((values - high).clamp_min(0.0)) / last
        return x.T.to(y.dtype)

    def config(self) -> dict[str, Any]:
        return {"columns": self.columns, "bins": self.bins}

    def _within(self, knots: Tensor, rows: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns ``d n``, what of them lies within the outer knots, and these."""
        values, low, high = rows.double().T.contiguous(), knots[:, :1], knots.gather(1, self.used[:, None])
        return values, values.clamp(min=low, max=high), low, high

    def _end_slopes(self) -> tuple[Tensor, Tensor]:
        return self.left[:, :1], self.right.gather(1, self.used[:, None] - 1)

    def _bins(self, knots: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Corner, sides and slopes of the bin of each value."""
        index = torch.searchsorted(knots, values, right=True) - 1
        bins = torch.minimum(index.clamp_min(0), self.used[:, None] - 1)
        x0, y0 = self.x.gather(1, bins), self.y.gather(1, bins)
        width, height = self.x.gather(1, bins + 1) - x0, self.y.gather(1, bins + 1) - y0
        return x0, y0, width, height, self.left.gather(1, bins), self.right.gather(1, bins)

    def _tails(self, values: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithmic growth beyond both ends: displacement, and log-derivative."""
        first, last = self._end_slopes()
        below, above = (low - values).clamp_min(0.0), (values - high).clamp_min(0.0)
        shift = torch.log1p(last * above) - torch.log1p(first * below)
        log_slope = torch.where(below > 0, first, last).log()
        return shift, log_slope - torch.log1p(first * below) - torch.log1p(last * above)


def _choose(x: Tensor, held_out: Tensor, step: float, lower: float) -> _Spline:
    """The candidate under which held-out values are likeliest."""
    best, score = None, -math.inf
    for spline in _candidates(x, step, lower):
        transform = Gaussianise(1, len(spline.left))
        transform._store(0, spline)
        y, log_det = transform(held_out[:, None])
        value = float((log_det - 0.5 * y[:, 0].square()).mean())
        if best is None or value > score + MARGIN:
            best, score = spline, value
    assert best is not None
    return best


def _candidates(x: Tensor, step: float, lower: float) -> Iterator[_Spline]:
    """Splines for one column, plainest first."""
    mean, scale = x.mean(), x.std()
    yield _affine(x, mean, scale)
    if step > 0.0:
        for edges in _cell_edges(x, step, lower):
            yield _piecewise_linear(x, edges)
    for count in SMOOTH_BINS:
        if len(x) >= ROWS_PER_BIN * count:
            knots = torch.unique(_quantiles(x, count))
            if len(knots) > 2:
                yield _smooth(x, knots)


def _affine(x: Tensor, mean: Tensor, scale: Tensor) -> _Spline:
    knots = torch.stack([x.min(), x.max()])
    scale = torch.where(scale > 0.0, scale, 1.0)  # a column may be constant in the rows that it is fitted to
    slope = (1.0 / scale).reshape(1)
    return _Spline(knots, (knots - mean) / scale, slope, slope)


def _quantiles(x: Tensor, count: int) -> Tensor:
    ordered = x.sort().values
    position = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64) * (len(x) - 1)
    left = position.long().clamp_max(len(x) - 2)
    return ordered[left] + (position - left) * (ordered[left + 1] - ordered[left])


def _cell_edges(x: Tensor, step: float, lower: float) -> Iterator[Tensor]:
    """Knots around frequent levels, and at cell edges near the quantiles."""
    cell = ((x - lower) / step).floor()
    levels, counts = cell.unique(return_counts=True)
    ends = torch.stack([levels[0], levels[-1] + 1.0])
    coarse = ((_quantiles(x, 8) - lower) / step).floor()
    for share in ATOM_SHARES:
        frequent = levels[counts >= max(5.0, share * len(x))]
        parts: Sequence[Tensor] = [frequent, frequent + 1.0, ends]
        if share == ATOM_SHARES[0]:
            parts = [*parts, coarse]
        edges = torch.unique(torch.cat(list(parts)).clamp(ends[0], ends[1]))
        if len(edges) > 2:
            yield lower + step * edges


def _normal_scores(x: Tensor, knots: Tensor) -> Tensor:
    """Normal quantiles of the empirical distribution function at the knots, every bin keeping some mass."""
    counts = torch.searchsorted(x.sort().values, knots, right=True).double()
    counts[0], counts[-1] = 0.0, float(len(x))
    mass = counts.diff() + 0.5
    share = torch.cat([mass.new_zeros(1), mass.cumsum(0)]) / mass.sum()
    edge = 0.5 / len(x)
    return torch.special.ndtri(edge + (1.0 - 2.0 * edge) * share)


def _piecewise_linear(x: Tensor, knots: Tensor) -> _Spline:
    y = _normal_scores(x, knots)
    slope = y.diff() / knots.diff()
    return _Spline(knots, y, slope, slope)


def _smooth(x: Tensor, knots: Tensor) -> _Spline:
    """Derivatives at inner knots are weighted geometric means of the neighbouring slopes."""
    y = _normal_scores(x, knots)
    width = knots.diff()
    slope = y.diff() / width
    inner = (width[1:] * slope[:-1].log() + width[:-1] * slope[1:].log()) / (width[1:] + width[:-1])
    derivative = torch.cat([slope[:1], inner.exp(), slope[-1:]])
    return _Spline(knots, y, derivative[:-1], derivative[1:])
