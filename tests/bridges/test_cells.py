"""Trajectories of cells: a light stand-in for AnnData, closed forms where drifts are known, and what is refused."""

import functools
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, NetworkConfig, wasserstein
from girsanov.bridges.cells import _placed, _state_at
from girsanov.bridges.gaussian import GaussianBridge
from tests.elsewhere import DEVICE, accelerator
from tests.seeds import rng, seeded

#: the closed form between the moments does the work; networks only have to do no harm
SETTINGS = {
    "steps": 8,
    "network": NetworkConfig(width=8, blocks=1),
    "alternating": AlternatingConfig(rounds=1, steps=15, paths=200, batch_size=64),
}
#: no projections at all: the closed-form bridge between the moments, with networks that are zero
CLOSED = SETTINGS | {"alternating": AlternatingConfig(rounds=0)}
#: enough to see that everything is passed on
TINY = SETTINGS | {"steps": 3, "alternating": AlternatingConfig(rounds=1, steps=2, paths=40, batch_size=16)}
DAYS = (2.0, 3.0, 4.0, 7.0)


def snapshots(rows=150, dim=3, seed=0):
    """Clouds that move by 2 a day along the first axis."""
    generator = rng(seed)
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
    x = rng(0).normal(size=(1200, 2)) * 1e-3 + day[:, None]
    cells = SimpleNamespace(obs={"day": day}, obsm={"X_pca": x}, n_obs=1200)
    fit = gv.fit_trajectories(cells, time_key="day", sigma=1000.0, **SETTINGS | {"steps": 40})
    kept = {t: s for t, s in fit._snapshots.items() if t != 1.0}
    bridge = fit._fit(kept, 0, None)
    generator = seeded(0)
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


def test_cells_are_pushed_to_the_first_time_too(fitted, cells):
    pushed = fitted.push(cells, end=2.0)
    first = cells.obs["day"] == 2.0
    assert np.array_equal(pushed[first], cells.obsm["X_pca"][first].astype(np.float32))
    # 450 cells that end at 4 on the first axis: five standard errors are 0.24
    assert abs(pushed[~first][:, 0].mean() - 4.0) < 0.3


def test_growth_weighs_cells():
    """Only cells above 0 have descendants: the bridge's backward end is their half of the first snapshot."""
    generator = rng(1)
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


def upper(x):
    return float((torch.as_tensor(x)[:, 0] > 0).double().mean())


def test_growth_weighs_the_start_of_the_next_section_only():
    """Three days, one cloud, two modes half and half with weights 3:1, one cloud again.

    The first section must end in the cells as they are, half in each mode, and the second start by weight: cells of the
    last day, moved back, were three of four times in the upper mode. Between symmetric clouds a fit without weights
    ends at one half both times, and one whose weights count at both sides at three quarters both times.
    """
    cloud = [0.3 * rng(seed).normal(size=(1000, 2)) for seed in (1, 2)]
    middle = modes(1000, 0.5)
    growth = np.concatenate([np.ones(1000), np.where(middle[:, 0] > 0, 3.0, 1.0), np.ones(1000)])
    cells = matrix([cloud[0], middle, cloud[1]], growth=growth)
    settings = SETTINGS | {"alternating": AlternatingConfig(rounds=2, steps=300, paths=2000, batch_size=256)}
    settings["network"] = NetworkConfig(width=32, blocks=1)
    fit = gv.fit_trajectories(cells, time_key="day", growth="growth", start="reference", sigma=3.0, **settings)
    # five standard errors of 1,000 draws are 0.08, the rest is for the fit; the other answers are 0.25 away
    assert upper(fit.trajectories(cells, start=0.0, end=1.0)) == pytest.approx(0.5, abs=0.12)
    assert upper(fit.trajectories(cells, start=2.0, end=1.0)) == pytest.approx(0.75, abs=0.12)


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
        fit = gv.fit_trajectories(cells, time_key="day", growth=key, sigma=1e-3, **CLOSED)
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
    cells = matrix(rng(4).normal(size=(3, 400, 20)))
    return cells, gv.fit_trajectories(cells, time_key="day", sigma=1.0, **CLOSED | {"steps": 40})


def exact(fit, end, time):
    """The closed-form transition from day 0 to a time, of the bridge to the end; the bridge's own time is 0 to 1."""
    rows = fit._snapshots
    ends = (gv.Gaussian.fit(rows[t]) for t in (0.0, end))
    return GaussianBridge(gv.BrownianMotion(sigma=fit.sigma), *ends).transition(0.0, time)


def test_a_mean_is_the_expected_place(normal):
    """Means of 64 paths lie around the closed form's, each with 1/64 of its variance."""
    cells, _ = normal
    two = matrix([cells.obsm["X_pca"][:400], cells.obsm["X_pca"][800:]])
    fit = gv.fit_trajectories(two, time_key="day", sigma=1.0, **CLOSED | {"steps": 40})
    law, x = exact(fit, 1.0, 1.0), fit._snapshots[0.0]
    variance = law.covariance.diagonal()
    for way, paths in (("sample", 64), ("mean", 64), ("mean", 5)):
        moved = torch.as_tensor(fit.push(two, way=way, paths=paths)[:400]).double()
        noise = (moved - law.mean(x.double())).square() / variance
        expected = 1.0 if way == "sample" else 1.0 / paths
        # 8,000 squares of normals: the relative standard error is sqrt(2/8000) = 1.6 %, so five are 8 %
        assert float(noise.mean()) == pytest.approx(expected, rel=0.08), (way, paths)
    draws, means = (torch.as_tensor(fit.push(two, way=way)[:400]).std(0).mean() for way in ("sample", "mean"))
    assert means < 0.9 * draws  # too small a spread


def test_a_mean_of_one_path_is_a_draw(normal):
    cells, fit = normal
    assert np.array_equal(fit.push(cells, way="mean", paths=1), fit.push(cells))
    found = [fit.held_out_error(1.0, seeds=2, cells=50, way=way, paths=1) for way in ("mean", "sample")]
    assert found[0] == replace(found[1], way="mean")


def test_means_are_nearer_than_draws_where_sampling_dominates(normal):
    """One law at all days: 100 points in 20 dimensions are far from 100 others, and nearer to points drawn inwards."""
    _, fit = normal
    draws, means = (fit.held_out_error(1.0, seeds=2, cells=100, refit=False, way=way) for way in ("sample", "mean"))
    assert draws.untouched == means.untouched
    assert means.mean < 0.95 * draws.mean


def test_ways_that_do_not_exist(normal):
    cells, fit = normal
    for options in ({"way": "median"}, {"way": "mean", "paths": 0}):
        with pytest.raises(gv.InputError, match="way must be sample, or mean"):
            fit.push(cells, **options)


@pytest.fixture
def cite(monkeypatch):
    """The benchmark of CITE-seq as a module."""
    folder = Path(__file__).parents[2] / "benchmarks"
    for place in (folder, folder / "paper3"):
        monkeypatch.syspath_prepend(str(place))
    before = set(sys.modules)
    yield importlib.import_module("cite")
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            sys.modules.pop(name)


def test_the_benchmarks_mean_is_that_of_the_library(cite, normal):
    """Both, and the closed form at the left-out day: two averages of 64 independent paths from the same cells.

    A path of the closed form has the transition's variance at that day, so the difference of two averages has 2/64 of
    it; the benchmark's Euler steps add the little that 20 of them miss.
    """
    _, fit = normal
    kept = {0.0: fit._snapshots[0.0], 1.0: fit._snapshots[2.0]}
    bridge = fit._fit(kept, 0, None)
    x, generator = kept[0.0], seeded(5)
    with torch.no_grad():
        euler = lambda rows: cite.euler(bridge.forward_drift, rows, 0.5, fit.sigma, generator)  # noqa: E731
        theirs = cite.ways(euler, lambda rows: rows, x)["mean"]
    ours = _placed(functools.partial(_state_at, bridge, x, (0.0, 1.0), 0.5, fit.sigma, generator), "mean", cite.PATHS)
    law = exact(fit, 2.0, 0.5)
    variance = law.covariance.diagonal() / cite.PATHS
    for found, count in (
        (ours - law.mean(x.double()), 1.0),
        (theirs - law.mean(x.double()), 1.0),
        (ours - theirs, 2.0),
    ):
        # 8,000 squares: five standard errors are 8 %, and as much again is for the steps
        assert float((found.double().square() / variance).mean()) == pytest.approx(count, rel=0.16)


def test_an_interrupted_fit_goes_on(cells, tmp_path, monkeypatch):
    """Checkpoints of all fits lie apart, finished fits are read, and the results have the bits of fits without."""
    plain = gv.fit_trajectories(cells, time_key="day", **TINY)
    expected = plain.push(cells), plain.held_out_error(4.0, seeds=2, cells=50)
    for _ in range(2):
        fit = gv.fit_trajectories(cells, time_key="day", run=tmp_path, **TINY)
        assert np.array_equal(fit.push(cells), expected[0])
        assert fit.held_out_error(4.0, seeds=2, cells=50) == expected[1]
        folders = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("section-*")}
        sections = {f"without-4.0/seed-{seed}/section-{i}" for seed in (0, 1) for i in (0, 1)}
        assert folders == sections | {f"section-{i}" for i in (0, 1, 2)}
        monkeypatch.setattr(torch.optim.AdamW, "step", untrained)
    with pytest.raises(RuntimeError, match="trained"):
        gv.fit_trajectories(cells, time_key="day", run=tmp_path / "other", **TINY)


def untrained(*args, **kwargs):
    raise RuntimeError("a fit was trained where a finished one was to be read")


def test_everything_elsewhere_has_the_bits_of_everything_here(cells):
    """On a simulated second device, which refuses operands that stayed behind; results are here."""
    growth = 1.0 + cells.obsm["X_pca"][:, 1] ** 2
    grown = SimpleNamespace(obs=cells.obs | {"growth": growth}, obsm=cells.obsm, n_obs=cells.n_obs)

    def everything(device):
        fit = gv.fit_trajectories(grown, time_key="day", growth="growth", device=device, **TINY)
        assert fit.bridge.device == torch.device(device)
        path = fit.trajectories(torch.as_tensor(grown.obsm["X_pca"][:5]), end=4.0, return_path=True)
        assert path.device == fit.path_times(2.0, 3.0).device == torch.device("cpu")
        pushed = [fit.push(grown, end=end, way="mean", paths=2) for end in (2.0, 7.0)]
        return [path.numpy(), *pushed], fit.held_out_error(3.0, seeds=1, cells=20)

    expected = everything("cpu")
    with accelerator():
        found = everything(DEVICE)
    for one, other in zip(found[0], expected[0], strict=True):
        assert np.array_equal(one, other)
    assert found[1].values == expected[1].values


def test_mixtures_have_so_many_gaussians(cells):
    settings = SETTINGS | {"alternating": AlternatingConfig(rounds=0, potential_steps=2)}
    fit = gv.fit_trajectories(cells, time_key="day", start="mixture", mixture_components=3, **settings)
    assert fit.bridge.components == 3
    for chain in fit.bridge.chains:
        assert {
            len(law.weights) for law in (chain.forward_half.potentials.start, chain.forward_half.potentials.end)
        } == {3}


def test_categories_and_frames_are_times():
    pandas = pytest.importorskip("pandas")
    plain = snapshots(30)
    frame = pandas.DataFrame({"day": pandas.Categorical([f"{t:g}" for t in plain.obs["day"]])})
    cells = SimpleNamespace(obs=frame, obsm=plain.obsm, n_obs=plain.n_obs)
    assert gv.fit_trajectories(cells, time_key="day", columns=2, **SETTINGS).times == list(DAYS)


def test_a_real_annotated_matrix():
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    plain = snapshots(30)
    obs = pandas.DataFrame({"day": plain.obs["day"]}, index=[f"cell {i}" for i in range(plain.n_obs)])
    cells = anndata.AnnData(np.zeros((plain.n_obs, 1), np.float32), obs=obs, obsm=plain.obsm)
    fit = gv.fit_trajectories(cells, time_key="day", **SETTINGS)
    pushed = fit.push(cells, key="X_last")
    assert np.array_equal(cells.obsm["X_last"], pushed)
    assert np.array_equal(pushed, gv.fit_trajectories(plain, time_key="day", **SETTINGS).push(plain))


def test_only_the_first_columns_are_kept(cells):
    fit = gv.fit_trajectories(cells, time_key="day", columns=2, **SETTINGS)
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
