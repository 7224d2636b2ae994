"""CSV and Parquet files: what is read, and the sentence for everything that is not."""

import gzip

import numpy as np
import pytest

from girsanov.datasets import load, read
from girsanov.datasets.tables import CHUNK
from girsanov.types import InputError
from tests.seeds import rng


def write(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,4\n", ("x1", "x2"), 2),
        ("a,b\n1,2\n3,4\n", ("a", "b"), 2),
        ("a;b\r\n1;2\r\n3;4\r\n", ("a", "b"), 2),
        ("a\tb\n1\t2\n", ("a", "b"), 1),
        ("\ufeffa,b\n1,2\n", ("a", "b"), 1),
        ('"a, or so",b\n1,2\n\n3,4', ("a, or so", "b"), 2),
        (",b\n0,1.5\n1,2.5\n", ("x1", "b"), 2),
        ("a\n1\n2\n3\n", ("a",), 3),
        ("kind,x\nred,1\nblue,2\n", ("kind", "x"), 2),
        ("red,1\nblue,2\n", ("x1", "x2"), 2),
        ("kind,size\nred,big\nblue,big\n", ("kind", "size"), 2),
        ("red,big\nblue,big\nred,small\n", ("x1", "x2"), 3),
        (" 1 , 2e3\n-3,+.5\n", ("x1", "x2"), 2),
    ],
)
@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "DATA.CSV"])
def test_headers_separators_and_compression(tmp_path, text, names, rows, name):
    raw = read(write(tmp_path, text, name))
    assert raw.names == names
    assert raw.named == (names[-1] != f"x{len(names)}")
    assert len(raw) == rows


def test_values_survive(tmp_path):
    values = rng(0).normal(size=(50, 3))
    text = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    raw = read(write(tmp_path, text))
    np.testing.assert_array_equal(np.stack(raw.columns, 1), values)


@pytest.mark.parametrize("broken", [None, 5, CHUNK + 5])
def test_long_files_lose_no_row(tmp_path, broken):
    rows = 2 * CHUNK + 7
    cells = [str(i) for i in range(rows)]
    if broken is not None:
        cells[broken] = "word"
    column = read(write(tmp_path, "\n".join(cells))).columns[0]
    assert len(column) == rows
    if broken is None:
        np.testing.assert_array_equal(column, np.arange(rows))
    else:
        assert column[broken] == "word"
        assert [column[0], column[-1]] == ["0", str(rows - 1)]


def test_text_columns_have_one_spelling_per_number(tmp_path):
    column = read(write(tmp_path, "a\n1\n1.0\nx\n NA\n")).columns[0]
    assert column.tolist() == ["1", "1", "x", None]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is empty"),
        ("\n\n", "holds no rows"),
        ("a,b\n", "a header and no rows"),
        ("1,2\n3,4\n5\n", "line 3 has 1 cells where the first line has 2"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4 has 3 cells"),
        ("a,a\n1,2\n", "two columns named 'a'"),
        (b"a,b\n\xff\xfe,2\n", "cannot be read as a CSV file in UTF-8"),
        ('a,b\n1,"2\n3,4\n', "cannot be read as a CSV file"),
        ("1,2\n", "holds one row"),
        ("1,2\n1,\n3,\n", r"row 2, column 'x2' is missing \(2 missing values in 1 column: x2\).*--drop x2"),
        ("1,2\n?,3\n4,NaN\n", r"row 2, column 'x1' is missing \(2 missing values in 2 columns: x1, x2\)"),
        ("u,v\n1,2\n3,-inf\n", "row 2, column 'v' is infinite"),
        ("u,v\n1,2\nred,3\n", r"row 2, column 'u' is text \('red'\).*--categorical"),
        ("u;v\n1,5;2\n2,5;3\n", "decimal point instead of the comma"),
        ("1e200,1\n2,3\n", "too large to square"),
    ],
)
def test_every_bad_table_is_one_sentence(tmp_path, text, sentence):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=sentence) as caught:
        load(path)
    assert "data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "data.csv.gz"
    whole = gzip.compress("\n".join(str(i * i) for i in range(5000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read as a gzip-compressed CSV file.*complete"):
        load(path)


# ------------------------------------------------------------------------------------ Parquet


def parquet(tmp_path, columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_types(tmp_path):
    raw = read(parquet(tmp_path, {"i": [1, 2], "f": [0.5, None], "b": [True, False], "s": ["u", None]}))
    assert raw.names == ("i", "f", "b", "s")
    assert raw.columns[0].tolist() == [1, 2]
    assert np.isnan(raw.columns[1]).tolist() == [False, True]
    assert raw.columns[2].tolist() == [1, 0]
    assert raw.columns[3].tolist() == ["u", None]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"a": [1.0, None, 3.0]}, "row 2, column 'a' is missing"),
        ({"a": [1, None, 3]}, "row 2, column 'a' is missing"),
        ({"a": [1.0, 2.0], "s": ["u", "v"]}, r"row 1, column 's' is text \('u'\)"),
        ({"a": [1.0, 2.0], "l": [[1], [2]]}, r"'l' holds values of type list.*--drop l"),
        ({"a": []}, "holds no rows"),
    ],
)
def test_bad_parquet(tmp_path, columns, sentence):
    with pytest.raises(InputError, match=sentence):
        load(parquet(tmp_path, columns))


def test_unsupported_parquet_column_can_be_dropped(tmp_path):
    data = load(parquet(tmp_path, {"a": [1.5, 2.0, 3.25], "l": [[1], [2], [3]]}), drop=["l"])
    assert data.schema.columns == ("a",)


def test_truncated_parquet(tmp_path):
    path = parquet(tmp_path, {"a": list(range(1000))})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as a Parquet file"):
        load(path)
