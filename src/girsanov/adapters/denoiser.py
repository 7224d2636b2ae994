"""``from_denoiser``: networks of EDM, k-diffusion and their like as a pair."""

__all__ = ["from_denoiser"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.assembly import Facts, pair_of
from girsanov.adapters.conventions import SHOWN, Choice, Convention, reading, signs
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import VarianceExploding
from girsanov.processes.base import is_number
from girsanov.types import InputError


@checked
def from_denoiser(
    net: Callable[..., Any],
    *,
    sigma_range: Any,
    order: str | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    r"""A denoiser :math:`D(x + \sigma \varepsilon, \sigma) \approx E[x]` as a pair, on variance-exploding coordinates.

    This is what EDM's ``EDMPrecond``, k-diffusion's ``Denoiser`` and ``VDenoiser`` and azula's denoisers (their mean)
    are: the preconditioned network, which is shown x and told sigma, and not the raw one inside of it.

    Args:
        net: ``(x, sigma)`` or ``(sigma, x)``, in order of the names of its arguments, with scales ``b`` and rows
            ``b *d``; a condition, where one is given, is its third argument.
        sigma_range: smallest and largest standard deviation of the noise in its training, such as (0.002, 80).
        order: ``"x, t"`` or ``"t, x"``, where the names do not tell; t stands for sigma.
        prior: law at the largest noise, x + sigma eps. One of ``prior``, ``reference`` and ``check`` is needed,
            since N(0, sigma^2 I) does not know where the data are.
        reference: Gaussian of the data; default fitted to the rows of ``check``.
        check: 64 rows of data or more, ``n *d``, in the network's scale, for the self-test: strongly recommended.
        condition: of these rows, leading dimension ``n`` or 1.

    Returns:
        The pair, whose process is :class:`girsanov.VarianceExploding`, on the log-SNR range of ``sigma_range``.
        ``pair.score.network.notes`` says what is undecided.

    Raises:
        InputError: for a range that is none, no law at its noise end, arguments in an order that nothing tells, or a
            self-test that another convention wins: the sentence names it.

    Source:
        Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.

    Example:
        >>> from girsanov.likelihoods import ode_log_prob
        >>> denoiser = lambda x, sigma: x / (1 + sigma[:, None] ** 2)  # of data N(0, I)
        >>> pair = from_denoiser(denoiser, sigma_range=(0.002, 80), reference=Gaussian(torch.zeros(2), 1.0))
        >>> ode_log_prob(pair, torch.zeros(1, 2)).value.round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
    """
    low, high = _ends(sigma_range)
    levels = (-2.0 * math.log(high), -2.0 * math.log(low))
    # the process reaches the largest noise at its horizon
    process = VarianceExploding(sigma_min=low, sigma_max=math.hypot(low, high), log_snr_range=levels)
    facts = Facts(prior, reference, check, condition)
    return pair_of(net, process, _conventions(), facts, order=order, time="sigma")


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
