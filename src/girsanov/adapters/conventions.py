r"""Conventions of networks: what one is told, what it is shown and what it returns, all as functions of the log-SNR.

With variance-preserving :math:`z = \alpha x + \sigma \varepsilon`, :math:`\alpha^2 = \mathrm{sigmoid}(l)`, a network
sees c(l) z and a clock of l, and its output F is read as :math:`\hat\varepsilon = a z + b F`. A convention that differs
from a stated one carries the words by which a person gets it, so that the self-test can say what would fit.
"""

__all__ = ["KINDS", "SHOWN", "Choice", "Convention", "Level", "predictions", "reading", "signs", "size_of"]

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.schedules import signal_and_noise
from girsanov.calculus import expand_as_rows
from girsanov.types import State

Level = Callable[[Tensor], Tensor]  #: log-SNR ``b`` -> a number for each

KINDS = ("noise", "denoised", "v")  #: what a prediction may be of


@dataclass(frozen=True)
class Choice:
    """One way to read a part of a convention, and how a person would say it beside the stated one.

    Attributes:
        function: of log-SNRs ``b``.
        text: an expression in the stated names, empty for the stated one; of an output, with ``%s`` for the network.
        keyword: an argument that says it, where there is one.
    """

    function: Callable[[Tensor], Any]
    text: str = ""
    keyword: str = ""


@dataclass(frozen=True)
class Convention:
    """What a network is told, shown and returns.

    Attributes:
        told: log-SNR ``b`` -> the number beside the input.
        shown: log-SNR ``b`` -> factor from z to the input.
        read: log-SNR ``b`` -> coefficients ``(a, b)`` of the noise prediction ``a z + b F``.
    """

    told: Choice
    shown: Choice
    read: Choice

    def inputs(self, log_snr: Tensor, z: State, *, whole: bool = False) -> tuple[State, Tensor]:
        """What a network is shown ``b *d`` and told ``b`` at variance-preserving z and levels ``b``.

        Args:
            log_snr: levels.
            z: states.
            whole: whether it is told whole numbers only.
        """
        level = log_snr.double()
        told = self.told.function(level)
        # single precision at least: half precision does not resolve times
        told = told.round().long() if whole else told.to(torch.promote_types(z.dtype, torch.float32))
        return expand_as_rows(self.shown.function(level), z) * z, told

    def noise(self, log_snr: Tensor, z: State, output: State) -> State:
        """Noise prediction from an output ``b *d`` at variance-preserving z ``b *d`` and levels ``b``."""
        a, b = self.read.function(log_snr.double())
        return expand_as_rows(a, z) * z + expand_as_rows(b, z) * output

    @property
    def changes(self) -> int:
        """In how many parts it differs from the stated one."""
        return sum(bool(part.text or part.keyword) for part in (self.told, self.shown, self.read))

    def advice(self, arguments: tuple[str, str]) -> str:
        """What to pass for this convention, given the names of the network's two arguments."""
        values = {name: self.shown.text if name == "x" else self.told.text for name in arguments}
        call = f"net({', '.join(values[name] or name for name in arguments)})"
        call = self.read.text % call if self.read.text else call
        changed = self.read.text or any(values.values())
        wrapped = [f"lambda {', '.join(arguments)}: {call}"] if changed else []
        keywords = [part.keyword for part in (self.told, self.shown, self.read) if part.keyword]
        return " and ".join(dict.fromkeys([*keywords, *wrapped]))


#: coordinates of the input -> factor from variance-preserving z
SHOWN: dict[str, Level] = {
    "preserving": torch.ones_like,
    "exploding": lambda level: 1.0 / signal_and_noise(level)[0],
    "straight": lambda level: 1.0 / torch.stack(signal_and_noise(level)).sum(0),
}

#: what a network returns -> (a, b) from alpha, sigma and the factor of its input
RETURNED: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "noise": lambda alpha, sigma, scale: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    "denoised": lambda alpha, sigma, scale: (1.0 / sigma, -alpha / sigma),
    "v": lambda alpha, sigma, scale: (sigma, alpha / scale),
    "flow": lambda alpha, sigma, scale: (1.0 / (alpha + sigma), alpha / (alpha + sigma)),
    "score": lambda alpha, sigma, scale: (torch.zeros_like(alpha), -scale * sigma),
}


def reading(returned: str, shown: Level) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The coefficients of an output.

    Args:
        returned: ``noise``, ``denoised``, ``v`` (alpha eps - sigma x), ``flow`` (eps - x) or ``score``.
        shown: factor of the input, in whose coordinates v and a score are.

    Example:
        >>> reading("denoised", SHOWN["preserving"])(torch.zeros(1, dtype=torch.float64))
        (tensor([1.4142], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    return lambda level: RETURNED[returned](*signal_and_noise(level), shown(level))


def signs(reads: Iterable[Choice]) -> list[Choice]:
    """Outputs with either sign."""

    def turned(read: Choice) -> Choice:
        def opposite(level: Tensor) -> tuple[Tensor, Tensor]:
            a, b = read.function(level)
            return a, -b

        return Choice(opposite, (read.text or "%s").replace("%s", "-%s").replace("- -", "+ "), read.keyword)

    return [choice for read in reads for choice in (read, turned(read))]


def predictions(
    told: Sequence[Choice], shown: Sequence[Choice], predicts: str, keyword: str = 'predicts="%s"'
) -> list[Convention]:
    """Conventions of a network that predicts noise, clean rows or v, the stated one first.

    Args:
        told: what it could be told, the stated one first.
        shown: what it could be shown, likewise.
        predicts: one of :data:`KINDS`.
        keyword: how another one would be stated.
    """

    def reads(coordinates: Choice) -> list[Choice]:
        own, size = shown[0].function, size_of(coordinates)
        others = [Choice(reading(kind, own), keyword=keyword % kind) for kind in KINDS if kind != predicts]
        score = f"-sigma_t / {size} * %s" if size else "-sigma_t * %s"
        found = [Choice(reading(predicts, own)), *others]
        found.append(Choice(reading("score", coordinates.function), score, keyword % "noise"))
        if size:  # v, as the score, of the input that it is shown
            stated = "" if predicts == "v" else keyword % "v"
            found.append(Choice(reading("v", coordinates.function), f"{size} * %s", stated))
        return signs(found)

    return [Convention(a, b, c) for a in told for b in shown for c in reads(b)]


def size_of(shown: Choice) -> str:
    """By what the input of coordinates is smaller, as a person writes it; empty of the stated coordinates.

    Example:
        >>> size_of(Choice(SHOWN["exploding"], "x / alpha_t"))
        'alpha_t'
    """
    return shown.text.removeprefix("x / ")
