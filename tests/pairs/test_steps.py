"""Steps with log-probabilities: laws of every chain's paths, densities, divergences and policy gradients."""

import copy
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import girsanov as gv
from girsanov.pairs import AncestralChain, GaussianKernel, Guidance, MidpointChain, ScorePair
from tests import state_noise
from tests.pairs.registry import each_chain, score_pair, stretched
from tests.pairs.test_laws import log_density, matrices
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def moved(chain):
    """Another chain of the same kind, whose decoder's steps are wider by a number each."""
    other = copy.deepcopy(chain)
    with torch.no_grad():
        other.decoder_log_variance += 0.15 * torch.rand(chain.decoder_log_variance.shape, generator=seeded(7))
    return other


@each_chain
def test_a_path_is_what_the_chain_draws_and_its_joint_density_that_of_its_steps(make):
    chain, shape = make()
    path = chain.sample_path(6, generator=seeded(2))
    assert path.states.shape == (6, chain.steps + 1, *shape)
    assert path.changes.shape == path.noise.shape == (6, chain.steps, *shape)
    assert path.step_log_prob.shape == (6, chain.steps)
    assert path.step_log_prob.dtype == torch.float64
    torch.testing.assert_close(path.states[:, 1:], path.states[:, :-1] + path.changes)
    assert torch.equal(path.x, chain.sample(6, generator=seeded(2))[0])
    total = chain.log_prior(path.states[:, 0])
    for j in range(chain.steps):
        total = total + log_density(chain.step(j, path.states[:, j]), path.changes[:, j])
    torch.testing.assert_close(path.log_prob, total)


@each_chain
def test_the_weight_of_a_draw_is_the_joint_density_over_the_encoders(make):
    chain, _ = make()
    if chain.has_exit:
        pytest.skip("the entry of data is no kernel of its own")
    (_, weight), path = chain.sample(5, generator=seeded(2)), chain.sample_path(5, generator=seeded(2))
    back = torch.zeros(5)
    for j in range(chain.steps):
        back += chain.encode(chain.length - 1 - j, path.states[:, j + 1]).log_prob(-path.changes[:, j])
    torch.testing.assert_close(path.log_prob - back, weight)


@each_chain
def test_the_ratio_of_a_policy_to_itself_is_exactly_one(make):
    chain, _ = make()
    path = chain.sample_path(6, generator=seeded(2))
    assert torch.equal(chain.step_log_prob(path), path.step_log_prob)
    some = chain.step_log_prob(path, only=[1, 0], checkpoint=True)
    assert torch.equal(some, path.step_log_prob[:, [1, 0]])
    part = path.rows(torch.tensor([4, 1]))
    torch.testing.assert_close(chain.step_log_prob(part), path.step_log_prob[[4, 1]], rtol=1e-10, atol=1e-10)


@each_chain
def test_weighted_expectations_are_those_of_fresh_draws(make):
    """Of a bounded function, 4.5 standard errors: false alarm 7e-6 for each chain."""
    old, _ = make()
    new = moved(old)
    n = 6000
    path, fresh = old.sample_path(n, generator=seeded(2)), new.sample_path(n, generator=seeded(3))
    with torch.no_grad():
        weight = (new.step_log_prob(path) - path.step_log_prob).sum(1).exp()
    for function in (lambda x: torch.tanh(x.flatten(1).square().mean(1)), lambda x: torch.tanh(x.flatten(1)[:, 0])):
        apart = [weight * function(path.x), function(fresh.x)]
        error = math.sqrt(sum(float(value.var()) for value in apart) / n)
        assert abs(float(apart[0].mean() - apart[1].mean())) < 4.5 * error
    assert abs(float(weight.mean()) - 1.0) < 4.5 * float(weight.std()) / math.sqrt(n)


@each_chain
def test_the_divergence_of_steps_is_that_of_their_laws(make):
    mine, _ = make()
    theirs = moved(mine)
    path = mine.sample_path(4, generator=seeded(2))
    found = mine.step_kl(theirs, path)
    assert torch.allclose(mine.step_kl(mine, path), torch.zeros(4, mine.steps), atol=1e-9)
    for j in range(mine.steps):
        kernels = [chain.step(j, path.states[:, j]) for chain in (mine, theirs)]
        if isinstance(kernels[0], GaussianKernel):
            laws = []
            for kernel in kernels:
                root = matrices(kernel, path.noise[:, j])
                laws.append(MultivariateNormal(kernel.shift.flatten(1), root @ root.mT))
            torch.testing.assert_close(found[:, j], kl_divergence(*laws), rtol=1e-7, atol=1e-9)
        else:  # no Gaussian: the mean of the log-ratio of many draws of one step from one state
            x = path.states[:1, j].expand(20_000, *path.states.shape[2:])
            own, other = (chain.step(j, x) for chain in (mine, theirs))
            change = own.change(torch.randn(x.shape, generator=seeded(5 + j)))
            ratio = own.log_prob(change) - other.log_prob(change)
            error = float(ratio.std()) / math.sqrt(len(ratio))
            assert abs(float(ratio.mean() - found[0, j])) < 4.5 * error + 1e-9


def test_chains_of_other_lengths_and_midpoint_steps_of_other_noise_are_refused():
    short, long = (AncestralChain(score_pair(), steps) for steps in (2, 3))
    path = short.sample_path(2)
    with pytest.raises(gv.InputError, match="This chain has 4 steps, the path 3"):
        long.step_log_prob(path)
    with pytest.raises(gv.InputError, match="This chain has 4 steps, the path 3"):
        short.step_kl(long, path)
    with pytest.raises(gv.InputError, match="from 0 to 2; got 3"):
        short.step_log_prob(path, only=[3])
    with pytest.raises(gv.InputError, match="its noise vanishes"):
        AncestralChain(score_pair(), 2, lmbd=1.0).sample_path(2)


class Pulled(torch.nn.Module):
    """The exact noise prediction of N(0, I) with a parameter that moves all denoised rows."""

    def __init__(self):
        super().__init__()
        self.move = torch.nn.Parameter(torch.zeros(2))

    def forward(self, t, x):
        process = gv.VariancePreserving()
        alpha, sigma = process.marginal_at(process.log_snr(t))
        return -(x - alpha[:, None] * self.move * sigma[:, None].square() / (1.0 + sigma[:, None].square()))


def policy(value=0.0):
    score = Pulled()
    with torch.no_grad():
        score.move += value
    return AncestralChain(ScorePair(score, gv.VariancePreserving(), event_shape=(2,)), 6), score.move


def test_the_policy_gradient_is_the_derivative_of_the_expectation():
    """Against central differences under the same noise, 4.5 standard errors of both."""
    n, step = 20_000, 1e-3

    def reward(x):
        return torch.tanh(x[:, 0] + x[:, 1].square())

    chain, move = policy()
    path = chain.sample_path(n, generator=seeded(2))
    centred = reward(path.x) - reward(path.x).mean()
    ratio = (chain.step_log_prob(path) - path.step_log_prob).exp()
    surrogate = (centred[:, None] * ratio).sum(1).mean()
    (found,) = torch.autograd.grad(surrogate, move)
    each = torch.stack(
        [  # its terms, for their spread: the derivative of the log-density of a path in one direction
            torch.autograd.grad((centred * chain.step_log_prob(path).sum(1))[i : i + 500].sum(), move)[0] / 500
            for i in range(0, n, 500)
        ]
    )
    torch.testing.assert_close(each.mean(0), found, rtol=1e-6, atol=1e-9)
    for i in range(2):
        shift = step * torch.eye(2)[i]
        up, down = (policy(s)[0].sample_path(n, generator=seeded(3)).x for s in (shift, -shift))
        slope = (reward(up) - reward(down)) / (2.0 * step)
        error = math.sqrt(float(slope.var()) / n + float(each[:, i].var()) / len(each))
        assert abs(float(found[i] - slope.mean())) < 4.5 * error


def test_gradients_flow_along_the_whole_path_and_checkpoints_change_nothing():
    def gradients(checkpoint):
        chain, move = policy(0.3)
        path = chain.rsample_path(7, generator=seeded(2), checkpoint=checkpoint)
        (along,) = torch.autograd.grad(path.x.sum() + path.log_prob.sum(), move)
        (at,) = torch.autograd.grad(chain.step_log_prob(chain.sample_path(7), checkpoint=checkpoint).sum(), move)
        return along, at

    plain, saved = gradients(False), gradients(True)
    assert all(bool(gradient.abs().min() > 1e-3) for gradient in plain)
    for one, other in zip(plain, saved, strict=True):
        torch.testing.assert_close(one, other)


def conditional(t, x, condition):
    """Exact score of N(c, I)."""
    process = gv.VariancePreserving()
    alpha, _ = process.marginal_at(process.log_snr(t))
    return -(x - alpha[:, None] * condition)


def test_guided_steps_are_extrapolated_from_those_without_a_condition():
    """Of N(c, I) with 0 for no condition, guidance is N(w c, I): a closed form."""
    pair = ScorePair(conditional, gv.VariancePreserving(), event_shape=(2,))
    condition, null = torch.tensor([[1.0, -2.0]]), torch.zeros(1, 2)
    guided = AncestralChain(pair, 5, guidance=Guidance(1.5, null))
    path = guided.sample_path(4, condition=condition)
    plain = AncestralChain(pair, 5)
    own = plain.sample_path(4, condition=1.5 * condition)
    torch.testing.assert_close(path.x, own.x)
    torch.testing.assert_close(guided.step_log_prob(path), own.step_log_prob)
    free = AncestralChain(pair, 5, guidance=Guidance(0.0, null))
    apart = free.step_kl(plain, path)  # of means that differ by c, in closed form of every step
    assert bool((apart > 0).all())
    with pytest.raises(gv.InputError, match="Guidance needs condition="):
        guided.sample_path(2)


def test_midpoint_steps_of_another_coefficient_have_no_closed_divergence():
    mine, theirs = (MidpointChain(state_noise.bounded(kind), 3) for kind in ("diagonal", "full"))
    with pytest.raises(gv.InputError, match="share diffusion"):
        mine.step_kl(theirs, mine.sample_path(2))


def test_offsets_of_every_dimension_are_in_densities_and_divergences():
    """Of the registry only stretched chains have any; here of one that is not."""
    chain = stretched(AncestralChain(score_pair(), 3))
    path = chain.sample_path(3)
    assert bool((chain.step_kl(AncestralChain(score_pair(), 3), path)[:, :-1] > 1e-4).all())
