r"""Fresh dequantisation noise: for everything that is fitted to rows, or chosen by them.

Where discrete rows repeat, noise that a row's content keys would be the same in all of its copies, in training and in
held-out rows alike: a density fitted to them puts its mass where the few draws lie and is praised by the same draws.
Here every copy of every row has its own draw, from the stream of its purpose.
"""

__all__ = ["COPIES", "MOST_COPIES", "copies_for", "spread"]

import torch
from torch import Tensor

from girsanov.transforms import Compose, Dequantise
from girsanov.types import State

COPIES = 4  # of training rows to which closed forms are fitted
MOST_COPIES = 8


def spread(transforms: Compose, rows: State, generator: torch.Generator, copies: int = COPIES) -> tuple[State, Tensor]:
    """Rows in the model's space, ``copies`` dequantisation draws of each in succession, with log-determinants.

    Args:
        transforms: from data units to the model's space; without a dequantiser nothing is drawn, and rows come once.
        rows: shape ``n *d``.
        generator: source of all draws, on the CPU.
        copies: draws of each row.
    """
    with torch.no_grad():
        if not any(isinstance(member, Dequantise) for member in transforms.transforms):
            return transforms(rows)
        uniform = torch.rand(len(rows) * copies, *rows.shape[1:], generator=generator, dtype=torch.float64)
        return transforms(rows.repeat_interleave(copies, 0), uniform.to(rows.device))


def copies_for(rows: int, wanted: int) -> int:
    """How many draws of each row bring ``rows`` to about ``wanted``, 8 at most.

    Example:
        >>> copies_for(500, 2000), copies_for(10, 2000), copies_for(3000, 2000)
        (4, 8, 1)
    """
    return max(1, min(MOST_COPIES, wanted // rows))
