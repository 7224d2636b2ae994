"""Many rows, a block of one size at a time: what makes a row's value independent of the rows beside it."""

__all__ = ["LANES", "row_blocks"]

from collections.abc import Iterator

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
