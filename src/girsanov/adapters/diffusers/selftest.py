"""What a pretrained network could be instead, for the self-test, and the part of it that needs no data.

Without rows only shape, finiteness and the noise end can be looked at: there, noise must be recognised as noise. This
refuses a velocity or a clean image that is read as noise, and an untrained network, but not a network of noise that
is read as a velocity.
"""

__all__ = ["check_noise_end", "conventions_beside"]

from dataclasses import replace

import torch
from torch import Tensor

from girsanov.adapters.conventions import Choice, Convention, signs
from girsanov.adapters.diffusers.network import DiffusersNetwork
from girsanov.adapters.diffusers.readings import READINGS, Reading, reading_of
from girsanov.adapters.schedules import BETAS, EDMSchedule, ExplodingSchedule, FlowSchedule, Schedule, TableSchedule
from girsanov.randomness import keyed_generators, keyed_normal
from girsanov.types import InputError, State

NOISE_ROWS, UNRECOGNISED = 8, 0.5  # share of pure noise that may go unrecognised
STEPS = 1000
SHIFTS = (-1.0, 1.0)  # log-SNR by which a network may have been told otherwise
APART = 0.1  # of what is told, relative: from there on two schedules are two
POINTS = 17
SIGN = "call= that returns the opposite"
#: schedules of betas with their usual ends
TABLES = {
    'DDPMScheduler(beta_schedule="linear"%s)': ("linear", 1e-4, 0.02),
    'DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012%s)': (
        "scaled_linear",
        0.00085,
        0.012,
    ),
    'DDPMScheduler(beta_schedule="squaredcos_cap_v2"%s)': ("squaredcos_cap_v2", 0.0, 0.0),
}
#: how a reading is stated beside another scheduler of its kind, and by ``prediction=``
SAID = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}
SAID_OF_EDM = {"edm": "epsilon", "edm_v": "v_prediction"}


def conventions_beside(own: Reading) -> list[Convention]:
    """What a network could be that is not as stated: another prediction, sign, direction of time or scheduler."""
    schedule = own.schedule
    return [*_read_otherwise(own), *_told_otherwise(own), *_elsewhere(schedule)]


def _read_otherwise(own: Reading) -> list[Convention]:
    """The same input and timestep, another output."""
    edm = isinstance(own.schedule, EDMSchedule)
    said = SAID_OF_EDM if edm else SAID
    others = [reading_of(own.schedule, name) for name in READINGS if name != own.reading and (edm or name in said)]
    keyword = {name: f'prediction="{word}"' for name, word in said.items()}
    named = [replace(c.read, keyword=keyword.get(c.reading, f"call= that makes {own.reading} of it")) for c in others]
    turned = replace(signs([own.read])[1], text="", keyword=SIGN)
    found = [turned, *(choice for read in named for choice in (read, _opposite(read)))]
    return [Convention(own.told, own.shown, read) for read in found]


def _opposite(read: Choice) -> Choice:
    """The same with the other sign, in words of its own."""
    return replace(signs([read])[1], text="", keyword=f"{read.keyword} and {SIGN}")


def _told_otherwise(own: Reading) -> list[Convention]:
    """The same input and output, another timestep."""
    schedule, (low, high) = own.schedule, own.schedule.log_snr_range
    found = []
    if isinstance(schedule, TableSchedule | FlowSchedule):
        steps = len(schedule.rising) if isinstance(schedule, TableSchedule) else schedule.steps
        last = steps - 1 if isinstance(schedule, TableSchedule) else steps
        turned = lambda level: last - schedule.timestep(level)  # noqa: E731
        unit = lambda level: schedule.timestep(level) / steps  # noqa: E731
        found += [Choice(turned, keyword=f"call= that passes {last} - timestep")]
        found += [Choice(unit, keyword=f"call= that passes timestep / {steps}")]
    for shift in SHIFTS:
        moved = lambda level, shift=shift: schedule.timestep((level + shift).clamp(low, high))  # noqa: E731
        direction = "higher" if shift > 0 else "lower"
        found += [Choice(moved, keyword=f"the scheduler of its training, by which the log-SNR is about 1 {direction}")]
    return [Convention(told, own.shown, own.read) for told in found]


def _elsewhere(own: Schedule) -> list[Convention]:
    """Networks of other schedulers."""
    flow, ve = FlowSchedule(STEPS), ExplodingSchedule(0.01, 50.0)
    found: list[Reading] = []
    for text, (name, start, end) in TABLES.items():
        table = TableSchedule(torch.logit(torch.cumprod(1.0 - BETAS[name](STEPS, start, end), 0)))
        for reading, word in SAID.items():
            more = "" if reading == "epsilon" else f', prediction_type="{word}"'
            found.append(reading_of(table, reading, f"scheduler={text % more}"))
    found.append(reading_of(flow, "flow_prediction", "scheduler=FlowMatchEulerDiscreteScheduler()"))
    for deviation in (0.5, 1.0):
        schedule = EDMSchedule(0.002, 80.0, deviation)
        for reading, word in SAID_OF_EDM.items():
            more = f"sigma_data={deviation}, " if deviation != 0.5 else ""
            call = f'scheduler=EDMEulerScheduler({more}prediction_type="{word}")'
            found.append(reading_of(schedule, reading, call))
    found.append(reading_of(ve, "score", "scheduler=ScoreSdeVeScheduler()"))
    levels = torch.linspace(*own.log_snr_range, POINTS, dtype=torch.float64)
    return [c for c in found if not _alike(own, c.schedule, levels)]


def _alike(own: Schedule, other: Schedule, levels: Tensor) -> bool:
    """Whether two schedules tell and show a network nearly the same."""
    told = own.timestep(levels), other.timestep(levels)
    shown = own.input_scale(levels), other.input_scale(levels)
    far = [float((a - b).abs().max() / a.abs().max()) for a, b in (told, shown)]
    return max(far) < APART * 0.1


@torch.no_grad()
def check_noise_end(network: DiffusersNetwork, rows: State, condition: Tensor | None = None) -> None:
    """The part of the self-test that needs no data.

    Args:
        network: the network.
        rows: any tensor of the shape, dtype and device of rows.
        condition: leading dimension 1.

    Raises:
        InputError: if outputs have another shape, are not finite, or do not recognise noise.
    """
    low, high = network.convention.schedule.log_snr_range
    blank = torch.arange(NOISE_ROWS).to(rows).reshape(-1, *(1,) * (rows.ndim - 1)).expand(-1, *rows.shape[1:])
    noise = keyed_normal(keyed_generators(0, "self-test", blank), rows.shape[1:], rows)
    for level in (high, 0.5 * (low + high), low):
        guess = network(noise.new_full((NOISE_ROWS,), level), noise, condition)
        if not bool(guess.isfinite().all()):
            raise InputError(
                f"The network returns numbers that are not finite at log-SNR {level:.1f}: check its weights"
            )
    missed = float((noise - guess).square().mean() / noise.square().mean())
    if missed > UNRECOGNISED:
        raise InputError(
            f"Self-test failed: read as {network.convention.reading}, the network misses {missed:.0%} of pure noise at "
            "its noise end, so it is untrained or predicts something else: give prediction= or the right scheduler"
        )
