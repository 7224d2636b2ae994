import math

import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array, split
from girsanov.density_model import prepare
from girsanov.peers import PEERS, PeerData, fit_gaussian, fit_mixture, fit_spline_flow, spline_flow
from girsanov.randomness import seed_of
from tests.seeds import seeded


def peer_data(x, seed=0, gaussianise=True):
    data = from_array(x)
    splits = split(len(x), seed=seed)
    config = gv.Config(steps=1, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False, gaussianise=gaussianise)
    return PeerData(prepare(data, splits, config).eval(), data.x, splits, seed)


def mixture_rows(n, seed):
    law = gv.GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([[-2.0, 0.5], [2.0, 1.2], [0.3, -2.5]]),
        torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.4]], [[0.5, 0.0], [0.0, 0.1]]]),
    )
    return law, law.sample(n, generator=seeded(seed))


@pytest.fixture(scope="module")
def clusters():
    law, x = mixture_rows(1500, 0)
    return law, peer_data(x * torch.tensor([10.0, 0.1]))


@pytest.fixture(scope="module")
def counts():
    generator = seeded(3)
    return peer_data(torch.randint(0, 4, (300, 1), generator=generator).double(), gaussianise=False)


def test_values_are_log_densities_in_data_units(clusters):
    law, data = clusters
    _, fresh = mixture_rows(2000, 1)
    estimate = data.estimate(fit_mixture(data, 5.0), fresh * torch.tensor([10.0, 0.1]))
    truth = law.log_prob(fresh)  # the two scales have determinant 1
    gap = truth - estimate.value
    assert estimate.kind == "exact"
    assert estimate.model == "density"
    assert abs(gap.mean()) < 0.05
    # no model beats the truth: the mean gap is a KL divergence, and one in 30,000 samples shows less than this
    assert gap.mean() > -4 * gap.std() / math.sqrt(len(gap))


def test_the_mixture_finds_its_components(clusters):
    _, data = clusters
    gaussian, mixture = fit_gaussian(data, 1.0), fit_mixture(data, 5.0)
    assert mixture.settings["components"] >= 3  # more may serve the validation rows as well
    assert mixture.validation > gaussian.validation + 0.3


def test_the_flow_learns(clusters, monkeypatch):
    """In so many steps, however long they take."""
    _, data = clusters
    monkeypatch.setattr(spline_flow, "STEPS", 250)
    monkeypatch.setattr(spline_flow, "SETTINGS", {"small": spline_flow.SETTINGS["small"]})
    flow = fit_spline_flow(data, 3600.0)
    assert flow.validation > fit_gaussian(data, 1.0).validation + 0.1


def test_the_gaussian_is_that_of_maximum_likelihood():
    x = torch.randn(4000, 2, generator=seeded(0)) @ torch.tensor([[1.0, 0.7], [0.0, 0.5]])
    data = peer_data(x)
    train = data.x[data.splits.train]
    expected = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T, correction=0))
    value = data.estimate(fit_gaussian(data, 1.0), data.x[data.splits.test])
    truth = expected.log_prob(data.x[data.splits.test])
    gap = value.value - truth
    assert abs(gap.mean()) < 0.01  # a share of 0.005 of a broad law costs as much
    assert gap.min() > -0.2  # the ridge or shrinkage that validation chose
    assert gap[truth > truth.median()].abs().max() < 0.2  # far out the broad law adds what it has


def test_bounds_on_masses_do_not_add_up_to_more_than_one(counts):
    cells = torch.arange(0.0, 4.0, dtype=torch.float64)[:, None]
    for name, fit in PEERS.items():
        estimate = counts.estimate(fit(counts, 0.5), cells)
        assert estimate.kind == "lower_bound", name
        assert estimate.measure == "mass", name
        total = estimate.value.exp().sum()
        assert total < 1.0 + 4 * (estimate.value.exp() * estimate.stderr).sum(), name


def test_draws_are_those_of_the_models_own_bound(counts):
    rows = counts.x[:5]
    bound = counts.model.elbo(rows, generator=torch.Generator().manual_seed(counts.seed))
    seed_ = seed_of(torch.Generator().manual_seed(counts.seed))
    dequantised = counts.model.encoding.view(rows, len(bound.replicates), seed_, 0).x
    _, standardise = counts.encoding.transforms.members
    seen = []
    counts._values(lambda y: seen.append(y) or torch.zeros(len(y)), rows, len(bound.replicates))
    uniform = standardise.inverse(torch.stack(seen, 1)) - rows[:, None] + 0.5
    assert bool(((uniform >= 0) & (uniform < 1)).all())
    own = torch.stack([counts.model.encoding.transforms(rows, uniform[:, j])[0] for j in range(len(seen))], 1)
    assert torch.allclose(own, dequantised.double(), atol=1e-6)


def test_fits_are_reproducible(counts):
    first, second = (fit_mixture(counts, 60.0) for _ in range(2))
    assert first.settings == second.settings
    assert first.validation == second.validation


def test_nothing_of_our_model_is_given_to_the_peers(clusters):
    _, data = clusters
    assert {type(part).__name__ for part in data.encoding.transforms.members} == {"Standardise"}
    assert {type(part).__name__ for part in data.model.encoding.transforms.members} == {"Gaussianise"}


def test_a_column_with_one_frequent_value_is_scaled_with_its_bins():
    x = torch.zeros(400, 2, dtype=torch.float64)
    x[::100, 0] = 1.0
    x[:, 1] = torch.arange(400) % 7
    data = peer_data(x, gaussianise=False)
    assert (data.training().std(0) - 1.0).abs().max() < 0.05  # not 5: the bin is ten times as wide as the values vary
