"""Seconds for a whole command, handed on to its phases; what there is no time for shrinks, and says so."""

__all__ = ["Budget"]

import math
import time
from collections.abc import Callable
from typing import TypeVar, final

from girsanov.types import InputError

T = TypeVar("T")
GROWTH = 4  # a size is tried when one that is so many times smaller has been timed
LEAST_GAIN = 1.25  # for less, what was made of fewer is not made again
LEAST_SECONDS = 0.5


@final
class Budget:
    """Time that passes: how much is left of it, and how much can be done in that.

    Args:
        seconds: from ``begun`` on; ``None`` is no limit.
        begun: a reading of ``clock``; default now.
        clock: seconds that never go back.

    Attributes:
        seconds: as given.
        shortened: what was made smaller for want of time, and how small: shared with every part of the budget.
        note: receives a sentence about each of them.

    Raises:
        InputError: if the seconds are not a positive number.

    Example:
        >>> now = [0.0]
        >>> budget = Budget(100.0, clock=lambda: now[0])
        >>> now[0] = 20.0
        >>> budget.left, budget.part(0.5).left
        (80.0, 40.0)
        >>> def make(rows):
        ...     now[0] += rows
        ...     return rows
        >>> budget.part(0.5).most("rows", 1000, make, least=4)
        20
        >>> budget.shortened
        {'rows': '20 of 1,000'}
    """

    def __init__(
        self, seconds: float | None = None, *, begun: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if seconds is not None and not 0.0 < seconds < math.inf:
            raise InputError(f"time_budget must be a positive number of seconds; got {seconds}")
        self.seconds = seconds
        self.shortened: dict[str, str] = {}
        self.note: Callable[[str], None] = lambda _: None
        self._clock = clock
        self._begun = clock() if begun is None else begun

    @property
    def left(self) -> float:
        """Seconds until the end, infinite without a limit, never negative."""
        if self.seconds is None:
            return math.inf
        return max(0.0, self._begun + self.seconds - self._clock())

    def part(self, share: float) -> "Budget":
        """A share of what is left, from now on."""
        found = Budget(clock=self._clock)
        found.seconds = None if self.seconds is None else share * self.left
        found.shortened, found.note = self.shortened, self.note
        return found

    def require(self) -> None:
        """Refuse to begin something.

        Raises:
            InputError: if no time is left.
        """
        if self.left < LEAST_SECONDS:
            raise InputError("no time was left for it: give a larger time budget")

    def most(self, what: str, size: int, make: Callable[[int], T], *, least: int, power: float = 1.0) -> T:
        """``make(n)`` for as many of ``size`` as there is time for, which smaller numbers tell.

        Args:
            what: is counted, for :attr:`shortened`.
            size: the number that is wanted.
            make: is called for growing numbers; the last one is what counts.
            least: the first number.
            power: of the number with which the time of ``make`` grows.
        """
        n = size if self.seconds is None else min(size, least)
        while True:
            begun = self._clock()
            found = make(n)
            cost = max(self._clock() - begun, 1e-9)
            most = min(size, int(n * (self.left / cost) ** (1.0 / power))) if n < size else size
            if most < LEAST_GAIN * n or n == size:
                break
            n = most if most == size else min(most, GROWTH * n)
        if n < size:
            self.shortened[what] = f"{n:,} of {size:,}"
            self.note(f"{what}: {n:,} of {size:,}, for which there is time")
        return found
