"""The mistakes that published code has made: each is made here on purpose, and the checks must notice.

Wrong direction of integration, forgotten entropy of the residual, forgotten division by the number of probes, and
a mean where the sum over dimensions belongs (notes of paper 1, sections 4(e) and 7, and of paper 2, section 5).
"""

from dataclasses import replace

import pytest
import torch

from girsanov.calculus import Hutchinson
from girsanov.likelihoods import baselines, bounds, density, elbo, ode, ode_log_prob
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.solvers import FixedGrid
from tests.laws import gaussian_case, mixture_case

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 2, 3)


@pytest.fixture(autouse=True)
def small_ode_chunks(monkeypatch):
    monkeypatch.setattr(ode, "CHUNK", 4)


def check_ode():
    case, process = mixture_case(SHAPE), VariancePreserving()
    x = case.rows(4)
    pair = ScorePair(case.density.score(process), prior=case.density.marginal(process, 1.0))
    estimate = ode_log_prob(pair, x, solver=FixedGrid(32))
    torch.testing.assert_close(estimate.value, case.log_prob(x), rtol=0.0, atol=2e-3)


def check_probes():
    case, process = mixture_case(SHAPE), VariancePreserving()
    x = case.rows(4)
    pair = ScorePair(case.density.score(process), prior=case.density.marginal(process, 1.0))
    estimate = ode_log_prob(pair, x, solver=FixedGrid(12), divergence=Hutchinson(40))
    gap = estimate.value - case.log_prob(x)
    assert float((gap / estimate.stderr).abs().max()) < 5.0
    assert float(gap.abs().max()) < 3.0  # a factor on the probes would move value and error alike


def check_elbo():
    """Exact score, prior and decoder over a range that ends early, where the residual is large: an equality."""
    case, process = gaussian_case(SHAPE), VariancePreserving(log_snr_range=(-10.0, 3.0))
    x = case.rows(200)
    prior = case.density.diffused(*process.marginal_at(torch.tensor(process.log_snr_range[0])))
    mean = elbo(ScorePair(case.density.score(process), prior=prior, decoder=case.density), x, samples=8).mean()
    entropy = float(case.twin().component_distribution.entropy())
    assert -mean.value > entropy - 4 * mean.rows_stderr
    assert mean.value == pytest.approx(float(case.log_prob(x).mean()), abs=1e-6)


def check_density():
    case, process = mixture_case(SHAPE), VariancePreserving()
    x = case.rows(40)
    estimate = density(ScorePair(case.density.score(process)), x, exact=True, samples=256)
    z = (estimate.value - case.log_prob(x)) / estimate.stderr
    assert float(z.abs().max()) < 7.0
    assert abs(float(z.mean())) < 0.8


CHECKS = {"ode": check_ode, "probes": check_probes, "elbo": check_elbo, "density": check_density}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_code_as_it_stands_passes(check):
    check()


def test_a_wrong_direction_of_integration_is_noticed(monkeypatch):
    grid = ode.WhitenedFlow.grid
    monkeypatch.setattr(ode.WhitenedFlow, "grid", lambda self, points: grid(self, points).flip(0))
    with pytest.raises(AssertionError):
        check_ode()


def test_a_wrong_sign_of_the_divergence_is_noticed(monkeypatch):
    solve = ode._solve

    def negated(*arguments):
        terms = solve(*arguments)
        return {**terms, "divergence": -terms["divergence"]}

    monkeypatch.setattr(ode, "_solve", negated)
    with pytest.raises(AssertionError):
        check_ode()


def test_a_forgotten_entropy_of_the_residual_is_noticed(monkeypatch):
    terms_of = bounds._elbo_terms

    def without_entropy(baseline, x, near):
        terms = terms_of(baseline, x, near)
        d = x[0].numel()
        sigma = baseline.pair.process.marginal_at(torch.tensor(baseline.pair.log_snr_range[1]))[1]
        return {**terms, "residual": terms["residual"] - d * (0.5 + sigma.log())}

    monkeypatch.setattr(bounds, "_elbo_terms", without_entropy)
    with pytest.raises(AssertionError):
        check_elbo()


def test_a_forgotten_residual_is_noticed(monkeypatch):
    terms_of = bounds._elbo_terms

    def without_residual(*arguments):
        terms = terms_of(*arguments)
        return {**terms, "residual": torch.zeros_like(terms["residual"])}

    monkeypatch.setattr(bounds, "_elbo_terms", without_residual)
    with pytest.raises(AssertionError):
        check_elbo()


def test_a_forgotten_prior_gap_is_noticed(monkeypatch):
    terms_of = bounds._elbo_terms

    def standard_constant(*arguments):
        terms = terms_of(*arguments)
        return {**terms, "prior": torch.zeros_like(terms["prior"])}

    monkeypatch.setattr(bounds, "_elbo_terms", standard_constant)
    with pytest.raises(AssertionError):
        check_elbo()


def test_a_forgotten_division_by_the_probes_is_noticed(monkeypatch):
    call = Hutchinson.__call__

    def summed(self, field, x, probes):
        value, traces = call(self, field, x, probes)
        return value, traces * len(traces)

    monkeypatch.setattr(Hutchinson, "__call__", summed)
    with pytest.raises(AssertionError):
        check_probes()


def test_a_mean_instead_of_the_sum_over_dimensions_is_noticed(monkeypatch):
    monkeypatch.setattr(baselines, "sum_event", lambda x: x.flatten(1).mean(1))
    with pytest.raises(AssertionError):
        check_density()


def test_other_noise_in_baseline_and_error_is_noticed(monkeypatch):
    """The control variate is exact only under the same noise."""
    compared = baselines.GaussianBaseline.compared

    def unpaired(self, at, at_end=None, near=None):
        return compared(self, replace(at, eps=at.eps.roll(1, 0)), at_end, near)

    monkeypatch.setattr(baselines.GaussianBaseline, "compared", unpaired)
    with pytest.raises(AssertionError):
        check_density()
