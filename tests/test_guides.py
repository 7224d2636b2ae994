"""Every guide runs, block after block, in an empty folder without a warning, and prints what it says that it prints."""

import contextlib
import doctest
import io
import re
import shlex
import warnings
from pathlib import Path

import pytest
from typer.main import get_command

from girsanov.cli.app import app

ROOT = Path(__file__).parents[1]
GUIDES = [
    ROOT / "README.md",
    *sorted(page for part in ("start", "guides", "theory") for page in (ROOT / "docs" / part).glob("*.md")),
]
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)
COMMAND = re.compile(r"^\$ girsanov (\w.*)$", re.MULTILINE)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(guide: Path) -> list[tuple[str, str]]:
    """The page's code, each piece with what it prints."""
    return BLOCK.findall(guide.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_runs_and_prints_what_it_says(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {"__name__": "guide"}
    for code, expected in blocks(guide):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(code, str(guide), "exec"), known)
        found = printed.getvalue()
        assert doctest.OutputChecker().check_output(expected, found, OPTIONS), f"{code}\nprints\n{found}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_its_commands_have_the_options_that_it_gives_them(guide):
    known = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for line in COMMAND.findall(guide.read_text(encoding="utf-8")):
        name, *arguments = shlex.split(line, comments=True)
        known[name].make_context(name, arguments)  # raises for an option that is not there, and runs nothing


def test_a_block_is_found_with_what_it_prints(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n```python\nx = 1\n```\n\nb\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n", encoding="utf-8"
    )
    assert blocks(page) == [("x = 1\n", ""), ("print(x)\n", "1\n")]
