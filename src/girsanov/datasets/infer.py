"""Decide what becomes of each column, and say so: the fitting half of the schema."""

__all__ = ["image_lattice", "require_density", "table_rules"]

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from girsanov.datasets.codes import coded_columns
from girsanov.datasets.columns import (
    Combination,
    Constant,
    Copy,
    Numeric,
    Omitted,
    OneHot,
    Rule,
)
from girsanov.datasets.dependencies import dependent_columns
from girsanov.datasets.frames import as_levels, is_code, is_number
from girsanov.datasets.lattice import Lattice, lattice_of, spoken, with_step
from girsanov.datasets.notes import few_rows, missing_notes, table_notes
from girsanov.datasets.offsets import refuse_swallowed, swallowed_notes
from girsanov.datasets.places import row_name
from girsanov.datasets.raw import Raw
from girsanov.datasets.refusals import refuse_bad_pixels, refuse_missing
from girsanov.datasets.steps import shortest
from girsanov.types import InputError

MAX_LEVELS = 256
SHOWN = 5  #: problems and columns in one message
ALONE = 1e12  #: times as far out as the others: what a sum with it leaves of their digits
LARGEST = 1e100  #: squares of larger values overflow
#: columns of objects by kind: what is wrong with them, and what to do
TEXTS = {
    "strange": ", not numbers; convert them, or leave them out with {drop}",
    "odd": " where most rows hold numbers; correct it, leave its row out, or leave the column out with {drop}",
    "text": ", not a number; use --categorical to one-hot encode text, or {drop}",
    "names": ", not a number, and seldom comes twice; convert it, or leave it out with {drop}",
    "codes": ", a name by its leading zeros; use --categorical to one-hot encode it, leave it out with {drop}, or read "
    "it as a number with {lattice}",
    "many codes": ", a name by its leading zeros; leave it out with {drop}, or read it as a number with {lattice}",
}
OPTIONS = ((" ", "--drop ", ""), (",", "", "=1"))  #: how columns are joined, and what stands before and after each
GAPS = (
    "impute the values or drop the rows, or leave the column out with --drop {column}.",
    "impute the values or drop the rows, leave the column out with --drop {column}, or read such cells as a level "
    "with --missing-as-level {column}.",
)


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
    columns = _modelled(raw, drop, {*continuous, *(lattice or ())}, categorical, missing_as_level)
    asked = _asked(columns, raw.name, continuous, lattice or {})
    rules: dict[str, Rule] = {name: Omitted(name) for name in drop}
    rules |= {name: Constant(name, _scalar(column)) for name, column in columns.items() if _is_constant(column)}
    varying = {name: column for name, column in columns.items() if name not in rules}
    determined, said = _determined(varying)
    rules |= determined
    for name, column in varying.items():
        if name not in rules:
            rules[name] = asked.get(name) or _encoded(name, column, raw.name)
    ordered = tuple(rules[name] for name in raw.names or ())
    dimensions = sum(len(rule.dimensions()) for rule in ordered)
    if not dimensions:
        raise InputError(f"{raw.name}: every column is constant, so there is nothing to model.")
    if not discrete:
        _refuse_discrete(ordered, raw.name)
    levels = missing_notes({name: columns[name] for name in missing_as_level})
    notes = (*table_notes(ordered, varying, asked), *levels, *said, *swallowed_notes(varying))
    return ordered, (*notes, *few_rows(len(raw), dimensions))


def _modelled(
    raw: Raw, drop: Sequence[str], numbers: set[str], categorical: bool, levels: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns that are not dropped, once no value of theirs is missing, text unasked, or too large to model."""
    columns = _kept(raw, drop)
    for name in levels:
        if name not in columns:
            raise InputError(
                f"{raw.name}: has no column {name!r} for --missing-as-level; its columns are {', '.join(columns)}."
            )
        if columns[name].dtype != object:
            raise InputError(
                f"{raw.name}: column {name!r} holds numbers, among which what is missing is no level; leave it out of "
                "--missing-as-level."
            )
        columns[name] = as_levels(columns[name])
    refuse_missing({name: columns[name] for name in columns if name not in levels}, raw.name, *GAPS)
    for name in columns.keys() & numbers:
        if columns[name].dtype == object and all(map(is_number, columns[name])):  # names that are numbers after all
            columns[name] = columns[name].astype(np.float64)
    _refuse_text(columns, raw.name, categorical)
    for name, column in columns.items():
        _refuse_huge(name, column, raw.name)
    refuse_swallowed(columns, raw.name)
    return columns


def _determined(columns: dict[str, np.ndarray]) -> tuple[dict[str, Rule], list[str]]:
    """Rules of the columns that others determine, and sentences about those that others nearly do."""
    found: dict[str, Rule] = {**_copies(columns)}
    coded, ranges = coded_columns({name: column for name, column in columns.items() if name not in found})
    found |= coded
    sums, near = dependent_columns({n: c for n, c in columns.items() if n not in found and c.dtype != object})
    return found | sums, [*near, *ranges]


def _kept(raw: Raw, drop: Sequence[str]) -> dict[str, np.ndarray]:
    names = raw.names or ()
    unknown = next((name for name in drop if name not in names), None)
    if unknown is not None:
        raise InputError(f"{raw.name}: has no column {unknown!r} to drop; its columns are {', '.join(names)}.")
    kept = {name: column for name, column in zip(names, raw.columns, strict=True) if name not in drop}
    if not kept:
        raise InputError(f"{raw.name}: every column was dropped; keep at least one.")
    return kept


def _asked(
    columns: Mapping[str, np.ndarray], source: str, continuous: Sequence[str], lattice: Mapping[str, float]
) -> dict[str, Numeric]:
    """Rules of the columns whose kind was stated."""
    for name in (*continuous, *lattice):
        option = "--continuous" if name in continuous else "--lattice"
        if name not in columns:
            raise InputError(f"{source}: has no column {name!r} for {option}; its columns are {', '.join(columns)}.")
        if columns[name].dtype == object:
            raise InputError(f"{source}: column {name!r} is text, which is no number; leave it out of {option}.")
        if name in continuous and name in lattice:
            raise InputError(f"{source}: column {name!r} cannot be both continuous and on a lattice; ask for one.")
        if name in lattice and not (isinstance(lattice[name], Real) and 0.0 < lattice[name] < LARGEST):
            raise InputError(f"{source}: the step of column {name!r} must be a positive number; got {lattice[name]}.")
    found = {name: Numeric(name) for name in continuous}
    return found | {
        name: Numeric.fit(name, columns[name], with_step(columns[name], float(step))) for name, step in lattice.items()
    }


def _refuse_text(columns: dict[str, np.ndarray], source: str, categorical: bool) -> None:
    """Refuse what is neither number nor text, odd cells among numbers, and text unless it is to be one-hot encoded."""
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in TEXTS}
    for name, column in columns.items():
        problem = _problem(name, column, source, categorical) if column.dtype == object else None
        if problem is not None:
            found[problem[0]].append((name, problem[1]))
    problems = []
    for kind, entries in found.items():
        if entries:
            more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
            shown = [name for name, _ in entries[:SHOWN]]
            drop, lattice = (joint.join(f"{before}{name}{after}" for name in shown) for joint, before, after in OPTIONS)
            advice = TEXTS[kind].format(drop=drop, lattice=f"--lattice {lattice}")
            problems.append(", ".join(text for _, text in entries[:SHOWN]) + more + advice)
    if problems:
        raise InputError(f"{source}: {'; '.join(problems)}.")


def _problem(name: str, column: np.ndarray, source: str, categorical: bool) -> tuple[str, str] | None:
    """Why a column of objects cannot be modelled, a kind of :data:`TEXTS` and what was found."""
    codes = [row for row, cell in enumerate(column) if is_code(cell)]
    odd = [row for row, cell in enumerate(column) if not is_number(cell)] or codes or [*range(len(column))]
    cell, distinct = column[odd[0]], len(set(map(str, column)))
    few = distinct <= MAX_LEVELS and (2 * distinct <= len(column) or categorical)
    if not isinstance(cell, str):
        kind = "list" if isinstance(cell, np.ndarray) else type(cell).__name__
        return "strange", f"column {name!r} holds values of type {kind}"
    held = f"{row_name(source, odd[0])}, column {name!r} holds {_short(cell)}"
    if 2 * len(odd) <= len(column) and not (codes or (categorical and few and 20 * len(odd) > len(column))):
        return "odd", held + (f" ({len(odd)} such cells)" if len(odd) > 1 else "")
    if categorical:
        return None
    if odd is codes:
        return ("codes" if few else "many codes"), held
    return ("text" if few else "names"), f"{row_name(source, odd[0])}, column {name!r} is text ({_short(cell)})"


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def _refuse_huge(name: str, column: np.ndarray, source: str) -> None:
    if column.dtype.kind != "f":
        return
    sizes = np.abs(column)
    if float(sizes.max()) > LARGEST:
        row = int(sizes.argmax())
        raise InputError(
            f"{source}: {row_name(source, row)}, column {name!r}: {column[row]} is too large to square; rescale "
            f"the column, or leave it out with --drop {name}."
        )
    _refuse_alone(name, column.astype(np.float64), source)
    if column.max() != column.min() and float(sizes.max()) < 1.0 / LARGEST:
        raise InputError(f"{source}: column {name!r} is too small to square; rescale it, or use --drop {name}.")


def _refuse_alone(name: str, column: np.ndarray, source: str) -> None:
    """Refuse a value beside which no model sees the others: it ends their digits."""
    middle = float(np.median(column))
    distances = np.abs(column / 2 - middle / 2)
    others = distances[distances > 0]
    row = int(distances.argmax())
    if len(others) and float(distances[row]) > ALONE * max(float(np.median(others)), 1e-300):
        raise InputError(
            f"{source}: {row_name(source, row)}, column {name!r}: {column[row]:.6g} is so far from the other values "
            "that these are all alike beside it; remove such rows if it marks missing values, else take logarithms, or "
            f"leave the column out with --drop {name}."
        )


def require_density(columns: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse numbers that no density can be fitted to, whatever is dropped or dequantised otherwise.

    Raises:
        InputError: for constant columns, copies and sums of others, and columns whose digits an offset has eaten.
    """
    refuse_swallowed(columns, source)
    constant = [name for name, column in columns.items() if _is_constant(column)]
    if constant:
        raise InputError(
            f"{source}: column {constant[0]!r} is constant (always {_scalar(columns[constant[0]])}), so it has no "
            f"density; leave it out{_also(constant)}."
        )
    found: dict[str, Copy | Combination] = _copies(dict(columns))
    found |= dependent_columns({name: column for name, column in columns.items() if name not in found})[0]
    if found:
        name, rule = next(iter(found.items()))
        raise InputError(
            f"{source}: column {name!r} is {rule}, so the columns have no joint density; leave it out"
            f"{_also(list(found))}."
        )


def _also(names: Sequence[str]) -> str:
    return f", and {', '.join(names[1:6])}{' and more' if len(names) > 6 else ''} too" if len(names) > 1 else ""


def _is_constant(column: np.ndarray) -> bool:
    if column.dtype == object:
        return len(set(column)) == 1
    values = column.astype(np.float64)
    precision = np.finfo(column.dtype).eps if column.dtype.kind == "f" else 2.2e-16
    spread = float(np.ptp(values))
    # A spread below 1e-100 cannot be squared either.
    return spread <= max(8.0 * float(precision) * float(np.abs(values).max()), 1e-100)


def _scalar(column: np.ndarray) -> float | str:
    return str(column[0]) if column.dtype == object else float(column[0])


def _copies(columns: dict[str, np.ndarray]) -> dict[str, Copy | Combination]:
    """Text that repeats an earlier column, and numbers that are an exact affine function of one.

    Once standardised, copies have the same absolute inner product with any fixed vector: d numbers
    show which pairs can be copies, and only those are compared row by row.
    """
    found: dict[str, Copy | Combination] = {}
    texts = [name for name, column in columns.items() if column.dtype == object]
    for i, name in enumerate(texts):
        twin = next((t for t in texts[:i] if t not in found and (columns[t] == columns[name]).all()), None)
        if twin is not None:
            found[name] = Copy(name, twin)
    numeric = [name for name, column in columns.items() if column.dtype != object]
    products: dict[str, float] = {}
    for name in numeric:
        values = standardised(columns[name])
        product = abs(float(values @ np.cos(np.arange(len(values)) ** 2))) / len(values)
        near = [twin for twin, other in products.items() if abs(other - product) <= 1e-4]
        copy = next((copy for twin in near if (copy := _copy(name, twin, columns)) is not None), None)
        if copy is None:
            products[name] = product
        else:
            found[name] = copy
    return found


def standardised(column: np.ndarray) -> np.ndarray:
    """A column less its mean, over its standard deviation."""
    values = column.astype(np.float64)
    values = values - values.mean()
    return values / np.sqrt(np.mean(values**2))


def _copy(name: str, twin: str, columns: dict[str, np.ndarray]) -> Combination | None:
    a, b = columns[twin].astype(np.float64), columns[name].astype(np.float64)
    if (a == b).all():
        return Combination(name, ((twin, 1.0),), tolerance=1e-6 * float(b.std()))
    precision = max(
        float(np.finfo(column.dtype).eps) if column.dtype.kind == "f" else 2.2e-16
        for column in (columns[name], columns[twin])
    )
    low, high = int(a.argmin()), int(a.argmax())
    slope = float((b[high] - b[low]) / (a[high] - a[low]))
    intercept = float(b.mean() - slope * a.mean())
    tolerance = max(1e-9, 64 * precision) * float(b.std())
    tolerance += 8 * precision * float(np.abs(b).max() + abs(slope) * np.abs(a).max())
    if np.abs(b - intercept - slope * a).max() > tolerance:
        return None
    fine = 0.25 * tolerance
    slope, intercept = shortest(slope, fine / float(np.abs(a).max())), shortest(intercept, fine)
    return Combination(name, ((twin, slope),), intercept, max(4 * tolerance, 1e-6 * float(b.std())), 16 * precision)


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
    if _is_constant(values.reshape(-1)):
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
    kind = "rounded to bins of width" if lattice.binned else "dequantised with step"
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
