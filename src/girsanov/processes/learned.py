r"""A learned scalar noise schedule: variance preserving, with a monotone log-SNR between exact end points.

.. math::
    l(t) = l_e - (l_e - l_T)\, \frac{n(t) - n(0)}{n(1) - n(0)}, \qquad
    n(t) = t\, e^{a} + \sum_k e^{b_k}\, \mathrm{sigmoid}(e^{c_k} t + d_k),

with n increasing for all parameters. The continuous bound depends on a schedule through its end points alone, so
that learning it lowers the variance of the bound's estimate, and nothing else (note of paper 1, section 2.9).
"""

__all__ = ["LearnedSchedule"]

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from girsanov.processes.base import LIMIT, LinearProcess, bisected, require_range
from girsanov.types import require_count


@final
class LearnedSchedule(LinearProcess):
    r"""Variance preserving with :math:`\alpha_t^2 = \mathrm{sigmoid}(l(t))` and a learned, strictly decreasing l.

    At t = 0 it stands at the data end of its range, with the noise :math:`\sigma^2 = \mathrm{sigmoid}(-l_e)` that the
    last decoder takes away again. Untrained, l is nearly straight. Train it by
    :func:`girsanov.objectives.fit_schedule` for a given score, or together with the network by
    ``Config(process="learned")``.

    Args:
        log_snr_range: the exact end points ``(l_T, l_e)``, at t = 1 and t = 0.
        units: number of sigmoids.

    Example:
        >>> schedule = LearnedSchedule((-6.0, 8.0))
        >>> schedule.log_snr(torch.tensor([0.0, 1.0])).detach()
        tensor([ 8., -6.])
    """

    def __init__(self, log_snr_range: tuple[float, float] = (-10.0, LIMIT), units: int = 16) -> None:
        require_range(log_snr_range)
        units = require_count("units", units)
        super().__init__(log_snr_range)
        centres = torch.linspace(0.0, 1.0, units, dtype=torch.float64)
        steepness = torch.full((units,), float(units) / 2.0, dtype=torch.float64)
        self.slope = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.heights = nn.Parameter(torch.full((units,), -math.log(4.0 * units), dtype=torch.float64))
        self.steepness = nn.Parameter(steepness.log())
        self.shifts = nn.Parameter(-steepness * centres)

    def _rise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The increasing function n and its derivative."""
        parameters = (self.slope, self.steepness, self.heights, self.shifts)
        slope, scale, weight, shift = (parameter.to(t) for parameter in parameters)
        scale, weight, slope = scale.exp(), weight.exp(), slope.exp()
        gate = torch.sigmoid(scale * t[..., None] + shift)
        value = slope * t + (weight * gate).sum(-1)
        return value, slope + (weight * scale * gate * (1.0 - gate)).sum(-1)

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The log-SNR and its derivative in time; at the ends the range to the last bit."""
        low, high = self.log_snr_range
        (first, last), _ = self._rise(t.new_tensor([0.0, self.horizon]))
        value, slope = self._rise(t)
        share = (value - first) / (last - first)
        level = torch.where(share < 0.5, high - (high - low) * share, low + (high - low) * (1.0 - share))
        return level, -(high - low) * slope / (last - first)

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        level, _ = self._level(t)
        return 0.5 * logsigmoid(level), 0.5 * logsigmoid(-level)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        level, slope = self._level(t)
        g2 = -torch.sigmoid(-level) * slope
        return -0.5 * g2, g2

    def _time(self, log_snr: Tensor) -> Tensor:
        ends = torch.zeros_like(log_snr), torch.full_like(log_snr, self.horizon)
        with torch.no_grad():
            found = bisected(lambda t: self._level(t)[0] < log_snr, *ends)
        # one Newton step carries the gradient of the inverse, in the level and in the parameters
        level, slope = self._level(found)
        return (found - (level - log_snr) / slope.detach()).clamp(0.0, self.horizon)

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr).sqrt()
