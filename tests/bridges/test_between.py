"""Bridges at any time between the first and the last: closed forms between Gaussians in two dimensions, and bits."""

import math

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, BridgeChain, GaussianBridge, JointConfig, NetworkConfig
from girsanov.processes import BrownianMotion, Section, VariancePreserving
from tests.seeds import seeded

ROWS = 4000
SMALL = NetworkConfig(width=8, blocks=1)
#: no projections: the closed form between the moments, with networks that are zero
CLOSED = {"steps": 40, "network": SMALL, "alternating": AlternatingConfig(rounds=0)}
REFERENCES = {"brownian": BrownianMotion(sigma=1.2), "preserving": VariancePreserving(beta_min=0.1, beta_max=3.0)}


def clouds(seed, count=2):
    """Oblique Gaussians, 3 apart."""
    generator, maps = seeded(seed), torch.tensor([[[1.0, 0.5], [0.0, 0.6]], [[0.5, -0.4], [0.0, 1.2]]])
    return [
        torch.randn(2000, 2, generator=generator) @ maps[i % 2] + 3.0 * i * torch.tensor([1.0, -0.5])
        for i in range(count)
    ]


def agree(found, expected, scale):
    """Sample moments of ROWS rows: five standard errors of a product of two normals, and 2 % for the steps."""
    # products of normals
    assert float((found - expected).abs().max()) < (5.0 * math.sqrt(2.0 / ROWS) + 0.02) * scale


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("direction", "stops"), [("forward", (0.13, 0.5, 0.77)), ("backward", (0.9, 0.41, 0.1))])
def test_by_way_of_any_time_the_law_is_that_of_the_closed_form(name, direction, stops):
    """Moments at both later times, and the covariance with the start, of a -> b -> c and of a -> c."""
    x0, x1 = clouds(0)
    bridge = gv.SchrodingerBridge(REFERENCES[name], dim=2, **CLOSED).fit(x0, x1)
    exact = GaussianBridge(REFERENCES[name], gv.Gaussian.fit(x0), gv.Gaussian.fit(x1))
    generator = seeded(1)
    first = exact.marginal(stops[0]).sample(ROWS, generator=generator).float()

    def move(x, start, end):
        return bridge.sample(x, direction, times=(min(start, end), max(start, end)), generator=generator)

    middle = move(first, *stops[:2])
    for moved, stop in ((middle, stops[1]), (move(middle, *stops[1:]), stops[2]), (move(first, *stops[::2]), stops[2])):
        law, scale = exact.marginal(stop), 5.0
        agree(moved.double().mean(0), law.mean, scale)
        agree(moved.double().T.cov(), law.covariance, scale)
        cross = torch.cat([first, moved], 1).double().T.cov()[:2, 2:]
        agree(cross, exact.covariance(stops[0], stop), scale)


def test_times_in_a_persons_units_across_sections():
    """Days 2, 4 and 5: from day 3 to day 4.5, through a fitted day; paths hold the times that were asked for."""
    first, second, third = clouds(2, 3)
    bridge = gv.SchrodingerBridge(BrownianMotion(sigma=2.0), dim=2, **CLOSED).fit({2.0: first, 4.0: second, 5.0: third})
    laws = [gv.Gaussian.fit(x) for x in (first, second, third)]
    parts = [Section(BrownianMotion(sigma=2.0), *span) for span in ((0.0, 2 / 3), (2 / 3, 1.0))]
    before, after = (GaussianBridge(part, *laws[i : i + 2]) for i, part in enumerate(parts))
    x = before.marginal(0.5).sample(ROWS, generator=seeded(3)).float()
    path = bridge.sample(x, times=(3.0, 4.5), return_path=True, generator=seeded(10))
    times = bridge.path_times((3.0, 4.5))
    assert len(path) == len(times)
    assert (float(times[0]), float(times[-1])) == (3.0, 4.5)
    assert 4.0 in times.tolist()
    assert bool((times.diff() > 0).all())
    assert torch.equal(path[0], x)
    agree(path[-1].double().mean(0), after.marginal(0.5).mean, 5.0)
    agree(path[-1].double().T.cov(), after.marginal(0.5).covariance, 5.0)
    back = bridge.sample(path[-1], "backward", times=(3.0, 4.5), return_path=True, generator=seeded(9))
    assert torch.equal(back[-1], path[-1])
    agree(back[0].double().T.cov(), before.marginal(0.5).covariance, 5.0)


def test_fitted_times_keep_their_bits():
    rows = dict(zip((0.0, 1.0, 2.5), clouds(4, 3), strict=True))
    bridge = gv.SchrodingerBridge(BrownianMotion(), dim=2, **CLOSED | {"steps": 5}).fit(rows)
    x, generator = rows[1.0][:20], seeded(5)
    expected = bridge.sections[1].simulate(x, generator=generator)[-1]
    for end in (2.5, 2.5 * (1.0 + 1e-8), np.float32(2.5)):
        assert torch.equal(bridge.sample(x, times=(1.0, end), generator=seeded(5)), expected)
    assert torch.equal(bridge.path_times((1.0, 2.5)), bridge.path_times()[5:])


def test_a_step_is_cut_in_proportion_to_its_clock():
    """Within a step: the share of its shift and of its variance, the learned factor too; whole steps keep theirs."""
    x0, x1 = clouds(6)
    settings = CLOSED | {"steps": 4, "alternating": AlternatingConfig(rounds=0, loss="trajectory")}
    chain = gv.SchrodingerBridge(BrownianMotion(sigma=1.5), dim=2, **settings).fit(x0, x1).sections[0]
    with torch.no_grad():
        chain.encoder_log_variance.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        chain.decoder_log_variance.copy_(torch.tensor([0.5, 0.6, 0.7, 0.8]))
    grid = chain.get_buffer("times")
    middle = float(grid[1] + 0.25 * (grid[2] - grid[1]))
    part, times = chain.on(0.0, 1.0, 0.0, middle)
    assert times.tolist() == [0.0, float(grid[1]), middle]
    assert part.encoder_log_variance.tolist() == chain.encoder_log_variance[:2].tolist()
    whole, cut = chain.encode(1, x0), part.encode(1, x0)
    torch.testing.assert_close(cut.shift, 0.25 * whole.shift)
    eps = torch.ones_like(x0)
    torch.testing.assert_close(cut.change(eps) - cut.shift, 0.5 * (whole.change(eps) - whole.shift))
    torch.testing.assert_close(part.encode(0, x0).shift, chain.encode(0, x0).shift)
    later, _ = chain.on(0.0, 1.0, middle, 1.0)
    assert later.decoder_log_variance.tolist() == chain.decoder_log_variance[1:].tolist()
    torch.testing.assert_close(later.decode(0, x1).shift, 0.75 * chain.decode(1, x1).shift)
    assert chain.on(0.0, 1.0, 0.0, 1.0)[0] is chain


def test_a_bridge_to_a_prior_stops_on_the_way():
    x = clouds(7)[0]
    settings = {"steps": 4, "network": SMALL, "joint": JointConfig(steps=2, warm_steps=1, step_variances="full")}
    bridge = gv.SchrodingerBridge(BrownianMotion(), dim=2, **settings).fit(x, prior=gv.densities.StandardNormal())
    assert isinstance(bridge.sections[0], BridgeChain)
    assert bridge.sample(7, "backward", times=(0.3, 1.0)).shape == (7, 2)
    assert bridge.sample(x[:5], times=(0.2, 0.6)).shape == (5, 2)
    with pytest.raises(gv.InputError, match="at the last time"):
        bridge.sample(7, "backward", times=(0.3, 0.8))


def test_times_that_no_bridge_knows():
    bridge = gv.SchrodingerBridge(BrownianMotion(), dim=2, **CLOSED | {"steps": 2}).fit(*clouds(8))
    for times, message in (
        ((-0.1, 1.0), "outside this fit, which knows the times from 0 to 1"),
        ((0.0, 1.1), "outside"),
        ((0.2, math.nan), "outside"),
        ((0.0, math.inf), "outside"),
        ((0.6, 0.6), "an earlier and a later time"),
        ((0.7, 0.6), "an earlier and a later time"),
    ):
        with pytest.raises(gv.InputError, match=message):
            bridge.sample(torch.zeros(3, 2), times=times)
