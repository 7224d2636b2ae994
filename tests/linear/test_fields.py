"""Laws of every matrix m(x): its divergences by finite differences, and where gradients go."""

import pytest
import torch

from girsanov.linear import FlowMatrix, Function, Radial
from girsanov.linear.fields import diffusion_terms
from tests.linear.registry import DIMENSIONS, FLOWS, MATRICES
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

STEP = 1e-5
CONSTANT = ("identity", "scalar-constant", "constant", "wide-constant")
each_matrix = pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
each_dimension = pytest.mark.parametrize("d", DIMENSIONS)


def rows(n, d, seed=0):
    return 0.8 * torch.randn(n, d, generator=seeded(seed))


def by_differences(field, x):
    """Divergence by column of a dense field n d r, by central differences."""
    total = 0.0
    for i, unit in enumerate(torch.eye(x.shape[1])):
        total = total + (field(x + STEP * unit) - field(x - STEP * unit))[:, i] / (2.0 * STEP)
    return total


@each_matrix
@each_dimension
def test_divergences_are_those_of_the_matrix(make, d):
    x = rows(6, d)
    strategy = make(d)
    matrix, divergence = strategy(x)
    assert matrix.shape == (6, d, divergence.shape[1])
    torch.testing.assert_close(divergence, by_differences(lambda x: strategy(x)[0], x), rtol=1e-6, atol=1e-7)
    compact, drift = strategy.drift(x)
    torch.testing.assert_close(compact.dense(x), matrix)

    def square(x):
        m = strategy(x)[0]
        return m @ m.mT

    torch.testing.assert_close(drift, by_differences(square, x), rtol=1e-6, atol=1e-7)
    assert not any(part.requires_grad for part in (matrix, divergence, drift))


@pytest.mark.parametrize("name", ["scalar", "diagonal", "wide", "heavy", "flow-spline", "flow-continuous"])
def test_gradients_reach_the_rows(name):
    x = rows(2, 2).requires_grad_()
    strategy = MATRICES[name](2)
    assert torch.autograd.gradcheck(lambda x: torch.cat([part.flatten() for part in strategy(x)]), x, atol=1e-6)


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
@each_dimension
def test_piola_identity_gives_the_divergence_of_a_flow(make, d):
    x, strategy = rows(5, d), FlowMatrix(make(d))
    _, by_piola = strategy.divergence(x)
    _, by_autograd = Function(strategy.matrix).divergence(x)
    torch.testing.assert_close(by_piola, by_autograd, rtol=1e-10, atol=1e-10)


def test_median_and_deviation_ignore_outliers():
    x = rows(500, 1)
    spoiled = torch.cat([x, torch.full((50, 1), 1e6)])
    clean, robust = (Radial.fit(rows, power=-0.5) for rows in (x, spoiled))
    assert abs(float(clean.centre - robust.centre)) < 0.2
    assert 0.8 < float(robust.scale / clean.scale) < 1.4


@pytest.mark.parametrize("name", [name for name in MATRICES if not name.startswith("flow-")])
def test_the_divergence_of_the_divergence_of_its_square(name):
    strategy, x = MATRICES[name](3), rows(4, 3)
    terms = diffusion_terms(strategy.matrix, x)
    if name in CONSTANT:
        assert terms is None
        return
    divergence, double = terms
    torch.testing.assert_close(divergence, strategy.drift(x)[1])
    again = by_differences(lambda x: strategy.drift(x)[1][:, :, None], x)[:, 0]
    torch.testing.assert_close(double, again, rtol=1e-6, atol=1e-7)


def test_a_coefficient_of_parameters_alone_has_no_divergence():
    weight = torch.nn.Parameter(torch.ones(()))
    assert diffusion_terms(lambda x: weight.expand(len(x)), torch.zeros(2, 3)) is None
