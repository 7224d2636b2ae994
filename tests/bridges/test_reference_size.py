"""How much paths may stray: chosen by left-out times, in the data's units, from a seed and the cells alone."""

import math

import numpy as np
import pytest
import torch

from girsanov.bridges import reference_size
from girsanov.bridges.annotated import Snapshots
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import ReferenceSize, choose_size, fixed_size
from girsanov.types import InputError
from tests.seeds import seed, seeded


def brownian(sigma, times=(0.0, 0.5, 1.0), rows=600, dim=2, number=0, unit=1.0):
    """Independent snapshots of a Brownian motion that starts as a standard normal law."""
    generator = seeded(number)
    law = {t: math.sqrt(1.0 + sigma**2 * t) * torch.randn(rows, dim, generator=generator) for t in times}
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
        None, "gaussian", 1, 2, NetworkConfig(width=4, blocks=1), AlternatingConfig(rounds=0), 0, torch.device("cpu"),
        None, None,
    )  # fmt: skip
    cells = brownian(1.0, times, rows=50)
    spoiled = Snapshots(cells.rows | {1.0: 50.0 * cells.rows[1.0]}, {})
    sizes = [recipe.fit(x.without(1.0), progress=SilentProgress())[1] for x in (cells, spoiled)]
    assert sizes[0] == sizes[1]
    assert choose_size(spoiled, 0) != choose_size(cells, 0)


def test_sizes_survive_json():
    for size in (choose_size(brownian(1.0, rows=20), 0), fixed_size(brownian(1.0), 0.3)):
        assert ReferenceSize.from_json(size.to_json()) == size


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, "large", True])
def test_sizes_that_cannot_be(sigma):
    with pytest.raises(InputError, match="sigma must be positive"):
        fixed_size(brownian(1.0), sigma)


def test_points_have_no_spread():
    points = Snapshots({t: torch.full((20, 2), t) for t in (0.0, 1.0, 2.0)}, {})
    for call in (lambda: choose_size(points, 0), lambda: fixed_size(points, 0.5)):
        with pytest.raises(InputError, match="all alike"):
            call()
