r"""What a diffusers scheduler says about its network: the log-SNR of every timestep, and the scale of the input.

Samplers, their grids and their ``shift`` only choose where a network is evaluated. What a likelihood needs is the
map between log-SNR :math:`l` and timestep, and the scale c of the network's input :math:`c z` with z variance
preserving (:math:`\alpha^2 = \mathrm{sigmoid}(l)`, :math:`\sigma^2 = 1 - \alpha^2`):

======  ===========================================  ===========================================  ===============
family  timestep                                     input scale c                                log-SNR
======  ===========================================  ===========================================  ===============
table   interpolated in :math:`l_k`, index k         1                                            of a table
flow    N r, :math:`r = \sigma / (\alpha + \sigma)`  :math:`1 / (\alpha + \sigma)`                2 log((1-r)/r)
EDM     :math:`\log(s) / 4`, s = sigma / alpha       :math:`(\sigma^2 + s_d^2 \alpha^2)^{-1/2}`   -2 log s
VE      s                                            :math:`1 / \alpha`                           -2 log s
======  ===========================================  ===========================================  ===============

The table :math:`l_k = \log(\bar\alpha_k / (1 - \bar\alpha_k))` is recomputed in float64 from the scheduler's settings,
since single precision loses :math:`1 - \bar\alpha` at the data end. A step without any signal (zero terminal SNR) has
no log-SNR: the range ends at the step before. Nothing of a scheduler's state is used or changed.
"""

__all__ = [
    "BETAS",
    "EDMSchedule",
    "ExplodingSchedule",
    "FlowSchedule",
    "Schedule",
    "TableSchedule",
    "alpha_bar_table",
    "signal_and_noise",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from girsanov.types import InputError

AGREEMENT = 0.05  # log-SNR by which single precision may differ from the table in float64


def signal_and_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Variance-preserving alpha and sigma at log-SNR ``b``, float64."""
    level = log_snr.double()
    return torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()


class Schedule(ABC):
    """The clock of a pretrained network.

    To implement one, set ``log_snr_range`` and define ``timestep``; override ``input_scale`` where the network's
    input is not variance preserving.
    """

    log_snr_range: tuple[float, float]

    @abstractmethod
    def timestep(self, log_snr: Tensor) -> Tensor:
        """What the network is told at log-SNR ``b``, float64, usually fractional."""

    def input_scale(self, log_snr: Tensor) -> Tensor:
        """Factor from variance-preserving z to the network's input, shape ``b``, float64."""
        return torch.ones_like(log_snr, dtype=torch.float64)


@final
class TableSchedule(Schedule):
    """Interpolates a table of log-SNR, one value per training timestep 0, 1, ...

    Args:
        log_snr: strictly decreasing, shape ``k``, k at least 2.

    Raises:
        InputError: if the table is not strictly decreasing and finite.

    Example:
        >>> TableSchedule(torch.tensor([8.0, 4.0, -8.0])).timestep(torch.tensor([6.0, -2.0, 99.0]))
        tensor([0.5000, 1.5000, 0.0000], dtype=torch.float64)
    """

    def __init__(self, log_snr: Tensor) -> None:
        table = log_snr.double()
        if len(table) < 2 or not bool(table.isfinite().all()) or not bool((table.diff() < 0).all()):
            raise InputError("The scheduler's signal-to-noise ratio must fall from step to step: check its betas")
        self.rising = table.flip(0)
        self.log_snr_range = (float(table[-1]), float(table[0]))

    def timestep(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        table = self.rising.to(log_snr.device)
        level = log_snr.double().clamp(*self.log_snr_range)
        right = torch.searchsorted(table, level.contiguous()).clamp(1, len(table) - 1)
        low, high = table[right - 1], table[right]
        return (len(table) - right) - (level - low) / (high - low)


@final
class FlowSchedule(Schedule):
    """Straight path with timestep ``steps * r``; the range is that of the steps 1 and ``steps - 1``.

    Args:
        steps: number of training timesteps.

    Example:
        >>> FlowSchedule(1000).timestep(torch.tensor([0.0]))
        tensor([500.], dtype=torch.float64)
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        limit = 2.0 * math.log(steps - 1.0)
        self.log_snr_range = (-limit, limit)

    def timestep(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return self.steps * torch.sigmoid(-0.5 * log_snr.double())

    def input_scale(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        alpha, sigma = signal_and_noise(log_snr)
        return 1.0 / (alpha + sigma)


@final
class EDMSchedule(Schedule):
    """EDM's preconditioning: the network is told a quarter of log sigma and sees an input of unit variance.

    Args:
        sigma_min: smallest noise scale.
        sigma_max: largest noise scale.
        sigma_data: standard deviation that the preconditioning assumes of the data.

    Example:
        >>> EDMSchedule(0.002, 80.0, 0.5).timestep(torch.tensor([0.0, -8.0]))
        tensor([-0., 1.], dtype=torch.float64)
    """

    def __init__(self, sigma_min: float, sigma_max: float, sigma_data: float) -> None:
        self.sigma_data = sigma_data
        self.log_snr_range = (-2.0 * math.log(sigma_max), -2.0 * math.log(sigma_min))

    def timestep(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return -log_snr.double() / 8.0

    def input_scale(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        alpha, sigma = signal_and_noise(log_snr)
        return 1.0 / (sigma.square() + (self.sigma_data * alpha).square()).sqrt()


@final
class ExplodingSchedule(Schedule):
    """NCSN++: input x + s eps, and the timestep is s itself.

    Args:
        sigma_min: smallest noise scale.
        sigma_max: largest noise scale.

    Example:
        >>> ExplodingSchedule(0.01, 1348.0).timestep(torch.tensor([0.0]))
        tensor([1.], dtype=torch.float64)
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.log_snr_range = (-2.0 * math.log(sigma_max), -2.0 * math.log(sigma_min))

    def timestep(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return torch.exp(-0.5 * log_snr.double())

    def input_scale(self, log_snr: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return 1.0 / signal_and_noise(log_snr)[0]


def alpha_bar_table(scheduler: Any) -> Tensor:
    """The products alpha-bar of a DDPM-like scheduler in float64, shape ``k``, all positive.

    They are recomputed from its settings, or read from it where its own table is another one; steps without signal
    are left out.

    Args:
        scheduler: has ``config`` and ``alphas_cumprod``.
    """
    own = scheduler.alphas_cumprod.detach().double().cpu()
    exact = _from_settings(scheduler.config, len(own))
    table = own if exact is None or not _agree(exact, own) else exact
    if scheduler.config.get("rescale_betas_zero_snr"):
        table = table[:-1]  # no signal: 0, or a placeholder that some schedulers put there
    return table


def _from_settings(config: Mapping[str, Any], steps: int) -> Tensor | None:
    """Alpha-bar by a scheduler's settings; ``None`` where they name no schedule that is known here."""
    if config.get("trained_betas") is not None:
        betas: Tensor | None = torch.as_tensor(config["trained_betas"], dtype=torch.float64)
    else:
        make = BETAS.get(config.get("beta_schedule", "linear"))
        betas = None if make is None else make(steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))
    if betas is None:
        return None
    table = torch.cumprod(1.0 - betas, 0)
    shift = config.get("snr_shift_scale")
    if shift is not None:
        table = table / (shift + (1.0 - shift) * table)
    return _without_terminal_signal(table) if config.get("rescale_betas_zero_snr") else table


def _without_terminal_signal(table: Tensor) -> Tensor:
    """Shift and scale the roots so that the last is 0 and the first stays (Lin et al. 2024, arXiv 2305.08891)."""
    roots = table.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()


def _agree(exact: Tensor, own: Tensor) -> bool:
    """Whether two tables are the same schedule, the last step aside, which may be a placeholder."""
    if exact.shape != own.shape:
        return False
    gap = torch.logit(exact[:-1]) - torch.logit(own[:-1])
    return bool((gap.abs() < AGREEMENT).all())


def _scaled_linear(steps: int, start: float, end: float) -> Tensor:
    return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64).square()


def _sigmoid(steps: int, start: float, end: float) -> Tensor:
    return torch.sigmoid(torch.linspace(-6.0, 6.0, steps, dtype=torch.float64)) * (end - start) + start


def _cosine(steps: int, start: float, end: float) -> Tensor:
    del start, end
    grid = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    level = torch.cos((grid + 0.008) / 1.008 * math.pi / 2.0).square()
    return (1.0 - level[1:] / level[:-1]).clamp_max(0.999)


def _laplace(steps: int, start: float, end: float) -> Tensor:
    """Log-SNR spread like a Laplace variable, with the root that diffusers takes of alpha-bar (Hang et al. 2024)."""
    del start, end
    centred = 0.5 - torch.arange(steps + 1, dtype=torch.float64) / steps
    level = -0.5 * centred.sign() * torch.log(1.0 - 2.0 * centred.abs() + 1e-6)
    alpha_bar = torch.sigmoid(level).sqrt()
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


#: name of a beta schedule -> betas in float64 from (steps, beta_start, beta_end)
BETAS: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": lambda steps, start, end: torch.linspace(start, end, steps, dtype=torch.float64),
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _cosine,
    "laplace": _laplace,
    "sigmoid": _sigmoid,
}
