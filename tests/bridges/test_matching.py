"""What a half minimises has the closed form as its minimiser, in both losses and both directions."""

import pytest
import torch

from girsanov.bridges import BridgeChain, BridgeNetwork, EndRows, FlatPotentials, Half, NetworkConfig, gaussian_bridge
from girsanov.bridges.ends import Pairs, coupled_rows
from girsanov.bridges.halves import EndMoments
from girsanov.bridges.matching import MatchingObjective, Paths, TrajectoryObjective
from girsanov.bridges.potentials import QuadraticPotentials
from girsanov.bridges.reference import Clock
from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck
from girsanov.types import InputError
from tests.seeds import seeded

D, N = 2, 60_000
REFERENCES = {"brownian": BrownianMotion, "ou": lambda: OrnsteinUhlenbeck(2.0)}
each_reference = pytest.mark.parametrize("make", REFERENCES.values(), ids=REFERENCES)
each_direction = pytest.mark.parametrize("direction", ["forward", "backward"])


def make_bridge(reference):
    start, end = torch.tensor([[1.0, 0.3], [0.3, 0.5]]), torch.tensor([[0.6, -0.2], [-0.2, 1.4]])
    return gaussian_bridge(torch.tensor([-1.0, 0.0]), start, torch.tensor([1.0, 0.5]), end, reference=reference)


def make_half(direction, reference, potentials, bridge):
    ends = EndMoments.of(bridge.start, bridge.end)
    return Half(direction, Clock(reference), potentials, ends, BridgeNetwork((D,), NetworkConfig(width=8, blocks=1)))


@each_direction
@each_reference
def test_matching_is_least_at_the_bridges_own_pull(make, direction):
    """The closed form's correction is 0; a constant correction c raises the loss by its weighted square, either sign.

    Differences of losses on common noise: z scores below 4.5, eight of them, a false alarm in 10^5 runs.
    """
    reference = make()
    bridge = make_bridge(reference)
    half = make_half(direction, reference, QuadraticPotentials(bridge), bridge)
    pairs = Pairs(*(x.float() for x in bridge.sample_coupling(N)))
    objective, generator = MatchingObjective(half), seeded(0)
    positions, eps = torch.rand(N, generator=generator, dtype=torch.float64), torch.randn(N, D, generator=generator)
    with torch.no_grad():
        base = objective.errors(half, pairs, positions, eps)
        for sign in (-1.0, 1.0):
            half.network.affine[0, -1, 0] = sign * 0.3
            change = objective.errors(half, pairs, positions, eps) - base
            weight = half.remaining(objective.quantile(positions))
            weight = weight / (weight + half.softening())
            excess = change.double() - weight * 0.09 / D
            assert abs(float(excess.mean())) < 4.5 * float(excess.std()) / N**0.5


@each_direction
def test_trajectory_likelihood_is_least_at_the_bridges_own_pull(direction):
    """The same for paths of the exact bridge, whose steps of either direction have the closed form's mean."""
    reference = BrownianMotion()
    bridge = make_bridge(reference)
    halves = [make_half(d, reference, QuadraticPotentials(bridge), bridge) for d in ("forward", "backward")]
    times = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)
    chain, objective = BridgeChain(halves[0], halves[1], times), TrajectoryObjective(direction)
    paths = Paths(bridge.sample_path(times, N).float())
    half = chain.forward_half if direction == "forward" else chain.backward_half
    k = torch.randint(1, 39, (N,), generator=seeded(0))
    with torch.no_grad():
        values = {}
        for shift in (-0.5, 0.0, 0.5):
            half.network.affine[0, -1, 0] = shift
            values[shift] = objective.errors(chain, paths, k)
    for shift in (-0.5, 0.5):
        rise = (values[shift] - values[0.0]).double()
        assert float(rise.mean()) > 4.0 * float(rise.std()) / N**0.5


def test_trajectory_loss_is_unbiased_for_the_whole_path():
    reference = OrnsteinUhlenbeck(2.0)
    bridge = make_bridge(reference)
    halves = [make_half(d, reference, FlatPotentials(), bridge) for d in ("forward", "backward")]
    times = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    chain, objective = BridgeChain(halves[0], halves[1], times), TrajectoryObjective("backward")
    paths = Paths(bridge.sample_path(times, 5).float())
    with torch.no_grad():
        each = [objective.errors(chain, paths, torch.full((5,), k)) for k in range(8)]
        x = paths.states
        total = sum(chain.decode(k, x[k + 1]).log_prob(x[k] - x[k + 1]) for k in range(8))
    torch.testing.assert_close(torch.stack(each).mean(0), -total / D)


def test_law_of_times_inverts_its_table():
    bridge = make_bridge(BrownianMotion())
    objective = MatchingObjective(make_half("forward", BrownianMotion(), FlatPotentials(), bridge))
    t = objective.quantile(torch.linspace(0.0, 0.999999, 1000, dtype=torch.float64))
    assert bool((t.diff() > 0).all())
    assert 0.0 <= float(t[0]) < 0.01
    assert 0.99 < float(t[-1]) <= 1.0
    assert float((t > 0.9).double().mean()) > 0.15  # more than its share where the pull is strong


def test_minibatch_coupling_costs_less_than_an_independent_one(generator):
    ends = EndRows(torch.randn(600, 3, generator=generator)), EndRows(torch.randn(600, 3, generator=generator) + 1.0)
    costs = []
    for coupling in ("independent", "minibatch"):
        pairs = coupled_rows(*ends, 600, coupling, generator)
        assert len(pairs.start.unique(dim=0)) == 600
        assert len(pairs.end.unique(dim=0)) == 600
        costs.append(float((pairs.start - pairs.end).square().sum(1).mean()))
    assert costs[1] < 0.7 * costs[0]


def test_weights_are_shares_of_the_draws(generator):
    rows = EndRows(torch.tensor([[0.0], [1.0], [2.0]]), weights=torch.tensor([0.0, 1.0, 3.0]))
    drawn = rows.draw(40_000, generator).x[:, 0]
    assert not bool((drawn == 0.0).any())
    assert abs(float((drawn == 2.0).double().mean()) - 0.75) < 4.5 * (0.75 * 0.25 / 40_000) ** 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EndRows(torch.zeros(5)), "at least two rows of shape"),
        (lambda: EndRows(torch.tensor([[0.0], [torch.nan]])), "not finite: drop or impute"),
        (lambda: EndRows(torch.zeros(3, 1), weights=torch.ones(2)), "weights must have one entry for each of 3 rows"),
        (lambda: EndRows(torch.zeros(2, 1), weights=torch.tensor([-1.0, 2.0])), "not negative"),
        (lambda: EndRows(torch.zeros(2, 1), condition=torch.zeros(3)), "condition must have one entry"),
    ],
)
def test_bad_ends_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
