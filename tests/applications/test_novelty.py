"""Novelty scores: bands add up to the log-density, p-values are conformal, and what log p misses is found."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from scipy.stats import kstest

from girsanov.applications.novelty import RULES, Novelty, band_errors
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.inputs import as_rows
from girsanov.likelihoods import RandomisedRows
from girsanov.likelihoods.estimator import keyed_view
from girsanov.networks import TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.transforms import Compose, Standardise
from girsanov.types import InputError
from tests.laws import Case, gaussian_case, mixture_case
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


class ExactNetwork(torch.nn.Module):
    """The whitened noise residual of a closed-form law."""

    def __init__(self, law, reference):
        super().__init__()
        self.law, self.reference = law, reference

    def forward(self, log_snr, features, condition=None):
        w = features[:, 0]
        z = self.reference.unwhiten(log_snr, w)
        return (self.law.noise(log_snr, z) - self.reference.noise(log_snr, z))[:, None]


@dataclass
class Model:
    """A closed-form law behind the interface of a fitted model."""

    pair: ScorePair
    transforms: Compose

    def encode(self, x):
        return RandomisedRows(as_rows(x), partial(keyed_view, self.transforms))


def exact_model(case: Case, scale=1.0):
    """The law of a case as a model of data that are ``scale`` times as wide."""
    reference = case.density.moment_match()
    network = ExactNetwork(case.density, reference)
    score = ScoreModel(network, VariancePreserving(), "noise", reference=reference)
    shape = case.shape
    return Model(ScorePair.around(score), Compose([Standardise(shape, torch.zeros(shape), torch.full(shape, scale))]))


def test_bands_add_up_to_the_log_density_in_data_units():
    case, scale = mixture_case((1, 2, 3)), 3.0
    x = case.rows(400)
    found = band_errors(exact_model(case, scale), scale * x, bands=5, samples=80)
    error = found.log_prob - (case.log_prob(x) - case.d * math.log(scale))
    z = error.mean() / (error.std() / 20.0)
    assert abs(float(z)) < 4.5  # false alarm 7e-6
    assert float(error.std()) < 0.6
    assert bool((found.edges.diff() > 0).all())


def test_bands_of_a_gaussian_are_its_closed_form():
    case = gaussian_case((2, 2))
    model = exact_model(Case(GaussianMixture(torch.ones(1), case.means.reshape(1, 2, 2), case.covariances),
                             case.weights, case.means, case.covariances))  # fmt: skip
    x = case.rows(3)
    found = band_errors(model, x, bands=3, samples=6)
    for b in range(3):
        closed = case.density.squared_error_integral(x, float(found.edges[b]), float(found.edges[b + 1]))
        torch.testing.assert_close(found.errors[:, b], 0.5 * closed, rtol=1e-5, atol=1e-6)


def test_rows_do_not_depend_on_their_batch():
    case = mixture_case((1, 2, 3))
    model = exact_model(case)
    model.pair.score.network = TwoLayerNetwork((1, 2, 3), width=8)
    x = case.rows(70)
    together = band_errors(model, x, samples=32).errors
    alone = torch.cat([band_errors(model, x[i : i + 1], samples=32).errors for i in range(0, 70, 23)])
    torch.testing.assert_close(together[::23], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_p_values_of_new_rows_are_uniform(rule):
    case = mixture_case((2,))
    novelty = Novelty(rule, bands=4, samples=16).fit(exact_model(case), case.rows(1000, seed=1))
    p = novelty.pvalue(case.rows(500, seed=2))
    # both samples are finite: the distribution function of 500 held-out scores is itself known to 0.09 at 1e-3
    assert kstest(p.numpy(), "uniform").statistic < 0.14
    assert 1 / 501 <= float(p.min()) <= float(p.max()) <= 1.0


@pytest.mark.parametrize("rule", RULES)
def test_rows_far_away_are_novel_for_every_rule(rule):
    case = mixture_case((2,))
    novelty = Novelty(rule, bands=4, samples=16).fit(exact_model(case), case.rows(200, seed=1))
    assert float(novelty.pvalue(30.0 + case.rows(20)).max()) < 0.02


def test_what_is_too_simple_is_novel_though_log_p_is_high():
    """The mean of a Gaussian in d = 64: the most likely row, and one that the law never draws."""
    law = Gaussian(torch.zeros(64), 1.0)
    case = Case(GaussianMixture(torch.ones(1), torch.zeros(1, 64), torch.ones(1, 64)), torch.ones(1),
                torch.zeros(1, 64), torch.eye(64)[None])  # fmt: skip
    held, x = law.sample(400, generator=seeded(1)), torch.zeros(1, 64)
    p = {rule: float(Novelty(rule, samples=16).fit(exact_model(case), held).pvalue(x)) for rule in RULES}
    assert p["likelihood"] == 1.0
    assert max(p["typicality"], p["bands"], p["largest_band"]) < 0.01


def test_the_curve_shows_which_band_is_off():
    """Noise added at the scale of the components is seen where they are resolved, not where only means are."""
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    weights, variances = torch.ones(3) / 3.0, torch.full((3, 2), 0.01)
    case = Case(GaussianMixture(weights, means, variances), weights, means, torch.diag_embed(variances))
    novelty = Novelty(bands=6, samples=60).fit(exact_model(case), case.rows(600, seed=1))
    x = case.rows(300, seed=2)
    edges, z = novelty.curve(x)
    assert (edges.shape, z.shape) == ((7,), (300, 6))
    assert float(z.mean(0).abs().max()) < 0.4  # the mean of 300 has a standard error of 0.07
    _, off = novelty.curve(x + 0.2 * torch.randn(x.shape, generator=seeded(3)))
    assert float(off.mean(0)[0]) < 0.4
    assert float(off.mean(0)[-2:].max()) > 1.5


def test_bad_arguments_are_named():
    case = mixture_case((2,))
    with pytest.raises(InputError, match="Unknown rule 'best': choose one of likelihood, "):
        Novelty("best")
    with pytest.raises(InputError, match=r"call fit\(model, held_out\) first"):
        Novelty().score(case.rows(3))
    with pytest.raises(InputError, match="8 or more held-out rows"):
        Novelty(samples=8).fit(exact_model(case), case.rows(7))
    with pytest.raises(InputError, match="at least as many samples; got 8 bands, 4 samples"):
        band_errors(exact_model(case), case.rows(3), samples=4)
