"""The tractable loss against its definition by quadrature, its estimators against the exact one, and its guard."""

import math

import numpy as np
import pytest
import torch

from girsanov.calculus import Exact, Hutchinson
from girsanov.stein import FlowMatrix, Function, Sliced, fisher_divergence, score_matching
from girsanov.stein.score_matching import pointwise_loss, squared_matrix
from girsanov.types import InputError
from tests.linear.registry import MATRICES, spline
from tests.seeds import seeded
from tests.stein.registry import potential, score_of

pytestmark = pytest.mark.usefixtures("float64")


def rows(n, d, seed=0):
    return 0.8 * torch.randn(n, d, generator=seeded(seed))


def normal_rule(nodes=120):
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    return points, weights / weights.sum()


def test_one_dimensional_oracle():
    """q = N(0.4, 1.3), s_p = -2/3 x^3 - x/5, m = 1 + 0.3 x^2: the three figures of the note, which are twice ours."""
    points, weights = normal_rule()
    x = (0.4 + math.sqrt(1.3) * points)[:, None]

    def model(x):
        return -(2.0 / 3.0) * x**3 - 0.2 * x

    def data(x):
        return -(x - 0.4) / 1.3

    def matrix(x):
        return 1.0 + 0.3 * x[:, 0] ** 2

    full = 2.0 * weights @ fisher_divergence(x, model, data, matrix)
    tractable = 2.0 * weights @ score_matching(x, model, diffusion=matrix).rows.detach()
    dropped = 2.0 * weights @ fisher_divergence(x, torch.zeros_like(x), data, matrix)
    assert float(full) == pytest.approx(328.91653626909, rel=1e-12)
    assert float(tractable) == pytest.approx(324.25748703832, rel=1e-12)
    assert float(dropped) == pytest.approx(4.65904923077, rel=1e-11)
    plain = 2.0 * weights @ fisher_divergence(x, model, data)
    assert float(plain) == pytest.approx(16.557611213675, rel=1e-12)


def test_two_dimensional_oracle_with_a_matrix_of_three_columns():
    """Both sides of the tractable form on the note's 401 x 401 grid: 42.7219750440, and each other to 1e-10."""
    line = torch.linspace(-12.0, 12.0, 401)
    x = torch.cartesian_prod(line, line)
    precision, centre = torch.tensor([[0.8, -0.2], [-0.2, 0.6]]), torch.tensor([0.4, -0.3])
    shape = torch.tensor([[1.0, 0.3], [0.3, 1.5]])
    weights = (-0.5 * torch.einsum("ni,ij,nj->n", x, precision, x)).exp()
    weights = weights / weights.sum()

    def log_density(x):
        quadratic = torch.einsum("ni,ij,nj->n", x - centre, shape, x - centre)
        return -0.25 * quadratic.square() / (1.0 + x.square().sum(1)) - 0.1 * x.square().sum(1)

    def matrix(x):
        a, b = x.unbind(1)
        first = torch.stack([1.0 + a**2, torch.sin(b), a * b], 1)
        return torch.stack([first, torch.stack([torch.cos(a), 1.0 + 0.5 * b**2, torch.tanh(a + b)], 1)], 1)

    model = score_of(log_density)
    keep = weights > 1e-40  # the rest changes nothing in float64
    x, weights = x[keep], weights[keep]
    with torch.no_grad():
        full = 2.0 * weights @ fisher_divergence(x, model, lambda x: -x @ precision, matrix)
        dropped = 2.0 * weights @ fisher_divergence(x, torch.zeros_like(x), lambda x: -x @ precision, matrix)
        tractable = 2.0 * weights @ score_matching(x, model, diffusion=matrix).rows
    assert float(full) == pytest.approx(42.7219750440, rel=1e-11)
    assert float(tractable + dropped) == pytest.approx(float(full), rel=1e-11)


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("d", [1, 3])
def test_loss_is_half_the_square_plus_the_divergence_of_the_raised_score(make, d):
    """Against central differences of D s, with no code of the loss."""
    x, score, diffusion = rows(6, d), score_of(potential), make(d)

    def raised(x):
        m, _ = diffusion(x)
        return (m @ m.mT @ score(x).detach()[..., None])[..., 0]

    divergence = sum(
        ((raised(x + 1e-5 * unit) - raised(x - 1e-5 * unit)) / 2e-5)[:, i] for i, unit in enumerate(torch.eye(d))
    )
    expected = 0.5 * (raised(x) * score(x)).sum(1) + divergence
    found = score_matching(x, score, diffusion=diffusion)
    torch.testing.assert_close(found.rows, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [Hutchinson, Sliced], ids=["hutchinson", "sliced"])
@pytest.mark.parametrize("name", ["identity", "scalar", "diagonal", "wide", "flow-spline"])
def test_random_divergences_are_unbiased(make, name):
    """Mean over 1000 probes within 5 standard errors on each of 5 rows: false alarm 1e-5."""
    x, score, probes = rows(5, 3), score_of(potential), 1000
    diffusion = MATRICES[name](3)
    exact = score_matching(x, score, diffusion=diffusion).rows
    single = [
        pointwise_loss(x, score, values, divergence=make(1), probes=e[None]).detach()
        for values in [squared_matrix(x, diffusion)]
        for e in torch.randn(probes // 4, 5, values.columns).sign()
    ]
    spread = torch.stack(single).std(0) / math.sqrt(probes)
    found = score_matching(x, score, diffusion=diffusion, divergence=make(probes)).rows
    assert bool(((found - exact).abs() < 5.0 * spread + 1e-9).all())


def test_a_row_keeps_its_loss_whatever_rows_come_with_it():
    x, score = rows(8, 2).reshape(8, 1, 2), score_of(potential)
    together = score_matching(x, score, diffusion="robust", divergence=Hutchinson(3)).rows
    strategy = Function(lambda x: 1.0 / (1.0 + x.flatten(1).square().sum(1)))
    whole = score_matching(x, score, diffusion=strategy, divergence=Hutchinson(3)).rows
    parts = [score_matching(part, score, diffusion=strategy, divergence=Hutchinson(3)).rows for part in x.split(3)]
    assert together.shape == (8,)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    other = score_matching(x, score, divergence=Hutchinson(3), generator=seeded(1))
    assert not torch.equal(other.rows, score_matching(x, score, divergence=Hutchinson(3)).rows)


@pytest.mark.slow
def test_standard_error_covers_the_mean():
    """95 % intervals of the loss, which is skewed, over 1000 samples of 4000 rows cover its expectation 93 to 97 %."""
    points, weights = normal_rule()

    def score(x):
        return -x + 0.5 * torch.sin(x)

    expected = float(weights @ score_matching(points[:, None], score).rows.detach())
    hits = 0
    for seed in range(1000):
        x = torch.randn(4000, 1, generator=seeded(seed))
        with torch.no_grad():
            loss = score_matching(x, score)
        hits += abs(float(loss.value) - expected) < 1.96 * loss.stderr
    assert 930 <= hits <= 970


def test_the_trap_of_a_moving_matrix_is_refused_and_would_have_been_wrong():
    """Student-t, 5 degrees of freedom, scale b, m_b = 1 + x^2/(5 b^2): the loss is -1.2/b^2 and runs away."""
    from scipy import stats

    x = torch.tensor(stats.t(5).ppf((np.arange(200_000) + 0.5) / 200_000))[:, None]
    scale = torch.tensor(1.0, requires_grad=True)

    def score(x):
        return -6.0 * x / (5.0 * scale**2 + x**2)

    def moving(x):
        return 1.0 + x[:, 0] ** 2 / (5.0 * scale**2)

    with pytest.raises(InputError, match="detach the matrix"):
        score_matching(x, score, diffusion=moving)
    with torch.no_grad():  # a number may still be reported
        assert float(score_matching(x, score, diffusion=moving).value) == pytest.approx(-1.2, rel=2e-3)
    loss = score_matching(x, score, diffusion=lambda x: moving(x).detach() + 0.0 * x[:, 0])
    assert loss.rows.requires_grad

    def fixed(x):
        return 1.0 + x[:, 0] ** 2 / 5.0

    (slope,) = torch.autograd.grad(score_matching(x, score, diffusion=fixed).value, scale)
    assert abs(float(slope)) < 5e-3  # the truth is stationary once the matrix stands still


def test_flows_with_gradients_are_refused_and_frozen_ones_are_not():
    flow, x = spline(2), rows(4, 2)
    assert score_matching(x, score_of(potential), diffusion=flow).rows.isfinite().all()
    with pytest.raises(InputError, match="requires_grad_"):
        score_matching(x, score_of(potential), diffusion=FlowMatrix(flow.requires_grad_(True)))


def test_training_reaches_the_parameters_in_any_divergence():
    x = rows(300, 2, seed=3)
    expected = None
    for divergence in (Exact(), Hutchinson(200), Sliced(200)):
        precision = torch.eye(2).requires_grad_()
        loss = score_matching(x, lambda x, k=precision: -x @ k, diffusion="heavy_tailed", divergence=divergence)
        loss.value.backward()
        expected = precision.grad if expected is None else expected
        torch.testing.assert_close(precision.grad, expected, rtol=0.1, atol=0.1)


def test_missing_probes_and_wrong_shapes_are_errors():
    x = rows(4, 2)
    with pytest.raises(InputError, match="needs its probes"):
        pointwise_loss(x, lambda x: -x, squared_matrix(x), divergence=Hutchinson(2))
    with pytest.raises(InputError, match="returned shape"):
        score_matching(x, lambda x: -x[:, 0])
