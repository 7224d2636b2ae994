r"""A linear process between two of its times, as a process of its own that starts from the law at the earlier one.

Given :math:`X_s`, the process at :math:`t = s + r (u - s)/T` has the kernel

.. math::
    X_t \mid X_s = x \sim \mathcal{N}\Big( \frac{\alpha_t}{\alpha_s} x,\;
        \big(\sigma_t^2 - \tfrac{\alpha_t^2}{\alpha_s^2} \sigma_s^2\big) I \Big),

which is again that of a linear process, on the clock r that runs from 0 to T. Several times joined by one Markov
reference fall apart into such sections: the bridge through all of them is the chain of the bridges of the sections.
"""

__all__ = ["Section"]

from typing import final

import torch
from torch import Tensor

from girsanov.processes.base import LinearProcess, bisected, is_number
from girsanov.types import InputError


@final
class Section(LinearProcess):
    """A linear process from one time to a later one, stretched to the process's horizon.

    Args:
        process: the whole.
        begin: time at which the section starts.
        end: time at which it ends, after ``begin``, at most the process's horizon.

    Raises:
        InputError: if the two times are not in order or not of the process.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> Section(BrownianMotion(sigma=2.0), 0.25, 0.75).marginal(torch.tensor([1.0]))
        (tensor([1.]), tensor([1.4142]))
    """

    stationary = False

    def __init__(self, process: LinearProcess, begin: float, end: float) -> None:
        if not (is_number(begin) and is_number(end) and 0.0 <= begin < end <= process.horizon):
            raise InputError(f"A section needs 0 <= begin < end <= {process.horizon:g}; got {begin!r} and {end!r}")
        super().__init__()
        self.process, self.begin, self.end = process, begin, end
        self.horizon = process.horizon
        log_alpha, log_sigma = process._kernel(torch.tensor(begin, dtype=torch.float64))
        self._log_alpha, self._variance = log_alpha, torch.exp(2.0 * (log_sigma - log_alpha))

    @property
    def speed(self) -> float:
        """Time of the process that passes in a unit of the section's own."""
        return (self.end - self.begin) / self.horizon

    def whole_time(self, t: Tensor) -> Tensor:
        """Time of the whole process at a time of the section."""
        return self.begin + self.speed * t

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha, log_sigma = self.process._kernel(self.whole_time(t))
        variance = (torch.exp(2.0 * (log_sigma - log_alpha)) - self._variance).clamp_min(0.0)
        scale = log_alpha - self._log_alpha
        return scale, log_alpha + 0.5 * variance.log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate, squared = self.process._rates(self.whole_time(t))
        return self.speed * rate, self.speed * squared

    def _time(self, log_snr: Tensor) -> Tensor:
        ends = torch.zeros_like(log_snr), torch.full_like(log_snr, self.horizon)
        return bisected(lambda t: self.log_snr(t) <= log_snr, *ends)

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return self._kernel(self._time(log_snr))[0].exp()
