"""Intervals on laws whose few samples tell little, and what makes them honest: see ``benchmarks/coverage.py``."""

import math

import pytest
import torch
from scipy.special import stdtrit

from girsanov.densities import Gaussian
from girsanov.likelihoods import density, elbo, local
from girsanov.likelihoods.evaluation_noise import evaluation_noise, scrambled_net
from girsanov.likelihoods.local import Setting
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.randomness import keyed_generators
from tests.laws import HARD, many_scales_64, rows_of
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")
FEW = [name for name in HARD if "64" not in name]
ROWS, SEEDS = 20, 100


def bare(case, process):
    """A score with nothing known of it but its range."""
    score = case.density.score(process)
    return ScorePair(lambda t, x: score(t, x), process, log_snr_range=score.log_snr_range)


def plain(case, process):
    """The exact score beside N(0, I)."""
    return ScorePair(case.density.score(process), reference=Gaussian(torch.zeros(case.d), torch.eye(case.d)))


@pytest.mark.parametrize("estimate", ["elbo without a reference", "density beside N(0, I)"])
@pytest.mark.parametrize("name", FEW)
def test_intervals_cover_at_the_default(name, estimate):
    """The share's own standard error is below 0.5 %; 75 to 90 % are covered with the reference's proposal alone."""
    case, x = rows_of(name, ROWS)
    truth, process = case.log_prob(x), VariancePreserving()
    hits = torch.zeros(len(x))
    for seed in range(SEEDS):
        if estimate.startswith("elbo"):
            found = elbo(bare(case, process), x, generator=seeded(seed))
        else:
            found = density(plain(case, process), x, exact=True, generator=seeded(seed))
        low, high = found.interval()
        hits += (low <= truth) & (truth <= high)
    allowed = 3.3 * math.sqrt(0.05 * 0.95 / (SEEDS * len(x)))
    assert 0.93 - allowed <= float(hits.mean() / SEEDS) <= 0.97 + allowed


def repeated(case, seeds=40):
    """Errors of rows over seeds, ``s n``, in units of their standard errors too, and the replicates' number."""
    x, process = case.rows(12), VariancePreserving()
    truth, found = case.log_prob(x), []
    for seed in range(seeds):
        found.append(elbo(bare(case, process), x, generator=seeded(seed)))
    errors = torch.stack([one.value for one in found]) - truth
    return errors, errors / torch.stack([one.stderr for one in found]), len(found[0].replicates)


def test_a_gaussian_about_each_row_takes_most_of_the_variance_and_keeps_the_mean(monkeypatch):
    case = many_scales_64()
    errors, z, replicates = repeated(case)
    # the mean of all errors is that of a sum of independent rows and seeds
    assert abs(float(errors.mean() / errors.std())) * math.sqrt(errors.numel()) < 4.0
    quantile = float(stdtrit(replicates - 1, 0.975))
    assert float((z.abs() < quantile).double().mean()) > 0.95 - 4.0 * math.sqrt(0.05 * 0.95 / errors.numel())
    monkeypatch.setattr(local, "CLOSER", 0.0)  # never close enough
    assert float(repeated(case)[0].square().mean() / errors.square().mean()) > 2.5


def test_a_gaussian_fitted_to_its_own_replicate_is_noticed(monkeypatch):
    """It would know the noise that it is subtracted under, and bias every value."""
    monkeypatch.setattr(local, "_of_others", lambda totals: totals)
    errors, _, _ = repeated(many_scales_64(), seeds=80)
    assert abs(float(errors.mean() / errors.std())) * math.sqrt(errors.numel()) > 4.0


def test_a_local_gaussian_finds_that_of_a_gaussian(monkeypatch):
    """Its scales and mean from exact errors, dimension by dimension, as near as the grid of scales is."""
    monkeypatch.setattr(local, "TRUST_Y", 1e-3)
    monkeypatch.setattr(local, "TRUST_SCALE", 1e-3)
    setting = Setting.of(None, 6, (-10.0, 15.0), torch.device("cpu"))
    variances, y = torch.tensor([1e-3, 0.01, 0.1, 0.5, 1.0, 4.0]), torch.linspace(-1.0, 1.0, 6)
    levels = torch.rand(3, 4, 8, generator=seeded(0)) * 12.0 - 4.0
    eps = torch.randn(3, 4, 8, 6, generator=seeded(1))
    p = torch.sigmoid(levels[..., None] + variances.log())
    error = p * eps - (p * (1.0 - p)).sqrt() * y
    zero = torch.zeros(3, 6)
    found = local.Local.fit(setting, zero, local.Evaluations(levels, torch.ones(3, 4, 8), eps, error, eps))
    assert float((found.log_variances - variances.log()).abs().max()) < 1.5
    assert float(found.share.min()) > 0.0
    squares = (found.squared_error(local.Evaluations(levels, levels, eps, error, eps)) - error.square().sum(-1)).abs()
    assert float(squares.mean() / error.square().sum(-1).mean()) < 0.1


def test_a_net_fills_space_evenly_and_is_uniform():
    rows = torch.arange(400.0).reshape(-1, 1)
    net = scrambled_net(keyed_generators(0, "net", rows), 1, 16, 3, rows)[:, 0]
    for coordinate in range(3):
        strata = (16 * net[..., coordinate]).floor().sort(1).values
        assert torch.equal(strata, torch.arange(16.0).expand(400, 16))
    pairs = (4 * net[..., 0]).floor() * 4 + (4 * net[..., 1]).floor()
    assert torch.equal(pairs.sort(1).values, torch.arange(16.0).expand(400, 16))
    for point in (net[:, 0], net[:, 7]):  # each is uniform by itself, and its coordinates are independent
        assert float((point.mean(0) - 0.5).abs().max()) < 4.0 / math.sqrt(12 * 400)
        assert float(torch.corrcoef(point.T).triu(1).abs().max()) < 4.0 / math.sqrt(400)


def test_noise_of_a_net_has_the_moments_of_noise():
    rows = torch.randn(2000, 2, generator=seeded(2))
    eps, ratio = evaluation_noise(keyed_generators(0, "noise", rows), 2, 8, rows)
    assert eps.shape == (2000, 2, 8, 2)
    for function, expected in (
        (lambda e: e[..., 0], 0.0),
        (lambda e: e.square().sum(-1), 2.0),
        (lambda e: e.prod(-1), 0.0),
    ):
        means = (ratio * function(eps)).mean((1, 2))
        assert abs(float(means.mean() - expected)) < 4.0 * float(means.std()) / math.sqrt(len(means))
