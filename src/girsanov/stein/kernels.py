r"""Radial kernels for Stein discrepancies, and the bandwidths they take from data.

A radial kernel is :math:`k(x, y) = \varphi(u)` with :math:`u = \|x - y\|^2`. A Stein kernel needs
:math:`\varphi, \varphi', \varphi''` only through the combination

.. math::
    \varphi\, W + 2 \varphi' D - 4 \varphi'' Q
    = \varphi\, \big( W + 2 \rho_1 (D - 2 \rho_2 Q) \big),
    \qquad \rho_1 = \varphi' / \varphi, \quad \rho_2 = \varphi'' / \varphi'

(note of paper 4, section 2.5, equation 6), so a kernel gives :math:`(\varphi, \rho_1, \rho_2)`: three numbers per
pair that neither overflow nor cancel. All kernels here are positive and decreasing in u.
"""

__all__ = [
    "KERNELS",
    "InverseLog",
    "InverseMultiquadric",
    "Matern",
    "RadialKernel",
    "SquaredExponential",
    "bandwidth_collection",
    "listed_kernels",
    "median_bandwidth",
    "resolve_kernel",
    "resolve_kernels",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from girsanov.inputs import checked
from girsanov.randomness import seed_of
from girsanov.types import InputError, State

SAMPLED_ROWS = 1000  # rows whose pairwise distances stand for all


@dataclass(frozen=True)
class RadialKernel(ABC):
    """A kernel that depends on the squared distance alone.

    To implement one, define :meth:`profile`.

    Attributes:
        bandwidth: length scale, in the units of the points; ``None`` is the median distance of the points. A tensor
            is differentiated through.
    """

    bandwidth: float | Tensor | None = None

    @abstractmethod
    def profile(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel, and its derivatives as ratios, at squared distances ``u`` of any shape.

        Returns:
            phi, phi'/phi and phi''/phi', derivatives in ``u``, of the shape of ``u`` or scalars.
        """

    @property
    def squared_bandwidth(self) -> float | Tensor:
        """The square of the bandwidth.

        Raises:
            InputError: if there is none yet.
        """
        if self.bandwidth is None:
            raise InputError("This kernel has no bandwidth yet: give one, or let a discrepancy take it from its points")
        return self.bandwidth**2

    def in_units(self, unit: float) -> "RadialKernel":
        """The same kernel of points that are divided by ``unit``."""
        return self if self.bandwidth is None else replace(self, bandwidth=self.bandwidth / unit)

    def fitted(self, bandwidth: float) -> "RadialKernel":
        """The kernel itself where it has a bandwidth, else with this one."""
        return self if self.bandwidth is not None else replace(self, bandwidth=bandwidth)


@final
@dataclass(frozen=True)
class InverseMultiquadric(RadialKernel):
    r""":math:`(1 + u/\ell^2)^{-\beta}`: its slow decay lets the discrepancy control convergence.

    Attributes:
        bandwidth: the length :math:`\ell`.
        exponent: :math:`\beta` between 0 and 1, the positive one; some write -1/2 for our 1/2.

    Example:
        >>> InverseMultiquadric(2.0).profile(torch.tensor([0.0, 12.0]))[0]
        tensor([1.0000, 0.5000])
    """

    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.exponent < 1.0:
            raise InputError(f"The exponent of an inverse multiquadric lies between 0 and 1; got {self.exponent}")

    def profile(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = self.squared_bandwidth
        v = (1.0 + u / square).reciprocal()
        phi = v.sqrt() if self.exponent == 0.5 else v**self.exponent
        return phi, v * (-self.exponent / square), v * (-(self.exponent + 1.0) / square)


@final
@dataclass(frozen=True)
class SquaredExponential(RadialKernel):
    r""":math:`\exp(-u / 2\ell^2)`: loses its power in many dimensions; the usual choice of older tests.

    Example:
        >>> SquaredExponential(1.0).profile(torch.tensor([0.0, 2.0]))[0]
        tensor([1.0000, 0.3679])
    """

    def profile(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.as_tensor(-0.5 / self.squared_bandwidth, dtype=u.dtype, device=u.device)
        return (u * slope).exp(), slope, slope


@final
@dataclass(frozen=True)
class Matern(RadialKernel):
    r"""Matern kernel of smoothness 5/2, :math:`(1 + s + s^2/3) e^{-s}` with :math:`s = \sqrt{5u}/\ell`.

    Example:
        >>> Matern(1.0).profile(torch.tensor([0.0, 1.0]))[0]
        tensor([1.0000, 0.5240])
    """

    def profile(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = self.squared_bandwidth
        s = (5.0 * u / square).clamp_min(torch.finfo(u.dtype).tiny).sqrt()  # so that equal points have a gradient
        polynomial = 1.0 + s + s.square() / 3.0
        first = (1.0 + s) / polynomial * (-5.0 / (6.0 * square))
        return polynomial * (-s).exp(), first, (1.0 + s).reciprocal() * (-5.0 / (2.0 * square))


@final
@dataclass(frozen=True)
class InverseLog(RadialKernel):
    r""":math:`1 / (1 + \log(1 + u/\ell^2))`: decays more slowly than every inverse multiquadric.

    Example:
        >>> InverseLog(1.0).profile(torch.tensor([0.0, 1.0]))[0]
        tensor([1.0000, 0.5906])
    """

    def profile(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = self.squared_bandwidth
        phi = (1.0 + (u / square).log1p()).reciprocal()
        v = (1.0 + u / square).reciprocal() / square
        return phi, -phi * v, -v * (1.0 + 2.0 * phi)


#: name -> kernel without a bandwidth
KERNELS: dict[str, RadialKernel] = {
    "imq": InverseMultiquadric(),
    "gaussian": SquaredExponential(),
    "matern": Matern(),
    "inverse_log": InverseLog(),
}

KernelLike: TypeAlias = str | RadialKernel


@checked
def median_bandwidth(x: State, *, generator: torch.Generator | None = None) -> float:
    """Median distance between different points, of 1,000 rows drawn at random where there are more.

    Args:
        x: rows ``n *d``, two or more.
        generator: decides which rows; ``None`` means seed 0.

    Raises:
        InputError: for fewer than two rows, or rows that are all equal.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    distances = _distances(x, generator)
    positive = distances[distances > 0]
    if not len(positive):
        raise InputError("All points are equal, so there is no scale: give different points, or a bandwidth")
    return float(positive.median())


@checked
def bandwidth_collection(x: State, count: int = 10, *, generator: torch.Generator | None = None) -> list[float]:
    r"""Bandwidths for a test that aggregates over them, geometric from median/(10 d) to maximum/d.

    The rule of Schrab et al. (KSDAgg, note of paper 4, section 6.2) with a tenth of the median distance in the place
    of their unit, so that the bandwidths follow the units of the points.

    Args:
        x: rows ``n *d``.
        count: number of bandwidths.
        generator: decides which rows are looked at; ``None`` means seed 0.

    Example:
        >>> [round(value, 3) for value in bandwidth_collection(torch.tensor([[0.0], [1.0], [3.0]]), 3)]
        [0.2, 0.775, 3.0]
    """
    distances = _distances(x, generator)
    d = x[0].numel()
    low, high = median_bandwidth(x, generator=generator) / (10 * d), float(distances.max()) / d
    return [low * (high / low) ** (i / max(count - 1, 1)) for i in range(count)]


def resolve_kernels(
    kernel: KernelLike | Sequence[KernelLike] | None, x: State, *, generator: torch.Generator | None = None
) -> tuple[RadialKernel, ...]:
    """The kernels that an argument means, each with a bandwidth.

    Args:
        kernel: a name of :data:`KERNELS`, a kernel, several of them, or ``None`` for the inverse multiquadric.
        x: the points from which missing bandwidths are taken, ``n *d``.
        generator: decides which rows are looked at; ``None`` means seed 0.

    Raises:
        InputError: for an unknown name, no kernel, or a bandwidth that is not positive.
    """
    found = [_named(member) for member in listed_kernels(kernel)]
    if not found:
        raise InputError("An empty list of kernels: give one or more")
    if any(member.bandwidth is None for member in found):
        bandwidth = median_bandwidth(x, generator=generator)
        found = [member.fitted(bandwidth) for member in found]
    for member in found:
        if not (0.0 < float(member.squared_bandwidth) < math.inf and float(member.bandwidth or 0.0) > 0.0):
            raise InputError(f"A bandwidth must be positive and finite; got {member.bandwidth}")
    return tuple(found)


def resolve_kernel(
    kernel: KernelLike | Sequence[KernelLike] | None, x: State, purpose: str, generator: torch.Generator | None = None
) -> RadialKernel:
    """The one kernel that an argument means, see :func:`resolve_kernels`.

    Raises:
        InputError: for several, with the purpose.
    """
    found = resolve_kernels(kernel, x, generator=generator)
    if len(found) != 1:
        raise InputError(f"{purpose} under one kernel: give one")
    return found[0]


def listed_kernels(kernel: KernelLike | Sequence[KernelLike] | None) -> list[KernelLike]:
    """The kernels that an argument means, by name or with what bandwidths they have."""
    if isinstance(kernel, Sequence) and not isinstance(kernel, str):
        return list(kernel)
    return ["imq" if kernel is None else kernel]


def _named(kernel: KernelLike) -> RadialKernel:
    if isinstance(kernel, RadialKernel):
        return kernel
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise InputError(f"Unknown kernel {kernel!r}: choose one of {', '.join(KERNELS)}")
    return KERNELS[kernel]


def _distances(x: State, generator: torch.Generator | None) -> Tensor:
    """Distances between the chosen rows, one of each pair, float64."""
    if len(x) < 2:
        raise InputError(f"A bandwidth needs at least 2 rows; got {len(x)}")
    rows = x.detach().flatten(1)
    if len(rows) > SAMPLED_ROWS:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed_of(generator)))
        rows = rows[chosen[:SAMPLED_ROWS].to(rows.device)]
    return torch.pdist(rows.double() - rows.double().mean(0))
