"""Gaussians of few images: covariances by distance against a count over all pairs, and what held-out images say."""

import itertools

import torch

from girsanov.densities import Gaussian
from girsanov.densities.stationary import fit_image_gaussian, stationary_covariance
from tests.seeds import seeded


def test_the_covariance_by_distance_is_the_mean_over_all_pairs():
    x = torch.randn(7, 2, 3, 4, generator=seeded(0), dtype=torch.float64)
    mean, covariance = stationary_covariance(x)
    centred = x - x.mean((0, 2, 3))[:, None, None]
    assert torch.allclose(mean + centred, x)
    places = list(itertools.product(range(2), range(3), range(4)))
    for (i, (a, row, column)), (j, (b, lower, right)) in itertools.product(enumerate(places), repeat=2):
        down, along = lower - row, right - column
        pairs = [
            (centred[:, a, y, z] * centred[:, b, y + down, z + along]).mean()
            for y, z in itertools.product(range(3), range(4))
            if 0 <= y + down < 3 and 0 <= z + along < 4
        ]
        assert torch.allclose(covariance[i, j], torch.stack(pairs).mean(), atol=1e-12)


def walks(n, number):
    """Images whose pixels are steps of a walk along the rows, the same everywhere but for its start."""
    noise = torch.randn(n, 1, 6, 20, generator=seeded(number), dtype=torch.float64)
    for k in range(1, 20):
        noise[..., k] = 0.95 * noise[..., k - 1] + (1.0 - 0.95**2) ** 0.5 * noise[..., k]
    return noise


def test_few_images_that_are_alike_all_over_get_nearly_their_law():
    fitted, held = fit_image_gaussian(walks(30, 0), walks(20, 1)), walks(400, 2)
    one = 0.95 ** (torch.arange(20.0, dtype=torch.float64)[:, None] - torch.arange(20.0)).abs()
    truth = Gaussian(torch.zeros(1, 6, 20, dtype=torch.float64), torch.block_diag(*[one] * 6))
    lost = (truth.log_prob(held) - fitted.log_prob(held)).mean()
    usual = (truth.log_prob(held) - Gaussian.fit(walks(30, 0)).log_prob(held)).mean()
    assert 0.0 < float(lost) < 0.25 * float(usual)


def test_where_images_are_not_alike_all_over_or_many_the_usual_one_stays():
    scales = torch.linspace(0.01, 3.0, 12, dtype=torch.float64).reshape(1, 3, 4)
    x = scales * torch.randn(100, 1, 3, 4, generator=seeded(3), dtype=torch.float64)
    held = scales * torch.randn(50, 1, 3, 4, generator=seeded(4), dtype=torch.float64)
    assert torch.equal(fit_image_gaussian(x, held).eigenvalues, Gaussian.fit(x).eigenvalues)
    many = torch.randn(240, 1, 3, 4, generator=seeded(5), dtype=torch.float64)
    assert torch.equal(fit_image_gaussian(many, many).eigenvalues, Gaussian.fit(many).eigenvalues)
