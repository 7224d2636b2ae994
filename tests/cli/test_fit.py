import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from girsanov.cli.fit import _folder_name
from tests.seeds import seeded

FILES = {
    "config.json",
    "manifest.json",
    "metrics.json",
    "model.safetensors",
    "report.html",
    "samples.png",
    "test.csv",
    "train.jsonl",
}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_has_its_files(complete):
    _, run, _ = complete
    assert {path.name for path in run.iterdir()} >= FILES
    assert not [path for path in run.rglob("*") if path.name.startswith(".tmp")]


def test_metrics_say_what_each_number_is(complete):
    _, run, _ = complete
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"elbo", "ode"} == set(metrics["test"])
    assert set(metrics["peers"]) == {"gaussian", "mixture", "spline_flow"}
    entries = [*metrics["test"].values(), *metrics["peers"].values()]
    for entry in entries:
        assert {"nats", "bits_per_dim", "stderr", "rows_stderr", "kind", "model", "nfe"} <= set(entry)
    assert metrics["test"]["elbo"]["model"] == "sde"
    assert metrics["test"]["ode"]["model"] == "ode"
    assert metrics["test"]["ode"]["rows"] == 2
    assert {entry["model"] for entry in metrics["peers"].values()} == {"density"}
    assert metrics["test"]["elbo"]["bits_per_dim"] is None  # two columns are continuous
    assert metrics["seconds"] == pytest.approx(sum(metrics["timing"].values()), abs=0.1)


def test_the_rows_of_test_csv_make_the_metrics(complete):
    _, run, _ = complete
    metrics = json.loads((run / "metrics.json").read_text())
    rows = list(csv.DictReader((run / "test.csv").read_text().splitlines()))
    assert len(rows) == metrics["rows"]["evaluated"] == 24
    for name, entry in {"elbo": metrics["test"]["elbo"], **metrics["peers"]}.items():
        mean = sum(float(row[name]) for row in rows) / len(rows)
        assert mean == pytest.approx(entry["nats"], rel=1e-12)
    gap = metrics["peers"]["gaussian"]["difference"]
    assert gap["nats"] == pytest.approx(metrics["test"]["elbo"]["nats"] - metrics["peers"]["gaussian"]["nats"])
    assert gap["low"] < gap["nats"] < gap["high"]


def test_the_same_command_again_prints_the_same_table(complete, girsanov):
    data, run, options = complete
    before = {name: (run / name).stat().st_mtime_ns for name in FILES}
    again = girsanov("fit", data, "--out", run, *options[:-1])
    assert again.code == 0
    assert "complete" in again.err
    assert "girsanov, SDE" in again.out
    assert f"report: {run / 'report.html'}" in again.out
    assert before == {name: (run / name).stat().st_mtime_ns for name in FILES}


def test_json_is_alone_on_standard_output(complete, girsanov):
    data, run, options = complete
    again = girsanov("fit", data, "--out", run, *options[:-1], "--json")
    assert again.json == json.loads((run / "metrics.json").read_text())


def test_other_evaluation_settings_do_not_train_again(run_copy, girsanov, tiny):
    run, data = run_copy
    weights = digest(run / "model.safetensors")
    result = girsanov("fit", data, "--out", run, *tiny[:-1], "16", "--no-peers", "--ode-rows", "0", "--json")
    assert result.code == 0
    assert result.json["test"]["elbo"]["nfe"] == 16
    assert digest(run / "model.safetensors") == weights


def test_bits_per_dimension_where_every_column_is_discrete(tmp_path, girsanov, quick):
    data = tmp_path / "counts.csv"
    numbers = torch.randint(0, 6, (90, 2), generator=seeded(0)).tolist()
    data.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in numbers))
    result = girsanov("fit", data, "--out", tmp_path / "run", *quick)
    assert result.code == 0, result.err
    assert "bits/dim" in result.out
    assert "Discrete, dequantised" in result.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    elbo = metrics["test"]["elbo"]
    assert elbo["bits_per_dim"] == pytest.approx(-elbo["nats"] / (2 * torch.log(torch.tensor(2.0)).item()))


def test_the_command_overrules_how_columns_are_read(tmp_path, girsanov, quick):
    data = tmp_path / "counts.csv"
    numbers = torch.randint(0, 60, (90, 3), generator=seeded(0)).tolist()
    data.write_text("a,b,c\n" + "".join(f"{a},{b},{c}\n" for a, b, c in numbers))
    stated = ("--continuous", "a,b", "--lattice", "c=1/2", *quick)
    result = girsanov("fit", data, "--out", tmp_path / "run", *stated)
    assert result.code == 0, result.err
    assert "Continuous as asked: a, b." in result.err
    rules = json.loads((tmp_path / "run" / "config.json").read_text())["schema"]["rules"]
    assert [rule["lattice"]["step"] for rule in rules] == [0.0, 0.0, 0.5]
    assert "is complete" in girsanov("fit", data, "--out", tmp_path / "run", *stated).err
    other = girsanov("fit", data, "--out", tmp_path / "run", "--continuous", "a", *quick)
    assert other.code == 2
    assert "read columns as other lattices or densities: choose another --out" in other.err
    wrong = girsanov("fit", data, "--out", tmp_path / "other", "--lattice", "c", *quick)
    assert wrong.code == 2
    assert "--lattice c: there is no =; give COL=STEP" in wrong.err


def test_cells_that_look_missing_are_a_level_where_that_is_said(tmp_path, girsanov, quick):
    data = tmp_path / "houses.csv"
    sizes = torch.randn(90, generator=seeded(0)).tolist()
    data.write_text("alley,size\n" + "".join(f"{['NA', 'Grvl', 'Pave'][i % 3]},{s!r}\n" for i, s in enumerate(sizes)))
    refused = girsanov("fit", data, "--out", tmp_path / "run", "--categorical", *quick)
    assert refused.code == 2
    assert "holds 'NA', which is read as missing" in refused.err
    assert "with --missing-as-level alley" in refused.err
    stated = ("--categorical", "--missing-as-level", "alley")
    result = girsanov("fit", data, "--out", tmp_path / "run", *stated, *quick)
    assert result.code == 0, result.err
    assert "Read as levels, though they look missing: alley (NA in 30 rows)." in result.err
    assert girsanov("sample", tmp_path / "run", "-n", "40", "--steps", "4", "--out", tmp_path / "new.csv").code == 0
    assert ",".join(sorted({line.split(",")[0] for line in (tmp_path / "new.csv").read_text().splitlines()[1:]})) == (
        "Grvl,NA,Pave"
    )
    scores = girsanov("score", tmp_path / "run", tmp_path / "new.csv", "--samples", "4")
    assert scores.code == 0, scores.err
    assert "nan" not in scores.out


def test_limit_keeps_row_numbers_of_the_source(tmp_path, girsanov, quick, write_table):
    data = write_table(tmp_path / "data.csv")
    result = girsanov("fit", data, "--limit", "40", "--out", tmp_path / "run", *quick, "--json")
    assert result.json["data"]["rows"] == 40
    scores = girsanov("evaluate", tmp_path / "run", "--samples", "8", "--json", "--quiet")
    assert scores.json["test"]["elbo"]["nats"] == pytest.approx(result.json["test"]["elbo"]["nats"])
    rows = [int(row["row"]) for row in csv.DictReader((tmp_path / "run" / "test.csv").read_text().splitlines())]
    assert len(rows) == 8
    assert max(rows) > 40


@pytest.mark.slow
def test_images_and_classes(tmp_path, girsanov):
    run = tmp_path / "run"
    options = ["--limit", "60", "--steps", "2", "--width", "4", "--conditional", "--no-peers", "--ode-rows", "0"]
    result = girsanov("fit", "digits", "--out", run, *options, "--samples", "8", "--json")
    assert result.code == 0, result.err
    assert result.json["test"]["elbo_given_class"]["bits_per_dim"] > 0
    assert "SDE, given its class" in girsanov("fit", "digits", "--out", run, *options, "--samples", "8").out
    assert girsanov("sample", run, "--class", "3", "-n", "4", "--steps", "4", "--out", tmp_path / "3.png").code == 0
    assert (tmp_path / "3.png").read_bytes()[1:4] == b"PNG"
    wrong = girsanov("sample", run, "--class", "ten", "--out", tmp_path / "x.png")
    assert wrong.code == 2
    assert "give one of 0, 1" in wrong.err


BAD = {
    "no such file": (["fit", "absent.csv"], "there is no such file"),
    "unknown name": (["fit", "digitz"], "Did you mean digits?"),
    "missing value": (["fit", "gaps.csv"], "gaps.csv"),
    "text column": (["fit", "text.csv"], "text.csv"),
    "discrete column refused": (["fit", "data.csv", "--no-discrete"], "count"),
    "unknown column to drop": (["fit", "data.csv", "--drop", "depth"], "no column 'depth'"),
    "every column dropped": (["fit", "text.csv", "--drop", "a", "--drop", "b"], "every column"),
    "too few rows": (["fit", "short.csv"], "rows"),
    "empty file": (["fit", "empty.csv"], "is empty"),
    "unknown network": (["fit", "data.csv", "--network", "transformer"], "Unknown network"),
    "network for images": (["fit", "data.csv", "--network", "conv", "--no-flow"], "needs images"),
    "unknown process": (["fit", "data.csv", "--process", "brownian"], "Unknown process"),
    "no steps": (["fit", "data.csv", "--steps", "0"], "--steps"),
    "a word for a number": (["fit", "data.csv", "--steps", "many"], "--steps"),
    "negative budget": (["fit", "data.csv", "--time-budget", "-1", "--no-flow"], "time_budget"),
    "no budget at all": (["fit", "data.csv", "--time-budget", "nan", "--no-flow"], "time_budget"),
    "negative peer budget": (["fit", "data.csv", "--peer-seconds", "-1"], "peer_seconds"),
    "nothing to condition on": (["fit", "data.csv", "--conditional"], "no labels"),
    "no threads": (["fit", "data.csv", "--threads", "0"], "--threads"),
    "negative seed": (["fit", "data.csv", "--seed", "-1"], "--seed"),
    "tiny limit": (["fit", "data.csv", "--limit", "1"], "--limit"),
    "unknown option": (["fit", "data.csv", "--learn"], "--learn"),
    "an option of another network": (
        ["fit", "no such file", "--network", "two-layer", "--blocks", "2"],
        "--blocks has no effect on the two-layer network",
    ),
    "an option of another model": (
        ["fit", "no such file", "--model", "cnf", "--no-flow"],
        "--flow has no effect on the cnf",
    ),
    "an unknown network": (
        ["fit", "no such file", "--network", "big"],
        "choose one of conv, image, mlp, two-layer, unet",
    ),
    "an unknown model": (["fit", "no such file", "--model", "big"], "choose one of diffusion, cnf"),
    "unknown device": (["fit", "data.csv", "--device", "tpu"], "--device"),
    "too many arguments": (["fit", "data.csv", "more.csv"], "more.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, girsanov, write_table):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "data.csv")
    (tmp_path / "gaps.csv").write_text("a,b\n" + "1.5,2.5\n" * 9 + "1.2,\n")
    (tmp_path / "text.csv").write_text("a,b\n" + "".join(f"{i / 7},word{i}\n" for i in range(40)))
    (tmp_path / "short.csv").write_text("a,b\n1.5,2.5\n2.5,7.5\n")
    (tmp_path / "empty.csv").touch()
    arguments, message = BAD[case]
    result = girsanov(*arguments, "--out", "runs/new")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("girsanov: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not (tmp_path / "runs" / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "seed=0, not 1"),
        (["--width", "9"], "width=8, not 9"),
        (["--process", "cosine"], "process=vp, not cosine"),
    ],
)
def test_a_run_of_other_settings_is_refused(change, message, complete, girsanov):
    data, run, options = complete
    result = girsanov("fit", data, "--out", run, *options, *change)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_run_of_other_data_is_refused(complete, tmp_path, girsanov, write_table):
    _, run, options = complete
    other = write_table(tmp_path / "other.csv", seed=1)
    result = girsanov("fit", other, "--out", run, *options)
    assert result.code == 2
    assert "other data" in result.err


def test_a_folder_of_something_else_is_refused(tmp_path, girsanov, quick, write_table):
    data = write_table(tmp_path / "data.csv")
    for out in (tmp_path, data):
        result = girsanov("fit", data, "--out", out, *quick)
        assert result.code == 2
        assert "choose another --out" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_outside_training(signum, code, monkeypatch, girsanov):
    monkeypatch.setattr("girsanov.environment.versions", lambda: signal.raise_signal(signum))
    before = signal.getsignal(signal.SIGTERM)
    result = girsanov("doctor")
    assert result.code == code
    assert result.err.strip().startswith("girsanov: stopped by SIG")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_fault_of_ours_is_not_hidden(monkeypatch, girsanov):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr("girsanov.environment.versions", fail)
    with pytest.raises(ZeroDivisionError):
        girsanov("doctor")


@pytest.mark.slow
def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path, girsanov, quick, write_table):
    data = write_table(tmp_path / "data.csv")
    options = ["--steps", "150", *quick[2:]]
    code = "import sys; from girsanov.cli import main; sys.exit(main())"

    command = [sys.executable, "-c", code, "fit", str(data), "--out", str(tmp_path / "stopped"), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "stopped" / "train.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "girsanov: saved at step" in err
    assert "run the same command again" in err
    assert out == ""
    assert "Traceback" not in err
    again = girsanov("fit", data, "--out", tmp_path / "stopped", *options)
    assert again.code == 0, again.err
    assert "going on from step" in again.err
    alone = girsanov("fit", data, "--out", tmp_path / "alone", *options)
    assert alone.code == 0, alone.err
    assert digest(tmp_path / "stopped" / "model.safetensors") == digest(tmp_path / "alone" / "model.safetensors")
    metrics = [json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("stopped", "alone")]
    assert metrics[0]["test"]["elbo"]["nats"] == metrics[1]["test"]["elbo"]["nats"]


def test_thread_settings_are_made_before_torch(tmp_path):
    code = "import os, sys; from girsanov.cli import main; main(['datasets']); print(os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.splitlines()[-1] == "PASSIVE"


@pytest.mark.parametrize(
    ("data", "name"),
    [("digits", "digits"), ("a/My data.csv.gz", "My-data"), ("./", "data"), ("org/set", "set"), ("..", "data")],
)
def test_names_of_run_folders(data, name):
    assert _folder_name(data) == name


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--model", "cnf"), ("--dequantise", "categorical", "--network", "mlp")])
def test_other_models_and_noises_end_with_a_report(options, girsanov, tmp_path):
    rows = torch.randint(0, 4, (120, 1, 2, 2), generator=seeded(0))
    np.save(tmp_path / "x.npy", rows.numpy().astype(np.uint8))
    result = girsanov(
        "fit",
        tmp_path / "x.npy",
        "--out",
        tmp_path / "run",
        "--steps",
        "3",
        "--width",
        "8",
        "--blocks",
        "1",
        "--no-peers",
        *options,
    )
    assert result.code == 0, result.err
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert ("ode" in test) == ("cnf" in options)
    if "cnf" in options:
        assert test["ode"]["rows"] == test["elbo"]["rows"]


def test_a_device_that_is_missing_is_named_before_anything_is_read(tmp_path, girsanov, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = girsanov("fit", tmp_path / "no such file", "--out", tmp_path / "run", "--device", "cuda")
    assert result.code == 2
    assert "PyTorch finds no CUDA device here: leave --device out, or give --device cpu" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "present", "expected"), [("cuda", True, "cuda"), ("auto", True, "cuda"), ("cpu", True, "cpu")]
)
def test_the_device_reaches_the_fit(tmp_path, girsanov, monkeypatch, option, present, expected):
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: present)
    monkeypatch.setattr("girsanov.runs.fit_run", lambda *_, device, **__: seen.append(device.type) or {})
    monkeypatch.setattr("girsanov.cli.fit.print_result", lambda metrics: None)
    girsanov("fit", "iris", "--out", tmp_path / "run", "--device", option, "--quiet")
    assert seen == [expected]
