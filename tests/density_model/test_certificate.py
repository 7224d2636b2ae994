"""The certificate of a fitted model: in the model's coordinates, with the way back to data units."""

import pytest
import torch

import girsanov as gv
from girsanov.density_model.certificate import certify
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.likelihoods.denoising import Draws
from tests.seeds import seeded


@pytest.fixture(scope="module")
def fitted():
    x = torch.randn(300, 3, generator=seeded(0), dtype=torch.float64) * torch.tensor([0.1, 5.0, 30.0]) + 7.0
    config = gv.Config(steps=10, network="mlp", width=8, blocks=1, flow=False)
    return gv.fit(x, config=config), x


def test_the_bound_in_data_units_agrees_with_the_models_own(fitted):
    model, x = fitted
    found = certify(model, x[:40], schedule=SCHEDULES["linear"](400), noise=Draws(4))
    own = model.elbo(x[:40], samples=256).mean()
    assert found.continuous.value + found.log_det == pytest.approx(own.value, abs=0.3)
    assert found.discrete.value < found.continuous.value


def test_discrete_columns_are_dequantised_and_draws_follow_the_generator():
    x = torch.randint(0, 5, (200, 2), generator=seeded(0))
    model = gv.fit(x.double(), config=gv.Config(steps=2, network="mlp", width=8, blocks=1, flow=False))
    options = {"schedule": SCHEDULES["linear"](50)}
    first, again, other = (certify(model, x[:20].double(), generator=seeded(s), **options) for s in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.to_json() != other.to_json()
