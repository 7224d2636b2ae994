"""The probability-flow ODE's density: exact with exact scores, traces agree, and the reference never matters."""

import pytest
import torch
from torch import nn

from girsanov.calculus import Exact, Hutchinson
from girsanov.densities import Gaussian
from girsanov.likelihoods import ode, ode_log_prob
from girsanov.networks import TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.randomness import keyed_generators
from girsanov.solvers import Adaptive, FixedGrid
from girsanov.types import InputError
from tests.laws import DENSITIES, REMEMBERING, each_density, each_process, gaussian_case, mixture_case, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

TIGHT = Adaptive(rtol=1e-6, atol=1e-6)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Rows are padded to a chunk; a small one keeps tests of few rows quick."""
    monkeypatch.setattr(ode, "CHUNK", 4)


def exact_prior(case, process):
    """The data's law at the noise end of the range."""
    return case.density.diffused(*process.marginal_at(torch.tensor(process.log_snr_range[0])))


def awake_model(shape, process, *, predicts="v", network=None):
    """A score model of a network with random weights, float64."""
    case, generator = mixture_case(shape), seeded(3)
    network = network or TwoLayerNetwork(shape, width=8).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return case, ScoreModel(network, process, predicts, reference=case.density.moment_match())


@each_process
def test_two_dimensional_mixture_under_every_process(make_process):
    case, process = note_mixture_2d(), make_process()
    x = torch.cat([case.means + 0.1, case.means[:1] - 0.3])  # away from the ridges, where steps are shortest
    score, prior = case.density.score(process), exact_prior(case, process)
    estimate = ode_log_prob(ScorePair(score, process, prior=prior), x, solver=TIGHT)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 2e-6
    assert not estimate.stderr.any()
    default = ode_log_prob(ScorePair(score, process, prior=prior), x)
    assert float((default.value - case.log_prob(x)).abs().max()) < 5e-3


@each_process
def test_a_gaussian_seen_through_another_one_under_every_process(make_process):
    case, process = gaussian_case((1, 2, 2)), make_process()
    x, other = case.rows(4), Gaussian(torch.ones(1, 2, 2), 0.7)
    pair = ScorePair(case.density.score(process), prior=exact_prior(case, process), reference=other)
    estimate = ode_log_prob(pair, x, solver=TIGHT)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 2e-5
    rough = ode_log_prob(pair, x, solver=FixedGrid(48))
    assert float((rough.value - case.log_prob(x)).abs().max()) < 5e-3


@each_density
def test_every_density_with_the_default_solver(make_case):
    case, process = make_case(), VariancePreserving()
    x = case.rows(2)
    estimate = ode_log_prob(ScorePair(case.density.score(process), prior=exact_prior(case, process)), x)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 5e-3


def test_an_image_mixture_with_a_tight_solver():
    case, process = DENSITIES["mixture-image"](), VariancePreserving()
    x = case.rows(2)
    pair = ScorePair(case.density.score(process), prior=exact_prior(case, process))
    estimate = ode_log_prob(pair, x, solver=TIGHT)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 1e-5


def test_a_model_equal_to_its_reference_is_integrated_without_error():
    case, process = gaussian_case((1, 2, 3)), VariancePreserving()
    x = case.rows(4)
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    estimate = ode_log_prob(ScorePair(model, process, prior=exact_prior(case, process)), x, solver=FixedGrid(1))
    torch.testing.assert_close(estimate.value, case.log_prob(x), rtol=1e-10, atol=1e-10)


def test_the_reference_only_whitens():
    case, process = note_mixture_2d(), VariancePreserving()
    x, oracle, prior = case.rows(3), case.density.score(process), exact_prior(case, process)
    plain = lambda t, x: oracle(t, x)  # noqa: E731
    values = [
        ode_log_prob(ScorePair(plain, process, prior=prior, reference=reference), x, solver=TIGHT).value
        for reference in (None, case.density.moment_match(), Gaussian(torch.tensor([2.0, 0.0]), 0.2))
    ]
    torch.testing.assert_close(values[1], values[0], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(values[2], values[0], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)], ids=str)
def test_hutchinson_is_unbiased_with_an_honest_error(shape):
    case, process = mixture_case(shape), VariancePreserving()
    x = case.rows(4)
    pair = ScorePair(case.density.score(process), prior=exact_prior(case, process))
    exact = ode_log_prob(pair, x, solver=FixedGrid(16))
    probed = ode_log_prob(pair, x, divergence=Hutchinson(80), solver=FixedGrid(16))
    assert probed.kind == "unbiased"
    assert probed.replicates.shape == (80, 4)
    # the states are the same, so the probes are all that differs; four rows: false alarm 3e-5
    assert float(((probed.value - exact.value) / probed.stderr).abs().max()) < 4.5
    assert 0.0 < float(probed.stderr.max()) < 1.0


def test_the_closed_form_trace_is_used_and_equals_automatic_differentiation(monkeypatch):
    process = VariancePreserving()
    case, model = awake_model((2, 2, 1), process)
    x, solver = case.rows(4), FixedGrid(12)
    calls, with_trace = [], TwoLayerNetwork.with_trace
    monkeypatch.setattr(TwoLayerNetwork, "with_trace", lambda *given: calls.append(1) or with_trace(*given))
    closed = ode_log_prob(ScorePair(model, process), x, solver=solver)
    assert len(calls) == 4 * 12 + 1

    class Hidden(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, *arguments):
            return self.network(*arguments)

    model.network = Hidden(model.network)
    differentiated = ode_log_prob(ScorePair(model, process), x, solver=solver)
    assert len(calls) == 4 * 12 + 1
    torch.testing.assert_close(closed.value, differentiated.value, rtol=1e-10, atol=1e-10)
    assert float((closed.value - model.reference.log_prob(x)).abs().max()) > 1e-3


def test_the_density_of_a_network_integrates_to_one(monkeypatch):
    """With a network of random weights in one dimension, by the trapezoid rule: signs and directions at once."""
    monkeypatch.setattr(ode, "CHUNK", 561)
    process = VariancePreserving()
    _, model = awake_model((1,), process)
    x = torch.linspace(-14.0, 14.0, 561)[:, None]
    value = ode_log_prob(ScorePair(model, process), x, solver=FixedGrid(64)).value
    assert float(torch.trapezoid(value.exp(), x[:, 0])) == pytest.approx(1.0, abs=2e-4)
    assert float((value - model.reference.log_prob(x)).abs().max()) > 0.1


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(3)])
def test_gradients_are_those_of_finite_differences(divergence, monkeypatch):
    case, process = note_mixture_2d(), VariancePreserving()
    pair = ScorePair(case.density.score(process), prior=exact_prior(case, process))
    # probes are keyed by the row: hold them, so that a shifted row meets the same ones
    monkeypatch.setattr(ode, "keyed_generators", lambda seed, use, rows: keyed_generators(seed, use, 0.0 * rows))

    def value(x):
        return ode_log_prob(pair, x, solver=FixedGrid(16), divergence=divergence).value

    x = case.rows(2).requires_grad_()
    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    shifts = 1e-5 * torch.eye(2)
    found = [(value(x.detach() + h) - value(x.detach() - h)) / 2e-5 for h in shifts]
    torch.testing.assert_close(gradient, torch.stack(found, 1), rtol=1e-6, atol=1e-6)


def test_gradients_through_adaptive_steps_are_the_score():
    case, process = note_mixture_2d(), VariancePreserving()
    x = case.rows(2).requires_grad_()
    pair = ScorePair(case.density.score(process), prior=exact_prior(case, process))
    value = ode_log_prob(pair, x, solver=Adaptive(1e-8, 1e-8)).value
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, case.score(x, 1.0, 0.0), rtol=1e-5, atol=1e-5)


def test_gradients_of_a_model_equal_to_its_reference():
    case, process = gaussian_case((3,)), VariancePreserving()
    x = case.rows(2).requires_grad_()
    estimate = ode_log_prob(ScorePair(case.density.score(process), prior=exact_prior(case, process)), x)
    (gradient,) = torch.autograd.grad(estimate.value.sum(), x)
    torch.testing.assert_close(gradient, case.score(x, 1.0, 0.0), rtol=1e-6, atol=1e-6)


def test_an_estimate_says_what_it_is():
    case, process = note_mixture_2d(), VariancePreserving()
    estimate = ode_log_prob(ScorePair(case.density.score(process)), case.rows(3), solver=FixedGrid(8))
    assert (estimate.kind, estimate.model, estimate.event_dim) == ("exact", "ode", 2)
    assert set(estimate.terms) == {"prior", "divergence", "reference"}
    torch.testing.assert_close(sum(estimate.terms.values()), estimate.value)
    assert estimate.nfe == (4 * 8 + 1) * 5  # four stages a step and the end, two backward passes of cost two
    assert estimate.log_snr_range == process.log_snr_range


@each_process
def test_processes_that_remember_need_a_prior(make_process):
    case, process = note_mixture_2d(), make_process()
    oracle = case.density.score(process)
    if type(process).__name__ in REMEMBERING:
        with pytest.raises(InputError, match="pass prior=, or a reference"):
            ode_log_prob(ScorePair(lambda t, x: oracle(t, x), process), case.rows(1))
        return
    assert bool(ode_log_prob(ScorePair(lambda t, x: oracle(t, x), process), case.rows(1)).value.isfinite().all())


def test_bad_arguments_are_named():
    case, process = note_mixture_2d(), VariancePreserving()
    with pytest.raises(InputError, match="condition must have leading dimension 1 or 3; got 2"):
        ode_log_prob(ScorePair(case.density.score(process)), case.rows(3), condition=torch.zeros(2))
    with pytest.raises(InputError, match="did not converge in 3 adaptive steps"):
        ode_log_prob(ScorePair(case.density.score(process)), case.rows(3), solver=Adaptive(max_steps=3))


def test_a_trace_in_closed_form_costs_no_backward_pass():
    network = TwoLayerNetwork((2, 2), width=8).double()
    model = ScoreModel(network, VariancePreserving(), reference=Gaussian(torch.zeros(2, 2), 0.5))
    estimate = ode_log_prob(ScorePair(model), torch.randn(3, 2, 2), solver=FixedGrid(4))
    assert estimate.nfe == 4 * 4 + 1
