"""Laws of every diffusion matrix: shapes, divergences by finite differences, gradients, and the generalised score."""

import pytest
import torch
import zuko

from girsanov.stein import (
    DIFFUSIONS,
    FlowMatrix,
    Function,
    Identity,
    Radial,
    generalised_score,
    goodness_of_fit,
    score_matching,
)
from girsanov.stein.fields import dense
from girsanov.stein.matrices import as_diffusion
from girsanov.types import InputError
from tests.seeds import seeded
from tests.stein.registry import DIMENSIONS, FLOWS, MATRICES, potential, score_of, spline

pytestmark = pytest.mark.usefixtures("float64")

STEP = 1e-5
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
    strategy = as_diffusion(make(d), x)
    matrix, divergence = strategy(x)
    assert matrix.shape == (6, d, divergence.shape[1])
    torch.testing.assert_close(divergence, by_differences(lambda x: strategy(x)[0], x), rtol=1e-6, atol=1e-7)
    compact, drift = strategy.drift(x)
    torch.testing.assert_close(dense(compact, d), matrix)

    def square(x):
        m = strategy(x)[0]
        return m @ m.mT

    torch.testing.assert_close(drift, by_differences(square, x), rtol=1e-6, atol=1e-7)
    assert not any(part.requires_grad for part in (matrix, divergence, drift))


@pytest.mark.parametrize("name", ["scalar", "diagonal", "wide", "heavy", "flow-spline", "flow-continuous"])
def test_gradients_reach_the_rows(name):
    x = rows(2, 2).requires_grad_()
    strategy = as_diffusion(MATRICES[name](2), x)
    assert torch.autograd.gradcheck(lambda x: torch.cat([part.flatten() for part in strategy(x)]), x, atol=1e-6)


def test_gradients_reach_the_parameters_of_a_flow():
    flow = zuko.flows.MAF(2, transforms=1, hidden_features=(4,))
    x, score = rows(4, 2), score_of(potential)
    closed, _ = generalised_score(x, score, FlowMatrix(flow))
    plain, _ = generalised_score(x, score, Function(FlowMatrix(flow).matrix))  # div m by autograd, without Piola
    weights = list(flow.parameters())
    found, expected = (torch.autograd.grad(b.square().sum(), weights) for b in (closed, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
@each_dimension
def test_piola_identity_gives_the_divergence_of_a_flow(make, d):
    x, strategy = rows(5, d), FlowMatrix(make(d))
    _, by_piola = strategy.divergence(x)
    _, by_autograd = Function(strategy.matrix).divergence(x)
    torch.testing.assert_close(by_piola, by_autograd, rtol=1e-10, atol=1e-10)


def test_generalised_score_on_images_and_given_scores():
    x = rows(3, 8).reshape(3, 2, 2, 2)
    score = score_of(potential)
    b, m = generalised_score(x, score, lambda x: 1.0 + x.square().flatten(1).sum(1))
    flat, _ = generalised_score(x.flatten(1), score(x).flatten(1), lambda x: 1.0 + x.square().sum(1))
    torch.testing.assert_close(b, flat)
    assert m.shape == (3, 8, 8)
    plain, eye = generalised_score(x, score)
    assert torch.equal(plain, score(x).flatten(1))
    assert torch.equal(eye, torch.eye(8).expand(3, -1, -1))


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_named_matrices_fit_themselves_to_rows(name):
    # on a dyadic grid, with the quartiles among 401 rows, shift and scale are exact: fits see the same bits
    x = (2**20 * (5.0 + 3.0 * rows(401, 2))).round() / 2**20
    matrix, divergence = as_diffusion(name, x)(x)
    assert matrix.isfinite().all()
    assert divergence.isfinite().all()
    shifted, _ = as_diffusion(name, 8.0 * x + 7.0)(8.0 * x + 7.0)
    ratio = 8.0 if name == "gaussianise" else 1.0  # a flow's matrix has the unit of the data, the others have none
    torch.testing.assert_close(shifted, ratio * matrix, rtol=1e-6, atol=1e-6)


def test_a_column_wise_flow_makes_its_rows_normal():
    x = torch.randn(4000, 1, generator=seeded(3)).exp()
    y = as_diffusion("gaussianise", x).map(x)
    assert abs(float(y.mean())) < 0.05
    assert abs(float(y.std()) - 1.0) < 0.05


def test_median_and_deviation_ignore_outliers():
    x = rows(500, 1)
    spoiled = torch.cat([x, torch.full((50, 1), 1e6)])
    clean, robust = (Radial.fit(rows, power=-0.5) for rows in (x, spoiled))
    assert abs(float(clean.centre - robust.centre)) < 0.2
    assert 0.8 < float(robust.scale / clean.scale) < 1.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: as_diffusion("sharp", x), "no diffusion matrix named 'sharp'"),
        (lambda x: generalised_score(x, lambda x: x[:, :1]), "returned shape"),
        (lambda x: generalised_score(x, lambda x: x / 0.0), "not finite"),
        (lambda x: generalised_score(x, x, torch.ones(5)), "cannot have shape"),
        (lambda x: generalised_score(x, x, lambda x: torch.ones(3, 3)), "must have shape"),
        (lambda x: Radial.fit(torch.zeros(9, 2), power=1.0), "one value"),
        (lambda x: as_diffusion("gaussianise", torch.zeros(9, 2, 2)), "rows of shape"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call(rows(4, 2))


def test_strategies_pass_through_and_flows_are_recognised():
    x = rows(3, 2)
    assert as_diffusion(None, x) == Identity()
    for name in ("spline", "standardise", "columns", "torch"):
        assert isinstance(as_diffusion(FLOWS[name](2), x), FlowMatrix)
    flow = spline(2)
    for view in (flow, flow(), flow.transform, flow().transform):
        torch.testing.assert_close(as_diffusion(view, x).matrix(x), FlowMatrix(flow).matrix(x))


@pytest.mark.parametrize("zero", [torch.tensor(0.0), torch.zeros(2, 2), lambda x: (x[:, 0] > 0.0).to(x)])
def test_a_matrix_that_sees_nothing_is_refused(zero):
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [2.0, 1.0]])
    for function in (goodness_of_fit, score_matching):
        with pytest.raises(InputError, match="diffusion matrix is zero at x"):
            function(x, lambda x: -x, diffusion=zero)
