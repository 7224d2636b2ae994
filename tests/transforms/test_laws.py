"""Laws of every transform: inverse, log-determinant by autograd, configuration round trip."""

import math

import pytest
import torch

from girsanov.transforms import TRANSFORMS, Compose, Dequantise, Gaussianise, Logit, SplineFlow, Standardise
from girsanov.types import InputError
from tests.seeds import seeded


def gaussianise():
    generator = seeded(0)
    skewed = torch.randn(3000, 2, generator=generator, dtype=torch.float64).exp()
    counts = torch.poisson(torch.full((3000, 1), 1.5, dtype=torch.float64), generator=generator)
    x = torch.cat([skewed, counts + torch.rand(3000, 1, generator=generator, dtype=torch.float64)], 1)
    return Gaussianise.fit(x[:2000], x[2000:], step=torch.tensor([0.0, 0.0, 1.0]))


def spline_flow():
    torch.manual_seed(0)
    return SplineFlow(3, transforms=2, width=16).double()


CONTINUOUS = {
    "standardise": lambda: Standardise((3,), torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 3.0, 1.0])),
    "logit": lambda: Logit(-4.0, 9.0),
    "gaussianise": gaussianise,
    "flow": spline_flow,
    "compose": lambda: Compose([CONTINUOUS["gaussianise"](), CONTINUOUS["standardise"]()]),
}
ROWS = torch.tensor([[0.3, 1.2, 2.4], [1.7, 0.4, 0.1], [3.0, 2.0, 5.5]], dtype=torch.float64)


@pytest.fixture(params=CONTINUOUS, ids=list(CONTINUOUS))
def transform(request):
    return CONTINUOUS[request.param]()


def test_inverse_undoes_forward(transform):
    y, _ = transform(ROWS)
    torch.testing.assert_close(transform.inverse(y), ROWS, rtol=1e-6, atol=1e-6)


def test_log_determinant_is_that_of_the_jacobian(transform):
    _, log_det = transform(ROWS)
    for row, value in zip(ROWS, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: transform(x[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value, rtol=1e-6, atol=1e-6)


def test_configuration_and_buffers_rebuild_it(transform):
    """A chain is saved member by member."""
    names = {kind: name for name, kind in TRANSFORMS.items()}
    for member in transform.transforms if isinstance(transform, Compose) else [transform]:
        twin = TRANSFORMS[names[type(member)]](**member.config())
        twin = twin.double() if isinstance(member, SplineFlow) else twin
        twin.load_state_dict(member.state_dict())
        assert torch.equal(twin(ROWS)[0], member(ROWS)[0])


def test_dequantised_cells_tile_the_line_and_round_back():
    spread = Dequantise((2,), step=torch.tensor([0.5, 0.0]), offset=torch.tensor([0.25, 0.0]))
    x = torch.tensor([[0.25, 0.1], [0.75, 0.2]], dtype=torch.float64)
    low, _ = spread(x, torch.zeros_like(x))
    high, log_volume = spread(x, torch.full_like(x, 1.0 - 1e-9))
    torch.testing.assert_close(high[0, 0], low[1, 0], atol=1e-8, rtol=0)
    torch.testing.assert_close(log_volume, torch.full((2,), math.log(0.5), dtype=torch.float64))
    assert torch.equal(spread.inverse(high), x)


def test_a_uniform_density_on_the_data_range_has_exactly_eight_bits_per_dimension():
    """Note of paper 1, section 4 (c): 256 levels, uniform model, uniform dequantisation."""
    from girsanov.types import Estimate

    spread = Dequantise((4,), step=torch.ones(4))
    x = torch.randint(256, (5, 4)).double()
    y, log_volume = spread(x, torch.rand(5, 4, dtype=torch.float64))
    assert bool(((y >= -0.5) & (y < 255.5)).all())
    log_mass = torch.full((5,), -4.0 * math.log(256.0), dtype=torch.float64) + log_volume
    estimate = Estimate(log_mass, torch.zeros(5), kind="exact", model="density", nfe=0, event_dim=4, measure="mass")
    torch.testing.assert_close(estimate.bits_per_dim(), torch.full((5,), 8.0, dtype=torch.float64))


def test_logit_space_and_identity_space_agree_on_an_analytic_model():
    """Uniform on [0, 1]: the logistic density in logit space plus the log-determinant is log 1 = 0."""
    x = torch.rand(50, 1, dtype=torch.float64)
    y, log_det = Logit(0.0, 1.0, margin=0.0)(x)
    logistic = -y[:, 0] - 2.0 * torch.log1p(torch.exp(-y[:, 0]))
    torch.testing.assert_close(logistic + log_det, torch.zeros(50, dtype=torch.float64), atol=1e-10, rtol=0)
    with pytest.raises(InputError, match="outside"):
        Logit(0.0, 1.0)(torch.tensor([[1.2]]))


def test_gaussianised_marginals_are_normal_and_densities_integrate_to_one():
    transform = gaussianise()
    grid = torch.linspace(-3.0, 60.0, 400_001, dtype=torch.float64)
    for column in range(3):
        rows = torch.ones(len(grid), 3, dtype=torch.float64)
        at_one = transform(rows[:1])[0]
        rows[:, column] = grid
        y, _ = transform(rows)
        _, base = transform(torch.ones(1, 3, dtype=torch.float64))
        single = Gaussianise(1, transform.bins)
        single.load_state_dict({k: v[column : column + 1] for k, v in transform.state_dict().items()})
        values, slopes = single(grid[:, None])
        density = torch.exp(slopes - 0.5 * values[:, 0].square()) / math.sqrt(2.0 * math.pi)
        assert abs(float(torch.trapezoid(density, grid)) - 1.0) < 0.01
        assert torch.equal(y[:, column], values[:, 0])
        assert at_one.shape == (1, 3)
        assert base.shape == (1,)


def test_gaussianise_keeps_an_outlier_cheap():
    transform = gaussianise()
    far = torch.tensor([[1e4, 1.0, 1.5]], dtype=torch.float64)
    y, log_det = transform(far)
    assert float(log_det - 0.5 * y.square().sum()) > -80.0
    torch.testing.assert_close(transform.inverse(y), far, rtol=1e-6, atol=1e-6)


def test_constant_data_are_refused():
    with pytest.raises(InputError, match="constant"):
        Standardise.fit(torch.ones(10, 3))
