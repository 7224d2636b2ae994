r"""Sample points with all that a Stein kernel asks of a model there: the generalised score b and the matrix m.

:math:`b(x) = m(x)^\top s(x) + \mathrm{div}\, m(x)` (note of paper 4, section 2.1). Points are centred on their mean:
Stein kernels see differences alone, and squared distances by matrix products lose all digits of float32 far from the
origin. The score is asked once per point, in batches, never per pair.
"""

__all__ = ["ScoreLike", "SteinPoints"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from girsanov.display import Shown
from girsanov.linear import DiffusionMatrix, Identity
from girsanov.stein.matrices import DiffusionLike, as_diffusion, require_nonzero, score_rows
from girsanov.types import InputError, State

#: ``State -> State``, or the scores at the points themselves; arrays will do for both
ScoreLike: TypeAlias = Callable[[State], State] | Tensor

BATCH = 1024  # points per call of the score


@dataclass(frozen=True, repr=False)
class SteinPoints(Shown):
    """Points with generalised scores; made by :meth:`at`.

    Attributes:
        x: centred points, shape ``n d``, events flattened.
        b: generalised scores, shape ``n r``.
        m: diffusion matrices, shape ``n``, ``n d`` or ``n d r``; ``None`` for the identity.
    """

    x: Tensor
    b: Tensor
    m: Tensor | None = None

    @classmethod
    def at(
        cls, x: State, score: ScoreLike, diffusion: DiffusionLike = None, *, attached: bool = False
    ) -> "SteinPoints":
        """Evaluate score and matrix at rows.

        Args:
            x: rows ``n *d``, two or more; float32 rows are computed with in float32.
            score: ``State -> State``, or the scores, shape ``n *d``.
            diffusion: see :func:`girsanov.stein.matrices.as_diffusion`.
            attached: keep gradients to ``x``, to the score's parameters and to the matrix's.

        Raises:
            InputError: for too few rows, missing or infinite values in rows or scores, and shapes that disagree.

        Example:
            >>> points = SteinPoints.at(torch.tensor([[1.0], [3.0]]), lambda x: -x)
            >>> points.x, points.b
            (tensor([[-1.],
                    [ 1.]]), tensor([[-1.],
                    [-3.]]))
        """
        rows = _checked(torch.as_tensor(x), attached)
        score = score if callable(score) else torch.as_tensor(score, device=rows.device)
        matrix = as_diffusion(diffusion, rows)
        parts = [_evaluate(rows, score, matrix, at, attached) for at in torch.arange(len(rows)).split(BATCH)]
        b = torch.cat([part[0] for part in parts])
        m = None if isinstance(matrix, Identity) else torch.cat([part[1] for part in parts])
        if not bool(b.isfinite().all() and (m is None or m.isfinite().all())):
            raise InputError("A diffusion matrix or its divergence is not finite: look at it where the rows are")
        if m is not None:
            require_nonzero(m)
        flat = rows.flatten(1)
        centre = flat.detach().mean(0, dtype=torch.float64)
        return cls((flat.double() - centre).to(rows.dtype), b.to(rows.dtype), m if m is None else m.to(rows.dtype))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> "SteinPoints":
        """Some of the points, about the same centre."""
        return SteinPoints(self.x[index], self.b[index], None if self.m is None else self.m[index])

    def unit(self) -> float:
        """A power of two near the points' own scale, from which single precision is far in both directions."""
        largest = float(self.x.detach().abs().max())
        return 2.0 ** math.frexp(largest)[1] if largest > 0.0 else 1.0

    def in_units(self, unit: float) -> "SteinPoints":
        """The points divided by ``unit``, whose Stein kernels are ``unit**2`` times as large."""
        return SteinPoints(self.x / unit, self.b * unit, self.m)

    def squared_norm(self) -> Tensor:
        """Sum of squares of m at each point, shape ``n``: d for the identity."""
        d = self.x.shape[1]
        if self.m is None:
            return self.x.new_full((len(self),), d)
        return d * self.m.square() if self.m.ndim == 1 else self.m.square().flatten(1).sum(1)


def _checked(x: Tensor, attached: bool) -> Tensor:
    if x.ndim < 2 or len(x) < 2 or x[0].numel() == 0:
        raise InputError(f"Points of shape (n, *d) are needed, two or more; got shape {tuple(x.shape)}")
    if not bool(x.detach().isfinite().all()):
        row = int((~x.detach().flatten(1).isfinite().all(1)).nonzero()[0])
        raise InputError(f"x[{row}] has missing or infinite values: impute them or leave that row out")
    wide = x if x.dtype in (torch.float32, torch.float64) else x.to(torch.get_default_dtype())
    return wide if attached else wide.detach()


def _evaluate(
    rows: State, score: ScoreLike, matrix: DiffusionMatrix, at: Tensor, attached: bool
) -> tuple[Tensor, Tensor]:
    """Values of b and m in one batch; a score that is a tensor must have a row for each point."""
    if isinstance(score, Tensor) and len(score) != len(rows):
        raise InputError(f"Expected scores of shape {tuple(rows.shape)}, those of the rows; got {tuple(score.shape)}")
    batch = rows[at[0] : at[-1] + 1]
    s = score_rows(batch, score[at[0] : at[-1] + 1] if isinstance(score, Tensor) else score)
    m, divergence = matrix.divergence(batch)
    b = m.transpose().times(s.to(m.value.dtype)) + divergence
    return (b, m.value) if attached else (b.detach(), m.value.detach())
