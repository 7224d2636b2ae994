"""The lattice rule on columns as they occur, made here with fixed seeds."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from girsanov.datasets.lattice import Lattice, lattice_of, spoken, with_step
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
    "three decimals, a million rows": rng().normal(size=1_000_000).round(3),
    "five digits, each value in six rows": np.repeat(printed(rng().normal(25, 10, 1100)), 6),
    "4,000 means of visits, each in nine rows": np.repeat(rng().normal(size=4000), 9),
    "two rows": np.array([0.0, 1.0]),
}

THOUSANDS = rng(1).choice([1, 1000], 2000)
SALARIES = np.rint(rng().lognormal(10.5, 0.5, 2000) / THOUSANDS) * THOUSANDS

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
    "prices ending in .99, .49 and .00": (
        rng().integers(1, 80, 3000) + rng(1).choice([0.99, 0.49, 0], 3000),
        0.01,
        0.0,
    ),
    "months as years": (2000 + rng().integers(0, 240, 2000) / 12, 1 / 12, 0.0),
    "thirds with two decimals": ((rng().integers(0, 40, 2000) / 3).round(2), 1 / 3, 0.0),
    "whole numbers less 12.2014, six decimals": ((rng().integers(0, 60, 2000) - 12.20142857).round(6), 1.0, -0.201429),
    "whole numbers over 59": (rng().integers(0, 60, 2000) / 59, 1 / 59, 0.0),
    "midnights in seconds": (1.6e9 + 86400.0 * rng().integers(0, 300, 2000), 86400.0, -41600.0),
    "tenths in float32 widened": (rng().normal(5.8, 0.8, 500).round(1).astype(np.float32).astype(float), 0.1, 0.0),
    "bytes": (rng().integers(0, 256, 2000).astype(np.uint8), 1.0, 0.0),
    "salaries, half in thousands": (SALARIES, 1.0, 0.0),
    "twenty rows with one decimal": (np.r_[rng().normal(5.8, 0.8, 18), 5.8, 5.8].round(1), 0.1, 0.0),
    "counts whose tail seldom repeats": (np.rint(rng().lognormal(2, 2, 2000)), 1.0, 0.0),
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
    np.testing.assert_allclose(lattice.snap(values.astype(float)), values, atol=max(1e-6, lattice.slack) * step)


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
    spread = np.subtract(*np.percentile(values[values > 0], [75, 25])) / 1.349
    assert lattice.step == pytest.approx(min(spread, values[values > 0].std()) / 1000, rel=0.15)
    assert lattice.snap(np.zeros(1)) == 0.0
    assert not lattice.off(rng().gamma(2.0, size=500)).any()


def test_rounding_errors_are_no_levels_of_their_own():
    values = np.tile([0.1 + 0.2, 0.3, 0.6, 0.9, 0.3 * 3], 20)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.step == pytest.approx(0.3)


def test_steps_of_the_floats_themselves_are_levels():
    values = (5.8e6 + 100 * rng().normal(size=2000)).astype(np.float32)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.step == 0.5
    assert lattice.snap(values).tolist() == values.tolist()


@pytest.mark.parametrize("rows", [4, 12, 100, 3000])
def test_no_column_of_any_size_crashes(rows):
    for scale in (1e-90, 1e-6, 1.0, 1e12, 1e90):
        values = scale * rng(rows).normal(size=rows)
        assert lattice_of(values) is None
        assert rows < 13 or lattice_of(np.repeat(values, 3)) is None
        lattice = lattice_of(np.repeat(values[:100], 12))
        assert lattice is not None
        assert 0 < lattice.step <= np.ptp(values)


def test_a_filled_column_is_no_lattice_and_new_values_are_welcome():
    """One value of 12 % of the rows has no density, and says nothing about the others."""
    values = rng().normal(size=3000).round(5)
    values[rng(1).random(3000) < 0.12] = np.median(values)
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.binned
    assert 1 / 3000 < lattice.step < 1 / 500
    assert not lattice.off(rng(2).normal(size=1000)).any()


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_whole_numbers_beside_the_mean_that_filled_their_gaps_have_step_one(share):
    values = rng().integers(18, 90, 3000).astype(float)
    values[rng(1).random(3000) < share] = 53.8346
    lattice = lattice_of(values)
    assert lattice is not None
    assert (lattice.step, lattice.offset, lattice.binned) == (1.0, 0.0, True)
    assert not lattice.off(np.array([53.8346, 20.5])).any()


@pytest.mark.parametrize("decimals", [4, 6, 15])
def test_whole_numbers_over_their_deviation_have_its_inverse_to_the_digits_that_hold(decimals):
    whole = rng().integers(0, 60, 2000)
    lattice = lattice_of(((whole - whole.mean()) / whole.std()).round(decimals))
    assert lattice is not None
    error = 10.0**-decimals / 59
    assert abs(lattice.step - 1 / whole.std()) < 3 * error + 1e-12
    if decimals < 15:
        assert len(spoken(lattice.step)) <= 2 + decimals + 3
    # What was not there, beyond the range too, is on the lattice; the middle between two points is not.
    new = (np.array([-20, 80]) - whole.mean()) / whole.std()
    assert not lattice.off(new.round(decimals)).any()
    assert lattice.off(new + 0.5 * lattice.step).all()


def test_off_is_what_the_rounding_of_the_data_does_not_explain():
    thirds = lattice_of((rng().integers(0, 40, 2000) / 3).round(4))
    assert thirds is not None
    assert thirds.off(np.array([1.3333, 1.333, 1.3, 1.334])).tolist() == [False, False, True, True]
    digits = lattice_of(printed(rng().integers(0, 1500, 20_000) - 12.2014))
    assert digits is not None
    assert digits.off(np.array([0.7986, 1.2, 700.8, 701.2])).tolist() == [False, True, False, True]


def test_a_stated_step_goes_through_the_most_common_value_and_refuses_nothing():
    lattice = with_step(np.array([0.99, 0.99, 1.49, 2.5]), 0.5)
    assert lattice.snap(np.array([0.99, 1.5, 2.6])) == pytest.approx([0.99, 1.49, 2.49])
    assert not lattice.off(np.array([0.7])).any()


# Known kinds, drawn at random: 100 of each. What is asserted fails with a probability below 1e-6 for each.

KINDS = settings(max_examples=100, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


@KINDS
@given(SEEDS, st.sampled_from([1.0, 0.5, 0.25, 0.1, 0.01, 5.0, 1 / 3, 1 / 12]), st.integers(2, 200), st.floats(-50, 50))
def test_property_a_lattice_has_its_step(number, step, cells, shift):
    draw = rng(number)
    offset = round(shift, 3)
    values = offset + step * draw.integers(0, cells, 30 * cells)
    lattice = lattice_of(values.round(6))
    assert lattice is not None
    if len(np.unique(values)) > 6:  # fewer levels may by chance be multiples of a larger step
        assert lattice.step == pytest.approx(step, rel=1e-9)
    assert not lattice.off(values).any()
    np.testing.assert_allclose(lattice.snap(values), values, atol=1e-3 * step)


@KINDS
@given(SEEDS, st.integers(300, 20_000), st.integers(3, 12), st.floats(-4, 4), st.sampled_from(["normal", "gamma"]))
def test_property_a_rounded_density_is_a_density(number, rows, digits, size, law):
    """Decimals of at most s/600: the expected cell of half the rows holds less than the rule asks."""
    draw = rng(number)
    values = draw.normal(size=rows) if law == "normal" else draw.gamma(3.0, size=rows)
    unit = 10.0 ** np.floor(np.log10(10.0**size / 600)) * 10.0 ** (3 - digits)
    assert lattice_of(np.rint(10.0**size * values / unit) * unit) is None


@KINDS
@given(SEEDS, st.floats(0.05, 0.95), st.sampled_from([None, 4, 6]))
def test_property_an_atom_beside_a_density_makes_bins_that_take_any_value(number, share, decimals):
    draw = rng(number)
    values = draw.gamma(2.0, size=2000)
    values = values if decimals is None else values.round(decimals)
    atom = draw.random(2000) < share
    values[atom] = 0.0
    lattice = lattice_of(values)
    assert lattice is not None
    assert lattice.binned
    assert lattice.snap(np.zeros(1)) == 0.0
    assert lattice.step < values[~atom].std() / 300
    assert not lattice.off(draw.gamma(2.0, size=100)).any()


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
