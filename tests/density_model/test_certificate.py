"""The certificate of a fitted model: in the model's coordinates, with the way back to data units."""

import pytest
import torch

import girsanov as gv
from girsanov.density_model.certificate import certify
from girsanov.likelihoods.ddpm import SCHEDULES
from tests.seeds import seeded

PLAIN = {"steps": 10, "network": gv.networks.MLPConfig(width=8, blocks=1), "flow": False}


def table(kind, n=300):
    """Three columns of other scales, none, one or all of them whole numbers."""
    x = torch.randn(n, 3, generator=seeded(0), dtype=torch.float64) * torch.tensor([0.1, 5.0, 30.0]) + 7.0
    if kind == "continuous":
        return x
    levels = torch.randint(0, 5, (n, 3), generator=seeded(1)).double()
    return levels if kind == "discrete" else torch.cat([x[:, :2], levels[:, :1]], 1)


@pytest.mark.parametrize("kind", ["continuous", "mixed", "discrete"])
def test_the_continuous_bound_is_the_models_own_and_the_gap_falls_into_steps_and_ends(kind):
    x = table(kind)
    model = gv.fit(x, config=gv.Config(**PLAIN))
    options = {"schedule": SCHEDULES["linear"](50)}
    found = certify(model, x[:20], generator=seeded(3), **options)
    assert found.continuous == model.diffusion.elbo(x[:20], generator=seeded(3)).mean()
    assert found.continuous.value == pytest.approx(found.discrete.value + found.gap.value, abs=1e-9)
    assert found.gap.value == pytest.approx(found.steps.value + found.ends.value, abs=1e-9)
    text = str(found)
    ends = f"{found.ends.value:.3f} +- {found.ends.stderr:.3f}"
    for part in ("the diffusion's elbo", ends, f"{found.steps.value:.3f}"):
        assert part in text
    more = certify(model, x[:20], samples=64, **options)
    assert more.continuous == model.diffusion.elbo(x[:20], samples=64).mean()
    total = sum(part.value for name, part in found.terms.items() if name != "log_det")
    assert found.discrete.value == pytest.approx(found.log_det - total, abs=1e-9)


def test_a_model_near_its_reference_has_a_certificate_without_noise():
    """Whatever the chain's evaluations: the reference's squared errors are closed form."""
    x = table("continuous")
    model = gv.fit(x, config=gv.Config(**PLAIN, gaussianise=False))
    found = certify(model, x[:20], schedule=SCHEDULES["linear"](400))
    assert found.continuous.value == pytest.approx(found.discrete.value + found.steps.value, abs=0.05)
    assert found.ends.stderr < 0.02
    assert found.discrete.stderr < 0.02


def test_a_model_that_decodes_cells_says_that_its_elbo_is_another_number():
    x = table("discrete")
    model = gv.fit(x, config=gv.Config(**PLAIN, gaussianise=False, dequantise="categorical"))
    found = certify(model, x[:10], schedule=SCHEDULES["linear"](50))
    assert found.ends is None
    assert found.gap == found.steps
    assert "its elbo is a log-mass, and another number" in str(found)


def test_discrete_columns_are_dequantised_and_draws_follow_the_generator():
    x = torch.randint(0, 5, (200, 2), generator=seeded(0))
    model = gv.fit(x.double(), config=gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False))
    options = {"schedule": SCHEDULES["linear"](50)}
    first, again, other = (certify(model, x[:20].double(), generator=seeded(s), **options) for s in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.to_json() != other.to_json()
