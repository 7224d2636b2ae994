"""Estimators of a few parameters: closed forms, efficiency by quadrature, honest standard errors, robustness."""

import math

import numpy as np
import pytest
import torch

from girsanov.stein import (
    BFGS,
    NaturalGradient,
    Radial,
    fit_exponential_family,
    minimum_score_matching,
    minimum_stein_discrepancy,
    score_matching,
)
from girsanov.types import InputError
from tests.seeds import rng, seeded

pytestmark = pytest.mark.usefixtures("float64")


def student_score(freedom):
    """Score of a Student-t with parameters (location, log-scale)."""

    def score(theta, x):
        z = x - theta[0]
        return -(freedom + 1.0) * z / (freedom * (2.0 * theta[1]).exp() + z.square())

    return score


def student(freedom, n, seed):
    generator = rng(seed)
    return torch.tensor(25.0 + 10.0 * generator.standard_t(freedom, size=(n, 1)))


def normal_statistics(x):
    return torch.cat([x, -0.5 * x.square()], 1)


def contaminated(seed, outliers):
    generator = seeded(seed)
    x = 2.0 + 1.5 * torch.randn(500, 1, generator=generator)
    x[:outliers] = 20.0 + 0.0 * x[:outliers]
    return x


@pytest.mark.parametrize("optimiser", [BFGS(), NaturalGradient()], ids=["bfgs", "natural"])
def test_optimisers_find_the_closed_form(optimiser):
    """A normal in d = 2 by its mean and log-variance; plain score matching is maximum likelihood."""
    x = torch.tensor([1.0, -3.0]) + 2.0 * torch.randn(400, 1, 2, generator=seeded(0))

    def score(theta, x):
        return -(x - theta[:2]) * (-theta[2]).exp()

    fit = minimum_score_matching(x, score, torch.zeros(3), optimiser=optimiser)
    mean = x.mean(0)[0]
    torch.testing.assert_close(fit.parameters[:2], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fit.parameters[2].exp(), (x - mean).square().mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fit.stderr[:2], x.flatten(1).std(0, correction=0) / 20.0, rtol=0.01, atol=0.0)
    assert fit.steps < 60


@pytest.mark.parametrize("optimiser", [BFGS(), NaturalGradient()], ids=["bfgs", "natural"])
@pytest.mark.parametrize("moving", [False, True], ids=["fixed", "moving"])
def test_minimum_discrepancy_estimates_with_a_matrix_that_may_move(optimiser, moving):
    x = student(5, 300, 0)

    def diffusion_at(theta, moving=moving):
        location, scale = (theta[0], theta[1].exp()) if moving else (x.median(), 10.0)
        return lambda x: 1.0 + ((x[:, 0] - location) / scale) ** 2

    def fitted(start, **options):
        return minimum_stein_discrepancy(x, student_score(5.0), start, optimiser=optimiser, **options)

    start = torch.tensor([20.0, 2.0])
    if moving:  # a matrix that moves is small far away too, so its loss is minimised near a first estimate
        start = fitted(start, diffusion_at=lambda theta: diffusion_at(theta, moving=False)).parameters
    fit = fitted(start, diffusion_at=diffusion_at)
    error = (fit.parameters - torch.tensor([25.0, math.log(10.0)])) / fit.stderr
    assert bool((error.abs() < 4.0).all())
    assert bool((fit.stderr < torch.tensor([1.5, 0.15])).all())


def test_natural_gradient_does_not_depend_on_the_parametrisation():
    x, score = student(5, 200, 1), student_score(5.0)

    def stretched(theta, x):
        return score(torch.stack([1000.0 * theta[0], theta[1]]), x)

    fits = [
        minimum_score_matching(x, s, torch.tensor(start), optimiser=NaturalGradient())
        for s, start in ((score, [20.0, 2.0]), (stretched, [0.02, 2.0]))
    ]
    assert fits[0].steps == fits[1].steps
    torch.testing.assert_close(fits[0].parameters[1], fits[1].parameters[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(fits[0].stderr[0], 1000.0 * fits[1].stderr[0], rtol=1e-4, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "pairs"])
def test_standard_errors_cover_the_truth(kind):
    """95 % intervals of a Student-t's location cover it 91 to 98.5 % of 200 times: false alarm below 1 %."""
    hits = 0
    score, start = student_score(5.0), torch.tensor([25.0, math.log(10.0)])
    for seed in range(200):
        x = student(5, 150, seed)
        if kind == "rows":
            fit = minimum_score_matching(x, score, start, diffusion="heavy_tailed", optimiser=NaturalGradient())
        else:
            fit = minimum_stein_discrepancy(x, score, start, optimiser=NaturalGradient(tolerance=1e-10))
        hits += bool((fit.parameters[0] - 25.0).abs() < 1.96 * fit.stderr[0])
    assert 182 <= hits <= 197


# The table of efficiencies, by quadrature: note of paper 4, section 3.1.


def sandwich(freedom, matrix):
    """Asymptotic variances of location and log-scale at the truth (0, 0), by quadrature."""
    from scipy import stats

    # x = sinh(u) on an even grid: the trapezoidal rule converges exponentially, tails included
    u = torch.linspace(-13.0, 13.0, 2001)
    x = torch.sinh(u)[:, None]
    mass = torch.tensor(stats.t(freedom).pdf(x[:, 0].numpy())) * torch.cosh(u) * (u[1] - u[0])
    theta = torch.zeros(2)

    def rows(theta):
        with torch.no_grad():
            return score_matching(x, lambda x: student_score(freedom)(theta, x), diffusion=matrix).rows

    h = 1e-4
    units = h * torch.eye(2)
    psi = torch.stack([(rows(theta + e) - rows(theta - e)) / (2 * h) for e in units])
    curvature = torch.stack([mass @ (rows(theta + e) - 2 * rows(theta) + rows(theta - e)) / h**2 for e in units])
    return psi.square() @ mass / curvature.square()


def efficiency(freedom, matrix):
    information = torch.tensor([(freedom + 1.0) / (freedom + 3.0), 2.0 * freedom / (freedom + 3.0)])
    return (1.0 / (information * sandwich(freedom, matrix))).tolist()


@pytest.mark.parametrize(
    ("freedom", "power", "location", "scale"),
    [
        (1, 0.0, 0.40, 0.26),
        (3, 0.0, 0.56, 0.48),
        (5, 0.0, 0.67, 0.63),
        (30, 0.0, 0.96, 0.96),
        (3, 0.5, 0.65, 0.74),
        (5, 0.5, 0.75, 0.84),
        (1, 0.75, 0.57, 0.74),
        (5, 0.75, 0.78, 0.95),
        (5, 1.0, 0.75, 1.00),
    ],
)
def test_efficiencies_of_powers_of_the_student_matrix(freedom, power, location, scale):
    """The note's table within 0.01."""
    matrix = Radial(torch.zeros(1), torch.ones(1), power=power, freedom=float(freedom))
    found = efficiency(float(freedom), matrix)
    assert found[0] == pytest.approx(location, abs=0.0101)
    assert found[1] == pytest.approx(scale, abs=0.0101)


def gaussianising(freedom):
    """The matrix 1/F' of F = Phi^{-1} o (distribution function of Student's t), as a function of rows."""
    from scipy import stats

    t, normal = stats.t(freedom), stats.norm

    class InverseSlope(torch.autograd.Function):
        """The matrix m = 1/F' = phi(F)/t and its derivative, m' = -m (log t)' - F."""

        @staticmethod
        def forward(ctx, x):
            values = x.detach().numpy()[:, 0]
            image = np.sign(values) * -normal.ppf(t.sf(np.abs(values)))
            matrix = normal.pdf(image) / t.pdf(values)
            slope = matrix * ((freedom + 1.0) * values / (freedom + values**2)) - image
            ctx.save_for_backward(torch.tensor(slope))
            return torch.tensor(matrix)

        @staticmethod
        def backward(ctx, gradient):
            return (gradient * ctx.saved_tensors[0])[:, None]

    return InverseSlope.apply


@pytest.mark.parametrize(("freedom", "location", "scale"), [(1, 0.54, 0.64), (3, 0.67, 0.86), (5, 0.78, 0.93)])
def test_efficiency_of_the_gaussianising_flow(freedom, location, scale):
    found = efficiency(float(freedom), gaussianising(freedom))
    assert found == pytest.approx([location, scale], abs=0.0101)


# Exponential families.


def test_closed_form_is_the_quadratic_s_minimum():
    """Against the loss itself at the fitted parameters, with a base measure and in d = 2."""
    x = torch.randn(80, 2, generator=seeded(0))

    def statistics(x):
        return torch.stack([-x.square().sum(1), torch.tanh(x[:, 0] * x[:, 1]), x[:, 0], torch.cos(x[:, 1])], 1)

    def base(x):
        return -0.1 * x.square().square().sum(1)

    fit = fit_exponential_family(statistics, x, base=base, diffusion="robust")

    def score(theta, x):
        point = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad((statistics(point) @ theta + base(point)).sum(), point, create_graph=True)[0]

    other = minimum_score_matching(x, score, torch.zeros(4), diffusion="robust", optimiser=BFGS(tolerance=1e-9))
    torch.testing.assert_close(fit.parameters, other.parameters, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fit.covariance, other.covariance, rtol=1e-3, atol=1e-6)
    values = [
        float(score_matching(x, lambda x, e=e: score(e, x), diffusion="robust").value.detach())
        for e in (torch.zeros(4), fit.parameters)
    ]
    quadratic = 0.5 * fit.parameters @ fit.curvature @ fit.parameters + fit.parameters @ fit.slope
    assert values[1] - values[0] == pytest.approx(float(quadratic), abs=1e-10)


def test_posterior_is_that_of_the_quadratic_loss():
    x = contaminated(0, 0)
    fit = fit_exponential_family(normal_statistics, x)
    flat = fit.posterior(torch.zeros(2), 1e8 * torch.eye(2))
    torch.testing.assert_close(flat.mean, fit.parameters, rtol=1e-6, atol=1e-6)
    mean, spread = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.1], [0.1, 0.4]])
    posterior = fit.posterior(mean, spread, rate=0.3)
    precision = torch.linalg.inv(spread) + 0.3 * 500 * fit.curvature
    torch.testing.assert_close(torch.linalg.inv(posterior.covariance), precision)
    stationary = torch.linalg.inv(spread) @ (posterior.mean - mean)
    stationary = stationary + 0.3 * 500 * (fit.curvature @ posterior.mean + fit.slope)
    torch.testing.assert_close(stationary, torch.zeros(2), rtol=0.0, atol=1e-8)


def test_dependent_statistics_are_an_error():
    with pytest.raises(InputError, match="linearly dependent"):
        fit_exponential_family(lambda x: torch.cat([x, 2.0 * x], 1), contaminated(0, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("power", "outliers", "expected"), [(0.0, 50, 1.80), (-0.5, 50, 0.088), (-1.0, 50, 0.113), (-0.5, 0, 0.087)]
)
def test_robustness_to_a_tenth_of_outliers(power, outliers, expected):
    """The second run of the note, section 3.2, within 4 of its Monte-Carlo errors over 400 repetitions (3.5 % each)."""
    means = []
    for seed in range(400):
        x = contaminated(seed, outliers)
        eta = fit_exponential_family(normal_statistics, x, diffusion=Radial.fit(x, power=power)).parameters
        means.append(eta[0] / eta[1])
    error = (torch.stack(means) - 2.0).square().mean().sqrt()
    assert float(error) == pytest.approx(expected, rel=0.14)
