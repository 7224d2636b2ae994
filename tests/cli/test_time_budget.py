"""``--time-budget`` bounds a whole command, by the clock on the wall (how phases share it: tests/runs/test_budget.py).

Seconds in which the processor was busy with others are taken off, where the system counts them: what else a machine
runs does not belong to this test.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.seeds import rng

COMMAND = [sys.executable, "-c", "import sys; from girsanov.cli import main; sys.exit(main())"]
SECONDS = 9
LIMIT = 1.1 * SECONDS + 30.0


@dataclass
class Done:
    """What a command has printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float


def start(*options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *map(str, options)], env=environment, text=True, **pipes)


def run(*options):
    begun, process, waited = time.monotonic(), start(*options), [0.0]

    def watch():
        path = Path(f"/proc/{process.pid}/schedstat")
        while process.poll() is None and path.exists():
            waited[0] = int((path.read_text().split() or ["0", "0"])[1]) / 1e9
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    return Done(process.returncode, out, err, time.monotonic() - begun - waited[0])


@pytest.fixture
def table(tmp_path):
    """Rows enough for every phase to take what it is given."""
    x = rng(0).normal(size=(20_000, 5))
    x[:, 1] += x[:, 0] ** 2
    lines = [",".join(f"{cell!r}" for cell in row) for row in x.tolist()]
    (tmp_path / "table.csv").write_text("a,b,c,d,e\n" + "\n".join(lines) + "\n")
    return tmp_path / "table.csv"


@pytest.mark.slow
def test_a_fit_keeps_to_its_time_and_is_whole(table, tmp_path):
    done = run("fit", table, "--out", tmp_path / "run", "--time-budget", SECONDS, "--json")
    assert done.code == 0, done.err
    assert done.seconds < LIMIT
    metrics = json.loads(done.out)
    assert metrics["settings"]["config"]["time_budget"] == pytest.approx(0.5 * SECONDS)
    assert set(metrics["timing"]) == {"training", "evaluation", "peers"}
    there = {*metrics["test"], *metrics["peers"], *(name.replace(" ", "_") for name in metrics["failed"])}
    assert there - {"likelihood_of_the_ODE", "ode"} == {"elbo", "gaussian", "mixture", "spline_flow"}
    for what, size in metrics["shortened"].items():
        assert f"{what}: {size}, for which there is time" in done.err
        assert size in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_images_train_for_most_of_their_time_and_a_line_says_what_it_buys(tmp_path):
    source, place = rng(0), np.arange(20.0)
    centre = source.uniform(6.0, 14.0, size=(300, 2))
    blobs = [np.exp(-0.1 * ((place[:, None] - row) ** 2 + (place - column) ** 2)) for row, column in centre]
    np.save(tmp_path / "blobs.npy", (255.0 * np.stack(blobs)[:, None]).round().astype(np.uint8))
    done = run("fit", tmp_path / "blobs.npy", "--out", tmp_path / "run", "--time-budget", SECONDS, "--json")
    assert done.code == 0, done.err
    assert done.seconds < LIMIT
    assert re.search(r"network of width \d+, batches of 64, some .* Twice the time would buy", done.err)
    metrics = json.loads(done.out)
    assert metrics["settings"]["config"]["time_budget"] == pytest.approx(0.8 * SECONDS)
    assert {"pixels", "neighbours"} <= {*metrics["peers"], *metrics["failed"]}
    assert metrics["test"]["elbo"]["measure"] == "mass"


@pytest.mark.slow
def test_a_fit_that_was_stopped_goes_on_within_its_time(table, tmp_path, girsanov):
    options = ("fit", table, "--out", tmp_path / "run", "--time-budget", SECONDS, "--no-flow")
    process = start(*options)
    folder, deadline = tmp_path / "run", time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "allowance.json").exists():
        time.sleep(0.02)
    time.sleep(0.5)  # by then it is training
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    again = run(*options)
    assert again.code == 0, again.err
    assert again.seconds < LIMIT
    assert (folder / "report.html").exists()
    assert "nothing to fit again" in girsanov(*options).err


@pytest.mark.slow
def test_a_bridge_keeps_to_its_time(table, tmp_path):
    other, lines = tmp_path / "other.csv", table.read_text().splitlines()
    other.write_text("\n".join([lines[0], *lines[5000:9000]]) + "\n")
    done = run("bridge", table, other, "--out", tmp_path / "run", "--time-budget", SECONDS, "--json")
    assert done.code == 0, done.err
    assert done.seconds < LIMIT
    assert json.loads(done.out)["settings"]["time_budget"] == pytest.approx(0.7 * SECONDS)
