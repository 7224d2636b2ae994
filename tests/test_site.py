"""The site: it builds without a warning, leaves no public name or verb out, and every link in it leads somewhere.

Links are followed twice: in the Markdown files, as GitHub does, and in the pages that were built. Nothing is fetched.
"""

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

import girsanov
from girsanov.cli.app import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = (DOCS / "project", DOCS / "reference" / "api")  # by the build
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *(path for path in sorted(DOCS.rglob("*.md")) if not set(WRITTEN) & set(path.parents)),
    *TUTORIALS,
]
ADDRESS = re.compile(r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/\S*)?")


@pytest.fixture(scope="module")
def extension():
    """A module of docs/_extensions by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "_extensions"))
        yield importlib.import_module


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def markdown(path, as_markdown):
    """Links and anchors of a page."""
    text = path.read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(as_markdown(text) if path.suffix == ".py" else text)
    inner = [token for token in tokens if token.type == "inline"]
    links = [
        token.attrs.get("href", token.attrs.get("src"))
        for parent in inner
        for token in parent.children
        if token.type in ("link_open", "image")
    ]
    heads = [inner.content for head, inner in pairwise(tokens) if head.type == "heading_open"]
    return links, {slug(re.sub(r"[`*]", "", head)) for head in heads}


class Built(HTMLParser):
    """Links and anchors of a page that was built."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.links += [found[name] for name in ("href", "src") if found.get(name) is not None]


def lost(path, links, anchors_of):
    """Links of a page that lead nowhere.

    Args:
        path: the page.
        links: as they stand there.
        anchors_of: of another page, or of this one.
    """

    def leads(link):
        parts = urlsplit(link)
        if parts.scheme in ("http", "https"):
            return bool(ADDRESS.fullmatch(link))
        target = path.parent / unquote(parts.path) if parts.path else path
        known = not parts.fragment or unquote(parts.fragment) in anchors_of(target)
        inside = target.exists() and not set(WRITTEN) & set(target.resolve().parents)
        return parts.scheme == "" and inside and known

    return [link for link in links if not leads(link)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_file_lead_somewhere(path, extension):
    as_markdown = extension("percent").as_markdown
    links, _ = markdown(path, as_markdown)
    assert not lost(path, links, lambda target: markdown(target, as_markdown)[1])


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(
        "# A *b* `c`, d\n\n[x](other.md#there) [y](#a-b-c-d) [z](https://example.org/a)\n", encoding="utf-8"
    )
    other.write_text("## There\n", encoding="utf-8")
    links, anchors = markdown(page, str)
    assert anchors == {"a-b-c-d"}
    bad = ["gone.md", "other.md#gone", "#gone", "https://here", "ftp://example.org"]
    assert lost(page, [*links, *bad], lambda target: markdown(target, str)[1]) == bad


@pytest.mark.slow
def test_the_site_builds_and_every_link_of_it_leads_somewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "doctrees", DOCS, tmp_path]
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.resolve(): Built(path) for path in tmp_path.rglob("*.html")}

    def anchors(path):
        return pages[path.resolve()].anchors | {"", "top"}

    offenders = {str(path): lost(path, page.links, anchors) for path, page in pages.items()}
    assert not {path: links for path, links in offenders.items() if links}

    ids = set().union(*(page.anchors for page in pages.values()))
    assert {f"girsanov.{name}" for name in girsanov.__all__} <= ids
    assert {f"girsanov-{name}" for name in COMMANDS} <= anchors(tmp_path / "reference" / "commands.html")
    assert "cmdoption-girsanov-fit-time-budget" in ids
    for tutorial in TUTORIALS:
        text = (tmp_path / "tutorials" / f"{tutorial.stem}.html").read_text(encoding="utf-8")
        assert "highlight-python" in text
        assert "# %%" not in text


def test_every_public_name_has_one_place_and_something_to_read(extension):
    api = extension("api")
    pages = api.public_names()
    names = [name for found in pages.values() for name in found]
    assert len(set(names)) == len(names)
    for part in girsanov._PARTS:
        module = importlib.import_module(f"girsanov.{part}")
        ids = {id(api.value_of(name)) for name in names}
        assert {name for name in module.__all__ if id(getattr(module, name)) not in ids} == set()
    assert [name for found in pages.values() for name in found if not api.first_line(name)] == []


def test_a_percent_script_is_a_page(extension):
    script = "# ---\n# a: b\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1  # %% no cell\n"
    page = "# Title\n\nText.\n\n```python\nx = 1  # %% no cell\n```\n"
    assert extension("percent").as_markdown(script) == page


def test_links_move_with_their_page(extension):
    outside = extension("outside")
    text = "[a](docs/audit.md) ![b](docs/f.png#c) [d](https://e.org/f) [g](#h) [i](CONTRIBUTING.md#j) [k](LICENSE)"
    moved = "[a](../audit.md) ![b](../f.png#c) [d](https://e.org/f) [g](#h) [i](contributing.md#j) [k](../../LICENSE)"
    assert outside.relinked(text, ROOT / "CHANGELOG.md", DOCS / "project" / "changelog.md") == moved


def test_every_verb_is_told_with_its_options_and_an_example(extension):
    told = extension("commands").reference()
    for name, (_, example) in COMMANDS.items():
        assert f"## girsanov {name}\n" in told
        assert f"$ {example.split(', or ')[0]}\n" in told
    assert "````{option} --time-budget S\n" in told
    assert "[default: digits]".replace("[", r"\[").replace("]", r"\]") in told
