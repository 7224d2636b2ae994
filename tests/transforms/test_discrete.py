"""Laws of every dequantiser: a density on the cell of each point, whose logarithm is minus the log-determinant."""

import math

import pytest
import torch
from torch import nn

from girsanov.transforms import TRANSFORMS, Dequantise, OnLattice, TruncatedNormalDequantise, VariationalDequantise
from girsanov.types import Estimate, InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

STEP, OFFSET = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([0.25, 1.0, 0.0])
ROWS = torch.tensor([[0.25, 5.0, 0.13], [-1.75, 1.0, 2.4]])


def learned():
    made = VariationalDequantise((3,), STEP, OFFSET, width=8, centre=torch.ones(3), spread=torch.full((3,), 2.0))
    nn.init.normal_(made.network[2].weight, std=0.3)
    return made.double()


DEQUANTISERS = {
    "uniform": lambda: Dequantise((3,), STEP, OFFSET),
    "truncated-normal": lambda: TruncatedNormalDequantise((3,), STEP, OFFSET, tau=2.5),
    "variational": learned,
    "on-lattice": lambda: OnLattice((3,), STEP, OFFSET),
}
SPREADING = {name: make for name, make in DEQUANTISERS.items() if name != "on-lattice"}

each_dequantiser = pytest.mark.parametrize("make", DEQUANTISERS.values(), ids=DEQUANTISERS)
each_spreading = pytest.mark.parametrize("make", SPREADING.values(), ids=SPREADING)


@each_dequantiser
def test_draws_stay_in_their_cells_round_back_and_leave_continuous_columns_alone(make):
    spread = make()
    x = ROWS.repeat(500, 1)
    y, log_det = spread(x, torch.rand(1000, 3))
    assert bool(((y - x).abs() <= 0.5 * STEP.to(x)).all())
    torch.testing.assert_close(spread.inverse(y.detach())[:, :2], x[:, :2])
    assert torch.equal(y[:, 2], x[:, 2])
    assert log_det.shape == (1000,)


@each_spreading
def test_minus_the_log_determinant_is_a_log_density_on_the_cell(make):
    """The draw's slope in its uniform is the reciprocal density, dimension by dimension (by autograd)."""
    spread = make()
    uniform = torch.rand(40, 3).clamp(0.01, 0.99).requires_grad_()
    x = ROWS.repeat(20, 1)
    y, log_det = spread(x, uniform)
    slopes = torch.stack([torch.autograd.grad(y[:, i].sum(), uniform, retain_graph=True)[0][:, i] for i in (0, 1)])
    torch.testing.assert_close(log_det, slopes.log().sum(0), rtol=1e-9, atol=1e-9)


@each_spreading
def test_the_cell_s_mass_bounds_the_mean_log_density_of_any_model(make):
    """log P(cell) >= E[log p(y) + log det] for p = N(0, 1.5^2 I), by the midpoint rule over both uniforms."""
    spread = make()
    law = torch.distributions.Normal(0.0, 1.5)
    grid = (torch.arange(400) + 0.5) / 400
    uniform = torch.cartesian_prod(grid, grid)
    for row in ROWS:
        with torch.no_grad():
            y, log_det = spread(row.expand(len(uniform), 3), torch.cat([uniform, uniform[:, :1]], 1))
        value = float((law.log_prob(y[:, :2]).sum(1) + log_det).mean())
        mass = float((law.cdf(row + 0.5 * STEP) - law.cdf(row - 0.5 * STEP))[:2].log().sum())
        assert mass - 2.5 < value < mass


@each_dequantiser
def test_configuration_and_buffers_rebuild_it(make):
    spread = make()
    names = {kind: name for name, kind in TRANSFORMS.items()}
    twin = TRANSFORMS[names[type(spread)]](**spread.config()).double()
    twin.load_state_dict(spread.state_dict())
    uniform = torch.rand(2, 3)
    for part, other in zip(spread(ROWS, uniform), twin(ROWS, uniform), strict=True):
        assert torch.equal(part, other)


def log_mass_of_a_uniform_model(spread: Dequantise) -> float:
    """Mean over draws, by the midpoint rule, of a model uniform on the range of 256 levels."""
    grid = ((torch.arange(40_001) + 0.5) / 40_001)[:, None]
    with torch.no_grad():
        y, log_det = spread(torch.full_like(grid, 17.0), grid)
    assert bool(((y > -0.5) & (y < 255.5)).all())
    return float(log_det.mean()) - math.log(256.0)


def bits(log_mass: float) -> float:
    value = torch.tensor([log_mass])
    return float(
        Estimate(value, 0 * value, kind="exact", model="density", nfe=0, event_dim=1, measure="mass").bits_per_dim()
    )


def test_a_uniform_model_has_eight_bits_and_the_truncated_normal_s_excess():
    """Note of paper 1, section 4 (c): 8 + (log 2 tau - H_TN) / log 2."""
    step = torch.ones(1)
    assert bits(log_mass_of_a_uniform_model(Dequantise((1,), step))) == pytest.approx(8.0, abs=1e-12)
    assert bits(log_mass_of_a_uniform_model(VariationalDequantise((1,), step))) == pytest.approx(8.0, abs=1e-6)
    for tau in (0.5, 1.0, 3.0):
        spread = TruncatedNormalDequantise((1,), step, tau=tau)
        expected = 8.0 + (math.log(2.0 * tau) - spread.entropy()) / math.log(2.0)
        assert bits(log_mass_of_a_uniform_model(spread)) == pytest.approx(expected, abs=1e-5)
        truth = torch.distributions.Normal(0.0, 1.0)
        z = torch.linspace(-tau, tau, 20_001)
        density = truth.log_prob(z).exp() / (2 * truth.cdf(torch.tensor(tau)) - 1)
        assert spread.entropy() == pytest.approx(float(torch.trapezoid(-density * density.log(), z)), abs=1e-7)


def test_a_narrow_truncated_normal_is_the_uniform():
    uniform = torch.rand(5, 3)
    narrow = TruncatedNormalDequantise((3,), STEP, OFFSET, tau=1e-3)
    for part, other in zip(narrow(ROWS, uniform[:2]), Dequantise((3,), STEP)(ROWS, uniform[:2]), strict=True):
        torch.testing.assert_close(part, other, rtol=1e-6, atol=1e-6)


def test_the_learned_noise_gains_by_training_and_stays_below_the_mass():
    """On cells as wide as the law, where uniform noise is loose; both sides by the midpoint rule."""
    torch.manual_seed(0)
    law = torch.distributions.Normal(0.0, 0.3)
    spread = VariationalDequantise((2,), torch.ones(2), width=16).double()
    rows = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))
    mass = (law.cdf(rows + 0.5) - law.cdf(rows - 0.5)).log().sum(1)

    def value(count: int = 2000) -> torch.Tensor:
        uniform = torch.rand(count * len(rows), 2, generator=seeded(1))
        y, log_det = spread(rows.repeat(count, 1), uniform)
        return (law.log_prob(y).sum(1) + log_det).reshape(count, -1).mean(0)

    before = value().detach()
    optimizer = torch.optim.Adam(spread.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (-value(64).mean()).backward()
        optimizer.step()
    after = value().detach()
    assert float((mass - before).mean()) > 1.0
    assert float((mass - after).mean()) < 0.4 * float((mass - before).mean())
    assert bool((after < mass + 0.02).all())  # Monte Carlo of 2000 draws


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="tau must be a positive number"):
        TruncatedNormalDequantise((1,), tau=0.0)
    with pytest.raises(ValueError, match="uniform draws"):
        TruncatedNormalDequantise((1,), torch.ones(1))(torch.ones(1, 1))
