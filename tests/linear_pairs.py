"""Closed forms of linear Gaussian pairs, with dense linear algebra; and exact means of quadratic log-weights."""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from girsanov.densities import Gaussian
from girsanov.pairs import EulerChain, Pair
from girsanov.processes import Process


class LinearSDE(Process):
    """dX = (A(t) X + b(t)) dt + G(t) dW for callables of the scalar time; G scalar, diagonal or matrix."""

    def __init__(self, matrix, offset, coefficient, horizon=1.0):
        super().__init__()
        self.matrix, self.offset, self.coefficient, self.horizon = matrix, offset, coefficient, horizon

    def drift(self, t, x):
        a, b = self.matrix(t[0]), self.offset(t[0])
        return (x.flatten(1) @ a.T + b).reshape(x.shape)

    def diffusion(self, t, x):
        g = self.coefficient(t[0])
        if g.ndim == 1:
            return g.reshape(x.shape[1:]).expand(x.shape)
        return g.expand(len(x), *g.shape)


def random_linear_pair(
    d: int, steps: int, seed: int, shape=None, kind="isotropic"
) -> tuple[EulerChain, "LinearSDE", "LinearSDE"]:
    """A chain of two linear processes with a Gaussian prior; their numbers are a case that no offset moves.

    Other numbers would be another case: weights of some are so heavy-tailed that no mean of them settles.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator)

    a, b, c, e = 0.7 * draw(d, d), draw(d), 0.7 * draw(d, d), draw(d)
    g0, g1 = 0.5 + torch.rand((), generator=generator), 0.5 * torch.rand((), generator=generator)
    spread = {"isotropic": torch.ones(()), "diagonal": 0.5 + torch.rand(d, generator=generator)}.get(kind)
    if kind == "matrix":
        spread = torch.eye(d) + 0.3 * draw(d, d)

    def coefficient(t):
        return (g0 + g1 * t) * spread

    up = LinearSDE(lambda t: a * (1 - 0.5 * t), lambda t: b * t, coefficient)
    down = LinearSDE(lambda t: c + 0.2 * a * t, lambda t: e, coefficient)
    root = torch.eye(d) + 0.2 * draw(d, d)
    shape = shape or (d,)
    prior = (
        Gaussian(draw(d).reshape(shape), root @ root.T)
        if d > 1
        else Gaussian(draw(*shape), 0.5 + root.square().reshape(shape))
    )
    return EulerChain(Pair(up, down, prior), steps), up, down


def chain_marginal(chain: EulerChain) -> MultivariateNormal:
    """Law of state 0 of a linear Gaussian Euler chain, by recursion of its moments."""
    prior, d = chain.pair.prior, chain.pair.prior.event_dim
    mean, covariance = prior.mean.flatten(), prior.covariance
    down, up = chain.pair.generative, chain.pair.inference
    for k in reversed(range(chain.length)):
        t, following = chain.times[k], chain.times[k + 1]
        h = following - t
        step = torch.eye(d) - h * down.matrix(following)
        g = up.coefficient(t)
        noise = g.square() * torch.eye(d) if g.ndim == 0 else (torch.diag(g.square()) if g.ndim == 1 else g @ g.T)
        stretch = (0.5 * chain.decoder_log_variance[k]).exp().flatten().expand(d)
        mean = step @ mean - h * down.offset(following)
        covariance = step @ covariance @ step.T + h * stretch[:, None] * noise * stretch
    return MultivariateNormal(mean, 0.5 * (covariance + covariance.T))


def mean_of_quadratic(weigh, x: Tensor, draws: int) -> Tensor:
    """Exact mean over standard normal noise of a log-weight that is quadratic in it, for one row ``1 *d``.

    E q(eps) = q(0) + sum_i (q(e_i) + q(-e_i) - 2 q(0)) / 2 over all coordinates of all ``draws`` blocks; ``weigh``
    takes rows and a source of noise.
    """
    size = draws * x[0].numel()
    units = torch.cat([torch.zeros(1, size), torch.eye(size), -torch.eye(size)])
    blocks = iter(units.reshape(len(units), draws, *x.shape[1:]).movedim(1, 0))
    values = weigh(x.expand(len(units), *x.shape[1:]), lambda count: torch.stack([next(blocks) for _ in range(count)]))
    centre = values[0]
    return centre + 0.5 * (values[1:] - centre).sum()


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    return torch.logsumexp(values, dim) - math.log(values.shape[dim])
