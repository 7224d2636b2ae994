r"""From which law a loss draws its times, for every linear process, through log-SNR.

A law maps uniform positions to levels l, the reciprocals 1/q(l) of its density there, and a mask of the atom at
the data end, so that :math:`\int f\, dl + f(l_e)` is the mean of f(l)/q(l) whatever the law. With
:math:`r = g^2/\sigma^2 = -dl/dt` the ones of the literature are

- :class:`UniformTime`: t uniform, so :math:`1/q = r(t)\, (t_T - t_e)`, of unbounded variance towards the data;
- :class:`DebiasedTime`: density proportional to r, that is uniform in l, so that 1/q is constant; towards the data,
  before the time of ``truncation``, the density in t stays constant (note of paper 1, section 3);
- :class:`girsanov.solvers.LogSNRDensity`, such as :func:`girsanov.objectives.fit_times` returns: proportional to
  the root mean square of what is integrated, the least variance of all.

Positions are independent or low-discrepancy, :math:`(k + u)/B` in random order with one u for the batch.
"""

__all__ = ["DebiasedTime", "TimeLaw", "UniformTime", "independent", "low_discrepancy"]

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from girsanov.processes import LinearProcess
from girsanov.randomness import drawn_rows, source_of
from girsanov.types import InputError

ATOM = 0.05  # share of the draws that a law gives the data end, where nothing else is said


class TimeLaw(Protocol):
    """A law on the log-SNR axis; :class:`girsanov.solvers.LogSNRDensity` is one."""

    @property
    def atom(self) -> float:
        """Mass of the data end; 0 where the residual is not sampled."""
        ...

    def quantile(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, reciprocal densities and atom mask at cumulative ``positions`` in [0, 1), float64."""
        ...


def independent(count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` independent uniform positions, float64."""
    generator = source_of(generator)
    return drawn_rows(lambda n: torch.rand(n, generator=generator, dtype=torch.float64), count, generator)


def low_discrepancy(count: int, generator: torch.Generator | None) -> Tensor:
    """One position in each of ``count`` equal cells with a common offset, in random order, float64.

    Example:
        >>> positions = low_discrepancy(4, torch.Generator().manual_seed(0))
        >>> (4 * positions).floor().sort().values
        tensor([0., 1., 2., 3.], dtype=torch.float64)
    """
    generator = source_of(generator)

    def draw(n: int) -> Tensor:
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        order = torch.randperm(n, generator=generator)
        return ((torch.arange(n, dtype=torch.float64) + offset) / n)[order]

    return drawn_rows(draw, count, generator)


@final
@dataclass(frozen=True)
class UniformTime:
    """Times uniform between the ends of the process's log-SNR range.

    Args:
        process: the forward process.
        atom: share of the draws spent on the residual at the data end; 0 leaves it out.

    Example:
        >>> from girsanov.processes import StraightPath
        >>> levels, weights, at_end = UniformTime(StraightPath(), atom=0.0).quantile(torch.tensor([0.5]))
        >>> abs(float(levels)) < 1e-5, bool(at_end)
        (True, False)
    """

    process: LinearProcess
    atom: float = ATOM

    def quantile(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`TimeLaw`."""
        end, start = _times(self.process, self.process.log_snr_range)
        share, at_end = _without_atom(positions, self.atom)
        times = start - share * (start - end)  # positions count from the noise end, as levels do
        levels = self.process.log_snr(times)
        reciprocal = _rate(self.process, times) * (start - end) / (1.0 - self.atom)
        return _with_atom(self.process, self.atom, levels, reciprocal, at_end)


@final
@dataclass(frozen=True)
class DebiasedTime:
    r"""Times of density proportional to :math:`g^2/\sigma^2`, constant in t before the time of ``truncation``.

    The likelihood-weighted loss then has constant weight on all but the shortest times: unbiased for the bound like
    every law, and of far less variance than with uniform times (note of paper 1, section 3).

    Args:
        process: the forward process; any linear one.
        truncation: log-SNR above which the density in t is constant; default the data end, which truncates nothing.
        atom: share of the draws spent on the residual at the data end; 0 leaves it out.

    Raises:
        InputError: if the truncation lies outside the process's log-SNR range.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> law = DebiasedTime(VariancePreserving(log_snr_range=(-5.0, 5.0)), atom=0.0)
        >>> law.quantile(torch.tensor([0.25], dtype=torch.float64))[:2]
        (tensor([-2.5000], dtype=torch.float64), tensor([10.], dtype=torch.float64))
    """

    process: LinearProcess
    truncation: float | None = None
    atom: float = ATOM

    def __post_init__(self) -> None:
        low, high = self.process.log_snr_range
        if self.truncation is not None and not low < self.truncation <= high:
            raise InputError(f"truncation must lie in the log-SNR range ({low}, {high}]; got {self.truncation}")

    def quantile(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`TimeLaw`."""
        low, high = self.process.log_snr_range
        cut = self.truncation if self.truncation is not None else high
        end, turn = _times(self.process, (cut, high))
        rate = _rate(self.process, turn)
        total = (cut - low) + rate * (turn - end)
        share, at_end = _without_atom(positions, self.atom)
        covered = low + total * share
        times = (turn - (covered - cut) / rate).clamp(end, turn)
        beyond = covered > cut
        levels = torch.where(beyond, self.process.log_snr(times), covered)
        reciprocal = torch.where(beyond, total * _rate(self.process, times) / rate, total) / (1.0 - self.atom)
        return _with_atom(self.process, self.atom, levels, reciprocal, at_end)


def _times(process: LinearProcess, levels: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Times of the higher and of the lower level."""
    low, high = process.time(torch.tensor(levels, dtype=torch.float64))
    return high, low


def _rate(process: LinearProcess, times: Tensor) -> Tensor:
    """Squared diffusion over squared noise, which is the speed of the log-SNR."""
    _, g2 = process.rates(times)
    _, sigma = process.marginal(times)
    return g2 / sigma.square()


def _without_atom(positions: Tensor, atom: float) -> tuple[Tensor, Tensor]:
    """Positions within the continuous part, and the mask of those that fall on the atom."""
    positions = positions.double()
    return (positions / (1.0 - atom)).clamp_max(1.0), positions >= 1.0 - atom


def _with_atom(
    process: LinearProcess, atom: float, levels: Tensor, reciprocal: Tensor, at_end: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if atom == 0.0:
        return levels, reciprocal, torch.zeros_like(at_end)
    return (
        torch.where(at_end, process.log_snr_range[1], levels),
        torch.where(at_end, 1.0 / atom, reciprocal),
        at_end,
    )
