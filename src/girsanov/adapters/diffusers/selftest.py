r"""The self-test of a pretrained network: does it denoise as the convention that it is read by says?

A network of the right convention has a squared error :math:`\mathrm{mse}(l) = E\|\varepsilon - \hat\varepsilon\|^2`
that goes to 0 at the noise end and never exceeds what a Gaussian of the data's second moment :math:`m_2` leaves,
:math:`d\, \mathrm{sigmoid}(l + \log m_2)`, which itself is below d (note of paper 2, section 4). Since the exact noise
prediction minimises that error, and the exact scale of the data maximises the likelihood, whatever does better than
what a model claims to be refutes the claim. With rows of data these are refused:

1. an error above that line somewhere, by more than a tenth of it, a twentieth of d and four standard errors;
2. outputs that denoise better when they are read by another convention or with the other sign, or no better when they
   are replaced by zeros;
3. a network that denoises better at some level when it is told another one, or as well when it is told nonsense: the
   schedule is not its own;
4. rows that are more likely when they are stretched or shifted: they are not in the network's scale.

"Better" means by more than four standard errors and by more than a trained network errs: see the constants.

Without rows only shape, finiteness and the noise end can be looked at: there, noise must be recognised as noise. This
refuses a velocity or a clean image that is read as noise, and an untrained network, but not a network of noise that
is read as a velocity. The test costs about 130 evaluations for each of at most 64 rows.
"""

__all__ = ["check_noise_end", "check_rows"]

import math
from dataclasses import replace
from typing import NoReturn, final

import torch
from torch import Tensor

from girsanov.adapters.diffusers.network import DiffusersNetwork
from girsanov.adapters.diffusers.schedule import Schedule, signal_and_noise
from girsanov.calculus import expand_as_rows, sum_event
from girsanov.randomness import keyed_generators, keyed_normal
from girsanov.rows import condition_at
from girsanov.types import InputError, State

LEVELS = 16
ROWS = 64
LINE, FLOOR = 1.1, 0.05  # tolerated: times the Gaussian's error, and share of d
SIGMAS = 4.0
NOISE_ROWS, UNRECOGNISED = 8, 0.5  # share of pure noise that may go unrecognised
COMPARED = -4.0  # log-SNR from which readings are compared: below, all that know noise are alike
BETTER, WORSE = 0.05, 0.01  # nats per dimension: of another reading, and of the outputs over zeros
SHIFTS, LOST = (-1.0, 1.0), 4.0  # log-SNR by which the network is misinformed: a little, and beyond use
SHARE = 0.05  # of the error at one level, where the Gaussian's is above this share of d, too
STRETCHES = ((2.0, 0.0), (0.5, 0.0), (2.0, -1.0), (0.5, 0.5))  # x -> factor x + shift
STRETCHED = 0.1  # nats per dimension
ALTERNATIVES = {  # what outputs of the same input and timestep could be
    "epsilon": ("v_prediction", "sample"),
    "sample": ("epsilon", "v_prediction"),
    "v_prediction": ("epsilon", "sample"),
    "flow_prediction": ("epsilon", "sample"),
    "edm": ("edm_v", "epsilon", "sample"),
    "edm_v": ("edm", "epsilon", "sample"),
    "score": ("epsilon", "sample"),
}


@final
class _Misinformed(Schedule):
    """A schedule whose network is told the noise level of another log-SNR."""

    def __init__(self, schedule: Schedule, shift: float) -> None:
        self.schedule, self.shift = schedule, shift

    def timestep(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return self.schedule.timestep((log_snr + self.shift).clamp(*self.schedule.log_snr_range))

    def input_scale(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return self.schedule.input_scale(log_snr)


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


@torch.no_grad()
def check_rows(network: DiffusersNetwork, rows: State, condition: Tensor | None = None) -> None:
    """The self-test on rows of data.

    Args:
        network: the network.
        rows: data in the network's own scale, ``n c *s``; the first 64 are used.
        condition: leading dimension ``n`` or 1.

    Raises:
        InputError: for a wrong convention, schedule or scale, saying which.
    """
    if len(rows) < 2:
        raise InputError(f"The self-test needs at least 2 rows; got {len(rows)}")
    rows = rows[:ROWS]
    condition = condition_at(condition, slice(None, len(rows)))
    eps = keyed_normal(keyed_generators(0, "self-test", rows), rows.shape[1:], rows)
    probe = _Probe(network, rows, eps, condition)
    _below_the_line(probe)
    _reads_best(probe)
    _informed_best(probe)
    _scaled_best(probe)


class _Probe:
    """Outputs of the network on noised rows at a grid of levels, under common noise."""

    def __init__(
        self,
        network: DiffusersNetwork,
        rows: State,
        eps: State,
        condition: Tensor | None,
        schedule: Schedule | None = None,
    ) -> None:
        self.network, self.rows, self.eps, self.condition = network, rows, eps, condition
        self.reading = network.convention.reading
        self.d = rows[0].numel()
        self.levels = torch.linspace(*network.convention.schedule.log_snr_range, LEVELS, dtype=torch.float64)
        self.step = float(self.levels[1] - self.levels[0])
        moment = rows.double().square().mean().cpu()
        self.line = self.d * torch.sigmoid(self.levels + moment.log())
        self.points = [self._point(level, schedule) for level in self.levels.to(rows.device)]

    def _point(self, level: Tensor, schedule: Schedule | None) -> tuple[Tensor, State, State]:
        levels = level.expand(len(self.rows))
        alpha, sigma = signal_and_noise(levels)
        z = expand_as_rows(alpha, self.rows) * self.rows + expand_as_rows(sigma, self.rows) * self.eps
        return levels, z, self.network.output(levels, z, self.condition, schedule)

    def errors(self, reading: str, factor: float = 1.0) -> Tensor:
        """Squared error per level and row when the outputs times ``factor`` are read so, shape ``k n``, float64."""
        convention = replace(self.network.convention, reading=reading)
        guesses = (convention.noise(levels, z, factor * output) for levels, z, output in self.points)
        return torch.stack([sum_event((self.eps - guess).square()) for guess in guesses]).cpu()

    def own(self) -> Tensor:
        """:meth:`errors` of the convention itself."""
        return self.errors(self.reading)

    def gain(self, other: Tensor) -> Tensor:
        """What other errors gain over one's own in the bound's integral, nats per dimension and row, shape ``n``."""
        used = self.levels >= COMPARED
        return 0.5 * self.step * (self.own() - other)[used].sum(0) / self.d

    def refuse(self, found: str, advice: str) -> NoReturn:
        """The one message of a failed test."""
        own = "" if self.condition is None else ", and the rows their own condition"
        raise InputError(f"Self-test failed: read as {self.reading}, the network {found}: {advice}{own}")


def _below_the_line(probe: _Probe) -> None:
    errors = probe.own()
    allowed = LINE * probe.line + FLOOR * probe.d
    excess = torch.nan_to_num(errors.mean(1) - allowed - SIGMAS * _stderr(errors), nan=torch.inf)
    worst = int(excess.argmax())
    if excess[worst] > 0:
        measured, gaussian = float(errors[worst].mean()) / probe.d, float(probe.line[worst]) / probe.d
        found = (
            f"leaves {measured:.2g} of the noise at log-SNR {float(probe.levels[worst]):.1f}, a Gaussian {gaussian:.2g}"
        )
        probe.refuse(found, "check the scheduler, prediction=, the rows' scale and the condition")


def _reads_best(probe: _Probe) -> None:
    for reading in ALTERNATIVES[probe.reading]:
        if _exceeds(probe.gain(probe.errors(reading)), BETTER):
            probe.refuse(f"denoises better when it is read as {reading}", "give prediction= or set prediction_type")
    if _exceeds(probe.gain(probe.errors(probe.reading, -1.0)), BETTER):
        probe.refuse("denoises better with the opposite sign", "undo it in call=")
    if float(probe.gain(probe.errors(probe.reading, 0.0)).mean()) > -WORSE:
        probe.refuse("denoises no better than with outputs of zero", "give the scheduler of its training")


def _informed_best(probe: _Probe) -> None:
    own = probe.own()
    matters = (probe.levels >= COMPARED) & (probe.line >= SHARE * probe.d)
    for shift in SHIFTS:
        other = _misinformed(probe, shift)
        gain = own - other
        better = (gain.mean(1) > SHARE * own.mean(1)) & (gain.mean(1) > SIGMAS * _stderr(gain))
        if bool(better[matters].any()):
            direction = "lower" if shift < 0 else "higher"
            found = f"denoises better when it is told a log-SNR that is {abs(shift):.0f} {direction}"
            probe.refuse(found, "give the scheduler of its training")
    if float(probe.gain(_misinformed(probe, LOST)).mean()) > -WORSE:
        probe.refuse("denoises as well when it is told a wrong timestep", "give the scheduler of its training")


def _misinformed(probe: _Probe, shift: float) -> Tensor:
    """Errors of a network that is told another level."""
    schedule = _Misinformed(probe.network.convention.schedule, shift)
    return _Probe(probe.network, probe.rows, probe.eps, probe.condition, schedule).own()


def _scaled_best(probe: _Probe) -> None:
    own = probe.own()
    for factor, shift in STRETCHES:
        stretched = _Probe(probe.network, factor * probe.rows + shift, probe.eps, probe.condition).own()
        gain = 0.5 * probe.step * (own - stretched).sum(0) / probe.d + math.log(factor)
        if _exceeds(gain, STRETCHED):
            change = f"{factor:g} x{shift:+g}" if shift else f"{factor:g} x"
            probe.refuse(f"finds the rows x more likely as {change}", "give rows in the scale of its training")


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over the last axis."""
    return values.std(-1) / values.shape[-1] ** 0.5


def _exceeds(gain: Tensor, threshold: float) -> bool:
    return bool(gain.mean() > threshold + SIGMAS * _stderr(gain))
