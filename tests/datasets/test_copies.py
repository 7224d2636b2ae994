"""Columns that a text column determines: numeric codes, other names, coarser groups."""

import numpy as np
import pandas as pd
import pytest

from girsanov.datasets import Schema, array_raw, from_array
from girsanov.types import InputError
from tests.seeds import rng

KINDS = np.array(["ash", "elm", "oak", "yew"])
ROWS = 80


def table(**columns):
    """Kinds of trees and something to model, with more columns of the position of each kind."""
    codes = rng(0).permutation(np.arange(ROWS) % 4)
    values = {name: np.asarray(column)[codes] for name, column in columns.items()}
    values = {name: pd.Categorical(v) if name == "category" else v for name, v in values.items()}
    return pd.DataFrame({**values, "kind": KINDS[codes], "v": rng(1).normal(size=ROWS)})


DETERMINED = {
    "a numeric code": {"code": [3, 0, 7, 1]},
    "a code that is in order": {"code": [0, 1, 2, 3]},
    "a fraction": {"price": [0.1, 2.5, 0.1, 7.25]},
    "truth values": {"tall": [True, False, True, True]},
    "names": {"latin": ["fraxinus", "ulmus", "quercus", "taxus"]},
    "a coarser group": {"leaf": ["broad", "broad", "broad", "needle"]},
    "several": {"leaf": ["broad", "broad", "broad", "needle"], "code": [3, 0, 7, 1], "hard": [1.5, 1.5, 1.5, 0.5]},
    "categories": {"category": [4, 3, 2, 1]},
}


@pytest.mark.parametrize("name", DETERMINED)
@pytest.mark.parametrize("last", [False, True])
def test_what_a_text_determines_is_dropped_and_drawn_again(name, last):
    frame = table(**DETERMINED[name])
    frame = frame[["kind", "v", *DETERMINED[name]]] if last else frame
    data = from_array(frame, categorical=True)
    assert data.schema.event_shape == (5,)
    kept = "category" if name == "categories" and not last else "latin" if name == "names" and not last else "kind"
    assert sum(f"it is what '{kept}' determines." in note for note in data.schema.notes) == len(DETERMINED[name])
    schema = Schema.from_json(data.schema.to_json())
    assert schema == data.schema
    drawn = schema.decode(data.x)
    for column, found in zip(frame, drawn.columns, strict=True):
        expected = frame[column].astype(str) if column == "category" else frame[column]
        assert found.tolist() == expected.tolist(), column
    assert schema.encode(array_raw(frame)).equal(data.x)


def test_rows_that_break_it_are_refused():
    frame = table(code=[3, 0, 7, 1], leaf=["broad", "broad", "broad", "needle"])
    schema = from_array(frame, categorical=True).schema
    for column, value in (("code", 5), ("leaf", "needle")):
        broken = frame.copy()
        row = int(np.flatnonzero(frame["kind"] == "ash")[0])
        broken.loc[row, column] = value
        with pytest.raises(
            InputError, match=rf"array: x\.iloc\[{row}\], column '{column}': {value} is not what 'kind' determines"
        ):
            schema.encode(array_raw(broken))
        kept, numbers, refused = schema.encode_each(array_raw(broken))
        assert (len(kept), len(numbers), list(refused)) == (ROWS - 1, ROWS - 1, [row])
    with pytest.raises(InputError, match="column 'kind': the level 'fir' was not in the data"):
        schema.encode(array_raw(frame.assign(kind="fir")))


def test_what_chance_explains_is_kept():
    frame = table()
    alone = frame.assign(names=[f"n{i}" for i in range(ROWS)])  # every row has a name of its own
    assert from_array(alone, categorical=True).schema.event_shape == (5 + ROWS,)
    rare = frame.assign(flag=(np.arange(ROWS) == 3).astype(int), kind=np.where(np.arange(ROWS) == 3, "x", "y"))
    assert from_array(rare, categorical=True).schema.event_shape == (4,)
    wrong = table(code=[3, 0, 7, 1])
    wrong.loc[5, "code"] = 9
    assert from_array(wrong, categorical=True).schema.event_shape == (6,)


def test_a_text_that_is_a_range_of_a_number_is_said():
    frame = table().assign(band=lambda f: np.where(f.v < 0, "low", np.where(f.v < 0.8, "middle", "high")))
    data = from_array(frame, categorical=True)
    assert data.schema.event_shape == (8,)
    assert [note for note in data.schema.notes if "range of 'v'" in note] == [
        "'band' is a range of 'v' in every row: leave it out with --drop band unless it says more."
    ]
    mixed = frame.assign(band=lambda f: np.where(f.v == f.v.max(), "low", f.band))
    assert not [note for note in from_array(mixed, categorical=True).schema.notes if "range" in note]
