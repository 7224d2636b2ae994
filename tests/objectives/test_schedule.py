"""The objective of a learned schedule: the bound's gradient for the network, the second moment's for the schedule."""

import pytest
import torch
from torch import nn

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.networks import ResidualMLP
from girsanov.objectives import Batch, DenoisingObjective, ScheduledObjective
from girsanov.pairs import ScoreModel
from girsanov.processes import LearnedSchedule
from girsanov.transforms import Compose
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

RANGE = (-7.0, 6.0)
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.2, 0.5], [0.4, 0.1]])
)


def model_of(schedule):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResidualMLP((2,), width=16, blocks=1)
        nn.init.normal_(network.leave.weight, std=0.3)
    return ScoreModel(network, schedule, reference=MIXTURE.moment_match())


def bent():
    schedule = LearnedSchedule(RANGE, units=6)
    with torch.no_grad():
        schedule.heights[1] += 3.0
    return schedule


def losses(model, seed, rows=512):
    x = MIXTURE.sample(rows, generator=seeded(5))
    return ScheduledObjective(model, Compose())(model, Batch(x), seeded(seed), 0)


def test_its_mean_is_that_of_the_plain_objective_whatever_the_schedule():
    means = []
    for schedule in (LearnedSchedule(RANGE, units=6), bent()):
        model = model_of(schedule)
        with torch.no_grad():
            means.append(torch.stack([losses(model, seed).mean() for seed in range(60)]))
    x, plain = MIXTURE.sample(512, generator=seeded(5)), DenoisingObjective(model, Compose())
    with torch.no_grad():
        draws = [plain(model, Batch(x), seeded(seed), seed).mean() for seed in range(60)]
    expected = torch.stack(draws)
    for found in means:
        z = (found.mean() - expected.mean()) / ((found.var() + expected.var()) / 60).sqrt()
        assert abs(float(z)) < 4.0  # two comparisons: false alarm 1.3e-4


def test_the_network_gets_the_gradient_of_the_mean():
    model = model_of(bent())
    losses(model, 3).mean().backward()
    weight, step = model.network.leave.weight, 1e-5
    found = weight.grad[0, 3]
    moved = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight[0, 3] += sign * step
            moved.append(float(losses(model, 3).mean()))
            weight[0, 3] -= sign * step
    assert float(found) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["slope", "heights", "steepness", "shifts"])
def test_the_schedule_gets_the_gradient_of_the_log_second_moment(name):
    """Under common noise, through levels, weights, the reference and the network."""
    model, step = model_of(bent()), 1e-5
    losses(model, 3).mean().backward()
    parameter = getattr(model.process, name)
    found = parameter.grad.flatten()[-1]
    moved = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            parameter.view(-1)[-1] += sign * step
            moved.append(float(losses(model, 3).square().mean().log()))
            parameter.view(-1)[-1] -= sign * step
    assert float(found) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_a_silent_network_leaves_the_schedule_alone():
    model = ScoreModel(lambda l, f, c: 0.0 * f, bent(), reference=Gaussian(torch.zeros(2), 1.0))
    losses(model, 0).mean().backward()
    assert not bool(model.process.heights.grad.any())
