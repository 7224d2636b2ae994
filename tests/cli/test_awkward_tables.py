"""Tables that lose columns or one-hot encode them go through every command, and their reports are whole."""

import json

import numpy as np
import pandas as pd
import pytest

import girsanov as gv
from girsanov.reports import report as sections
from girsanov.runs import density
from tests import awkward

pytestmark = pytest.mark.filterwarnings("ignore:.*draws had a category")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("awkward")
    return {name: awkward.write(name, folder) for name in awkward.TABLES}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A report of few rows and draws."""
    for name, value in (("DRAWN", 24), ("SCORE_TEST_ROWS", 24), ("CERTIFIED_ROWS", 2), ("CURVE_ROWS", 8)):
        monkeypatch.setattr(density, name, value)


@pytest.mark.parametrize("name", ["copies", "everything"])
def test_every_command_takes_the_table(files, girsanov, tmp_path, quick, name):
    run, table = tmp_path / "run", files[name]
    done = girsanov("fit", table, "--out", run, "--categorical", *quick)
    assert done.code == 0, done.err
    assert "could not be made" not in done.err + (run / "report.html").read_text()
    assert (run / "samples.png").exists()
    few = ("--limit", "4", "--samples", "4")
    assert np.isfinite(girsanov("evaluate", run, *few, "--json").json["test"]["elbo"]["nats"])
    assert len(girsanov("score", run, table, *few).out.splitlines()) == 5
    drawn = girsanov("sample", run, "-n", "5", "--steps", "4", "--out", tmp_path / "drawn.csv")
    assert drawn.code == 0, drawn.err
    assert list(pd.read_csv(tmp_path / "drawn.csv").columns) == list(awkward.frame(name).columns)
    assert girsanov("score", run, tmp_path / "drawn.csv", "--samples", "4").code == 0
    assert girsanov("test", table, run, "--limit", "20", "--resamples", "19").code == 0
    (run / "report.html").unlink()
    assert girsanov("report", run).code == 0
    assert "could not be made" not in (run / "report.html").read_text()


@pytest.fixture
def broken(monkeypatch):
    """Whatever a report is made of fails."""

    def fail(*_, **__):
        raise RuntimeError("no   such\nthing")

    for name in ("denoising_curve", "certify"):
        monkeypatch.setattr(density, name, fail)
    for name in ("log_prob", "sample", "score_test"):
        monkeypatch.setattr(gv.DensityModel, name, fail)
    monkeypatch.setattr(sections, "extremes", fail)


@pytest.mark.usefixtures("broken")
def test_a_section_that_fails_is_a_sentence_and_the_run_is_whole(files, girsanov, tmp_path, tiny):
    run = tmp_path / "run"
    done = girsanov("fit", files["constant_last"], "--out", run, *tiny, "--no-peers")
    assert done.code == 0
    page = (run / "report.html").read_text()
    for title in (sections.CURVE, sections.CERTIFICATE, sections.SAMPLES, sections.TESTS, "Most and least likely rows"):
        assert f'part "{title}" could not be made (RuntimeError: no such thing)' in done.err
        assert title in page
    assert page.count("This section could not be made: RuntimeError: no such thing.") == 5
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["failed"] == {"likelihood of the ODE": "RuntimeError: no such thing"}
    assert "elbo" in metrics["test"]
    assert girsanov("report", run).code == 0


@pytest.mark.usefixtures("broken")
def test_a_report_made_again_says_what_fails(files, girsanov, tmp_path, quick):
    run = tmp_path / "run"
    assert girsanov("fit", files["constant_last"], "--out", run, *quick, "--quiet").code == 0
    assert "could not be made" in girsanov("report", run).err
