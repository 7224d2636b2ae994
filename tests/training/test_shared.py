"""Processes under ``torchrun``: the numbers of one process, and what becomes of a run that loses one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import girsanov.training
from girsanov.training import checkpoints
from tests.training import shared_driver

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT, ROOT = str(Path(shared_driver.__file__)), Path(__file__).parents[2]


def launched(*command):
    source = Path(girsanov.training.__file__).parents[2]
    added = {"PYTHONPATH": f"{source}:{ROOT}", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment = os.environ | added
    return subprocess.run([*LAUNCHER, *command], env=environment, capture_output=True, text=True, timeout=200)


def lines(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path, float64):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    shared_driver.work(one)
    done = launched(SCRIPT, "work", str(two))
    assert done.returncode == 0, done.stderr
    assert (one / "stopped").exists()
    assert (two / "stopped").exists()
    for part in ("run", "fit"):
        mine, theirs = lines(one / part), lines(two / part)
        assert [line["step"] for line in mine] == [line["step"] for line in theirs]
        losses = [[line["loss"] for line in found if line["loss"] is not None] for found in (mine, theirs)]
        assert len(losses[0]) > 10
        assert losses[1] == pytest.approx(losses[0], rel=1e-9, abs=1e-9)
    (weights, values), (shared_weights, shared_values) = (torch.load(place / "found.pt") for place in (one, two))
    assert len(values) == 3
    for alone, shared in zip(weights, shared_weights, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-7, atol=1e-9)
    for alone, shared in zip(values, shared_values, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-6, atol=1e-6)  # of models that differ in the last digits


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_a_checkpoint(tmp_path):
    done = launched(SCRIPT, "lose", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "A process of this run has died" in done.stderr or "stopped by SIGTERM" in done.stderr, done.stderr
    found = checkpoints.load_latest(tmp_path / "run" / "run" / "checkpoints")
    assert found is not None
    assert found.state["training"]["step"] == shared_driver.KILLED


@pytest.mark.slow
def test_a_command_under_torchrun_writes_what_one_process_writes(tmp_path):
    table = tmp_path / "table.csv"
    np.savetxt(table, np.random.default_rng(0).normal(size=(120, 3)), delimiter=",", header="a,b,c", comments="")
    run, alone, shared = (tmp_path / name for name in ("run", "alone.csv", "shared.csv"))
    done = launched("-m", "girsanov", "fit", str(table), "--out", str(run), "--steps", "20", "--no-peers", "--quiet")
    assert done.returncode == 0, done.stderr
    score = ["score", str(run), str(table), "--samples", "16", "--quiet", "--out"]
    done = launched("-m", "girsanov", *score, str(shared))
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "girsanov", *score, str(alone)], check=True)
    assert shared.read_bytes() == alone.read_bytes()
    refused = launched("-m", "girsanov", "score", str(run), str(tmp_path / "missing.csv"))
    assert refused.returncode != 0
    assert refused.stderr.count("girsanov: ") == 1
