"""``girsanov classify`` on a tiny conditional run of digits."""

import csv
import io
import json

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.applications import DiffusionClassifier
from girsanov.cli import main
from tests.seeds import rng

COLUMNS = ["row", "class", "probability", "evaluations", "decided", "error"]
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
    assert [row["row"] for row in rows] == [str(k) for k in range(1, 7)]
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

    classifier = DiffusionClassifier(model, samples=8, generator=torch.Generator().manual_seed(0))
    found = classifier.classify(all_rows(model, "digits").x[:6])
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


@pytest.fixture(scope="module")
def table(tmp_path_factory, quick):
    """A conditional run of a table, its rows, and the same rows without classes, two of them spoiled."""
    folder = tmp_path_factory.mktemp("classify-table")
    x = np.round(rng(0).normal(size=(80, 2)), 2)
    np.savez(folder / "data.npz", x=x, y=np.arange(80) % 2 + 1)
    assert (
        main(["fit", str(folder / "data.npz"), "--conditional", "--out", str(folder / "run"), *quick, "--quiet"]) == 0
    )
    for name, bad in (("good", ()), ("bad", (1, 4))):
        lines = [f"{a},{b}" for a, b in x[:5].tolist()]
        for i in bad:
            lines[i] = "," + lines[i].split(",")[1]
        (folder / f"{name}.csv").write_text("\n".join(["x1,x2", *lines]) + "\n")
    return folder


def test_a_bad_row_is_its_own_verdict(table, girsanov, monkeypatch):
    options = ("--samples", "4", "--no-calibrate")
    good, bad = (girsanov("classify", table / "run", table / f"{name}.csv", *options) for name in ("good", "bad"))
    assert (good.code, bad.code) == (0, 0), bad.err
    assert "2 rows have no value, see their column error: row 2, column 'x1' is missing" in bad.err
    whole, found = (list(csv.DictReader(io.StringIO(result.out))) for result in (good, bad))
    assert [found[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    assert [row["row"] for row in found] == list("12345")
    for i in (1, 4):
        assert (found[i]["class"], found[i]["probability"], found[i]["decided"]) == ("", "nan", "")
        assert "'x1' is missing" in found[i]["error"]
    lines = girsanov("classify", table / "run", table / "bad.csv", *options, "--json").out.splitlines()
    assert [json.loads(line)["class"] is None for line in lines] == [False, True, False, False, True]
    assert girsanov("classify", table / "run", table / "bad.csv", *options, "--limit", "2").out.count("\n") == 3
    monkeypatch.setattr("girsanov.cli.classify.BLOCK", 1)
    assert girsanov("classify", table / "run", table / "bad.csv", *options).out == bad.out
    failed = girsanov("classify", table / "run", table / "bad.csv", *options, "--on-error", "fail")
    assert (failed.code, failed.out) == (2, "")
    assert "row 2, column 'x1' is missing" in failed.err
