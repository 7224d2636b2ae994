"""Learned noise schedules of fitted models: less variance at uniform times, exact ends, saved with the model."""

import pytest
import torch

import girsanov as gv
from girsanov.objectives import Batch, ScheduledObjective
from girsanov.processes import LearnedSchedule
from tests.seeds import seeded

OPTIONS = {"network": gv.networks.MLPConfig(width=32, blocks=1), "gaussianise": False, "members": 1, "steps": 300}


def rows(n=1500):
    generator = seeded(0)
    side = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1.0
    return (side * torch.tensor([[1.0, 0.5]]) + 0.1 * torch.randn(n, 2, generator=generator)).double()


@pytest.fixture(scope="module")
def fitted():
    return gv.fit(rows(), config=gv.Config(process="learned", **OPTIONS))


def squared_losses(model, process, x):
    """Of every row at uniform times of a schedule, by common draws: their mean is what the schedule lowers."""
    score = gv.ScoreModel(
        model.score.network,
        process,
        reference=model.reference,
        head=model.score.head,
        log_snr_range=model.score.log_snr_range,
    )
    objective = ScheduledObjective(score, model.encoding.transforms)
    with torch.no_grad():
        return objective(score, Batch(x), seeded(1), 0).square()


def test_the_schedule_learns_where_the_model_gains(fitted):
    span = fitted.score.log_snr_range
    assert isinstance(fitted.score.process, LearnedSchedule)
    x = rows(160_000)
    gain = squared_losses(fitted, LearnedSchedule(span), x) - squared_losses(fitted, fitted.score.process, x)
    assert float(gain.mean()) > 5.0 * float(gain.std()) / 160_000**0.5


def test_its_ends_are_exact_and_those_of_the_fixed_process(fitted):
    low, high = fitted.score.log_snr_range
    ends = fitted.score.process.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach()
    torch.testing.assert_close(ends, torch.tensor([high, low], dtype=torch.float64), rtol=0, atol=1e-12)
    assert (low, high) == gv.VariancePreserving().log_snr_range


def test_the_bound_is_the_networks_alone(fitted):
    """In log-SNR the same network under another schedule has the same bound, to rounding."""
    x = rows(20)
    score = gv.ScoreModel(
        fitted.score.network, gv.VariancePreserving(), reference=fitted.reference, head=fitted.score.head
    )
    other = gv.DensityModel(fitted.encoding, score, proposal=fitted.proposal, record=fitted.record)
    torch.testing.assert_close(fitted.diffusion.elbo(x).value, other.elbo(x).value, rtol=1e-6, atol=1e-5)


def test_it_is_saved_read_sampled_and_has_an_ode(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again, x = gv.DensityModel.from_pretrained(tmp_path / "model"), rows(5)
    assert torch.equal(again.elbo(x).value, fitted.elbo(x).value)
    t = torch.linspace(0.0, 1.0, 9)
    assert torch.equal(again.score.process.log_snr(t), fitted.score.process.log_snr(t))
    assert torch.equal(again.sample(3), fitted.sample(3))
    assert bool(again.log_prob(x).value.isfinite().all())
