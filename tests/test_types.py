"""The result type: intervals that cover, means with two errors, and units."""

import math

import pytest
import torch

from girsanov.types import Estimate, InputError, interval_of_mean

pytestmark = pytest.mark.usefixtures("float64")

FIELDS = {"kind": "unbiased", "model": "sde", "nfe": 8}


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_of_few_replicates_cover_as_often_as_they_say(count, level, generator):
    # 100,000 rows: the observed share has standard error below 0.0016, so 5 of them; false alarm 1e-6
    replicates = 3.0 + torch.randn(count, 100_000, generator=generator)
    low, high = Estimate.from_replicates(replicates, event_dim=1, **FIELDS).interval(level)
    covered = ((low <= 3.0) & (high >= 3.0)).double().mean()
    assert abs(float(covered) - level) < 5 * math.sqrt(level * (1 - level) / 100_000)


SKEWED = {
    "normal": (torch.randn, 0.0),
    "of one dimension": (lambda *shape, generator: -0.5 * torch.randn(*shape, generator=generator).square(), -0.5),
    "of two": (lambda *shape, generator: torch.rand(*shape, generator=generator).log(), -1.0),
    "of two, turned": (lambda *shape, generator: -torch.rand(*shape, generator=generator).log(), 1.0),
}


@pytest.mark.parametrize("count", [10, 25])
@pytest.mark.parametrize(("draw", "truth"), SKEWED.values(), ids=SKEWED)
def test_intervals_of_a_mean_over_few_skewed_rows_cover_as_often_as_they_say(draw, truth, count, generator):
    repeats = 3000
    ends = [interval_of_mean(row) for row in draw(repeats, count, generator=generator)]
    covered = sum(low <= truth <= high for low, high in ends) / repeats
    slack = 5 * math.sqrt(0.95 * 0.05 / repeats)  # Student's t covers 0.86 of ten rows of one dimension
    assert 0.94 - slack < covered < 0.96 + slack


def test_intervals_of_a_mean_follow_shifts_scales_and_reflections(generator):
    values = torch.rand(12, generator=generator).log()
    low, high = interval_of_mean(values, 0.9)
    for scale, shift in ((3.0, 1.0), (-2.0, 5.0), (1e-9, 0.0), (1e9, -1e9)):
        found = interval_of_mean(scale * values + shift, 0.9)
        expected = sorted((scale * low + shift, scale * high + shift))
        assert found == pytest.approx(expected, rel=1e-6)
    assert interval_of_mean(torch.full((10,), 3.0)) == (3.0, 3.0)


def test_no_interval_is_promised_for_the_mean_of_fewer_than_ten_rows():
    with pytest.raises(InputError, match="needs 10 rows or more; got 9: give more rows"):
        interval_of_mean(torch.arange(9.0))
    with pytest.raises(InputError, match="level must lie between 0 and 1; got 95"):
        interval_of_mean(torch.arange(10.0), 95)


def test_an_exact_value_has_an_interval_of_no_width():
    estimate = Estimate(torch.tensor([-2.0]), torch.zeros(1), "exact", "ode", 1, event_dim=1)
    assert [float(end) for end in estimate.interval()] == [-2.0, -2.0]
    assert estimate.mean().stderr == 0.0


def test_a_single_replicate_admits_that_its_error_is_unknown():
    estimate = Estimate.from_replicates(torch.zeros(1, 3), event_dim=1, **FIELDS)
    assert bool(estimate.stderr.isnan().all())
    assert bool(estimate.interval()[0].isnan().all())
    assert math.isnan(estimate.mean().stderr)


def test_mean_keeps_the_errors_of_estimator_and_rows_apart(generator):
    rows, noise = torch.randn(1, 400, generator=generator), torch.randn(8, 400, generator=generator)
    mean = Estimate.from_replicates(rows + 0.1 * noise, event_dim=1, **FIELDS).mean()
    assert mean.rows == 400
    assert mean.rows_stderr == pytest.approx(float((rows + 0.1 * noise).mean(0).std()) / 20)
    # the mean over rows of 0.1 noise has standard deviation 0.1 / sqrt(400 * 8); its estimate from 8 replicates
    # is off by a factor beyond 2.4 with probability below 1e-4
    assert 1 / 2.4 < mean.stderr / (0.1 / math.sqrt(3200)) < 2.4


def test_noise_shared_by_all_rows_does_not_hide_in_the_mean(generator):
    shared = torch.randn(8, 1, generator=generator).expand(8, 400)
    mean = Estimate.from_replicates(shared, event_dim=1, **FIELDS).mean()
    assert mean.stderr == pytest.approx(float(shared[:, 0].std()) / math.sqrt(8))


def test_mean_without_replicates_adds_independent_errors():
    estimate = Estimate(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 4.0]), "estimate", "sde", 1, event_dim=1)
    mean = estimate.mean()
    assert (mean.value, mean.stderr, mean.rows_stderr) == (2.0, 2.5, 1.0)
    one = Estimate(torch.tensor([1.0]), torch.tensor([3.0]), "estimate", "sde", 1, event_dim=1).mean()
    assert one.stderr == 3.0
    assert math.isnan(one.rows_stderr)


def test_replicates_in_single_precision_are_averaged_in_double():
    estimate = Estimate.from_replicates(torch.full((3, 2), 0.1).float(), event_dim=1, **FIELDS)
    assert estimate.value.dtype == estimate.stderr.dtype == torch.float64
    assert bool((estimate.stderr == 0).all())


def test_bits_per_dimension_of_the_uniform_density_count_its_bins():
    # uniform on [0, 1]^12 with 256 bins per dimension: 8 bits, whether the width is one number or twelve
    value = torch.zeros(2)
    estimate = Estimate(value, torch.zeros(2), "exact", "density", 0, event_dim=12)
    assert estimate.bits_per_dim(1 / 256).tolist() == [8.0, 8.0]
    assert estimate.bits_per_dim(torch.full((3, 2, 2), 1 / 256)).tolist() == pytest.approx([8.0, 8.0])
    widths = torch.tensor([0.5] * 6 + [0.125] * 6)
    assert estimate.bits_per_dim(widths).tolist() == pytest.approx([2.0, 2.0])
    assert estimate.bits_per_dim().tolist() == [0.0, 0.0]


def test_bits_per_dimension_of_a_mass_count_its_bins_once():
    mass = Estimate(torch.tensor([-2 * math.log(2.0)]), torch.zeros(1), "exact", "density", 0, 2, measure="mass")
    assert mass.bits_per_dim(1 / 256).tolist() == mass.bits_per_dim().tolist() == [1.0]


def test_bad_input_is_a_value_error():
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("count", [2, 3, 8, 24])
def test_a_rows_bits_do_not_depend_on_the_other_rows(count, generator):
    replicates = torch.randn(count, 33, generator=generator)
    together = Estimate.from_replicates(replicates, event_dim=1, **FIELDS)
    for i in (0, 7, 32):
        alone = Estimate.from_replicates(replicates[:, i : i + 1].clone(), event_dim=1, **FIELDS)
        assert torch.equal(alone.value[0], together.value[i])
        assert torch.equal(alone.stderr[0], together.stderr[i])
    torch.testing.assert_close(together.value, replicates.mean(0))
    torch.testing.assert_close(together.stderr, replicates.std(0) / count**0.5)


def test_a_row_outside_the_support_is_minus_infinity():
    replicates = torch.tensor([[-math.inf, -1.0], [-math.inf, -2.0]])
    assert Estimate.from_replicates(replicates, event_dim=1, **FIELDS).value.tolist() == [-math.inf, -1.5]


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan])
def test_levels_outside_0_and_1_are_refused(level):
    estimate = Estimate.from_replicates(torch.zeros(4, 3), event_dim=1, **FIELDS)
    for interval in (estimate.interval, estimate.mean().interval):
        with pytest.raises(InputError, match="level must lie between 0 and 1"):
            interval(level)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, torch.ones(3)])
def test_bins_have_a_positive_width_each(width):
    estimate = Estimate.from_replicates(torch.zeros(4, 3), event_dim=2, **FIELDS)
    with pytest.raises(InputError, match="bin_width must be positive, one number or one for each of 2 dimensions"):
        estimate.bits_per_dim(width)


def test_an_estimate_prints_as_one_line_whatever_it_holds():
    one = Estimate(torch.tensor([-1.5]), torch.zeros(1), "exact", "density", nfe=0, event_dim=2)
    assert repr(one) == "−1.500 nats, exact, density, 1 row"
    none = Estimate(torch.zeros(0), torch.zeros(0), "unbiased", "ode", nfe=0, event_dim=2)
    assert repr(none) == "no rows, unbiased, ODE"
    wrong = Estimate(torch.tensor([math.nan, 1.0]), torch.zeros(2), "estimate", "chain", nfe=0, event_dim=2)
    assert repr(wrong) == "nan nats, estimate, chain, 2 rows"
