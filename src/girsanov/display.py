"""What a person sees of an object at a prompt: one screen of text, and the same in a notebook.

A class that inherits from :class:`Shown` says in a :class:`Summary` what a reader wants first; without one of its own,
a dataclass shows its fields: numbers as numbers, tensors by their shape and range.
"""

__all__ = ["Shown", "Summary", "cells", "counted", "in_words", "parameter_count"]

import dataclasses
import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import pandas as pd

WIDTH, LINES = 118, 22  # of a screen
FEW = 8  # numbers that are shown one by one
MOST = 300  # characters of one fact


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a reader wants first.

    Attributes:
        title: what it is, in one line.
        facts: names and what there is to say; those that are empty are left out.
        table: lines of cells, the first one the header; the first few are shown.
        hint: how to go on.
    """

    title: str
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    hint: str = ""

    @property
    def told(self) -> dict[str, str]:
        """The facts that there are, each of a few lines at most."""
        return {name: textwrap.shorten(text, MOST, placeholder=" …") for name, text in self.facts.items() if text}

    def lines(self) -> list[str]:
        """As lines of text that fit one screen."""
        width = max(map(len, self.told), default=0)
        found = textwrap.wrap(self.title, WIDTH)
        for name, text in self.told.items():
            found += _wrapped(text, f"  {name:<{width}}  ")
        room = LINES - len(found) - bool(self.hint)
        found = found[:LINES] + _columns(self.table, room) if len(self.table) > 1 else found
        return [*found[: LINES - 2], *(_wrapped(self.hint, "  ")[:2] if self.hint else [])]

    def html(self) -> str:
        """As a small piece of HTML in the notebook's own fonts and colours; everything is escaped."""
        facts = [f"<tr>{_cell('th', name)}{_cell('td', text)}</tr>" for name, text in self.told.items()]
        parts = [f"<p><strong>{html.escape(self.title)}</strong></p>"]
        parts += [f"<table><tbody>{''.join(facts)}</tbody></table>"] if facts else []
        if len(self.table) > 1:
            head, *body = (
                "".join(_cell("td" if i else "th", cell) for cell in line) for i, line in enumerate(_few(self.table))
            )
            rows = "".join(f"<tr>{line}</tr>" for line in body)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        parts += [f"<p>{html.escape(self.hint)}</p>"] if self.hint else []
        return f"<div>{''.join(parts)}</div>"


class Shown:
    """Its heirs show themselves at a prompt and in a notebook as their :meth:`_summary` says.

    Example:
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class Fit(Shown):
        ...     loss: float
        ...     rows: Tensor
        >>> Fit(0.123456, torch.arange(12.0).reshape(6, 2))
        Fit
          loss  0.1235
          rows  6 × 2, from 0 to 11
    """

    def _summary(self) -> Summary:
        assert dataclasses.is_dataclass(self)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.repr}
        return Summary(type(self).__name__, {name: in_words(value) for name, value in fields.items()})

    def __repr__(self) -> str:
        return "\n".join(self._summary().lines())

    def _repr_html_(self) -> str:
        return self._summary().html()


def in_words(value: Any) -> str:
    """A value in a few words; nothing for ``None``.

    Example:
        >>> in_words(torch.tensor([1.0, 2.5])), in_words(torch.arange(1000)), in_words({"a": 0.25}), in_words(None)
        ('1, 2.5', '1000, from 0 to 999', 'a: 0.25', '')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Tensor | np.ndarray):
        return _array(torch.as_tensor(value).detach())
    if isinstance(value, bool | int | np.integer):
        return f"{value:,}" if not isinstance(value, bool) else str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(item)}" for name, item in list(value.items())[:FEW])
    if isinstance(value, tuple | list):
        return ", ".join(map(in_words, value)) if len(value) <= FEW else f"{len(value):,} entries"
    if isinstance(value, Shown):
        return value._summary().title
    if isinstance(value, nn.Module):
        count = parameter_count(value)
        return type(value).__name__ + (f", {counted(count, 'parameter')}" if count else "")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (f"{f.name}={in_words(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.repr)
        return f"{type(value).__name__}({', '.join(parts)})"
    told = " ".join(repr(value).split())
    return getattr(value, "__name__", type(value).__name__) if " at 0x" in told else told


def cells(frame: "pd.DataFrame") -> list[list[str]]:
    """The table of a data frame as :class:`Summary` takes it."""
    values = (list(frame[name]) for name in frame)
    return [list(map(str, frame.columns)), *([in_words(value) for value in line] for line in zip(*values, strict=True))]


def counted(number: int, thing: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "row"), counted(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def parameter_count(module: nn.Module) -> int:
    """How many numbers training may change, or has changed."""
    return sum(parameter.numel() for parameter in module.parameters())


def _array(values: Tensor) -> str:
    if values.ndim <= 1 and values.numel() <= FEW and not values.is_complex():
        return ", ".join(map(in_words, values.reshape(-1).tolist()))
    shape = " × ".join(map(str, values.shape))
    if not values.numel() or values.is_complex():
        return shape
    finite = values[values.isfinite()].double()
    missing = values.numel() - finite.numel()
    span = f"from {in_words(float(finite.min()))} to {in_words(float(finite.max()))}" if finite.numel() else ""
    return ", ".join(filter(None, [shape, span, f"{missing:,} missing or infinite" if missing else ""]))


def _few(table: Sequence[Sequence[str]], room: int = FEW) -> list[Sequence[str]]:
    """The header and the first lines, and how many more there are."""
    if len(table) <= room:
        return list(table)
    kept = list(table[: max(room - 1, 1)])
    return [*kept, [f"… {len(table) - len(kept):,} more", *("" for _ in table[0][1:])]]


def _columns(table: Sequence[Sequence[str]], room: int) -> list[str]:
    """A table as text, in at most so many lines."""
    lines = _few(table, min(room, 10))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths)))[:WIDTH]  # noqa: B905
        for line in lines
    ]


def _wrapped(text: str, begin: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin))


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align:left">{html.escape(text)}</{tag}>'
