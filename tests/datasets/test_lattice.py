"""The lattice rule on columns as they occur, made here with fixed seeds."""

import numpy as np
import pytest

from girsanov.datasets.lattice import Lattice, lattice_of
from tests.seeds import rng


def printed(values, digits=5):
    """Values as a text file with so many significant digits holds them."""
    return np.array([float(f"{value:.{digits}g}") for value in values])


CONTINUOUS = {
    "float64 noise": rng().normal(size=5000),
    "float32 noise": rng().normal(size=5000).astype(np.float32),
    "normal, three decimals": rng().normal(size=10_000).round(3),
    "float32, three decimals, 4,300 of 10,000 distinct": rng().uniform(0, 5, 10_000).astype(np.float32).round(3),
    "whole numbers up to a million": rng().integers(0, 10**6, 10_000),
    "five significant digits, centred": printed(rng().normal(3000, 900, 5000) - 2990.123),
    "a few exact repeats": np.concatenate([rng().normal(size=500), np.full(5, 0.25)]),
    "lognormal amounts in cents": rng().lognormal(7, 1, 5000).round(2),
    "two decimals, few rows": rng().normal(13, 0.8, 170).round(2),
    "every value once": np.arange(100.0),
    "two rows": np.array([0.0, 1.0]),
}

DISCRETE = {
    "ages": (rng().integers(18, 90, 300), 1.0, 0.0),
    "binary": (rng().integers(0, 2, 50), 1.0, 0.0),
    "rare binary": ((rng().random(20_000) < 0.001).astype(float), 1.0, 0.0),
    "two levels off zero": (rng().choice([3.0, 7.5], 40), 4.5, -1.5),
    "counts with a long tail": (rng().geometric(0.3, 2000) ** 3, 1.0, 0.0),
    "tenths": (rng().normal(5.8, 0.8, 150).round(1), 0.1, 0.0),
    "tenths in float32": (rng().normal(5.8, 0.8, 150).round(1).astype(np.float32), 0.1, 0.0),
    "halves": (rng().integers(0, 60, 1000) / 2, 0.5, 0.0),
    "multiples of 5": (5 * rng().integers(0, 60, 1000), 5.0, 0.0),
    "prices ending in .99": (rng().integers(1, 30, 500) + 0.99, 1.0, -0.01),
    "negative integers": (rng().integers(-50, -10, 500), 1.0, 0.0),
    "two decimals, many rows": (rng().normal(size=5000).round(2), 0.01, 0.0),
    "255ths in float32": ((rng().integers(0, 256, 5000) / 255).astype(np.float32), 1 / 255, 0.0),
    "zero-inflated whole numbers": (rng().integers(0, 10**6, 4000) * (rng(1).random(4000) < 0.5), 1.0, 0.0),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_columns_raise_no_alarm(name):
    assert lattice_of(CONTINUOUS[name]) is None


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_columns_have_their_step_and_origin(name):
    values, step, offset = DISCRETE[name]
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.step == pytest.approx(step, rel=1e-5)
    # The origin is known up to whole steps.
    cells = (lattice.offset - offset) / step
    assert abs(cells - round(cells)) < 1e-4
    assert not lattice.off(values.astype(float)).any()
    np.testing.assert_allclose(lattice.snap(values.astype(float)), values, atol=1e-6 * step)


@pytest.mark.parametrize(("step", "centre", "high"), [(1.0, 12.2014, 900), (0.1, 30.7719, 300), (1e-4, 0.0013, 40)])
def test_a_centred_table_printed_with_five_digits_has_its_step(step, centre, high):
    clean = rng().integers(0, high, 8000) * step - centre
    values = printed(clean)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.step == pytest.approx(step, rel=1e-4)
    assert not lattice.off(values).any()
    # Snapping undoes the printing: neighbours are again a step apart.
    assert np.abs(lattice.snap(values) - clean).max() < 0.3 * step
    assert lattice.off(np.array([clean[0] + 0.45 * step])).all()


def test_common_levels_on_no_lattice_are_binned_without_merging():
    levels = np.log(np.arange(1.0, 41.0))
    values = rng().choice(levels, 4000)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.binned
    bins = lattice.snap(levels)
    assert len(np.unique(bins)) == len(levels)
    assert np.abs(bins - levels).max() <= 0.5001 * lattice.step
    assert not lattice.off(rng().normal(size=100)).any()


def test_zero_inflated_floats_are_discrete_at_a_width_a_model_can_see():
    values = rng().gamma(2.0, size=3000) * (rng(1).random(3000) < 0.6)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.binned
    assert lattice.step == pytest.approx(values.std() / 1000, rel=0.1)


def test_rounding_errors_are_no_levels_of_their_own():
    values = np.tile([0.1 + 0.2, 0.3, 0.6, 0.9, 0.3 * 3], 20)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.step == pytest.approx(0.3)


@pytest.mark.parametrize("rows", [4, 12, 100, 3000])
def test_no_column_of_any_size_crashes(rows):
    for scale in (1e-90, 1e-6, 1.0, 1e12, 1e90):
        values = scale * rng(rows).normal(size=rows)
        assert lattice_of(values) is None
        lattice = lattice_of(np.repeat(values, 3))
        assert lattice is not None
        assert 0 < lattice.step <= np.ptp(values)


def test_false_alarms_among_printed_normal_columns():
    """200 normal columns with 3 decimals: none may be called discrete.

    About 0.43 n values are distinct, 30 standard deviations above the rule's n/3: a false alarm of the
    test itself has probability below 1e-100.
    """
    columns = (rng(seed).normal(size=8000).round(3) for seed in range(200))
    assert all(lattice_of(column) is None for column in columns)


def test_off_tells_apart_exact_and_rounded_lattices():
    exact, rounded = Lattice(1.0, 0.0, 1e-3), Lattice(1.0, 0.0, 0.25)
    values = np.array([3.0, 3.1, 3.4])
    assert exact.off(values).tolist() == [False, True, True]
    assert rounded.off(values).tolist() == [False, False, True]
    assert Lattice().off(values).tolist() == [False] * 3
    assert Lattice().snap(values) is values
