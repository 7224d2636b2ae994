"""Every benchmark is a script of one claim with one record; see benchmarks/README.md."""

import ast
import json

import pytest

from benchmarks._page import RESULTS, ROOT, SCRIPTS, script_of
from benchmarks._record import Command, record, settings

TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SCRIPTS.items()}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_record_has_its_script(path):
    assert script_of(path.stem) is not None
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == path.stem


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_a_page_a_record_and_a_quick_check(name):
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    called = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    assert {"Command", "record"} <= called
    assert "python -m benchmarks." in ast.get_docstring(TREES[name])
    assert any(isinstance(node, ast.Attribute) and node.attr == "quick" for node in ast.walk(TREES[name]))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_quick_value_is_that_of_an_option(name):
    """Else it would change nothing."""
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    quick = {k.arg for c in calls if isinstance(c.func, ast.Name) and c.func.id == "Command" for k in c.keywords}
    text = SCRIPTS[name].read_text(encoding="utf-8")
    for option in quick:
        assert f'"--{option.replace("_", "-")}"' in text or f'("{option.replace("_", "-")}", ' in text, option


def test_there_are_no_stray_files():
    folder = ROOT / "benchmarks"
    found = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert found == {folder / "README.md", *folder.glob("*.py"), *folder.glob("*/*.py"), *RESULTS.glob("*.json")}


def test_quick_takes_the_place_of_defaults_alone():
    parser = Command("What it shows.", rows=4, seeds=[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    assert settings(parser.parse_args([])) == {"rows": 1000, "seeds": [0, 1, 2]}
    quick = parser.parse_args(["--quick", "--rows", "7"])
    assert quick.quick
    assert settings(quick, "seeds") == {"rows": 7}


def test_a_record_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks._record.RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks._record.calibration_seconds", lambda: 0.0)
    found = json.loads(record("x", [{"a": float("inf")}], total=2).read_text())
    assert {"name", "date", "commit", "machine", "versions", "calibration_seconds", "total", "rows"} == set(found)
    assert (found["rows"], found["total"]) == ([{"a": None}], 2)
