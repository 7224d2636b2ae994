"""Pages whose figures are written from the committed results: markers, sections, and the command line of each.

``benchmarks/PART/NAME.py`` writes ``results/PART-NAME.json``, or ``PART-NAME-VARIANT.json`` where it has several.
"""

__all__ = [
    "BEGIN",
    "END",
    "FIGURES",
    "RESULTS",
    "ROOT",
    "SCRIPTS",
    "Page",
    "command",
    "figure",
    "load",
    "script_of",
    "source",
    "table",
]

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
WRITERS = ("index", "summary", "recorded_bits")  # what records no result
#: name of a result -> the script that writes it
SCRIPTS = {
    "-".join(path.relative_to(ROOT / "benchmarks").with_suffix("").parts).replace("_", "-"): path
    for path in sorted((ROOT / "benchmarks").rglob("[!_]*.py"))
    if path.stem not in WRITERS
}


def script_of(result: str) -> Path | None:
    """The script of a result, or of one of its variants."""
    found = [name for name in SCRIPTS if result == name or result.startswith(f"{name}-")]
    return SCRIPTS[max(found, key=len)] if found else None


def command(script: Path, arguments: str = "") -> str:
    """How a script is run, from the root of the repository."""
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts)
    return f"python -m {module} {arguments}".rstrip()


def source(result: str, arguments: str = "") -> str:
    """Where a section of a page in docs/ comes from."""
    script = script_of(result)
    assert script is not None, f"no script writes {result}"
    return f"`{command(script, arguments)}` · [{result}.json](../benchmarks/results/{result}.json)"


def load(name: str) -> dict[str, Any] | None:
    """A result, whole, or ``None`` where it is not recorded."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def figure(name: str, words: str) -> list[str]:
    """A picture of the docs, where it was drawn."""
    return [f"![{words}](figures/{name}.png)", ""] if (FIGURES / f"{name}.png").exists() else []


@dataclass(frozen=True)
class Page:
    """A page with a measured part between two markers.

    Attributes:
        path: of the page.
        sections: name of a result to what makes lines of its document; one that is not recorded has no section.
        drawings: name of a result to what draws a figure of its document.
    """

    path: Path
    sections: Mapping[str, Callable[[dict[str, Any]], list[str]]]
    drawings: Mapping[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)

    def block(self) -> str:
        """Everything between the markers, and these."""
        return "\n".join([BEGIN, *(line for found, make in self._known(self.sections) for line in make(found)), END])

    def main(self, description: str) -> None:
        """Print the measured part, or with ``--write`` put it on the page and draw."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--write", action="store_true")
        if not parser.parse_args().write:
            print(self.block())
            return
        before, rest = self.path.read_text(encoding="utf-8").split(BEGIN)
        self.path.write_text(before + self.block() + rest.split(END)[1], encoding="utf-8")
        for found, draw in self._known(self.drawings):
            draw(found)

    @staticmethod
    def _known(makers: Mapping[str, Callable[[dict[str, Any]], Any]]) -> list[tuple[dict[str, Any], Callable]]:
        found = [(load(name), make) for name, make in makers.items()]
        return [(document, make) for document, make in found if document is not None]
