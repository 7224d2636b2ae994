r"""A linear process by its scales alone: any Gaussian path :math:`x_t = \alpha_t x + \sigma_t \varepsilon`.

Rates are the scales' derivatives, :math:`a = \alpha'/\alpha` and :math:`g^2 = 2 \sigma \sigma' - 2 a \sigma^2`. The
time of a log-SNR is interpolated between times that were found by halving, with the derivative of the clock at each, so
that it costs no search when it is asked for.
"""

__all__ = ["GaussianPath"]

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from girsanov.processes.base import FORGOTTEN, LIMIT, LinearProcess, bisected
from girsanov.types import InputError

Scales = Callable[[Tensor], tuple[Any, Any]]  #: times ``b``, float64, -> alpha and sigma

REACH = 20.0  # |log-SNR| up to which times are tabled
KNOTS = 2**14 + 1
LOOKED_AT = 65  # times at which scales are looked at


@final
class GaussianPath(LinearProcess):
    r"""The process with given scales :math:`\alpha_t` and :math:`\sigma_t` on [0, 1], data at t = 0.

    Args:
        scales: times ``b`` (float64 tensors) to ``(alpha_t, sigma_t)``, by operations of PyTorch; their ratio falls.
            At t = 0 there may be some noise, and signal at t = 1: the range of log-SNR ends there.
        log_snr_range: see :class:`LinearProcess`; cut to what the path reaches.

    Raises:
        InputError: for scales that are not positive and finite within (0, 1), or whose ratio does not fall.

    Example:
        >>> path = GaussianPath(lambda t: ((1 - t) ** 2, t))
        >>> path.marginal(torch.tensor([0.5]))
        (tensor([0.2500]), tensor([0.5000]))
        >>> path.time(path.log_snr(torch.tensor([0.2, 0.9])))
        tensor([0.2000, 0.9000])
    """

    def __init__(self, scales: Scales, log_snr_range: tuple[float, float] | None = None) -> None:
        super().__init__(log_snr_range)
        self.scales = scales
        _require_falling(self)
        ends = self.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach().clamp(-REACH, REACH)
        low, high = float(ends[0]), float(ends[1])
        levels = torch.linspace(low, high, KNOTS, dtype=torch.float64)
        with torch.no_grad():
            times = bisected(lambda t: self.log_snr(t) < levels, torch.zeros_like(levels), torch.ones_like(levels))
        alpha, sigma = self.marginal(torch.ones(1, dtype=torch.float64))
        self.stationary = bool(max(float(alpha.square()), abs(1.0 - float(sigma.square()))) <= FORGOTTEN)  # type: ignore[misc]
        self._span, self._times, self._slopes = (low, high), times, self._slope(times)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The scales as tensors of the shape of t."""
        alpha, sigma = self.scales(t)
        parts = [torch.as_tensor(part, dtype=t.dtype, device=t.device) for part in (alpha, sigma)]
        return tuple(part.reshape(t.shape) if part.numel() == t.numel() else part.expand_as(t) for part in parts)  # type: ignore[return-value]

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._at(t)
        return alpha.log(), sigma.log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._at(t)
        d_alpha, d_sigma = (_derivative(lambda time, k=k: self._at(time)[k], t) for k in range(2))
        rate = d_alpha / alpha
        return rate, 2.0 * sigma * d_sigma - 2.0 * rate * sigma.square()

    def _slope(self, t: Tensor) -> Tensor:
        """Derivative of time in the log-SNR; nothing where the clock stands or leaps."""
        return torch.nan_to_num(1.0 / _derivative(self.log_snr, t), posinf=0.0, neginf=0.0)

    def _time(self, log_snr: Tensor) -> Tensor:
        (low, high), step = self._span, (self._span[1] - self._span[0]) / (KNOTS - 1)
        level = log_snr.clamp(low, high)
        left = ((level - low) / step).detach().floor().long().clamp(0, KNOTS - 2)
        u = (level - low) / step - left
        times, slopes = self._times.to(level.device), self._slopes.to(level.device) * step
        rise = times[left + 1] - times[left]
        # cubic through both ends with their derivatives
        bend = slopes[left] - rise, slopes[left + 1] - rise
        return times[left] + u * rise + u * (1.0 - u) * ((1.0 - u) * bend[0] - u * bend[1])

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return self._at(self._time(log_snr))[0]

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log-SNR interval ``(low, high)`` of likelihoods, at most what the path reaches."""
        low, high = self._log_snr_range or (-LIMIT, LIMIT)
        return max(low, self._span[0]), min(high, self._span[1])


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of a function of each time alone."""
    with torch.enable_grad():
        time = t.detach().requires_grad_()
        value = function(time)
        if not value.requires_grad:  # a constant
            return torch.zeros_like(t)
        (derivative,) = torch.autograd.grad(value.sum(), time)
    return derivative


def _require_falling(path: GaussianPath) -> None:
    """Positive, finite scales with a falling ratio."""
    times = torch.linspace(0.0, 1.0, LOOKED_AT, dtype=torch.float64)[1:-1]
    try:
        with torch.no_grad():
            scales = torch.stack(path._at(times))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"scales must take times of shape (b,) to (alpha_t, sigma_t): {reason}") from error
    falling = bool(((scales[0] / scales[1]).diff() < 0).all())
    if not (bool(scales.isfinite().all()) and bool((scales > 0).all()) and falling):
        raise InputError(
            "scales must be positive, finite and with a falling ratio alpha_t / sigma_t from t = 0, the data, to t = 1"
        )
