"""How much paths may stray: chosen by left-out times, in the data's units, from a seed and the cells alone."""

import math

import numpy as np
import pytest
import torch

from girsanov.bridges import reference_size
from girsanov.bridges.annotated import Snapshots
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import ReferenceSize, choose_size, fixed_size
from girsanov.densities import Gaussian
from girsanov.types import InputError
from tests.seeds import seed, seeded


def brownian(sigma, times=(0.0, 0.5, 1.0), rows=600, dim=2, number=0, unit=1.0, drift=0.0):
    """Independent snapshots of a Brownian motion that starts as a standard normal law."""
    generator = seeded(number)
    law = {t: math.sqrt(1.0 + sigma**2 * t) * torch.randn(rows, dim, generator=generator) + drift * t for t in times}
    return Snapshots({t: unit * x for t, x in law.items()}, {})


@pytest.fixture(autouse=True)
def thorough(monkeypatch):
    monkeypatch.setattr(reference_size, "DRAWS", 4)


def test_the_size_of_a_brownian_motion_is_found():
    """Sigma 5 is 1.4 spreads: the time in between is too narrow under a fifth of it, and too wide under 4 spreads.

    The bridge's standard deviation there is 3.67 for the truth, 3.1 for small sizes and 6 for 4 spreads; W1 between
    300 cells of one law in the plane is 0.5, give or take a tenth.
    """
    size = choose_size(brownian(5.0), seed(0))
    assert 1.0 <= size.sigma / size.spread <= 2.0
    assert size.chosen == "left-out times"
    assert list(size.errors) == pytest.approx([s * size.spread for s in reference_size.SIZES])
    assert size.errors[size.sigma] < 0.6 * max(size.errors.values())
    assert size.untouched > min(size.errors.values())


def test_the_size_is_one_of_the_whole_time_however_short_the_steps():
    """Eleven times: between neighbours of a left-out one the size counts by the root of a fifth, 0.45."""
    size = choose_size(brownian(5.0, times=tuple(np.linspace(0.0, 1.0, 11).tolist())), seed(0))
    assert 1.0 <= size.sigma / size.spread <= 2.0


def test_a_left_out_time_stands_where_it_stood():
    """Cells that drift: half-way they would be 6 to the side of those at a fifth of the time."""
    size = choose_size(brownian(5.0, times=(0.0, 0.2, 1.0), drift=20.0), seed(0))
    assert min(size.errors.values()) < 2.0 < size.untouched


def test_of_sizes_that_are_as_good_the_largest_is_chosen(monkeypatch):
    """Means 0.97 and 0.975 are within one error of 0.01 of each other, 1.0 is not."""
    means = torch.tensor([1.2, 1.1, 1.0, 0.97, 0.975, 1.0, 2.0], dtype=torch.float64)
    spread = 0.02 * torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) / 1.29  # a standard deviation of 0.02
    monkeypatch.setattr(reference_size, "_left_out", lambda *_: (means[:, None] + spread, torch.ones(4)))
    size = choose_size(brownian(1.0, rows=20), 0)
    assert size.sigma == pytest.approx(reference_size.SIZES[4] * size.spread)


def test_cells_that_stay_where_they_are_have_no_large_size():
    """One law at all times: under a large sigma the cells in between are spread too wide."""
    size = choose_size(brownian(0.0), seed(0))
    assert size.sigma <= size.spread


def test_the_choice_follows_the_units_of_the_data():
    small, large = (choose_size(brownian(3.0, rows=100, unit=unit), 0) for unit in (1.0, 1024.0))
    assert large.sigma == pytest.approx(1024.0 * small.sigma, rel=1e-6)
    assert large.spread == pytest.approx(1024.0 * small.spread, rel=1e-6)


def test_the_choice_needs_a_seed_and_leaves_the_global_one_alone():
    cells, sizes = brownian(1.0, rows=50), []
    for state in (1, 2):
        torch.manual_seed(state)
        np.random.seed(state)
        before = torch.random.get_rng_state()
        sizes.append(choose_size(cells, 0))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert sizes[0] == sizes[1]
    assert choose_size(cells, 1).errors != sizes[0].errors


def test_two_times_get_half_of_the_spread_and_it_is_said():
    size = choose_size(brownian(1.0, times=(0.0, 1.0)), 0)
    assert size.sigma == 0.5 * size.spread
    assert "0.5 spreads): half of the spread, since two times leave none out to choose by" in str(size)
    given = fixed_size(brownian(1.0), 2.0)
    assert given.sigma == 2.0 * given.spread
    assert str(given).endswith("(2 spreads): given")
    assert "chosen by left-out times, W1" in str(choose_size(brownian(1.0, rows=30), 0))


def test_many_times_are_thinned_and_few_cells_and_many_columns_work(monkeypatch):
    """Fewer cells than columns: the moments' covariances are singular or shrunk, and the choice is still finite."""
    left_out, found = reference_size._left_out, []
    monkeypatch.setattr(reference_size, "_left_out", lambda s, t, *rest: found.append(t) or left_out(s, t, *rest))
    times = tuple(np.linspace(0.0, 1.0, 12).tolist())
    size = choose_size(brownian(1.0, times=times, rows=12, dim=20), 0)
    assert len(found) == reference_size.INNER
    assert found[0] == times[1]
    assert found[-1] == times[-2]
    assert all(math.isfinite(error) for error in size.errors.values())


def test_weights_decide_which_cells_start():
    """Cells of weight 0 lie far away: they take no part."""
    cells = brownian(1.0, rows=200)
    far = cells.rows[0.0].clone()
    far[:100] += 100.0
    weights = {0.0: torch.cat([torch.zeros(100), torch.ones(100)])}
    size = choose_size(Snapshots(cells.rows | {0.0: far}, weights), 0)
    assert min(size.errors.values()) < 2.0  # with them the mean of the middle is 25 away


def test_a_left_out_time_takes_no_part_in_the_choice():
    """Whatever stood at the left-out time: the fit without it has the same size, and its own choice another."""
    from girsanov.bridges import AlternatingConfig, NetworkConfig
    from girsanov.training import SilentProgress

    times = (0.0, 1.0, 2.0, 3.0)
    recipe = Recipe(
        size=None, start="gaussian", steps=2, network=NetworkConfig(width=4, blocks=1),
        alternating=AlternatingConfig(rounds=0), seed=0, device=torch.device("cpu"), run=None, time_budget=None,
    )  # fmt: skip
    cells = brownian(1.0, times, rows=50)
    spoiled = Snapshots(cells.rows | {1.0: 50.0 * cells.rows[1.0]}, {})
    sizes = [recipe.fit(x.without(1.0), progress=SilentProgress())[1] for x in (cells, spoiled)]
    assert sizes[0] == sizes[1]
    assert choose_size(spoiled, 0) != choose_size(cells, 0)


def test_sizes_survive_json():
    for size in (choose_size(brownian(1.0, rows=20), 0), fixed_size(brownian(1.0), 0.3)):
        assert ReferenceSize.from_json(size.to_json()) == size


@pytest.mark.parametrize("sigma", [np.float32(0.5), np.int64(1), 2])
def test_sizes_may_be_numbers_of_any_kind(sigma):
    size = fixed_size(brownian(1.0), sigma)
    assert size.sigma == pytest.approx(float(sigma) * size.spread)


def test_a_column_that_is_constant_at_one_time_is_moved_like_the_others():
    """A silent gene: its Gaussian has a least deviation, and what it says of the others stays."""
    cells = brownian(1.0)
    silent = Snapshots({t: torch.cat([x, (t > 0.0) * x[:, :1]], 1) for t, x in cells.rows.items()}, {})
    found = choose_size(silent, 0)
    assert all(math.isfinite(error) for error in found.errors.values())
    law = Gaussian.fit(silent.rows[0.0], floor=0.01)
    plain = Gaussian.fit(cells.rows[0.0])
    torch.testing.assert_close(law.marginal_variance()[2], torch.tensor(1e-4, dtype=torch.float64))
    torch.testing.assert_close(law.marginal_variance()[:2], plain.marginal_variance(), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, "large", True])
def test_sizes_that_cannot_be(sigma):
    with pytest.raises(InputError, match="sigma must be positive"):
        fixed_size(brownian(1.0), sigma)


def test_points_have_no_spread():
    points = Snapshots({t: torch.full((20, 2), t) for t in (0.0, 1.0, 2.0)}, {})
    for call in (lambda: choose_size(points, 0), lambda: fixed_size(points, 0.5)):
        with pytest.raises(InputError, match="all alike"):
            call()
