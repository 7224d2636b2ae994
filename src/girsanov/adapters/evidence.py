r"""The self-test of a stated convention: do the network's denoising errors fit it, or another one?

The exact noise prediction minimises :math:`E\|\varepsilon - \hat\varepsilon\|^2` at every log-SNR, so that read by its
own convention an exact network errs less than by any other, at each level. On rows of data, under the same noise for
all, another convention is taken for the network's own where all of these hold:

- clearly better: its mean error over the levels is lower than the stated one's by more than four standard errors of
  their paired difference over rows, or that at one level by five, and the mean by more than 0.003 of the noise;
- nowhere clearly worse than the stated one;
- it fits: its mean error is below that of a Gaussian that is fitted to the rows by two standard errors, or above it by
  no more than one where the stated reading errs clearly more than zeros in place of the outputs. A network that is
  badly trained errs less by whatever uses less of its output, and this is where such a reading fails;
- the outputs count: zeros in their place would err clearly more, or clearly less by the stated convention. An untrained
  network tells nothing.

Then the stated convention is refused, with the one that fits. Else it stands; where its own errors are above the
Gaussian's, the test is undecided and says so. Errors of a row at a level are capped, so that no reading that divides by
a small number hides in the spread of its own errors.
"""

__all__ = ["FEWEST_ROWS", "require_evidence", "yardstick"]

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from girsanov.adapters.adapted import AdaptedNetwork
from girsanov.adapters.conventions import Convention
from girsanov.calculus import noised, sum_event
from girsanov.densities import Gaussian
from girsanov.randomness import apart, keyed_generators, keyed_normal
from girsanov.rows import condition_at, conditions_for
from girsanov.types import InputError, State

LEVELS = 12
MOST_ROWS, MOST_STATES, ENTRIES = (
    256,
    1024,
    2**14,
)  # rows and noised rows at a level: so many, fewer where they are wide
CALLED = 2**18  # entries of rows in one call of the network
FEWEST_ROWS = 64
PER_DIMENSION = 4  # rows from which on a Gaussian has its covariance
THIN = 1e-3  # its least standard deviation of a column, of the widest one's
NOISE_SIDE, DATA_SIDE = 5.0, 3.0  # log-SNR by which levels go beyond where the data's scales show
SIGMAS, AT_ONE = 4.0, 5.0  # standard errors that are clear: of a mean, and at one level of many
BETTER = 0.003  # share of the noise by which another convention must err less
BEYOND = 2.0  # standard errors below a Gaussian's error that tell a network that has learned something
FLOOR = 0.01  # share of the noise that counts at a level
SLACK = 0.1  # share of its own error by which it may err more at a level
SAME = 1e-3  # share of the noise within which two conventions are one
CAP = 25.0  # of a row's squared error per dimension


@torch.no_grad()
def require_evidence(
    network: AdaptedNetwork,
    rows: State,
    others: Sequence[Convention],
    log_snr_range: tuple[float, float],
    condition: Tensor | None = None,
) -> None:
    """Refuse the network's convention if another one fits its errors clearly better; note what stays undecided.

    Args:
        network: with the stated convention.
        rows: data in the network's own scale, ``n *d``; at most 256 of them are used.
        others: conventions that it could be instead.
        log_snr_range: where the network was trained.
        condition: of the rows, leading dimension ``n`` or 1.

    Raises:
        InputError: naming the convention that fits.
    """
    count = min(len(rows), max(FEWEST_ROWS, min(MOST_ROWS, ENTRIES // rows[0].numel())))
    index = torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()
    reference = yardstick(rows)
    levels = _levels(reference, log_snr_range)
    probe = _Probe(network, rows[index], levels, condition_at(condition, index))
    own = network.convention
    stated, gaussian = probe.read(own, probe.outputs(own)), probe.errors(reference.noise(probe.levels, probe.z))
    harmful = _exceeds((stated - probe.blank(own)).mean(0), 0.0)
    found = []
    for convention, outputs in _readings(probe, others):
        errors = probe.read(convention, outputs)
        if _is_better(errors, stated) and _fits(errors, gaussian, 1.0 if harmful else -BEYOND):
            counts = harmful or _exceeds((probe.blank(convention) - errors).mean(0), 0.0)
            found += [(convention, errors)] if counts else []
    if found:
        _refuse(network, stated, found)
    if not _fits(stated, gaussian, SIGMAS):
        network.notes = (
            f"The self-test is undecided: the network leaves {float(stated.mean()):.2g} of the noise in these rows, a "
            f"Gaussian {float(gaussian.mean()):.2g}, and no other convention fits; look at the rows' scale and the "
            "training.",
        )


class _Probe:
    """Rows under noise at a grid of levels, the same noise with either sign.

    Errors are shares of the noise, means over a row's draws, ``levels n``, float64.
    """

    def __init__(
        self,
        network: AdaptedNetwork,
        rows: State,
        levels: Tensor,
        condition: Tensor | None,
    ) -> None:
        self.network, self.d = network, rows[0].numel()
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

    def outputs(self, convention: Convention) -> State:
        """What the network returns."""
        parts = torch.arange(len(self.z), device=self.z.device).split(max(FEWEST_ROWS, CALLED // self.d))
        return torch.cat(
            [self.network.output(self.levels[i], self.z[i], condition_at(self.condition, i), convention) for i in parts]
        )

    def errors(self, guess: State) -> Tensor:
        """Of noise predictions."""
        error = sum_event((self.eps - guess).double().square()) / self.d
        return torch.nan_to_num(error, nan=CAP, posinf=CAP).clamp_max(CAP).cpu().reshape(self.shape).mean(1)

    def read(self, convention: Convention, outputs: State) -> Tensor:
        """Errors of outputs that are read by a convention."""
        return self.errors(convention.noise(self.levels, self.z, outputs))

    def blank(self, convention: Convention) -> Tensor:
        """Errors of zeros in their place."""
        return self.read(convention, torch.zeros_like(self.z))


def _readings(probe: _Probe, others: Sequence[Convention]) -> Iterator[tuple[Convention, State]]:
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


def _exceeds(gain: Tensor, threshold: float) -> bool:
    """Whether the mean of independent values is above a threshold, and clearly above 0."""
    return bool(gain.mean() > max(threshold, SIGMAS * float(_stderr(gain))))


def _is_better(errors: Tensor, stated: Tensor) -> bool:
    """Better over all levels, clearly so there or at one of them, and nowhere clearly worse."""
    gain = stated - errors
    over_all = gain.mean(0)
    clearly = _exceeds(over_all, BETTER) or bool((gain.mean(1) > AT_ONE * _stderr(gain) + FLOOR).any())
    allowed = FLOOR + SLACK * errors.mean(1) + SIGMAS * _stderr(gain)
    return clearly and bool(over_all.mean() > BETTER) and bool((-gain.mean(1) <= allowed).all())


def _fits(errors: Tensor, gaussian: Tensor, sigmas: float) -> bool:
    """Whether errors are at most so many standard errors above a Gaussian's."""
    excess = (errors - gaussian).mean(0)
    return bool(excess.mean() <= sigmas * _stderr(excess))


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over the last axis."""
    return values.std(-1) / values.shape[-1] ** 0.5


def _refuse(network: AdaptedNetwork, stated: Tensor, found: list[tuple[Convention, Tensor]]) -> NoReturn:
    """With the convention that fits best; of those that do the same to the network, the one that changes least."""
    least = min(float(errors.mean()) for _, errors in found)
    alike = [(c, errors) for c, errors in found if float(errors.mean()) < least + SAME]
    convention, errors = min(alike, key=lambda pair: pair[0].changes)
    raise InputError(
        f"Self-test failed: on these rows the network leaves {float(errors.mean()):.2g} of the noise by another "
        f"convention, {float(stated.mean()):.2g} by the stated one: pass {convention.advice(network.arguments)}"
    )
