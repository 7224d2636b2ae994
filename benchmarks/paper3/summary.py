"""The measured part of docs/paper3.md, written from the committed results and by nobody's hand.

python benchmarks/paper3/summary.py            # print
python benchmarks/paper3/summary.py --write    # put between the page's markers

A result that is not recorded yet has no section.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "paper3.md", ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def load(name: str) -> dict | None:
    """A result, or ``None`` where it is not recorded."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def source(script: str, name: str) -> list[str]:
    """Where a section comes from."""
    return ["", f"`python benchmarks/paper3/{script}.py` · [{name}.json](../benchmarks/results/{name}.json)", ""]


def figure(name: str, words: str) -> list[str]:
    """A picture, where it was drawn."""
    return [f"![{words}](figures/{name}.png)", ""] if (ROOT / "docs" / "figures" / f"{name}.png").exists() else []


def table(header: list[str], rows: list[list[object]]) -> list[str]:
    """Lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, or a dash."""
    return "–" if value is None else f"{value:.{digits}g}"


def fewsteps(document: dict) -> list[str]:
    """Bound against steps."""
    by_key = {(row["steps"], row["forward"]): row for row in document["rows"]}
    steps = sorted({key[0] for key in by_key})
    needed = {entry["fixed"]: entry["learned"] for entry in document["savings"]}
    rows = [
        [n, *(f"{by_key[n, side]['elbo']:.3f} ± {by_key[n, side]['stderr']:.3f}" for side in ("fixed VP", "learned")),
         needed.get(n) or "–"]
        for n in steps
    ]  # fmt: skip
    head = [
        "## Few-step sampling",
        "",
        "Bound per row on a stretched spiral, the forward process fixed or learned.",
        "",
    ]
    header = ["steps", "fixed VP", "learned", "learned steps within 0.02 nats"]
    picture = figure("paper3-fewsteps", "bound against steps")
    return head + table(header, rows) + source("fewsteps", "paper3-fewsteps") + picture


def freeze(document: dict) -> list[str]:
    """Time to equal bounds, and the gap to the training rows."""
    rows = [
        [row["seed"], row["recipe"], f"{row['test_elbo']:.2f} ± {row['test_stderr']:.2f}", f"{row['overfit']:.2f}",
         f"{row['cpu_seconds']:.0f}"]
        for row in document["rows"]
    ]  # fmt: skip
    ratios = ", ".join(
        f"{number(s['ratio'])}×" + ("" if s["frozen_reaches_joint"] else " (to the frozen run's best)")
        for s in document["savings"]
    )
    words = f"Processor time of joint training over the recipe's, to an equal bound on validation rows: {ratios}."
    head = ["## Freezing the encoder", "", words, ""]
    header = ["seed", "recipe", "test bound", "training minus test", "processor seconds"]
    return (
        head + table(header, rows) + source("freeze", "paper3-freeze") + figure("paper3-freeze", "bound against time")
    )


SECTIONS: dict[str, Callable[[dict], list[str]]] = {"paper3-fewsteps": fewsteps, "paper3-freeze": freeze}


def block() -> str:
    """Everything between the markers."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        document = load(name)
        if document is not None:
            lines += section(document)
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(block())
        return
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + block() + rest.partition(END)[2])


if __name__ == "__main__":
    main()
