"""The chain of two halves: exact for the reference and for closed forms, one weight in all its forms."""

import math

import pytest
import torch

from girsanov.bridges import (
    BridgeChain,
    BridgeNetwork,
    FlatPotentials,
    Half,
    NetworkConfig,
    cosine_times,
    gaussian_bridge,
)
from girsanov.bridges.halves import EndMoments
from girsanov.bridges.potentials import MixturePotentials, QuadraticPotentials
from girsanov.bridges.reference import Clock
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods import chain_elbo
from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck, VariancePreserving
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")
D = 2


def make_chain(reference, potentials, prior=None, steps=6, noise=0.0, **options):
    clock, ends = Clock(reference), EndMoments.of(torch.randn(50, D) - 1.0, torch.randn(50, D) + 1.0)
    halves = []
    for direction in ("forward", "backward"):
        network = BridgeNetwork((D,), NetworkConfig(width=16, blocks=1))
        for parameter in network.parameters():
            parameter.data.add_(noise * torch.randn_like(parameter))
        halves.append(Half(direction, clock, potentials, ends, network))
    times = torch.linspace(0.0, reference.horizon, steps + 1)
    return BridgeChain(*halves, times, prior=prior, **options)


def draws(*shape):
    return torch.randn(*shape, generator=seeded(3), dtype=torch.float64)


REFERENCES = {
    "brownian": BrownianMotion,
    "ou": lambda: OrnsteinUhlenbeck(3.0),
    "stiff": lambda: VariancePreserving(beta_min=0.1, beta_max=10.0),
}


@pytest.mark.parametrize("make", REFERENCES.values(), ids=REFERENCES)
def test_without_pulls_the_encoder_is_the_reference_at_any_number_of_steps(make):
    reference = make()
    chain = make_chain(reference, FlatPotentials(), steps=2)
    n, x = 200_000, torch.tensor([[0.5, -1.0]])
    end = chain.simulate(x.expand(n, D), generator=seeded(0))[-1]
    alpha, sigma = reference.marginal(torch.tensor(reference.horizon))
    stderr = sigma / n**0.5
    assert bool(((end.mean(0) - alpha * x[0]).abs() < 4.5 * stderr).all())  # four z scores: false alarm below 1e-4
    assert bool(((end.var(0) / sigma**2 - 1.0).abs() < 4.5 * (2.0 / n) ** 0.5).all())


@pytest.mark.parametrize("make", REFERENCES.values(), ids=REFERENCES)
def test_closed_form_pulls_approach_the_gaussians_density_from_below(make):
    """In the mean over the start's own rows, where the gap is a divergence: four times the steps leave at most 60 %.

    (Order one half; it is nearer one.) At a single row the chain's own density may be the higher one.
    """
    reference = make()
    bridge = gaussian_bridge(torch.zeros(D), 0.7, torch.full((D,), 0.5), 1.3, reference=reference)
    x = bridge.start.sample(200, generator=seeded(3))
    gaps, slack = [], 0.0
    for steps in (8, 32, 128):
        chain = make_chain(reference, QuadraticPotentials(bridge), prior=bridge.end, steps=steps)
        gap = bridge.start.log_prob(x) - chain_elbo(chain, x, paths=32).value
        slack = max(slack, 5.0 * float(gap.std()) / 200**0.5)
        gaps.append(float(gap.mean()))
        assert gaps[-1] > -slack
    assert gaps[1] < 0.6 * gaps[0] + slack
    assert gaps[2] < 0.6 * gaps[1] + slack
    assert gaps[2] < 0.25


def perturbed(reference, variances):
    """A chain to a Gaussian with random networks and step variances."""
    chain = make_chain(reference, FlatPotentials(), Gaussian(torch.zeros(D), 1.0), noise=0.2, variances=variances)
    for name, parameter in chain.named_parameters():
        if name in ("encoder_log_variance", "decoder_log_variance", "decoder_below"):
            parameter.data.normal_(0.0, 0.3)
    return chain


@pytest.mark.parametrize("variances", ["fixed", "diagonal", "full"])
def test_walk_is_the_log_weight_of_the_general_chain(variances):
    chain = perturbed(BrownianMotion(), variances)
    x, eps = draws(7, D), draws(20, 7, D)
    streams = [iter(eps), iter(eps)]
    general = iter(torch.cat([torch.zeros(1, 7, D), eps]))
    weighed = chain.weigh(x, lambda count: next(streams[0])[None])
    weights = chain.log_weights(x, lambda count: next(general)[None])
    torch.testing.assert_close(chain.log_prior(weighed.end) + weighed.steps, weights)


@pytest.mark.parametrize("variances", ["fixed", "diagonal", "full"])
def test_step_densities_add_up_to_the_log_weight(variances):
    """log w = log prior + sum of log B_k - log F_k, with densities of single steps at numbers of their own."""
    chain = perturbed(OrnsteinUhlenbeck(2.0), variances)
    x = draws(5, D)
    path = chain.simulate(x, generator=seeded(0))
    total = chain.prior.log_prob(path[-1])
    for k in range(chain.length):
        number = torch.full((5,), k)
        change = path[k + 1] - path[k]
        total = total + chain.decode(number, path[k + 1]).log_prob(-change)
        total = total - chain.encode(number, path[k]).log_prob(change)
    generator = seeded(0)
    weighed = chain.weigh(x, lambda count: torch.randn(count, 5, D, generator=generator))
    torch.testing.assert_close(chain.log_prior(weighed.end) + weighed.steps, total)


def test_reference_term_is_the_kl_of_the_steps():
    """Against the closed form of KL(N(m, s) || N(m', s')) summed over the steps of the same path."""
    chain = make_chain(OrnsteinUhlenbeck(2.0), FlatPotentials(), noise=0.2, variances="diagonal")
    chain.encoder_log_variance.data.normal_(0.0, 0.3)
    x = draws(5, D)
    generator = seeded(0)
    found = chain.weigh(x, lambda count: torch.randn(count, 5, D, generator=generator)).reference
    path = chain.simulate(x, generator=seeded(0))
    alpha, tau = chain.get_buffer("alpha"), chain.get_buffer("tau")
    expected = torch.zeros(5)
    for k in range(chain.length):
        mean = path[k] + chain.encode(k, path[k]).shift
        variance = alpha[k + 1] ** 2 * (tau[k + 1] - tau[k])
        own = variance * chain.encoder_log_variance[k].exp()
        plain = alpha[k + 1] / alpha[k] * path[k]
        distance = (mean - plain).square().sum(1) / variance
        expected += 0.5 * (distance + D * (own / variance - 1.0 - (own / variance).log()))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)


def test_paths_are_in_the_order_of_time_both_ways():
    bridge = gaussian_bridge(-5.0 * torch.ones(D), 0.1, 5.0 * torch.ones(D), 0.1, reference=BrownianMotion())
    chain = make_chain(BrownianMotion(), QuadraticPotentials(bridge), steps=40)
    up = chain.simulate(bridge.start.sample(100), "forward")
    down = chain.simulate(bridge.end.sample(100), "backward")
    for path in (up, down):
        assert float(path[0].mean()) < -4.0
        assert float(path[-1].mean()) > 4.0


def test_without_a_prior_there_is_no_bound():
    chain = make_chain(BrownianMotion(), FlatPotentials())
    with pytest.raises(InputError, match="no bound: fit it with prior="):
        chain_elbo(chain, torch.zeros(3, D))
    with pytest.raises(InputError, match="pass rows to start from"):
        chain.sample_prior(3, torch.Generator())


def test_times_must_increase():
    half = make_chain(BrownianMotion(), FlatPotentials()).forward_half
    with pytest.raises(InputError, match="times must increase"):
        BridgeChain(half, half, torch.tensor([0.0, 0.5, 0.5]))


def test_cosine_grid_is_symmetric_and_fine_at_both_ends():
    widths = cosine_times(20, 2.0).diff()
    torch.testing.assert_close(widths, widths.flip(0))
    assert float(widths.sum()) == pytest.approx(2.0)
    assert float(widths[0]) < 0.15 * float(widths[10])


CONDITIONS = {
    "none": ({}, None),
    "labels": ({"classes": 3}, torch.tensor([0, 2, 1, 2, 0, 1])),
    "vectors": ({"condition_dim": 2}, torch.linspace(-1.0, 1.0, 12).reshape(6, 2)),
    "one label": ({"classes": 3}, torch.tensor([2])),
}
SHAPES = {"rows": (D,), "images": (1, 4, 4)}
POTENTIALS = {
    "flat": lambda reference, d: FlatPotentials(),
    "quadratic": lambda reference, d: QuadraticPotentials(
        gaussian_bridge(torch.zeros(d), 0.7, torch.full((d,), 0.5), 1.3, reference=reference)
    ),
    "mixture": lambda reference, d: MixturePotentials(reference, *(random_mixture(d, seed) for seed in (0, 1))),
}


@pytest.mark.parametrize("given", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_rows_may_share_times_in_blocks(direction, shape, given):
    """Three times of two rows each, one for all, and one for each row: the same pulls."""
    options, condition = given
    half = random_half(direction, shape, NetworkConfig(width=8, blocks=1, **options))
    x, times = draws(6, *shape), torch.tensor([0.1, 0.4, 0.8])
    condition = condition if condition is None or condition.dtype == torch.int64 else condition.double()
    each = half(times.repeat_interleave(2), x, condition)
    assert torch.allclose(half(times, x, condition), each)
    for i, t in enumerate(times.split(1)):
        assert torch.allclose(half(t, x, condition)[2 * i : 2 * i + 2], each[2 * i : 2 * i + 2])


@pytest.mark.parametrize("make", POTENTIALS.values(), ids=POTENTIALS)
def test_rows_may_share_times_of_closed_forms(make):
    half = random_half("backward", (D,), NetworkConfig(width=8, blocks=1), make(BrownianMotion(), D))
    x, times = draws(6, D), torch.tensor([0.1, 0.4, 0.8])
    assert torch.allclose(half(times, x), half(times.repeat_interleave(2), x))


def random_half(direction, shape, config, potentials=None):
    clock, ends = Clock(BrownianMotion()), EndMoments.of(draws(50, *shape) - 1.0, 2.0 * draws(50, *shape))
    network = BridgeNetwork(shape, config)
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return Half(direction, clock, potentials or FlatPotentials(), ends, network)


def random_mixture(d, seed):
    g = seeded(seed)
    means, variances = torch.randn(3, d, generator=g), torch.rand(3, d, generator=g) + 0.5
    return GaussianMixture(torch.ones(3) / 3, means, variances)


def test_a_walk_in_blocks_of_few_rows_is_the_same(monkeypatch):
    chain = make_chain(BrownianMotion(), FlatPotentials(), Gaussian(torch.zeros(D), 1.0), noise=0.3)
    x, eps = draws(4, D), draws(chain.length, 4, D)
    found = []
    for rows in (1, 8, 16_384):
        monkeypatch.setattr("girsanov.bridges.chain.ROWS_AT_ONCE", rows)
        blocks = iter(eps)
        found.append(chain.weigh(x, lambda count, blocks=blocks: next(blocks)[None]).steps)
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], found[2])


def test_a_long_walk_of_many_rows_is_not_kept_whole(monkeypatch):
    monkeypatch.setattr("girsanov.bridges.chain.ROWS_AT_ONCE", 4)
    chain = make_chain(BrownianMotion(), FlatPotentials(), Gaussian(torch.zeros(D), 1.0))
    walked = []

    def moves():
        for move in chain.walk(draws(4, D), lambda count: torch.zeros(count, 4, D)):
            walked.append(move.k)
            yield move

    for k, (move, _) in enumerate(chain.returns(moves())):
        assert (move.k, walked) == (k, list(range(k + 1)))


def test_a_network_that_stays_untrained_is_not_evaluated():
    half = random_half("forward", (D,), NetworkConfig(width=8, blocks=1))
    calls, x, t = [], draws(5, D), torch.tensor([0.3])
    half.network.register_forward_hook(lambda *args: calls.append(args))
    half.requires_grad_(False)
    assert bool(half(t, x).any())
    assert len(calls) == 1
    half.network.affine.data.zero_()
    for parameter in half.network.residual.leave.parameters():
        parameter.data.zero_()
    assert not bool(half(t, x).any())
    assert len(calls) == 1
    half.requires_grad_(True)  # its first gradient must reach it
    half(t, x).sum().backward()
    assert len(calls) == 2
    assert bool(half.network.affine.grad.any())


def encoder_gradients(chain, x, eps, **options):
    """Of the mean log-weight, in the encoder's parameters: its network's and its step variances."""
    blocks = iter(eps)
    weighed = chain.weigh(x, lambda count: next(blocks)[None], **options)
    own = [*chain.forward_half.parameters(), chain.encoder_log_variance]
    return torch.autograd.grad((chain.log_prior(weighed.end) + weighed.steps).mean(), own, materialize_grads=True)


def flattened(gradients):
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("variances", ["diagonal", "full"])
def test_path_gradients_have_the_mean_of_total_gradients(variances):
    chain, groups, n = perturbed(BrownianMotion(), variances), 40, 500
    found = {True: [], False: []}
    for i in range(groups):
        g = seeded(i)
        x, eps = torch.randn(n, D, generator=g), torch.randn(chain.length, n, D, generator=g)
        for path in found:
            found[path].append(flattened(encoder_gradients(chain, x, eps, path_gradient=path)))
    difference = torch.stack(found[True]) - torch.stack(found[False])
    z = difference.mean(0) / (difference.std(0) / groups**0.5)
    z = z[difference.std(0) > 1e-12]
    assert len(z) > 100
    # z has 39 degrees of freedom; its mean square over correlated entries is 1.05 at no difference
    assert float(z.square().mean()) < 2.0


def test_path_gradients_vanish_where_the_decoder_reverses_the_encoder():
    """One step from N(0, V), its exact posterior as decoder: no gradient on any path, not only on average."""
    V, n = 1.5, 50
    chain = make_chain(BrownianMotion(), Posterior(V), Gaussian(torch.zeros(D), V + 1.0), steps=1, variances="diagonal")
    chain.decoder_log_variance.data.fill_(math.log(V / (V + 1.0)))
    x, eps = draws(n, D), draws(1, n, D)
    assert float(flattened(encoder_gradients(chain, x, eps)).abs().max()) > 1e-3
    assert float(flattened(encoder_gradients(chain, x, eps, path_gradient=True)).abs().max()) < 1e-12


class Posterior(FlatPotentials):
    """Backwards, the mean of N(0, V) given one step of variance 1."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance

    def backward_pull(self, t, x):
        return (self.variance / (self.variance + 1.0) - 1.0) * x


@pytest.mark.parametrize("path_gradient", [False, True])
def test_checkpoints_change_no_gradient(path_gradient):
    chain = perturbed(BrownianMotion(), "full")
    x, eps = draws(6, D), draws(chain.length, 6, D)
    plain, recomputed = (
        flattened(encoder_gradients(chain, x, eps, path_gradient=path_gradient, checkpoint=checkpoint))
        for checkpoint in (False, True)
    )
    torch.testing.assert_close(recomputed, plain)
