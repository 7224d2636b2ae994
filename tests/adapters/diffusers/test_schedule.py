"""Schedules: timestep and log-SNR of every family, against diffusers' own tables and the textbook's."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from girsanov.adapters.diffusers.readings import READINGS, convention_of
from girsanov.adapters.schedules import FlowSchedule, TableSchedule, alpha_bar_table, signal_and_noise
from girsanov.types import InputError
from tests.adapters.diffusers.exact import SCHEDULERS, TABLES, diffusers

pytestmark = pytest.mark.usefixtures("float64")

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
each_scheduler = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)


@pytest.mark.parametrize("name", BETAS)
def test_the_table_is_the_schedulers_own_in_float64(name):
    scheduler = diffusers.DDPMScheduler(beta_schedule=name)
    table, own = alpha_bar_table(scheduler), scheduler.alphas_cumprod.double()
    torch.testing.assert_close(torch.logit(table), torch.logit(own), rtol=0.0, atol=0.01)
    if name != "sigmoid":  # which diffusers computes in the default dtype
        assert not torch.equal(table, own)


def test_single_precision_is_not_what_is_used_at_the_data_end():
    """1 - alpha-bar is beta_0 there, which a product in single precision has to four digits."""
    scheduler = diffusers.DDPMScheduler()
    assert float(1.0 - alpha_bar_table(scheduler)[0]) == pytest.approx(1e-4, rel=1e-11)
    assert float(1.0 - scheduler.alphas_cumprod[0].double()) != pytest.approx(1e-4, rel=1e-5)


def test_trained_betas_and_a_table_of_ones_own_are_read():
    betas = np.linspace(1e-3, 0.5, 10)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=10, trained_betas=betas.tolist())
    torch.testing.assert_close(alpha_bar_table(scheduler), torch.from_numpy(np.cumprod(1.0 - betas)))
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    torch.testing.assert_close(alpha_bar_table(scheduler), scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_step_without_signal_is_left_out(kind):
    scheduler = getattr(diffusers, kind)(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    table = alpha_bar_table(scheduler)
    assert len(table) == 999
    np.testing.assert_allclose(table.numpy(), TABLES["linear-zero-snr"]()[:-1], rtol=1e-9)
    low, high = convention_of(scheduler).schedule.log_snr_range
    assert -25.0 < low < -15.0
    assert high == pytest.approx(9.21, abs=0.01)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_noise_shift_of_cogvideo_is_part_of_the_table(shift):
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=shift)
    table, own = alpha_bar_table(scheduler), scheduler.alphas_cumprod.double()
    torch.testing.assert_close(torch.logit(table), torch.logit(own), rtol=0.0, atol=0.01)


@each_scheduler
def test_a_timestep_falls_with_log_snr_and_the_range_is_where_it_moves(make):
    schedule = convention_of(make()[0]).schedule
    low, high = schedule.log_snr_range
    assert -25.0 < low < -5.0 < 5.0 < high < 15.0
    steps = schedule.timestep(torch.linspace(low, high, 500))
    assert bool((steps.diff() < 0).all())


def test_a_table_is_exact_at_its_points_and_linear_between():
    table = torch.logit(torch.from_numpy(TABLES["scaled_linear"]()))
    schedule = TableSchedule(table)
    torch.testing.assert_close(schedule.timestep(table), torch.arange(1000.0), rtol=0.0, atol=1e-9)
    middle = 0.5 * (table[1:] + table[:-1])
    torch.testing.assert_close(schedule.timestep(middle), torch.arange(999.0) + 0.5, rtol=0.0, atol=1e-9)


def test_shift_does_not_change_what_a_flow_is_told():
    plain = convention_of(diffusers.FlowMatchEulerDiscreteScheduler()).schedule
    shifted = convention_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)).schedule
    levels = torch.linspace(-9.0, 9.0, 7)
    assert torch.equal(plain.timestep(levels), shifted.timestep(levels))
    r = FlowSchedule(1000).timestep(levels) / 1000
    torch.testing.assert_close(2.0 * torch.log((1.0 - r) / r), levels)


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_reads_as_the_scheduler_preconditions(scheduler, prediction):
    own = getattr(diffusers, scheduler)(prediction_type=prediction)
    convention = convention_of(own)
    levels, z, output = torch.linspace(-8.0, 12.0, 5), torch.randn(5, 3), torch.randn(5, 3)
    alpha, sigma = (a[:, None] for a in signal_and_noise(levels))
    noisy, s = z / alpha, sigma / alpha
    denoised = torch.stack([own.precondition_outputs(noisy[i], output[i], s[i]) for i in range(5)])
    inputs = torch.stack([own.precondition_inputs(noisy[i], s[i]) for i in range(5)])
    torch.testing.assert_close(convention.noise(levels, z, output), (noisy - denoised) / s, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(convention.schedule.input_scale(levels)[:, None] * z, inputs)
    told = torch.stack([own.precondition_noise(s[i]) for i in range(5)]).flatten()
    torch.testing.assert_close(convention.schedule.timestep(levels), told)


@pytest.mark.parametrize("reading", READINGS)
def test_readings_are_those_of_the_definitions(reading):
    levels = torch.linspace(-6.0, 6.0, 5)
    alpha, sigma = (a[:, None] for a in signal_and_noise(levels))
    x, eps, sd = torch.randn(5, 3), torch.randn(5, 3), 0.7
    z, s = alpha * x + sigma * eps, sigma / alpha
    spread = (s**2 + sd**2).sqrt()
    edm = (x - sd**2 / spread**2 * (x + s * eps)) * spread / (s * sd)
    outputs = {
        "epsilon": eps,
        "sample": x,
        "v_prediction": alpha * eps - sigma * x,
        "flow_prediction": eps - x,
        "edm": edm,
        "edm_v": -edm,
        "score": -eps / s,
    }
    a, b = READINGS[reading](alpha, sigma, sd)
    torch.testing.assert_close(a * z + b * outputs[reading], eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusers.LCMScheduler(), "distilled"),
        (lambda: diffusers.TCDScheduler(), "distilled"),
        (lambda: diffusers.VQDiffusionScheduler(num_vec_classes=4), "is not supported"),
        (lambda: diffusers.IPNDMScheduler(), "is not supported"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
        (lambda: diffusers.DDPMScheduler(prediction_type="velocity"), "choose one of epsilon, sample, v_prediction"),
        (lambda: diffusers.EDMDPMSolverMultistepScheduler(prediction_type="sample"), "epsilon and v_prediction"),
        (
            lambda: diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
            "needs sigma_min and sigma_max",
        ),
        (lambda: diffusers.DDPMScheduler(trained_betas=[0.1, 0.0, 0.1], num_train_timesteps=3), "must fall"),
    ],
)
def test_schedulers_that_say_nothing_of_a_density_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        convention_of(make())
