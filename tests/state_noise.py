"""Pairs whose noise depends on the state, with log-densities in closed form; the generative process of each is exact.

Each inverts its inference process, so that bounds have no gap but that of their steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Gamma, MultivariateNormal

import girsanov as gv
from girsanov.densities import Density


class Law(Density):
    """A law by its log-density, and its draws where a test needs them."""

    def __init__(self, log_prob: Callable, draw: Callable, dim: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([dim])
        self._log_prob, self._draw = log_prob, draw

    def log_prob(self, x):
        return self._log_prob(x.double())

    def sample(self, n, *, generator=None):
        return self._draw(n, generator)

    def diffused(self, alpha, sigma):
        raise NotImplementedError

    def diffused_score(self, alpha, sigma, x):
        raise NotImplementedError


class Inference(gv.processes.Process):
    """A process by its drift and coefficient."""

    horizon = 1.0

    def __init__(self, drift: Callable, coefficient: Callable) -> None:
        super().__init__()
        self._drift, self._coefficient = drift, coefficient

    def drift(self, t, x, condition=None):
        return self._drift(t, x)

    def diffusion(self, t, x):
        return self._coefficient(x)


@dataclass(frozen=True)
class Case:
    """A pair, rows, and their log-densities under its generative process."""

    pair: gv.Pair
    x: Tensor
    truth: Tensor


def geometric() -> Case:
    """Geometric Brownian motion dX = m X ds + 0.4 X dW in each of two dimensions, from a log-normal law."""
    drift, sigma = torch.tensor([0.3, -0.2]).double(), 0.4
    mean, variance = torch.tensor([0.1, -0.1]).double(), torch.tensor([0.2, 0.1]).double()

    def moments(s):
        return mean + (drift - 0.5 * sigma**2) * s, variance + sigma**2 * s

    def log_prob(x, s):
        centre, spread = moments(s)
        each = -((x.log() - centre) ** 2) / (2 * spread) - x.log() - 0.5 * (2 * math.pi * spread).log()
        return each.sum(1)

    def draw(n, generator):
        return (mean + variance.sqrt() * torch.randn(n, 2, generator=generator, dtype=torch.float64)).exp()

    def upward(t, x):
        centre, spread = moments(1.0 - t[:, None])
        score = -(x.log() - centre) / (spread * x) - 1.0 / x
        return -drift * x + 2.0 * sigma**2 * x + sigma**2 * x**2 * score

    x = torch.tensor([[1.0, 0.7], [1.6, 1.2]]).double()
    inference = Inference(upward, lambda x: sigma * x)
    pair = gv.Pair(inference, lambda t, x: -drift * x, Law(lambda x: log_prob(x, 0.0), draw, 2))
    return Case(pair, x, log_prob(x, 1.0))


def square_root() -> Case:
    """Cox, Ingersoll and Ross: dX = k (m - X) ds + g sqrt(X) dW, whose gamma laws of shape 2km/g^2 stay gamma laws."""
    k, m, g, first = 1.5, 1.0, 0.5, 0.3
    shape = 2.0 * k * m / g**2

    def scale(s):
        decay = torch.exp(torch.as_tensor(-k * s, dtype=torch.float64))
        return first / shape * decay + g**2 / (2.0 * k) * (1.0 - decay)

    def log_prob(x, s):
        return Gamma(shape, 1.0 / scale(s)).log_prob(x[:, 0])

    def draw(n, generator):
        with torch.random.fork_rng():
            torch.manual_seed(generator.initial_seed())
            return Gamma(torch.tensor(shape).double(), 1.0 / scale(0.0)).sample((n, 1))

    def upward(t, x):
        score = (shape - 1.0) / x - 1.0 / scale(1.0 - t)[:, None]
        return -k * (m - x) + g**2 + g**2 * x * score

    x = torch.tensor([[0.7], [1.4]]).double()
    inference = Inference(upward, lambda x: g * x.sqrt())
    pair = gv.Pair(inference, lambda t, x: -k * (m - x), Law(lambda x: log_prob(x, 0.0), draw, 1))
    return Case(pair, x, log_prob(x, 1.0))


def matrix() -> Case:
    """A curved plane: x = (sinh y1, y2 + y1^2 / 2) for dY = R dW, whose coefficient is the matrix S'(y) R."""
    root = torch.tensor([[0.7, 0.2], [-0.3, 0.6]]).double()
    centre, first = torch.tensor([0.2, -0.1]).double(), torch.tensor([[0.3, 0.1], [0.1, 0.5]]).double()
    square = root @ root.T

    def flat(x):
        y = torch.asinh(x[:, 0])
        return torch.stack([y, x[:, 1] - 0.5 * y**2], 1)

    def slope(y):
        one, zero = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
        return torch.stack([torch.stack([y[:, 0].cosh(), zero], 1), torch.stack([y[:, 0], one], 1)], 1)

    def bend(y):  # Ito's term of S
        return 0.5 * square[0, 0] * torch.stack([y[:, 0].sinh(), torch.ones_like(y[:, 0])], 1)

    def log_prob(x, s):
        y = flat(x)
        return MultivariateNormal(centre, first + s * square).log_prob(y) - y[:, 0].cosh().log()

    def draw(n, generator):
        y = centre + torch.randn(n, 2, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(first).T
        return torch.stack([y[:, 0].sinh(), y[:, 1] + 0.5 * y[:, 0] ** 2], 1)

    def upward(t, x):
        y = flat(x)
        covariance = first + (1.0 - t)[:, None, None] * square
        score = -torch.linalg.solve(covariance, (y - centre)[..., None])[..., 0]
        return (slope(y) @ (score @ square.T)[..., None])[..., 0] + bend(y)

    x = torch.tensor([[0.5, 0.4], [-0.6, 0.1]]).double()
    inference = Inference(upward, lambda x: slope(flat(x)) @ root)
    pair = gv.Pair(inference, lambda t, x: -bend(flat(x)), Law(lambda x: log_prob(x, 0.0), draw, 2))
    return Case(pair, x, log_prob(x, 1.0))


CASES = {"geometric": geometric, "square root": square_root, "matrix": matrix}


#: coefficients on the whole plane, bounded from both sides
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "isotropic": lambda x: 0.8 + 0.2 * x.sin().sum(1),
    "diagonal": lambda x: 0.7 + 0.2 * (x + 0.5 * x.flip(1)).sin(),
    "full": lambda x: 0.6 * torch.eye(2, dtype=x.dtype) + 0.15 * torch.stack([x.sin(), x.flip(1).cos()], 2),
}


def bounded(kind: str) -> gv.Pair:
    """Two processes that do not undo each other, whose steps exist wherever they begin."""
    inference = Inference(lambda t, x: -0.5 * x, BOUNDED[kind])
    return gv.Pair(inference, lambda t, x: 0.3 * x.tanh(), gv.Gaussian(torch.zeros(2), 1.0))
