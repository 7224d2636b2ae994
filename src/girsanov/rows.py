"""Many rows, a block of one size at a time: what makes a row's value independent of the rows beside it.

A condition has one entry for each row, or one for all of them.
"""

__all__ = ["LANES", "Calls", "at_once", "by_blocks", "condition_at", "conditions_for", "whole"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

LANES = 32  # vectorised functions round what is left over from so many otherwise, on some kernels


Values = TypeVar("Values", Tensor, dict[str, Tensor])


def by_blocks(
    evaluate: Callable[[Tensor], Values], n: int, rows: int, device: torch.device | None = None, *, dim: int = -1
) -> Values:
    """What is evaluated of ``n`` rows in blocks of one size, the last filled up with its last row, joined.

    A row evaluated in such blocks does not depend on the number of rows: products of matrices of another shape
    round otherwise. From 32 rows on, the size is rounded down to a multiple of 32, so that vectorised functions leave
    no rest, which some round otherwise too.

    Args:
        evaluate: from the indices of a block's rows to their values, a tensor or some by name.
        n: number of rows.
        rows: of a block.
        device: of the indices.
        dim: the axis of the values along which rows are.

    Example:
        >>> by_blocks(lambda index: index.square(), 5, 3), by_blocks(lambda index: {"n": 0 * index + len(index)}, 1, 40)
        (tensor([ 0,  1,  4,  9, 16]), {'n': tensor([32])})
    """
    size, parts = whole(rows), []
    for start in range(0, n, size):
        values = evaluate(torch.arange(start, start + size, device=device).clamp_max(n - 1))
        named = values if isinstance(values, dict) else {"": values}
        parts.append({name: value.narrow(dim, 0, min(size, n - start)) for name, value in named.items()})
    joined = {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
    return joined.get("", joined)  # type: ignore[return-value]


def whole(rows: int) -> int:
    """The size of a block of about so many rows: one or more, and from 32 on a multiple of 32.

    Example:
        >>> whole(0), whole(20), whole(70)
        (1, 20, 64)
    """
    return max(1, rows if rows < LANES else rows // LANES * LANES)


@dataclass(frozen=True)
class Calls:
    """How a network sees the rows of a block, whose other work is done at once.

    Attributes:
        asked: number of rows that are asked for; the others fill the block up.
        size: rows of a call.
    """

    asked: int
    size: int

    def __call__(self, network: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """What ``network(*inputs)`` is of the rows asked for, in calls of one size; filled up with the last.

        Args:
            network: of inputs with a leading dimension of rows.
            *inputs: of all rows, or ``None``.

        Example:
            >>> Calls(3, 2)(lambda x: 0 * x + len(x), torch.arange(4.0))
            tensor([2., 2., 2., 2.])
        """
        first = next(given for given in inputs if given is not None)

        def evaluate(index: Tensor) -> Tensor:
            return network(*(given if given is None else given[index] for given in inputs))

        values = by_blocks(evaluate, self.asked, self.size, first.device, dim=0)
        missing = len(first) - self.asked
        return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values


def at_once(network: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """What a network is of all rows in one call: what :class:`Calls` are where rows are few."""
    return network(*inputs)


def condition_at(condition: Tensor | None, index: Tensor | slice) -> Tensor | None:
    """The condition of the rows ``index``: their entries, or the one that all rows share.

    Example:
        >>> condition_at(torch.tensor([3, 4, 5]), slice(1, 3)), condition_at(torch.tensor([3]), slice(1, 3))
        (tensor([4, 5]), tensor([3]))
    """
    if condition is None or len(condition) == 1:
        return condition
    return condition[index.to(condition.device) if isinstance(index, Tensor) else index]


def conditions_for(condition: Tensor | None, n: int, repeats: int = 1) -> Tensor | None:
    """One entry for each of ``n`` rows, each of them ``repeats`` times in succession, shape ``n*repeats ...``.

    Example:
        >>> conditions_for(torch.tensor([3]), 2, repeats=2)
        tensor([3, 3, 3, 3])
    """
    if condition is None:
        return None
    each = condition.expand(n, *condition.shape[1:])
    return each if repeats == 1 else each.repeat_interleave(repeats, 0)
