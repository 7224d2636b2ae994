r"""Linear maps, one per row: what scales the noise of a process or of a Gaussian step, and what a Stein operator takes.

A map acts on rows ``b *d`` as a matrix on the flattened event. It is one scalar per row, a diagonal, a matrix, or a
function of the covariance of a Gaussian. Weights of paths and chains ask for :math:`G\varepsilon`, :math:`G^{-1} y` and
:math:`\log|\det G|`, score matching for :math:`m^\top s` and :math:`m m^\top`.
"""

__all__ = ["Diagonal", "Full", "Isotropic", "LinearMap", "Spectral", "Triangular", "ValueMap", "map_of"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian
from girsanov.types import InputError, Nats, State


class LinearMap(ABC):
    """One linear map G per row; ``solve`` and ``log_det`` are of those that are invertible."""

    @abstractmethod
    def times(self, e: State) -> State:
        """G e for rows ``b *r``, shape ``b *d``."""

    @abstractmethod
    def solve(self, y: State) -> State:
        """The rows ``b *d`` whose image is ``y``."""

    @abstractmethod
    def log_det(self, x: State) -> Nats:
        """Logarithm of the determinant's absolute value over the event of ``x``, shape ``b``, float64."""

    @abstractmethod
    def stretched(self, factor: float | Tensor) -> "LinearMap":
        """The map times a positive number."""

    def transpose(self) -> "LinearMap":
        """G'; itself where the matrix is symmetric."""
        return self

    def columns(self, x: State) -> int:
        """Number r of columns, that of the numbers in a row of ``x`` where the matrix is square."""
        return x[0].numel()

    def dense(self, x: State) -> Tensor:
        """The matrices ``b d r`` over the flattened event of rows ``x``."""
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
        return torch.stack([self.times(unit.expand(x.shape)).flatten(1) for unit in units], 2)


@dataclass(frozen=True)
class ValueMap(LinearMap):
    """A map that is one tensor, in the form that functions of the package give and take a matrix in.

    Attributes:
        value: ``b`` for a scalar per row, ``b d`` for a diagonal over the flattened event, ``b d r`` for a matrix.
    """

    value: Tensor

    def stretched(self, factor: float | Tensor) -> Self:
        return type(self)(factor * self.value)

    def squared(self) -> Self:
        """G G', the covariance of the noise that the map scales."""
        return type(self)(self.value.square())

    def detach(self) -> Self:
        """The map as numbers, without gradients."""
        return type(self)(self.value.detach())

    def rows(self, index: Tensor | slice) -> Self:
        """The maps of some of the rows: a batch."""
        return type(self)(self.value[index])


@final
@dataclass(frozen=True)
class Isotropic(ValueMap):
    """A number per row, shape ``b``."""

    def times(self, e: State) -> State:
        return expand_as_rows(self.value, e) * e

    def solve(self, y: State) -> State:
        return y / expand_as_rows(self.value, y)

    def log_det(self, x: State) -> Nats:
        return x[0].numel() * self.value.double().abs().log().expand(len(x))

    def dense(self, x: State) -> Tensor:
        return Diagonal(self.value[:, None].expand(-1, x[0].numel())).dense(x)


@final
@dataclass(frozen=True)
class Diagonal(ValueMap):
    """A number per row and dimension, shape ``b d``."""

    def times(self, e: State) -> State:
        return self.value.reshape(e.shape) * e

    def solve(self, y: State) -> State:
        return y / self.value.reshape(y.shape)

    def log_det(self, x: State) -> Nats:
        return sum_event(self.value.double().abs().log())

    def dense(self, x: State) -> Tensor:
        return torch.diag_embed(self.value)


@final
@dataclass(frozen=True)
class Full(ValueMap):
    """A matrix per row over the flattened event, shape ``b d r``; invertible only if r = d."""

    def times(self, e: State) -> State:
        """Matrix times vector; in the shape of ``e`` where the matrix is square, else flattened."""
        image = (self.value @ e.flatten(1)[:, :, None])[:, :, 0]
        return image.reshape(e.shape) if self.value.shape[1] == self.value.shape[2] else image

    def solve(self, y: State) -> State:
        return torch.linalg.solve(self.value, y.flatten(1)[:, :, None])[:, :, 0].reshape(y.shape)

    def log_det(self, x: State) -> Nats:
        return torch.linalg.slogdet(self.value.double()).logabsdet

    def squared(self) -> "Full":
        return Full(self.value @ self.value.mT)

    def transpose(self) -> "Full":
        return Full(self.value.mT)

    def columns(self, x: State) -> int:
        return self.value.shape[2]

    def dense(self, x: State) -> Tensor:
        return self.value


@final
@dataclass(frozen=True)
class Triangular(LinearMap):
    """A number per row times a unit lower triangular matrix over the flattened event.

    Attributes:
        value: the numbers, shape ``b``.
        below: the matrix, ``d d`` for all rows or ``b d d``; what is not strictly below its diagonal is not read.
    """

    value: Tensor
    below: Tensor

    def times(self, e: State) -> State:
        flat = e.flatten(1)
        moved = flat + (self.below.tril(-1) @ flat[:, :, None])[:, :, 0]
        return expand_as_rows(self.value, e) * moved.reshape(e.shape)

    def solve(self, y: State) -> State:
        flat = y.flatten(1)
        if self.below.ndim == 2:  # one system with all rows as right sides
            solved = torch.linalg.solve_triangular(self.below, flat.T, upper=False, unitriangular=True).T
        else:
            columns = flat[:, :, None]
            solved = torch.linalg.solve_triangular(self.below, columns, upper=False, unitriangular=True)[:, :, 0]
        return solved.reshape(y.shape) / expand_as_rows(self.value, y)

    def log_det(self, x: State) -> Nats:
        return Isotropic(self.value).log_det(x)

    def stretched(self, factor: float | Tensor) -> "Triangular":
        return Triangular(factor * self.value, self.below)

    def transpose(self) -> Full:
        unit = torch.eye(self.below.shape[-1], dtype=self.below.dtype, device=self.below.device)
        return Full((self.value[:, None, None] * (unit + self.below.tril(-1))).mT)


@final
@dataclass(frozen=True)
class Spectral(LinearMap):
    """A positive function of a Gaussian's covariance, the same for every row.

    Attributes:
        law: the Gaussian.
        function: from variances, shape ``r`` or ``1 r``, to scales of the same shape.
    """

    law: Gaussian
    function: Callable[[Tensor], Tensor]

    def times(self, e: State) -> State:
        return self.law.spectral(e, self.function)

    def solve(self, y: State) -> State:
        return self.law.spectral(y, lambda v: 1.0 / self.function(v))

    def log_det(self, x: State) -> Nats:
        return self.function(self.law.spectrum()).log().sum().expand(len(x))

    def relative_spectrum(self, other: "Spectral") -> Tensor | None:
        """Scales in units of another map's, ``d``; ``None`` where the Gaussians have other axes."""
        mine, theirs = self.law.basis, other.law.basis
        if mine is not theirs and (mine is None or theirs is None or not torch.equal(mine, theirs)):
            return None
        return self.function(self.law.spectrum()) / other.function(other.law.spectrum())

    def stretched(self, factor: float | Tensor) -> "Spectral":
        return Spectral(self.law, lambda v: factor * self.function(v))


def map_of(value: Tensor, x: State, name: str = "diffusion(t, x)") -> ValueMap:
    """Read a matrix at rows ``x`` by its shape: a scalar ``b``, a diagonal ``b *d`` or ``b d``, a matrix ``b d r``.

    Args:
        value: the tensor.
        x: rows ``b *d``.
        name: what gave the tensor, for the sentence.

    Raises:
        InputError: for any other shape.

    Example:
        >>> map_of(torch.full((3,), 2.0), torch.zeros(3, 4)).times(torch.ones(3, 4))[0]
        tensor([2., 2., 2., 2.])
    """
    n, d = len(x), x[0].numel()
    cast = value.to(x.dtype)
    if value.shape == (n,):
        return Isotropic(cast)
    if value.shape in (x.shape, (n, d)):
        return Diagonal(cast.flatten(1))
    if value.ndim == 3 and value.shape[:2] == (n, d):
        return Full(cast)
    raise InputError(
        f"{name} must have shape ({n},), {tuple(x.shape)} or ({n}, {d}, r) for rows of shape {tuple(x.shape)}; "
        f"got {tuple(value.shape)}"
    )
