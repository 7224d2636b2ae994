"""What networks in continuous time could be told, shown and return."""

__all__ = ["clocks", "coordinates", "velocities"]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.adapters.conventions import SHOWN, Choice, Level, reading, signs
from girsanov.adapters.paths import Path
from girsanov.processes import LinearProcess

POINTS = 33  # levels at which functions of them are compared


def clocks(path: Path) -> list[Choice]:
    """The path's time first, then its multiples, its reverse, the noise's scale and the log-SNR."""
    process, time = path.process, path.time
    others: dict[str, Level] = {
        "1000 * t": lambda level: 1000.0 * time(level),
        "999 * t": lambda level: 999.0 * time(level),
        f"{process.horizon:g} - t": lambda level: process.horizon - time(level),
        "sigma_t": lambda level: process.marginal_at(level)[1],
        "log_snr_t": lambda level: level,
    }
    return _apart(process, time, others)


def coordinates(process: LinearProcess) -> list[Choice]:
    """The process's coordinates first, then those that preserve the variance, and those that let it explode."""
    others = {"x / (alpha_t**2 + sigma_t**2).sqrt()": SHOWN["preserving"], "x / alpha_t": SHOWN["exploding"]}
    return _apart(process, _own(process), others)


def velocities(path: Path) -> list[Choice]:
    r"""What a network could return that is told a path's time: its velocity first, with either sign.

    In the process's time :math:`\alpha' x + \sigma' \varepsilon = a x_t + \tfrac12 g^2 \varepsilon / \sigma`, with the
    rates a and :math:`g^2`.
    """
    process, sign = path.process, -1.0 if path.data_at else 1.0

    def velocity(level: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = process.marginal_at(level)
        rate, squared = process.rates(process.time(level))
        each = 2.0 * sigma / squared
        return -each * rate * (alpha.square() + sigma.square()).sqrt(), sign * each

    kinds = ("noise", "denoised", "v")
    to = 'it to from_noise_prediction(net, process, predicts="%s")'
    return signs([Choice(velocity), *(Choice(reading(k, _own(process)), keyword=to % k) for k in kinds)])


def _own(process: LinearProcess) -> Level:
    """Factor from variance-preserving z to the process's coordinates."""

    def own(level: Tensor) -> Tensor:
        alpha, sigma = process.marginal_at(level)
        return (alpha.square() + sigma.square()).sqrt()

    return own


def _apart(process: LinearProcess, own: Level, others: dict[str, Callable[[Tensor], Tensor]]) -> list[Choice]:
    """The stated function, and those that are others."""
    levels = torch.linspace(*process.log_snr_range, POINTS, dtype=torch.float64)
    stated = own(levels)
    different = {text: f for text, f in others.items() if not torch.allclose(f(levels), stated, rtol=1e-6)}
    return [Choice(own), *(Choice(function, text) for text, function in different.items())]
