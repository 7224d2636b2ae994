"""Count what the house is built of: the numbers that docs/decisions/0013-the-pair.md quotes.

python .ci/house.py            # counts
python .ci/house.py --places   # and where
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "girsanov"
FRONT_DOORS = ("fit", "from_array")  # and fit_*, and everything in cli/
MOST_PARAMETERS, MODULE_LINES, BODY_LINES = 8, 400, 30


def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions and methods."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def parameters(node: ast.FunctionDef) -> list[str]:
    """Names of parameters, ``self`` and ``cls`` aside."""
    given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [argument.arg for argument in given if argument.arg not in ("self", "cls")]


def body_lines(node: ast.FunctionDef) -> int:
    """Lines of a body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def every_import(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Modules of the package that a module imports, those for type checkers and those within functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("girsanov"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= whole or {node.module}
    return (found & known) - {name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def is_front_door(path: Path, node: ast.FunctionDef) -> bool:
    """Whether many parameters are what a function is for."""
    return "cli" in path.parts or node.name in FRONT_DOORS or node.name.startswith("fit_")


def counts() -> dict[str, list[str]]:
    """What is counted, each with its places."""
    found: dict[str, list[str]] = {
        "functions that take a score and a process": [],
        f"more than {MOST_PARAMETERS} parameters": [],
        f"modules above {MODULE_LINES} lines": [],
        f"bodies above {BODY_LINES} lines": [],
        "private names imported across modules": [],
    }
    both, many, long, bodies, private = found.values()
    known = modules()
    names = {name for name in known if known[name][0].name != "__init__.py"}
    for path, tree in known.values():
        place = path.relative_to(PACKAGE)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long += [f"{place}: {lines}"] if lines > MODULE_LINES else []
        for node in functions(tree):
            given, where = parameters(node), f"{place}:{node.lineno} {node.name}"
            pair = {"score", "process"} <= set(given) and place.name != "score_pair.py"
            both += [where] if pair else []
            many += [where] if len(given) > MOST_PARAMETERS and not is_front_door(path, node) else []
            bodies += [where] if body_lines(node) > BODY_LINES else []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("girsanov"):
                private += [f"{place}:{node.lineno} {a.name}" for a in node.names if a.name.startswith("_")]
    private[:] = [line for line in private if not line.endswith("__version__")]
    graph = {name: every_import(name, known[name][1], names) for name in names}
    found["import circles"] = [" ".join(group) for group in circles(graph)]
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    listed = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module != "girsanov"]
    found["top names"] = sorted(alias.name for node in listed for alias in node.names)
    return found


def main() -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", action="store_true")
    options = parser.parse_args()
    for name, places in counts().items():
        print(f"{len(places):6d}  {name}")
        if options.places:
            print(*(f"          {place}" for place in places), sep="\n")
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    print(f"{lines:6d}  source lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
