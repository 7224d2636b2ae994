"""The numbers of docs/paper4.md are those of the committed results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_says_what_the_results_say():
    command = [sys.executable, "benchmarks/paper4/summary.py"]
    block = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    assert block in (ROOT / "docs" / "paper4.md").read_text()
