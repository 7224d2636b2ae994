r"""What a closed-form density is: a law that stays closed form under :math:`X \mapsto \alpha X + \sigma \varepsilon`.

Every linear process maps data to :math:`\alpha_t X + \sigma_t \varepsilon`, so a density that knows its own
noised version is exact under all of them, at every time: the oracle of the tests, and the Gaussian among
them the reference of every fitted model. Densities know no process; they take scale and noise as numbers.
"""

__all__ = ["Density", "DensityScore"]

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.types import Nats, State, Time

LIMIT, TAIL = 15.0, 9.0  # log-SNR


class Noising(Protocol):
    """What a density needs of a linear process: mean scale and standard deviation at a time."""

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """Return ``alpha_t`` and ``sigma_t``, each of the shape of ``t``."""
        ...


class Density(nn.Module, ABC):
    """A law on rows of shape ``event_shape``, exact under every linear process.

    To implement one: set ``event_shape``, define ``log_prob``, ``sample``, ``diffused`` and
    ``diffused_score``; ``marginal``, ``score`` and ``noise`` follow.
    """

    event_shape: torch.Size

    @abstractmethod
    def log_prob(self, x: State) -> Nats:
        """Log-density of each row in nats, shape ``n``, float64."""

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> State:
        """Draw ``n`` rows, float64, shape ``n *event_shape``; ``None`` means seed 0."""

    @abstractmethod
    def diffused(self, alpha: float | Tensor, sigma: float | Tensor) -> "Density":
        r"""Law of :math:`\alpha X + \sigma \varepsilon` for scalars alpha, sigma."""

    @abstractmethod
    def diffused_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        """Score of :meth:`diffused` at rows ``x``, with one alpha and sigma per row (shape ``b``)."""

    def variance_range(self) -> tuple[float, float]:
        """Smallest and largest variance that the density shows along any direction; (1, 1) where unknown."""
        return 1.0, 1.0

    def marginal(self, process: Noising, t: float | Tensor) -> "Density":
        """Law of the process at time ``t`` when it starts from this density."""
        alpha_t, sigma_t = process.marginal(torch.as_tensor(t, dtype=torch.float64))
        return self.diffused(alpha_t, sigma_t)

    def score(self, process: Noising) -> "DensityScore":
        """The exact score ``(t, x) -> grad log p_t(x)`` under ``process``."""
        return DensityScore(self, process)

    def noise(self, log_snr: Tensor, z: State) -> State:
        r"""Exact noise prediction :math:`E[\varepsilon \mid z]` for variance-preserving ``z`` at ``log_snr``.

        Args:
            log_snr: shape ``b``.
            z: shape ``b *d``: alpha x + sigma eps with alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l).
        """
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        return -expand_as_rows(sigma, z) * self.diffused_score(alpha, sigma, z)


class DensityScore(nn.Module):
    """The exact score of a density under a linear process, at every time, beyond the horizon too.

    ``reference`` is the density's moment-matched Gaussian. ``log_snr_range`` is where likelihoods look: at least
    (-15, 15), and as far as the smallest and largest variance of the density make its denoiser work.
    """

    def __init__(self, density: Density, process: Noising) -> None:
        super().__init__()
        self.density = density
        self.process: Any = process
        self._reference: Density | None = None

    @property
    def reference(self) -> "Density | None":
        """The Gaussian with the density's mean and covariance, where the density knows it."""
        match_moments = getattr(self.density, "moment_match", None)
        if self._reference is None and match_moments is not None:
            self._reference = match_moments()
        return self._reference

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The range beyond which the exact denoiser is the reference's to about e^-9 per dimension."""
        smallest, largest = self.density.variance_range()
        return min(-LIMIT, -TAIL - math.log(largest)), max(LIMIT, TAIL - math.log(smallest))

    def forward(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Evaluate the score at times ``b`` (or one time for all) and rows ``b *d``."""
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        alpha_t, sigma_t = self.process.marginal(times)
        return self.density.diffused_score(alpha_t, sigma_t, x)
