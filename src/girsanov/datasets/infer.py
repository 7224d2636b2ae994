"""Decide what becomes of each column, and say so: the fitting half of the schema."""

__all__ = ["image_lattice", "require_density", "table_rules"]

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import numpy as np

from girsanov.datasets.columns import Combination, Constant, Copy, Numeric, Omitted, OneHot, Rule
from girsanov.datasets.copies import constant_value, copies, determined_columns, is_constant
from girsanov.datasets.dependencies import dependent_columns
from girsanov.datasets.frames import as_levels, is_number
from girsanov.datasets.lattice import Lattice, lattice_of, spoken, with_step
from girsanov.datasets.notes import few_rows, missing_notes, table_notes
from girsanov.datasets.raw import Raw
from girsanov.datasets.refusals import (
    LARGEST,
    MAX_LEVELS,
    refuse_bad_pixels,
    refuse_columns,
    refuse_swallowed,
    swallowed_notes,
)
from girsanov.types import InputError


def table_rules(
    raw: Raw,
    *,
    categorical: bool,
    discrete: bool,
    drop: Sequence[str],
    continuous: Sequence[str] = (),
    lattice: Mapping[str, float] | None = None,
    missing_as_level: Sequence[str] = (),
) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """One rule per column of a table, and the sentences that say what was done.

    Raises:
        InputError: see :meth:`girsanov.datasets.schema.Schema.infer`.
    """
    lattice = lattice or {}
    columns = _kept(raw, drop)
    for name in _known(missing_as_level, columns, "for --missing-as-level", raw.name):
        columns[name] = _levels(name, columns[name], raw.name)
    for name in columns.keys() & {*continuous, *lattice}:
        if columns[name].dtype == object and all(map(is_number, columns[name])):  # names that are numbers after all
            columns[name] = columns[name].astype(np.float64)
    refuse_columns(columns, raw.name, categorical=categorical, levels=missing_as_level)
    asked = _asked(columns, raw.name, continuous, lattice)
    rules: dict[str, Rule] = {name: Omitted(name) for name in drop}
    rules |= {name: Constant(name, constant_value(column)) for name, column in columns.items() if is_constant(column)}
    varying = {name: column for name, column in columns.items() if name not in rules}
    determined, said = determined_columns(varying)
    rules |= determined
    rules |= {n: asked.get(n) or _encoded(n, column, raw.name) for n, column in varying.items() if n not in rules}
    ordered = tuple(rules[name] for name in raw.names or ())
    dimensions = sum(len(rule.dimensions()) for rule in ordered)
    if not dimensions:
        raise InputError(f"{raw.name}: every column is constant, so there is nothing to model.")
    if not discrete:
        _refuse_discrete(ordered, raw.name)
    levels = missing_notes({name: columns[name] for name in missing_as_level})
    notes = (*table_notes(ordered, varying, asked), *levels, *said, *swallowed_notes(varying))
    return ordered, (*notes, *few_rows(len(raw), dimensions))


def _known(names: Iterable[str], columns: Iterable[str], purpose: str, source: str) -> Iterable[str]:
    """Names that owners gave, once all are of columns."""
    unknown = next((name for name in names if name not in columns), None)
    if unknown is not None:
        raise InputError(f"{source}: has no column {unknown!r} {purpose}; its columns are {', '.join(columns)}.")
    return names


def _kept(raw: Raw, drop: Sequence[str]) -> dict[str, np.ndarray]:
    names = raw.names or ()
    _known(drop, names, "to drop", raw.name)
    kept = {name: column for name, column in zip(names, raw.columns, strict=True) if name not in drop}
    if not kept:
        raise InputError(f"{raw.name}: every column was dropped; keep at least one.")
    return kept


def _levels(name: str, column: np.ndarray, source: str) -> np.ndarray:
    if column.dtype != object:
        raise InputError(
            f"{source}: column {name!r} holds numbers, among which what is missing is no level; leave it out of "
            "--missing-as-level."
        )
    return as_levels(column)


def _asked(
    columns: Mapping[str, np.ndarray], source: str, continuous: Sequence[str], lattice: Mapping[str, float]
) -> dict[str, Numeric]:
    """Rules of the columns whose kind was stated."""
    for option, names in (("--continuous", continuous), ("--lattice", lattice)):
        for name in _known(names, columns, f"for {option}", source):
            if columns[name].dtype == object:
                raise InputError(f"{source}: column {name!r} is text, which is no number; leave it out of {option}.")
    for name, step in lattice.items():
        if name in continuous:
            raise InputError(f"{source}: column {name!r} cannot be both continuous and on a lattice; ask for one.")
        if not (isinstance(step, Real) and 0.0 < step < LARGEST):
            raise InputError(f"{source}: the step of column {name!r} must be a positive number; got {step}.")
    found = {name: Numeric(name) for name in continuous}
    return found | {
        name: Numeric.fit(name, columns[name], with_step(columns[name], float(step))) for name, step in lattice.items()
    }


def require_density(columns: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse numbers that no density can be fitted to, whatever is dropped or dequantised otherwise.

    Raises:
        InputError: for constant columns, copies and sums of others, and columns whose digits an offset has eaten.
    """
    refuse_swallowed(columns, source)
    constant = [name for name, column in columns.items() if is_constant(column)]
    if constant:
        name, value = constant[0], constant_value(columns[constant[0]])
        found = f"column {name!r} is constant (always {value}), so it has no density"
        raise InputError(f"{source}: {found}; leave it out{_also(constant)}.")
    determined: dict[str, Copy | Combination] = copies(columns)
    determined |= dependent_columns({name: column for name, column in columns.items() if name not in determined})[0]
    if determined:
        name, rule = next(iter(determined.items()))
        found = f"column {name!r} is {rule}, so the columns have no joint density"
        raise InputError(f"{source}: {found}; leave it out{_also(list(determined))}.")


def _also(names: Sequence[str]) -> str:
    return f", and {', '.join(names[1:6])}{' and more' if len(names) > 6 else ''} too" if len(names) > 1 else ""


def _encoded(name: str, column: np.ndarray, source: str) -> Rule:
    if column.dtype != object:
        return Numeric.fit(name, column, lattice_of(column) or Lattice())
    levels = tuple(sorted({str(cell) for cell in column}))
    if len(levels) > MAX_LEVELS:
        raise InputError(
            f"{source}: column {name!r} has {len(levels)} different texts, too many to one-hot encode; "
            f"leave it out with --drop {name}."
        )
    return OneHot(name, levels)


def _refuse_discrete(rules: Sequence[Rule], source: str) -> None:
    names = [rule.name for rule in rules if isinstance(rule, OneHot)]
    names += [rule.name for rule in rules if isinstance(rule, Numeric) and rule.lattice.step]
    if names:
        raise InputError(
            f"{source}: discrete columns have no density: {', '.join(names)}; allow them, or "
            "leave them out with --drop."
        )


def image_lattice(raw: Raw, *, discrete: bool) -> tuple[Lattice, tuple[str, ...]]:
    """The one lattice of all pixels, and the sentences that say so.

    Whole numbers have step 1 in the units of the data (0..255, or 0..16), also when few of them
    occur. Floats in steps of 1/255 or, from -1 to 1, of 2/255 have that step; other floats are judged like a column.

    Raises:
        InputError: NaN or infinite pixels, all pixels equal, or discrete ones that are not allowed.
    """
    values = raw.stack
    refuse_bad_pixels(values, raw.name)
    if is_constant(values.reshape(-1)):
        raise InputError(f"{raw.name}: every pixel has the same value, so there is nothing to model.")
    if values.dtype.kind == "f" and float(np.abs(values).max()) > LARGEST:
        raise InputError(f"{raw.name}: its pixels are too large to square; rescale them.")
    lattice = _pixel_lattice(values) or Lattice()
    few = few_rows(len(values), values[0].size)
    if not lattice.step:
        return lattice, few
    if not discrete:
        raise InputError(
            f"{raw.name}: its pixels are discrete (step {spoken(lattice.step)}) and have no density; allow that."
        )
    kind = "rounded to bins of width" if lattice.binned else "with levels in steps of"
    return lattice, (f"Discrete pixels, {kind} {spoken(lattice.step)}.", *few)


def _pixel_lattice(values: np.ndarray) -> Lattice | None:
    if values.dtype.kind != "f":
        return Lattice(1.0, 0.0, 1e-3)
    flat = values.reshape(-1)
    # Bytes as they are, brought to [-1, 1] (odd multiples of 1/255), brought to [0, 1].
    for lattice in (Lattice(1.0, 0.0, 1e-3), Lattice(2 / 255, 1 / 255, 1e-3), Lattice(1 / 255, 0.0, 1e-3)):
        # A few thousand pixels reject almost every stack before all are compared.
        if not any(lattice.off(part.astype(np.float64)).any() for part in (flat[:4096], flat)):
            return lattice
    return lattice_of(flat)
