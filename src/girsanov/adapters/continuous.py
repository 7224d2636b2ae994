"""What networks of a process in continuous time could be told and shown."""

__all__ = ["clocks", "coordinates"]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.adapters.conventions import SHOWN, Choice
from girsanov.processes import LinearProcess

POINTS = 33  # levels at which functions of them are compared


def clocks(process: LinearProcess) -> list[Choice]:
    """The process's time first, then its multiples, its reverse, the noise's scale and the log-SNR."""
    time = process.time
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "1000 * t": lambda level: 1000.0 * time(level),
        "999 * t": lambda level: 999.0 * time(level),
        f"{process.horizon:g} - t": lambda level: process.horizon - time(level),
        "sigma_t": lambda level: process.marginal_at(level)[1],
        "log_snr_t": lambda level: level,
    }
    return _apart(process, time, others)


def coordinates(process: LinearProcess) -> list[Choice]:
    """The process's coordinates first, then those that preserve the variance, and those that let it explode."""

    def own(level: Tensor) -> Tensor:
        alpha, sigma = process.marginal_at(level)
        return (alpha.square() + sigma.square()).sqrt()

    others = {"x / (alpha_t**2 + sigma_t**2).sqrt()": SHOWN["preserving"], "x / alpha_t": SHOWN["exploding"]}
    return _apart(process, own, others)


def _apart(
    process: LinearProcess, own: Callable[[Tensor], Tensor], others: dict[str, Callable[[Tensor], Tensor]]
) -> list[Choice]:
    """The stated function, and those that are others."""
    levels = torch.linspace(*process.log_snr_range, POINTS, dtype=torch.float64)
    stated = own(levels)
    different = {text: f for text, f in others.items() if not torch.allclose(f(levels), stated, rtol=1e-6)}
    return [Choice(own), *(Choice(function, text) for text, function in different.items())]
