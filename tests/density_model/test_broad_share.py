"""No row, however far from the training rows, can rule a mean: every model has a share of a broad law."""

import math

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array, split
from girsanov.densities import BroadGaussian, Gaussian
from girsanov.likelihoods import density, elbo
from girsanov.likelihoods.denoising import MonteCarlo, squared_errors
from girsanov.likelihoods.discrete import LatticePoints
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.pairs.score_model import FAR, NEAR, given_way
from girsanov.peers import PEERS, PeerData
from girsanov.processes import VariancePreserving
from girsanov.transforms import Standardise
from tests.seeds import rng, seed, seeded

TINY = {"network": gv.networks.MLPConfig(width=16, blocks=1), "members": 1, "steps": 40, "flow": False, "test": 0.0}
KINDS = {  # one beside closed forms, the others alone: a mixture's share would hide that a diffusion has none
    "lattice": {"gaussianise": False, "mixed": False},
    "columns": {},
    "two-layer": {"gaussianise": False, "network": "two-layer", "mixed": False},
    "variational": {"gaussianise": False, "dequantise": "variational"},
    "categorical": {"gaussianise": False, "dequantise": "categorical"},
}
FAR_ROWS = torch.tensor([[5, 9], [2, 12], [2, -8], [12, 12], [1002, -998]], dtype=torch.float64)
PER_DIMENSION = 200.0  # nats that an unseen cell may cost; without a share it is thousands to millions


def counts(n=1500):
    generator = rng(0)
    first = generator.binomial(6, 0.3, n)
    return torch.as_tensor(np.stack([first, generator.binomial(first + 2, 0.5)], 1)).double()


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
    return gv.fit(counts(), config=gv.Config(**{**TINY, **KINDS[request.param]}, seed=seed(1)))


def test_unseen_cells_cost_a_bounded_number_of_nats(fitted):
    estimate = fitted.elbo(FAR_ROWS, samples=64)
    assert bool((estimate.value + 6.0 * estimate.stderr > -2 * PER_DIMENSION).all())
    if fitted.lattice is not None:
        return
    flow = fitted.log_prob(FAR_ROWS)
    assert bool((flow.value > -2 * PER_DIMENSION).all())
    assert bool((flow.value < 0.0).all())


def test_the_error_of_far_rows_is_a_few_nats(fitted):
    # the Gaussian's own squared error of the last row has a standard error of hundreds of nats and more
    assert bool((fitted.elbo(FAR_ROWS, samples=256).stderr < 15.0).all())


def bound_by_levels(score, prior, x, draws=2000):
    """The bound of a one-dimensional model whose decoder is isotropic, level by level and without a reference."""
    low, high = score.log_snr_range
    levels = torch.linspace(low, high, 400).double()
    alpha, sigma = score.process.marginal_at(levels[[0, -1]])
    plain = lambda t, z, c=None: score(t, z, c)  # noqa: E731  (no reference, no near rows)
    errors = squared_errors(ScorePair(plain, score.process), x, levels, noise=MonteCarlo(draws), generator=seeded(5))
    diffusion = (alpha[0] / alpha[1]).log() + 0.5 * (high - low) - 0.5 * torch.trapezoid(errors, levels, dim=1)
    residual = 0.5 + alpha[1].log() - 0.5 * errors[:, -1]
    values = prior.expected_log_prob(alpha[0] * x, sigma[0].square()) + diffusion + residual
    return values.mean(0), values.std(0) / draws**0.5


@pytest.mark.parametrize("distance", [5.0, 12.0, 30.0, 1e4])
def test_the_bound_of_a_far_row_is_what_its_levels_add_up_to(distance):
    law = Gaussian(torch.zeros(1).double(), 1.0)
    score = ScoreModel(lambda l, f, c: 0.3 * f, VariancePreserving(), reference=law, broad_share=True).eval()
    x = torch.full((1, 1), distance).double()
    prior = BroadGaussian(ScorePair(score).noised(law))
    value, error = bound_by_levels(score, prior, x)
    estimate = elbo(ScorePair(score, prior=prior), x, samples=4096, generator=seeded(6))
    assert estimate.stderr < 2.0
    assert (estimate.value - value).abs() < 5.0 * (estimate.stderr.square() + error.square()).sqrt() + 1e-3


@pytest.mark.parametrize("distance", [5.0, 12.0, 30.0, 1e3])
def test_the_density_formula_of_a_far_row_is_the_bound_but_for_its_ends(distance):
    law = Gaussian(torch.zeros(1).double(), 1.0)
    score = ScoreModel(lambda l, f, c: 0.3 * f, VariancePreserving(), reference=law, broad_share=True).eval()
    x, (low, high) = torch.full((1, 1), distance).double(), score.log_snr_range
    levels = torch.linspace(low, high, 400).double()
    errors = squared_errors(
        ScorePair(lambda t, z, c=None: score(t, z, c), score.process), x, levels, noise=MonteCarlo(2000)
    )
    drawn = -0.5 * torch.trapezoid(errors, levels, dim=1)
    value = law.log_prob(x) + 0.5 * law.squared_error_integral(x, low, high) + drawn.mean(0)
    estimate = density(ScorePair(score), x, samples=4096, generator=seeded(6))
    assert estimate.stderr < 2.0
    error = (estimate.stderr.square() + drawn.var(0) / len(drawn)).sqrt()
    assert (estimate.value - value).abs() < 5.0 * error + 1e-3


def test_a_continuous_flow_has_a_broad_prior():
    data = from_array(counts())
    splits = split(len(data.x), seed=seed(1), test=0.0)
    config = gv.density_model.ContinuousFlowConfig(network=TINY["network"], members=1, test=0.0, gaussianise=False)
    model = gv.density_model.prepare(data, splits, config).eval()
    far = torch.tensor([[1002, -998], [10**12, -(10**12)]], dtype=torch.float64)
    assert bool((model.log_prob(far).value > -PER_DIMENSION).all())
    y, log_det = model.encoding.transforms(far, torch.full_like(far, 0.5))
    assert float((model.pair.prior.law.log_prob(y) + log_det)[1]) < -4 * PER_DIMENSION  # what it would cost


def test_the_share_costs_rows_like_those_of_the_fit_nothing(fitted):
    x = counts()[:300]
    value = fitted.elbo(x).mean().value
    fitted.score.broad_share = False
    without = fitted.elbo(x).mean().value
    fitted.score.broad_share = True
    assert value > without - 0.01


def test_the_share_is_saved(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again = gv.DensityModel.from_pretrained(tmp_path / "model")
    assert again.score.broad_share
    assert torch.equal(again.elbo(FAR_ROWS).value, fitted.elbo(FAR_ROWS).value)


def test_a_network_that_explodes_far_away_costs_a_bounded_number_of_nats():
    def network(log_snr, features, condition):
        return 1e3 * features.square()

    law = Gaussian(torch.zeros(2).double(), 1.0)
    score = ScoreModel(network, VariancePreserving(), reference=law, broad_share=True).eval()
    level = torch.linspace(-15.0, 15.0, 50).double()
    noise = score.noise(level, torch.full((50, 2), 30.0))
    assert bool((noise.abs() <= FAR).all())
    assert bool((score.train().noise(level, torch.full((50, 2), 30.0)).abs() > FAR).any())  # what is fitted


def test_what_noise_explains_is_left_alone_to_the_bit():
    law = Gaussian(torch.zeros(3).double(), 2.0)
    network = torch.nn.Linear(3, 3)
    inner = ScoreModel(lambda l, f, c: 0.1 * network(f), VariancePreserving(), reference=law)
    outer = ScoreModel(inner.network, VariancePreserving(), reference=law, broad_share=True).eval()
    z, level = torch.randn(200, 3, generator=seeded(0)), torch.zeros(200).double()
    near = inner.noise(level, z).abs().amax(1) <= NEAR
    assert torch.equal(inner.deviation(level, z)[near], outer.deviation(level, z)[near])
    assert not given_way(torch.tensor([NEAR, -NEAR, 0.0])).any()


def test_tails_of_the_scale_are_smooth_invertible_and_polynomial():
    rows = 3.0 + 2.0 * torch.randn(500, 2, generator=seeded(0), dtype=torch.float64)
    affine = Standardise.fit(rows)
    tailed = affine.with_tails(rows.amin(0), rows.amax(0), rows.std(0))
    assert torch.equal(tailed(rows)[0], affine(rows)[0])
    x = torch.tensor([[1e4, -1e4], [30.0, -20.0], [3.0, 3.0]], dtype=torch.float64)
    y, log_det = tailed(x)
    torch.testing.assert_close(tailed.inverse(y), x)
    slope = torch.autograd.functional.jacobian(lambda row: tailed(row[None])[0][0], x[0])
    torch.testing.assert_close(slope.det().log(), log_det[0])
    assert y.abs().max() < 20.0  # a million units of variance away, a few deviations


def test_a_decoder_of_cells_knows_what_continues_the_lattice():
    lattice = LatticePoints(torch.zeros(2).double(), torch.ones(2).double(), 7, beyond=0.005)
    level = lattice.level_for()
    inside, outside = lattice.reconstruction(torch.tensor([[3.0, 3.0], [3.0, 9.0]]), level)
    assert inside > -0.1
    assert math.log(1e-4) < outside - inside < math.log(0.1)


def test_peers_have_a_share_too():
    data = from_array(counts())
    splits = split(len(data.x), seed=seed(1), test=0.0)
    model = gv.density_model.prepare(data, splits, gv.Config(**TINY, gaussianise=False)).eval()
    peers = PeerData(model, data.x, splits, seed(1))
    for name in ("gaussian", "mixture"):
        assert bool((peers.estimate(PEERS[name](peers, 1.0), FAR_ROWS).value > -60.0).all()), name
