r"""How a network's output is read as a noise prediction, for every convention of diffusers' schedulers.

With variance-preserving :math:`z = \alpha x + \sigma \varepsilon` and network output F every convention is affine,
:math:`\hat\varepsilon = a z + b F`, in forms that do not cancel (note of paper 2, sections 2.2 and 5.2, item 1):

===============  ====================================================  ===============================================
convention       a                                                     b
===============  ====================================================  ===============================================
epsilon          0                                                     1
sample           :math:`1 / \sigma`                                    :math:`-\alpha / \sigma`
v_prediction     :math:`\sigma`                                        :math:`\alpha`
flow_prediction  :math:`1 / (\alpha + \sigma)`                         :math:`\alpha / (\alpha + \sigma)`
edm              :math:`\sigma / s^2`                                  :math:`-s_d \alpha / s`
edm_v            :math:`\sigma / s^2`                                  :math:`s_d \alpha / s`
score            0                                                     :math:`-\sigma / \alpha`
===============  ====================================================  ===============================================

where :math:`s^2 = \sigma^2 + s_d^2 \alpha^2` is the variance of z when the data's is :math:`s_d^2`.
"""

__all__ = ["READINGS", "Reading", "convention_of", "reading_of"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.conventions import Choice, Convention
from girsanov.adapters.schedules import (
    EDMSchedule,
    ExplodingSchedule,
    FlowSchedule,
    Schedule,
    TableSchedule,
    alpha_bar_table,
    signal_and_noise,
)
from girsanov.types import InputError

Coefficients = tuple[Tensor, Tensor]


def _edm(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Coefficients:
    variance = sigma.square() + (sigma_data * alpha).square()
    return sigma / variance, -sigma_data * alpha / variance.sqrt()


def _edm_v(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Coefficients:
    a, b = _edm(alpha, sigma, sigma_data)
    return a, -b


#: convention -> (a, b) from (alpha, sigma, sigma_data)
READINGS: dict[str, Callable[[Tensor, Tensor, float], Coefficients]] = {
    "epsilon": lambda alpha, sigma, _: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    "sample": lambda alpha, sigma, _: (1.0 / sigma, -alpha / sigma),
    "v_prediction": lambda alpha, sigma, _: (sigma, alpha),
    "flow_prediction": lambda alpha, sigma, _: (1.0 / (alpha + sigma), alpha / (alpha + sigma)),
    "edm": _edm,
    "edm_v": _edm_v,
    "score": lambda alpha, sigma, _: (torch.zeros_like(alpha), -sigma / alpha),
}

DISTILLED = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "SCMScheduler", "FlowMapEulerDiscreteScheduler")
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


@dataclass(frozen=True)
class Reading(Convention):
    """What the numbers that go into a network and come out of it mean, in diffusers' words.

    Attributes:
        schedule: its clock and the scale of its input.
        reading: a key of :data:`READINGS`.
    """

    schedule: Schedule
    reading: str


def reading_of(schedule: Schedule, reading: str, keyword: str = "") -> Reading:
    """The convention of a schedule and a reading; ``keyword`` says how it is stated, empty for the stated one."""
    sigma_data = getattr(schedule, "sigma_data", 1.0)

    def read(log_snr: Tensor) -> Coefficients:
        return READINGS[reading](*signal_and_noise(log_snr), sigma_data)

    told, shown = Choice(schedule.timestep, keyword=keyword), Choice(schedule.input_scale)
    return Reading(told, shown, Choice(read), schedule, reading)


def convention_of(scheduler: Any, prediction: str | None = None) -> Reading:
    """Read a scheduler's convention.

    Args:
        scheduler: a diffusers scheduler.
        prediction: what the network predicts, in diffusers' words, in place of the scheduler's own setting.

    Raises:
        InputError: for a scheduler or a prediction that says nothing about a density.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name in DISTILLED:
        raise InputError(f"{name} belongs to distilled networks, which are no scores: load the network they came from")
    stated = prediction or config.get("prediction_type")
    if name in FLOW or stated == "flow_prediction":
        return _flow(scheduler, prediction)
    if name in EDM:
        return _preconditioned(scheduler, stated)
    if name == "ScoreSdeVeScheduler":
        return reading_of(ExplodingSchedule(config["sigma_min"], config["sigma_max"]), "score")
    if not hasattr(scheduler, "alphas_cumprod") or not isinstance(scheduler.alphas_cumprod, Tensor):
        raise InputError(
            f"{name} is not supported: build the model with the scheduler that the network was trained with"
        )
    reading = _known(stated or "epsilon", ("epsilon", "sample", "v_prediction"), name)
    if config.get("timestep_type") == "continuous" and reading == "v_prediction":
        return reading_of(_continuous(scheduler), reading)
    return reading_of(TableSchedule(torch.logit(alpha_bar_table(scheduler))), reading)


def _known(stated: str, allowed: tuple[str, ...], name: str) -> str:
    reading = {"original_sample": "sample"}.get(stated, stated)
    if reading not in allowed:
        raise InputError(f"{name} with prediction_type {stated!r} is not supported: choose one of {', '.join(allowed)}")
    return reading


def _flow(scheduler: Any, prediction: str | None) -> Reading:
    """The straight path; ``shift`` and dynamic shifting only move the sampling grid."""
    allowed = ("flow_prediction", "epsilon", "sample", "v_prediction")
    reading = _known(prediction or "flow_prediction", allowed, type(scheduler).__name__)
    if scheduler.config.get("invert_sigmas"):
        raise InputError("invert_sigmas turns the timestep around: set it to False and undo it in call=")
    return reading_of(FlowSchedule(scheduler.config["num_train_timesteps"]), reading)


def _preconditioned(scheduler: Any, stated: str) -> Reading:
    config = scheduler.config
    reading = {"epsilon": "edm", "v_prediction": "edm_v"}.get(stated)
    if reading is None:
        raise InputError(f"{type(scheduler).__name__} has epsilon and v_prediction; got {stated!r}")
    return reading_of(EDMSchedule(config["sigma_min"], config["sigma_max"], config["sigma_data"]), reading)


def _continuous(scheduler: Any) -> EDMSchedule:
    """Euler's continuous timesteps: EDM's clock with unit data variance, on which v is the ordinary v."""
    config = scheduler.config
    if config.get("sigma_min") is None or config.get("sigma_max") is None:
        raise InputError("A scheduler with continuous timesteps needs sigma_min and sigma_max: set them")
    return EDMSchedule(config["sigma_min"], config["sigma_max"], 1.0)
