"""Plots draw what the results hold, on the axes that they are given, and load matplotlib when they are asked."""

import dataclasses
import json

import matplotlib as mpl
import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.networks import MLPConfig
from girsanov.types import Estimate

mpl.use("Agg")
HISTORY = [
    {"step": 0, "loss": None, "validation": -3.0, "validation_stderr": 0.2},
    {"step": 50, "loss": 0.1, "validation": None},
    {"step": 100, "loss": 0.1, "validation": -2.0, "validation_stderr": 0.1},
]


@pytest.fixture
def axes():
    from matplotlib import pyplot

    yield pyplot.subplots()[1]
    pyplot.close("all")


@pytest.fixture(scope="module")
def law():
    return gv.Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 4.0]))


@pytest.fixture(scope="module")
def rows(law):
    return law.sample(200, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted(rows):
    return gv.fit(rows, steps=2, network=MLPConfig(width=8), flow=False)


@pytest.fixture(scope="module")
def results(law, rows, fitted):
    """What each plot takes."""
    pair = gv.ScorePair(law.score(gv.VariancePreserving()))
    estimate = gv.elbo(pair, rows, samples=8)
    return {
        "certificate": (gv.certify(fitted, rows[:8], schedule=SCHEDULES["linear"](50)),),
        "coverage": (estimate, law.log_prob(rows)),
        "denoising_curve": (gv.evaluation.denoising_curve(fitted, rows[:16]),),
        "density": (law, rows),
        "differences": ({"a": gv.evaluation.Difference(1.0, 0.5, 1.5, 20)},),
        "learning_curve": (HISTORY,),
        "score_test": (gv.score_test(pair, rows, [0.0, 2.0]),),
        "values": ({"ours": estimate, "theirs": estimate},),
    }


@pytest.mark.parametrize("name", gv.plots.__all__)
def test_a_plot_draws_on_the_axes_that_it_is_given_and_labels_them(name, results, axes):
    assert getattr(gv.plots, name)(*results[name], ax=axes) is axes
    assert axes.has_data()
    assert axes.get_xlabel()
    assert len(axes.figure.axes) == 1


def test_without_axes_every_plot_has_its_own(results, axes):
    first, second = (gv.plots.learning_curve(HISTORY) for _ in range(2))
    assert len({id(found.figure) for found in (first, second, axes)}) == 3


def test_lines_are_the_numbers(results, axes):
    (test,) = results["score_test"]
    line = gv.plots.score_test(test, ax=axes).lines[0]
    assert line.get_xdata().tolist() == [0.0, 2.0]
    assert line.get_ydata().tolist() == [level.result.effect_size for level in test.levels]


def test_a_learning_curve_is_read_from_the_folder_of_a_fit(tmp_path, axes):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
    line = gv.plots.learning_curve(tmp_path, ax=axes).lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.0, 100.0], [-3.0, -2.0])
    with pytest.raises(gv.InputError, match="No validation was recorded there"):
        gv.plots.learning_curve(HISTORY[1:2])


def test_a_density_in_one_dimension_integrates_to_one(axes):
    law = gv.Gaussian(torch.zeros(1), 1.0)
    line = gv.plots.density(law, torch.tensor([[-6.0], [6.0]]), points=400, ax=axes).lines[0]
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1.0, abs=1e-6)


def test_a_density_in_two_dimensions_is_highest_at_the_mean_of_its_law(law, axes, monkeypatch):
    drawn = []
    monkeypatch.setattr(type(axes), "contourf", lambda self, x, y, z, **_: drawn.append((x, y, z)))
    gv.plots.density(law, torch.tensor([[-2.0, -7.0], [4.0, 5.0]]), points=41, ax=axes)
    ((x, y, z),) = drawn
    j, i = np.unravel_index(z.argmax(), z.shape)  # a line of z is one of y
    assert (x[i], y[j]) == (pytest.approx(1.0), pytest.approx(-1.0))


def test_a_fitted_model_is_drawn_by_its_bound(fitted, rows, axes):
    gv.plots.density(fitted, rows, points=5, samples=8, ax=axes)
    with pytest.raises(gv.InputError, match="density has no setting sample=: did you mean samples="):
        gv.plots.density(fitted, rows, sample=8, ax=axes)
    with pytest.raises(gv.InputError, match="A density of 3 dimensions has no picture"):
        gv.plots.density(fitted, torch.zeros(5, 3), ax=axes)


def test_coverage_lies_on_the_diagonal_where_intervals_keep_their_promise_and_not_where_they_do_not(generator, axes):
    replicates = torch.randn(8, 20_000, generator=generator)
    honest = Estimate.from_replicates(replicates, kind="unbiased", model="sde", nfe=8, event_dim=1)
    proud = dataclasses.replace(honest, stderr=honest.stderr / 2)
    for estimate, is_kept in ((honest, True), (proud, False)):
        line = gv.plots.coverage(estimate, torch.zeros(20_000), ax=axes).lines[-1]
        gap = np.abs(np.asarray(line.get_xdata()) - line.get_ydata()).max()
        # a share has standard error below 0.0036; five of them for the 19 levels: false alarm below 1e-5
        assert (gap < 5 * 0.0036) == is_kept
    with pytest.raises(gv.InputError, match="truth must be one value for each of 20000 rows"):
        gv.plots.coverage(honest, torch.zeros(3), ax=axes)
