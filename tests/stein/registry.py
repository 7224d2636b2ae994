"""Members that the laws of paper 4 run over: matrices and flows in d = 1, 2, 5, and an unnormalised model."""

from collections.abc import Callable

import torch
import zuko
from torch import Tensor
from torch.distributions import transforms as torch_transforms

from girsanov.stein import ContinuousFlow, DiffusionMatrix, FlowMatrix, Function, Radial
from girsanov.transforms import Gaussianise, Standardise
from tests.seeds import seeded


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
MATRICES: dict[str, Callable[[int], DiffusionMatrix | object]] = {
    "identity": lambda d: None,
    "scalar-constant": lambda d: torch.tensor(0.7),
    "constant": lambda d: torch.eye(d) + 0.2 * torch.ones(d, d).triu(),
    "wide-constant": lambda d: torch.cat([torch.eye(d), torch.ones(d, 1)], 1),
    "scalar": lambda d: lambda x: 1.0 + 0.3 * x.square().sum(1),
    "diagonal": lambda d: lambda x: 1.0 + 0.5 * torch.sin(x + x.roll(1, 1)),
    "square": lambda d: Function(mixing(d, d)),
    "wide": lambda d: Function(mixing(d, d + 1)),
    "robust": lambda d: Radial(torch.zeros(d), torch.ones(d), power=-0.5),
    "heavy": lambda d: Radial(torch.full((d,), 0.3), torch.full((d,), 2.0), power=0.5, freedom=3.0),
    **{f"flow-{name}": lambda d, make=make: FlowMatrix(make(d)) for name, make in FLOWS.items()},
}


def potential(x: Tensor, strength: Tensor | float = 0.25) -> Tensor:
    """An unnormalised log-density that is neither Gaussian nor radial, shape n."""
    flat = x.flatten(1)
    centre = 0.4 * torch.cos(torch.arange(flat.shape[1], dtype=flat.dtype))
    quadratic = (flat - centre).square().sum(1) + 0.3 * (flat * flat.roll(1, 1)).sum(1)
    return -strength * quadratic.square() / (1.0 + flat.square().sum(1)) - 0.1 * flat.square().sum(1)


def score_of(log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a log-density, differentiable."""

    def score(x: Tensor) -> Tensor:
        point = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(log_density(point).sum(), point, create_graph=True)[0]

    return score
