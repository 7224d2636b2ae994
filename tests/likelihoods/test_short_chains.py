"""Short chains: bounds of few steps, below the truth and above those of evenly spaced steps."""

import pytest
import torch

import girsanov as gv
from girsanov.densities import Gaussian
from girsanov.likelihoods import short_chains
from girsanov.pairs import AncestralChain, ScorePair
from tests.laws import HARD, gaussian_case, mixture_case
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def fitted(name, steps, n=1200):
    case = HARD[name][0]()
    pair = ScorePair(case.density.score(gv.VariancePreserving()))
    return case, pair, gv.short_chain(pair, steps, case.rows(n, seed=5))


def test_gaussian_data_cost_a_single_step_nothing():
    """Exact but for the covariance's own error of about (d + 1) d / 4n nats."""
    case = gaussian_case((1, 1, 3))
    pair = ScorePair(case.density.score(gv.VariancePreserving()))
    for steps in (1, 2, 5):
        chain = gv.short_chain(pair, steps, case.rows(2000, seed=5))
        x = case.rows(200, seed=1)
        gap = case.log_prob(x) - gv.chain_elbo(chain, x, paths=16).value
        assert abs(float(gap.mean())) < 0.02
        assert len(chain.levels) == chain.length == steps


@pytest.mark.parametrize("name", ["bimodal", "spike and slab", "ring"])
def test_bounds_hold_rise_with_steps_and_are_above_those_of_learned_variances(name):
    found = []
    for steps in (4, 16):
        case, pair, chain = fitted(name, steps)
        x = case.rows(300, seed=1)
        bound, usual = gv.chain_elbo(chain, x, paths=8), AncestralChain(pair, steps - 1)
        usual.fit_variances(case.rows(500, seed=5))
        gap = bound.value - gv.chain_elbo(usual, x, paths=8).value
        assert float(gap.mean()) > 4.5 * float(gap.std()) / len(gap) ** 0.5
        below = case.log_prob(x) - bound.value
        assert float(below.mean()) > -4.5 * float(below.std()) / len(below) ** 0.5
        found.append(bound.value)
    rise = found[1] - found[0]
    assert float(rise.mean()) > 4.5 * float(rise.std()) / len(rise) ** 0.5


def test_its_own_draws_lie_between_two_bounds():
    case, _, chain = fitted("bimodal", 4)
    bracket = gv.chain_bracket(chain, 400, paths=16, generator=seeded(3))
    assert bracket.x.shape == (400, *case.shape)
    width = bracket.width
    assert -4.5 * width.stderr < width.value < 0.5


def test_the_posteriors_variance_alone_is_too_narrow_for_few_steps():
    """DDPM's decoder: what an error of 0 would make of the same levels."""
    case, pair, chain = fitted("ring", 4)
    narrow = [Gaussian(torch.zeros(case.shape), 1e-9) for _ in chain.errors]
    narrow[0] = chain.errors[0]  # the last step has no other variance
    ddpm = type(chain)(pair, chain.levels, narrow, chain.errors[0])
    ddpm.prior = chain.prior
    x = case.rows(200, seed=1)
    gap = gv.chain_elbo(chain, x).value - gv.chain_elbo(ddpm, x).value
    assert float(gap.mean()) > 4.5 * float(gap.std()) / len(gap) ** 0.5


def test_wide_rows_have_covariances_of_low_rank(monkeypatch):
    monkeypatch.setattr("girsanov.likelihoods.short_chains.FULL_DIMENSIONS", 3)
    monkeypatch.setattr("girsanov.likelihoods.short_chains.RANK", 2)
    full = short_chains.KINDS["full"]
    monkeypatch.setattr("girsanov.likelihoods.short_chains.KINDS", {"full": full})
    case = gaussian_case((1, 2, 3))
    chain = gv.short_chain(ScorePair(case.density.score(gv.VariancePreserving())), 3, case.rows(500, seed=5))
    assert all(law.basis.shape == (6, 2) for law in chain.errors)
    x = case.rows(100, seed=1)
    below = case.log_prob(x) - gv.chain_elbo(chain, x).value
    assert float(below.mean()) > -4.5 * float(below.std()) / 10.0


def test_conditions_reach_the_network_and_more_steps_than_levels_are_served():
    def score(t, x, condition):
        alpha, sigma = gv.VariancePreserving().marginal_at(gv.VariancePreserving().log_snr(t))
        return -(x - alpha[:, None] * condition) / (0.01 * alpha.square() + sigma.square())[:, None]

    condition = torch.randn(200, 2, generator=seeded(1))
    rows = condition + 0.1 * torch.randn(200, 2, generator=seeded(2))
    pair = ScorePair(score, gv.VariancePreserving(), event_shape=(2,))
    chain = gv.short_chain(pair, 70, rows, condition=condition)
    assert bool((chain.levels.diff() < 0).all())
    assert len(chain.levels) == 70
    path = chain.sample_path(300, condition=torch.tensor([[3.0, -3.0]]), generator=seeded(3))
    assert bool((path.x.mean(0) - torch.tensor([3.0, -3.0])).abs().max() < 0.1)


def test_few_rows_are_refused():
    pair = ScorePair(mixture_case((2,)).density.score(gv.VariancePreserving()))
    with pytest.raises(gv.InputError, match="20 rows or more; got 19"):
        gv.short_chain(pair, 4, torch.zeros(19, 2))


@pytest.mark.parametrize("counts", [False, True])
def test_bounds_of_a_fitted_models_rows_are_in_data_units(counts):
    """Against its space and the log-determinants there, 4.5 standard errors; of counts the bound is a log-mass."""
    x = 50.0 + 20.0 * mixture_case((2,)).rows(400, seed=5)
    x = x.round() if counts else x
    model = gv.fit(x, config=gv.Config(network=gv.networks.MLPConfig(width=16, blocks=1), steps=3, mixed=False))
    chain = gv.short_chain(model.pair, 4, model.encode(x[:200]))
    rows = model.encode(x[200:])
    bound = gv.chain_elbo(chain, rows, paths=8)
    view = rows.view(1, 1)
    inside = gv.chain_elbo(chain, view.x[:, 0], paths=8).value + view.log_det[:, 0]
    gap = bound.value - inside
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / len(gap) ** 0.5
    assert bound.measure == ("mass" if counts else "density")
    assert gv.importance_bound(chain, rows, paths=4).measure == bound.measure
    assert isinstance(gv.tune(model.pair, model.encode(x[:40])), ScorePair)
