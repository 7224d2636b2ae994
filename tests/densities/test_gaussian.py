"""The Gaussian's closed forms, which every bound leans on, against dense linear algebra and quadrature."""

import numpy as np
import pytest
import torch

from girsanov.densities import Gaussian
from girsanov.types import InputError
from tests.laws import each_gaussian, expected_log_normal, low_rank_case
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

LEVELS = (-12.0, -1.0, 0.5, 4.0, 14.0)


def dense_error(case, x, level):
    """Mean and covariance over eps of eps - eps_G given x, at a variance-preserving level, by dense algebra."""
    alpha, sigma = torch.sigmoid(torch.tensor(level)).sqrt(), torch.sigmoid(-torch.tensor(level)).sqrt()
    eye = torch.eye(case.d)
    gain = sigma * torch.linalg.inv(alpha**2 * case.covariances[0] + sigma**2 * eye)
    mean = -alpha * (x.flatten(1) - case.means[0]) @ gain.T
    spread = eye - sigma * gain
    return mean, spread @ spread.T


@each_gaussian
def test_covariance_and_spectrum_are_the_dense_ones(make_case):
    case = make_case()
    torch.testing.assert_close(case.density.covariance, case.covariances[0])
    ours, theirs = case.density.spectrum().sort().values, torch.linalg.eigvalsh(case.covariances[0])
    torch.testing.assert_close(ours, theirs)
    assert case.density.event_dim == case.d
    assert case.density.moment_match() is case.density


@each_gaussian
def test_squared_error(make_case):
    case = make_case()
    x = case.rows(4)
    for level in LEVELS:
        mean, covariance = dense_error(case, x, level)
        expected = mean.square().sum(1) + covariance.trace()
        torch.testing.assert_close(case.density.squared_error(x, level), expected, rtol=1e-8, atol=1e-12)


@each_gaussian
def test_squared_error_by_simulation(make_case):
    case = make_case()
    x, n, level = case.rows(1), 40_000, 0.7
    eps = torch.randn(n, *case.shape, generator=seeded(1))
    z = torch.sigmoid(torch.tensor(level)).sqrt() * x + torch.sigmoid(torch.tensor(-level)).sqrt() * eps
    squares = (eps - case.density.noise(torch.full((n,), level), z)).flatten(1).square().sum(1)
    z_score = (squares.mean() - case.density.squared_error(x, level)) / (squares.std() / n**0.5)
    assert abs(float(z_score)) < 5.0  # false alarm 6e-7


@each_gaussian
def test_squared_error_integral(make_case):
    case = make_case()
    x = case.rows(3)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    for low, high in ((-15.0, 15.0), (-3.0, 1.0)):
        half = 0.5 * (high - low)
        values = [case.density.squared_error(x, low + half * (node + 1.0)) for node in nodes]
        expected = half * torch.tensor(weights) @ torch.stack(values)
        # 2e-9: torch's softplus is linear beyond 20
        torch.testing.assert_close(case.density.squared_error_integral(x, low, high), expected, rtol=1e-9, atol=5e-8)


@each_gaussian
def test_posterior_quadratic_form_and_determinant(make_case):
    case = make_case()
    x, eye = case.rows(4), torch.eye(case.d)
    precision = torch.linalg.inv(case.covariances[0])
    for level in LEVELS:
        posterior = precision + np.exp(level) * eye
        torch.testing.assert_close(
            case.density.posterior_log_det(level), -torch.logdet(posterior), rtol=1e-10, atol=1e-10
        )
        metric = np.exp(-level) * posterior
        error = torch.randn(4, *case.shape)
        form = case.density.posterior_form(torch.full((4,), level), error)
        torch.testing.assert_close(form.flatten(1), error.flatten(1) @ metric, rtol=1e-9, atol=1e-9)
        mean, covariance = dense_error(case, x, level)
        expected = ((mean @ metric) * mean).sum(1) + (metric @ covariance).trace()
        torch.testing.assert_close(case.density.posterior_quadratic(level, x), expected, rtol=1e-8, atol=1e-9)


@each_gaussian
def test_expected_log_prob(make_case):
    case = make_case()
    at, variance = torch.randn(4, *case.shape), torch.tensor(0.8)
    expected = expected_log_normal(at.flatten(1), variance, case.means[0], case.covariances[0])
    torch.testing.assert_close(case.density.expected_log_prob(at, variance), expected)


@each_gaussian
def test_whitening_inverts_and_gives_unit_covariance(make_case):
    case = make_case()
    law, x = case.density, torch.randn(6, *case.shape)
    levels = torch.tensor([-12.0, -3.0, 0.0, 3.0, 12.0, torch.inf])
    torch.testing.assert_close(law.unwhiten(levels, law.whiten(levels, x)), x)
    for level in levels:
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        one = level.expand(case.d)
        origin = law.whiten(one, alpha * law.mean.expand(case.d, *case.shape))
        columns = law.whiten(one, alpha * law.mean + torch.eye(case.d).reshape(-1, *case.shape))
        assert float(origin.abs().max()) < 1e-12
        matrix = columns.flatten(1)
        covariance = alpha**2 * case.covariances[0] + sigma**2 * torch.eye(case.d)
        torch.testing.assert_close(matrix.T @ covariance @ matrix, torch.eye(case.d))


def test_a_low_rank_gaussian_equals_the_dense_one_in_everything():
    case = low_rank_case((2, 3, 2), rank=3)
    low, dense = case.density, Gaussian(case.density.mean, case.covariances[0])
    x, levels = case.rows(5), torch.linspace(-10.0, 10.0, 5)
    pairs = [
        (low.log_prob(x), dense.log_prob(x)),
        (low.noise(levels, x), dense.noise(levels, x)),
        (low.whiten(levels, x), dense.whiten(levels, x)),
        (low.unwhiten(levels, x), dense.unwhiten(levels, x)),
        (low.posterior_form(levels, x), dense.posterior_form(levels, x)),
        (low.squared_error(x, 1.0), dense.squared_error(x, 1.0)),
        (low.squared_error_integral(x, -9.0, 9.0), dense.squared_error_integral(x, -9.0, 9.0)),
        (low.posterior_quadratic(2.0, x), dense.posterior_quadratic(2.0, x)),
        (low.posterior_log_det(2.0), dense.posterior_log_det(2.0)),
        (low.diffused(0.5, 0.7).covariance, dense.diffused(0.5, 0.7).covariance),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_fit_recovers_mean_and_covariance_of_many_rows():
    case = low_rank_case((2, 3), rank=2)
    fitted = Gaussian.fit(case.rows(20_000))
    assert fitted.event_shape == (2, 3)
    torch.testing.assert_close(fitted.mean.flatten(), case.means[0], rtol=0.0, atol=0.05)
    torch.testing.assert_close(fitted.covariance, case.covariances[0], rtol=0.0, atol=0.06)
    cut = Gaussian.fit(case.rows(20_000), rank=2)
    assert cut.eigenvalues.shape == (2,)
    torch.testing.assert_close(cut.covariance, case.covariances[0], rtol=0.0, atol=0.06)


def test_fit_does_not_shrink_a_small_column_towards_a_large_one():
    x = torch.randn(200, 2, generator=seeded(0)) * torch.tensor([1e-4, 1e4])
    fitted = Gaussian.fit(x)
    assert (fitted.covariance.diagonal() / x.var(0, correction=0)).tolist() == pytest.approx([1.0, 1.0])


def test_fit_of_fewer_rows_than_dimensions_is_positive_definite():
    fitted = Gaussian.fit(torch.randn(5, 20, generator=seeded(0)))
    assert float(fitted.spectrum().min()) > 1e-3


def test_fit_says_what_it_cannot_do():
    with pytest.raises(InputError, match="needs at least 2 rows to be fitted; got 1"):
        Gaussian.fit(torch.zeros(1, 3))
    with pytest.raises(InputError, match="not positive definite: drop collinear columns"):
        Gaussian.fit(torch.cat([torch.randn(50, 1), torch.full((50, 1), 0.1)], 1))


@each_gaussian
def test_the_excess_is_the_squared_error_less_its_mean(make_case):
    case = make_case()
    law, x = case.density, case.rows(3)
    levels = torch.tensor([-4.0, 0.5, 6.0]).expand(3, 3)
    eps = torch.randn(3, 3, *case.shape)
    wide = (..., *(None,) * len(case.shape))
    z = torch.sigmoid(levels).sqrt()[wide] * x[:, None] + torch.sigmoid(-levels).sqrt()[wide] * eps
    error = eps - law.noise(levels.flatten(), z.flatten(0, 1)).reshape(eps.shape)
    squared = error.flatten(2).square().sum(2)
    mean = torch.stack([law.squared_error(x, float(level)) for level in levels[0]], 1)
    torch.testing.assert_close(law.squared_error_excess(x, levels, eps), squared - mean)


def test_a_diagonal_gaussian_stores_no_basis():
    law = Gaussian(torch.zeros(2, 16, 16), torch.rand(2, 16, 16) + 0.1)
    assert law.basis is None
    assert law.diffused(0.5, 0.5).basis is None


def test_whole_numbers_for_a_mean_do_not_round_the_covariance():
    law = Gaussian(torch.tensor([1, 2]), torch.tensor([[0.5, 0.0], [0.0, 1.5]]))
    assert law.spectrum().sort().values.tolist() == [0.5, 1.5]
    with pytest.raises(InputError, match="mean of a Gaussian must be finite"):
        Gaussian(torch.tensor([0.0, torch.nan]), 1.0)
