"""``girsanov bridge`` and ``girsanov translate``: tiny fits of tables and images, and everything that cannot be."""

import csv
import io
import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from girsanov.bridge_model import BridgeModel
from girsanov.cli import main
from girsanov.datasets import read
from girsanov.runs import BridgeRun, EndSource, LawBridgeConfig, fit_run, read_ends
from girsanov.training import Interrupted
from tests.seeds import rng, seeded

TINY_TO_NORMAL = [
    "--steps", "6", "--chain-steps", "4", "--width", "8", "--blocks", "1", "--batch-size", "32", "--threads", "1",
]  # fmt: skip
TINY = ["--rounds", "2", "--paths", "60", *TINY_TO_NORMAL]
EVEN = ["--source-classes", "0,2", "--target-classes", "1,3"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, write_table):
    """Two tables with the same columns, the second shifted."""
    folder = tmp_path_factory.mktemp("bridge")
    return write_table(folder / "a.csv"), write_table(folder / "b.csv", rows=90, seed=1, shift=3.0)


@pytest.fixture(scope="module")
def run(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge-run") / "run"
    assert main(["bridge", *map(str, tables), "--out", str(folder), *TINY, "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge-images") / "run"
    assert main(["bridge", "digits", "digits", *EVEN, "--out", str(folder), *TINY, "--limit", "60", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def to_normal(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge-normal") / "run"
    assert main(["bridge", str(tables[0]), "normal", "--out", str(folder), *TINY_TO_NORMAL, "--quiet"]) == 0
    return folder


def read_csv(text):
    header, *lines = csv.reader(io.StringIO(text))
    return header, np.array(lines, dtype=float)


def test_a_run_holds_everything(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "manifest.json", "data.json", "metrics.json"} <= names
    assert {"report.html", "forward.csv", "backward.csv", "checkpoints"} <= names
    assert "saving" not in names
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["sigma"] == 0.5
    assert [entry["round"] for entry in metrics["rounds"]] == [0, 1, 2]
    assert len(metrics["history"]) == 4
    assert metrics["rows"] == {"source": {"train": 102, "test": 18}, "target": {"train": 76, "test": 14}}
    forward = metrics["test"]["forward"]
    assert forward["rows"] == 18
    # the closed form alone moves the mean by three spreads
    assert forward["energy"] < 0.2 * forward["untouched"]["energy"]
    assert forward["wasserstein"] > 0
    assert forward["path_kl"] > 0
    assert "elbo" not in metrics["test"]


def test_moved_rows_have_the_columns_and_lattice_of_the_source(run, tables):
    header, rows = read_csv((run / "forward.csv").read_text())
    assert header == ["row", "height", "<b>weight & $x$</b>", "count"]
    assert len(rows) == 18
    assert np.array_equal(rows[:, 3], rows[:, 3].round())
    held = read_ends(*(EndSource(str(path)) for path in tables)).splits[0].test
    assert rows[:, 0].tolist() == (held + 1).tolist()


def test_a_complete_run_is_not_fitted_again(run, tables, girsanov):
    before = (run / "model.safetensors").stat().st_mtime_ns
    result = girsanov("bridge", *tables, "--out", run, *TINY, "--json")
    assert result.code == 0
    assert "nothing to fit again" in result.err
    assert result.json["kind"] == "bridge"
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_bridge(run, tables, girsanov, tmp_path):
    result = girsanov("bridge", *tables, "--out", tmp_path / "again", *TINY)
    assert "start: energy distance" in result.err
    assert "round 2 of 2" in result.err
    assert "report:" in result.out
    assert "untouched" in result.out
    for name in ("model.safetensors", "forward.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_a_stopped_fit_goes_on(run, tables, girsanov, tmp_path, monkeypatch):
    """Stopped when the first alternation is over: the same bits as the run that was left alone."""
    import girsanov.runs.bridge as module

    errors, calls = module.errors, []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted(signal.SIGTERM)
        return errors(*arguments, **options)

    monkeypatch.setattr(module, "errors", stopping)
    stopped = girsanov("bridge", *tables, "--out", tmp_path / "run", *TINY)
    assert stopped.code == 143
    assert "run the same command again" in stopped.err
    assert not (tmp_path / "run" / "metrics.json").exists()
    half = girsanov("translate", tmp_path / "run", tables[0])
    assert half.code == 2
    assert "not complete" in half.err
    monkeypatch.undo()
    assert girsanov("bridge", *tables, "--out", tmp_path / "run", *TINY).code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_translate_moves_rows_of_a_file(run, tables, girsanov, tmp_path):
    result = girsanov("translate", run, tables[0], "--limit", "50")
    header, rows = read_csv(result.out)
    assert header == ["height", "<b>weight & $x$</b>", "count"]
    before = read_csv(tables[0].read_text())[1][:50]
    assert rows.shape == (50, 3)
    assert 2.0 < float((rows - before)[:, :2].mean()) < 4.0
    assert girsanov("translate", run, tables[0], "--limit", "50").out == result.out
    assert girsanov("translate", run, tables[0], "--limit", "50", "--seed", "1").out != result.out
    back = girsanov("translate", run, tables[1], "--direction", "backward", "--json")
    assert len(back.out.splitlines()) == 90
    assert set(json.loads(back.out.splitlines()[0])) == {"height", "<b>weight & $x$</b>", "count"}
    written = girsanov("translate", run, tables[0], "--out", tmp_path / "moved.npy")
    assert written.out == ""
    assert np.load(tmp_path / "moved.npy").shape == (120, 3)


def test_a_row_is_moved_by_the_library_as_by_the_command(run, tables, girsanov):
    model = BridgeModel.load(run)
    x = pd.read_csv(tables[0], float_precision="round_trip")[:5]  # noise is keyed by a row's digits
    _, rows = read_csv(girsanov("translate", run, tables[0], "--limit", "5").out)
    assert np.allclose(model.translate(x, seed=0).to_numpy(), rows)


def test_images_of_chosen_classes(images, girsanov, tmp_path):
    metrics = json.loads((images / "metrics.json").read_text())
    assert metrics["source"] == {"name": "digits", "classes": ["0", "2"]}
    moved = np.load(images / "forward.npy")
    assert moved.shape == (9, 1, 8, 8)
    assert np.array_equal(moved, moved.round())
    assert girsanov("translate", images, "digits", "--limit", "4", "--out", tmp_path / "x.png").code == 0
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    printed = girsanov("translate", images, "digits", "--limit", "4")
    assert printed.code == 2
    assert "images" in printed.err


def test_only_rows_of_the_chosen_classes_are_moved(images, girsanov, tmp_path):
    digits = read("digits")
    chosen = np.isin(digits.labels, [0, 2])
    np.save(tmp_path / "chosen.npy", digits.stack[chosen])
    for name, options in (("a", ("digits", "--classes", "0,2")), ("b", (tmp_path / "chosen.npy",))):
        result = girsanov("translate", images, *options, "--limit", "40", "--out", tmp_path / f"{name}.npy")
        assert result.code == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert girsanov("translate", images, "digits", "--classes", "0,2", "--out", tmp_path / "all.npy").code == 0
    assert len(np.load(tmp_path / "all.npy")) == chosen.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("digits", "--classes", "0,eleven"), "no class 'eleven'"),
        (("plain.npy", "--classes", "0"), "no classes to choose from"),
        (("digits", "--classes", ","), "at least one name"),
    ],
)
def test_classes_that_cannot_be_chosen(options, message, images, girsanov, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("plain.npy", read("digits").stack[:5])
    result = girsanov("translate", images, *options, "--out", "moved.npy")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def write_odd_images(folder):
    """Two files of images whose sides are odd."""
    paths = folder / "a.npy", folder / "b.npy"
    for seed, path in enumerate(paths):
        np.save(path, rng(seed).integers(0, 17, (60, 1, 7, 7)))
    return paths


def test_images_with_odd_sides_get_a_network_of_units_and_a_note(girsanov, tmp_path):
    options = [option for option in TINY if option not in ("--width", "8")]
    result = girsanov("bridge", *write_odd_images(tmp_path), "--out", tmp_path / "run", *options)
    assert result.code == 0
    assert "images of shape (1, 7, 7) get mlp networks" in result.err
    settings = json.loads((tmp_path / "run" / "data.json").read_text())["settings"]
    assert (settings["network"], settings["width"]) == ("mlp", 128)
    assert np.load(tmp_path / "run" / "forward.npy").shape == (9, 1, 7, 7)


def test_images_with_odd_sides_take_no_convolutions(girsanov, tmp_path):
    ends = write_odd_images(tmp_path)
    result = girsanov("bridge", *ends, "--out", tmp_path / "run", *TINY, "--network", "conv", "--quiet")
    assert result.code == 2
    assert "even sides of 4 or more; these rows have shape (1, 7, 7): use mlp" in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file.txt/sub", "file.txt", "a" * 300])
def test_folders_that_cannot_be_made(place, tables, girsanov, tmp_path):
    (tmp_path / "file.txt").write_text("dear")
    result = girsanov("bridge", *tables, "--out", tmp_path / place, *TINY, "--quiet")
    assert result.code == 2
    assert "choose another --out" in result.err
    assert result.err.count("\n") == 1


def test_a_bridge_to_a_normal_law_has_a_bound_and_draws(to_normal, girsanov):
    metrics = json.loads((to_normal / "metrics.json").read_text())
    entry = metrics["test"]["elbo"]
    assert (entry["kind"], entry["model"], entry["measure"]) == ("lower_bound", "chain", "mixed")
    assert entry["nats"] < 0
    assert metrics["history"][-1]["elbo"] > metrics["history"][0]["elbo"] - 1.0
    drawn = girsanov("translate", to_normal, "-n", "7")
    assert read_csv(drawn.out)[1].shape == (7, 3)
    for options in ((to_normal,), ("--classes", "0")):
        refused = girsanov("translate", to_normal, *options)
        assert refused.code == 2
        assert "leave DATA, --direction and --classes out" in refused.err


@pytest.mark.parametrize("option", ["rounds", "paths"])
def test_what_a_bridge_to_a_normal_law_would_ignore_is_refused(option, tables, girsanov, tmp_path):
    run = tmp_path / "run"
    result = girsanov("bridge", tables[0], "normal", "--out", run, *TINY_TO_NORMAL, f"--{option}", "60", "--quiet")
    assert result.code == 2
    assert f"{option} has no effect on a bridge to a normal law" in result.err
    assert result.err.count("\n") == 1
    assert not run.exists()


def test_the_settings_of_a_bridge_to_a_normal_law_are_complete(to_normal):
    settings = json.loads((to_normal / "metrics.json").read_text())["settings"]
    assert (settings["sigma"], settings["chain_steps"]) == (1.0, 4)
    assert not {"rounds", "paths", "warm_start"} & set(settings)


def test_the_bound_is_in_the_units_of_the_data(tmp_path):
    """Normal data, whose bridge is the closed form that training starts from: minus the entropy, but for the chain."""
    generator = seeded(0)
    x = torch.randn(4000, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 0.1]) + 5.0
    np.save(tmp_path / "x.npy", x.numpy())
    ends = read_ends(EndSource(str(tmp_path / "x.npy")), EndSource("normal"))
    config = LawBridgeConfig(steps=1, width=8, blocks=1, chain_steps=40, batch_size=64)
    entry = fit_run(BridgeRun(ends, config), tmp_path / "run")["test"]["elbo"]
    # the entropy of the law; the held-out mean of 600 rows has standard error 1/sqrt(600), and the chain's gap is below
    # 0.1 at 40 steps: 4 standard errors are passed by chance once in 16,000
    expected = -(1.0 + np.log(2.0 * np.pi) + np.log(2.0 * 0.1))
    assert expected - 0.1 - 4 / 600**0.5 < entry["nats"] < expected + 4 / 600**0.5
    assert entry["measure"] == "density"


def test_reports_can_be_written_again(run, girsanov, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    assert girsanov("report", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_a_time_budget_plans_the_steps(tables, girsanov, tmp_path):
    options = [option for option in TINY if option not in ("--steps", "6")] + ["--time-budget", "1"]
    result = girsanov("bridge", *tables, "--out", tmp_path / "run", *options, "--json", "--quiet")
    assert result.json["steps"] >= 20
    assert result.json["timing"]["training"] < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source-classes", "a"], "no classes to choose from"),
        (["--source-classes", ","], "at least one name"),
        (["--sigma", "0"], "sigma must be positive"),
        (["--start", "warm"], "start must be"),
        (["--network", "cnn"], "network must be"),
        (["--network", "conv"], "needs images (c, h, w) with even sides of 4 or more; these rows have shape (3,)"),
        (["--time-budget", "5", "--steps", "6"], "either steps or a time budget"),
        (["--drop", "hair"], "no column 'hair'"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_options_that_cannot_work(options, message, tables, girsanov, tmp_path):
    result = girsanov("bridge", *tables, "--out", tmp_path / "run", *options, "--quiet")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (("a.csv", "gone.csv"), "no such file"),
        (("a.csv", "digits"), "holds images"),
        (("a.csv", "wine"), "lacks column"),
        (("normal", "a.csv"), "TARGET"),
        (("a.csv", "short.csv"), "too few"),
        (("digits", "digits", "--target-classes", "eleven"), "no class 'eleven'"),
        (("a.csv", "normal", "--target-classes", "1"), "--target-classes"),
    ],
)
def test_ends_that_do_not_fit(ends, message, tables, girsanov, tmp_path, monkeypatch):
    monkeypatch.chdir(tables[0].parent)
    lines = tables[0].read_text().splitlines()
    (tables[0].parent / "short.csv").write_text("\n".join(lines[:20]) + "\n")
    result = girsanov("bridge", *ends, "--out", tmp_path / "run")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_folders_of_other_runs_are_refused(run, tables, complete, girsanov, tmp_path):
    other = girsanov("bridge", tables[1], tables[0], "--out", run, *TINY, "--quiet")
    assert "other data" in other.err
    settings = girsanov("bridge", *tables, "--out", run, *TINY, "--sigma", "0.7", "--quiet")
    assert "sigma=0.5, not 0.7" in settings.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    full = girsanov("bridge", *tables, "--out", tmp_path / "full", *TINY, "--quiet")
    assert "not of such a run" in full.err
    density = girsanov("translate", complete[1], tables[0])
    assert "no bridge" in density.err
    assert {other.code, settings.code, full.code, density.code} == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give DATA"),
        (("wine",), "lacks column"),
        (("DATA", "--direction", "up"), "forward or backward"),
        (("DATA", "--out", "moved.txt"), "ends in .csv"),
    ],
)
def test_rows_that_cannot_be_moved(arguments, message, run, tables, girsanov):
    result = girsanov("translate", run, *(str(tables[0]) if a == "DATA" else a for a in arguments))
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_density_commands_say_that_a_bridge_is_no_density_model(run, girsanov):
    for command in (("evaluate", run), ("sample", run)):
        result = girsanov(*command)
        assert result.code == 2
        assert result.err.count("\n") == 1


def test_the_commands_explain_themselves(girsanov):
    for command in ("bridge", "translate"):
        result = girsanov(command, "--help")
        assert result.code == 0
        assert f"Example: girsanov {command}" in " ".join(result.out.split())


def test_a_bad_row_is_a_gap(run, tables, girsanov, tmp_path):
    lines = tables[0].read_text().splitlines()[:5]
    lines[2] = "," + lines[2].split(",", 1)[1]
    (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")
    result = girsanov("translate", run, tmp_path / "bad.csv")
    assert result.code == 0, result.err
    assert "1 row has no value: row 2, column 'height' is missing" in result.err
    _, rows = read_csv(result.out)
    assert np.isnan(rows).all(1).tolist() == [False, True, False, False]
    (tmp_path / "good.csv").write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    assert np.array_equal(rows[[0, 2, 3]], read_csv(girsanov("translate", run, tmp_path / "good.csv").out)[1])
    found = [json.loads(line) for line in girsanov("translate", run, tmp_path / "bad.csv", "--json").out.splitlines()]
    assert (
        [line["count"] is None for line in found] == ["error" in line for line in found] == [False, True, False, False]
    )
    assert girsanov("translate", run, tmp_path / "bad.csv", "--out", tmp_path / "moved.npy").code == 0
    assert np.allclose(np.load(tmp_path / "moved.npy"), rows, equal_nan=True)
    assert read_csv(girsanov("translate", run, tmp_path / "bad.csv", "--limit", "2").out)[1].shape == (2, 3)
    failed = girsanov("translate", run, tmp_path / "bad.csv", "--on-error", "fail")
    assert (failed.code, failed.out, "row 2, column 'height' is missing" in failed.err) == (2, "", True)
