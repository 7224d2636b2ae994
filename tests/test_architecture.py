"""The tree is the architecture: imports point down the levels that docs/design.md lists.

The levels are read from the page, so that the page and the code cannot drift apart.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "src" / "girsanov", ROOT / "tests"
SOURCES = {
    path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
}
FACADE = ("__init__", "__main__")  # the package's own front: above every level, imported by none
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 30, 8


def design_levels() -> dict[str, int]:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = page.split("## Layers")[1].split("```")[1]
    entries = re.findall(r"^(\w+)(?:\.py|/)\s+L(\d+)\b", block, re.MULTILINE)
    return {name: int(level) for name, level in entries}


LEVELS = design_levels()


def entry(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported_entries(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and entry of every import from the package, wherever in the module it stands."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["girsanov.<relative>"]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = f"{name}.__init__".partition(".")
            if package == "girsanov" and not rest.startswith("__version__"):
                yield node.lineno, rest.partition(".")[0]


def upward_imports(path: Path, tree: ast.AST) -> list[str]:
    """Imports that do not point down; of a name unknown to the page, too: the facade's, say."""
    here = entry(path)
    level = max(LEVELS.values()) + 1 if here in FACADE else LEVELS[here]
    return [
        f"{path}:{line}: {here} imports {name}"
        for line, name in imported_entries(tree)
        if name != here and LEVELS.get(name, level) >= level
    ]


def long_functions(path: Path, tree: ast.AST) -> list[str]:
    """Functions whose body, the docstring aside, has too many lines."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if lines > FUNCTION_LINES:
            found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    return found


def has_all(tree: ast.Module) -> bool:
    targets = [getattr(node, "targets", [getattr(node, "target", None)]) for node in tree.body]
    return any(isinstance(t, ast.Name) and t.id == "__all__" for group in targets for t in group)


def test_every_entry_has_a_level():
    unknown = {entry(path) for path in SOURCES} - set(LEVELS) - set(FACADE)
    assert len(SOURCES) > 1
    assert not unknown, f"add a line with a level to docs/design.md, Layers, for {sorted(unknown)}"


def test_every_folder_is_a_package():
    folders = {path.parent for path in SOURCES}
    assert {folder for folder in folders if folder / "__init__.py" not in SOURCES} == set()


def test_imports_point_down():
    offenders = [line for path, tree in SOURCES.items() for line in upward_imports(path, tree)]
    assert not offenders, "\n".join(["imports must point down docs/design.md's levels", *offenders])


@pytest.mark.parametrize(
    ("source", "offends"),
    [
        ("from girsanov.types import Estimate", False),
        ("from girsanov import __version__, types", False),
        ("import girsanov.solvers.ode", False),
        ("from girsanov.networks import base", False),
        ("import torch, girsanovish.cli", False),
        ("import girsanov", True),
        ("import girsanov as gv", True),
        ("from girsanov import elbo", True),
        ("from .types import Estimate", True),
        ("from girsanov.stein import kernels", True),
        ("from girsanov import samplers", True),
        ("def lazy():\n    import girsanov.cli.main", True),
        ("if TYPE_CHECKING:\n    from girsanov.likelihoods import elbo", True),
    ],
)
def test_an_import_that_points_up_is_found(source, offends):
    assert bool(upward_imports(Path("networks/base.py"), ast.parse(source))) == offends


def inner_imports(path: Path, tree: ast.AST) -> set[Path]:
    """Modules of the package that a module imports, wherever in it: those for type checkers too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("girsanov"):
            base = Path(*node.module.split(".")[1:])
            names = [base / f"{alias.name}.py" for alias in node.names] + [base.parent / f"{base.name}.py"]
            found |= {name for name in names if name in SOURCES}
    return found - {path}


def circle(graph: dict[Path, set[Path]]) -> list[Path]:
    """One circle of imports, or nothing."""
    state: dict[Path, int] = {}

    def visit(node: Path, trail: list[Path]) -> list[Path]:
        state[node] = 1
        for other in sorted(graph[node]):
            if state.get(other) == 1:
                return [*trail[trail.index(other) :], other]
            found = [] if other in state else visit(other, [*trail, other])
            if found:
                return found
        state[node] = 2
        return []

    return next((found for node in sorted(graph) if node not in state and (found := visit(node, [node]))), [])


def test_no_modules_import_each_other_in_a_circle():
    graph = {path: inner_imports(path, tree) for path, tree in SOURCES.items() if path.name != "__init__.py"}
    graph = {path: found & set(graph) for path, found in graph.items()}
    assert not circle(graph)
    a, b = Path("a.py"), Path("b.py")
    assert circle({a: {b}, b: {a}}) == [a, b, a]


def test_no_private_name_crosses_a_module():
    offenders = [
        f"{path}:{node.lineno}: {alias.name}"
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("girsanov")
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert not offenders, "\n".join(offenders)


def test_the_pair_is_what_everything_receives():
    """A score and its process travel together: what takes both apart is the pair's own constructor."""
    offenders = [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in SOURCES.items()
        if path != Path("pairs/score_pair.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and {"score", "process"} <= {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
    ]
    assert not offenders, "\n".join(offenders)


def test_modules_and_functions_are_short():
    lengths = {path: len((PACKAGE / path).read_text().splitlines()) for path in SOURCES}
    offenders = [f"{path}: {n} lines" for path, n in lengths.items() if n > MODULE_LINES]
    offenders += [line for path, tree in SOURCES.items() for line in long_functions(path, tree)]
    assert not offenders, "\n".join(["is there a seam?", *offenders])


def test_arguments_are_few():
    """What travels together is a value; a person who fits or loads something may say more."""
    offenders = []
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or path.parts[0] == "cli":
                continue
            given = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
            door = node.name.startswith(("fit_", "from_", "chain_from_")) or node.name == "fit"
            offenders += [f"{path}:{node.lineno}: {node.name}"] if len(given) > PARAMETERS and not door else []
    assert not offenders, "\n".join(offenders)


def test_a_long_function_is_found():
    body = "    x = 1\n" * FUNCTION_LINES
    fits = f'def f():\n    """Doc.\n\n    More.\n    """\n{body}'
    assert not long_functions(Path("a.py"), ast.parse(fits))
    assert long_functions(Path("a.py"), ast.parse(f"{fits}    return x\n"))


def test_tests_mirror_the_package():
    tests = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    folders = {path.parent for path in tests} - {Path()}
    assert {folder for folder in folders if not (PACKAGE / folder).is_dir()} == {Path("benchmarks")}
    own = {path.stem.removeprefix("test_") for path in tests if path.parent == Path()}
    assert own - set(LEVELS) == {
        "architecture",
        "devices",
        "doors",
        "guides",
        "package",
        "site",
        "tutorials",
    }  # of the whole


def undocumented_methods(trees: Iterable[ast.AST]) -> list[str]:
    """Public methods of public classes without a docstring of their own or of a method that they override."""
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        classes.setdefault(node.name, []).append(node)

    def documented(owner: ast.ClassDef, name: str) -> bool:
        own = (node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name)
        bases = [found for base in owner.bases for found in classes.get(ast.unparse(base).rpartition(".")[2], [])]
        return any(ast.get_docstring(node) for node in own) or any(documented(base, name) for base in bases)

    return [
        f"{owner.name}.{node.name}"
        for owner in (owner for group in classes.values() for owner in group if not owner.name.startswith("_"))
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not documented(owner, node.name)
    ]


def test_public_methods_are_documented_where_they_are_first_defined():
    assert not undocumented_methods(SOURCES.values())
    base = "class A:\n    def f(self):\n        'Doc.'\n    def g(self): ...\nclass B(A):\n    def f(self): ...\n"
    assert undocumented_methods([ast.parse(base)]) == ["A.g"]


def test_modules_say_what_they_are_and_what_they_export():
    silent = [str(path) for path, tree in SOURCES.items() if not ast.get_docstring(tree)]
    without_all = [str(path) for path, tree in SOURCES.items() if not has_all(tree)]
    assert (silent, without_all) == ([], [])
