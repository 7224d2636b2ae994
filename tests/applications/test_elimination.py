"""Sequential elimination on simulated evidence; statistical tests state their false alarm."""

import math

import pytest
import torch

from girsanov.applications.elimination import NoiseModel, looks, spending, survivors
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def simulate(rows, classes, pairs, seed, gap=0.0, tail=None):
    """Evidence whose first class is best by ``gap``; optionally with a variance that differs by row."""
    values = torch.randn(rows, classes, pairs, generator=seeded(seed))
    if tail is not None:
        values = values * tail[:, None, None].sqrt()
    values[:, 0] += gap
    return values


@pytest.mark.parametrize("classes", [2, 6])
def test_the_best_class_is_lost_as_seldom_as_stated(classes):
    """Known noise, classes that are nearly equal, all looks of a schedule: binomial test of false alarm 1e-4."""
    rows, error, schedule = 4000, 0.2, looks(1, 16)
    values = simulate(rows, classes, 16, seed=0, gap=1e-6)
    alive = torch.ones(rows, classes, dtype=torch.bool)
    noise = NoiseModel(2.0, 1000.0)  # a difference of two independent unit normals
    for pairs, share in zip(schedule, spending(len(schedule)), strict=True):
        each = share * error / (classes - 1)
        alive = survivors(values[..., :pairs], torch.ones(rows, classes), alive, noise, each)
    lost = int((~alive[:, 0]).sum())
    assert 0.01 * error * rows < lost < error * rows + 3.72 * math.sqrt(error * rows)


def test_the_paired_t_test_holds_without_prior_knowledge():
    """One look at 8 pairs, two classes: the level of a two-sided t-test, to |z| < 4.42 (false alarm 1e-5)."""
    rows, error = 20_000, 0.01
    values = simulate(rows, 2, 8, seed=1)
    ones = torch.ones(rows, 2, dtype=torch.bool)
    alive = survivors(values, torch.ones(rows, 2), ones, NoiseModel(), error)
    lost = int((~alive).sum())
    assert abs(lost - 2 * error * rows) < 4.42 * math.sqrt(2 * error * rows)


def test_moderation_uses_what_rows_have_in_common():
    """Variances that differ from row to row by a scaled inverse chi-square with 12 degrees of freedom."""
    rows, degrees, ratio = 20_000, 12, 0.7
    spread = 1.0 + torch.rand(rows, generator=seeded(2))
    chi = torch.randn(rows, degrees, generator=seeded(3)).square().sum(1)
    variance = ratio * spread * degrees / chi
    sample = torch.randn(rows, 16, generator=seeded(4)).mul(variance.sqrt()[:, None]).var(1)
    found = NoiseModel.fit(sample, spread, 15)
    assert found.ratio == pytest.approx(ratio, rel=0.03)
    assert found.degrees == pytest.approx(degrees, rel=0.15)


def test_a_common_variance_has_many_degrees_of_freedom():
    sample = torch.randn(5000, 9, generator=seeded(5)).var(1)
    found = NoiseModel.fit(sample, torch.ones(5000), 8)
    assert found.degrees > 100.0
    assert found.ratio == pytest.approx(1.0, rel=0.05)
    assert NoiseModel.fit(torch.zeros(9), torch.ones(9), 8) == NoiseModel()


def test_moderated_tests_hold_their_level_from_one_pair_on():
    """The same random variances, one pair each: the moderated t at its level, |z| < 4.42."""
    rows, degrees, error = 40_000, 12, 0.005
    chi = torch.randn(rows, degrees, generator=seeded(6)).square().sum(1)
    values = simulate(rows, 2, 1, seed=7, tail=degrees / chi)
    ones = torch.ones(rows, 2, dtype=torch.bool)
    alive = survivors(values, torch.ones(rows, 2), ones, NoiseModel(2.0, degrees), error)
    lost = int((~alive).sum())
    assert abs(lost - 2 * error * rows) < 4.42 * math.sqrt(2 * error * rows)


def test_the_leader_and_the_dead_stay_what_they_are():
    values = torch.tensor([[[5.0], [0.0], [9.0]]])
    alive = torch.tensor([[True, True, False]])
    found = survivors(values, torch.ones(1, 3), alive, NoiseModel(0.01, 100.0), 0.01)
    assert found.tolist() == [[True, False, False]]
    assert survivors(values, torch.ones(1, 3), alive, NoiseModel(), 0.01).tolist() == alive.tolist()


def test_looks_double_and_end_at_the_budget():
    assert looks(1, 16) == [1, 2, 4, 8, 16]
    assert looks(8, 20) == [8, 16, 20]
    assert looks(8, 4) == [4]
    assert [sum(spending(count)) for count in range(1, 9)] == pytest.approx([1.0] * 8)
