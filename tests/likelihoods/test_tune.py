"""Tuning changes no expectation: the same model, with other levels and another control variate."""

import math
from dataclasses import replace

import pytest
import torch

import girsanov as gv
from girsanov.densities import GaussianMixture
from girsanov.likelihoods import squared_errors
from girsanov.likelihoods.baselines import DensityBaseline, baseline_of
from girsanov.likelihoods.denoising import Quadrature
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.randomness import keyed_generators, keyed_normal
from girsanov.solvers import LogSNRDensity
from tests.laws import note_mixture_1d, note_mixture_2d, ring, scales_64
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def bare(case):
    """A score of which nothing is known."""
    score = case.density.score(VariancePreserving())
    return ScorePair(lambda t, x: score(t, x), VariancePreserving())


@pytest.mark.parametrize(("make", "least"), [(scales_64, 4.0), (ring, 4.0)])
def test_a_tuned_pair_has_the_same_bound_and_varies_less(make, least):
    case = make()
    pair, x = bare(case), case.rows(6, seed=3)
    tuned = gv.tune(pair, case.rows(400, seed=4))
    for name in ("prior", "decoder", "reference", "log_snr_range"):
        assert str(getattr(tuned, name)) == str(getattr(pair, name))
    truth, errors = case.log_prob(x), {}
    for name, one in (("plain", pair), ("tuned", tuned)):
        values = torch.stack([gv.elbo(one, x, generator=seeded(seed)).value for seed in range(10)])
        errors[name] = values - truth
        z = (values.mean(0) - truth) / (values.std(0) / math.sqrt(10))
        assert float(z.square().mean()) < 9 / 7 * (
            1.0 + 5.0 * math.sqrt(4.4 / len(x))
        )  # squares of Student's t with 9 degrees
    assert float(errors["plain"].square().median() / errors["tuned"].square().median()) > least


@pytest.mark.parametrize("exact", [False, True])
def test_a_fitted_law_changes_no_density(exact):
    """Of rows together: the formula's Gaussian is another law than what is sampled against."""
    case = note_mixture_2d()
    pair, x = bare(case), case.rows(20, seed=3)
    levels = LogSNRDensity.from_spectrum(*pair.log_snr_range, torch.ones(2), atom=True)
    control = GaussianMixture(case.weights, case.means, 1.2 * case.covariances)
    fitted = pair.replace(proposal=replace(levels, control=control))
    means = torch.stack([gv.density(fitted, x, exact=exact, generator=seeded(s)).value.mean() for s in range(10)])
    error = float(means.mean() - case.log_prob(x).mean())
    assert abs(error) < 6.6 * float(means.std()) / math.sqrt(10)  # Student's t with 9 degrees, 1e-4


def test_the_mean_of_a_laws_squared_error_is_a_difference_of_divergences():
    """Against quadrature over noise and levels, on a range that cuts the law off at both ends."""
    case, low, high = note_mixture_1d(), -2.0, 5.0
    pair = ScorePair(case.density.score(VariancePreserving(log_snr_range=(low, high))))
    x = torch.linspace(-3.0, 3.0, 7)[:, None]
    levels = torch.linspace(low, high, 141)
    expected = torch.trapezoid(squared_errors(pair, x, levels, noise=Quadrature())[0], levels, dim=0)
    baseline = DensityBaseline(pair, None, case.density, baseline_of(pair))
    half = keyed_normal(keyed_generators(0, "test", x), (20000, 1), x)
    eps = torch.cat([half, -half], 1)
    found = baseline.sampled_integral(x, eps, low, high)
    error = eps.new_tensor(
        [float(baseline.sampled_integral(x, part, low, high)[0]) for part in eps.split(2000, 1)]
    ).std()
    assert float((found - expected).abs().max()) < 6.0 * float(error) / math.sqrt(20) + 1e-3


def test_a_forgotten_end_is_noticed(monkeypatch):
    """Without its divergence from noise at the low end a law's mean is another number."""
    case = ring()
    pair = bare(case)
    tuned = gv.tune(pair, case.rows(400, seed=4))
    assert tuned.proposal.control is not None
    x, truth = case.rows(20, seed=3), case.log_prob(case.rows(20, seed=3))
    with pytest.raises(gv.InputError, match="cannot be saved"):
        tuned.proposal.to_json()
    monkeypatch.setattr(DensityBaseline, "sampled_integral", lambda self, x, *_: torch.zeros(len(x)))
    estimate = gv.elbo(tuned, x)
    assert float(((estimate.value - truth) / estimate.stderr).abs().median()) > 10.0


def test_too_few_rows_are_refused():
    with pytest.raises(gv.InputError, match="20 rows or more; got 5"):
        gv.tune(bare(ring()), ring().rows(5))


def test_a_model_that_is_its_reference_keeps_its_exactness():
    law = gv.Gaussian(torch.zeros(6), torch.linspace(0.1, 2.0, 6))
    tuned = gv.tune(ScorePair(law.score(VariancePreserving())), law.sample(100))
    assert float(gv.elbo(tuned, law.sample(5)).stderr.max()) < 1e-6
