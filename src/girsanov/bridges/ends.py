"""Rows of the ends of a bridge: as they come in, weighted draws of them, and pairs of both ends."""

__all__ = ["EndRows", "Pairs", "by_time", "coupled_rows", "described", "rows_by_time"]

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from girsanov.datasets import fingerprint
from girsanov.densities import Density
from girsanov.objectives import Batch
from girsanov.processes import LinearProcess
from girsanov.types import InputError, State

BATCH = 512  # rows of a minibatch plan
Coupling = Literal["independent", "minibatch"]


@dataclass(frozen=True)
class EndRows:
    """Rows of one end.

    Attributes:
        x: rows ``n *d``.
        condition: class or vector of each row, or ``None``.
        weights: weight of each row, such as its growth, or ``None`` for equal ones.

    Raises:
        InputError: if the lengths differ, a weight is negative or not finite, or a row is not finite.
    """

    x: State
    condition: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or len(self.x) < 2:
            raise InputError(f"An end needs at least two rows of shape (n, ...); got {tuple(self.x.shape)}")
        if not bool(self.x.isfinite().all()):
            raise InputError("An end has entries that are not finite: drop or impute those rows")
        for name in ("condition", "weights"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise InputError(f"{name} must have one entry for each of {len(self.x)} rows; got {len(value)}")
        weights = self.weights
        if weights is not None and weights.ndim != 1:
            raise InputError(f"weights must be one number for each row; got shape {tuple(weights.shape)}")
        if weights is not None and not bool((weights >= 0).all() and 0 < weights.sum() < float("inf")):
            raise InputError("weights must be finite, not negative, and not all zero")

    def __getitem__(self, index: Tensor) -> "EndRows":
        parts = (None if part is None else part[index] for part in (self.condition, self.weights))
        return EndRows(self.x[index], *parts)

    def batch(self, index: Tensor) -> Batch:
        """Some of the rows with their conditions, for one step of training."""
        return Batch(self.x[index], None if self.condition is None else self.condition[index])

    def split(self, share: float, seed: int) -> tuple["EndRows", "EndRows"]:
        """A share of the rows, at least two, and the others; rows of weight 0 are in neither.

        Raises:
            InputError: if fewer than two others are left.
        """
        index = torch.arange(len(self.x)) if self.weights is None else self.weights.cpu().nonzero()[:, 0]
        order = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))].to(self.x.device)
        count = max(2, round(share * len(order)))
        if count > len(order) - 2:
            raise InputError(f"{len(order)} rows are too few to hold some out: give at least 10, of positive weight")
        return self[order[:count]], self[order[count:]]

    def index(self, n: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``n`` drawn rows: without repetition as far as they go where weights are equal, else by weight."""
        if self.weights is None:
            rounds = -(-n // len(self.x))
            index = torch.cat([torch.randperm(len(self.x), generator=generator) for _ in range(rounds)])[:n]
        else:
            index = torch.multinomial(self.weights.double().cpu(), n, replacement=True, generator=generator)
        return index.to(self.x.device)

    def unweighted(self, seed: int) -> "EndRows":
        """Rows of equal weight: as many draws where they have weights, else these."""
        return self if self.weights is None else self.draw(len(self.x), torch.Generator().manual_seed(seed))

    def draw(self, n: int, generator: torch.Generator) -> "EndRows":
        """``n`` rows of equal weight, see :meth:`index`."""
        return dataclasses.replace(self[self.index(n, generator)], weights=None)


@dataclass(frozen=True)
class Pairs:
    """Joined ends of ``n`` paths, each ``n *d``, their conditions, and numbers of the rows that they begin with."""

    start: State
    end: State
    condition: Tensor | None = None
    row: Tensor | None = None

    def __getitem__(self, index: Tensor) -> "Pairs":
        given = None if self.condition is None else self.condition[index]
        return Pairs(self.start[index], self.end[index], given)

    def __len__(self) -> int:
        return len(self.start)


def coupled_rows(start: EndRows, end: EndRows, n: int, coupling: Coupling, generator: torch.Generator) -> Pairs:
    """Draw ``n`` pairs of rows, independent or joined by optimal transport within minibatches.

    A minibatch plan is biased by the size of the batch, so it starts a fit and is never its truth (note of paper 3,
    section 5, trap 11).

    Raises:
        InputError: if the rows have conditions: a pair of different ones belongs to no bridge.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> ends = EndRows(torch.arange(4.0)[:, None]), EndRows(torch.arange(4.0)[:, None] + 10.0)
        >>> pairs = coupled_rows(*ends, 4, "minibatch", g)
        >>> (pairs.end - pairs.start).flatten()
        tensor([10., 10., 10., 10.])
    """
    if start.condition is not None or end.condition is not None:
        raise InputError("Pairs of rows know no conditions: leave warm_start out, and start from a closed form")
    first, second = start.draw(n, generator), end.draw(n, generator)
    if coupling == "independent":
        return Pairs(first.x, second.x)
    from scipy.optimize import linear_sum_assignment

    order = []
    for begin in range(0, n, BATCH):
        a, b = (x[begin : begin + BATCH].flatten(1).double() for x in (first.x, second.x))
        _, column = linear_sum_assignment(torch.cdist(a, b).square().cpu().numpy())
        order.append(begin + torch.as_tensor(column))
    return Pairs(first.x, second.x[torch.cat(order).to(second.x.device)])


def by_time(value: Any, times: list[float]) -> dict[float, Any]:
    """Conditions or weights in any of their forms, by time.

    Raises:
        InputError: if a tuple has not one entry for each time, or a time has no rows.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        unknown = [float(t) for t in value if float(t) not in times]
        if unknown:
            raise InputError(f"condition= or weights= has an entry for time {unknown[0]:g}, which has no rows")
        return {float(t): v for t, v in value.items() if v is not None}
    if isinstance(value, tuple):
        if len(value) != len(times):
            raise InputError(f"condition= and weights= need one entry for each of {len(times)} times; got {len(value)}")
        return {t: v for t, v in zip(times, value, strict=True) if v is not None}
    return {times[0]: value}


def rows_by_time(x0: Any, x1: Any, prior: Density | None, horizon: float) -> dict[float, Any]:
    """The rows of a fit by their time.

    Raises:
        InputError: if it is not one of the three kinds of fits.
    """
    if (x1 is not None) + (prior is not None) + isinstance(x0, Mapping) != 1:
        raise InputError("A bridge is fitted to x0 and x1, to x0 and prior=, or to {time: rows}")
    if isinstance(x0, Mapping):
        if len(x0) < 2:
            raise InputError("A bridge needs rows at two times or more")
        return {float(t): x for t, x in x0.items()}
    return {0.0: x0} if x1 is None else {0.0: x0, horizon: x1}


def described(reference: LinearProcess, start: object, ends: Sequence[EndRows], prior: Density | None) -> str:
    """What a fit that goes on must share with the one that was stopped: its rows, reference, start and prior."""
    grid = torch.linspace(0.0, reference.horizon, 9, dtype=torch.float64)
    parts = [*reference.marginal(grid)]
    for rows in ends:
        parts += [part for part in (rows.x, rows.condition, rows.weights) if part is not None]
    if prior is not None:
        parts.append(prior.log_prob(ends[0].x[:100].to(next(prior.buffers(), ends[0].x).device)))
    return f"{start} " + " ".join(fingerprint(part)[:16] for part in parts)
