"""Members that the laws run over: maps of a few rows, flows, and matrices in d = 1, 2, 5; a new one is one line."""

from collections.abc import Callable

import torch
import zuko
from torch import Tensor
from torch.distributions import transforms as torch_transforms

import girsanov as gv
from girsanov.linear import (
    Constant,
    ContinuousFlow,
    DiffusionMatrix,
    FlowMatrix,
    Function,
    Identity,
    LinearMap,
    Radial,
    Spectral,
    Triangular,
    map_of,
)
from girsanov.transforms import Gaussianise, Standardise
from tests.seeds import seeded

SHAPE = (2, 3)  #: of the rows that the maps below act on
N = 5


def draw(*size: int) -> Tensor:
    return torch.randn(*size, generator=seeded(0))


def positive(*size: int) -> Tensor:
    return 0.5 + torch.rand(*size, generator=seeded(0))


def law(covariance: Tensor) -> gv.Gaussian:
    return gv.Gaussian(torch.zeros(SHAPE), covariance)


def low_rank() -> gv.Gaussian:
    basis = torch.linalg.qr(draw(6, 2))[0]
    return gv.Gaussian.from_spectrum(torch.zeros(SHAPE), basis, positive(2), 0.3)


#: name -> constructor of a map for N rows of SHAPE (call it inside a test, where float64 is the default)
MAPS: dict[str, Callable[[], LinearMap]] = {
    "isotropic": lambda: map_of(positive(N), draw(N, *SHAPE)),
    "diagonal": lambda: map_of(positive(N, *SHAPE), draw(N, *SHAPE)),
    "flat diagonal": lambda: map_of(-positive(N, 6), draw(N, *SHAPE)),
    "full": lambda: map_of(torch.eye(6) + 0.3 * draw(N, 6, 6), draw(N, *SHAPE)),
    "triangular": lambda: Triangular(positive(N), draw(6, 6)),
    "triangular, each": lambda: Triangular(positive(N), draw(N, 6, 6)),
    "spectral": lambda: Spectral(law(draw(6, 6) @ draw(6, 6).T + torch.eye(6)), lambda v: (v / (1.0 + v)).sqrt()),
    "spectral, diagonal": lambda: Spectral(law(positive(*SHAPE)), torch.sqrt),
    "spectral, low rank": lambda: Spectral(low_rank(), torch.sqrt),
}


def affine(d: int) -> object:
    """A full affine map of torch."""
    generator = seeded(d)
    factor = torch.eye(d) + 0.3 * torch.randn(d, d, generator=generator)
    return lambda x: x @ factor.T + 0.4


def spline(d: int) -> object:
    """zuko's neural spline flow with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(d)
        return zuko.flows.NSF(d, transforms=2, hidden_features=(8,), bins=6).requires_grad_(False)


def continuous(d: int) -> object:
    """The Runge-Kutta map of a nonlinear velocity."""
    generator = seeded(d)
    weight = 0.7 * torch.randn(d, d, generator=generator)
    return ContinuousFlow(lambda t, x: torch.tanh(x @ weight.T + t[:, None]) - 0.3 * x, steps=4)


def columns(d: int) -> object:
    """Our column-wise Gaussianisation of skewed rows."""
    generator = seeded(d)
    x = torch.randn(600, d, generator=generator) + 0.3 * torch.randn(600, d, generator=generator).exp()
    return Gaussianise.fit(x[::2], x[1::2], step=torch.zeros(d))


def composed(d: int) -> object:
    """A transform of torch whose log-determinant is elementwise."""
    return torch_transforms.ComposeTransform([torch_transforms.AffineTransform(0.5, 2.0), Sinh()])


class Sinh(torch_transforms.Transform):
    """The inverse of asinh(x): heavy tails made light, with both directions and the log-determinant."""

    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.asinh(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.sinh(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * torch.log1p(x.square())


#: name -> constructor of a flow in d dimensions (call it inside a test, where float64 is the default)
FLOWS: dict[str, Callable[[int], object]] = {
    "affine": affine,
    "standardise": lambda d: Standardise((d,), torch.ones(d), torch.full((d,), 2.0)),
    "spline": spline,
    "continuous": continuous,
    "columns": columns,
    "torch": composed,
}
DIMENSIONS = (1, 2, 5)


def mixing(d: int, r: int) -> Callable[[Tensor], Tensor]:
    """A smooth matrix d r of every row."""
    weight = torch.randn(d, r, d, generator=seeded(10 * d + r))
    return lambda x: torch.eye(d, r) + 0.4 * torch.sin(torch.einsum("icj,nj->nic", weight, x))


#: name -> constructor of a matrix in d dimensions
MATRICES: dict[str, Callable[[int], DiffusionMatrix]] = {
    "identity": lambda d: Identity(),
    "scalar-constant": lambda d: Constant(torch.tensor(0.7)),
    "constant": lambda d: Constant(torch.eye(d) + 0.2 * torch.ones(d, d).triu()),
    "wide-constant": lambda d: Constant(torch.cat([torch.eye(d), torch.ones(d, 1)], 1)),
    "scalar": lambda d: Function(lambda x: 1.0 + 0.3 * x.square().sum(1)),
    "diagonal": lambda d: Function(lambda x: 1.0 + 0.5 * torch.sin(x + x.roll(1, 1))),
    "square": lambda d: Function(mixing(d, d)),
    "wide": lambda d: Function(mixing(d, d + 1)),
    "robust": lambda d: Radial(torch.zeros(d), torch.ones(d), power=-0.5),
    "heavy": lambda d: Radial(torch.full((d,), 0.3), torch.full((d,), 2.0), power=0.5, freedom=3.0),
    **{f"flow-{name}": lambda d, make=make: FlowMatrix(make(d)) for name, make in FLOWS.items()},
}
