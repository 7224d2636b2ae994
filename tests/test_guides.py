"""Every guide runs, block after block, in an empty folder without a warning, and prints what it says that it prints."""

import contextlib
import doctest
import io
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = sorted(page for part in ("guides", "theory") for page in (ROOT / "docs" / part).glob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(guide: Path) -> list[tuple[str, str]]:
    """The page's code, each piece with what it prints."""
    return BLOCK.findall(guide.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
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


def test_a_block_is_found_with_what_it_prints(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n```python\nx = 1\n```\n\nb\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n", encoding="utf-8"
    )
    assert blocks(page) == [("x = 1\n", ""), ("print(x)\n", "1\n")]
