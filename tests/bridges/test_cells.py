"""Trajectories of cells: a light stand-in for AnnData, closed forms where drifts are known, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, NetworkConfig, wasserstein

#: the closed form between the moments does the work; networks only have to do no harm
SETTINGS = {
    "steps": 8,
    "network": NetworkConfig(width=8, blocks=1),
    "alternating": AlternatingConfig(rounds=1, steps=15, paths=200, batch_size=64),
}
DAYS = (2.0, 3.0, 4.0, 7.0)


def snapshots(rows=150, dim=3, seed=0):
    """Clouds that move by 2 a day along the first axis."""
    generator = np.random.default_rng(seed)
    day = np.repeat(DAYS, rows)
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
    assert error.mean == fitted.held_out_error(4.0, seeds=2, cells=100).mean


def test_the_state_at_a_time_has_the_variance_of_the_bridge(cells):
    """Two point clouds: halfway the paths are a Brownian bridge, whose variance is sigma^2/4."""
    day = np.repeat([0.0, 1.0, 2.0], 400)
    x = np.random.default_rng(0).normal(size=(1200, 2)) * 1e-3 + day[:, None]
    cells = SimpleNamespace(obs={"day": day}, obsm={"X_pca": x}, n_obs=1200)
    from girsanov.bridges.cells import _state_at

    fit = gv.fit_trajectories(cells, time_key="day", sigma=1000.0, **SETTINGS | {"steps": 40})
    kept = {t: s for t, s in fit._snapshots.items() if t != 1.0}
    bridge = fit._fit(kept, 0, None)
    generator = torch.Generator().manual_seed(0)
    for time in (0.5, 1.0):
        state = _state_at(bridge, fit._snapshots[0.0], (0.0, 2.0), time, fit.sigma, generator)
        expected = fit.sigma * (time * (2.0 - time) / 4.0) ** 0.5
        # 800 numbers: the standard error of a deviation is 2.5 %, so 12 % is passed by chance below 1e-5
        assert float(state.std(0).mean()) == pytest.approx(expected, rel=0.12)
        assert float((state.mean() - time).abs()) < 0.1


def test_pushed_cells_are_written_back(fitted, cells):
    pushed = fitted.push(cells, end=7.0, key="X_day7", seed=3)
    assert cells.obsm.pop("X_day7") is not None
    last = cells.obs["day"] == 7.0
    assert np.array_equal(pushed[last], cells.obsm["X_pca"][last].astype(np.float32))
    assert abs(pushed[~last][:, 0].mean() - 14.0) < 0.3
    assert "X_day7" not in cells.obsm
    assert np.array_equal(fitted.push(cells, end=7.0, seed=3), pushed)


def test_growth_weighs_cells():
    """Only cells above 0 have descendants: the bridge's backward end is their half of the first snapshot."""
    generator = np.random.default_rng(1)
    day = np.repeat([0.0, 1.0], 400)
    x = np.stack([np.sign(generator.normal(size=800)) * 3.0, generator.normal(size=800)], 1)
    growth = np.where((day == 0.0) & (x[:, 0] < 0), 0.0, 1.0)
    x[day == 1.0, 0] = 3.0 + generator.normal(size=400)
    cells = SimpleNamespace(obs={"day": day, "growth": growth}, obsm={"X_pca": x + 0.1}, n_obs=800)
    settings = SETTINGS | {"alternating": AlternatingConfig(rounds=3, steps=200, paths=1600, batch_size=128)}
    means = []
    for key in (None, "growth"):
        fit = gv.fit_trajectories(cells, time_key="day", growth=key, start="reference", sigma=3.0, **settings)
        means.append(float(fit.trajectories(cells, start=1.0, end=0.0)[:, 0].mean()))
    assert means[1] > means[0] + 1.0


def test_categories_and_frames_are_times():
    pandas = pytest.importorskip("pandas")
    plain = snapshots(30)
    frame = pandas.DataFrame({"day": pandas.Categorical([f"{t:g}" for t in plain.obs["day"]])})
    cells = SimpleNamespace(obs=frame, obsm=plain.obsm, n_obs=plain.n_obs)
    assert gv.fit_trajectories(cells, time_key="day", components=2, **SETTINGS).times == list(DAYS)


def test_a_real_annotated_matrix():
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    plain = snapshots(30)
    obs = pandas.DataFrame({"day": plain.obs["day"]}, index=[f"cell {i}" for i in range(plain.n_obs)])
    cells = anndata.AnnData(np.zeros((plain.n_obs, 1), np.float32), obs=obs, obsm=plain.obsm)
    fit = gv.fit_trajectories(cells, time_key="day", **SETTINGS)
    pushed = fit.push(cells, key="X_last")
    assert np.array_equal(cells.obsm["X_last"], pushed)
    assert np.array_equal(pushed, gv.fit_trajectories(plain, time_key="day", **SETTINGS).push(plain))


def test_components_are_the_first_columns(cells):
    fit = gv.fit_trajectories(cells, time_key="day", components=2, **SETTINGS)
    assert fit.trajectories(cells).shape == (150, 2)
    assert wasserstein(fit.trajectories(cells), torch.as_tensor(cells.obsm["X_pca"][:150, :2]).float()) > 0


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
        gv.fit_trajectories(cells, **({"time_key": "day"} | change), **SETTINGS)


@pytest.mark.parametrize(
    ("obs", "x", "message"),
    [
        (np.zeros(4), np.zeros((4, 2)), "two or more"),
        (np.array(["a", "b", "a", "b"]), np.zeros((4, 2)), "categories that are numbers"),
        (np.array([0.0, 1.0, np.nan, 1.0]), np.zeros((4, 2)), "finite number"),
        (np.arange(4.0), np.full((4, 2), np.nan), "not finite"),
        (np.arange(4.0), np.zeros((3, 2)), "one row for each"),
    ],
)
def test_matrices_that_cannot_be_fitted(obs, x, message):
    cells = SimpleNamespace(obs={"day": obs}, obsm={"X_pca": x}, n_obs=4)
    with pytest.raises(gv.InputError, match=message):
        gv.fit_trajectories(cells, time_key="day", **SETTINGS)


def test_times_that_are_not_there(fitted, cells):
    for call, message in (
        (lambda: fitted.trajectories(cells, start=5.0), "Time 5 is not of this fit"),
        (lambda: fitted.trajectories(cells, start=2.0, end=2.0), "already"),
        (lambda: fitted.held_out_error(2.0), "between two others"),
    ):
        with pytest.raises(gv.InputError, match=message):
            call()
