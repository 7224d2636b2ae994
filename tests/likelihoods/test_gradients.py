"""Gradients of every likelihood in the rows and in the score's parameters: closed forms and finite differences.

Noise is keyed by the content of a row, so that a moved row has other noise: in x the gradients are tested against
closed forms, replicate by replicate; in the parameters the noise stays, and finite differences are exact.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from girsanov.densities import Gaussian
from girsanov.likelihoods import density, elbo, ode_log_prob
from girsanov.likelihoods.discrete import LatticePoints, categorical_elbo
from girsanov.networks import ResidualMLP, Signature, TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.solvers import FixedGrid
from tests.laws import assert_student, gaussian_case, gaussian_elbo, mixture_case
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 2, 3)
SHORT = (-5.0, 4.0)


def network_model(make: Callable[..., nn.Module] = TwoLayerNetwork, **options):
    """A network with random weights: far from any reference."""
    torch.manual_seed(0)
    network = make((2, 2), width=8, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return ScoreModel(network, VariancePreserving(log_snr_range=SHORT), reference=Gaussian(torch.zeros(2, 2), 1.0))


def lattice_bound(pair, x, **options):
    lattice = LatticePoints(torch.full((2, 2), -1.0), torch.full((2, 2), 0.5), 5)
    on = -1.0 + 0.5 * ((x.detach() + 1.0) / 0.5).round().clamp(0, 4)
    return categorical_elbo(pair, on + (x - x.detach()), lattice=lattice, **options)


#: name -> (pair, x) -> Estimate
LIKELIHOODS = {
    "elbo": lambda pair, x, **o: elbo(pair, x, samples=16, **o),
    "density": lambda pair, x, **o: density(pair, x, samples=16, **o),
    "ode": lambda pair, x, **o: ode_log_prob(pair, x, solver=FixedGrid(12), **o),
    "categorical": lambda pair, x, **o: lattice_bound(pair, x, samples=16, **o),
}

each_likelihood = pytest.mark.parametrize("value_of", LIKELIHOODS.values(), ids=LIKELIHOODS)


@each_likelihood
@pytest.mark.parametrize("make", [TwoLayerNetwork, ResidualMLP])
def test_parameter_gradients_are_finite_differences(value_of, make):
    """With the same rows and noise; rows that require a gradient switch gradients on for everything."""
    model, x = network_model(make), torch.randn(3, 2, 2)
    parameters = list(model.parameters())
    total = value_of(ScorePair(model), x.requires_grad_()).value.sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    generator, step = seeded(1), 1e-5
    directions = [torch.randn(p.shape, generator=generator) for p in parameters]
    slope = sum(float((g * v).sum()) for g, v in zip(gradients, directions, strict=True) if g is not None)
    moved = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for p, v in zip(parameters, directions, strict=True):
                p.add_(v, alpha=sign * step)
            moved.append(float(value_of(ScorePair(model), x.detach()).value.sum()))
            for p, v in zip(parameters, directions, strict=True):
                p.sub_(v, alpha=sign * step)
    # parts of both signs may cancel, so the error is measured by their sizes
    size = sum(float((g * v).abs().sum()) for g, v in zip(gradients, directions, strict=True) if g is not None)
    assert slope == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=0.0, abs=1e-5 * size)
    assert size > 1e-2


@each_likelihood
def test_without_a_row_that_requires_a_gradient_nothing_is_recorded(value_of):
    model = network_model()
    assert not value_of(ScorePair(model), torch.randn(2, 2, 2)).value.requires_grad


def row_gradients(replicates, x):
    """Gradient of every replicate in its rows, ``r n *d``."""
    return torch.stack([torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in replicates])


def test_the_bound_s_row_gradient_is_unbiased_for_its_closed_form():
    """Gaussian data, exact score, another reference: the closed form is differentiated by autograd."""
    case, process = gaussian_case(SHAPE), VariancePreserving(log_snr_range=SHORT)
    x = case.rows(20).requires_grad_()
    estimate = elbo(ScorePair(case.density.score(process), reference=Gaussian(torch.zeros(SHAPE), 0.8)), x, samples=128)
    gradients = row_gradients(estimate.replicates, x)
    expected = gaussian_elbo(case, process, x, (torch.zeros(6), torch.eye(6)))
    (closed,) = torch.autograd.grad(expected.sum(), x)
    z = (gradients.mean(0) - closed) / (gradients.std(0) / len(gradients) ** 0.5)
    assert_student(z[:, 0, 0, 0], degrees=7)


def test_the_formula_s_row_gradient_is_the_score():
    case, process = mixture_case(SHAPE), VariancePreserving()
    x = case.rows(20).requires_grad_()
    estimate = density(ScorePair(case.density.score(process)), x, exact=True, samples=256)
    gradients = row_gradients(estimate.replicates, x)
    score = case.score(x, 1.0, 0.0)
    z = (gradients.mean(0) - score) / (gradients.std(0) / len(gradients) ** 0.5)
    assert_student(z[:, 0, 0, 0], degrees=7)


def test_the_ode_s_row_gradient_is_the_score():
    case, process = mixture_case(SHAPE), VariancePreserving()
    x = case.rows(4).requires_grad_()
    value = ode_log_prob(
        ScorePair(case.density.score(process), prior=case.density.marginal(process, 1.0)), x, solver=FixedGrid(40)
    ).value
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, case.score(x, 1.0, 0.0), rtol=1e-2, atol=1e-2)


@each_likelihood
def test_a_conditional_model_has_gradients_in_its_condition(value_of):
    """By finite differences: the noise is keyed by the rows, which do not move."""
    model, x = network_model(ResidualMLP, signature=Signature(condition_dim=2)), torch.randn(3, 2, 2)
    condition, step = torch.randn(3, 2, requires_grad=True), 1e-5
    total = value_of(ScorePair(model), x.requires_grad_(), condition=condition).value.sum()
    (gradient,) = torch.autograd.grad(total, condition)
    moved = []
    for sign in (1.0, -1.0):
        other = condition.detach().clone()
        other[1, 0] += sign * step
        moved.append(float(value_of(ScorePair(model), x.detach(), condition=other).value.sum()))
    assert float(gradient[1, 0]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-7)
