"""A command line in the same process, and one tiny complete run that the tests of a session share."""

import json
import shutil

import numpy as np
import pytest

from girsanov.cli import main
from tests.seeds import rng

#: a fit of a second or two: everything is there, nothing is good
TINY = [
    "--steps",
    "6",
    "--network",
    "mlp",
    "--width",
    "8",
    "--blocks",
    "1",
    "--no-flow",
    "--batch-size",
    "32",
    "--samples",
    "8",
]
QUICK = [*TINY, "--no-peers", "--ode-rows", "0"]
COLUMNS = ("height", "<b>weight & $x$</b>", "count")


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def quick():
    """The same without peers and ODE."""
    return QUICK


@pytest.fixture(scope="session")
def write_table():
    return _write_table


class Outcome:
    """Exit code and both outputs of a command."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def girsanov(capsys):
    """``girsanov("fit", ...)`` as a shell would run it."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, capsys.readouterr())

    return run


def _write_table(path, rows=120, seed=0, shift=0.0):
    """Two continuous columns and a discrete one, of two clusters."""
    generator = rng(seed)
    cluster = generator.integers(0, 2, rows)
    x = generator.normal(size=(rows, 2)) * 0.3 + np.stack([2.0 * cluster, 1.0 - cluster], 1) + shift
    count = generator.poisson(3.0, rows) + cluster
    lines = [",".join(f'"{name}"' for name in COLUMNS)]
    lines += [f"{a!r},{b!r},{c}" for (a, b), c in zip(x.tolist(), count.tolist(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    """Data and a complete run with peers and the ODE; read only."""
    folder = tmp_path_factory.mktemp("complete")
    data = _write_table(folder / "data.csv")
    options = [*TINY, "--ode-rows", "2", "--peer-seconds", "0.2", "--quiet"]
    assert main(["fit", str(data), "--out", str(folder / "run"), *options]) == 0
    return data, folder / "run", options


@pytest.fixture
def run_copy(complete, tmp_path):
    """A copy of the complete run that a test may change, and its data."""
    data, run, _ = complete
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", data
