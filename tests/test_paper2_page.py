"""docs/paper2.md says what the committed results say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_its_script_writes():
    command = [sys.executable, "benchmarks/paper2/summary.py"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    page = (ROOT / "docs" / "paper2.md").read_text(encoding="utf-8")
    assert printed.strip() == page.strip(), "run python benchmarks/paper2/summary.py --write"


@pytest.mark.parametrize("name", ["certificate", "classifier", "novelty"])
def test_its_figures_are_there_and_small(name):
    path = ROOT / "docs" / "figures" / f"paper2-{name}.png"
    assert f"figures/{path.name}" in (ROOT / "docs" / "paper2.md").read_text(encoding="utf-8")
    assert 0 < path.stat().st_size < 150 * 1024
