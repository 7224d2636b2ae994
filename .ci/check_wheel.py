"""Prove that a built wheel works where the source tree is not.

The wheel is installed into an environment of its own in a temporary folder. Its dependencies come
from the environment that runs this script, through a ``.pth`` file, so that PyTorch is not
downloaded twice. The editable installation there cannot stand in for the wheel: Python does not
process the ``.pth`` files of a folder that another ``.pth`` file added.
"""

__all__ = ["main"]

import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

CHECK = """
import importlib.metadata, pathlib, sys
import girsanov
place = pathlib.Path(girsanov.__file__).resolve()
assert place.is_relative_to(sys.argv[1]), f"{place} is not in the second environment"
versions = {girsanov.__version__, importlib.metadata.version("girsanov"), sys.argv[2]}
assert len(versions) == 1, f"versions differ: {versions}"
for name in girsanov.__all__:
    getattr(girsanov, name)
from girsanov.reports.page import render
assert "<h1>page</h1>" in render("page", title="page", subtitle="", sections=[])
print(f"girsanov {girsanov.__version__}: {len(girsanov.__all__)} names import from the wheel")
"""


def check_files(wheel: Path) -> None:
    """Raise unless every file of the package is in the wheel."""
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "girsanov").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = files - set(zipfile.ZipFile(wheel).namelist())
    if missing:
        raise SystemExit(f"{wheel.name} lacks {sorted(missing)}")


def make_environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel alone into a new environment and return that environment's folder."""
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return folder


def main(wheel: Path) -> None:
    """Install the wheel and run it: its import, all its names, a page from its templates, its version, its command."""
    check_files(wheel)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        environment = make_environment(Path(folder).resolve() / "environment", wheel)
        python, command = environment / "bin" / "python", environment / "bin" / "girsanov"
        subprocess.run([python, "-I", "-c", CHECK, environment, version], cwd=folder, check=True)
        subprocess.run([command, "--help"], cwd=folder, env=outside, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
