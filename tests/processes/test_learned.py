"""The learned schedule: exact ends, an SDE's laws for any parameters, and a bound that only its ends decide."""

import pytest
import torch

from girsanov.likelihoods import elbo
from girsanov.objectives import DenoisingScoreMatching, fit_schedule
from girsanov.objectives.schedule import schedule_values
from girsanov.pairs import ScorePair
from girsanov.processes import LearnedSchedule
from girsanov.types import InputError
from tests.laws import Known, bent, mixture_case, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

RANGE = (-6.0, 7.0)


@pytest.mark.parametrize("seed", range(3))
def test_ends_are_exact_and_it_preserves_variance(seed):
    schedule, t = bent(RANGE, seed), torch.linspace(0.0, 1.0, 25)
    ends = schedule.log_snr(t[[0, -1]]).detach()
    torch.testing.assert_close(ends, torch.tensor([7.0, -6.0]), rtol=0, atol=1e-12)
    assert schedule.log_snr_range == RANGE
    alpha, sigma = schedule.marginal(t)
    torch.testing.assert_close((alpha.square() + sigma.square()).detach(), torch.ones(25))


def test_the_inverse_has_the_gradient_of_the_implicit_function():
    schedule, level, step = bent(RANGE), torch.tensor([0.7], requires_grad=True), 1e-5
    time = schedule.time(level)
    gradients = torch.autograd.grad(time.sum(), [level, schedule.slope])
    finite = (schedule.time(level.detach() + step) - schedule.time(level.detach() - step)) / (2 * step)
    torch.testing.assert_close(gradients[0], finite.detach(), rtol=1e-5, atol=1e-8)
    moved = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            schedule.slope.add_(sign * step)
            moved.append(float(schedule.time(level.detach())))
            schedule.slope.sub_(sign * step)
    assert float(gradients[1]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4)


def test_the_bound_depends_on_the_schedule_through_its_ends_alone():
    case = mixture_case((1, 2, 2))
    x = case.rows(10)
    values = [
        elbo(ScorePair(case.density.score(process)), x, samples=64).value
        for process in (bent(RANGE, seed) for seed in range(2))
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-7, atol=1e-7)


def moments(schedule, score, x):
    """Mean and variance of one-draw estimates at uniform times, with their standard errors' scale."""
    times = torch.rand(len(x), generator=seeded(11))
    with torch.no_grad():
        values = schedule_values(DenoisingScoreMatching(), ScorePair(score, schedule), x, times, seeded(12))
    return values.mean(), values.var()


def test_training_lowers_the_variance_leaves_the_mean_and_keeps_the_ends():
    case = note_mixture_2d()
    schedule = LearnedSchedule(RANGE)
    with torch.no_grad():
        schedule.heights[3] += 6.0  # most of the range in a fifth of the time
    score, x = case.density.score(schedule), case.rows(20_000)
    mean_before, variance_before = moments(schedule, score, x)
    history = fit_schedule(ScorePair(score, schedule), x, steps=100, generator=seeded(0))
    mean_after, variance_after = moments(schedule, score, x)
    assert float(variance_after) < 0.7 * float(variance_before)
    error = ((variance_before + variance_after) / len(x)).sqrt()
    assert abs(float((mean_after - mean_before) / error)) < 4.0  # false alarm 6e-5
    assert len(history) == 100
    ends = schedule.log_snr(torch.tensor([0.0, 1.0])).detach()
    torch.testing.assert_close(ends, torch.tensor([7.0, -6.0]), rtol=0, atol=1e-12)


def test_a_schedule_beyond_the_range_where_the_score_is_known_is_refused():
    case, schedule = note_mixture_2d(), LearnedSchedule(RANGE)
    score = Known(case.density.score(schedule), schedule, (-5.0, 7.0))
    with pytest.raises(InputError, match="known for log-SNR from -5 to 7: give LearnedSchedule that range"):
        fit_schedule(ScorePair(score, schedule), case.rows(8), steps=1)
    same = LearnedSchedule((-5.0, 7.0))
    assert (
        len(fit_schedule(ScorePair(Known(case.density.score(same), same, (-5.0, 7.0)), same), case.rows(8), steps=1))
        == 1
    )


def test_the_gradient_of_the_squared_loss_is_that_of_the_variance():
    """By finite differences of the second moment under common noise."""
    case, schedule, step = note_mixture_2d(), bent(RANGE, 2), 1e-5
    score, x = case.density.score(schedule), case.rows(500)
    times = torch.rand(500, generator=seeded(1))

    def second_moment() -> torch.Tensor:
        return (
            schedule_values(DenoisingScoreMatching(), ScorePair(score, schedule), x, times, seeded(2)).square().mean()
        )

    gradient = torch.autograd.grad(second_moment(), schedule.heights)[0]
    for k in (0, 5, 12):
        moved = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                schedule.heights[k] += sign * step
                moved.append(float(second_moment()))
                schedule.heights[k] -= sign * step
        assert float(gradient[k]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-7)
