"""Densities in log-SNR: normalised, inverted exactly, and unbiased grids, the atom included."""

import json

import pytest
import torch

from girsanov.solvers import LogSNRDensity

pytestmark = pytest.mark.usefixtures("float64")

LOW, HIGH = -9.0, 6.0
LEVELS = torch.linspace(LOW, HIGH, 9, dtype=torch.float64)

#: name -> a density on [LOW, HIGH]
MEMBERS = {
    "uniform": lambda: LogSNRDensity.uniform(LOW, HIGH),
    "uniform-atom": lambda: LogSNRDensity.uniform(LOW, HIGH, atom=0.25),
    "spectrum": lambda: LogSNRDensity.from_spectrum(LOW, HIGH, torch.tensor([4.0, 1.0, 1e-3])),
    "spectrum-atom": lambda: LogSNRDensity.from_spectrum(LOW, HIGH, torch.tensor([4.0, 1.0, 1e-3]), atom=True),
    "sizes": lambda: LogSNRDensity.from_sizes(LOW, HIGH, LEVELS, (LEVELS + 2.0).abs(), cells=7),
    "sizes-atom": lambda: LogSNRDensity.from_sizes(LOW, HIGH, LEVELS, (LEVELS + 2.0).abs(), end_size=5.0),
}
each_member = pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)


def integrand(levels):
    return 1.0 + levels.sin() + 0.1 * levels.square()


def primitive(level):
    return level - torch.cos(level) + level**3 / 30.0


@each_member
def test_masses_sum_to_one(make):
    density = make()
    assert float(density.masses.sum()) + density.atom == pytest.approx(1.0, abs=1e-12)
    assert bool((density.masses > 0).all())
    assert float(density.edges[0]) == LOW
    assert float(density.edges[-1]) == HIGH


@each_member
def test_weights_are_at_most_ten_times_the_uniform_ones(make):
    density = make()
    _, weights, at_end = density.systematic(torch.tensor([0.1, 0.9]), 500)
    assert float(weights[~at_end].max()) * 500 <= 10.0 * (HIGH - LOW) / (1.0 - density.atom) * (1 + 1e-9)


@each_member
@pytest.mark.parametrize("count", [1, 2, 7])
def test_systematic_grids_are_unbiased_for_the_integral_and_the_end(make, count):
    density, end = make(), 3.7
    offsets = (torch.arange(20_000) + 0.5) / 20_000  # the law of the offset, by the midpoint rule
    levels, weights, at_end = density.systematic(offsets, count)
    values = torch.where(at_end, end, integrand(levels))
    mean = float((weights * values).sum(1).mean())
    high, low = torch.tensor(HIGH), torch.tensor(LOW)
    exact = float(primitive(high) - primitive(low)) + (end if density.atom else 0.0)
    assert mean == pytest.approx(exact, rel=2e-4)
    assert bool(at_end.any()) == (density.atom > 0)


@each_member
def test_grids_increase_and_stay_inside(make):
    density = make()
    levels, _, at_end = density.systematic(torch.rand(50), 33)
    assert bool((levels.diff(dim=1) >= 0).all())
    assert LOW <= float(levels.min()) <= float(levels.max()) <= HIGH
    assert bool((levels[at_end] == HIGH).all())


@each_member
def test_quantiles_invert_the_cumulative_masses(make):
    density = make()
    cumulative = torch.cat([torch.zeros(1), density.masses.cumsum(0)])[:-1]
    levels, _, _ = density.quantile(cumulative)
    torch.testing.assert_close(levels, density.edges[:-1])


@each_member
def test_nodes_begin_and_end_with_the_range(make):
    nodes = make().nodes(17)
    assert nodes.shape == (17,)
    assert (float(nodes[0]), float(nodes[-1])) == (LOW, HIGH)
    assert bool((nodes.diff() >= 0).all())


@each_member
def test_json_round_trip(make):
    density = make()
    again = LogSNRDensity.from_json(json.loads(json.dumps(density.to_json())))
    assert torch.equal(again.edges, density.edges)
    assert torch.equal(again.masses, density.masses)
    assert again.atom == density.atom


def test_density_follows_the_sizes_above_the_floor():
    sizes = torch.where(LEVELS > 0.0, 4.0, 1.0)
    density = LogSNRDensity.from_sizes(LOW, HIGH, LEVELS, sizes, floor=0.0, cells=300)
    assert float(density.masses[-1] / density.masses[0]) == pytest.approx(4.0)


def test_the_atoms_mass_is_its_share_of_the_sizes():
    density = LogSNRDensity.from_sizes(0.0, 10.0, LEVELS, torch.ones(9), end_size=10.0, floor=0.0)
    assert density.atom == pytest.approx(0.5)
    assert LogSNRDensity.from_sizes(0.0, 10.0, LEVELS, torch.ones(9), end_size=0.0).atom == pytest.approx(0.02)


def test_sizes_of_zero_fall_back_to_the_uniform_density():
    density = LogSNRDensity.from_sizes(LOW, HIGH, LEVELS, torch.zeros(9), end_size=0.0)
    torch.testing.assert_close(density.masses, density.masses[:1].expand(len(density.masses)))
    assert float(density.masses.sum()) + density.atom == pytest.approx(1.0)


def test_a_slope_is_interpolated_and_kept():
    density = LogSNRDensity.from_sizes(LOW, HIGH, LEVELS, torch.ones(9), slope=0.1 * LEVELS)
    levels = torch.tensor([[LOW, -1.3], [2.2, HIGH]])
    torch.testing.assert_close(density.slope_at(levels), 0.1 * levels)
    again = LogSNRDensity.from_json(json.loads(json.dumps(density.to_json())))
    assert torch.equal(again.slope, density.slope)
    assert not LogSNRDensity.uniform(LOW, HIGH).slope_at(levels).any()
