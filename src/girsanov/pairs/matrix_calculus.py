r"""Derivatives of a state-dependent diffusion matrix :math:`D = G G^\top`: its divergence and double divergence.

:math:`(\mathrm{div} D)_i = \sum_j \partial_j D_{ij}`: for scalar :math:`D = g^2 I` the gradient of g squared, one
backward pass; d passes for a diagonal, d squared for a matrix. The double divergence is the divergence of that field
(note of paper 1, section 2.4).
"""

__all__ = ["diffusion_terms", "squared"]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.calculus import Exact
from girsanov.types import Nats, State

Coefficient = Callable[[State], Tensor]  # x ``b *d`` -> ``b``, ``b *d`` or ``b d d``


def squared(g: Tensor, x: State) -> Tensor:
    """The matrix G G^T of a scalar, diagonal or full coefficient, shape ``b d d``."""
    d = x[0].numel()
    if g.shape == (len(x), d, d):
        return g @ g.mT
    columns = g.reshape(len(x), -1).expand(len(x), d)
    return torch.diag_embed(columns.square())


def diffusion_terms(coefficient: Coefficient, x: State) -> tuple[State, Nats] | None:
    """Div D, shape ``b *d``, and ddD, shape ``b`` in float64; ``None`` where the coefficient does not depend on x."""
    if not _depends(coefficient, x):
        return None
    value, double = Exact()(lambda y: _divergence(coefficient, y), x)
    return value, double[0]


def _depends(coefficient: Coefficient, x: State) -> bool:
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        g = coefficient(point)
        if not g.requires_grad:
            return False
        return torch.autograd.grad(g.sum(), point, allow_unused=True)[0] is not None


def _divergence(coefficient: Coefficient, x: State) -> State:
    """(div D)_i = sum_j d_j D_ij, itself differentiable."""
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        g = coefficient(point)
        if g.ndim == 1:
            return _gradient(g.square(), point)
        if g.shape == x.shape:
            squares = g.square().flatten(1)
            own = [_gradient(squares[:, i], point).flatten(1)[:, i] for i in range(squares.shape[1])]
            return torch.stack(own, 1).reshape(x.shape)
        matrix = squared(g, x)
        rows = [
            sum(_gradient(row[:, j], point).flatten(1)[:, j] for j in range(len(row.T))) for row in matrix.unbind(1)
        ]
        return torch.stack([torch.as_tensor(row) for row in rows], 1).reshape(x.shape)


def _gradient(values: Tensor, x: State) -> State:
    """Gradient of one number per row; zero where it does not depend on the row."""
    if not values.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient
