"""``girsanov classify`` on a tiny conditional run of digits."""

import csv
import io
import json

import pytest

import girsanov as gv
from girsanov.applications import DiffusionClassifier
from girsanov.cli import main

COLUMNS = ["row", "class", "probability", "evaluations", "decided"]
CHEAP = ["--samples", "8", "--max-samples", "16", "--limit", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick):
    folder = tmp_path_factory.mktemp("classify") / "run"
    assert (
        main(
            [
                "fit",
                "digits",
                "--limit",
                "200",
                "--conditional",
                "--no-lattice-head",
                "--out",
                str(folder),
                *quick,
                "--quiet",
            ]
        )
        == 0
    )
    return folder


def test_every_row_gets_a_line(run, girsanov):
    result = girsanov("classify", run, "digits", *CHEAP)
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == COLUMNS
    assert [row["row"] for row in rows] == [str(k) for k in range(6)]
    assert {row["class"] for row in rows} <= set(gv.DensityModel.from_pretrained(run).classes)
    assert all(int(row["evaluations"]) == 10 * 8 for row in rows)
    assert "calibrating on" in result.err


def test_elimination_spends_less_and_says_what_is_open(run, girsanov):
    result = girsanov("classify", run, "digits", *CHEAP, "--confidence", "0.9", "--json", "--quiet")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert all(sum(line["probabilities"].values()) == pytest.approx(1.0) for line in lines)
    assert all(line["evaluations"] < 10 * 16 or not line["decided"] for line in lines)
    assert result.err == ""


def test_a_screen_leaves_classes_out_beforehand(run, girsanov):
    """Twenty validation rows vouch for an error of 1/21, so at confidence 0.5 the screen may leave classes out."""
    options = (*CHEAP, "--confidence", "0.5", "--json", "--quiet")
    plain, screened = (
        [
            json.loads(line)["evaluations"]
            for line in girsanov("classify", run, "digits", *options, *more).out.split("\n")[:-1]
        ]
        for more in ((), ("--screen",))
    )
    assert min(screened) >= 4
    assert sum(screened) < sum(plain)  # of a model that has learned nothing, a screen can leave out little


def test_lines_are_those_of_the_library(run, girsanov):
    result = girsanov("classify", run, "digits", *CHEAP, "--no-calibrate", "--json", "--quiet")
    model = gv.DensityModel.from_pretrained(run)
    from girsanov.runs import all_rows

    found = DiffusionClassifier(model, samples=8).classify(all_rows(model, "digits").x[:6])
    names = [json.loads(line)["class"] for line in result.out.splitlines()]
    assert names == [int(model.classes[k]) for k in found.index.tolist()]


def test_a_file_can_be_written(run, girsanov, tmp_path):
    assert girsanov("classify", run, "digits", *CHEAP, "--out", tmp_path / "classes.csv").out == ""
    assert (tmp_path / "classes.csv").read_text().startswith(",".join(COLUMNS))


def test_what_cannot_work_is_one_line(run, complete, girsanov):
    data, unconditional, _ = complete
    cases = {
        ("classify", unconditional, data): "--conditional",
        ("classify", run, "digits", "--weights", "fitted", "--no-calibrate"): "calibration",
        ("classify", run, "digits", *CHEAP, "--no-calibrate", "--confidence", "2"): "confidence",
        ("classify", run, "digits", *CHEAP, "--screen"): "--confidence",
        ("classify", run, "digits", *CHEAP, "--screen", "--no-calibrate", "--confidence", "0.9"): "calibration",
    }
    for arguments, words in cases.items():
        result = girsanov(*arguments)
        assert result.code == 2
        assert words in result.err.splitlines()[-1]
