"""Conversions between predictions: what each means, and that they invert each other under every process."""

import pytest
import torch

from girsanov.networks import PREDICTIONS, from_noise, to_noise
from girsanov.processes import StraightPath
from girsanov.types import InputError
from tests.laws import each_clock, each_prediction

pytestmark = pytest.mark.usefixtures("float64")

LEVELS = torch.linspace(-10.0, 12.0, 7, dtype=torch.float64)


def columns(values):
    return values.reshape(-1, 1, 1, 1)


@each_clock
@each_prediction
def test_conversions_round_trip(make_process, predicts):
    process = make_process()
    x_t, noise = torch.randn(7, 2, 2, 1), torch.randn(7, 2, 2, 1)
    prediction = from_noise(predicts, process, LEVELS, x_t, noise)
    torch.testing.assert_close(to_noise(predicts, process, LEVELS, x_t, prediction), noise, rtol=1e-6, atol=1e-6)


@each_clock
def test_predictions_mean_what_they_say(make_process):
    process = make_process()
    levels = torch.linspace(-6.0, 9.0, 7)
    x, eps = torch.randn(7, 2, 2, 1), torch.randn(7, 2, 2, 1)
    times = process.time(levels).requires_grad_()
    alpha_t, sigma_t = (columns(value) for value in process.marginal(times))
    x_t = alpha_t * x + sigma_t * eps
    rate, squared = (columns(value.detach()) for value in process.rates(times))
    score = -eps / sigma_t
    # the probability-flow velocity of one point's kernel is the time derivative of its path
    (alpha_slope,) = torch.autograd.grad((alpha_t + 0.0 * columns(times)).sum(), times, retain_graph=True)
    (sigma_slope,) = torch.autograd.grad(sigma_t.sum(), times, retain_graph=True)
    meanings = {
        "noise": eps,
        "score": score,
        "denoised": x,
        "v": alpha_t * eps - sigma_t * x,
        "flow": columns(alpha_slope) * x + columns(sigma_slope) * eps,
        "control": squared.sqrt() * score,
    }
    assert set(meanings) == set(PREDICTIONS)
    torch.testing.assert_close(meanings["flow"], rate * x_t - 0.5 * squared * score, rtol=1e-7, atol=1e-9)
    for predicts, meaning in meanings.items():
        found = from_noise(predicts, process, levels, x_t, eps)
        torch.testing.assert_close(found, meaning, rtol=1e-6, atol=1e-7, msg=lambda m, p=predicts: f"{p}: {m}")


def test_flow_on_the_straight_path_is_noise_minus_data():
    process, x, eps = StraightPath(), torch.randn(7, 3), torch.randn(7, 3)
    alpha, sigma = (value[:, None] for value in process.marginal_at(LEVELS))
    torch.testing.assert_close(from_noise("flow", process, LEVELS, alpha * x + sigma * eps, eps), eps - x)


def test_unknown_predictions_are_refused():
    with pytest.raises(InputError, match="Unknown prediction 'x0': choose one of noise, score, denoised"):
        to_noise("x0", StraightPath(), LEVELS, torch.zeros(7, 1), torch.zeros(7, 1))


def test_conversions_keep_single_precision():
    x_t = torch.randn(7, 2).float()
    assert to_noise("v", StraightPath(), LEVELS.float(), x_t, x_t).dtype == torch.float32
