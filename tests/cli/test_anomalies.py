"""``girsanov anomalies`` on a tiny run of a table: which rows it calibrates on, what it flags, and what it refuses."""

import csv
import io
import json

import numpy as np
import pytest

import girsanov as gv
from girsanov.applications import Novelty
from girsanov.cli import main
from girsanov.runs import all_rows, parts_of
from tests.seeds import rng

COLUMNS = ["row", "score", "p_value", "q_value", "odd", "columns", "error"]
CHEAP = ["--samples", "16"]


def write(path, x, lines=()):
    text = ["length,width,weight", *(",".join(map(repr, row)) for row in x.tolist()), *lines]
    path.write_text("\n".join(text) + "\n")
    return path


def table(n, number):
    """Width follows length; weight is its own."""
    x = rng(number).normal(size=(n, 3))
    x[:, 1] = 5.0 * x[:, 0] + 0.3 * x[:, 1]
    return x


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, quick):
    """A run whose split leaves 120 rows for tests, and 12 new rows: the last three odd."""
    folder = tmp_path_factory.mktemp("anomalies")
    data = write(folder / "data.csv", table(600, 0))
    assert main(["fit", str(data), "--out", str(folder / "run"), "--no-mixed", *quick, "--quiet"]) == 0
    x = table(12, 1)
    x[9:] = [0.0, 0.0, 40.0], [1.0, -5.0, 0.0], [9.0, 45.0, 0.0]
    write(folder / "new.csv", x)
    return folder


def lines(result):
    return list(csv.DictReader(io.StringIO(result.out)))


def test_odd_rows_are_flagged_with_their_columns(fitted, girsanov):
    result = girsanov("anomalies", fitted / "run", fitted / "new.csv", *CHEAP)
    found = lines(result)
    assert list(found[0]) == COLUMNS
    assert [line["row"] for line in found] == [str(row) for row in range(1, 13)]
    assert [line["odd"] for line in found[9:]] == ["True"] * 3
    assert found[9]["columns"] == "weight"
    assert found[10]["columns"] in ("length", "width")
    assert set(found[11]["columns"].split("; ")) == {"length", "width"}
    assert all((line["odd"] == "True") == (float(line["q_value"]) <= 0.1) for line in found)
    assert "calibrating on 120 held-out rows" in result.err
    assert "of 12 rows are odd at a false discovery rate of 0.1" in result.err
    told = [json.loads(line) for line in girsanov("anomalies", fitted / "run", fitted / "new.csv", *CHEAP, "--json",
                                                  "--quiet").out.splitlines()]  # fmt: skip
    assert told[9]["columns"][0]["value"] == 40.0
    assert abs(told[9]["columns"][0]["usual"]) < 5.0


def test_p_values_are_those_of_test_rows_alone(fitted, girsanov):
    """The usual errors are of validation rows, which chose the fit; training rows are in none of it."""
    model = gv.DensityModel.from_pretrained(fitted / "run")
    parts = parts_of(model, "")
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [432, 48, 120]
    novelty = Novelty(samples=16).fit(model, parts["test"].data, moments=parts["validation"].data)
    expected = novelty.pvalue(all_rows(model, str(fitted / "new.csv")).data)
    found = lines(girsanov("anomalies", fitted / "run", fitted / "new.csv", *CHEAP, "--no-columns"))
    assert [float(line["p_value"]) for line in found] == expected.tolist()


def test_more_calibration_rows_can_be_given(fitted, girsanov, tmp_path):
    more = write(tmp_path / "more.csv", table(80, 2))
    options = ["anomalies", fitted / "run", fitted / "new.csv", *CHEAP, "--no-columns", "--fdr", "0.06"]
    refused = girsanov(*options)
    assert (refused.code, refused.out) == (2, "")
    assert "takes 199 calibration rows; there are 120" in refused.err
    assert "judging" not in refused.err  # said before anything is computed
    result = girsanov(*options, "--calibration", more)
    assert result.code == 0
    assert "calibrating on 200 held-out rows" in result.err
    assert girsanov(*options, "--together", "2").code == 0
    assert girsanov(*options, "--limit", "7").code == 0


def test_blocks_and_bad_rows_change_nothing(fitted, girsanov, tmp_path, monkeypatch):
    text = (fitted / "new.csv").read_text().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([*text, "1.0,,2.0"]) + "\n")
    whole, bad = (girsanov("anomalies", fitted / "run", path, *CHEAP) for path in (fitted / "new.csv",
                                                                                   tmp_path / "bad.csv"))  # fmt: skip
    assert "1 row has no value, see its column error: row 13, column 'width' is missing" in bad.err
    assert bad.out.startswith(whole.out)  # a row that cannot be judged is not among those that are
    assert lines(bad)[12]["p_value"] == "nan"
    assert lines(bad)[12]["odd"] == ""
    monkeypatch.setattr("girsanov.cli.anomalies.BLOCK", 5)
    assert girsanov("anomalies", fitted / "run", tmp_path / "bad.csv", *CHEAP).out == bad.out
    failed = girsanov("anomalies", fitted / "run", tmp_path / "bad.csv", *CHEAP, "--on-error", "fail")
    assert (failed.code, failed.out) == (2, "")


def test_a_file_can_be_written(fitted, girsanov, tmp_path):
    options = ["anomalies", fitted / "run", fitted / "new.csv", *CHEAP]
    assert girsanov(*options, "--out", tmp_path / "odd.csv").out == ""
    assert (tmp_path / "odd.csv").read_text() == girsanov(*options).out


def test_images_are_judged_without_columns(girsanov, tmp_path, quick):
    images = rng(0).integers(0, 4, size=(200, 1, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "new.npy", images[:3].transpose(0, 1, 3, 2))
    run = tmp_path / "run"
    options = ["--dequantise", "uniform", *quick, "--quiet"]
    assert girsanov("fit", tmp_path / "images.npy", "--out", run, *options).code == 0
    result = girsanov("anomalies", run, tmp_path / "new.npy", *CHEAP)
    assert result.code == 0, result.err
    assert result.out.splitlines()[0] == "row,score,p_value,q_value,odd,error"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("length,width\n1,2\n", "lacks column 'weight'"),
        ("length,width,height\n1,2,3\n", "unknown column 'height'"),
        ("length,width,weight\n1,2,heavy\n", "heavy"),
    ],
)
def test_rows_of_another_schema_are_refused(content, words, fitted, girsanov, tmp_path):
    (tmp_path / "rows.csv").write_text(content)
    result = girsanov("anomalies", fitted / "run", tmp_path / "rows.csv")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err


def test_rows_that_would_vouch_for_themselves_are_refused(fitted, girsanov):
    own = girsanov("anomalies", fitted / "run", fitted / "data.csv")
    assert (own.code, "the very rows that the model was fitted to" in own.err) == (2, True)
    twice = girsanov("anomalies", fitted / "run", fitted / "new.csv", "--calibration", fitted / "new.csv")
    assert (twice.code, "cannot vouch for themselves" in twice.err) == (2, True)
