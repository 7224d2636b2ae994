"""Laws of every chain of Gaussian steps, against the densities of its steps as dense matrices."""

import inspect
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from girsanov import bridges
from girsanov.pairs import Chain, GaussianKernel
from tests.pairs.registry import CHAINS, each_chain
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


class Blocks:
    """A source of noise that is the same however many blocks are asked for at once."""

    def __init__(self, chain, n, shape, seed=0):
        self.eps = torch.randn(chain.length + 1, n, *shape, generator=seeded(seed))
        self.taken = 0

    def __call__(self, count):
        self.taken += count
        return self.eps[self.taken - count : self.taken]

    def of(self, rows):
        """Fresh, for some of the rows."""
        found = Blocks.__new__(Blocks)
        found.eps, found.taken = self.eps[:, rows], 0
        return found


def rows(n, shape, seed=3):
    return torch.randn(n, *shape, generator=seeded(seed))


def matrices(kernel, eps):
    """Derivative of a step's change in its noise, ``n d d``."""
    eps = eps.detach().requires_grad_()
    change = kernel.change(eps).flatten(1)
    rows = [torch.autograd.grad(own.sum(), eps, retain_graph=True)[0].flatten(1) for own in change.unbind(1)]
    return torch.stack(rows, 1)


def log_density(kernel, change):
    """Of a step, by its noise and the dense derivative there."""
    eps = kernel.noise(change)
    torch.testing.assert_close(kernel.change(eps), change)
    normal = -0.5 * (eps.flatten(1).square() + math.log(2.0 * math.pi)).sum(1)
    return normal - torch.linalg.slogdet(matrices(kernel, eps)).logabsdet


def kinds(parent=Chain):
    """Chains of the package that can be made."""
    for kind in parent.__subclasses__():
        yield from kinds(kind)
        if kind.__module__.startswith("girsanov.") and not inspect.isabstract(kind):
            yield kind


def test_every_kind_of_chain_is_under_the_laws():
    ours = set(kinds())
    assert bridges.BridgeChain in ours
    assert {type(make()[0]) for make in CHAINS.values()} == ours


@each_chain
def test_the_log_weight_is_the_ratio_of_the_densities_of_the_steps(make):
    chain, shape = make()
    x, noise = rows(5, shape), Blocks(chain, 5, shape)
    found = chain.log_weights(x, noise)
    eps = iter(noise.eps)
    state, expected = chain.begin(x, next(eps) if noise.taken > chain.length else torch.zeros_like(x))
    for k in range(chain.length):
        forward = chain.encode(k, state)
        following = state + forward.change(next(eps))
        backward = chain.decode(k, following)
        expected = expected + log_density(backward, state - following) - log_density(forward, following - state)
        state = following
    torch.testing.assert_close(found, expected + chain.log_prior(state), rtol=1e-8, atol=1e-8)
    assert found.dtype == torch.float64


@each_chain
def test_a_kernel_finds_the_noise_of_a_change_and_has_its_density(make):
    chain, shape = make()
    x = rows(4, shape)
    for kernel in (chain.encode(0, x), chain.decode(chain.length - 1, x)):
        eps = rows(4, shape, seed=5)
        change = kernel.change(eps)
        torch.testing.assert_close(kernel.noise(change), eps)
        torch.testing.assert_close(kernel.log_det(change), torch.linalg.slogdet(matrices(kernel, eps)).logabsdet)
        torch.testing.assert_close(kernel.log_prob(change), log_density(kernel, change))
        if isinstance(kernel, GaussianKernel):
            root = matrices(kernel, eps)
            law = MultivariateNormal(kernel.shift.flatten(1), root @ root.mT)
            torch.testing.assert_close(kernel.log_prob(change), law.log_prob(change.flatten(1)))


@each_chain
def test_rows_do_not_see_each_other_and_checkpoints_change_nothing(make):
    chain, shape = make()
    x, noise = rows(5, shape), Blocks(chain, 5, shape)
    together = chain.log_weights(x, noise)
    torch.testing.assert_close(chain.log_weights(x[1:3], noise.of([1, 2])), together[1:3], rtol=1e-10, atol=1e-10)
    saved = chain.log_weights(x.requires_grad_(), noise.of(range(5)), checkpoint=True)
    torch.testing.assert_close(saved, together)


@each_chain
def test_draws_have_the_weight_of_a_path_of_the_posterior(make):
    """With w of a draw's own path and w' of an encoder's path from it, d = log w' - log w has p(-d) = e^d p(d).

    So the bounded f(d) = 2 sigmoid(d) tanh(d/2) has mean 0: 4.5 standard errors, false alarm 7e-6 for each chain.
    """
    chain, shape = make()
    n = 4000
    with torch.no_grad():
        x, upper = chain.sample(n, generator=seeded(1))
        d = chain.log_weights(x, Blocks(chain, n, shape, seed=2)) - upper
    f = 2.0 * torch.sigmoid(d) * torch.tanh(0.5 * d)
    assert x.shape == (n, *shape)
    assert abs(float(f.mean())) < 4.5 * float(f.std()) / math.sqrt(n) + 1e-9
