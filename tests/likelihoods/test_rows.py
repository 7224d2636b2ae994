"""A row's value is its own: of batch, order, chunks and number of rows independent; seeds, gradients, conditions."""

import pytest
import torch

from girsanov.calculus import Hutchinson
from girsanov.densities import Gaussian
from girsanov.likelihoods import Target, density, elbo, estimator, fit_proposal, ode, ode_log_prob
from girsanov.likelihoods.estimator import Replicates
from girsanov.networks import ConvNetwork, Signature, TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.randomness import keyed_generators
from girsanov.solvers import Adaptive, FixedGrid
from tests.laws import mixture_case, note_mixture_2d
from tests.seeds import seeded

SAMPLED = {
    "density, target": lambda *a, **k: density(*a, samples=16, target=Target(0.02, 512), **k),
    "elbo": lambda *a, **k: elbo(*a, samples=24, **k),
    "density": lambda *a, **k: density(*a, samples=24, **k),
    "hutchinson": lambda *a, **k: ode_log_prob(*a, divergence=Hutchinson(2), solver=FixedGrid(4), **k),
}
METHODS = {
    **SAMPLED,
    "ode": lambda *a, **k: ode_log_prob(*a, solver=FixedGrid(6), **k),
    "ode-adaptive": lambda *a, **k: ode_log_prob(*a, solver=Adaptive(1e-3, 1e-3), **k),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
each_bound = pytest.mark.parametrize("method", [elbo, density])
each_sampled = pytest.mark.parametrize("method", SAMPLED.values(), ids=SAMPLED)


@pytest.fixture(autouse=True)
def small_ode_chunks(monkeypatch):
    monkeypatch.setattr(ode, "CHUNK", 8)


def awake(network):
    generator = seeded(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def image_model():
    """A convolutional model on (1, 4, 4) in single precision, with random weights."""
    network = awake(ConvNetwork((1, 4, 4), width=4, deep_width=8)).float()
    return ScoreModel(network, VariancePreserving(), reference=Gaussian(torch.zeros(1, 4, 4), 0.5))


def double_model(classes=0):
    """A model on (2, 2) in double precision, with random weights."""
    network = awake(TwoLayerNetwork((2, 2), Signature(classes=classes), width=8)).double()
    reference = Gaussian(torch.zeros(2, 2), 0.5)
    return ScoreModel(network, VariancePreserving(), reference=reference)


def images(n):
    return torch.randn(n, 1, 4, 4, generator=seeded(2))


@each_method
def test_alone_is_as_in_a_batch_bit_for_bit(method):
    model, x = image_model(), images(11)
    together = method(ScorePair(model), x)
    for i in (0, 5, 10):
        alone = method(ScorePair(model), x[i : i + 1])
        assert torch.equal(alone.value[0], together.value[i])
        assert torch.equal(alone.stderr[0], together.stderr[i])


@each_method
def test_order_does_not_matter_bit_for_bit(method):
    model, x = image_model(), images(11)
    order = torch.randperm(11, generator=seeded(3))
    together, permuted = (method(ScorePair(model), rows).value for rows in (x, x[order]))
    assert torch.equal(permuted, together[order])


@pytest.mark.usefixtures("float64")
@each_method
def test_the_size_of_chunks_does_not_matter(method, monkeypatch):
    model, x = double_model(), torch.randn(7, 2, 2)
    base = method(ScorePair(model), x).value
    for size in (1, 3, 64):
        monkeypatch.setattr(estimator, "CHUNK", 24 * size)
        monkeypatch.setattr(ode, "CHUNK", size)
        torch.testing.assert_close(method(ScorePair(model), x).value, base, rtol=1e-10, atol=1e-10)


@each_method
def test_equal_seeds_give_equal_bits_and_leave_the_global_generator_alone(method):
    model, x = image_model(), images(3)
    before = torch.get_rng_state()
    first = method(ScorePair(model), x, generator=seeded(5))
    again = method(ScorePair(model), x, generator=seeded(5))
    assert torch.equal(first.value, again.value)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(method(ScorePair(model), x).value, method(ScorePair(model), x).value)


@each_sampled
def test_other_seeds_give_other_draws(method):
    model, x = image_model(), images(3)
    first = method(ScorePair(model), x, generator=seeded(5))
    assert not torch.equal(method(ScorePair(model), x, generator=seeded(6)).value, first.value)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", [elbo, density])
@pytest.mark.parametrize("referred", [True, False])
def test_gradients_are_those_of_finite_differences(method, referred, monkeypatch):
    case, process = note_mixture_2d(), VariancePreserving()
    oracle = case.density.score(process)
    score = oracle if referred else lambda t, x: oracle(t, x)
    # draws are keyed by the row: hold them, so that a shifted row meets the same ones
    monkeypatch.setattr(
        estimator, "keyed_generators", lambda seed, use, rows, r: keyed_generators(seed, use, 0.0 * rows, r)
    )
    x = case.rows(3).requires_grad_()
    (gradient,) = torch.autograd.grad(method(ScorePair(score, process), x).value.sum(), x)
    with torch.no_grad():
        found = [
            (method(ScorePair(score, process), x + h).value - method(ScorePair(score, process), x - h).value) / 2e-6
            for h in 1e-6 * torch.eye(2)
        ]
    torch.testing.assert_close(gradient, torch.stack(found, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("float64")
def test_gradients_with_a_mixture_prior_flow_through_its_draws():
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=(-1.0, 6.0))
    x = case.rows(3).requires_grad_()
    terms = elbo(ScorePair(case.density.score(process), prior=case.density.marginal(process, 0.5)), x).terms
    (gradient,) = torch.autograd.grad(terms["prior"].sum(), x)
    assert bool(gradient.abs().min() > 0)


def test_nothing_keeps_a_graph_unless_rows_ask_for_it():
    model, x = image_model(), images(2)
    for method in METHODS.values():
        assert not method(ScorePair(model), x).value.requires_grad


@pytest.mark.usefixtures("float64")
@each_method
def test_conditions_follow_their_rows(method):
    model, x = double_model(classes=3), torch.randn(5, 2, 2)
    labels = torch.tensor([0, 1, 2, 1, 0])
    each = method(ScorePair(model), x, condition=labels).value
    ones = method(ScorePair(model), x, condition=torch.tensor([1])).value
    same = labels == 1
    torch.testing.assert_close(ones[same], each[same], rtol=1e-12, atol=1e-12)
    assert float((ones - each)[~same].abs().min()) > 1e-9
    order = torch.tensor([4, 2, 0, 1, 3])
    permuted = method(ScorePair(model), x[order], condition=labels[order]).value
    torch.testing.assert_close(permuted, each[order], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_rows_of_any_number_type_are_evaluated():
    case, process = mixture_case((2,)), VariancePreserving()
    score, x = case.density.score(process), torch.tensor([[1, 0], [-2, 1]])
    whole = elbo(ScorePair(score, process), x).value
    torch.testing.assert_close(whole, elbo(ScorePair(score, process), x.double()).value)
    single = density(ScorePair(score, process), x.float(), samples=512, exact=True)
    assert single.value.dtype == torch.float64
    assert float(((single.value - case.log_prob(x.double())) / single.stderr).abs().max()) < 6.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_rows_of_any_number_type_reach_a_network_in_its_own(dtype):
    model, x = image_model(), images(4).to(dtype)
    for method in METHODS.values():
        assert method(ScorePair(model), x).value.dtype == torch.float64
    assert float(fit_proposal(ScorePair(model), x).masses.min()) > 0


@each_bound
def test_parameters_have_gradients_where_asked_for(method):
    """Against finite differences of the same draws, in one weight of the network."""
    model, x = double_model(), torch.randn(3, 2, 2, dtype=torch.float64)
    weight = next(model.network.parameters())
    value = method(ScorePair(model), x, samples=16, method=Replicates(differentiable=True)).value.sum()
    (gradient,) = torch.autograd.grad(value, weight)
    position = gradient.abs().argmax()
    found = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            weight.view(-1)[position] += h
            found.append(float(method(ScorePair(model), x, samples=16).value.sum()))
            weight.view(-1)[position] -= h
    assert (found[0] - found[1]) / 2e-5 == pytest.approx(float(gradient.view(-1)[position]), rel=1e-5)


@each_bound
def test_without_gradients_nothing_is_kept_whatever_asks_for_it(method):
    model, x = double_model(), torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert not method(ScorePair(model), x, samples=8, method=Replicates(differentiable=True)).value.requires_grad


def test_a_target_keeps_the_graph_of_its_second_stage():
    model, x = double_model(), torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    estimate = density(ScorePair(model), x, samples=8, target=Target(0.5, 64))
    (gradient,) = torch.autograd.grad(estimate.value.sum(), x)
    assert bool((gradient != 0).any())
