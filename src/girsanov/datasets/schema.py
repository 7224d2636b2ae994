"""The schema: how raw data become a float64 tensor, fitted once and applied to every later row.

It decides what is constant, what is a copy, what is discrete and on which lattice (the rule is in
:mod:`girsanov.datasets.lattice`), and says each in a sentence. A likelihood of discrete dimensions
is the probability of bins of width ``bin_width``; of the others it is a density.
"""

__all__ = ["Reading", "Schema"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets.columns import Numeric, Omitted, OneHot, Rule, on_lattice, rule_from_json, rule_to_json
from girsanov.datasets.frames import as_levels
from girsanov.datasets.infer import image_lattice, table_rules
from girsanov.datasets.lattice import Lattice
from girsanov.datasets.raw import Raw, take
from girsanov.datasets.refusals import RefusedRowsError, refuse_bad_pixels, refuse_missing, row_name, some
from girsanov.datasets.splits import fingerprint
from girsanov.types import InputError

FORMAT = 1


class Reading(TypedDict, total=False):
    """What an owner says of the columns: the options of :meth:`Schema.infer`."""

    categorical: bool
    discrete: bool
    drop: Sequence[str]
    continuous: Sequence[str]
    lattice: Mapping[str, float] | None
    missing_as_level: Sequence[str]


@dataclass(frozen=True)
class Schema:
    """How raw data become a tensor of shape ``n *event_shape``.

    Attributes:
        kind: ``table`` or ``images``.
        event_shape: shape of one encoded row.
        rules: what becomes of each raw column; for images one rule for all pixels.
        named: whether the fitted columns had names of their own (else new rows go by position).
        notes: sentences to print: what was dropped, dequantised, one-hot encoded.
        missing_as_level: text columns whose cells that look missing are levels.

    Example:
        >>> from girsanov.datasets.arrays import from_array
        >>> raw = from_array(np.stack([np.arange(30) % 5, np.linspace(0, 1, 30) ** 2], 1))
        >>> schema = Schema.infer(raw)
        >>> schema.columns, schema.bin_width
        (('x1', 'x2'), tensor([1., 0.], dtype=torch.float64))
        >>> schema.encode(raw).shape
        torch.Size([30, 2])
    """

    kind: Literal["table", "images"]
    event_shape: tuple[int, ...]
    rules: tuple[Rule, ...]
    named: bool = False
    notes: tuple[str, ...] = ()
    missing_as_level: tuple[str, ...] = ()

    @classmethod
    def infer(
        cls,
        raw: Raw,
        *,
        categorical: bool = False,
        discrete: bool = True,
        drop: Sequence[str] = (),
        continuous: Sequence[str] = (),
        lattice: Mapping[str, float] | None = None,
        missing_as_level: Sequence[str] = (),
    ) -> "Schema":
        """Fit a schema to data.

        Args:
            raw: at least two rows.
            categorical: one-hot encode text columns; otherwise they are an error.
            discrete: declare discrete columns; otherwise they are an error.
            drop: names of columns to leave out.
            continuous: names of columns that are densities, whatever their values look like.
            lattice: steps of columns, by name, whose values are rounded to their multiples (shifted to the most
                common value).
            missing_as_level: names of text columns whose cells that look missing are levels: words such as NA, None or
                null as they are spelled, and cells with nothing in them as NA. Elsewhere they are an error.

        Raises:
            InputError: missing or infinite values, text columns, discrete columns under
                ``discrete=False``, unknown names in ``drop``, nothing left to model.
        """
        if len(raw) < 2:
            raise InputError(f"{raw.name}: holds one row, but a model is fitted to many; give more rows.")
        if raw.kind == "images":
            return cls._infer_images(raw, discrete, (*drop, *continuous, *(lattice or ()), *missing_as_level))
        rules, notes = table_rules(
            raw,
            categorical=categorical,
            discrete=discrete,
            drop=drop,
            continuous=continuous,
            lattice=lattice,
            missing_as_level=missing_as_level,
        )
        count = sum(len(rule.dimensions()) for rule in rules)
        return cls("table", (count,), rules, raw.named, raw.notes + notes, tuple(missing_as_level))

    @classmethod
    def _infer_images(cls, raw: Raw, discrete: bool, named: Sequence[str]) -> "Schema":
        if named:
            raise InputError(f"{raw.name}: holds images, which have no columns to drop or state; leave {named[0]} out.")
        lattice, notes = image_lattice(raw, discrete=discrete)
        rules = (Numeric.fit("pixel", raw.stack, lattice),)
        return cls("images", raw.stack.shape[1:], rules, False, raw.notes + notes)

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the encoded dimensions; ``None`` for images."""
        if self.kind == "images":
            return None
        return tuple(name for rule in self.rules for name, _ in rule.dimensions())

    @cached_property
    def bin_width(self) -> Tensor:
        """Lattice step of each dimension in data units, 0 where continuous; float64 of event shape."""
        return self._per_dimension("step")

    @cached_property
    def offset(self) -> Tensor:
        """Lattice origin of each dimension in data units; float64 of event shape."""
        return self._per_dimension("offset")

    @property
    def cells(self) -> str:
        """A hash of step and offset of all dimensions: equal rows in other cells are other data."""
        return fingerprint(torch.stack([self.bin_width, self.offset]))

    def _per_dimension(self, attribute: str) -> Tensor:
        values = [getattr(lattice, attribute) for rule in self.rules for _, lattice in rule.dimensions()]
        return torch.tensor(values, dtype=torch.float64).expand(self.event_shape).clone()

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """Where among the encoded dimensions each one-hot block stands."""
        pairs = zip(self.rules, self._slices(), strict=True)
        return tuple(block for rule, block in pairs if isinstance(rule, OneHot))

    @property
    def places(self) -> dict[str, slice]:
        """Where among the encoded dimensions each column of the source stands that has any; empty for images."""
        if self.kind == "images":
            return {}
        pairs = zip(self.rules, self._slices(), strict=True)
        return {rule.name: place for rule, place in pairs if place.start < place.stop}

    def _slices(self) -> list[slice]:
        """Where among the encoded dimensions those of each rule stand."""
        stops = np.cumsum([0, *(len(rule.dimensions()) for rule in self.rules)]).tolist()
        return [slice(*ends) for ends in pairwise(stops)]

    @property
    def discrete(self) -> bool:
        """Whether any dimension is discrete."""
        return bool((self.bin_width > 0).any())

    def encode(self, raw: Raw) -> Tensor:
        """Raw rows as a float64 tensor of shape ``n *event_shape``; discrete values lie on the lattice.

        Named columns are matched by name, in any order; without names on either side, by position.

        Raises:
            InputError: another kind, image shape or set of columns; missing, infinite or text cells;
                values off the lattice; unseen levels; rows that break a dropped constant or copy.
        """
        if raw.kind != self.kind:
            raise InputError(f"{raw.name}: holds {raw.kind}, but the model was fitted to {self.kind}.")
        if self.kind == "images":
            return torch.from_numpy(self._encode_images(raw))
        columns = self._matched(raw)
        levels = {name: as_levels(columns[name]) for name in self.missing_as_level}
        refuse_missing(
            {name: columns[name] for name in columns if name not in levels},
            raw.name,
            "remove such rows or impute the values",
        )
        columns |= levels
        blocks = [
            rule.encode(columns[rule.name], raw.name, columns) for rule in self.rules if not isinstance(rule, Omitted)
        ]
        return torch.from_numpy(np.concatenate(blocks, axis=1))

    def encode_each(self, raw: Raw) -> tuple[Tensor, np.ndarray, dict[int, str]]:
        """The rows that :meth:`encode` takes, and what is wrong with each of the others.

        Args:
            raw: rows of the columns that the schema was fitted to.

        Returns:
            Encoded rows, ``m *event_shape``; their numbers from 0, shape ``m``; a sentence for every other number.

        Raises:
            InputError: as :meth:`encode`, where the columns are wrong or no row can be encoded.

        Example:
            >>> from girsanov.datasets.arrays import from_array
            >>> schema = Schema.infer(from_array(np.linspace(0, 1, 30)[:, None]))
            >>> schema.encode_each(from_array(np.array([[0.5], [np.nan]])))
            (tensor([[0.5000]], dtype=torch.float64), array([0]), {1: "x[1], column 'x1' is missing"})
        """
        kept, refused = np.arange(len(raw)), {}
        while True:
            try:
                return self.encode(take(raw, kept) if refused else raw), kept, refused
            except RefusedRowsError as error:
                if error.bad.all() and not refused:
                    raise
                refused |= {
                    int(kept[i]): f"{row_name(raw.name, kept[i])}, {error.sentence(i)}"
                    for i in np.flatnonzero(error.bad).tolist()
                }
                kept = kept[~error.bad]
                if not len(kept):
                    raise InputError(f"{raw.name}: no row fits the model: {refused[0]}.") from error

    def select(self, x: Tensor) -> Tensor:
        """Rows of numbers as :meth:`encode` takes them, without checks or rounding: differentiable.

        Raises:
            InputError: for a schema with categories, which no gradient reaches.
        """
        if self.kind == "images":
            return x
        if self.blocks:
            raise InputError("gradients do not reach rows with categories: give rows that need none.")
        rules = [rule for rule in self.rules if not isinstance(rule, Omitted) or x.shape[1] == len(self.rules)]
        return x[:, [j for j, rule in enumerate(rules) if isinstance(rule, Numeric)]]

    def decode(self, x: Tensor, *, name: str = "decoded") -> Raw:
        """The inverse of :meth:`encode`, for samples: what the source would have held.

        Discrete values go to the nearest lattice point of the range that was seen, one-hot blocks to
        their largest level; dropped constants and copies are restored, columns dropped on request are
        not.

        Args:
            x: shape ``n *event_shape``, data units.
            name: name of the result.

        Raises:
            InputError: for another event shape.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise InputError(f"{name}: has event shape {tuple(x.shape[1:])}, but the schema has {self.event_shape}.")
        values = x.detach().cpu().double().numpy()
        if self.kind == "images":
            (pixel,) = (rule for rule in self.rules if isinstance(rule, Numeric))
            return Raw(name, "images", values=pixel.nearest(values))
        blocks = {rule.name: block for rule, block in zip(self.rules, self._slices(), strict=True)}
        kept = [rule for rule in self.rules if not isinstance(rule, Omitted)]
        columns: dict[str, np.ndarray] = {}
        for rule in sorted(kept, key=lambda rule: not rule.dimensions()):  # what others are computed from comes first
            columns[rule.name] = rule.decode(values[:, blocks[rule.name]], columns)
        names = tuple(rule.name for rule in kept)
        return Raw(name, "table", names=names, named=self.named, columns=tuple(columns[name] for name in names))

    def _encode_images(self, raw: Raw) -> np.ndarray:
        (rule,) = self.rules
        values = raw.stack
        if values.shape[1:] != self.event_shape:
            raise InputError(
                f"{raw.name}: holds images of shape {values.shape[1:]}, but the model was fitted to "
                f"{self.event_shape}; bring them to that shape."
            )
        refuse_bad_pixels(values, raw.name)
        lattice = rule.lattice if isinstance(rule, Numeric) else Lattice()
        if values.dtype.kind in "ui" and (lattice.step, lattice.offset) == (1.0, 0.0):
            return values.astype(np.float64)  # whole numbers are on the lattice: spare the copies
        return on_lattice(values.astype(np.float64), lattice, "pixel", raw.name)

    def _matched(self, raw: Raw) -> dict[str, np.ndarray]:
        """The columns that the rules need, by the names of the schema."""
        names = raw.names or ()
        needed = [rule.name for rule in self.rules if not isinstance(rule, Omitted)]
        everything = [rule.name for rule in self.rules]
        optional = [rule.name for rule in self.rules if isinstance(rule, Omitted)]
        if self.named and raw.named:
            missing = [name for name in needed if name not in names]
            unknown = [name for name in names if name not in everything]
            if missing or unknown:
                wrong = [f"lacks {_columns(missing)}"] if missing else []
                wrong += [f"has the unknown {_columns(unknown)}"] if unknown else []
                raise InputError(
                    f"{raw.name}: {' and '.join(wrong)}; the model was fitted to the columns {', '.join(everything)}."
                )
            return {name: raw.columns[names.index(name)] for name in needed}
        order = everything if len(names) == len(everything) else needed
        if len(names) != len(order):
            given = f"{len(names)} column{'s' if len(names) != 1 else ''}"
            dropped = f" (of which {', '.join(optional)} can be left out)" if optional else ""
            raise InputError(
                f"{raw.name}: has {given}, but the model was fitted to {len(everything)}{dropped}: "
                f"{', '.join(everything)}."
            )
        found = dict(zip(order, raw.columns, strict=True))
        return {name: found[name] for name in needed}

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values; :meth:`from_json` gives an equal schema back."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "named": self.named,
            "rules": [rule_to_json(rule) for rule in self.rules],
            "notes": list(self.notes),
            "missing_as_level": list(self.missing_as_level),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Schema":
        """The inverse of :meth:`to_json`.

        Raises:
            InputError: for a record that is incomplete, damaged or of another format version.
        """
        if record.get("format") != FORMAT:
            raise InputError(
                f"the schema has format {record.get('format')!r}, but this version reads format "
                f"{FORMAT}; use the version of girsanov that wrote it."
            )
        try:
            rules = tuple(rule_from_json(rule) for rule in record["rules"])
            shape = tuple(int(size) for size in record["event_shape"])
            levels = tuple(record.get("missing_as_level", ()))
            return cls(record["kind"], shape, rules, bool(record["named"]), tuple(record["notes"]), levels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the schema is damaged ({error}); fit the model again.") from error


def _columns(names: Sequence[str]) -> str:
    return f"column{'s' if len(names) > 1 else ''} {some([*map(repr, names)])}"
