import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import girsanov.training


def drive(folder, kills, steps):
    source = Path(girsanov.training.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("kill_driver.py")), str(folder), str(kills), str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_runs_end_with_the_same_bits(tmp_path):
    outcome = drive(tmp_path, kills=5, steps=240)
    assert outcome["same"]
    assert outcome["log"]
    assert outcome["leftovers"] == []


@pytest.mark.slow
def test_many_kills(tmp_path):
    outcome = drive(tmp_path, kills=60, steps=240)
    assert outcome["same"]
    assert outcome["log"]
    assert outcome["leftovers"] == []
