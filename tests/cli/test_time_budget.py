"""``--time-budget`` bounds a whole command, by the clock on the wall."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.seeds import rng

COMMAND = [sys.executable, "-c", "import sys; from girsanov.cli import main; sys.exit(main())"]
SECONDS = 12


def within(seconds):
    """The seconds that a command of this budget may take: those of one core that is busy with other things, too."""
    return 1.1 * seconds + 30.0


@pytest.fixture
def table(tmp_path):
    """Rows enough for every phase to take what it is given."""
    x = rng(0).normal(size=(20_000, 5))
    x[:, 1] += x[:, 0] ** 2
    lines = [",".join(f"{cell!r}" for cell in row) for row in x.tolist()]
    (tmp_path / "table.csv").write_text("a,b,c,d,e\n" + "\n".join(lines) + "\n")
    return tmp_path / "table.csv"


@pytest.mark.slow
def test_a_fit_keeps_to_its_time_and_every_phase_gets_its_share(table, tmp_path):
    options = ["fit", str(table), "--out", str(tmp_path / "run"), "--time-budget", str(SECONDS), "--json"]
    begun = time.monotonic()
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < within(SECONDS)
    metrics = json.loads(done.stdout)
    assert metrics["settings"]["config"]["time_budget"] == pytest.approx(0.5 * SECONDS)
    assert metrics["timing"]["training"] > 0.2 * SECONDS
    assert min(metrics["timing"].values()) > 0.0
    assert {"elbo", "ode"} == set(metrics["test"])
    assert "gaussian" in metrics["peers"]
    assert metrics["shortened"]["rows of the bound"].endswith("of 4,000")
    for what, size in metrics["shortened"].items():
        assert f"{what}: {size}, for which there is time" in done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert metrics["shortened"]["rows of the bound"] in page


@pytest.mark.slow
def test_a_fit_that_was_stopped_goes_on_within_its_time(table, tmp_path):
    options = ["fit", str(table), "--out", str(tmp_path / "run"), "--time-budget", str(SECONDS), "--no-flow"]
    process = subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "run" / "train.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 1):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    begun = time.monotonic()
    again = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begun < within(SECONDS)
    assert "going on from step" in again.stderr
    assert "nothing to fit again" in subprocess.run([*COMMAND, *options], capture_output=True, text=True).stderr


@pytest.mark.slow
def test_a_bridge_keeps_to_its_time(table, tmp_path):
    other = tmp_path / "other.csv"
    lines = table.read_text().splitlines()
    other.write_text("\n".join([lines[0], *lines[5000:9000]]) + "\n")
    options = [
        "bridge",
        str(table),
        str(other),
        "--out",
        str(tmp_path / "run"),
        "--time-budget",
        str(SECONDS),
        "--json",
    ]
    begun = time.monotonic()
    done = subprocess.run([*COMMAND, *options, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < within(SECONDS)
    assert json.loads(done.stdout)["settings"]["time_budget"] == pytest.approx(0.7 * SECONDS)
