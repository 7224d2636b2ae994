"""The index of the benchmarks, benchmarks/README.md, written from their pages and by nobody's hand.

python -m benchmarks.index            # print
python -m benchmarks.index --write    # put between the page's markers
"""

__all__ = ["PAGE"]

import ast
import os
from pathlib import Path

from benchmarks._page import BEGIN, END, RESULTS, ROOT, SCRIPTS, Page, command, script_of, table

FOLDER = ROOT / "benchmarks"


def claim(script: Path) -> str:
    """What a script shows: the first sentence of its page."""
    page = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return " ".join(page.split("\n\n")[0].split()).removesuffix(".").split(". ")[0]


def results(script: Path) -> str:
    """Links to what it has recorded."""
    found = [path for path in sorted(RESULTS.glob("*.json")) if script_of(path.stem) == script]
    return ", ".join(f"[{path.stem}]({os.path.relpath(path, FOLDER)})" for path in found) or "not recorded yet"


class Index(Page):
    """One table for each folder."""

    def block(self) -> str:
        """The tables, between the markers."""
        parts = {path.parent: [s for s in SCRIPTS.values() if s.parent == path.parent] for path in SCRIPTS.values()}
        found = []
        for folder, scripts in sorted(parts.items()):
            rows = [(claim(script), f"`{command(script)}`", results(script)) for script in scripts]
            title = "The library" if folder == FOLDER else folder.name.capitalize().replace("Paper", "Paper ")
            found += ["", f"## {title}", "", *table(("shows", "command", "results"), rows)]
        return "\n".join([BEGIN, *found, "", END])


PAGE = Index(FOLDER / "README.md", {})

if __name__ == "__main__":
    PAGE.main(__doc__)
