"""Many rows, a block of one size at a time: what makes a row's value independent of the rows beside it.

A condition has one entry for each row, or one for all of them.
"""

__all__ = ["LANES", "by_blocks", "condition_at", "conditions_for", "row_blocks"]

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LANES = 32  # vectorised functions round what is left over from so many otherwise, on some kernels


def row_blocks(n: int, rows: int, device: torch.device | None = None) -> Iterator[tuple[Tensor, int]]:
    """Indices of ``n`` rows in blocks of one size, the last filled up with its last row, and how many are new in each.

    A row evaluated in such blocks does not depend on the number of rows: products of matrices of another shape
    round otherwise. From 32 rows on, the size is rounded down to a multiple of 32, so that vectorised functions leave
    no rest, which some round otherwise too.

    Example:
        >>> [(index.tolist(), count) for index, count in row_blocks(5, 3)]
        [([0, 1, 2], 3), ([3, 4, 4], 2)]
        >>> [len(index) for index, count in row_blocks(5, 40)]
        [32]
    """
    rows = max(1, rows if rows < LANES else rows // LANES * LANES)
    for start in range(0, n, rows):
        yield torch.arange(start, start + rows, device=device).clamp_max(n - 1), min(rows, n - start)


def by_blocks(
    evaluate: Callable[[Tensor, int], dict[str, Tensor]], n: int, rows: int, device: torch.device | None = None
) -> dict[str, Tensor]:
    """What is evaluated of ``n`` rows in blocks of one size, joined along the last axis.

    Args:
        evaluate: from indices of a block's rows, and how many of them are new, to values with rows along the last axis.
        n: number of rows.
        rows: of a block.
        device: of the indices.

    Example:
        >>> by_blocks(lambda index, count: {"square": index.square()}, 5, 3)
        {'square': tensor([ 0,  1,  4,  9, 16])}
    """
    parts = []
    for index, count in row_blocks(n, rows, device):
        parts.append({name: value[..., :count] for name, value in evaluate(index, count).items()})
    return {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}


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
