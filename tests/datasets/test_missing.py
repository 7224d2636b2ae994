"""Cells that look missing in text columns: refused in one sentence, or levels where their owner says so."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from girsanov.datasets import Schema, from_array, load, read
from girsanov.datasets.arrays import from_array as array_raw
from girsanov.types import InputError

ALLEY = ["NA", "Grvl", "Pave", "None", "", "NA"]
SIZES = np.linspace(0.0, 1.0, 60) ** 2


def write(folder, cells, name="t.csv"):
    path = folder / name
    lines = [f"{cell},{size!r}" for cell, size in zip(cells * 10, SIZES.tolist(), strict=True)]
    path.write_text("alley,size\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("cells", "found", "count"),
    [
        (
            ["Grvl", "NA", "Pave", "Grvl", "Pave", "Pave"],
            "row 2, column 'alley' holds 'NA', which is read as missing",
            10,
        ),
        (["Grvl", "Grvl", "Pave", "null", "?", "Pave"], "row 4, column 'alley' holds 'null', which is read as", 20),
        (["Grvl", "", "Pave", "Grvl", "NA", "Pave"], "row 2, column 'alley' is missing", 20),
    ],
)
@pytest.mark.parametrize("categorical", [True, False])
def test_the_sentence_says_which_cells_and_what_to_do(tmp_path, cells, found, count, categorical):
    path = write(tmp_path, cells)
    with pytest.raises(InputError) as error:
        load(path, categorical=categorical)
    assert str(error.value).startswith(f"{path}: {found}")
    assert str(error.value).endswith(
        f"({count} missing values in 1 column: alley); impute the values or drop the rows, leave the column out with "
        "--drop alley, or read such cells as a level with --missing-as-level alley."
    )
    numbers = write(tmp_path, ["1.5", "NA", "2.5", "3.5", "4.5", "5.5"], "n.csv")
    with pytest.raises(
        InputError, match=r"row 2, column 'alley' is missing .* or leave the column out with --drop alley\.$"
    ):
        load(numbers)


def test_levels_keep_their_spelling_and_empty_cells_are_na(tmp_path):
    path = write(tmp_path, ALLEY)
    data = load(path, categorical=True, missing_as_level=["alley"])
    names = [f"alley={level}" for level in ("Grvl", "NA", "None", "Pave")]
    assert data.schema.columns == (*names, "size")
    assert data.x[:6, :4].argmax(1).tolist() == [1, 0, 3, 2, 1, 1]
    assert (
        "Read as levels, though they look missing: alley (NA in 30 rows), alley (None in 10 rows)." in data.schema.notes
    )
    assert data.to_pandas()["alley"][:6].tolist() == ["NA", "Grvl", "Pave", "None", "NA", "NA"]
    again = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert again == data.schema
    assert again.encode(read(path)).equal(data.x)


@pytest.mark.parametrize("gap", [None, math.nan, pd.NA, "NA"])
@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_frames_with_gaps_are_the_same_rows(tmp_path, gap, dtype):
    """What pandas reads from a file, and what is drawn, goes where the file's own cells go."""
    cells = ["Grvl", "Pave", "NA", "Pave", "Grvl", "NA"]
    data = load(write(tmp_path, cells), categorical=True, missing_as_level=["alley"])
    alley = pd.Series([gap if cell == "NA" else cell for cell in cells] * 10, dtype=dtype)
    frame = pd.DataFrame({"alley": alley, "size": SIZES})
    assert data.schema.encode(array_raw(frame)).equal(data.x)
    assert from_array(frame, categorical=True, missing_as_level=["alley"]).x.equal(data.x)
    assert data.schema.encode(array_raw(data.to_pandas())).equal(data.x)


def test_rows_that_hold_nothing_else_are_read_alike(tmp_path):
    data = load(write(tmp_path, ALLEY), categorical=True, missing_as_level=["alley"])
    for cell, level in (("NA", 1), ("None", 2), ("", 1)):
        path = tmp_path / "few.csv"
        path.write_text(f"alley,size\n{cell},0.5\n{cell},0.25\n")
        assert data.schema.encode(read(path))[:, :4].argmax(1).tolist() == [level, level]
    numbered = write(tmp_path, ["1", "NA", "x", "2", "1", "x"], "numbered.csv")
    schema = load(numbered, categorical=True, missing_as_level=["alley"]).schema
    few = schema.encode(array_raw(pd.DataFrame({"alley": [1.0, np.nan], "size": [0.5, 0.5]})))
    assert [schema.columns[k] for k in few[:, :4].argmax(1).tolist()] == ["alley=1", "alley=NA"]


def test_a_level_that_was_not_there_is_refused_alone(tmp_path):
    data = load(write(tmp_path, ["Grvl", "NA", "Pave"] * 2), categorical=True, missing_as_level=["alley"])
    x, kept, refused = data.schema.encode_each(array_raw({"alley": ["NA", "null", None], "size": [0.5, np.nan, 0.5]}))
    assert (len(x), kept.tolist()) == (2, [0, 2])
    assert "'size' is missing" in refused[1]
    with pytest.raises(
        InputError, match=r"the level 'null' was not in the data the model .* \(it knows Grvl, NA, Pave\)"
    ):
        data.schema.encode(array_raw({"alley": ["NA", "null"], "size": [0.5, 0.5]}))
    plain = load(write(tmp_path, ["Grvl", "Oak", "Pave"] * 2), categorical=True).schema
    with pytest.raises(InputError, match=r"column 'alley' holds 'NA', which is read as missing .*; remove such rows"):
        plain.encode(array_raw({"alley": ["Oak", "NA"], "size": [0.5, 0.5]}))


def test_constants_and_what_a_text_determines_may_look_missing():
    kind = np.array(["oak", "ash", None] * 20, dtype=object)
    frame = pd.DataFrame({"kind": kind, "leaf": kind, "use": "None", "size": SIZES})
    data = from_array(frame, categorical=True, missing_as_level=["kind", "leaf", "use"])
    assert data.schema.columns == ("kind=NA", "kind=ash", "kind=oak", "size")
    assert data.to_pandas().iloc[2, :3].tolist() == ["NA", "NA", "None"]
    assert data.schema.encode(array_raw(frame)).equal(data.x)
    with pytest.raises(InputError, match=r"x\.iloc\[1\], column 'use': NA differs from None, the only value in"):
        data.schema.encode(array_raw(frame.assign(use=["None", None, *["None"] * 58])))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["street"], "has no column 'street' for --missing-as-level; its columns are alley, size"),
        (["size"], "column 'size' holds numbers, among which what is missing is no level; leave it out of --missing"),
    ],
)
def test_columns_that_have_no_levels(tmp_path, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        load(write(tmp_path, ALLEY), categorical=True, missing_as_level=asked)


def test_images_have_no_columns_to_state():
    with pytest.raises(InputError, match="leave alley out"):
        load("digits", missing_as_level=["alley"])
