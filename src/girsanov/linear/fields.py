r"""Matrices m(x) and their divergences by column, :math:`(\mathrm{div}\, m)_c = \sum_i \partial_i m_{ic}`.

A matrix is a value: a frozen strategy that knows m at rows, as a :class:`girsanov.linear.ValueMap`, and differentiates
it (note of paper 4, section 2.1). Of :math:`D = m m^\top`, paths whose noise depends on their state need the divergence
and its divergence too (note of paper 1, section 2.4).
"""

__all__ = [
    "Constant",
    "DiffusionMatrix",
    "Function",
    "Identity",
    "Map",
    "Radial",
    "carries_gradient",
    "depends_on_rows",
    "diffusion_terms",
    "ito_correction",
    "leaf",
    "log_det_about",
    "weighted_gradient",
]

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from girsanov.calculus import Exact
from girsanov.linear.maps import Full, Isotropic, ValueMap, map_of
from girsanov.types import InputError, Nats, State

Map: TypeAlias = Callable[[State], State]  #: rows ``n *d`` to rows


class DiffusionMatrix(ABC):
    """A matrix m on rows ``n *d``.

    To implement one, define :meth:`matrix`, differentiable in ``x``. Divergences follow by reverse-mode autograd: one
    backward pass for a scalar, d for a diagonal, d r for a matrix; override :meth:`divergence` where it is closed form.
    """

    @abstractmethod
    def matrix(self, x: State) -> Tensor:
        """The matrix at rows ``n *d`` as one tensor: ``n``, ``n *d`` or ``n d``, or ``n d r``."""

    def at(self, x: State) -> ValueMap:
        """The maps at rows, one per row.

        Raises:
            InputError: if the tensor has another shape.
        """
        return map_of(self.matrix(x), x, "A diffusion matrix")

    def divergence(self, x: State) -> tuple[ValueMap, Tensor]:
        """The maps and div m, shape ``n r``, by column; with gradients only where m or x carries them."""
        return self._with_divergence(x, lambda matrix: matrix)

    def drift(self, x: State) -> tuple[ValueMap, Tensor]:
        """The maps and div(m m'), shape ``n d``: what the tractable loss needs."""
        return self._with_divergence(x, lambda matrix: matrix.squared())

    def __call__(self, x: State) -> tuple[Tensor, Tensor]:
        """The matrix in full, ``n d r``, and div m, ``n r``."""
        matrix, divergence = self.divergence(x)
        return matrix.dense(x), divergence

    def _with_divergence(self, x: State, change: Callable[[ValueMap], ValueMap]) -> tuple[ValueMap, Tensor]:
        attached = carries_gradient(self.matrix, x)
        with torch.enable_grad():
            point = leaf(x, attached)
            matrix = self.at(point)
            divergence = _divergence(change(matrix), point, attached)
        return (matrix, divergence) if attached else (matrix.detach(), divergence.detach())


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
        return x.new_ones(len(x))


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
        return self.values.to(x).expand(len(x), *self.values.shape)


@final
@dataclass(frozen=True)
class Function(DiffusionMatrix):
    """A matrix given by a function of the rows.

    Args:
        function: from rows ``n *d`` to ``n`` (a scalar), ``n *d`` (a diagonal) or ``n d r``, differentiable, each row
            of the result depending on its own row alone.

    Example:
        >>> matrix, divergence = Function(lambda x: 1.0 + x.square().sum(1))(torch.tensor([[1.0, 2.0]]))
        >>> matrix[0, 0], divergence
        (tensor([6., 0.]), tensor([[2., 4.]]))
    """

    function: Callable[[State], Tensor]

    def matrix(self, x: State) -> Tensor:
        return self.function(x)


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
        z = (x - self.centre.to(x)) / self.scale.to(x)
        return (1.0 + z.square().flatten(1).sum(1) / (self.freedom or x[0].numel())).pow(self.power)


def carries_gradient(field: Callable[[State], Tensor], x: State) -> bool:
    """Whether the field's values carry gradients of their own: to ``x`` or to parameters."""
    return torch.is_grad_enabled() and field(x).requires_grad


def leaf(x: State, attached: bool) -> State:
    """The rows themselves where gradients must reach them, else a copy to differentiate in."""
    return x if attached and x.requires_grad else x.detach().requires_grad_()


def weighted_gradient(value: Tensor, weight: Tensor, point: State, create_graph: bool) -> Tensor:
    """The gradient in ``point`` of the weighted sum of ``value``, rows flattened; 0 where nothing depends on it."""
    if not value.requires_grad:
        return point.new_zeros(point.flatten(1).shape)
    (gradient,) = torch.autograd.grad(
        value, point, weight, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return gradient.flatten(1)


def diffusion_terms(coefficient: Callable[[State], Tensor], x: State) -> tuple[State, Nats] | None:
    """Div D, shape ``b *d``, and its divergence ddD, shape ``b`` in float64, for D = G G'.

    Args:
        coefficient: G, from rows ``b *d`` to ``b``, ``b *d`` or ``b d r``.
        x: rows.

    Returns:
        ``None`` where the coefficient does not depend on ``x``.
    """
    if not depends_on_rows(coefficient, x):
        return None
    field = Function(coefficient)
    value, double = Exact()(lambda y: field.drift(y)[1].reshape(y.shape), x)
    return value, double[0]


def ito_correction(coefficient: Callable[[State], Tensor], x: State) -> State:
    r"""What Ito's drift has beyond Stratonovich's, shape ``b *d``.

    It is :math:`c_i = \tfrac12 \sum_{jk} G_{jk}\, \partial_j G_{ik}`: half of what div(G G') has beyond G div G, the
    divergence by column.

    Args:
        coefficient: G, from rows ``b *d`` to ``b``, ``b *d`` or ``b d d``.
        x: rows.

    Example:
        >>> ito_correction(lambda x: 0.4 * x, torch.tensor([[2.0]]))  # geometric Brownian motion: sigma^2 x / 2
        tensor([[0.1600]])
    """
    field = Function(coefficient)
    (matrix, by_column), (_, whole) = field.divergence(x), field.drift(x)
    return 0.5 * (whole.reshape(x.shape) - matrix.times(by_column.reshape(x.shape)))


def log_det_about(coefficient: Callable[[State], Tensor], x: State, w: State) -> Nats:
    r"""Log-determinant of :math:`I + \partial_x [G(x)\, w]`, shape ``b``, float64; nan where it is not positive.

    Args:
        coefficient: G, from rows ``b *d`` to ``b``, ``b *d`` or ``b d d``.
        x: rows.
        w: a vector for each row, ``b *d``, held fixed.

    Example:
        >>> log_det_about(lambda x: 0.4 * x, torch.ones(1, 2), torch.tensor([[0.5, 1.0]])).exp()  # 1.2 * 1.4
        tensor([1.6800], dtype=torch.float64)
    """
    attached = torch.is_grad_enabled() and (w.requires_grad or carries_gradient(coefficient, x))
    with torch.enable_grad():
        point = leaf(x, attached)
        point = point.view_as(point)  # a node of its own, since w may depend on the rows too
        matrix = map_of(coefficient(point), point)
        if not matrix.value.requires_grad:
            return x.new_zeros(len(x), dtype=torch.float64)
        if isinstance(matrix, Isotropic):  # a matrix of rank one
            slope = weighted_gradient(matrix.value, torch.ones_like(matrix.value), point, attached)
            return (slope * w.flatten(1)).sum(1, dtype=torch.float64).log1p()
        moved = matrix.times(w).flatten(1)
        rows = [weighted_gradient(own, torch.ones_like(own), point, attached) for own in moved.unbind(1)]
    bent = torch.stack(rows, 1).double()
    sign, value = torch.linalg.slogdet(torch.eye(bent.shape[1], dtype=bent.dtype, device=bent.device) + bent)
    return torch.where(sign > 0, value, torch.nan)


def depends_on_rows(coefficient: Callable[[State], Tensor], x: State) -> bool:
    """Whether a function of rows has a gradient in them."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        g = coefficient(point)
        if not g.requires_grad:
            return False
        return torch.autograd.grad(g.sum(), point, allow_unused=True)[0] is not None


def _divergence(matrix: ValueMap, point: State, create_graph: bool) -> Tensor:
    """Divergence by column of a matrix that was computed from ``point``."""
    value = matrix.value
    if not value.requires_grad:
        return point.new_zeros(len(point), matrix.columns(point))

    def gradient(component: Tensor) -> Tensor:
        return weighted_gradient(component, torch.ones_like(component), point, create_graph)

    if isinstance(matrix, Isotropic):
        return gradient(value)
    if not isinstance(matrix, Full):
        return torch.stack([gradient(own)[:, i] for i, own in enumerate(value.unbind(1))], 1)
    columns = [torch.stack([gradient(own)[:, i] for i, own in enumerate(c.unbind(1))]).sum(0) for c in value.unbind(2)]
    return torch.stack(columns, 1)
