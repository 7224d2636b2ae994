"""The package's front: what it exports, and what importing it costs.

Costs are CPU seconds, best of three fresh interpreters, so that other work on the machine does not
count.
"""

import ast
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import girsanov

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "girsanov"
HEAVY = ("diffusers", "matplotlib", "pandas", "sklearn", "typer", "zuko")
# The scikit-learn estimator inherits from scikit-learn: naming it is using scikit-learn.
NAMES = [name for name in girsanov.__all__ if name != "DensityEstimator"]

HELP = """
import sys
sys.argv = {command!r}.split()
from girsanov.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""


def run(code):
    """Run code in a fresh interpreter, as a user would have it: with cached bytecode."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_modules(code):
    output = run(f"{code}\nimport sys\nprint('\\n' + ' '.join(sys.modules))")
    return {name.partition(".")[0] for name in output.splitlines()[-1].split()}


def seconds(*parts):
    """What each piece of code takes after those before it."""
    begin, end = "t = time.process_time()", "print(time.process_time() - t)"
    code = "\n".join(["import time", *(f"{begin}\n{part}\n{end}" for part in parts)])
    measured = [[float(line) for line in run(code).split()] for _ in range(3)]
    return [min(column) for column in zip(*measured, strict=True)]


def module_exports(path):
    """The names in a module's ``__all__``, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def public_surface():
    """The names that docs/design.md promises to other people's scripts."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = page.split("## Public surface")[1].split("```")[1]
    return set(re.findall(r"\bgv\.(\w+)", block))


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert girsanov.__version__ == project["version"]


@pytest.mark.parametrize("name", girsanov.__all__)
def test_public_name_resolves(name):
    value = getattr(girsanov, name)
    assert value.__name__ == name
    assert value.__module__.startswith(girsanov._MODULES[name])
    assert value.__doc__
    assert name in dir(girsanov)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'elbows'"):
        girsanov.elbows  # noqa: B018


def test_parts_of_the_package_are_there_without_being_imported():
    run("\n".join(["import girsanov as gv", *(f"assert gv.{name}.__all__" for name in girsanov._PARTS)]))
    assert set(girsanov._PARTS) <= set(dir(girsanov))


def test_the_list_is_short_and_sorted_by_what_a_person_types():
    assert len(girsanov.__all__) <= 48
    assert not set(girsanov.__all__) & set(girsanov._PARTS)
    assert set(girsanov._MODULES) == {*girsanov.__all__, *girsanov._PARTS}


def test_the_list_is_part_of_the_wheel():
    assert (PACKAGE / "__init__.pyi").is_file()
    assert (PACKAGE / "py.typed").is_file()


def test_what_the_design_promises_and_the_package_has_is_exported():
    defined = set().union(*(module_exports(path) for path in PACKAGE.glob("*/**/*.py")))
    promised = public_surface()
    assert {"elbo", "DensityModel", "gaussian_bridge"} <= promised
    assert promised & defined <= set(dir(girsanov))  # names, and parts such as gv.datasets


def test_import_loads_neither_torch_nor_anything_heavy():
    assert not {"torch", "numpy", *HEAVY} & loaded_modules("import girsanov")


def test_using_every_name_loads_nothing_heavy():
    loaded = loaded_modules(f"from girsanov import {', '.join(NAMES)}")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_plots_load_matplotlib_when_something_is_drawn():
    assert not {"matplotlib", "pandas"} & loaded_modules("import girsanov\ngirsanov.plots.density")


def test_import_is_quick():
    torch, alone, names = seconds("import torch", "import girsanov", f"from girsanov import {', '.join(NAMES)}")
    assert alone <= 0.05
    assert names <= torch / 2  # a fifth where it was measured; seconds depend on the machine


@pytest.mark.parametrize("command", ["girsanov --help", "girsanov fit --help"])
def test_help_does_not_load_torch(command):
    assert not ({"torch", *HEAVY} - {"typer"}) & loaded_modules(HELP.format(command=command))


def test_help_is_quick():
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(HELP.format(command="girsanov --help"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= 0.5
