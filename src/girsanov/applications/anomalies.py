r"""Odd rows among many: conformal p-values, the rule of Benjamini and Hochberg, and the columns that make each row odd.

Of the rows that are flagged at a false discovery rate q, a share of q at most is like the others, in the mean: the rule
is the one of Benjamini and Hochberg (1995), and it keeps its promise although all p-values share their calibration rows
(Bates, Candes, Lei, Romano and Sesia, Testing for outliers with conformal p-values, Annals of Statistics 51, 2023).

With n calibration rows no p-value is below :math:`1 / (n + 1)`. Of m rows, k odd ones are flagged only if
:math:`1 / (n + 1) \le k q / m`: one alone asks for :math:`m / q - 1` calibration rows.

The columns of an odd row are found by trial. In some columns its values are replaced, jointly, by those of a known row
that is near in the others; of the nearest ones the one counts that makes it the most usual. First all columns are
replaced; then they get their own values back one by one, those first whose replacement alone helps least, as long as
the row stays usual. What cannot be given back makes the row odd: one column, or several that only together would do.
"""

__all__ = ["Anomalies", "Change", "find_anomalies", "judge", "odd_columns", "require_reach"]

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast, final

import torch
from torch import Tensor

from girsanov.applications.novelty import Fitted, Novelty
from girsanov.datasets import Data, Schema
from girsanov.display import Shown
from girsanov.types import InputError

NEAREST = 32  # known rows whose values are tried
FAR = 3.0  # spreads; a column that is further off, and may be odd itself, does not decide which rows are near
ROUNDING = 1e-9  # relative, of quotients that are equal on paper


@final
@dataclass(frozen=True, repr=False)
class Anomalies(Shown):
    """What was found of rows.

    Attributes:
        score: novelty, larger is more novel, shape ``n``.
        pvalue: conformal, shape ``n``.
        qvalue: the least false discovery rate at which a row is flagged, shape ``n``.
        odd: whether it is at the one that was asked for, shape ``n``.
    """

    score: Tensor
    pvalue: Tensor
    qvalue: Tensor
    odd: Tensor


@final
@dataclass(frozen=True)
class Change:
    """A column that makes a row odd.

    Attributes:
        column: its name.
        value: what the row has there.
        usual: what would make it usual, as its other columns are.
    """

    column: str
    value: float | str
    usual: float | str


def find_anomalies(novelty: Novelty, x: Any, *, fdr: float = 0.1, together: int = 1) -> Anomalies:
    """Flag odd rows, so that of those flagged a share of ``fdr`` at most is like the others, in the mean.

    Args:
        novelty: calibrated on rows that neither training nor selection saw.
        x: rows in data units.
        fdr: the false discovery rate, between 0 and 1.
        together: so many odd rows must be found if they are extreme; fewer may go unseen. More than one allows for
            fewer calibration rows.

    Raises:
        InputError: where calibration rows are too few for that.

    Example:
        >>> import girsanov as gv
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> model = gv.fit(x[:100], config=gv.Config(steps=2))
        >>> novelty = Novelty(samples=16).fit(model, x[100:])
        >>> find_anomalies(novelty, torch.tensor([[0.0, 0.5], [9.0, -9.0]])).odd
        tensor([False,  True])
    """
    rows = novelty.model.encode(x)
    require_reach(novelty.calibration_rows, len(rows), fdr, together)
    return judge(novelty, novelty.score(x), fdr)


def judge(novelty: Novelty, score: Tensor, fdr: float) -> Anomalies:
    """What :func:`find_anomalies` finds of rows whose scores are known, shape ``n``."""
    pvalue = novelty.pvalue_of(score).double().cpu()
    ordered, order = pvalue.sort()
    ranked = ordered * len(pvalue) / torch.arange(1, len(pvalue) + 1)
    qvalue = torch.empty_like(pvalue)
    qvalue[order] = ranked.flip(0).cummin(0).values.flip(0) if len(pvalue) else ranked
    return Anomalies(score.cpu(), pvalue, qvalue, qvalue <= fdr * (1.0 + ROUNDING))


def require_reach(calibration: int, rows: int, fdr: float, together: int = 1) -> None:
    """Refuse calibration rows that are too few for the level.

    Args:
        calibration: their number.
        rows: how many are judged.
        fdr: the false discovery rate.
        together: how many odd rows must be found.

    Raises:
        InputError: saying how many are needed, or for a rate that is none.

    Example:
        >>> require_reach(99, 10, 0.1)
        >>> require_reach(98, 10, 0.1)
        Traceback (most recent call last):
        girsanov.types.InputError: At a false discovery rate of 0.1, to find one odd row among 10 takes 99...
    """
    if not 0.0 < fdr < 1.0:
        raise InputError(f"A false discovery rate lies between 0 and 1, both excluded; got {fdr:g}")
    if not 1 <= together <= max(rows, 1):
        raise InputError(f"Odd rows that must be found together are 1 to {max(rows, 1):,}, the rows; got {together:,}")
    needed = _rounded_up(rows / (together * fdr)) - 1
    if calibration < needed:
        odd = "one odd row" if together == 1 else f"{together:,} odd rows"
        raise InputError(
            f"At a false discovery rate of {fdr:g}, to find {odd} among {rows:,} takes {needed:,} calibration rows; "
            f"there are {calibration:,}: {_ways_out(calibration, rows, fdr, together)}"
        )


def _ways_out(calibration: int, rows: int, fdr: float, together: int) -> str:
    """What else than more calibration rows helps."""
    fewer = math.floor((calibration + 1) * together * fdr * (1.0 + ROUNDING))
    more = _rounded_up(rows / ((calibration + 1) * fdr))
    ways = ["give more of them"]
    if fewer:
        ways.append(f"judge at most {fewer:,} rows")
    if more <= rows:
        ways.append(f"raise together to {more:,}, so that odd rows are found where there are as many")
    return ", or ".join(ways)


def _rounded_up(quotient: float) -> int:
    return math.ceil(quotient * (1.0 - ROUNDING))


class OfTable(Fitted, Protocol):
    """What is asked of a model whose rows have columns."""

    @property
    def schema(self) -> Schema:
        """Of its rows."""
        ...


def odd_columns(novelty: Novelty, x: Any, like: Any, *, level: float = 0.1) -> Iterator[tuple[Change, ...]]:
    """The columns that make odd rows odd.

    With the values of a known row in them, its p-value would pass the level; with any of them left as it is, not. Where
    either of two columns would explain the row, one is named.

    Args:
        novelty: calibrated, of a model of a table.
        x: odd rows in data units.
        like: known rows in data units, whose values are tried: the training rows, say.
        level: a p-value above it is no longer odd.

    Returns:
        Changes of each row, the first the most important; none for a row whose p-value is above the level.

    Raises:
        InputError: for a model of images.

    Example:
        >>> import girsanov as gv
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> model = gv.fit(x[:100], config=gv.Config(steps=2))
        >>> novelty = Novelty(samples=16).fit(model, x[100:])
        >>> [(change.column, change.value) for change in next(odd_columns(novelty, [[0.25, -9.0]], x[:100]))]
        [('x2', -9.0)]
    """
    model = cast(OfTable, novelty.model)
    if model.schema.kind == "images":
        raise InputError("Images have no columns: look at Novelty.curve, which says at which scale they are odd")
    known = model.encode(like).rows.cpu()
    spread = known.std(0, correction=0)
    search = _Search(novelty, model.schema, known, torch.where(spread > 0, spread, 1.0), level)
    return map(search.changes, model.encode(x).rows.cpu())


@final
@dataclass(frozen=True)
class _Search:
    """Other values for the columns of a row."""

    novelty: Novelty
    schema: Schema
    known: Tensor
    spread: Tensor
    level: float

    def changes(self, row: Tensor) -> tuple[Change, ...]:
        """Those that make it usual, the most important first."""
        replaced, needed = set(self.schema.places), {}
        for name in self._least_helpful_first(row):
            score = float(self._best(row, replaced - {name})[1])
            if self.novelty.pvalue_of(torch.tensor([score], dtype=torch.float64)) > self.level:
                replaced.remove(name)
            else:
                needed[name] = score
        usual = self._best(row, replaced)[0]
        names = sorted(needed, key=lambda name: -needed[name])
        return tuple(Change(name, self._value(row, name), self._value(usual, name)) for name in names)

    def _least_helpful_first(self, row: Tensor) -> list[str]:
        """All columns, by the score that the replacement of each alone leaves."""
        trials = [self._trials(row, {name}) for name in self.schema.places]
        scores = self._score(torch.cat(trials)).split([len(trial) for trial in trials])
        left = {name: float(score.min()) for name, score in zip(self.schema.places, scores, strict=True)}
        return sorted(left, key=lambda name: -left[name])

    def _best(self, row: Tensor, replaced: set[str]) -> tuple[Tensor, Tensor]:
        """The most usual row with values of a known one in some columns, and its score."""
        trials = self._trials(row, replaced) if replaced else row[None]
        scores = self._score(trials)
        return trials[scores.argmin()], scores.min()

    def _trials(self, row: Tensor, replaced: set[str]) -> Tensor:
        """The row with values of known rows in some columns, of those that are near in the others."""
        there = torch.zeros(len(row), dtype=torch.bool)
        for name in replaced:
            there[self.schema.places[name]] = True
        off = ((self.known - row).abs() / self.spread).clamp_max(FAR)
        nearest = off[:, ~there].sum(1).argsort(stable=True)[:NEAREST]
        return torch.where(there, self.known[nearest], row)

    def _score(self, x: Tensor) -> Tensor:
        return self.novelty.score(Data(x, None, None, self.schema, "rows", None)).cpu()

    def _value(self, row: Tensor, name: str) -> float | str:
        """What a row has in a column: a number as it is, whatever was seen there, else a level."""
        place = self.schema.places[name]
        if place.stop - place.start == 1:
            return float(row[place])
        return str(self.schema.decode(row[None]).to_pandas()[name].iloc[0])
