"""Times of cells as people write them: numbers, durations, categories, and labels that hold one number each."""

__all__ = ["as_numbers", "as_time", "as_times"]

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from girsanov.types import InputError

if TYPE_CHECKING:
    import pandas as pd

# a sign is one only where no letter or digit stands before it: "day -1" is a day before "day 0", "day-1" is one after
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)|\d+\.?\d*")


def as_times(column: Any, name: str, count: int) -> np.ndarray:
    """The time of each cell, float64; durations count in days.

    Args:
        column: an array, masked or not, a series, or a list: numbers, durations, categories of these, or labels such as
            ``day 3`` or ``E8.5`` that differ in their number alone.
        name: of the column, for the sentences.
        count: of cells.

    Raises:
        InputError: if an entry is missing or holds no time, or labels are in several units.

    Example:
        >>> as_times(["day 2", "day 2", "day 10"], "day", 3)
        array([ 2.,  2., 10.])
    """
    import pandas as pd

    series = _series(column, name, count)
    missing = series.isna().to_numpy()
    if missing.any():
        raise InputError(
            f"obs[{name!r}] must hold one finite number for each of {count} cells and misses {int(missing.sum())} of "
            f"them: leave these out, adata[adata.obs[{name!r}].notna()]"
        )
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        raise InputError(f"obs[{name!r}] holds dates: give the time since the first in their place, x - x.min()")
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return (series / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    numbers = _plain(series)
    values = _labelled(series, name) if numbers is None else numbers
    if not np.isfinite(values).all():
        raise InputError(f"obs[{name!r}] must hold one finite number for each of {count} cells; got {_first(values)}")
    return values


def as_time(time: Any) -> float:
    """One time that a person asks for, in any of the forms of :func:`as_times`.

    Raises:
        InputError: if it holds no time.
    """
    if isinstance(time, int | float) and not isinstance(time, bool):
        return float(time)
    try:
        return float(as_times([time], "time", 1)[0])
    except InputError as error:
        raise InputError(f"A time is a number, a duration, or a label with one number; got {time!r}") from error


def as_numbers(column: Any, name: str, count: int) -> np.ndarray:
    """Numbers of all cells, float64, ``nan`` where they are missing.

    Raises:
        InputError: if they are no numbers, or not one for each cell.
    """
    series = _series(column, name, count)
    values = _plain(series)
    if values is None:
        raise InputError(f"obs[{name!r}] must hold numbers; got {_first(series.dropna().to_numpy())!r}")
    return values


def _series(column: Any, name: str, count: int) -> "pd.Series":
    """The column with categories as what they stand for."""
    import pandas as pd

    if np.shape(column) != (count,):
        raise InputError(
            f"obs[{name!r}] must hold one finite number for each of {count} cells; got the shape {np.shape(column)}"
        )
    series = pd.Series(column) if isinstance(column, np.ma.MaskedArray) else pd.Series(column, copy=False)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = pd.Series(np.asarray(series))
    return series.reset_index(drop=True).infer_objects()


def _plain(series: "pd.Series") -> np.ndarray | None:
    """The column as numbers, where all of its entries are: also text such as ``3`` or ``2.5``."""
    import pandas as pd

    if pd.api.types.is_complex_dtype(series.dtype) or pd.api.types.is_timedelta64_dtype(series.dtype):
        return None
    try:
        numbers: Any = pd.to_numeric(series)
        return numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return None


def _labelled(series: "pd.Series", name: str) -> np.ndarray:
    """The one number of each label; all labels must say the same around it."""
    found: dict[Any, float] = {}
    around: dict[str, str] = {}
    for entry in series.unique():
        label = entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry)
        numbers = NUMBER.findall(label) if isinstance(entry, str | bytes) else []
        if len(numbers) != 1:
            raise InputError(
                f"obs[{name!r}] must hold numbers, or labels and categories with one number each, such as 'day 3'; got "
                f"{label!r}"
            )
        found[entry] = float(numbers[0])
        around.setdefault(_unit(NUMBER.sub("#", label)), label)
    if len(around) > 1:
        first, second, *_ = around.values()
        kinds = f"{first!r} and {second!r}"
        raise InputError(f"obs[{name!r}] has labels of several kinds, {kinds}: give numbers of one unit")
    return series.map(found).to_numpy(dtype=np.float64)


def _unit(text: str) -> str:
    """What a label says around its number, whichever way it is spaced, capitalised or counted."""
    return re.sub(r"(?<=[a-z]{2})s\b", "", re.sub(r"[\s_:=.-]+", "", text.casefold()))


def _first(values: np.ndarray) -> Any:
    """The first entry that is no finite number, or the first of all."""
    if values.dtype == np.float64:
        values = values[~np.isfinite(values)]
    return values[0] if len(values) else None
