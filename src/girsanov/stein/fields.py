r"""Matrix fields m(x) and their divergences by column, :math:`(\mathrm{div}\, m)_c = \sum_i \partial_i m_{ic}`.

A matrix is a value: a frozen strategy that knows m at rows and differentiates it. Its compact form follows the
package's convention for diffusions: ``n`` is a scalar per row, ``n d`` a diagonal, ``n d r`` a matrix, d being the
size of the flattened event (note of paper 4, section 2.1).
"""

__all__ = [
    "Constant",
    "DiffusionMatrix",
    "Function",
    "Identity",
    "Map",
    "Radial",
    "carries_gradient",
    "dense",
    "leaf",
    "times",
    "transposed_times",
    "weighted_gradient",
]

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from girsanov.types import InputError, State

Map: TypeAlias = Callable[[State], State]  #: rows ``n *d`` to rows


def dense(matrix: Tensor, d: int) -> Tensor:
    """Expand a compact matrix, ``n``, ``n d`` or ``n d r``, to ``n d r``.

    Example:
        >>> dense(torch.tensor([[1.0, 2.0]]), 2)
        tensor([[[1., 0.],
                 [0., 2.]]])
    """
    if matrix.ndim == 1:
        matrix = matrix[:, None].expand(-1, d)
    return torch.diag_embed(matrix) if matrix.ndim == 2 else matrix


def times(matrix: Tensor, e: Tensor) -> Tensor:
    """The product m e of a compact matrix and vectors ``n r``, shape ``n d``.

    Example:
        >>> times(torch.tensor([2.0, 3.0]), torch.ones(2, 2))
        tensor([[2., 2.],
                [3., 3.]])
    """
    if matrix.ndim == 3:
        return (matrix @ e[..., None]).squeeze(-1)
    return (matrix[:, None] if matrix.ndim == 1 else matrix) * e


def transposed_times(matrix: Tensor, v: Tensor) -> Tensor:
    """The product m'v of a compact matrix and vectors ``n d``, shape ``n r``.

    Example:
        >>> transposed_times(torch.ones(1, 2, 3), torch.tensor([[1.0, 2.0]]))
        tensor([[3., 3., 3.]])
    """
    return times(matrix.mT if matrix.ndim == 3 else matrix, v)


class DiffusionMatrix(ABC):
    """A matrix field m on rows ``n *d``.

    To implement one, define :meth:`matrix`, differentiable in ``x``. Divergences follow by reverse-mode autograd: one
    backward pass for a scalar, d for a diagonal, d r for a matrix; override :meth:`divergence` where it is closed form.
    """

    @abstractmethod
    def matrix(self, x: State) -> Tensor:
        """The compact matrix at rows ``n *d``: ``n``, ``n d`` or ``n d r``."""

    def divergence(self, x: State) -> tuple[Tensor, Tensor]:
        """The compact matrix and div m, shape ``n r``, by column; with gradients only where m or x carries them."""
        return with_divergence(self.matrix, x)

    def drift(self, x: State) -> tuple[Tensor, Tensor]:
        """The compact matrix and div(m m'), shape ``n d``: what the tractable loss needs."""
        return with_divergence(lambda point: _square(self.matrix(point)), x, self.matrix)

    def __call__(self, x: State) -> tuple[Tensor, Tensor]:
        """The matrix in full, ``n d r``, and div m, ``n r``."""
        matrix, divergence = self.divergence(x)
        return dense(matrix, x[0].numel()), divergence


@final
@dataclass(frozen=True)
class Identity(DiffusionMatrix):
    """m = I: plain score matching and the plain Stein discrepancy.

    Example:
        >>> Identity()(torch.zeros(1, 2))
        (tensor([[[1., 0.],
                  [0., 1.]]]), tensor([[0., 0.]]))
    """

    def matrix(self, x: State) -> Tensor:
        """Ones, shape ``n``."""
        return x.new_ones(len(x))

    def divergence(self, x: State) -> tuple[Tensor, Tensor]:
        """Nothing diverges."""
        return self.matrix(x), x.new_zeros(len(x), x[0].numel())

    def drift(self, x: State) -> tuple[Tensor, Tensor]:
        """Nothing drifts."""
        return self.divergence(x)


@final
@dataclass(frozen=True)
class Constant(DiffusionMatrix):
    """The same matrix at every row.

    Args:
        values: a scalar, a diagonal of the event's shape, or a matrix ``d r`` over the flattened event.

    Example:
        >>> matrix, divergence = Constant(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))(torch.zeros(5, 2))
        >>> matrix.shape, divergence.shape
        (torch.Size([5, 2, 3]), torch.Size([5, 3]))
    """

    values: Tensor

    def matrix(self, x: State) -> Tensor:
        """The values, expanded over rows."""
        values = self.values.to(x)
        if values.ndim == 0:
            return values.expand(len(x))
        if values.shape == x.shape[1:]:
            return values.flatten().expand(len(x), -1)
        if values.ndim != 2 or len(values) != x[0].numel():
            raise InputError(f"A constant matrix for rows {tuple(x.shape[1:])} cannot have shape {tuple(values.shape)}")
        return values.expand(len(x), -1, -1)

    def divergence(self, x: State) -> tuple[Tensor, Tensor]:
        """Nothing diverges."""
        matrix = self.matrix(x)
        return matrix, x.new_zeros(len(x), matrix.shape[2] if matrix.ndim == 3 else x[0].numel())

    def drift(self, x: State) -> tuple[Tensor, Tensor]:
        """Nothing drifts."""
        return self.matrix(x), x.new_zeros(len(x), x[0].numel())


@final
@dataclass(frozen=True)
class Function(DiffusionMatrix):
    """A matrix given by a function of the rows.

    Args:
        function: from rows ``n *d`` to ``n`` (a scalar), ``n d`` (a diagonal) or ``n d r``, differentiable, each row
            of the result depending on its own row alone.

    Example:
        >>> matrix, divergence = Function(lambda x: 1.0 + x.square().sum(1))(torch.tensor([[1.0, 2.0]]))
        >>> matrix[0, 0], divergence
        (tensor([6., 0.]), tensor([[2., 4.]]))
    """

    function: Callable[[State], Tensor]

    def matrix(self, x: State) -> Tensor:
        """The function's value, its shape checked."""
        value = self.function(x)
        n, d = len(x), x[0].numel()
        if value.shape[:2] not in ((n,), (n, d)) or value.ndim > 3:
            raise InputError(
                f"A diffusion matrix at {n} rows of {d} numbers must have shape ({n},), ({n}, {d}) or ({n}, {d}, r); "
                f"the function gave {tuple(value.shape)}"
            )
        return value


@final
@dataclass(frozen=True)
class Radial(DiffusionMatrix):
    r"""A scalar that falls or grows with the distance from the data's middle.

    .. math:: m(x) = (1 + \|z\|^2 / \nu)^a, \qquad z_i = (x_i - c_i) / h_i

    with centre c and scale h (note of paper 4, sections 3.1 to 3.3): :math:`a = -\tfrac12` bounds the influence of
    outliers, :math:`a = \tfrac12` suits heavy tails, :math:`a = 1` sees moments. Centre and scale are numbers, never
    functions of the trained parameters.

    Args:
        centre: c, of the event's shape.
        scale: h, of the event's shape.
        power: a.
        freedom: nu; the event's size d when omitted, so that an ordinary row has a value near :math:`2^a`.

    Example:
        >>> m = Radial(torch.zeros(1), torch.ones(1), power=1.0, freedom=3.0)
        >>> m.matrix(torch.tensor([[3.0]]))
        tensor([4.])
    """

    centre: Tensor
    scale: Tensor
    power: float
    freedom: float | None = None

    @classmethod
    def fit(cls, x: State, *, power: float, freedom: float | None = None) -> "Radial":
        """Take the median and the median absolute deviation (times 1.4826: a normal's standard deviation) of rows."""
        rows = x.detach()
        centre = rows.quantile(0.5, dim=0)
        scale = 1.4826 * (rows - centre).abs().quantile(0.5, dim=0)
        if not bool((scale > 0).all()):
            raise InputError("More than half of a column is one value: give Radial a centre and a scale of your own")
        return cls(centre, scale, power, freedom)

    def matrix(self, x: State) -> Tensor:
        """The scalar, shape ``n``."""
        z = (x - self.centre.to(x)) / self.scale.to(x)
        return (1.0 + z.square().flatten(1).sum(1) / (self.freedom or x[0].numel())).pow(self.power)


def carries_gradient(field: Callable[[State], Tensor], x: State) -> bool:
    """Whether the field's values carry gradients of their own: to ``x`` or to parameters."""
    return torch.is_grad_enabled() and field(x).requires_grad


def leaf(x: State, attached: bool) -> State:
    """The rows themselves where gradients must reach them, else a copy to differentiate in."""
    return x if attached and x.requires_grad else x.detach().requires_grad_()


def with_divergence(
    field: Callable[[State], Tensor], x: State, value: Callable[[State], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The value of ``value`` (default: of the field) and the divergence of the compact field."""
    attached = carries_gradient(field, x)
    with torch.enable_grad():
        point = leaf(x, attached)
        compact = field(point)
        divergence = _divergence(compact, point, attached)
        matrix = compact if value is None else value(point)
    return (matrix, divergence) if attached else (matrix.detach(), divergence.detach())


def _divergence(compact: Tensor, point: State, create_graph: bool) -> Tensor:
    """Divergence by column of a compact field that was computed from ``point``."""

    def gradient(component: Tensor) -> Tensor:
        return weighted_gradient(component, torch.ones_like(component), point, create_graph)

    if compact.ndim == 1:
        return gradient(compact)
    d = compact.shape[1]
    if compact.ndim == 2:
        return torch.stack([gradient(compact[:, i])[:, i] for i in range(d)], 1)
    columns = [
        torch.stack([gradient(compact[:, i, c])[:, i] for i in range(d)]).sum(0) for c in range(compact.shape[2])
    ]
    return torch.stack(columns, 1)


def weighted_gradient(value: Tensor, weight: Tensor, point: State, create_graph: bool) -> Tensor:
    """The gradient in ``point`` of the weighted sum of ``value``, rows flattened; 0 where nothing depends on it."""
    if not value.requires_grad:
        return point.new_zeros(point.flatten(1).shape)
    (gradient,) = torch.autograd.grad(
        value, point, weight, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return gradient.flatten(1)


def _square(matrix: Tensor) -> Tensor:
    return matrix @ matrix.mT if matrix.ndim == 3 else matrix.square()
