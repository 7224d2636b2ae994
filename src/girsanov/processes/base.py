r"""Forward processes :math:`dX = f(t, X)\, dt + g(t, X)\, dW` from data at t = 0 to noise at the horizon.

A linear process has :math:`f = a(t) x`, :math:`g = g(t)` and the Gaussian kernel
:math:`X_t \mid x \sim \mathcal{N}(\alpha_t x, \sigma_t^2 I)`, with :math:`a = \alpha'/\alpha` and
:math:`g^2 = (\sigma^2)' - 2 a \sigma^2`. Its clock is the log-SNR :math:`l = \log(\alpha^2/\sigma^2)`, which
decreases in t and obeys :math:`g^2/\sigma^2\, dt = -dl` for every schedule. Likelihoods integrate in l over a
finite range, so that a drift which diverges at an end is never evaluated there. All schedule arithmetic is
float64 inside, in forms that do not cancel at either end; results take the dtype of the argument.
"""

__all__ = ["LinearProcess", "Process", "bisected", "is_number", "require_range"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.densities import Density, StandardNormal
from girsanov.types import InputError, State, Time

LIMIT = 15.0  # |log-SNR| beyond which float32 noise and signal no longer see each other
FORGOTTEN = 2e-3  # share of the data in a state that N(0, I) may stand for
MISSTATED, MISSTATED_PER_DIMENSION = 0.02, 1e-4  # nats that N(0, I) may be off about a row of a known law
ROUNDING = 1e-9  #: log-SNRs that are closer than this are the same
BISECTIONS = 60  # to the last bit of a float64


def is_number(value: Any) -> bool:
    """Whether a value is one real number; truth values are none."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype is not torch.bool and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def require_range(log_snr_range: Any) -> None:
    """Refuse what are not two numbers in order.

    Raises:
        InputError: for anything else.
    """
    pair = tuple(log_snr_range) if isinstance(log_snr_range, Sequence | np.ndarray | Tensor) else ()
    if len(pair) != 2 or not all(is_number(end) and math.isfinite(end) for end in pair) or not pair[0] < pair[1]:
        raise InputError(
            f"log_snr_range must be (low, high), two finite numbers with low < high; got {log_snr_range!r}"
        )


def bisected(noisier: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The times from which on ``noisier`` is true, between ``low`` and ``high``, by halving."""
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        late = noisier(middle)
        low, high = torch.where(late, low, middle), torch.where(late, middle, high)
    return 0.5 * (low + high)


def _misstated(law: Density) -> float:
    """Nats by which N(0, I) misstates a row of a law on average, in absolute terms, less what each dimension may be."""
    match = getattr(law, "moment_match", None)
    if match is None:
        return 0.0
    matched = match()
    spectrum, mean = matched.spectrum().double(), matched.mean.double()
    # twice the divergence is, where it is small, the variance of the log-ratio
    twice = spectrum.sum() - spectrum.log().sum() - spectrum.numel() + mean.square().sum()
    return float(twice.clamp_min(0.0).sqrt()) - MISSTATED_PER_DIMENSION * spectrum.numel()


class Process(nn.Module, ABC):
    """A forward SDE on [0, horizon].

    To implement one, define ``drift`` and ``diffusion``.
    """

    horizon: float = 1.0

    @abstractmethod
    def drift(self, t: Time, x: State) -> State:
        """Drift f(t, x), shape ``b *d``."""

    @abstractmethod
    def diffusion(self, t: Time, x: State) -> Tensor:
        """Diffusion coefficient g: one scalar per row ``b``, a diagonal ``b *d`` or a matrix ``b d d``."""


class LinearProcess(Process):
    r"""A process with :math:`f = a(t) x`, :math:`g = g(t)` and an exact Gaussian kernel.

    To implement one, define in float64: ``_kernel(t) -> (log alpha, log sigma)``, ``_rates(t) -> (a, g^2)``,
    ``_time(log_snr) -> t`` and ``_alpha_at(log_snr) -> alpha``; set ``stationary`` to false where the process does
    not tend to N(0, I).

    Args:
        log_snr_range: the interval on which likelihoods integrate, high end first being illegal: ``(low, high)``.
            Default: from the horizon's log-SNR, at least -15, up to 15.

    Attributes:
        declares_range: whether the range was given; a default range does not end where a score is known farther.
        stationary: whether the process tends to N(0, I).

    Raises:
        InputError: if the range is empty or upside down.
    """

    stationary: ClassVar[bool] = True

    def __init__(self, log_snr_range: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.declares_range = log_snr_range is not None
        if log_snr_range is not None:
            require_range(log_snr_range)
        self._log_snr_range = log_snr_range

    @abstractmethod
    def _kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log alpha_t and log sigma_t."""

    @abstractmethod
    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift rate a(t) and squared diffusion g(t)^2."""

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor:
        """Time at which the log-SNR is reached."""

    @abstractmethod
    def _alpha_at(self, log_snr: Tensor) -> Tensor:
        """Mean scale alpha at a log-SNR."""

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log-SNR interval ``(low, high)`` of likelihoods."""
        if self._log_snr_range is not None:
            return self._log_snr_range
        return max(self.end_log_snr, -LIMIT), LIMIT

    @property
    def end_log_snr(self) -> float:
        """The log-SNR at the horizon; ``-inf`` where nothing of the data is left."""
        return float(self.log_snr(torch.tensor(self.horizon, dtype=torch.float64)).detach())

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """Mean scale ``alpha_t`` and standard deviation ``sigma_t`` of X_t given x, each of the shape of ``t``."""
        log_alpha, log_sigma = self._kernel(t.double())
        return log_alpha.exp().to(t.dtype), log_sigma.exp().to(t.dtype)

    def log_snr(self, t: Time) -> Tensor:
        """Log signal-to-noise ratio log(alpha_t^2 / sigma_t^2), of the shape of ``t``; +inf at t = 0."""
        log_alpha, log_sigma = self._kernel(t.double())
        return (2.0 * (log_alpha - log_sigma)).to(t.dtype)

    def time(self, log_snr: Tensor) -> Time:
        """Inverse of :meth:`log_snr`."""
        return self._time(log_snr.double()).to(log_snr.dtype)

    def marginal_at(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` at a log-SNR, without passing through time."""
        level = log_snr.double()
        alpha = self._alpha_at(level)
        return alpha.to(log_snr.dtype), (alpha * torch.exp(-0.5 * level)).to(log_snr.dtype)

    def rates(self, t: Time) -> tuple[Tensor, Tensor]:
        """Drift rate ``a(t)`` and squared diffusion ``g(t)^2``, each of the shape of ``t``."""
        rate, squared = self._rates(t.double())
        return rate.to(t.dtype), squared.to(t.dtype)

    def drift(self, t: Time, x: State) -> State:
        rate, _ = self._rates(t.double())
        return expand_as_rows(rate.expand(len(x)), x) * x

    def diffusion(self, t: Time, x: State) -> Tensor:
        _, squared = self._rates(t.double())
        return squared.sqrt().expand(len(x)).to(x.dtype)

    def prior(self, reference: Density | None = None, *, log_snr: float | None = None) -> Density:
        r"""The law that a generative model starts from at a log-SNR.

        At the horizon of a process that tends to N(0, I), that law, unless ``reference`` says that the data are so far
        off or so wide that it misstates a row by more than 0.02 nats and 0.0001 per dimension. Else the law of
        ``reference`` there; without one N(0, I), where the kernel forgets the data: where :math:`\alpha^2` and
        :math:`|1 - \sigma^2|` are at most 0.002, so that N(0, I) misstates data of unit scale by at most 0.001 nats per
        dimension.

        Args:
            reference: a law of the data, such as a Gaussian fitted to them.
            log_snr: where the model starts; default the low end of :attr:`log_snr_range`.

        Raises:
            InputError: without a reference where the kernel remembers the data.
        """
        level = self.log_snr_range[0] if log_snr is None else log_snr
        alpha, sigma = self.marginal_at(torch.tensor(level, dtype=torch.float64))
        at_horizon = self.stationary and level <= max(self.end_log_snr, -LIMIT) + ROUNDING
        if reference is not None:
            law = reference.diffused(alpha, sigma)
            return StandardNormal() if at_horizon and _misstated(law) <= MISSTATED else law
        if at_horizon:
            return StandardNormal()
        if max(float(alpha.square()), abs(1.0 - float(sigma.square()))) <= FORGOTTEN:
            return StandardNormal()
        raise InputError(
            f"{type(self).__name__} remembers the data at log-SNR {level:.3g}, where this range ends: pass prior=, "
            "or a reference fitted to the data"
        )
