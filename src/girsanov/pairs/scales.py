r"""Invertible linear maps that scale the noise of a process or of a Gaussian step, one per row.

A diffusion coefficient is one scalar per row, a diagonal, a matrix over the flattened event, or a function of the
covariance of a Gaussian. Weights of paths and chains ask three things of it: :math:`G\varepsilon`,
:math:`G^{-1} y` and :math:`\log|\det G|`.
"""

__all__ = ["DiagonalScale", "IsotropicScale", "MatrixScale", "Scale", "SpectralScale", "TriangularScale", "scale_of"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian
from girsanov.types import InputError, Nats, State


class Scale(Protocol):
    """One invertible linear map per row."""

    def times(self, eps: State) -> State:
        """G eps, shape ``b *d``."""
        ...

    def solve(self, y: State) -> State:
        """The vector whose image is ``y``, shape ``b *d``."""
        ...

    def log_det(self, x: State) -> Nats:
        """Log-determinant over the event of ``x``, shape ``b``, float64."""
        ...

    def stretched(self, factor: float | Tensor) -> "Scale":
        """This map times a positive number."""
        ...


@final
@dataclass(frozen=True)
class IsotropicScale:
    """A positive number per row, shape ``b``."""

    value: Tensor

    def times(self, eps: State) -> State:
        """Value times eps."""
        return expand_as_rows(self.value, eps) * eps

    def solve(self, y: State) -> State:
        """Y over value."""
        return y / expand_as_rows(self.value, y)

    def log_det(self, x: State) -> Nats:
        """D times the logarithm."""
        return x[0].numel() * self.value.double().log().expand(len(x))

    def stretched(self, factor: float | Tensor) -> "IsotropicScale":
        """Times a positive number."""
        return IsotropicScale(factor * self.value)


@final
@dataclass(frozen=True)
class DiagonalScale:
    """A positive number per row and dimension, shape ``b *d``."""

    value: Tensor

    def times(self, eps: State) -> State:
        """Elementwise product."""
        return self.value * eps

    def solve(self, y: State) -> State:
        """Elementwise quotient."""
        return y / self.value

    def log_det(self, x: State) -> Nats:
        """Sum of the logarithms."""
        del x
        return sum_event(self.value.double().log())

    def stretched(self, factor: float | Tensor) -> "DiagonalScale":
        """Times a positive number."""
        return DiagonalScale(factor * self.value)


@final
@dataclass(frozen=True)
class MatrixScale:
    """An invertible matrix per row over the flattened event, shape ``b d d``."""

    value: Tensor

    def times(self, eps: State) -> State:
        """Matrix times vector."""
        return (self.value @ eps.flatten(1)[:, :, None])[:, :, 0].reshape(eps.shape)

    def solve(self, y: State) -> State:
        """Solution of the linear system."""
        return torch.linalg.solve(self.value, y.flatten(1)[:, :, None])[:, :, 0].reshape(y.shape)

    def log_det(self, x: State) -> Nats:
        """Log of the determinant's absolute value."""
        del x
        return torch.linalg.slogdet(self.value.double()).logabsdet

    def stretched(self, factor: float | Tensor) -> "MatrixScale":
        """Times a positive number."""
        return MatrixScale(factor * self.value)


@final
@dataclass(frozen=True)
class TriangularScale:
    """A positive number per row times a unit lower triangular matrix over the flattened event.

    Attributes:
        value: the numbers, shape ``b``.
        below: the matrix, ``d d`` for all rows or ``b d d``; what is not strictly below its diagonal is not read.
    """

    value: Tensor
    below: Tensor

    def times(self, eps: State) -> State:
        """Matrix times vector times value."""
        flat = eps.flatten(1)
        moved = flat + (self.below.tril(-1) @ flat[:, :, None])[:, :, 0]
        return expand_as_rows(self.value, eps) * moved.reshape(eps.shape)

    def solve(self, y: State) -> State:
        """Forward substitution over value."""
        flat = y.flatten(1)
        if self.below.ndim == 2:  # one system with all rows as right sides
            solved = torch.linalg.solve_triangular(self.below, flat.T, upper=False, unitriangular=True).T
        else:
            columns = flat[:, :, None]
            solved = torch.linalg.solve_triangular(self.below, columns, upper=False, unitriangular=True)[:, :, 0]
        return solved.reshape(y.shape) / expand_as_rows(self.value, y)

    def log_det(self, x: State) -> Nats:
        """D times the logarithm of value."""
        return IsotropicScale(self.value).log_det(x)

    def stretched(self, factor: float | Tensor) -> "TriangularScale":
        """Times a positive number."""
        return TriangularScale(factor * self.value, self.below)


@final
@dataclass(frozen=True)
class SpectralScale:
    """A positive function of a Gaussian's covariance, the same for every row.

    Attributes:
        law: the Gaussian.
        function: from variances, shape ``r`` or ``1 r``, to scales of the same shape.
    """

    law: Gaussian
    function: Callable[[Tensor], Tensor]

    def times(self, eps: State) -> State:
        """Scale along the principal axes."""
        return self.law.spectral(eps, self.function)

    def solve(self, y: State) -> State:
        """Unscale along the principal axes."""
        return self.law.spectral(y, lambda v: 1.0 / self.function(v))

    def log_det(self, x: State) -> Nats:
        """Sum of the logarithms over the spectrum."""
        return self.function(self.law.spectrum()).log().sum().expand(len(x))

    def stretched(self, factor: float | Tensor) -> "SpectralScale":
        """Times a positive number."""
        return SpectralScale(self.law, lambda v: factor * self.function(v))


def scale_of(g: Tensor, x: State) -> Scale:
    """Read a diffusion coefficient by its shape: scalar ``b``, diagonal ``b *d`` or matrix ``b d d``.

    Raises:
        InputError: for any other shape, and coefficients that are not positive or, as matrices, not invertible.

    Example:
        >>> scale_of(torch.full((3,), 2.0), torch.zeros(3, 4)).times(torch.ones(3, 4))[0]
        tensor([2., 2., 2., 2.])
    """
    n, d = len(x), x[0].numel()
    if g.shape in ((n,), x.shape):
        _require_invertible(g)
        return IsotropicScale(g.to(x.dtype)) if g.shape == (n,) else DiagonalScale(g.to(x.dtype))
    if g.shape == (n, d, d):
        _require_invertible(torch.linalg.det(g.detach().double()).abs())
        return MatrixScale(g.to(x.dtype))
    raise InputError(
        f"diffusion(t, x) must return shape ({n},), {tuple(x.shape)} or ({n}, {d}, {d}) for rows of shape "
        f"{tuple(x.shape)}; got {tuple(g.shape)}"
    )


def _require_invertible(size: Tensor) -> None:
    if not bool(((size > 0.0) & size.isfinite()).all()):
        raise InputError(
            "diffusion(t, x) must be positive and finite, as a matrix invertible: where it is degenerate, paths have "
            "no weights; add noise to the directions that have none"
        )
