import csv
import io
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import typer

import girsanov as gv
from girsanov.cli.app import COMMANDS, app

COLUMNS = ["row", "value", "stderr", "kind", "model", "error"]


def test_evaluate_repeats_the_run_on_its_held_out_rows(complete, girsanov):
    _, run, _ = complete
    result = girsanov("evaluate", run, "--samples", "8", "--json")
    entry, before = result.json["test"]["elbo"], json.loads((run / "metrics.json").read_text())["test"]["elbo"]
    assert entry["nats"] == before["nats"]
    assert entry["rows"] == 24
    assert "held-out" in result.err


def test_evaluate_counts_only_held_out_rows_of_the_training_data(complete, girsanov, tmp_path, write_table):
    data, run, _ = complete
    assert girsanov("evaluate", run, data, "--samples", "8", "--json").json["test"]["elbo"]["rows"] == 24
    other = write_table(tmp_path / "other.csv", rows=50, seed=3)
    assert girsanov("evaluate", run, other, "--samples", "8", "--json").json["test"]["elbo"]["rows"] == 50
    assert girsanov("evaluate", run, other, "--limit", "7", "--json").json["test"]["elbo"]["rows"] == 7


@pytest.mark.parametrize(("likelihood", "model"), [("elbo", "sde"), ("density", "sde"), ("ode", "ode")])
def test_evaluate_says_of_which_model_the_likelihood_is(likelihood, model, complete, girsanov):
    _, run, _ = complete
    result = girsanov("evaluate", run, "--likelihood", likelihood, "--limit", "2")
    assert result.code == 0
    assert model.upper() in result.out or "density formula" in result.out


def test_evaluate_needs_the_data_of_the_run(run_copy, girsanov):
    run, data = run_copy
    lines = data.read_text().splitlines()
    original = "\n".join(lines) + "\n"
    try:
        data.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
        result = girsanov("evaluate", run)
    finally:
        data.write_text(original)
    assert result.code == 2
    assert "has changed since the fit" in result.err


def test_score_has_one_line_per_row(complete, girsanov):
    data, run, _ = complete
    result = girsanov("score", run, data, "--limit", "5", "--quiet")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == COLUMNS
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert {(row["kind"], row["model"]) for row in rows} == {("lower_bound", "sde")}
    assert result.err == ""


def test_scores_are_those_of_the_library(complete, girsanov):
    data, run, _ = complete
    table = np.genfromtxt(data, delimiter=",", skip_header=1)[:5]
    generator = torch.Generator().manual_seed(4)  # what --seed 4 is
    expected = gv.DensityModel.from_pretrained(run).elbo(table, generator=generator)
    lines = girsanov("score", run, data, "--limit", "5", "--seed", "4", "--json").out.splitlines()
    assert [json.loads(line)["value"] for line in lines] == pytest.approx(expected.value.tolist(), rel=1e-6)
    assert [json.loads(line)["stderr"] for line in lines] == pytest.approx(expected.stderr.tolist(), rel=1e-4)


def test_scores_of_a_frame_are_the_lines_that_are_printed(complete, mended, girsanov):
    _, run, _ = complete
    printed = pd.read_csv(io.StringIO(girsanov("score", run, mended, "--quiet").out), float_precision="round_trip")
    rows = pd.read_csv(mended, float_precision="round_trip")
    found = gv.evaluation.score(gv.DensityModel.from_pretrained(run), rows.set_index(rows.index + 1))
    assert found.index.tolist() == printed["row"].tolist()
    pd.testing.assert_frame_equal(
        found.drop(columns="error").reset_index(drop=True), printed[["value", "stderr", "kind", "model"]], rtol=1e-9
    )
    assert found["error"].isna().tolist() == printed["error"].isna().tolist()


def test_a_score_does_not_depend_on_the_other_rows(complete, girsanov):
    data, run, _ = complete
    few, many = (girsanov("score", run, data, "--limit", n, "--quiet").out.splitlines() for n in (2, 9))
    assert few == many[:3]


def test_an_unknown_standard_error_is_empty(complete, quick, girsanov, tmp_path):
    """Of a single evaluation, which a mixture refuses: nothing would say how the model's parts share the row."""
    data, mixed, _ = complete
    run = tmp_path / "plain"
    girsanov("fit", data, "--out", run, "--no-mixed", *quick)
    assert "mixture" not in girsanov("evaluate", run).out
    assert "The model is a mixture" in girsanov("evaluate", mixed).out
    refused = girsanov("score", mixed, data, "--limit", "1", "--samples", "1")
    assert (refused.code, "raise samples" in refused.err) == (2, True)
    shown = girsanov("score", run, data, "--limit", "1", "--samples", "1", "--quiet").out.splitlines()[1]
    assert shown.split(",")[2] == ""
    told = girsanov("score", run, data, "--limit", "1", "--samples", "1", "--json").json
    assert told["stderr"] is None


def test_score_into_a_file(complete, tmp_path, girsanov):
    data, run, _ = complete
    result = girsanov("score", run, data, "--limit", "3", "--out", tmp_path / "scores.csv")
    assert result.out == ""
    assert (tmp_path / "scores.csv").read_text().count("\n") == 4
    missing = girsanov("score", run, data, "--limit", "3", "--out", tmp_path / "absent" / "scores.csv")
    assert missing.code == 2
    assert "check that its folder exists" in missing.err
    assert "scoring" not in missing.err  # said before hours are spent


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("height,width\n1.5,2.5\n", "lacks column"),
        ("a,b,c,d\n1.5,2.5,3,4\n", "column"),
        ('height,"<b>weight & $x$</b>",count\n1.5,2.5,0.5\n', "count"),
        ('height,"<b>weight & $x$</b>",count\n1.5,,1\n', "missing"),
        ('height,"<b>weight & $x$</b>",count\n1.5,tall,1\n', "tall"),
    ],
)
def test_rows_that_do_not_fit_the_model(content, message, complete, tmp_path, girsanov):
    _, run, _ = complete
    (tmp_path / "rows.csv").write_text(content)
    result = girsanov("score", run, tmp_path / "rows.csv")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


BAD = [(1, ",2.5,1", "'height' is missing"), (3, "1.5,tall,1", "'tall' is not a number"), (4, "1.5,2.5,0.5", "lattice")]


@pytest.fixture
def mended(complete, tmp_path):
    """The first rows of the data, three of them spoiled, as a file; and their lines when they were good."""
    data, _, _ = complete
    lines = data.read_text().splitlines()[:6]
    for row, line, _ in BAD:
        lines[row + 1] = line
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "rows.csv"


def test_a_bad_row_is_its_own_verdict(complete, mended, girsanov):
    data, run, _ = complete
    result = girsanov("score", run, mended)
    assert result.code == 0
    assert "3 rows have no value, see their column error: row 2, column 'height' is missing" in result.err
    found = list(csv.DictReader(io.StringIO(result.out)))
    good = list(csv.DictReader(io.StringIO(girsanov("score", run, data, "--limit", "5").out)))
    assert [found[i] for i in (0, 2)] == [good[i] for i in (0, 2)]
    for row, _, words in BAD:
        assert (found[row]["row"], found[row]["value"], found[row]["stderr"]) == (str(row + 1), "nan", "")
        assert words in found[row]["error"]
        assert f"row {found[row]['row']}, " in found[row]["error"]
    lines = [json.loads(line) for line in girsanov("score", run, mended, "--json").out.splitlines()]
    assert [line["value"] is None for line in lines] == [line["error"] is not None for line in lines]
    assert len(lines) == 5
    few = girsanov("score", run, mended, "--limit", "2").out.splitlines()
    assert few == result.out.splitlines()[:3]


def test_a_bad_row_ends_the_command_on_request(complete, mended, girsanov):
    data, run, _ = complete
    result = girsanov("score", run, mended, "--on-error", "fail")
    assert (result.code, result.out) == (2, "")
    assert "row 2, column 'height' is missing" in result.err
    header = girsanov("score", run, data, "--limit", "1", "--on-error", "fail").out.splitlines()[0]
    assert header.split(",") == COLUMNS[:-1]


def test_blocks_and_bad_rows_keep_their_order(complete, mended, girsanov, monkeypatch):
    _, run, _ = complete
    whole = girsanov("score", run, mended, "--quiet").out
    monkeypatch.setattr("girsanov.cli.evaluate.BLOCK", 1)
    assert girsanov("score", run, mended, "--quiet").out == whole


def test_images_do_not_fit_a_table(complete, girsanov):
    _, run, _ = complete
    result = girsanov("score", run, "digits")
    assert result.code == 2
    assert "holds images, but the model was fitted to table" in result.err


@pytest.mark.parametrize("command", [["evaluate"], ["sample"], ["report"], ["score", "iris"], ["classify", "iris"]])
@pytest.mark.parametrize("run", ["runs/nowhere", "nowhere", "./nowhere"])
def test_a_run_that_is_not_there(command, run, tmp_path, girsanov, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "iris").mkdir(parents=True)
    result = girsanov(command[0], run, *command[1:])
    assert result.code == 2
    assert "no such folder" in result.err
    assert ("runs holds iris" in result.err) == (run == "runs/nowhere")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["data.json"], "is a run of girsanov bridge, which moves rows: use girsanov translate"),
        (["train.jsonl"], "holds no model; its fit has not ended: run its girsanov fit command again"),
        (["notes.txt"], "holds no model; give the folder of a run"),
    ],
)
def test_folders_that_hold_no_density_model(files, sentence, tmp_path, girsanov):
    for file in files:
        (tmp_path / file).write_text("")
    for command in (["score", tmp_path, "iris"], ["sample", tmp_path], ["evaluate", tmp_path]):
        assert sentence in girsanov(*command).err


def test_a_damaged_run(run_copy, girsanov):
    run, _ = run_copy
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    result = girsanov("evaluate", run)
    assert result.code == 2
    assert "damaged" in result.err


def test_sample_prints_rows_as_the_data_have_them(complete, girsanov):
    data, run, _ = complete
    result = girsanov("sample", run, "-n", "7", "--steps", "4")
    rows = list(csv.reader(io.StringIO(result.out)))
    assert rows[0] == data.read_text().splitlines()[0].replace('"', "").split(",")
    assert len(rows) == 8
    assert all(float(row[2]) == int(row[2]) for row in rows[1:])
    again = girsanov("sample", run, "-n", "7", "--steps", "4")
    other = girsanov("sample", run, "-n", "7", "--steps", "4", "--seed", "1")
    assert again.out == result.out != other.out


def test_samples_can_be_scored(complete, tmp_path, girsanov):
    _, run, _ = complete
    assert girsanov("sample", run, "-n", "6", "--steps", "4", "--out", tmp_path / "s.csv").code == 0
    result = girsanov("score", run, tmp_path / "s.csv", "--quiet")
    assert result.code == 0, result.err
    assert result.out.count("\n") == 7


def test_sample_formats(complete, tmp_path, girsanov):
    _, run, _ = complete
    options = ["sample", run, "-n", "6", "--steps", "4"]
    assert girsanov(*options, "--out", tmp_path / "s.npy").code == 0
    assert np.load(tmp_path / "s.npy").shape == (6, 3)
    assert girsanov(*options, "--out", tmp_path / "s.png").code == 0
    lines = girsanov(*options, "--json").out.splitlines()
    assert len(lines) == 6
    assert set(json.loads(lines[0])) == {"height", "<b>weight & $x$</b>", "count"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "samples.jpg"], ".png"),
        (["--lmbd", "2"], "--lmbd"),
        (["--lmbd=-inf"], "finite"),
        (["--lmbd", "nan"], "--lmbd"),
        (["-n", "0"], "--number"),
        (["--class", "a"], "without --conditional"),
    ],
)
def test_samples_that_cannot_be(options, message, complete, girsanov):
    _, run, _ = complete
    result = girsanov("sample", run, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_report_is_written_again(run_copy, girsanov):
    run, _ = run_copy
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    result = girsanov("report", run)
    assert result.out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_text() == before
    (run / "metrics.json").unlink()
    assert "run its girsanov fit command again" in girsanov("report", run).err


def test_report_without_the_data_says_so(run_copy, girsanov):
    run, data = run_copy
    moved = data.with_suffix(".moved")
    data.rename(moved)
    try:
        assert girsanov("report", run, "--json").json == {"report": str(run / "report.html")}
    finally:
        moved.rename(data)
    page = (run / "report.html").read_text()
    assert "could not be read again" in page
    assert "Paired differences" in page


def test_datasets_are_listed(girsanov):
    listed = girsanov("datasets", "--json").json
    assert listed[0] == {
        "name": "digits",
        "description": "handwritten digits, 8 x 8 pixels, 17 grey levels, 10 classes",
        "rows": 1797,
        "event_shape": [1, 8, 8],
    }
    assert "digits" in girsanov("datasets").out


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "girsanov", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"girsanov {gv.__version__}"


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--frob"], ["fit", "--out"], ["score"]])
def test_wrong_commands(arguments, girsanov):
    result = girsanov(*arguments)
    assert result.code == 2
    assert result.err.startswith("girsanov: ")
    assert result.err.count("\n") == 1
    assert "--help lists what there is" in result.err


def test_the_version_is_that_of_the_package(girsanov):
    assert gv.__version__ in girsanov("--version").out
    assert girsanov("-V").out == girsanov("--version").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_completion_is_printed(shell):
    done = subprocess.run(
        [sys.executable, "-m", "girsanov", "--show-completion", shell], capture_output=True, text=True, check=True
    )
    assert "complete" in done.stdout
    assert "_GIRSANOV_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "found"), [("girsanov ano", "anomalies"), ("girsanov score run data --lim", "--limit")]
)
def test_the_tab_key_completes(words, found):
    """As the script of bash asks for it."""
    asked = {"_GIRSANOV_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "girsanov"], capture_output=True, text=True, check=True, env=os.environ | asked
    )
    assert done.stdout.split() == [found]


def test_completion_is_installed_for_the_shell_that_is_named(tmp_path):
    command = [sys.executable, "-m", "girsanov", "--install-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)})
    assert str(tmp_path) in done.stdout
    assert "_GIRSANOV_COMPLETE" in (tmp_path / ".bash_completions" / "girsanov.sh").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, girsanov):
    result = girsanov(command, "--help")
    assert result.code == 0
    assert f"Example: girsanov {command}" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_has_words_that_the_command_knows(command):
    """Parsed, not run: options and arguments of every example are there."""
    for example in COMMANDS[command][1].split(", or "):
        program, name, *words = shlex.split(example)
        assert (program, name) == ("girsanov", command)
        typer.main.get_command(app).commands[name].make_context(name, words)


def test_a_reader_that_goes_away(complete):
    data, run, _ = complete
    code = "import sys; from girsanov.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "score", str(run), str(data), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before the first line is printed
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert errors == b""


def test_without_a_seed_command_and_library_say_the_same(complete, girsanov):
    data, run, _ = complete
    table = np.genfromtxt(data, delimiter=",", skip_header=1)[:5]
    expected = gv.DensityModel.from_pretrained(run).elbo(table)
    lines = girsanov("score", run, data, "--limit", "5", "--json").out.splitlines()
    assert [json.loads(line)["value"] for line in lines] == pytest.approx(expected.value.tolist(), rel=1e-6)
