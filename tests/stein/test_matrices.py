"""Diffusion matrices by name and by kind, and the generalised score; their laws are in tests/linear."""

import pytest
import torch
import zuko

from girsanov.stein import (
    DIFFUSIONS,
    Constant,
    FlowMatrix,
    Function,
    Identity,
    Radial,
    generalised_score,
    goodness_of_fit,
    score_matching,
)
from girsanov.stein.matrices import as_diffusion
from girsanov.types import InputError
from tests.linear.registry import FLOWS, spline
from tests.seeds import seeded
from tests.stein.registry import potential, score_of

pytestmark = pytest.mark.usefixtures("float64")


def rows(n, d, seed=0):
    return 0.8 * torch.randn(n, d, generator=seeded(seed))


def test_gradients_reach_the_parameters_of_a_flow():
    flow = zuko.flows.MAF(2, transforms=1, hidden_features=(4,))
    x, score = rows(4, 2), score_of(potential)
    closed, _ = generalised_score(x, score, FlowMatrix(flow))
    plain, _ = generalised_score(x, score, Function(FlowMatrix(flow).matrix))  # div m by autograd, without Piola
    weights = list(flow.parameters())
    found, expected = (torch.autograd.grad(b.square().sum(), weights) for b in (closed, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: as_diffusion("sharp", x), "no diffusion matrix named 'sharp'"),
        (lambda x: generalised_score(x, lambda x: x[:, :1]), "returned shape"),
        (lambda x: generalised_score(x, lambda x: x / 0.0), "not finite"),
        (lambda x: generalised_score(x, x, torch.ones(5)), "must have shape"),
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
    assert isinstance(as_diffusion(torch.tensor(0.7), x), Constant)
    assert isinstance(as_diffusion(torch.sin, x), Function)
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
