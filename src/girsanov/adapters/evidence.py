r"""The self-test of a stated convention: do the network's denoising errors fit it, or another one?

The exact noise prediction minimises :math:`E\|\varepsilon - \hat\varepsilon\|^2` at every log-SNR, so that read by its
own convention an exact network errs less than by any other, at each level. On rows of data, under the same noise for
all, another convention is taken for the network's own where all of these hold:

- clearly better: its mean error over the levels is lower than the stated one's by more than 0.003 of the noise, and by
  four standard errors of their paired difference over rows, or that at one level by five, or by as much as an exact
  reading's (below) where that speaks against the stated one;
- nowhere clearly worse than the stated one;
- it fits: its mean error is below that of a Gaussian that is fitted to the same rows by two standard errors, or above
  it by no more than one where the stated reading errs clearly more than zeros in place of the outputs. A network that
  is badly trained errs less by whatever uses less of its output, and this is where such a reading fails. Where it looks
  exact, it is above Gaussians of the rows that they have not seen by no more than two standard errors;
- the outputs count: zeros in their place would err clearly more (by two standard errors where it looks exact), or
  clearly less by the stated convention. An untrained network tells nothing.

An exact reading looks so: its error is uncorrelated with all that is known, here with its input, with its outputs and
with its difference from the stated reading, over all levels and at each. Few rows tell this of a network that errs
about as little as a Gaussian, while readings of bad networks want their outputs scaled. And with G how much less such a
reading errs than the stated one, and Q the mean square between the two, :math:`E\,G = Q`, where
:math:`E\,G = -Q` if the stated reading is exact: G + Q clearly above zero is twice the evidence of G.

Then the stated convention is refused, with the one that fits. Else it stands; where its own errors are above the
Gaussian's, and on rows of another scale are not, the rows are refused, with the scale. Else the test is undecided and
says so. Errors of a row at a level are capped, so that no reading that divides by
a small number hides in the spread of its own errors.
"""

__all__ = ["FEWEST_ROWS", "require_evidence", "yardstick"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from girsanov.adapters.conventions import Convention
from girsanov.calculus import noised, sum_event
from girsanov.densities import Gaussian
from girsanov.randomness import apart, keyed_generators, keyed_normal
from girsanov.rows import condition_at, conditions_for
from girsanov.types import InputError, State

LEVELS = 12
#: rows and noised rows at a level: so many, fewer where they are wide
MOST_ROWS, MOST_STATES, ENTRIES = 256, 1024, 2**14
CALLED = 2**18  # entries of rows in one call of the network
FEWEST_ROWS = 64
PER_DIMENSION = 4  # rows from which on a Gaussian has its covariance
THIN = 1e-3  # its least standard deviation of a column, of the widest one's
NOISE_SIDE, DATA_SIDE = 5.0, 3.0  # log-SNR by which levels go beyond where the data's scales show
SIGMAS, AT_ONE = 4.0, 5.0  # standard errors that are clear: of a mean, and at one level of many
BETTER = 0.003  # share of the noise by which another convention must err less
LIKELY, UNCORRELATED = 2.0, 4.0  # standard errors: of a gain that is no chance, and of a mean that may be zero
BEYOND = 2.0  # standard errors below a Gaussian's error that tell a network that has learned something
FLOOR = 0.01  # share of the noise that counts at a level
SLACK = 0.1  # share of its own error by which it may err more at a level
SAME = 1e-3  # share of the noise within which two conventions are one
LEAST = 1e-12  # mean square of a direction
CAP = 25.0  # of a row's squared error per dimension
#: x -> factor x + shift, as the rows of the training may have been
SCALES = {
    "2 * x": (2.0, 0.0),
    "x / 2": (0.5, 0.0),
    "2 * x - 1": (2.0, -1.0),
    "(x + 1) / 2": (0.5, 0.5),
    "x / 127.5 - 1": (1.0 / 127.5, -1.0),
    "x / 255": (1.0 / 255.0, 0.0),
}


class Tested(Protocol):
    """A network as the self-test sees it."""

    arguments: tuple[str, str]
    notes: tuple[str, ...]

    def output(
        self, log_snr: Tensor, z: State, condition: Tensor | None = None, convention: Convention | None = None
    ) -> State:
        """What it returns at variance-preserving z, called by a convention."""
        ...


@torch.no_grad()
def require_evidence(
    network: Tested,
    rows: State,
    conventions: Sequence[Convention],
    log_snr_range: tuple[float, float],
    condition: Tensor | None = None,
) -> None:
    """Refuse the network's convention if another one fits its errors clearly better; note what stays undecided.

    Args:
        network: the network.
        rows: data in the network's own scale, ``n *d``; at most 256 of them are used.
        conventions: the stated one, and those that it could be instead.
        log_snr_range: where the network was trained.
        condition: of the rows, leading dimension ``n`` or 1.

    Raises:
        InputError: naming the convention that fits, or the scale of rows that does.
    """
    count = min(len(rows), max(FEWEST_ROWS, min(MOST_ROWS, ENTRIES // rows[0].numel())))
    index = torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()
    reference = yardstick(rows)
    probe = _Probe(network, rows[index], _levels(reference, log_snr_range), condition_at(condition, index))
    own, others = conventions[0], conventions[1:]
    stated = probe.read(own, probe.outputs(own))
    gaussian = _Gaussians.of(probe, reference, rows[index])
    readings = (probe.read(convention, outputs) for convention, outputs in _readings(probe, others))
    found = [other for other in readings if _wins(probe, other, stated, gaussian)]
    if found:
        _refuse(network, stated, found)
    if not bool(stated.outputs.values.isfinite().all()):
        raise InputError("The network returns numbers that are not finite on these rows: check its weights")
    if not gaussian.fits(stated, SIGMAS):
        _refuse_scale(probe, own, rows[index], log_snr_range, stated.errors - gaussian.fitted)
        network.notes += (
            f"The self-test is undecided: the network leaves {float(stated.errors.mean()):.2g} of the noise in these "
            f"rows, a Gaussian {float(gaussian.fitted.mean()):.2g}, and no other convention fits; look at the rows' "
            "scale and the training.",
        )


class _Probe:
    """Rows under noise at a grid of levels, the same noise with either sign.

    Errors are shares of the noise, means over a row's draws, ``levels n``, float64.
    """

    def __init__(
        self,
        network: Tested,
        rows: State,
        levels: Tensor,
        condition: Tensor | None,
    ) -> None:
        self.network, self.d, self.grid, self.given = network, rows[0].numel(), levels, condition
        pairs = max(1, min(MOST_STATES, ENTRIES // self.d) // (2 * len(rows)))
        self.shape = (LEVELS, 2 * pairs, len(rows))
        keys = keyed_generators(0, "self-test of a convention", apart(rows))
        draws = keyed_normal(keys, (LEVELS, pairs, *rows.shape[1:]), rows).movedim(0, 2)
        self.eps = torch.cat([draws, -draws], 1).flatten(0, 2)
        self.levels = levels.to(rows.device)[:, None, None].expand(self.shape).flatten()
        count = self.shape[0] * self.shape[1]
        self.z = noised(self.levels.to(rows.dtype), rows.repeat(count, *(1,) * (rows.ndim - 1)), self.eps)
        each = conditions_for(condition, len(rows))
        self.condition = None if each is None else each.repeat(count, *(1,) * (each.ndim - 1))

    def outputs(self, convention: Convention) -> "_Outputs":
        """What the network returns."""
        parts = torch.arange(len(self.z), device=self.z.device).split(max(FEWEST_ROWS, CALLED // self.d))
        found = torch.cat(
            [self.network.output(self.levels[i], self.z[i], condition_at(self.condition, i), convention) for i in parts]
        )
        return _Outputs(
            found, [self.products(*pair) for pair in combinations_with_replacement([self.eps, self.z, found], 2)]
        )

    def products(self, one: State, other: State) -> Tensor:
        """Mean products over dimensions, ``levels draws n``, float64."""
        return (sum_event(one.double() * other.double()) / self.d).cpu().reshape(self.shape)

    def errors(self, guess: State) -> Tensor:
        """Of noise predictions."""
        return _capped(self.products(self.eps - guess, self.eps - guess))

    def read(self, convention: Convention, outputs: "_Outputs") -> "_Reading":
        """Outputs by a convention."""
        a, b = (part.cpu()[:, None, None] for part in convention.read.function(self.grid))
        return _Reading(convention, outputs, a, b)

    def apart(self, one: "_Reading", other: "_Reading") -> Tensor:
        """Mean squares between two noise predictions."""
        first, second = (r.convention.noise(self.levels, self.z, r.outputs.values) for r in (one, other))
        return _capped(self.products(first - second, first - second))


@dataclass(frozen=True)
class _Outputs:
    """A network's outputs F, and the mean products of pairs of the noise eps, the input z and F."""

    values: State
    products: list[Tensor]


@dataclass(frozen=True)
class _Reading:
    """Noise predictions a z + b F by a convention, whose errors all come from the same few products."""

    convention: Convention
    outputs: _Outputs
    a: Tensor
    b: Tensor

    @cached_property
    def blank(self) -> Tensor:
        """Errors of zeros in place of the outputs."""
        ee, ez, _, zz, _, _ = self.outputs.products
        return _capped(ee + self.a * (self.a * zz - 2.0 * ez))

    @cached_property
    def errors(self) -> Tensor:
        """Mean squares of eps - a z - b F."""
        ee, ez, ef, zz, zf, ff = self.outputs.products
        return _capped(ee + self.a * (self.a * zz - 2.0 * ez) + self.b * (self.b * ff - 2.0 * ef + 2.0 * self.a * zf))

    @cached_property
    def looks_exact(self) -> bool:
        """Whether its errors are uncorrelated with the input and with the outputs."""
        _, ez, ef, zz, zf, ff = self.outputs.products
        along = (ez - self.a * zz - self.b * zf, zz), (ef - self.a * zf - self.b * ff, ff)
        return all(_vanishes(products.mean(1), squares.mean(1)) for products, squares in along)

    @cached_property
    def harms(self) -> bool:
        """Whether zeros in place of the outputs would err clearly less."""
        return _exceeds((self.errors - self.blank).mean(0), 0.0)


@dataclass(frozen=True)
class _Gaussians:
    """Errors of a Gaussian that is fitted to the rows, and of those that are fitted to every other row, on the rest."""

    fitted: Tensor
    held_out: Tensor

    @classmethod
    def of(cls, probe: _Probe, reference: Gaussian, rows: State) -> "_Gaussians":
        """Of rows ``n *d``."""
        laws = (reference, yardstick(rows[1::2]), yardstick(rows[::2]))
        fitted, first, second = (probe.errors(law.noise(probe.levels, probe.z)) for law in laws)
        return cls(fitted, torch.where(torch.arange(len(rows)) % 2 == 0, first, second))

    def fits(self, reading: _Reading, sigmas: float) -> bool:
        """Whether it errs at most so many standard errors more than the first, or looks exact beside the rest."""
        excess, held_out = ((reading.errors - errors).mean(0) for errors in (self.fitted, self.held_out))
        as_good = reading.looks_exact and bool(held_out.mean() <= BEYOND * _stderr(held_out))
        return as_good or bool(excess.mean() <= sigmas * _stderr(excess))


def _capped(squares: Tensor) -> Tensor:
    """Means over draws of squares that are no larger than a cap."""
    return torch.nan_to_num(squares, nan=CAP, posinf=CAP).clamp(0.0, CAP).mean(1)


def _readings(probe: _Probe, others: Sequence[Convention]) -> Iterator[tuple[Convention, _Outputs]]:
    """Other conventions with the network's outputs; those by which it cannot be called are left aside.

    It is called once for all that tell and show it the same.
    """
    alike: dict[tuple[Any, Any], list[Convention]] = {}
    for convention in others:
        alike.setdefault((convention.told.function, convention.shown.function), []).append(convention)
    for conventions in alike.values():
        try:
            outputs = probe.outputs(conventions[0])
        except InputError:
            continue
        for convention in conventions:
            yield convention, outputs


def yardstick(rows: State) -> Gaussian:
    """A Gaussian of rows ``n *d``, diagonal where there are too few of them for its covariance.

    Example:
        >>> yardstick(torch.tensor([[0.0, 1.0], [2.0, 5.0]])).mean
        tensor([1., 3.], dtype=torch.float64)
    """
    flat = rows.double().flatten(1)
    if len(rows) >= PER_DIMENSION * flat.shape[1]:
        return Gaussian.fit(rows, floor=THIN * float(flat.std(0).max())).to(rows.device)
    variance = rows.double().var(0)
    return Gaussian(rows.double().mean(0), variance.clamp_min(THIN**2 * float(variance.max())))


def _levels(reference: Gaussian, log_snr_range: tuple[float, float]) -> Tensor:
    """A grid on the part of the range at which the scales of the data show."""
    variances = reference.spectrum()
    widest = float(variances.max() + reference.mean.square().mean())
    low = max(log_snr_range[0], -math.log(widest) - NOISE_SIDE)
    high = min(log_snr_range[1], -math.log(float(variances.min())) + DATA_SIDE)
    ends = (low, high) if low < high else log_snr_range
    return torch.linspace(*ends, LEVELS, dtype=torch.float64)


def _refuse_scale(
    probe: _Probe, own: Convention, rows: State, log_snr_range: tuple[float, float], excess: Tensor
) -> None:
    """Where the rows fit nothing: refuse them if beside a Gaussian the network knows clearly more on another scale."""
    found = {}
    for text, (factor, shift) in SCALES.items():
        scaled = factor * rows + shift
        reference = yardstick(scaled)
        other = _Probe(probe.network, scaled, _levels(reference, log_snr_range), probe.given)
        errors = other.read(own, other.outputs(own)).errors
        gaussian = other.errors(reference.noise(other.levels, other.z))
        gain = (excess - errors + gaussian).mean(0)
        if _exceeds(gain, BETTER) and bool(errors.mean() < (1.0 + SLACK) * gaussian.mean()):
            found[text] = float(gain.mean())
    if found:
        text = max(found, key=lambda name: found[name])
        raise InputError(
            f"Self-test failed: the network leaves {float(excess.mean()):.2g} more of the noise in these rows x than a "
            f"Gaussian does, {found[text]:.2g} less than that in {text}: pass rows in the scale of its training"
        )


def _exceeds(gain: Tensor, threshold: float) -> bool:
    """Whether the mean of independent values is above a threshold, and clearly above 0."""
    return bool(gain.mean() > max(threshold, SIGMAS * float(_stderr(gain))))


def _wins(probe: _Probe, other: _Reading, stated: _Reading, gaussian: _Gaussians) -> bool:
    """Whether another convention is taken for the network's own."""
    if float((stated.errors - other.errors).mean()) <= BETTER:
        return False
    worth = (other.blank - other.errors).mean(0)
    counts = stated.harms or bool(worth.mean() > (LIKELY if other.looks_exact else SIGMAS) * _stderr(worth))
    return counts and gaussian.fits(other, 1.0 if stated.harms else -BEYOND) and _is_better(probe, other, stated)


def _is_better(probe: _Probe, other: _Reading, stated: _Reading) -> bool:
    """Clearly better over all levels or at one of them, and nowhere clearly worse."""
    gain = stated.errors - other.errors
    over_all = gain.mean(0)
    clearly = _exceeds(over_all, BETTER) or bool((gain.mean(1) > AT_ONE * _stderr(gain) + FLOOR).any())
    if other.looks_exact and not clearly and over_all.mean() > LIKELY * _stderr(over_all):
        apart = probe.apart(other, stated)
        clearly = _exceeds((gain + apart).mean(0), 0.0) and _vanishes(gain - apart, apart)
    allowed = FLOOR + SLACK * other.errors.mean(1) + SIGMAS * _stderr(gain)
    return clearly and bool((-gain.mean(1) <= allowed).all())


def _vanishes(products: Tensor, squares: Tensor) -> bool:
    """Whether products with a direction of these squares may be 0 in the mean, over all levels and at each."""
    found = products / squares.mean(1, keepdim=True).clamp_min(LEAST).sqrt()
    over_all = found.mean(0)
    at_each = (found.mean(1).abs() <= AT_ONE * _stderr(found)).all()
    return bool((over_all.mean().abs() <= UNCORRELATED * _stderr(over_all)) & at_each)


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over the last axis."""
    return values.std(-1) / values.shape[-1] ** 0.5


def _refuse(network: Tested, stated: _Reading, found: list[_Reading]) -> NoReturn:
    """With the convention that fits best; of those that do the same to the network, the one that changes least."""
    least = min(float(other.errors.mean()) for other in found)
    alike = [other for other in found if float(other.errors.mean()) < least + SAME]
    best = min(alike, key=lambda other: other.convention.changes)
    raise InputError(
        f"Self-test failed: on these rows the network leaves {float(best.errors.mean()):.2g} of the noise by another "
        f"convention, {float(stated.errors.mean()):.2g} by the stated one: pass "
        f"{best.convention.advice(network.arguments)}"
    )
