"""Trajectories of cells: a light stand-in for AnnData, closed forms where drifts are known, and what is refused."""

import copy
import functools
import io
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import girsanov as gv
from benchmarks.paper3 import cite
from girsanov.bridges import AlternatingConfig, MixtureStart, NetworkConfig
from girsanov.bridges.annotated import Snapshots
from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.trajectories import _move, _placed
from girsanov.training import LineProgress, SilentProgress
from tests.elsewhere import DEVICE, accelerator
from tests.seeds import rng, seeded

#: the closed form between the moments does the work; networks only have to do no harm
SETTINGS = {
    "sigma": 0.5,
    "steps": 8,
    "network": NetworkConfig(width=8, blocks=1),
    "alternating": AlternatingConfig(rounds=1, steps=3, paths=100, batch_size=32),
}
#: no projections at all: the closed-form bridge between the moments, with networks that are zero
CLOSED = SETTINGS | {"alternating": AlternatingConfig(rounds=0)}
#: enough to see that everything is passed on
TINY = SETTINGS | {"steps": 3, "alternating": AlternatingConfig(rounds=1, steps=1, paths=20, batch_size=8)}
DAYS = (2.0, 3.0, 4.0, 7.0)


def snapshots(rows=150, dim=3, seed=0, shift=0.0, days=DAYS):
    """Clouds that move by 2 a day along the first axis."""
    generator = rng(seed)
    day = np.repeat(np.array(days) + shift, rows)
    x = generator.normal(size=(len(day), dim))
    x[:, 0] += 2.0 * day
    order = generator.permutation(len(day))
    return SimpleNamespace(obs={"day": day[order]}, obsm={"X_pca": x[order]}, n_obs=len(day))


@pytest.fixture(scope="module")
def cells():
    return snapshots()


@pytest.fixture(scope="module")
def fitted(cells):
    return gv.fit_trajectories(cells, time_key="day", **SETTINGS)


def test_cells_move_to_the_other_times(fitted, cells):
    assert fitted.times == list(DAYS)
    for start, end in ((2.0, 7.0), (7.0, 3.0)):
        moved = fitted.trajectories(cells, start=start, end=end)
        assert moved.shape == (150, 3)
        # five standard errors of a mean of 150 rows: false alarms below 1e-5
        assert float((moved.mean(0) - torch.tensor([2.0 * end, 0.0, 0.0])).abs().max()) < 5.0 / 150**0.5


def test_paths_run_in_the_order_of_time(fitted, cells):
    rows = torch.as_tensor(cells.obsm["X_pca"][cells.obs["day"] == 3.0])
    path = fitted.trajectories(rows, start=3.0, end=7.0, return_path=True)
    times = fitted.path_times(3.0, 7.0)
    assert path.shape == (17, 150, 3)
    assert (times[0], times[-1]) == (3.0, 7.0)
    assert torch.equal(path[0], rows.float())
    back = fitted.trajectories(rows, start=7.0, end=3.0, return_path=True)
    assert torch.equal(back[-1], rows.float())


def test_the_left_out_time_is_hit_better_than_by_its_neighbours(fitted):
    error = fitted.held_out_error(4.0, seeds=2, cells=100)
    assert (error.before, error.cells, len(error.values)) == (3.0, (100, 100), 2)
    assert error.mean == pytest.approx(np.mean(error.values))
    # the clouds lie 2 apart, and straight paths lead through the one that was left out: about the distance of two
    # samples of 100 rows of one law in three dimensions, 0.6
    assert error.mean < 0.6 * min(error.untouched, error.after)
    assert error.values[0] == fitted.held_out_error(4.0, seeds=1, cells=100).mean


def test_the_state_at_a_time_has_the_variance_of_the_bridge():
    """Two point clouds: halfway the paths are a Brownian bridge, whose variance is sigma^2/4."""
    x = rng(0).normal(size=(800, 2)) * 1e-3
    fit = gv.fit_trajectories(matrix([x[:400], x[400:] + 2.0]), time_key="day", **CLOSED | {"steps": 40, "sigma": 1e3})
    for end in (0.25, 0.5):
        state = fit.trajectories(torch.as_tensor(x[:400]), start=0.0, end=end)
        # 800 numbers: the standard error of a deviation is 2.5 %, so 12 % is passed by chance below 1e-5
        assert float(state.std(0).mean()) == pytest.approx(fit.sigma * (end * (1.0 - end)) ** 0.5, rel=0.12)
        assert float((state.mean() - 2.0 * end).abs()) < 0.1


def test_pushed_cells_are_written_back(fitted, cells):
    pushed = fitted.push(cells, end=7.0, key="X_day7", seed=3)
    assert cells.obsm.pop("X_day7") is not None
    last = cells.obs["day"] == 7.0
    assert np.array_equal(pushed[last], cells.obsm["X_pca"][last].astype(np.float32))
    assert abs(pushed[~last][:, 0].mean() - 14.0) < 0.3
    assert "X_day7" not in cells.obsm
    assert np.array_equal(fitted.push(cells, end=7.0, seed=3), pushed)


def test_cells_are_pushed_to_the_first_time_too(fitted, cells):
    pushed = fitted.push(cells, end=2.0)
    first = cells.obs["day"] == 2.0
    assert np.array_equal(pushed[first], cells.obsm["X_pca"][first].astype(np.float32))
    # 450 cells that end at 4 on the first axis: five standard errors are 0.24
    assert abs(pushed[~first][:, 0].mean() - 4.0) < 0.3


def matrix(clouds, **obs):
    """The stand-in, of one cloud a day from day 0 on."""
    day = np.repeat(np.arange(len(clouds), dtype=float), [len(x) for x in clouds])
    x = np.concatenate([np.asarray(x, dtype=float) for x in clouds])
    return SimpleNamespace(obs={"day": day, **obs}, obsm={"X_pca": x}, n_obs=len(day))


def modes(rows, share, seed=0, distance=3.0):
    """Two narrow modes at +-distance, of which the upper one has exactly this share."""
    x = 0.3 * rng(seed).normal(size=(rows, 2))
    x[:, 0] += np.where(np.arange(rows) < round(share * rows), distance, -distance)
    return x


def test_growth_weighs_the_start_of_the_next_section_only():
    """Three days, one cloud, two modes half and half with weights 3:1, one cloud again, in closed form.

    The first section must end in the cells as they are, of mean 0, and the second start by weight: cells of the last
    day, moved back, have the mean 3/4 * 3 - 1/4 * 3 = 1.5. A fit without weights ends at 0 both times, and one whose
    weights count at both sides at 1.5 both times.
    """
    cloud = [0.3 * rng(seed).normal(size=(1000, 2)) for seed in (1, 2)]
    middle = modes(1000, 0.5)
    growth = np.concatenate([np.ones(1000), np.where(middle[:, 0] > 0, 3.0, 1.0), np.full(1000, np.nan)])
    cells = matrix([cloud[0], middle, cloud[1]], growth=growth)
    fit = gv.fit_trajectories(cells, time_key="day", growth="growth", **CLOSED)
    # deviation 3 of 1,000 draws from moments of 1,000 draws: five standard errors are 0.7
    assert float(fit.trajectories(cells, start=0.0, end=1.0)[:, 0].mean()) == pytest.approx(0.0, abs=0.7)
    assert float(fit.trajectories(cells, start=2.0, end=1.0)[:, 0].mean()) == pytest.approx(1.5, abs=0.7)


def test_growth_of_the_last_day_counts_for_nothing(cells):
    """There is no interval after it: any numbers give the bits of any others, and numbers may be missing."""
    moved = []
    for last in (1.0, np.nan):
        growth = np.where(cells.obs["day"] == 7.0, last * np.arange(cells.n_obs), 1.0 + cells.obsm["X_pca"][:, 1] ** 2)
        grown = SimpleNamespace(obs=cells.obs | {"growth": growth}, obsm=cells.obsm, n_obs=cells.n_obs)
        fit = gv.fit_trajectories(grown, time_key="day", growth="growth", **TINY)
        moved.append(fit.push(grown))
    assert np.array_equal(*moved)
    growth[np.flatnonzero(cells.obs["day"] == 3.0)[0]] = np.nan
    grown.obs["growth"] = growth
    with pytest.raises(gv.InputError, match="finite number"):
        gv.fit_trajectories(grown, time_key="day", growth="growth", **TINY)


def test_pushed_cells_are_drawn_by_weight():
    """Only the upper mode has descendants, and both later days are that mode.

    Sigma is tiny: by weight the closed form leaves cells where they are, at the true places but for the modes' width.
    Without weights it brings the lower mode half of its way of 20 until the left-out day, so that W1 is 5.
    """
    clouds = [modes(200, share, seed, distance=10.0) for seed, share in enumerate((0.5, 1.0, 1.0))]
    growth = np.concatenate([(clouds[0][:, 0] > 0).astype(float), np.ones(400)])
    cells, errors = matrix(clouds, growth=growth), {}
    for key in (None, "growth"):
        fit = gv.fit_trajectories(cells, time_key="day", growth=key, **CLOSED | {"sigma": 1e-3})
        errors[key] = fit.held_out_error(1.0, seeds=2)
    assert errors[None].mean == pytest.approx(5.0, abs=0.5)
    # one sample of 200 against another, of deviation 0.3 in two dimensions: about 0.1
    assert errors["growth"].mean < 0.3
    # neighbours are compared as they were observed
    assert errors["growth"].untouched == pytest.approx(10.0, abs=0.5)
    assert errors["growth"].after < 0.3


@pytest.fixture(scope="module")
def normal():
    """Three days of one Gaussian in 20 dimensions, and the closed-form bridge between their moments."""
    cells = matrix(rng(4).normal(size=(3, 200, 20)))
    return cells, gv.fit_trajectories(cells, time_key="day", **CLOSED | {"steps": 20, "sigma": 1.0})


def exact(fit, end, time):
    """The closed-form transition from day 0 to a time, of the bridge to the end; the bridge's own time is 0 to 1."""
    rows = fit._snapshots.rows
    ends = (gv.Gaussian.fit(rows[t]) for t in (0.0, end))
    return GaussianBridge(gv.BrownianMotion(sigma=fit.sigma), *ends).transition(0.0, time)


def exact_step(fit, start, end):
    """The closed-form transition between two times of the first section, day 0 to 1, whose own time is half as long."""
    ends = (gv.Gaussian.fit(fit._snapshots.rows[t]) for t in (0.0, 1.0))
    reference = gv.BrownianMotion(sigma=fit.sigma * (1.0 / (fit.times[-1] - fit.times[0])) ** 0.5)
    return GaussianBridge(reference, *ends).transition(start, end)


def test_a_mean_is_the_expected_place(normal):
    """Means of 16 paths lie around the closed form's, each with 1/16 of its variance."""
    cells, _ = normal
    two = matrix([cells.obsm["X_pca"][:200], cells.obsm["X_pca"][400:]])
    fit = gv.fit_trajectories(two, time_key="day", **CLOSED | {"steps": 20, "sigma": 1.0})
    law, x = exact(fit, 1.0, 1.0), fit._snapshots.rows[0.0]
    variance, spreads = law.covariance.diagonal(), {}
    for way, paths in (("sample", 64), ("mean", 16), ("mean", 5)):
        moved = torch.as_tensor(fit.push(two, way=way, paths=paths)[:200]).double()
        noise, spreads[paths] = (moved - law.mean(x.double())).square() / variance, float(moved.std(0).mean())
        expected = 1.0 if way == "sample" else 1.0 / paths
        # 4,000 squares of normals: the relative standard error is sqrt(2/4000) = 2.2 %, so five are 11 %; 20 steps
        # miss a little
        assert float(noise.mean()) == pytest.approx(expected, rel=0.15), (way, paths)
    assert spreads[16] < 0.9 * spreads[64]  # too small a spread


def test_a_mean_of_one_path_is_a_draw(normal):
    cells, fit = normal
    assert np.array_equal(fit.push(cells, way="mean", paths=1), fit.push(cells))
    found = [fit.held_out_error(1.0, seeds=2, cells=50, way=way, paths=1) for way in ("mean", "sample")]
    assert found[0] == replace(found[1], way="mean")


def test_means_are_nearer_than_draws_where_sampling_dominates(normal):
    """One law at all days: 100 points in 20 dimensions are far from 100 others, and nearer to points drawn inwards."""
    _, fit = normal
    draws, means = (
        fit.held_out_error(1.0, seeds=2, cells=100, refit=False, way=way, paths=10) for way in ("sample", "mean")
    )
    assert draws.untouched == means.untouched
    assert means.mean < 0.95 * draws.mean


def test_ways_that_do_not_exist(normal):
    cells, fit = normal
    for options in ({"way": "median"}, {"way": "mean", "paths": 0}):
        with pytest.raises(gv.InputError, match="way must be sample, or mean"):
            fit.push(cells, **options)


def test_the_benchmarks_mean_is_that_of_the_library(normal, monkeypatch):
    """Both, and the closed form at the left-out day: two averages of 16 independent paths from the same cells.

    A path of the closed form has the transition's variance at that day, so the difference of two averages has 2/16 of
    it; the benchmark's Euler steps add the little that 20 of them miss.
    """
    monkeypatch.setattr(cite, "PATHS", 16)
    _, fit = normal
    rows = fit._snapshots.rows
    bridge, size = fit._recipe.fit(Snapshots({0.0: rows[0.0], 1.0: rows[2.0]}, {}))  # in unit time, as there
    x, generator = rows[0.0], seeded(5)
    with torch.no_grad():
        euler = lambda rows: cite.euler(bridge.forward_drift, rows, 0.5, size.sigma, generator)  # noqa: E731
        theirs = cite.ways(euler, lambda rows: rows, x)["mean"]
    ours = _placed(functools.partial(_move, bridge, x, 0.0, 0.5, generator), "mean", cite.PATHS)
    law = exact(fit, 2.0, 0.5)
    variance = law.covariance.diagonal() / cite.PATHS
    for found, count in (
        (ours - law.mean(x.double()), 1.0),
        (theirs - law.mean(x.double()), 1.0),
        (ours - theirs, 2.0),
    ):
        # 4,000 squares: five standard errors are 11 %, and as much again is for the steps
        assert float((found.double().square() / variance).mean()) == pytest.approx(count, rel=0.22)


def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch):
    """Checkpoints of all fits lie apart, finished fits are read, and the results have the bits of fits without."""
    cells = snapshots(50)
    plain = gv.fit_trajectories(cells, time_key="day", **TINY)
    expected = plain.push(cells), plain.held_out_error(4.0, seeds=2, cells=50)
    for _ in range(2):
        fit = gv.fit_trajectories(cells, time_key="day", run=tmp_path, **TINY)
        assert np.array_equal(fit.push(cells), expected[0])
        assert fit.held_out_error(4.0, seeds=2, cells=50) == expected[1]
        folders = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("section-*") if path.is_dir()}
        sections = {f"without-4.0/seed-{seed}/section-{i}" for seed in (0, 1) for i in (0, 1)}
        assert folders == sections | {f"section-{i}" for i in (0, 1, 2)}
        monkeypatch.setattr(torch.optim.AdamW, "step", untrained)
    with pytest.raises(RuntimeError, match="trained"):
        gv.fit_trajectories(cells, time_key="day", run=tmp_path / "other", **TINY)


def untrained(*args, **kwargs):
    raise RuntimeError("a fit was trained where a finished one was to be read")


def test_everything_elsewhere_has_the_bits_of_everything_here():
    """On a simulated second device, which refuses operands that stayed behind; results are here."""
    cells = snapshots(40, days=(2.0, 3.0, 4.0))
    growth = 1.0 + cells.obsm["X_pca"][:, 1] ** 2
    grown = SimpleNamespace(obs=cells.obs | {"growth": growth}, obsm=cells.obsm, n_obs=cells.n_obs)

    def everything(device):
        fit = gv.fit_trajectories(grown, time_key="day", growth="growth", device=device, **TINY)
        assert fit.bridge.device == torch.device(device)
        path = fit.trajectories(torch.as_tensor(grown.obsm["X_pca"][:5]), end=3.75, return_path=True)
        assert path.device == fit.path_times(2.0, 3.0).device == torch.device("cpu")
        pushed = [fit.push(grown, end=end, way="mean", paths=2) for end in (2.0, 3.5)]
        return [path.numpy(), *pushed], fit.held_out_error(3.0, seeds=1, cells=10)

    expected = everything("cpu")
    with accelerator():
        found = everything(DEVICE)
    for one, other in zip(found[0], expected[0], strict=True):
        assert np.array_equal(one, other)
    assert found[1].values == expected[1].values


def test_mixtures_have_so_many_gaussians(cells):
    settings = SETTINGS | {"alternating": AlternatingConfig(rounds=0)}
    fit = gv.fit_trajectories(cells, time_key="day", start=MixtureStart(3, steps=2), **settings)
    assert fit.bridge.start.components == 3
    for chain in fit.bridge.sections.chains:
        assert {
            len(law.weights) for law in (chain.forward_half.potentials.start, chain.forward_half.potentials.end)
        } == {3}


def test_a_real_annotated_matrix():
    anndata = pytest.importorskip("anndata")
    plain = snapshots(30)
    obs = pd.DataFrame({"day": plain.obs["day"]}, index=[f"cell {i}" for i in range(plain.n_obs)])
    cells = anndata.AnnData(np.zeros((plain.n_obs, 1), np.float32), obs=obs, obsm=plain.obsm)
    fit = gv.fit_trajectories(cells, time_key="day", **CLOSED)
    pushed = fit.push(cells, key="X_last")
    assert np.array_equal(cells.obsm["X_last"], pushed)
    assert np.array_equal(pushed, gv.fit_trajectories(plain, time_key="day", **CLOSED).push(plain))


def test_only_the_first_columns_are_kept(cells):
    fit = gv.fit_trajectories(cells, time_key="day", columns=2, **CLOSED)
    assert fit.trajectories(cells).shape == (150, 2)
    alone = SimpleNamespace(obs=cells.obs, obsm={"X_pca": cells.obsm["X_pca"][:, :2]}, n_obs=cells.n_obs)
    assert np.array_equal(fit.push(cells), gv.fit_trajectories(alone, time_key="day", **CLOSED).push(alone))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_key": "hour"}, "no column 'hour'"),
        ({"rep": "X_umap"}, "no 'X_umap'"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"growth": "rate"}, "no column 'rate'"),
    ],
)
def test_missing_keys_are_named(cells, change, message):
    with pytest.raises(gv.InputError, match=message):
        gv.fit_trajectories(cells, **SETTINGS | {"time_key": "day"} | change)


def test_times_that_are_not_there(fitted, cells):
    for call, message in (
        (lambda: fitted.trajectories(cells, start=5.0), "no cell at time 5; these have 2, 3, 4, 7"),
        (lambda: fitted.trajectories(cells, start=2.0, end=2.0), "already"),
        (
            lambda: fitted.trajectories(cells, start=1.0),
            "Time 1 is outside this fit, which knows the times from 2 to 7",
        ),
        (lambda: fitted.trajectories(cells, end="day 7.5"), "Time 7.5 is outside"),
        (lambda: fitted.path_times(2.0, np.nan), "Time nan is outside"),
        (lambda: fitted.push(cells, end=0), "Time 0 is outside"),
        (lambda: fitted.push(cells, end="late"), "A time is a number, a duration, or a label"),
        (lambda: fitted.push(cells, key="X_pca"), "choose another key"),
        (lambda: fitted.push(snapshots(20, shift=1.0)), "Time 8 is outside"),
        (lambda: fitted.trajectories(np.zeros((5, 2)), end=3.0), "rows of shape"),
        (lambda: fitted.trajectories(np.full((5, 3), np.nan), end=3.0), "not finite, in 5 of 5 cells"),
        (lambda: fitted.trajectories(np.random.default_rng(0).normal(1e7, 1.0, (5, 3)), end=3.0), "does not resolve"),
        (lambda: fitted.trajectories(np.full((5, 3), 1e39), end=3.0), "subtract the mean of such columns, or rescale"),
        (lambda: fitted.held_out_error(2.0), "between two others"),
        (lambda: fitted.held_out_error(3.5), "between two others"),
        (lambda: fitted.held_out_error(3.0, seeds=0), "seeds must be a whole number of 1 or more"),
        (lambda: fitted.held_out_error(3.0, seeds=1.5), "seeds must be a whole number of 1 or more"),
        (lambda: fitted.trajectories(np.zeros((0, 3)), end=3.0), "no rows or no columns"),
        (lambda: gv.fit_trajectories(cells, time_key="day", alternating={}), "alternating must be AlternatingConfig"),
        (lambda: gv.fit_trajectories(cells, time_key="day", network=8), "network must be NetworkConfig"),
        (lambda: gv.fit_trajectories(cells, time_key="day", seed=None), "seed must be a whole number"),
        (lambda: gv.fit_trajectories(cells, time_key="day", time_budget="5"), "time_budget must be a number"),
        (lambda: gv.fit_trajectories(cells, time_key="day", device="nowhere"), "device"),
    ):
        with pytest.raises(gv.InputError, match=message):
            call()


def test_cells_move_from_and_to_unobserved_times(fitted):
    """The cloud moves by 2 a day; cells of days that were never fitted are pushed from where they are."""
    assert torch.equal(fitted.path_times(2.5, "day 5")[[0, -1]], torch.tensor([2.5, 5.0], dtype=torch.float64))
    others = snapshots(100, seed=6, days=(2.5, 3.25, 5.0))
    for end in (2.25, 4.5, 6.0):
        moved = fitted.push(others, end=end)
        # five standard errors of 300 cells with deviation 1, and as much for moments of 150 cells at each end
        assert np.abs(moved.mean(0) - [2.0 * end, 0.0, 0.0]).max() < 0.29 + 0.4
    stay = others.obs["day"] == 5.0
    assert np.array_equal(fitted.push(others, end=5.0)[stay], others.obsm["X_pca"][stay].astype(np.float32))


def test_moving_on_has_the_law_of_moving_at_once(normal):
    """With one seed: the second leg's noise is not the first's. Covariance with the start, by the closed form."""
    _, fit = normal
    x = fit._snapshots.rows[0.0]
    there = fit.trajectories(fit.trajectories(x, start=0.0, end=0.3), start=0.3, end=0.8)
    first, second = exact_step(fit, 0.0, 0.3), exact_step(fit, 0.3, 0.8)
    noise = second.covariance + second.gain @ first.covariance @ second.gain.T
    expected = second.mean(first.mean(x.double()))
    found = (there.double() - expected).square() / noise.diagonal()
    # 4,000 squares: five standard errors are 11 %; shared noise would add 2 r sqrt(..), about 60 %
    assert float(found.mean()) == pytest.approx(1.0, rel=0.16)
    at_once = (fit.trajectories(x, start=0.0, end=0.8).double() - expected).square() / noise.diagonal()
    assert float(at_once.mean()) == pytest.approx(1.0, rel=0.16)


def test_cells_of_two_days_meet_different_noise(normal):
    cells, fit = normal
    same = matrix([cells.obsm["X_pca"][:200]] * 2)
    moved = fit.push(same, end=2.0)
    assert abs(np.corrcoef(moved[:200, 0] - same.obsm["X_pca"][:200, 0], moved[200:, 0] - moved[:200, 0])[0, 1]) < 0.95
    assert not np.allclose(moved[:200], moved[200:], atol=0.1)


def everything(fit, cells):
    """What a fit gives: cells at fitted and unfitted times, and the error of a left-out time."""
    return [*fit.push(cells, end=3.5), *fit.trajectories(cells, end=7.0).numpy()], fit.held_out_error(4.0, seeds=1)


def test_fits_are_copied_pickled_and_saved(tmp_path):
    cells = snapshots(40)
    grown = SimpleNamespace(
        obs=cells.obs | {"g": np.where(cells.obs["day"] < 4.0, 2.0, 1.0)}, obsm=cells.obsm, n_obs=160
    )
    fit = gv.fit_trajectories(grown, time_key="day", growth="g", columns=2, **TINY | {"sigma": None})
    fit.save_pretrained(tmp_path / "fit")
    expected = everything(fit, grown)
    for other in (
        pickle.loads(pickle.dumps(fit)),
        copy.deepcopy(fit),
        gv.bridges.Trajectories.from_pretrained(tmp_path / "fit"),
    ):
        found = everything(other, grown)
        assert np.array_equal(np.array(found[0]), np.array(expected[0]))
        assert found[1] == expected[1]
        assert repr(other) == repr(fit)
        assert other.size == fit.size
    assert {path.suffix for path in (tmp_path / "fit").rglob("*") if path.is_file()} == {".json", ".md", ".safetensors"}


def test_folders_that_hold_no_trajectories(fitted, tmp_path):
    with pytest.raises(gv.InputError, match="no such folder"):
        gv.bridges.Trajectories.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(gv.InputError, match="holds no set of trajectories"):
        gv.bridges.Trajectories.from_pretrained(tmp_path)
    fitted.bridge.save_pretrained(tmp_path / "bridge")
    with pytest.raises(gv.InputError, match="does not hold a set of trajectories"):
        gv.bridges.Trajectories.from_pretrained(tmp_path / "bridge")
    fitted.save_pretrained(tmp_path / "fit")
    with pytest.raises(gv.InputError, match="not empty"):
        fitted.save_pretrained(tmp_path / "fit")
    damaged = tmp_path / "fit" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"oops")
    with pytest.raises(gv.InputError, match="damaged"):
        gv.bridges.Trajectories.from_pretrained(tmp_path / "fit")


def test_progress_names_sections_rounds_and_sigma(cells):
    stream = io.StringIO()
    gv.fit_trajectories(cells, time_key="day", progress=LineProgress(stream, interval=0.0), **TINY)
    lines = stream.getvalue().splitlines()
    for part in ("2 to 3", "3 to 4", "4 to 7"):
        for half in ("backward", "forward"):
            assert any(f", {part}, round 1 of 1, {half}: step 1/1" in line for line in lines)
    assert all(line.startswith("sigma ") for line in lines)


def test_many_short_runs_are_not_silent(monkeypatch):
    """Runs of ten seconds and a line every fifteen: a clock that started anew with each would never print."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = LineProgress(stream)
    for run in range(6):
        progress.stage(f"run {run}")
        progress.start(0, 10)
        now[0] += 10.0
        progress.report({"step": 10, "loss": 1.0})
        progress.stop()
    assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == ["run 1", "run 3", "run 5"]


def test_a_fit_shows_itself_unless_it_is_told_not_to(monkeypatch):
    cells, asked = snapshots(30, days=(2.0, 3.0, 4.0)), []
    monkeypatch.setattr(
        "girsanov.training.progress.default_progress", lambda quiet: asked.append(quiet) or SilentProgress()
    )
    fit = gv.fit_trajectories(cells, time_key="day", **TINY)
    assert asked == [False]
    fit.held_out_error(3.0, seeds=2, cells=20, progress=SilentProgress())
    assert asked == [False]
    fit.held_out_error(3.0, seeds=1, cells=20, progress=False)
    assert asked == [False, True]


def test_a_time_budget_bounds_the_call(tmp_path):
    """Settings of minutes within a second and what cannot be left out; a fit that is called again has its bits."""
    cells = snapshots(50, days=(0.0, 1.0, 2.0))
    options = {"time_key": "day", "sigma": 0.5, "start": "mixture", "time_budget": 1.0, "run": tmp_path, "steps": 10}
    begun = time.perf_counter()
    fit = gv.fit_trajectories(cells, **options)
    assert time.perf_counter() - begun < 1.1 * 1.0 + 30.0
    assert fit.bridge.alternating.rounds < 3
    assert fit.bridge.alternating.paths < 10_000
    again = gv.fit_trajectories(cells, **options)
    assert np.array_equal(fit.push(cells), again.push(cells))
    with pytest.raises(gv.InputError, match="other cells"):
        gv.fit_trajectories(snapshots(seed=1), **options)


def test_a_budget_that_suffices_changes_nothing():
    cells = snapshots(50, days=(0.0, 1.0))
    plain, bounded = (gv.fit_trajectories(cells, time_key="day", time_budget=b, **TINY) for b in (None, 1000.0))
    assert np.array_equal(plain.push(cells), bounded.push(cells))
    for budget in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(gv.InputError, match="time_budget"):
            gv.fit_trajectories(cells, time_key="day", time_budget=budget, **TINY)
