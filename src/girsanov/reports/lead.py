"""A paired difference in words that anybody can read, with its interval.

The mean difference of two log-likelihoods is the logarithm of a factor: on geometric average over rows, one model finds
a row so many times likelier than the other. Of images, whose factors nobody can read, it is said in bits per dimension.
"""

__all__ = ["Lead"]

import math
from dataclasses import dataclass

from girsanov.evaluation import Difference
from girsanov.reports.numbers import sensible

VAST = math.log(1e6)  # nats beyond which a factor is no longer spelled out


@dataclass(frozen=True)
class Lead:
    """By how much a model is ahead of another, or behind.

    Attributes:
        name: of the other model.
        gap: the paired difference, positive where this model is ahead.
        kinds: what this model's likelihood is, and what the other's.
        dims: dimensions of an image; ``None`` for rows of other kinds.

    Example:
        >>> lead = Lead("Gaussian", Difference(4.3, 4.0, 4.6, rows=200), ("lower_bound", "exact"))
        >>> lead.size, lead.sure()
        ('at least 74 times likelier', '55 to 99 at 95 %; geometric mean over 200 rows, +4.30 nats per row')
    """

    name: str
    gap: Difference
    kinds: tuple[str, str]
    dims: int | None = None

    @property
    def size(self) -> str:
        """The lead, or how far behind, as a factor or in bits."""
        ahead, nats = self.gap.nats > 0.0, abs(self.gap.nats)
        # beside an exact value a lower bound may be better than it says
        known = ("at least " if ahead else "at most ") if self.kinds == ("lower_bound", "exact") else ""
        if self.dims:
            return f"{known}{self._bits(nats)} bits per dimension {'less' if ahead else 'more'}"
        factor = "more than a million" if self._vast else self._times(nats)
        return f"{'' if self._vast else known}{factor} times {'likelier' if ahead else 'less likely'}"

    def sure(self) -> str:
        """The interval, of how many rows, and of which kinds."""
        nats = f"{self._nats(self.gap.nats)} nats per row"
        rows = f"{self.gap.rows:,} rows" + (
            ", both by lower bounds" if self.kinds == ("lower_bound", "lower_bound") else ""
        )
        low, high = self._ends
        if self.dims:
            return f"{self._bits(low)} to {self._bits(high)} at 95 %; {rows}, {nats}"
        if self._vast:
            return f"{nats}, {self.range()}; geometric mean over {rows}"
        return f"{self._times(low)} to {self._times(high)} at 95 %; geometric mean over {rows}, {nats}"

    def range(self) -> str:
        """The interval in nats."""
        return f"{self._nats(self.gap.low)} to {self._nats(self.gap.high)} at 95 %"

    def rows_needed(self) -> int:
        """How many rows would tell a difference of this size from none."""
        return math.ceil(self.gap.rows * (self._half / max(abs(self.gap.nats), 1e-3 * self._half)) ** 2)

    @property
    def _half(self) -> float:
        return 0.5 * (self.gap.high - self.gap.low)

    @property
    def _ends(self) -> tuple[float, float]:
        low, high = sorted((abs(self.gap.low), abs(self.gap.high)))
        return low, high

    @property
    def _vast(self) -> bool:
        return self._ends[0] > VAST

    def _nats(self, value: float) -> str:
        return sensible(value, self._half, "+")

    def _bits(self, nats: float) -> str:
        scale = (self.dims or 1) * math.log(2.0)
        return sensible(nats / scale, self._half / scale)

    def _times(self, nats: float) -> str:
        """A factor, to two digits of half its interval."""
        low, high = map(math.exp, self._ends)
        return sensible(math.exp(nats), 0.5 * (high - low))
