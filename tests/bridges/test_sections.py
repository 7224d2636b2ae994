"""What was fitted: sections hold all that moves rows, and say what they cannot do."""

import pytest
import torch

from girsanov.bridges import AlternatingConfig, JointConfig, NetworkConfig, SchrodingerBridge
from girsanov.bridges.sections import Sections
from girsanov.densities import StandardNormal
from girsanov.processes import BrownianMotion
from girsanov.types import InputError
from tests.seeds import seeded

SMALL = NetworkConfig(width=8, blocks=1, classes=2)


@pytest.fixture(scope="module")
def bridge():
    rows = {t: torch.randn(60, 2, generator=seeded(int(t))) + t for t in (0.0, 1.0, 3.0)}
    condition = {t: torch.arange(60) % 2 for t in rows}
    settings = AlternatingConfig(rounds=0)
    made = SchrodingerBridge(BrownianMotion(), dim=2, steps=4, network=SMALL, alternating=settings)
    return made.fit(rows, condition=condition)


def test_sections_move_rows_as_their_bridge_does(bridge):
    x, label = torch.randn(5, 2, generator=seeded(4)), torch.tensor([0, 1, 1, 0, 1])
    sections = Sections(BrownianMotion(), bridge.sections.times, list(bridge.sections.chains), None)
    assert (len(sections), sections.event_shape, sections.network) == (2, (2,), SMALL)
    for direction, end in (("forward", -1), ("backward", 0)):
        paths = sections.paths(x, direction, None, condition=label, generator=seeded(5), noise=None)
        expected = bridge.sample(x, direction, condition=label, generator=seeded(5))
        assert torch.equal(paths[end][end], expected)
        assert torch.equal(paths[0][-1], paths[1][0])
    t = torch.tensor([0.3, 1.0, 2.0, 0.0, 3.0])
    assert torch.equal(sections.drift(t, x, label), bridge.forward_drift(t, x, label))
    assert torch.equal(sections.drift(t, x, label, "backward"), bridge.backward_drift(t, x, label))


def test_a_time_between_two_sections_belongs_to_the_later_one_forwards(bridge):
    x, label, t = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1.0], dtype=torch.float64)
    sections = bridge.sections
    assert torch.equal(sections.drift(t, x, label), sections.section_drift(1, t, x, label, "forward"))
    assert torch.equal(sections.drift(t, x, label, "backward"), sections.section_drift(0, t, x, label, "backward"))


def test_part_of_the_time_needs_the_sections_that_it_touches(bridge):
    sections = bridge.sections
    assert [len(sections.between(times)) for times in (None, (0.0, 1.0), (0.5, 2.0), (1.0, 3.0))] == [2, 1, 2, 1]
    assert sections.path_times((0.5, 2.0))[[0, -1]].tolist() == [0.5, 2.0]
    with pytest.raises(InputError, match="an earlier and a later time"):
        sections.between((2.0, 2.0))


def test_without_a_prior_nothing_is_bounded_or_drawn(bridge):
    with pytest.raises(InputError, match="density of neither end is known"):
        bridge.sections.bounded()
    with pytest.raises(InputError, match="only backwards from a prior"):
        bridge.sections.draw(3, "backward", seeded(0))
    settings = {"dim": 2, "steps": 3, "network": NetworkConfig(width=8, blocks=1)}
    known = SchrodingerBridge(BrownianMotion(), joint=JointConfig(steps=2, batch_size=16), **settings)
    with pytest.raises(InputError, match="call fit first"):
        known.sections  # noqa: B018
    known.fit(torch.randn(40, 2, generator=seeded(0)), prior=StandardNormal())
    assert known.sections.bounded() is known.sections[0]
    assert known.sections.draw(3, "backward", seeded(0)).shape == (3, 2)
