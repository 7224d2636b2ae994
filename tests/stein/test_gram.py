"""Stein kernels in tiles against their definition, and every sum against the dense matrix."""

import math

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from girsanov.stein import gram
from girsanov.stein.gram import dense_gram, diagonal, gram_sums, paired
from girsanov.stein.kernels import InverseLog, InverseMultiquadric, Matern, SquaredExponential
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

#: name -> (kernel, its profile in u, written a second time)
KERNELS = {
    "imq": (InverseMultiquadric(1.3), lambda u: (1 + u / 1.69) ** -0.5),
    "imq-0.3": (InverseMultiquadric(0.8, exponent=0.3), lambda u: (1 + u / 0.64) ** -0.3),
    "gaussian": (SquaredExponential(1.1), lambda u: torch.exp(-u / 2.42)),
    "matern": (
        Matern(1.7),
        lambda u: (1 + (5 * u).sqrt() / 1.7 + 5 * u / (3 * 2.89)) * torch.exp(-((5 * u).sqrt()) / 1.7),
    ),
    "inverse-log": (InverseLog(0.9), lambda u: 1 / (1 + torch.log(1 + u / 0.81))),
}


def scalar(x):
    return 1.0 + 0.3 * x.square().sum(-1)


def diagonal_field(x):
    return 1.0 + 0.5 * torch.sin(x + 0.2) + 0.1 * x.roll(1, -1)


def square_field(x):
    return torch.diag_embed(diagonal_field(x)) + 0.3 * torch.tanh(x[..., :, None] * x[..., None, :] - 0.4)


def wide_field(x):
    return torch.cat([square_field(x), torch.cos(x)[..., None]], -1)


#: name -> m as a function of rows, and as a matrix at rows
MATRICES = {
    "identity": (None, lambda x: torch.eye(x.shape[-1])),
    "scalar": (scalar, lambda x: scalar(x)[..., None, None] * torch.eye(x.shape[-1])),
    "diagonal": (diagonal_field, lambda x: torch.diag_embed(diagonal_field(x))),
    "square": (square_field, square_field),
    "wide": (wide_field, wide_field),
}
FLOW = {"square", "wide"}

each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_matrix = pytest.mark.parametrize("matrix", MATRICES)


def log_p(x):
    u = x - 0.3
    return -0.25 * u.square().sum(-1) ** 2 / (1 + x.square().sum(-1)) - 0.2 * u.square().sum(-1) + 0.3 * torch.sin(x[0])


score = vmap(jacrev(log_p))


def definition(profile, field, x, y):
    """div_y div_x (p(x) m(x) k m(y)' p(y)) / (p(x) p(y)) at one pair, by nested autodiff."""
    base = (log_p(x) + log_p(y)).detach()

    def product(x, y):
        return (log_p(x) + log_p(y) - base).exp() * profile((x - y).square().sum()) * field(x) @ field(y).T

    return torch.einsum("ijij->", jacrev(jacrev(product, 0), 1)(x, y))


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=seeded(seed))


def points_of(matrix, n=20, d=3, seed=0):
    x = rows(n, d, seed)
    return x, SteinPoints.at(x, score, MATRICES[matrix][0])


@pytest.mark.parametrize("d", [1, 2, 5])
@each_matrix
@each_kernel
def test_closed_form_is_the_definition(kernel, matrix, d):
    member, profile = KERNELS[kernel]
    x, points = points_of(matrix, n=8, d=d)
    i, j = (~torch.eye(8, dtype=torch.bool)).nonzero(as_tuple=True)
    expected = vmap(lambda x, y: definition(profile, MATRICES[matrix][1], x, y))(x[i], x[j])
    gram = dense_gram(points, member)
    scale = gram.abs().max()
    assert float((gram[i, j] - expected).abs().max() / scale) < 1e-12
    assert float((paired(points[i], points[j], [member])[0] - expected).abs().max() / scale) < 1e-12


@each_matrix
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "matern"])
def test_diagonal_is_the_definition(kernel, matrix):
    member, profile = KERNELS[kernel]
    x, points = points_of(matrix, n=6)
    expected = vmap(lambda x: definition(profile, MATRICES[matrix][1], x, x))(x)
    torch.testing.assert_close(diagonal(points, member), expected, rtol=1e-11, atol=1e-11)


@each_kernel
@each_matrix
def test_the_diagonal_is_the_limit_of_near_pairs(kernel, matrix):
    _, points = points_of(matrix, n=6)
    near = SteinPoints(points.x + 1e-7, points.b, points.m)
    member = KERNELS[kernel][0]
    torch.testing.assert_close(paired(points, near, [member])[0], diagonal(points, member), rtol=1e-5, atol=1e-5)


@each_kernel
@each_matrix
def test_gram_matrix_is_symmetric_and_positive(kernel, matrix):
    _, points = points_of(matrix, n=40)
    gram = dense_gram(points, KERNELS[kernel][0])
    torch.testing.assert_close(gram, gram.T, rtol=0.0, atol=1e-11 * float(gram.abs().max()))
    assert float(torch.linalg.eigvalsh(gram).min()) > -1e-10 * float(gram.abs().max())


@each_matrix
@pytest.mark.parametrize("block", [1, 7, 64])
def test_sums_are_those_of_the_dense_matrix_at_any_tile_size(matrix, block):
    _, points = points_of(matrix, n=23)
    kernels = [member for member, _ in KERNELS.values()]
    weights = torch.randn(23, 4)
    sums = gram_sums(points, kernels, weights=weights, rows=True, block=block)
    for k, kernel in enumerate(kernels):
        gram = dense_gram(points, kernel)
        off = gram - torch.diag(gram.diagonal())
        torch.testing.assert_close(sums.pairs[k], off.sum(), rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(sums.diagonal[k], gram.diagonal().sum())
        torch.testing.assert_close(sums.rows[k], off.sum(1), rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(sums.forms[k], (weights * (off @ weights)).sum(0), rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(sums.u[k], off.sum() / (23 * 22), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(sums.v[k], gram.mean(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "none"])
@pytest.mark.parametrize("matrix", ["identity", "wide"])
def test_compiled_tiles_have_the_same_sums(matrix, backend, monkeypatch):
    """The path that is compiled, traced without a code generator; and without any compiler at all."""
    _, points = points_of(matrix, n=300)
    kernels, asked = [InverseMultiquadric(1.0)], []
    expected = gram_sums(points, kernels, rows=True)
    original = torch.compile

    def compiler(function, **options):
        asked.append(options)
        if backend == "none":
            raise RuntimeError("no compiler")
        return original(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(gram, "COMPILED_ROWS", 300)
    sums = gram_sums(points, kernels, rows=True)
    assert asked == [{"dynamic": True}]
    torch.testing.assert_close(sums.rows, expected.rows)
    torch.testing.assert_close(sums.squares, expected.squares)


def test_columns_of_other_points():
    _, points = points_of("wide", n=9)
    gram = dense_gram(points, InverseMultiquadric(1.0))
    torch.testing.assert_close(dense_gram(points, InverseMultiquadric(1.0), points[2:5])[5:], gram[5:, 2:5])


@each_kernel
@each_matrix
def test_gradients_are_those_of_dense_autograd(kernel, matrix):
    x = rows(11, 2).requires_grad_()
    theta = torch.tensor([1.3, -0.4], requires_grad=True)
    length = torch.tensor(1.4, requires_grad=True)
    member = type(KERNELS[kernel][0])(length)

    def model(x):
        return -theta * x - 0.1 * x**3

    def matrix_at(x):
        return MATRICES[matrix][0](x) * (1 + theta[0].square())

    diffusion = None if matrix == "identity" else matrix_at
    tiled = gram_sums(SteinPoints.at(x, model, diffusion, attached=True), [member], block=4)
    i, j = (~torch.eye(11, dtype=torch.bool)).nonzero(as_tuple=True)
    points = SteinPoints.at(x, model, diffusion, attached=True)
    dense = paired(points[i], points[j], [member])[0].sum() / 110 + diagonal(points, member).sum()
    ours = torch.autograd.grad(tiled.u[0] + tiled.diagonal[0], [x, theta, length])
    theirs = torch.autograd.grad(dense, [x, theta, length])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@each_kernel
def test_the_mean_over_the_model_vanishes(kernel, power):
    """Student-t with 3 degrees of freedom and m = (1 + x^2/3)^a; trapezoid over the angle of x = sqrt(3) tan."""
    angle = (torch.arange(20000) + 0.5) / 20000 * math.pi - math.pi / 2
    x = math.sqrt(3.0) * angle.tan()
    weights = angle.cos().square()  # p(x) dx
    weights = weights / weights.sum()
    nodes = torch.cat([x, torch.tensor([0.7])])[:, None]
    points = SteinPoints.at(nodes, lambda x: -4.0 * x / (3.0 + x.square()), lambda x: (1 + x[:, 0] ** 2 / 3) ** power)
    values = dense_gram(points[:-1], KERNELS[kernel][0], points[-1:])[:, 0]
    scale = float(diagonal(points[-1:], KERNELS[kernel][0]))
    assert abs(float(weights @ values)) < 1e-5 * scale


@pytest.mark.parametrize(("power", "expected"), [(0.3, 9.9433316849), (0.0, 1.2315478299)])
def test_one_dimensional_oracle(power, expected):
    """Note of paper 4, section 4.1: q = N(.4, variance 1.3) against a cubic score, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(240)
    x = torch.tensor(0.4 + math.sqrt(1.3) * nodes)[:, None]
    weights = torch.tensor(weights / weights.sum())
    points = SteinPoints.at(x, lambda x: -(2 / 3) * x**3 - 0.2 * x, lambda x: 1.0 + power * x[:, 0] ** 2)
    value = float(weights @ dense_gram(points, InverseMultiquadric(1.0)) @ weights)
    assert value == pytest.approx(expected, abs=2e-9)


def test_a_large_shift_does_not_hurt_single_precision():
    """Note of paper 4, section 3.4: without centring, a shift by 1e4 gives -0.68."""
    x = rows(2000, 10).float()
    kernel = [InverseMultiquadric(3.0)]
    here = gram_sums(SteinPoints.at(x, lambda x: -1.1 * x), kernel).u
    exact = gram_sums(SteinPoints.at(x.double(), lambda x: -1.1 * x), kernel).u
    shifted = (x + 1e4) - 1e4  # the rounding of the shifted data is not our error
    there = gram_sums(SteinPoints.at(shifted + 1e4, -1.1 * shifted), kernel).u
    near = gram_sums(SteinPoints.at(shifted, -1.1 * shifted), kernel).u
    # single precision of the entries, which is about the mean of the diagonal, not of their sum, which nearly cancels
    rounding = 1e-7 * float(diagonal(SteinPoints.at(x, lambda x: -1.1 * x), kernel[0]).mean())
    assert abs(float(here - exact)) < rounding
    assert abs(float(there - near)) < rounding


@pytest.mark.parametrize("matrix", ["identity", "wide"])
def test_the_score_is_asked_once_per_point(matrix):
    asked = []

    def counting(x):
        asked.append(len(x))
        return -x

    points = SteinPoints.at(rows(2500, 2), counting, MATRICES[matrix][0])
    gram_sums(points, [InverseMultiquadric(1.0)])
    assert sum(asked) == 2500
    assert len(asked) == 3


def test_scores_may_be_a_tensor_of_any_event_shape():
    x = rows(6, 4).reshape(6, 1, 2, 2)
    by_function, by_tensor = SteinPoints.at(x, lambda x: -x), SteinPoints.at(x, -x)
    assert torch.equal(by_function.b, by_tensor.b)
    assert by_tensor.x.shape == (6, 4)


@pytest.mark.parametrize(
    ("x", "score", "message"),
    [
        (torch.zeros(3), lambda x: x, "Points of shape"),
        (torch.zeros(1, 2), lambda x: x, "two or more"),
        (torch.tensor([[0.0], [math.nan]]), lambda x: x, r"x\[1\]"),
        (torch.zeros(3, 2), lambda x: x * math.nan, "not finite"),
        (torch.zeros(3, 2), lambda x: x[:, :1], "returned shape"),
        (torch.zeros(3, 2), torch.zeros(4, 2), "Expected scores of shape"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "Expected scores of shape"),
    ],
)
def test_points_that_cannot_be_used(x, score, message):
    with pytest.raises(InputError, match=message):
        SteinPoints.at(x, score)


def test_a_tile_has_points():
    with pytest.raises(InputError, match="block=0"):
        gram_sums(points_of("identity")[1], [InverseMultiquadric(1.0)], block=0)
