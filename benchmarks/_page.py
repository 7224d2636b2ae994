"""Pages whose figures are written from the committed results: markers, sections, and the command line of each."""

__all__ = ["FIGURES", "RESULTS", "ROOT", "Page", "figure", "load", "table"]

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


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
