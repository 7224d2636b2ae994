"""Data frames and their kin: as good as files, by the same way."""

import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from girsanov.datasets import Schema, array_raw, from_array
from girsanov.types import InputError
from tests.seeds import rng


def plain(n=60):
    return pd.DataFrame(rng().normal(size=(n, 2)), columns=["a", "b"])


def column(values, **options):
    """The one column of a frame as the schema gets it."""
    return array_raw(pd.DataFrame({"k": pd.Series(values, **options), "a": 0.0})).columns[0]


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([True, False], {}, [1, 0]),
        ([True, None], {"dtype": "boolean"}, [1, np.nan]),
        ([1, 2], {"dtype": "Int64"}, [1, 2]),
        ([2**60 + 1, 2], {"dtype": "Int64"}, [2**60 + 1, 2]),
        ([1, None], {"dtype": "Int64"}, [1, np.nan]),
        ([0.5, None], {"dtype": "Float64"}, [0.5, np.nan]),
        ([0.5, None], {"dtype": pd.ArrowDtype(pa.float64())}, [0.5, np.nan]),
        ([1, 2], {"dtype": pd.ArrowDtype(pa.int64())}, [1, 2]),
        ([0.0, 1.5], {"dtype": pd.SparseDtype("float64", 0.0)}, [0.0, 1.5]),
        ([1, 2.5, None, True], {"dtype": object}, [1, 2.5, np.nan, 1]),
        ([decimal.Decimal("1.5"), 2], {"dtype": object}, [1.5, 2]),
        (["1.5", "-", "NA"], {}, [1.5, np.nan, np.nan]),
        (["1,250", "13,573.5"], {}, [1250, 13573.5]),
        (["1 250,5", "13,5"], {}, [1250.5, 13.5]),
        (["1\N{RIGHT SINGLE QUOTATION MARK}250.5", "13"], {}, [1250.5, 13]),
    ],
)
def test_columns_of_numbers_in_any_dress(values, options, expected):
    found = column(values, **options)
    assert found.dtype != object
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (["u", None], {"dtype": "string"}, ["u", None]),
        (["u", "-"], {}, ["u", "-"]),
        (["1", "1.0", "x"], {}, ["1", "1", "x"]),
        ([1, "x", 1.0], {"dtype": object}, ["1", "x", "1"]),
        (["1257_000", "0x1A", "1+2j"], {}, ["1257_000", "0x1A", "1+2j"]),
        (["12345678901234567890", "x"], {}, ["12345678901234567890", "x"]),
        (["0.30000000000000004", "x"], {}, ["0.30000000000000004", "x"]),
        ([3, 4], {"dtype": "category"}, ["3", "4"]),
        (["00039", "10115"], {"dtype": "string"}, ["00039", "10115"]),
        (["01", 1, "x"], {}, ["01", "1", "x"]),
        (pd.cut([1, 4], [0, 2, 5]), {}, ["(0, 2]", "(2, 5]"]),
    ],
)
def test_columns_of_text(values, options, expected):
    found = column(values, **options)
    assert [None if cell != cell else cell for cell in found] == expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": "u"}, r"frame: x\.iloc\[0\], column 'k' is text \('u'\)"),
        ({"k": pd.Timestamp("2020-01-01")}, "column 'k' holds values of type Timestamp, not numbers"),
        ({"k": 1j}, "column 'k' holds values of type complex"),
        ({"k": [["u"]] * 60}, "column 'k' holds values of type list"),
        ({"k": [pd.NA] + [1] * 59}, r"x\.iloc\[0\], column 'k' is missing"),
        ({"k": ["x"] + ["1"] * 59}, r"x\.iloc\[0\], column 'k' holds 'x' where most rows hold numbers"),
    ],
)
def test_what_cannot_be_modelled_is_named(change, sentence):
    with pytest.raises(InputError, match=sentence):
        from_array(plain().assign(**change), name="frame")


def test_several_faults_are_told_at_once():
    frame = plain().assign(k=["x", *map(str, range(59))], m=["y", *map(str, range(59))], t=["u", "v"] * 30)
    with pytest.raises(InputError) as caught:
        from_array(frame)
    for part in ("'k' holds 'x'", "'m' holds 'y'", "--drop k --drop m", "'t' is text", "--categorical"):
        assert part in str(caught.value)


def test_two_columns_of_one_name():
    frame = pd.concat([plain(), plain()[["a"]]], axis=1)
    with pytest.raises(InputError, match="two columns named 'a'; rename one"):
        from_array(frame)


def test_names_of_any_kind():
    values = rng().normal(size=(9, 2))
    assert array_raw(pd.DataFrame(values)).names == ("0", "1")
    assert array_raw(pd.DataFrame(values, columns=pd.MultiIndex.from_tuples([("u", "x"), ("u", 2)]))).names == (
        "u_x",
        "u_2",
    )
    assert array_raw(pd.DataFrame(values), names=("p", "q")).names == ("p", "q")


def test_an_index_is_never_data():
    frame = plain()
    frame.loc[3, "a"] = np.nan
    whole = frame.dropna()
    written = whole.reset_index().rename(columns={"index": "Unnamed: 0"})
    shuffled = written.sample(frac=1.0, random_state=0)
    arrow = pa.Table.from_pandas(whole, preserve_index=True).replace_schema_metadata(None)
    for x in (whole, written, shuffled, arrow, whole.set_index(pd.Index(range(59), name="id"))):
        raw = array_raw(x)
        assert raw.names == ("a", "b")
        assert len(raw) == 59
        assert bool(raw.notes) == (x is not whole)
    assert "reset_index" in array_raw(whole.rename_axis("id")).notes[0]


def test_columns_without_a_name():
    frame = pd.DataFrame({"": [0.5, 0.7], "x1": [1.0, 2.0], "Unnamed: 2": [np.nan, np.nan]})
    raw = array_raw(frame)
    assert raw.names == ("x1_", "x1")
    assert raw.notes == ("Left out column 'Unnamed: 2': it is empty.",)


def test_other_tables_and_arrays():
    frame = plain()
    records = frame.to_records(index=False)
    for x in (pa.Table.from_pandas(frame), records):
        raw = array_raw(x)
        assert (raw.names, raw.named) == (("a", "b"), True)
        np.testing.assert_array_equal(np.stack(raw.columns, 1), frame.to_numpy())
    masked = np.ma.masked_greater(np.arange(8).reshape(4, 2), 6)
    assert np.isnan(array_raw(masked).columns[1]).tolist() == [False, False, False, True]
    mixed = array_raw(frame.assign(k="u").to_numpy())
    assert (mixed.names, mixed.named) == (("x1", "x2", "x3"), False)
    assert mixed.columns[0].dtype == np.float64
    assert mixed.columns[2][0] == "u"


def test_text_is_encoded_on_request():
    frame = plain().assign(k=["u", "v"] * 30)
    data = from_array(frame, categorical=True)
    assert data.schema.columns == ("a", "b", "k=u", "k=v")
    again = Schema.from_json(data.schema.to_json()).encode(array_raw(frame[["k", "b", "a"]]))
    assert again.equal(data.x)


def test_categories_that_look_like_numbers_are_categories():
    frame = plain().assign(k=pd.Categorical([3, 4] * 30))
    assert from_array(frame, categorical=True).schema.columns[-2:] == ("k=3", "k=4")
    with pytest.raises(InputError, match=r"column 'k' is text \('3'\).*--categorical"):
        from_array(frame)


def test_columns_by_name_in_a_dict():
    data = from_array({"u": rng().normal(size=30), "v": rng(1).normal(size=30)})
    assert data.schema.columns == ("u", "v")


def test_a_frame_comes_back_as_it_was():
    frame = plain().assign(k=["u", "v"] * 30, m=range(60))
    pd.testing.assert_frame_equal(array_raw(frame).to_pandas(), frame)
    schema = from_array(frame, categorical=True).schema
    back = schema.decode(schema.encode(array_raw(frame))).to_pandas()
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, rtol=1e-12)


def test_an_image_is_a_row_of_its_pixels():
    stack = np.arange(24.0).reshape(2, 3, 2, 2)
    frame = array_raw(stack).to_pandas()
    assert list(frame)[:2] == ["x1", "x2"]
    np.testing.assert_array_equal(frame.to_numpy(), stack.reshape(2, 12))


@pytest.mark.parametrize("x", [plain(), plain().to_numpy()])
def test_as_many_names_as_columns(x):
    with pytest.raises(InputError, match="has 2 columns but 3 names; give as many"):
        array_raw(x, names=("p", "q", "r"))


def test_categories_of_truth_values_come_back_from_a_file(tmp_path):
    """Which is read with truth values as numbers."""
    frame = pd.DataFrame({"a": np.arange(30) / 7, "b": pd.Categorical([True, False, False] * 10)})
    data = from_array(frame, categorical=True)
    data.schema.decode(data.x).to_pandas().to_csv(tmp_path / "out.csv", index=False)
    again = data.schema.encode(array_raw(pd.read_csv(tmp_path / "out.csv")))
    assert torch.allclose(again, data.x)
    with pytest.raises(InputError, match="was not in the data"):
        data.schema.encode(array_raw(frame.assign(b=[0, 1, 2] * 10)))
