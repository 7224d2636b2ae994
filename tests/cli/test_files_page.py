"""What docs/reference/files.md says of files is what the commands write."""

import csv
import json
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "files.md").read_text(encoding="utf-8")


def told(section):
    """The names in the first column of a section's table."""
    table = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture(scope="module")
def metrics(complete):
    return json.loads((complete[1] / "metrics.json").read_text())


def test_files_of_a_run(complete):
    written = {path.name + "/" * path.is_dir() for path in complete[1].iterdir() if not path.name.startswith(".")}
    assert told("A run") <= written
    assert written - told("A run") <= {"allowance.json"}  # of a time budget, for a run that goes on


def test_keys_of_metrics(metrics):
    assert told("metrics.json") == set(metrics)


@pytest.mark.parametrize("likelihood", ["elbo", "ode"])
def test_keys_of_an_entry(likelihood, metrics):
    assert told("An entry") == set(metrics["test"][likelihood])


def test_a_peer_has_the_same_keys_and_more(metrics):
    entry = metrics["peers"]["gaussian"]
    assert told("An entry") | {"difference"} <= set(entry)


def test_evaluation_prints_an_entry_without_the_training(complete, girsanov):
    printed = girsanov("evaluate", complete[1], "--limit", "3", "--samples", "8", "--json").json
    assert told("An entry") - {"fit_seconds"} == set(printed["test"]["elbo"])


def test_columns_of_scores(complete, girsanov):
    data, run, _ = complete
    lines = girsanov("score", run, data, "--limit", "1", "--samples", "8", "--quiet").out.splitlines()
    (line,) = girsanov("score", run, data, "--limit", "1", "--samples", "8", "--quiet", "--json").out.splitlines()
    assert told("Values of rows") == set(next(csv.reader(lines))) == set(json.loads(line))
