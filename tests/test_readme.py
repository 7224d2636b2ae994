"""The README's figures are those of the committed results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_measured_block_is_what_the_results_say():
    block = subprocess.run(
        [sys.executable, "summary.py"], cwd=ROOT / "benchmarks", check=True, capture_output=True, text=True
    ).stdout.strip()
    assert block in (ROOT / "README.md").read_text()
