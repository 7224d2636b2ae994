"""CSV and Parquet files: what is read, and the sentence for everything that is not."""

import bz2
import gzip
import lzma
import re
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from girsanov.datasets import load, read
from girsanov.types import InputError
from tests.seeds import rng


def write(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
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
        (",b\n0,1.5\n1,2.5\n", ("b",), 2),
        ("a\n1\n2\n3\n", ("a",), 3),
        ("kind,x\nred,1\nblue,2\n", ("kind", "x"), 2),
        ("red,1\nblue,2\n", ("x1", "x2"), 2),
        ("kind,size\nred,big\nblue,big\n", ("kind", "size"), 2),
        ("red,big\nblue,big\nred,small\n", ("x1", "x2"), 3),
        (" 1 , 2e3\n-3,+.5\n", ("x1", "x2"), 2),
        ("a|b\n1|2\n", ("a", "b"), 1),
        ("t|u,b\nv|w,2\n", ("t|u", "b"), 1),
        ("a   b\n  1 2\n3  4\n", ("a", "b"), 2),
        ("a b\nr1 1.5 2\nr2 3 4\n", ("a", "b"), 2),
        ("# by tool 1.2\na,b\n1,2\n", ("a", "b"), 1),
        ("My table\n\na,b\n1,2\n", ("a", "b"), 1),
        ("My table,,\na,b,c\n1,2,3\n", ("a", "b", "c"), 1),
        ("# a b\n1.5 2\n2 3\n", ("a", "b"), 2),
        ("0,1\n0.12,-1.3\n0.5,0.44\n", ("0", "1"), 2),
        (",0,1\n0,0.12,-1.3\n1,0.5,0.44\n", ("0", "1"), 2),
        ("1990,1991\n3.5,4\n2.5,3\n", ("1990", "1991"), 2),
        ("g,1990,1991\nA,13,14\nB,15,16\n", ("g", "1990", "1991"), 2),
        ("0,1,2,3,4\n90,91,92,93,94\n81,82,83,84,85\n", ("0", "1", "2", "3", "4"), 2),
        ("1100,1102,1104,1106,1108\n" + "0.1,0.4,0.2,0.9,0.7\n" * 5, ("1100", "1102", "1104", "1106", "1108"), 5),
        ("k,400.5,401,401.5,402,403\n" + "a,1,4,2,9,7\n" * 5, ("k", "400.5", "401", "401.5", "402", "403"), 5),
        ("1,2,3,4,6\n" + "3,1,9,7,2\n0,2,4,5,8\n" * 3, ("x1", "x2", "x3", "x4", "x5"), 7),
        ("0,1\n5,7\n9,3\n", ("x1", "x2"), 3),
        ("weight\n1,25\n0,5\n", ("weight",), 2),
        ("a,b,,\n1,2,,\n3,4,,\n,,,\n,,,\n", ("a", "b"), 2),
        ("1,2,3,4,5\n2,1,3,5,4\n5,4,3,2,1\n", ("x1", "x2", "x3", "x4", "x5"), 3),
        ("2000,2001\n1999,2002\n", ("x1", "x2"), 2),
        ("1,5;2,5\n2,5;3,5\n", ("x1", "x2"), 2),
        ("Unnamed: 0,v\n5,1.5\n2,2.5\n", ("v",), 2),
        (",x1,w\n0,0.12,-1.3\n1,-0.52,0.44\n", ("x1", "w"), 2),
        (",mpg,cyl\nMazda,21.0,6\nFord,22.0,4\n", ("mpg", "cyl"), 2),
        ("a,b,\n1,2,\n3,4,\n", ("a", "b"), 2),
        ('"a\nb",c\n1,"u\nv"\n2,w\n', ("a\nb", "c"), 2),
    ],
)
@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "DATA.TXT"])
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


@pytest.mark.parametrize("broken", [None, 5, 20_000 + 5])
def test_long_files_lose_no_row(tmp_path, broken):
    rows = 2 * 20_000 + 7
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


def written(values, end="\n"):
    return end.join(",".join(map(repr, row)) for row in values)


def test_no_precision_is_lost(tmp_path):
    values = np.nextafter(10.0 ** rng(0).uniform(-300, 300, size=(200, 3)), 0)
    raw = read(write(tmp_path, written(values.tolist())))
    np.testing.assert_array_equal(np.stack(raw.columns, 1), values)
    assert read(write(tmp_path, "a\n9007199254740993\n18446744073709551615\n")).columns[0].tolist() == [
        2**53 + 1,
        2**64 - 1,
    ]


@pytest.mark.parametrize(
    ("text", "columns", "note"),
    [
        ("a;b\n1,5;2\n2,25;3\n", [[1.5, 2.25], [2, 3]], "decimal points: a"),
        ("a;b\n1.234,5;2\n7;3\n", [[1234.5, 7], [2, 3]], "decimal points: a"),
        ('a,b\n"13,573",0.1\n"1,902",0.7\n', [[13573, 1902], [0.1, 0.7]], "thousands separators: a"),
        ('a,b\n"12,000.5",0.1\n950,0.7\n1250,2.0\n', [[12000.5, 950, 1250], [0.1, 0.7, 2.0]], "thousands"),
        ('a,b\n"1,250","0,5"\n"1,375","0,75"\n', [[1.25, 1.375], [0.5, 0.75]], "decimal points: a, b"),
        ('a;b\n"1,250.5";2\n"13,375.0";3\n', [[1250.5, 13375.0], [2, 3]], "thousands"),
        ("a,b\nTrue,1\nFalse,2\n", [[1, 0], [1, 2]], None),
        ("a\n1,25\n0,5\n", [[1.25, 0.5]], "decimal points: a"),
        ("a,b\n\N{MINUS SIGN}1.5,2\n2.5,3\n", [[-1.5, 2.5], [2, 3]], None),
        ("a;b\n1 234,5;2\n12 345 678,25;3\n7;5\n", [[1234.5, 12345678.25, 7], [2, 3, 5]], "Blanks .* thousands.*: a"),
        ("a;b\n1 234,5;0,5\n-7;1,25\n", [[1234.5, -7], [0.5, 1.25]], "Blanks .*: a"),
        ("a\tb\n1\N{NO-BREAK SPACE}234\t2\n999\t4\n", [[1234, 999], [2, 4]], "Blanks .*: a"),
        ("a,b\n1'234,2\n12'345.5,3\n", [[1234, 12345.5], [2, 3]], "Apostrophes .* thousands.*: a"),
        ("a\n1 234,5\n2 345,5\n", [[1234.5, 2345.5]], "Blanks .*: a"),
        ("a\n1 234\n22 345\n", [[1234, 22345]], "Blanks .*: a"),
        ("a b\n1 234\n22 345\n", [[1, 22], [234, 345]], None),
    ],
)
def test_numbers_as_people_write_them(tmp_path, text, columns, note):
    raw = read(write(tmp_path, text))
    assert [column.tolist() for column in raw.columns] == columns
    assert (note is None) == (not raw.notes)
    assert note is None or re.search(note, raw.notes[0])


@pytest.mark.parametrize(
    ("cells", "codes"),
    [
        (["10115", "00039"], True),
        (['"00039"', "7"], True),
        (["01", "", "02"], True),
        (["00.5", "01"], False),
        (["-01", "01"], False),
        (["0", "10"], False),
    ],
)
@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_whole_numbers_with_leading_zeros_are_names(tmp_path, cells, codes, separator):
    cells = [cell or "NA" for cell in cells] if separator == " " else cells
    column = read(write(tmp_path, "\n".join(f"{cell}{separator}{i}.5" for i, cell in enumerate(cells)))).columns[0]
    written = [cell.strip('"') or None for cell in cells]
    assert column.tolist() == (written if codes else [float(cell) for cell in cells])


def test_the_first_leading_zero_may_come_late(tmp_path):
    cells = [f"{10000 + i % 90000}" for i in range(300_000)]
    column = read(write(tmp_path, "zip\n" + "\n".join([*cells, "00039"]))).columns[0]
    assert [column[0], column[-1]] == ["10000", "00039"]
    mixed = read(write(tmp_path, "zip\n00039\n" + "\n".join([*cells, "K1A"]))).columns[0]
    assert [mixed[0], mixed[1], mixed[-1]] == ["00039", "10000", "K1A"]


def test_names_with_leading_zeros_are_modelled_on_request(tmp_path):
    lines = [
        f"{month:02d},{value!r}"
        for month, value in zip([*range(1, 13)] * 5, rng().normal(size=60).tolist(), strict=True)
    ]
    path = write(tmp_path, "month,v\n" + "\n".join(lines))
    with pytest.raises(InputError, match=r"holds '01', a name by its leading zeros; use --categorical .* month=1\.$"):
        load(path)
    asked = load(path, lattice={"month": 1.0})
    assert asked.x[:3, 0].tolist() == [1, 2, 3]
    assert asked.x.equal(asked.schema.encode(read(path)))
    named = load(path, categorical=True).schema
    assert named.columns[:2] == ("month=01", "month=02")
    assert named.decode(named.encode(read(path))).columns[0].tolist() == [f"{m:02d}" for m in [*range(1, 13)] * 5]
    names = write(tmp_path, "zip,v\n" + "\n".join(f"{i:05d},{i % 7}.5" for i in range(60)), "zip.csv")
    with pytest.raises(InputError, match=r"holds '00000', a name.* zeros; leave it out with --drop zip, or read it as"):
        load(names)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    raw = read(write(tmp_path, "größe,b\n1.5,2\n2.5,3\n".encode(encoding)))
    assert raw.names == ("größe", "b")
    assert bool(raw.notes) == (encoding == "latin-1")


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files(tmp_path, packed):
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[packed]
    path = tmp_path / f"t.tsv{suffix}"
    path.write_bytes(packed(b"a\tb\n1\t2\n3\t4\n"))
    assert [column.tolist() for column in read(path).columns] == [[1, 3], [2, 4]]


def test_zip_archives_of_one_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("deep/t.csv", "a,b\n1,2\n3,4\n")
    assert len(read(tmp_path / "t.csv.zip")) == 2
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "a") as archive:
        archive.writestr("u.csv", "a,b\n1,2\n")
    with pytest.raises(InputError, match=r"holds 2 files \(deep/t.csv, u.csv\)"):
        read(tmp_path / "t.csv.zip")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("# by tool\na,b\n1,2\n", "Left out line 1"),
        ("0,1\n0.12,-1.3\n", r"Read the first row \(0, 1, ...\) as the names"),
        ("0,1\n5,7\n", r"Read the first row \(0, 1, ...\) as data"),
        ("# a,b\n1,2\n", "names of the columns from the comment"),
        (",b,c\n0,1.5,2\n1,2.5,3\n", "column 1, which has no name: it is the index"),
        ("1.5,2,3.5,4,5\n" + "70,60,90,80,50\n" * 5, r"Read the first row \(1.5, 2, 3.5, ...\) as the names"),
        ("a,b\n1,2\n,\n,\n", "Left out 2 empty rows at the end"),
    ],
)
def test_guesses_are_said(tmp_path, text, note):
    assert re.search(note, read(write(tmp_path, text)).notes[0])


def test_points_beside_decimal_commas_are_said(tmp_path):
    raw = read(write(tmp_path, "sales;share\n1.234;0,5\n2.345;0,75\n"))
    assert raw.notes[1] == "Points were too: sales; write all numbers in one way if they are not."


def test_text_columns_have_one_spelling_per_number(tmp_path):
    column = read(write(tmp_path, "a\n1\n1.0\nx\n NA\n")).columns[0]
    assert column.tolist() == ["1", "1", "x", "NA"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is empty"),
        ("\n\n", "holds no rows"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n1,2,\n3,4,\n", "line 1 has 2 cells where other lines have 3"),
        ("1 2 3\n4 5\n6 7 8", "line 2 has 2 cells"),
        ("a,b\n,\n,\n", "holds no rows"),
        ("a,b\n1,2\n,\n3,4\n", r"row 2, column 'a' is missing \(2 missing"),
        ("a\tb\n1\t\\N\n3\t4\n", "row 1, column 'b' is missing"),
        ("a,b\n1,(null)\n3,4\n", "row 1, column 'b' is missing"),
        (" a | b\n---+---\n 1 | 2\n 3 | 4\n", "line 2 is a ruled line.*save the data as plain CSV"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n", "line 2 is a ruled line"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), r"is packed by gzip; name it \.csv\.gz"),
        (b"PK\x03\x04" + bytes(20), "an Excel workbook; save its table as CSV"),
        ('a,b\n1,"u\nv"\n2\n', "line 4 has 1 cell"),
        ("a,b\n1,\0\n", "zero bytes.*save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes.*save it as UTF-8"),
        ("a,b\n1,2\n#N/A,3\n4,5", "row 2, column 'a' is missing"),
        ("a,b\n1257_000,1\n1321_001,2\n1640_002,3\n", r"column 'a' is text \('1257_000'\).*--drop a"),
        ("a,b\n1,2\n2,x\n3,4\n", "row 2, column 'b' holds 'x' where most rows hold numbers; correct it"),
        ("1,2\n3,4\n5\n", "line 3 has 1 cell where other lines have 2"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4 has 3 cells"),
        ("a,a\n1,2\n", "two columns named 'a'"),
        (b"a,b\n\xff\x81,2\n", "neither in UTF-8 nor in Windows-1252; save it as UTF-8"),
        ('a,b\n1,"2\n3,4\n', "cannot be read as a text file"),
        ("1,2\n", "holds one row"),
        ("1,2\n1,\n3,\n", r"row 2, column 'x2' is missing \(2 missing values in 1 column: x2\).*--drop x2"),
        ("1,2\n?,3\n4,NaN\n", r"row 2, column 'x1' is missing \(2 missing values in 2 columns: x1, x2\)"),
        ("u,v\n1,2\n3,-inf\n", "row 2, column 'v' is infinite"),
        ("u,v\n1,2\nred,3\n", r"row 2, column 'u' holds 'red' where most rows hold numbers; correct it.*--drop u"),
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
    whole = gzip.compress("\n".join(str(i * i) for i in range(5000)).encode(), mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read as a gzip-compressed text file.*complete"):
        load(path)


# ------------------------------------------------------------------------------------ Parquet


def parquet(tmp_path, columns):
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


def test_the_index_of_a_frame_in_parquet_is_no_column(tmp_path):
    frame = pd.DataFrame({"a": [1.0, None, 3.5], "b": [1.0, 2.0, 4.0]}).dropna()
    for file in ("a.parquet", "b.parquet"):
        table = pa.Table.from_pandas(frame)
        pq.write_table(table if file == "a.parquet" else table.replace_schema_metadata(None), tmp_path / file)
        raw = read(tmp_path / file)
        assert raw.names == ("a", "b")
        assert len(raw) == 2
