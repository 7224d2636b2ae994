"""Where pages are: those outside of docs/, where GitHub looks for them, and the order of those inside."""

import os
import re
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.directives.other import TocTree

ROOT = Path(__file__).parents[2]
PAGES = {  # file in the repository -> page of the site
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")


def relinked(text: str, old: Path, new: Path) -> str:
    """A page's relative links, where the page moves from one file to another and outside pages into the site.

    Args:
        text: of the page.
        old: its file.
        new: the file that it is for the site.
    """

    def moved(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(old.parent / match[1]))
        page = PAGES.get(os.path.relpath(target, ROOT))
        return "](" + os.path.relpath(ROOT / "docs" / page if page else target, new.parent)

    return LINK.sub(moved, text)


def write(path: Path, text: str) -> None:
    """Write a page unless it is there already, so that a second build is quick."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


class Pages(TocTree):
    """``{pages}``: a toctree whose patterns give the order; a page is taken once, and a pattern may match none."""

    def run(self) -> list[nodes.Node]:
        """Name the pages that are there."""
        there = sorted(self.env.found_docs)
        pages = dict.fromkeys(name for pattern in self.content for name in matching(there, pattern))
        self.content = StringList([f"/{name}" for name in pages], source=self.env.docname)
        return super().run() if pages else []


def _write_pages(app: Any) -> None:
    for source, page in PAGES.items():
        old, new = ROOT / source, Path(app.srcdir) / page
        write(new, relinked(old.read_text(encoding="utf-8"), old, new))


def _read(app: Any, docname: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(docname))
    if path.parent.name != "project":
        source[0] = relinked(source[0], path, path)
    if path.name == "README.md":  # the list of its folder
        source[0] += "\n```{toctree}\n:glob:\n:maxdepth: 1\n\n*\n```\n"


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before the folder is read."""
    app.add_directive("pages", Pages)
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
