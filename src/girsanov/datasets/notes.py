"""What was done with the columns of a table, in sentences for their owner."""

__all__ = ["few_rows", "missing_notes", "table_notes"]

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from girsanov.datasets.columns import Combination, Constant, Copy, Numeric, Omitted, OneHot, Rule
from girsanov.datasets.frames import looks_missing
from girsanov.datasets.lattice import atoms, levels_of, spoken
from girsanov.datasets.recording import recording_of
from girsanov.datasets.refusals import some

DISCRETE = "Discrete, dequantised on a lattice"
BINNED = "No density, so rounded to bins"
CONTINUOUS = "Treated as continuous"
SHOWN = 12  #: columns in one sentence, and dropped ones whose sums are written out
TRAINED = 0.72  #: share of the rows that a fit trains on, the others being validated and tested
#: numbers that often stand for none
SENTINELS = (
    *(sign * code for sign in (-1, 1) for code in (77, 88, 97, 98, 99, 997, 998, 999, 9998, 9999, 99999)),
    *(-7, -8, -9, -32768, 32767, 65535, -(2**31), 2**31 - 1, 2**32 - 1),
)


def table_notes(rules: Sequence[Rule], columns: Mapping[str, np.ndarray], asked: Iterable[str] = ()) -> tuple[str, ...]:
    """The sentences.

    Args:
        rules: of all columns, in order.
        columns: the values of those that are not constant.
        asked: columns whose kind was stated and not found.
    """
    stated = [rule for rule in rules if isinstance(rule, Numeric) and rule.name in set(asked)]
    numeric = [rule for rule in rules if isinstance(rule, Numeric) and rule not in stated]
    judged = [_judged(rule, columns[rule.name]) for rule in numeric]
    groups = {
        "Dropped on request": [rule.name for rule in rules if isinstance(rule, Omitted)],
        "Dropped because constant": [f"{r.name} (always {r.value})" for r in rules if isinstance(r, Constant)],
        DISCRETE: [said for group, said in judged if group == DISCRETE],
        BINNED: [said for group, said in judged if group == BINNED],
        "On a lattice as asked": [f"{r.name} (step {spoken(r.lattice.step)})" for r in stated if r.lattice.step],
        "Continuous as asked": [r.name + _atoms(columns[r.name]) for r in stated if not r.lattice.step],
        CONTINUOUS: [said for group, said in judged if group == CONTINUOUS],
        "One-hot encoded": [f"{r.name} ({len(r.levels)} levels)" for r in rules if isinstance(r, OneHot)],
    }
    notes = [f"{what}: {some(names, SHOWN)}." for what, names in groups.items() if names]
    found = [rule for rule in rules if isinstance(rule, Copy | Combination)]
    copies = [f"Dropped {rule.name!r}: it is {rule}." for rule in found[:SHOWN]]
    if len(found) > SHOWN:
        copies.append(f"Dropped as sums of others too: {', '.join(rule.name for rule in found[SHOWN:])}.")
    return (*copies, *notes, *_counters(numeric, columns), *_sentinels(rules, columns))


def missing_notes(columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A sentence about the levels of text columns that look missing, where there are some."""
    found = []
    for name, column in columns.items():
        levels, counts = np.unique(column[looks_missing(column)].astype(str), return_counts=True)
        found += [f"{name} ({level} in {n} row{'s' if n > 1 else ''})" for level, n in zip(levels, counts, strict=True)]
    return (f"Read as levels, though they look missing: {some(found, SHOWN)}.",) if found else ()


def few_rows(rows: int, dimensions: int) -> tuple[str, ...]:
    """A sentence where fewer rows than dimensions will be left to train on, else none.

    Example:
        >>> few_rows(1000, 64)
        ()
    """
    if rows * TRAINED >= dimensions:
        return ()
    return (
        f"{rows:,} rows, of which about {rows * TRAINED:.0f} are trained on, are fewer than the {dimensions:,} "
        "dimensions: no law of so many is learned from so few; give more rows, or a table fewer columns (--drop), or "
        "compare the result with the Gaussian's before you trust it.",
    )


def _judged(rule: Numeric, values: np.ndarray) -> tuple[str, str]:
    """The group of a column whose kind was found, and what is said of it there; nothing where values do not repeat."""
    levels, _ = levels_of(values)
    lattice, step = rule.lattice, spoken(rule.lattice.step)
    if not lattice.step and len(levels) == len(values):
        return "", ""
    if not lattice.step:
        recording, count = recording_of(values), f"{len(levels):,} values in {len(values):,} rows"
        return CONTINUOUS, f"{rule.name} ({f'recorded to {recording}' if recording.rounded else count})"
    moved = levels[np.abs(lattice.snap(levels) - levels) > 1e-3 * lattice.step] if lattice.binned else levels[:0]
    if len(moved) > max(3, len(np.unique(values)) // 50):
        why = _shares(values) or f"{len(levels):,} values come again and again"
        return BINNED, f"{rule.name} ({why}; width {step})"
    more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
    others = f"; rounded to it: {moved[0]:.6g}{more}" if len(moved) else ""
    return DISCRETE, f"{rule.name} (step {step}{others})"


def _shares(values: np.ndarray) -> str:
    found = sorted(atoms(values), key=lambda atom: -atom[1])
    return f"{found[0][1]:.0%} of the rows are {found[0][0]:.6g}" if found else ""


def _atoms(values: np.ndarray) -> str:
    shares = _shares(values)
    return f" ({shares}, where a density has no bound)" if shares else ""


def _counters(rules: Sequence[Numeric], columns: Mapping[str, np.ndarray]) -> list[str]:
    """A column that counts the rows says nothing about them, and is easily overlooked."""
    return [
        f"{rule.name!r} counts the rows; leave it out with --drop {rule.name} unless it is data."
        for rule in rules
        if len(columns[rule.name]) > 9 and (np.diff(columns[rule.name].astype(np.float64)) == 1).all()
    ]


def _sentinels(rules: Sequence[Rule], columns: Mapping[str, np.ndarray]) -> list[str]:
    """Numbers that often stand for a missing value, where they lie farther off than the others reach."""
    notes = []
    for name in (rule.name for rule in rules if isinstance(rule, Numeric)):
        values = columns[name].astype(np.float64)
        marked = np.isin(values, SENTINELS)
        rest, codes = values[~marked], np.unique(values[marked])
        if 2 * len(rest) < len(values):
            continue
        low, high = float(rest.min()), float(rest.max())
        far = [code for code in codes if max(low - code, code - high) > high - low > 0]
        counts = [int((values == code).sum()) for code in far]
        said = [f"{c:.0f} in {n} row{'s' if n > 1 else ''}" for c, n in zip(far, counts, strict=True)]
        if said:
            notes.append(
                f"{name!r} is {' and '.join(said)}, far from its other values: if that marks missing values, leave "
                "those rows or the column out."
            )
    return notes
