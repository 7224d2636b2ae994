r"""Diffusion matrices by name, and the generalised score that all of paper 4 is written in.

.. math::
    b(x) = m(x)^\top \nabla \log p(x) + \mathrm{div}\, m(x)

(note of paper 4, section 2.1). With b and m at the rows, Stein kernels and discrepancies know all that they need of a
model. For m the inverse Jacobian of a flow, b is the score of the model's image under the flow.
"""

__all__ = [
    "DIFFUSIONS",
    "DiffusionLike",
    "as_diffusion",
    "generalised_score",
    "require_nonzero",
    "score_rows",
]

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from girsanov.inputs import ask_at, like_rows
from girsanov.linear import Constant, ContinuousFlow, DiffusionMatrix, FlowMatrix, Function, Identity, Radial
from girsanov.linear.fields import Map
from girsanov.stein.johnson import JohnsonFlow
from girsanov.transforms import Transform
from girsanov.types import InputError, State

#: what functions of this package accept as a diffusion matrix
DiffusionLike: TypeAlias = DiffusionMatrix | Tensor | str | Callable[..., Any] | None


#: name -> a matrix chosen by looking at the rows (note of paper 4, sections 3.1 to 3.3). ``gaussianise`` is near-best
#: for clean heavy-tailed rows and follows outliers, whose influence ``robust`` bounds.
DIFFUSIONS: dict[str, Callable[[State], DiffusionMatrix]] = {
    "identity": lambda x: Identity(),
    "robust": partial(Radial.fit, power=-0.5),
    "heavy_tailed": partial(Radial.fit, power=0.5),
    "moments": partial(Radial.fit, power=1.0),
    "gaussianise": lambda x: FlowMatrix(JohnsonFlow.fit(x)),
}


def as_diffusion(diffusion: DiffusionLike, x: State) -> DiffusionMatrix:
    """Make a strategy of what a caller gave.

    Args:
        diffusion: a strategy; ``None`` for the identity; a name of :data:`DIFFUSIONS`, which is fitted to ``x``; a
            tensor for a constant; a transform of torch, zuko or ours for its inverse Jacobian; or a function of rows.
            (A bare function is read as a matrix: wrap a map of rows that is meant as a flow in :class:`FlowMatrix`.)
        x: rows ``n *d``.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> as_diffusion("robust", torch.randn(50, 2)).power
        -0.5
    """
    if diffusion is None:
        return Identity()
    if isinstance(diffusion, DiffusionMatrix):
        return diffusion
    if isinstance(diffusion, Tensor):
        return Constant(diffusion)
    if isinstance(diffusion, str):
        if diffusion not in DIFFUSIONS:
            raise InputError(f"There is no diffusion matrix named {diffusion!r}: choose one of {', '.join(DIFFUSIONS)}")
        return DIFFUSIONS[diffusion](x)
    if not callable(diffusion) and not _is_flow(diffusion):
        raise InputError(f"A diffusion matrix is a name, a tensor or a function of rows; got {diffusion!r:.80}")
    return FlowMatrix(diffusion) if _is_flow(diffusion) else Function(diffusion)


def generalised_score(x: State, score: Map | Tensor, diffusion: DiffusionLike = None) -> tuple[Tensor, Tensor]:
    r"""Evaluate b = m's + div m and m: all that Stein kernels and discrepancies need of a model.

    Gradients flow to ``x``, to the score's parameters and to the matrix's, where these require them.

    Args:
        x: rows ``n *d``.
        score: ``State -> State``, or the scores at ``x``, shape ``n *d`` or ``n d``.
        diffusion: see :func:`as_diffusion`.

    Returns:
        b of shape ``n r`` and m of shape ``n d r``, d and r counting the flattened event.

    Raises:
        InputError: if the scores do not fit the rows.

    Example:
        >>> b, m = generalised_score(torch.tensor([[1.0], [2.0]]), lambda x: -x, lambda x: 1.0 + x[:, 0] ** 2)
        >>> b
        tensor([[ 0.],
                [-6.]])
    """
    s = score_rows(x, score)
    matrix, divergence = as_diffusion(diffusion, x).divergence(x)
    return matrix.transpose().times(s) + divergence, matrix.dense(x)


def score_rows(x: State, score: Map | Tensor) -> Tensor:
    """Scores at rows ``x``, flattened to ``n d`` and checked.

    Raises:
        InputError: if their shape is not that of the rows, or one is not finite.
    """
    return (ask_at(score, x) if callable(score) else like_rows(score, x, "score")).flatten(1)


def require_nonzero(matrix: Tensor) -> None:
    """Refuse matrices ``n``, ``n d`` or ``n d r`` that are zero at a row, where nothing would be seen.

    Raises:
        InputError: with the row.
    """
    seen = (matrix.detach().reshape(len(matrix), -1) != 0.0).any(1)
    if not bool(seen.all()):
        row = int((~seen).nonzero()[0])
        raise InputError(f"The diffusion matrix is zero at x[{row}], so that nothing is seen there: give another one")


def _is_flow(candidate: object) -> bool:
    kinds = (Transform, torch.distributions.Transform)
    if isinstance(candidate, ContinuousFlow):
        return True
    return isinstance(getattr(candidate, "transform", candidate), kinds) or _is_lazy_flow(candidate)


def _is_lazy_flow(candidate: object) -> bool:
    lazy = sys.modules.get("zuko.lazy")
    return lazy is not None and isinstance(candidate, lazy.Flow | lazy.LazyTransform)
