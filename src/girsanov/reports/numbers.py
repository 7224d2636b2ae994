"""Numbers as people read them: real signs, and as many digits as their error allows."""

__all__ = ["error_of", "fact", "number", "plus_minus", "sensible", "signs"]

import math
import re
from typing import Any


def number(value: float | None, form: str = "") -> str:
    """A number with a real minus sign, a dash where there is none.

    Example:
        >>> number(-1.5, ".2f"), number(None)
        ('−1.50', '–')
    """
    return "–" if value is None else format(value, form).replace("-", "−")


def sensible(value: float | None, error: float | None, sign: str = "") -> str:
    """A number to the second digit of its error; to four digits where no error is known.

    Args:
        value: the number.
        error: its standard error, or half of its interval.
        sign: ``+`` shows the sign of positive numbers too.

    Example:
        >>> sensible(-78.5781, 0.5908), sensible(354_321.0, 81_000.0), sensible(2.5, 0.031, "+"), sensible(1234.5, None)
        ('−78.58', '354,000', '+2.500', '1,234')
    """
    if value is None or not math.isfinite(value):
        return "–"
    known = error is not None and 0.0 < error < math.inf
    places = _places(error, 2) if error is not None and known else _places(value, 4)
    return number(round(value, places), f"{sign},.{max(places, 0)}f")


def _places(size: float, digits: int) -> int:
    """Decimal places that show so many digits of a size; negative ones are zeros before the point."""
    return digits if not size else digits - 1 - math.floor(math.log10(abs(size)))


def plus_minus(value: float, error: float | None) -> str:
    """A number with its error, to two digits of that.

    Example:
        >>> plus_minus(-78.5781, 0.5908), plus_minus(-78.5781, None)
        ('−78.58 ± 0.59', '−78.58')
    """
    return f"{sensible(value, error)} ± {sensible(error, error)}" if error else sensible(value, error)


def error_of(error: float | None) -> str:
    """An error by itself, to two digits; a dash where there is none.

    Example:
        >>> error_of(0.05908), error_of(0.0), error_of(None)
        ('0.059', '0', '–')
    """
    return sensible(error, error) if error else number(error, "g")


def signs(sentence: str) -> str:
    """A sentence with real minus and plus-minus signs before its numbers.

    Example:
        >>> signs("log-SNR from -10.1 to 9.2, off by -0.02 +- 0.04")
        'log-SNR from −10.1 to 9.2, off by −0.02 ± 0.04'
    """
    return re.sub(r"(?<![\w-])-(?=\.?\d)", "−", sentence.replace("+-", "±"))


def fact(value: Any) -> str:
    """A value of a table of facts: numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)
