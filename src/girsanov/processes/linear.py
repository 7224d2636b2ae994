r"""The linear processes of the literature, each with its exact kernel, log-SNR and inverse.

Variance-preserving ones have :math:`\alpha_t^2 = e^{-B(t)}`, :math:`\sigma_t^2 = 1 - e^{-B(t)}` and differ only
in the clock :math:`B(t) = \int_0^t \beta`; since :math:`\alpha^2 = \mathrm{sigmoid}(l)`, the clock at a log-SNR is
:math:`B = \log(1 + e^{-l})`, which does not cancel at either end.
"""

__all__ = [
    "BrownianMotion",
    "Cosine",
    "HarmonicVP",
    "OrnsteinUhlenbeck",
    "StraightPath",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
]

import math
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from girsanov.processes.base import LinearProcess, is_number
from girsanov.types import InputError

Range = tuple[float, float] | None


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (is_number(value) and math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number; got {value!r}")


class _PreservingProcess(LinearProcess):
    """Variance preserving in a clock B(t): implement ``_clock``, ``_rate`` (its derivative) and ``_clock_inverse``."""

    @abstractmethod
    def _clock(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _rate(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _clock_inverse(self, clock: Tensor) -> Tensor: ...

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        clock = self._clock(t)
        return -0.5 * clock, 0.5 * torch.log(-torch.expm1(-clock))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = self._rate(t)
        return -0.5 * rate, rate

    def _time(self, log_snr: Tensor) -> Tensor:
        return self._clock_inverse(softplus(-log_snr, threshold=50.0))

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr).sqrt()


class _LinearClock(_PreservingProcess):
    """The clock of a rate that grows linearly from beta_min to beta_max on [0, 1]."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_range: Range = None) -> None:
        super().__init__(log_snr_range)
        _positive(beta_min=beta_min, beta_max=beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    def _clock(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _clock_inverse(self, clock: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2.0 * clock / (self.beta_min + (self.beta_min**2 + 2.0 * slope * clock).sqrt())


@final
class VariancePreserving(_LinearClock):
    r"""DDPM's limit: :math:`dX = -\tfrac12 \beta(t) X\, dt + \sqrt{\beta(t)}\, dW`, beta linear in t.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        log_snr_range: see :class:`LinearProcess`.

    Example:
        >>> alpha_t, sigma_t = VariancePreserving().marginal(torch.tensor([0.0, 1.0]))
        >>> alpha_t, sigma_t
        (tensor([1.0000, 0.0066]), tensor([0.0000, 1.0000]))
    """


@final
class SubVariancePreserving(_LinearClock):
    r"""Sub-VP: :math:`\alpha^2 = e^{-B}` as for VP, but :math:`\sigma = 1 - e^{-B}`.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        log_snr_range: see :class:`LinearProcess`.

    Example:
        >>> alpha_t, sigma_t = SubVariancePreserving().marginal(torch.tensor([0.5]))
        >>> torch.allclose(sigma_t, 1 - alpha_t.square())
        True
    """

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        clock = self._clock(t)
        return -0.5 * clock, torch.log(-torch.expm1(-clock))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = self._rate(t)
        return -0.5 * rate, -rate * torch.expm1(-2.0 * self._clock(t))

    def _time(self, log_snr: Tensor) -> Tensor:
        sigma = self._noise(log_snr)
        clock = torch.where(log_snr > 0, -torch.log1p(-sigma), -2.0 * sigma.log() - log_snr)
        return self._clock_inverse(clock)

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        # alpha^2 = sigma^2 e^l without the cancellation of 1 - sigma at low log-SNR
        return self._noise(log_snr) * torch.exp(0.5 * log_snr)

    @staticmethod
    def _noise(log_snr: Tensor) -> Tensor:
        """Solve sigma^2 = (1 - sigma) e^-l for sigma."""
        s = torch.exp(-log_snr)
        return 2.0 / (1.0 + (1.0 + 4.0 / s).sqrt())


@final
class OrnsteinUhlenbeck(_PreservingProcess):
    r"""Stationary process :math:`dX = -\tfrac12 \beta X\, dt + \sqrt{\beta}\, dW`.

    Its prior is the stationary law N(0, I); what the kernel at the horizon still remembers is part of the bound.

    Args:
        beta: relaxation rate.
        log_snr_range: see :class:`LinearProcess`.

    Example:
        >>> alpha_t, sigma_t = OrnsteinUhlenbeck(beta=2.0).marginal(torch.tensor([0.0, 0.5]))
        >>> alpha_t, sigma_t.square()
        (tensor([1.0000, 0.6065]), tensor([0.0000, 0.6321]))
    """

    def __init__(self, beta: float = 10.0, log_snr_range: Range = None) -> None:
        super().__init__(log_snr_range)
        _positive(beta=beta)
        self.beta = beta

    def _clock(self, t: Tensor) -> Tensor:
        return self.beta * t

    def _rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.beta)

    def _clock_inverse(self, clock: Tensor) -> Tensor:
        return clock / self.beta


@final
class Cosine(LinearProcess):
    r"""Cosine schedule: :math:`\alpha_t = \cos(\pi t/2)`, :math:`\sigma_t = \sin(\pi t/2)`.

    Example:
        >>> Cosine().log_snr(torch.tensor([0.5])).abs() < 1e-6
        tensor([True])
    """

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = 0.5 * math.pi * t
        # cos near pi/2 as the sine of the complement, which the horizon's rounding makes exactly 0
        return torch.sin(0.5 * math.pi * (1.0 - t)).log(), torch.sin(angle).log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = math.pi * torch.tan(0.5 * math.pi * t)
        return -0.5 * rate, rate

    def _time(self, log_snr: Tensor) -> Tensor:
        return (2.0 / math.pi) * torch.atan(torch.exp(-0.5 * log_snr))

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr).sqrt()


@final
class HarmonicVP(_PreservingProcess):
    r"""The process of paper 2: :math:`dX = -\frac{X}{2(1-t)} dt + \frac{dB}{\sqrt{1-t}}`, so alpha^2 = 1 - t.

    Its rates diverge at t = 1; likelihoods integrate in log-SNR and never evaluate them there.

    Example:
        >>> HarmonicVP().marginal(torch.tensor([0.25]))
        (tensor([0.8660]), tensor([0.5000]))
    """

    def _clock(self, t: Tensor) -> Tensor:
        return -torch.log1p(-t)

    def _rate(self, t: Tensor) -> Tensor:
        return 1.0 / (1.0 - t)

    def _clock_inverse(self, clock: Tensor) -> Tensor:
        return -torch.expm1(-clock)


@final
class StraightPath(LinearProcess):
    r"""Flow matching's straight path as a process: :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`.

    Example:
        >>> StraightPath().marginal(torch.tensor([0.25]))
        (tensor([0.7500]), tensor([0.2500]))
    """

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log1p(-t), t.log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -1.0 / (1.0 - t), 2.0 * t / (1.0 - t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(0.5 * log_snr)


class _ExplodingProcess(LinearProcess):
    """alpha = 1: the law at the horizon is the data's, blurred, so the prior must be told where the data are."""

    stationary = False

    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


@final
class VarianceExploding(_ExplodingProcess):
    r"""Geometric noise: :math:`\alpha = 1`, :math:`\sigma_t^2 = \sigma_{min}^2 ((\sigma_{max}/\sigma_{min})^{2t} - 1)`.

    Args:
        sigma_min: scale of the smallest noise.
        sigma_max: standard deviation at the horizon, nearly.
        log_snr_range: see :class:`LinearProcess`.

    Example:
        >>> VarianceExploding(sigma_min=0.01, sigma_max=50.0).marginal(torch.tensor([0.0, 0.5]))
        (tensor([1., 1.]), tensor([0.0000, 0.7070]))
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, log_snr_range: Range = None) -> None:
        super().__init__(log_snr_range)
        _positive(sigma_min=sigma_min, sigma_max=sigma_max)
        if sigma_max <= sigma_min:
            raise InputError(f"sigma_max must exceed sigma_min; got {sigma_max} and {sigma_min}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _growth(self) -> float:
        return 2.0 * math.log(self.sigma_max / self.sigma_min)

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), math.log(self.sigma_min) + 0.5 * torch.expm1(self._growth() * t).log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), self.sigma_min**2 * self._growth() * torch.exp(self._growth() * t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / self._growth()


@final
class BrownianMotion(_ExplodingProcess):
    r"""Brownian motion :math:`dX = \sigma\, dW`.

    Args:
        sigma: volatility.
        log_snr_range: see :class:`LinearProcess`.

    Example:
        >>> BrownianMotion(sigma=2.0).marginal(torch.tensor([0.5]))
        (tensor([1.]), tensor([1.4142]))
    """

    def __init__(self, sigma: float = 1.0, log_snr_range: Range = None) -> None:
        super().__init__(log_snr_range)
        _positive(sigma=sigma)
        self.sigma = sigma

    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), math.log(self.sigma) + 0.5 * t.log()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.full_like(t, self.sigma**2)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr) / self.sigma**2
