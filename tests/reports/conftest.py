"""Two tiny complete runs, a table with hostile names and images, whose reports the tests of a session share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import girsanov as gv
from girsanov.runs import DensityRun, EvaluationConfig, Source, fit_run, select
from tests.seeds import rng

NAMES = ("a<script>document.title='x'</script>", "cost in $ & $\\frac", '"quoted" > it', "plain", "épaisseur", "six")
EVALUATION = EvaluationConfig(samples=8, ode_rows=2, peer_seconds=0.2, sampler_steps=8)


@dataclass(frozen=True)
class Run:
    """A run folder and what it holds."""

    path: Path
    metrics: dict

    @property
    def page(self):
        return (self.path / "report.html").read_text(encoding="utf-8")


def make_run(folder, data, evaluation):
    config = gv.Config(steps=8, network=gv.networks.MLPConfig(width=8, blocks=1), batch_size=32, flow=False)
    metrics = fit_run(DensityRun(select(Source(str(data))), config, evaluation), folder / "run")
    return Run(folder / "run", metrics)


@pytest.fixture(scope="session")
def table_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    x = rng(0).normal(size=(120, 6)) @ np.triu(np.ones((6, 6)))
    header = ",".join('"' + name.replace('"', '""') + '"' for name in NAMES)
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    (folder / "data <i>.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return make_run(folder, folder / "data <i>.csv", EVALUATION)


@pytest.fixture(scope="session")
def image_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    shape = (90, 3, 4, 4)
    np.save(folder / "pictures.npy", rng(0).integers(0, 256, shape).astype(np.uint8))
    return make_run(folder, folder / "pictures.npy", dataclasses.replace(EVALUATION, ode_rows=0))
