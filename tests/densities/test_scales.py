"""Gaussians whose covariance is another multiple in every row, against dense linear algebra and their own law."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from girsanov.densities import Gaussian, ScaleMixture
from girsanov.densities.scales import FACTORS
from tests.seeds import seeded

DIM = 6
COVARIANCE = 0.3 * torch.eye(DIM, dtype=torch.float64) + 0.7 * torch.rand(DIM, DIM, generator=seeded(0)).double().cov()
MEAN = torch.linspace(-1.0, 1.0, DIM, dtype=torch.float64)
CHOSEN = {FACTORS.index(-2 * math.log(2.0)): 0.25, FACTORS.index(0.0): 0.5, FACTORS.index(3 * math.log(2.0)): 0.25}


def mixture():
    weights = torch.full((len(FACTORS),), 0.0, dtype=torch.float64)
    for index, weight in CHOSEN.items():
        weights[index] = weight
    return ScaleMixture(Gaussian(MEAN, COVARIANCE), weights.log()).double()


def components(noise):
    """The laws of noisy rows under the factors with weight, by dense algebra."""
    eye = torch.eye(DIM, dtype=torch.float64)
    return [MultivariateNormal(MEAN, math.exp(FACTORS[k]) * COVARIANCE + noise**2 * eye) for k in CHOSEN]


@pytest.mark.parametrize("noise", [0.01, 0.5, 20.0])
def test_the_noise_prediction_is_the_score_of_the_dense_mixture(noise):
    y = (2.0 * torch.randn(100, DIM, dtype=torch.float64, generator=seeded(1))).requires_grad_()
    weights = torch.tensor(list(CHOSEN.values()), dtype=torch.float64).log()
    log_prob = torch.logsumexp(torch.stack([law.log_prob(y) for law in components(noise)], 1) + weights, 1)
    (score,) = torch.autograd.grad(log_prob.sum(), y)
    found, factor = mixture().denoised(torch.full((100,), noise, dtype=torch.float64), y.detach())
    torch.testing.assert_close(found, -noise * score, rtol=1e-6, atol=1e-9)
    assert bool((factor >= FACTORS[0]).all())
    assert bool((factor <= FACTORS[-1]).all())


def test_log_densities_are_those_of_dense_gaussians():
    x = torch.randn(70, DIM, dtype=torch.float64, generator=seeded(2))
    found = mixture().log_probs(x)
    for k, law in zip(CHOSEN, components(0.0), strict=True):
        torch.testing.assert_close(found[:, k], law.log_prob(x), rtol=1e-6, atol=1e-6)  # factors are float32


def test_factors_are_found_where_rows_have_them_and_left_out_where_not():
    law = Gaussian(torch.zeros(40), torch.eye(40, dtype=torch.float64))
    x = law.sample(600, generator=seeded(3))
    assert ScaleMixture.fit(law, x[:400], x[400:]).is_plain
    rough = torch.rand(600, generator=seeded(4)) < 0.5
    x = torch.where(rough[:, None], 4.0, 0.25) * x
    found = ScaleMixture.fit(law, x[:400], x[400:])
    weights = found.log_weights.exp()
    assert not found.is_plain
    near = [FACTORS.index(2 * math.log(4.0)), FACTORS.index(-2 * math.log(4.0))]
    assert float(weights[near].sum()) > 0.9
    assert float((weights[near[0]] - rough[:400].double().mean()).abs()) < 0.05


def test_of_low_rank_it_is_the_gaussian():
    x = torch.randn(50, 5, dtype=torch.float64, generator=seeded(5))
    assert ScaleMixture.fit(Gaussian.fit(x, rank=2), x, x).is_plain
