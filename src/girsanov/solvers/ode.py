r"""Solvers of :math:`dy/ds = f(s, y)` for a batch of independent rows, with quadratures carried along.

A field returns the velocity of each row and the rates of some scalar integrals (here: divergences), which
are accumulated in float64. :class:`FixedGrid` takes the same classical Runge-Kutta steps for every row.
:class:`Adaptive` is Dormand and Prince's 5(4) pair in which every row has its own step size and its own
accept or reject, so that a row's solution does not depend on the rows it is solved with. Rows that have arrived
stay in the batch, at rest: were it to shrink, products of matrices would round the other rows otherwise.
"""

__all__ = ["Adaptive", "Dynamics", "FixedGrid", "Solution", "Solver"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, where_rows
from girsanov.display import Shown
from girsanov.types import InputError, State, require_counts

#: ``(s, y, active) -> (velocity of y, rates)``: times ``b``, state ``b *d``, row indices ``b`` into the
#: original batch; velocity ``b *d`` and rates ``m b``.
Dynamics = Callable[[Tensor, State, Tensor], tuple[State, Tensor]]


@dataclass(frozen=True, repr=False)
class Solution(Shown):
    """End point of an integration.

    Attributes:
        state: shape ``b *d``.
        integrals: shape ``m b``, float64: the integrals of the rates.
        evaluations: shape ``b``: field evaluations spent on each row.
        error: shape ``b``: sum of the local error estimates of the integrals' mean (0 where unknown).
    """

    state: State
    integrals: Tensor
    evaluations: Tensor
    error: Tensor


class Solver(Protocol):
    """A strategy that integrates a field along an increasing or decreasing grid of s."""

    def solve(self, field: Dynamics, y: State, grid: Tensor) -> Solution:
        """Integrate from ``grid[0]`` to ``grid[-1]``; a fixed-step solver visits every grid point."""
        ...

    def points(self) -> int:
        """Number of grid points that the solver wants: 2 where only the ends matter."""
        ...


@final
@dataclass(frozen=True)
class FixedGrid(Solver):
    """Classical fourth-order Runge-Kutta on a given grid, the same for every row.

    Args:
        steps: number of steps.

    Example:
        >>> field = lambda s, y, rows: (y, torch.zeros(1, len(y)))
        >>> grid = torch.linspace(0.0, 1.0, 17, dtype=torch.float64)
        >>> FixedGrid(16).solve(field, torch.ones(1, 1, dtype=torch.float64), grid).state
        tensor([[2.7183]], dtype=torch.float64)
    """

    steps: int = 32

    def __post_init__(self) -> None:
        require_counts(self, "steps")

    def points(self) -> int:
        return self.steps + 1

    def solve(self, field: Dynamics, y: State, grid: Tensor) -> Solution:
        rows = torch.arange(len(y), device=y.device)
        total: Tensor | float = 0.0
        for start, end in pairwise(grid):
            h = end - start
            times = [(start + share * h).expand(len(y)) for share in (0.0, 0.5, 1.0)]
            k1, r1 = field(times[0], y, rows)
            k2, r2 = field(times[1], y + (0.5 * h).to(y.dtype) * k1, rows)
            k3, r3 = field(times[1], y + (0.5 * h).to(y.dtype) * k2, rows)
            k4, r4 = field(times[2], y + h.to(y.dtype) * k3, rows)
            y = y + (h / 6.0).to(y.dtype) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
            total = total + (h / 6.0) * (r1 + 2.0 * r2 + 2.0 * r3 + r4).double()
        evaluations = torch.full((len(y),), 4 * (len(grid) - 1), device=y.device)
        assert isinstance(total, Tensor)
        return Solution(y, total, evaluations, torch.zeros(len(y), dtype=torch.float64, device=y.device))


_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(a - b for a, b in zip(_FIFTH, _FOURTH, strict=True))


@final
@dataclass(frozen=True)
class Adaptive(Solver):
    """Dormand-Prince 5(4) with one step size per row.

    Args:
        rtol: relative tolerance on the state.
        atol: absolute tolerance on the state and on the mean integral, in its own units.
        max_steps: steps after which a row that has not arrived is an error.

    Raises:
        InputError: if a row does not arrive within ``max_steps``.

    Example:
        >>> field = lambda s, y, rows: (y, torch.zeros(1, len(y)))
        >>> grid = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> Adaptive(rtol=1e-8, atol=1e-8).solve(field, torch.ones(1, 1, dtype=torch.float64), grid).state
        tensor([[2.7183]], dtype=torch.float64)
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    max_steps: int = 1000

    def __post_init__(self) -> None:
        require_counts(self, "max_steps")
        for name in ("rtol", "atol"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a positive number; got {getattr(self, name)}")

    def points(self) -> int:
        return 2

    def solve(self, field: Dynamics, y: State, grid: Tensor) -> Solution:
        start, end = float(grid[0]), float(grid[-1])
        count = len(y)
        rows = torch.arange(count, device=y.device)
        s = torch.full((count,), start, dtype=torch.float64, device=y.device)
        h = torch.full_like(s, (end - start) / 20.0)
        integrals: Tensor | float = 0.0
        evaluations = torch.zeros(count, dtype=torch.int64, device=y.device)
        error = torch.zeros_like(s)
        for _ in range(self.max_steps):
            moving = (end - s).abs() > 1e-12 * abs(end - start)
            if not bool(moving.any()):
                assert isinstance(integrals, Tensor)
                return Solution(y, integrals, evaluations, error)
            step = torch.where((s + h - end).abs() < 1e-3 * h.abs(), end - s, h)
            step = torch.where((end - s).abs() < step.abs(), end - s, step)
            new, gain, ratio, local = self._try(field, s, y, rows, torch.where(moving, step, 0.0))
            evaluations += 7 * moving
            accept = moving & (ratio <= 1.0)
            y = where_rows(accept, new, y)
            s = torch.where(accept, s + step, s)
            integrals = integrals + torch.where(accept, gain, 0.0)
            error = error + torch.where(accept, local, 0.0)
            factor = 0.9 * ratio.clamp_min(1e-10).pow(-0.2)
            h = torch.where(moving, step * factor.clamp(0.2, 5.0), h)
        raise InputError(
            f"{int(moving.sum())} of {count} rows did not converge in {self.max_steps} adaptive steps: "
            "loosen rtol and atol, raise max_steps, or use FixedGrid"
        )

    def _try(
        self, field: Dynamics, s: Tensor, y: State, rows: Tensor, h: Tensor
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """One trial step: new state, integral increments ``m b``, error ratio ``b``, integral error ``b``."""
        slopes: list[State] = []
        rates: list[Tensor] = []
        wide = expand_as_rows(h, y)
        for node, stage in zip(_NODES, _STAGES, strict=True):
            point = y + wide * _combine(stage, slopes) if stage else y
            slope, rate = field(s + node * h, point, rows)
            slopes.append(slope)
            rates.append(rate.double())
        new = y + wide * _combine(_FIFTH, slopes)
        gain = h * _combine(_FIFTH, rates)
        scale = self.atol + self.rtol * torch.maximum(y.abs(), new.abs())
        state_error = (wide * _combine(_ERROR, slopes) / scale).flatten(1).double()
        local = (h * _combine(_ERROR, rates).mean(0)).abs()
        ratio = torch.maximum(state_error.square().mean(1).sqrt(), local / self.atol)
        # step control is no part of the solution: without detaching, a row at rest has gradient 0 * inf
        return new, gain, torch.where(ratio.isfinite(), ratio, 1e6).detach(), local.detach()


def _combine(weights: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    total = None
    for weight, term in zip(weights, terms, strict=True):
        if weight != 0.0:
            total = weight * term if total is None else total + weight * term
    assert total is not None
    return total
