"""``from_denoiser``: networks of EDM, k-diffusion and their like as a pair."""

__all__ = ["from_denoiser"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.assembly import Facts, pair_around
from girsanov.adapters.continuous import clocks, coordinates
from girsanov.adapters.conventions import SHOWN, Choice, Convention, predictions, reading, signs
from girsanov.adapters.packages import known
from girsanov.adapters.paths import as_path
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import VarianceExploding
from girsanov.processes.base import is_number
from girsanov.types import InputError


@checked
def from_denoiser(
    net: Callable[..., Any],
    process: Any = None,
    *,
    sigma_range: Any = None,
    order: str | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    r"""A denoiser :math:`D(x + \sigma \varepsilon, \sigma) \approx E[x]` as a pair, on variance-exploding coordinates.

    This is what EDM's ``EDMPrecond`` and k-diffusion's ``Denoiser`` and ``VDenoiser`` are: the preconditioned network,
    which is shown x and told sigma, and not the raw one inside of it. Objects that know their noise need nothing more:
    a denoiser of azula, which is shown :math:`\alpha_t x + \sigma_t \varepsilon` and told t by its own schedule,
    k-diffusion's wrappers of discrete steps, lucidrains' ``ElucidatedDiffusion``.

    Args:
        net: ``(x, sigma)`` or ``(sigma, x)``, in order of the names of its arguments, with scales ``b`` and rows
            ``b *d``; a condition, where one is given, is its third argument.
        process: of a denoiser that is told the time t, 0 at the data, and shown the process's coordinates, or a path
            of another package: see :func:`girsanov.from_velocity`. A condition of azula's is passed on as
            ``from_denoiser(lambda x, t, c: D(x, t, label=c).mean, D.schedule)``.
        sigma_range: smallest and largest standard deviation of the noise in its training, such as (0.002, 80).
        order: ``"x, t"`` or ``"t, x"``, where the names do not tell; t stands for sigma.
        prior: law at the largest noise, x + sigma eps. One of ``prior``, ``reference`` and ``check`` is needed,
            since N(0, sigma^2 I) does not know where the data are.
        reference: Gaussian of the data; default fitted to the rows of ``check``.
        check: 64 rows of data or more, ``n *d``, in the network's scale, for the self-test: strongly recommended.
        condition: of these rows, leading dimension ``n`` or 1.

    Returns:
        The pair, whose process is :class:`girsanov.VarianceExploding`, on the log-SNR range of ``sigma_range``, or the
        stated one.
        ``pair.score.network.notes`` says what is undecided.

    Raises:
        InputError: for a range that is none, no range or two, a guided network, no law at the noise end, arguments in
            an order that nothing tells, or a self-test that another convention wins: the sentence names it.

    Source:
        Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.

    Example:
        >>> from girsanov.likelihoods import ode_log_prob
        >>> denoiser = lambda x, sigma: x / (1 + sigma[:, None] ** 2)  # of data N(0, I)
        >>> pair = from_denoiser(denoiser, sigma_range=(0.002, 80), reference=Gaussian(torch.zeros(2), 1.0))
        >>> ode_log_prob(pair, torch.zeros(1, 2)).value.round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
    """
    given = known(net, "from_denoiser")
    if process is None and sigma_range is None:
        process, sigma_range = given.process, given.sigma_range
    if (process is None) == (sigma_range is None):
        raise InputError(
            "Give one range of noise: sigma_range=(low, high) of x + sigma eps, or a process; got "
            f"{'none' if process is None else 'both'}"
        )
    facts, order = Facts(prior, reference, check, condition, given.notes), given.order or order
    if process is not None:
        path = as_path(process)
        conventions = predictions(clocks(path), coordinates(path.process), "denoised", OTHERWISE)
        return pair_around(given.net, path.process, conventions, facts, order=order)
    low, high = _ends(sigma_range)
    levels = (-2.0 * math.log(high), -2.0 * math.log(low))
    # the process reaches the largest noise at its horizon
    process = VarianceExploding(sigma_min=low, sigma_max=math.hypot(low, high), log_snr_range=levels)
    return pair_around(given.net, process, _conventions(), facts, order=order, time="sigma")


OTHERWISE = 'it to from_noise_prediction(net, process, predicts="%s")'


def _ends(sigma_range: Any) -> tuple[float, float]:
    ends = tuple(sigma_range) if isinstance(sigma_range, Sequence | Tensor) else ()
    if len(ends) == 2 and all(is_number(end) and math.isfinite(end) and end > 0 for end in ends) and ends[0] < ends[1]:
        return float(ends[0]), float(ends[1])
    raise InputError(
        "sigma_range must be (low, high), two positive numbers with low < high, the noise of training; got "
        f"{sigma_range!r:.80}"
    )


def _sigma(level: Tensor) -> Tensor:
    return torch.exp(-0.5 * level)


def _conventions() -> list[Convention]:
    """The stated one, and what a network could be told, shown and return instead."""
    told = [
        Choice(_sigma),
        Choice(lambda level: -level / 8.0, "sigma.log() / 4"),
        Choice(lambda level: -level / 2.0, "sigma.log()"),
        Choice(lambda level: level, "-2 * sigma.log()"),
        Choice(lambda level: torch.exp(-level), "sigma**2"),
        Choice(lambda level: torch.sigmoid(-0.5 * level), "sigma / (1 + sigma)"),
    ]
    shown = [
        Choice(SHOWN["exploding"]),
        Choice(SHOWN["preserving"], "x / (1 + sigma**2).sqrt()"),
        Choice(SHOWN["straight"], "x / (1 + sigma)"),
    ]
    return [Convention(a, b, c) for a in told for b, size in zip(shown, SIZES, strict=True) for c in _reads(b, size)]


#: by what the coordinates of the input are smaller than those of x + sigma eps
SIZES = ("1", "(1 + sigma**2).sqrt()", "(1 + sigma)")


def _reads(shown: Choice, size: str) -> list[Choice]:
    """What a network could return."""
    texts = {
        "denoised": "",
        "noise": "x - sigma * %s",
        "score": f"x + sigma**2 / {size} * %s",
        "v": f"(x - sigma * {size} * %s) / (1 + sigma**2)",
        "flow": "(x - sigma * %s) / (1 + sigma)",
    }
    reads = [Choice(reading(name, shown.function), text) for name, text in texts.items()]
    return signs([*reads, Choice(_denoised_over_sigma, "sigma * %s")])


def _denoised_over_sigma(level: Tensor) -> tuple[Tensor, Tensor]:
    """Of a network that returns the denoised rows in units of sigma."""
    a, b = reading("denoised", SHOWN["exploding"])(level)
    return a, b * _sigma(level)
