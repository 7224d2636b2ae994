"""Closed-form pulls against the closed-form bridges they stand for, and the dual fit against an exact potential."""

import pytest
import torch

from girsanov.bridges import (
    EndPotential,
    FlatPotentials,
    GaussianBridge,
    MixtureBridge,
    MixturePotentials,
    MixtureStart,
    OneSidedBridge,
    QuadraticPotentials,
    conditional_bw2_uvp,
    fit_mixture_potential,
    fit_mixture_potentials,
)
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck
from girsanov.types import InputError
from tests.bridges.registry import BRIDGES
from tests.seeds import seeded

TIMES = (0.0, 0.3, 0.97)


def drifts_of(potentials, bridge, t, x):
    """Both drifts that the pulls make, at the bridge's fraction ``t`` of its horizon."""
    time = torch.full((len(x),), t * bridge.horizon, dtype=torch.float64)
    rate, squared = (v.reshape(-1, *(1,) * (x.ndim - 1)) for v in bridge.reference.rates(time))
    forward, backward = potentials.forward_pull(time, x), potentials.backward_pull(time, x)
    return time, rate * x + squared * forward, rate * x - squared * backward


def closed_form(bridge):
    if isinstance(bridge, GaussianBridge):
        return QuadraticPotentials(bridge)
    assert isinstance(bridge, MixtureBridge)
    return MixturePotentials(bridge.reference, bridge.start_potential, bridge.end_potential.mixture)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("make", BRIDGES.values(), ids=BRIDGES)
def test_pulls_make_the_bridges_drifts(make, t):
    bridge = make()
    x = torch.randn(5, *bridge.event_shape, dtype=torch.float64, generator=seeded(1))
    time, forward, backward = drifts_of(closed_form(bridge), bridge, t, x)
    torch.testing.assert_close(forward, bridge.forward_drift(time, x), rtol=1e-8, atol=1e-8)
    if t > 0:  # at 0 itself the Gaussian bridge divides by nothing, the potentials by a clock of 0
        torch.testing.assert_close(backward, bridge.backward_drift(time, x), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", BRIDGES.values(), ids=BRIDGES)
def test_one_time_for_all_rows_is_that_time_for_each(make):
    bridge = make()
    potentials = closed_form(bridge)
    x = torch.randn(4, *bridge.event_shape, dtype=torch.float64, generator=seeded(1))
    one, each = torch.tensor([0.4 * bridge.horizon]), torch.full((4,), 0.4 * bridge.horizon)
    for pull in (potentials.forward_pull, potentials.backward_pull):
        torch.testing.assert_close(pull(one, x), pull(each, x))


def test_flat_potentials_do_not_pull():
    x = torch.ones(3, 2)
    assert not FlatPotentials().forward_pull(torch.zeros(3), x).any()
    assert not FlatPotentials().backward_pull(torch.zeros(3), x).any()


@pytest.mark.slow
@pytest.mark.parametrize("covariances", ["diagonal", "full"])
@pytest.mark.parametrize("reference", [BrownianMotion(), OrnsteinUhlenbeck(1.0)], ids=["brownian", "ou"])
def test_dual_fit_finds_the_entropic_plan(reference, covariances):
    """Two dimensions, three modes; the metric's floor at 400 draws is about 0.2, independent coupling above 50."""
    generator = seeded(0)
    means = torch.tensor([[3.0, 0.0], [-2.0, 2.5], [-2.0, -2.5]])
    potential = GaussianMixture([0.5, 0.3, 0.2], means, torch.full((3, 2), 0.3))
    exact = OneSidedBridge(reference, Gaussian(torch.zeros(2), 1.0), potential)
    x0, x1 = exact.sample_coupling(8000, generator=generator)
    shuffled = x1[torch.randperm(len(x1), generator=generator)].float()
    fitted = fit_mixture_potentials(reference, x0.float(), shuffled, MixtureStart(10, covariances, steps=600))
    tests = exact.start.sample(200, generator=generator)
    law = EndPotential(reference, fitted.end).conditional(tests)
    draws = torch.stack([law.sample(generator=generator) for _ in range(400)])
    end = x1.mean(0), torch.cov(x1.T)
    uvp = conditional_bw2_uvp(draws, exact.conditional(tests).moments(), end)
    assert uvp.value < 1.0
    assert uvp.independent > 20.0


@pytest.mark.slow
def test_oblique_components_want_full_covariances():
    """Ends stretched along diagonals in four dimensions: with as many components as there are, only full ones do."""
    generator = seeded(0)
    means = 2.0 * torch.randn(3, 4, generator=generator)
    basis, _ = torch.linalg.qr(torch.randn(3, 4, 4, generator=generator))
    covariances = (basis * torch.tensor([4.0, 1.0, 0.2, 0.1])) @ basis.mT
    exact = OneSidedBridge(
        BrownianMotion(), Gaussian(torch.zeros(4), 1.0), GaussianMixture([0.4, 0.3, 0.3], means, covariances)
    )
    x0, x1 = exact.sample_coupling(8000, generator=generator)
    tests = exact.start.sample(100, generator=generator)
    found = {}
    for kind in ("diagonal", "full"):
        potential = fit_mixture_potential(x1.float(), x0.float(), 1.0, MixtureStart(3, kind, steps=800))
        law = EndPotential(BrownianMotion(), potential).conditional(tests)
        draws = torch.stack([law.sample(generator=generator) for _ in range(400)])
        uvp = conditional_bw2_uvp(draws, exact.conditional(tests).moments(), (x1.mean(0), torch.cov(x1.T)))
        found[kind] = uvp.value
    assert found["full"] < 1.0 < found["diagonal"]


@pytest.mark.slow
def test_dual_fit_backwards_is_the_dual_fit_of_exchanged_ends():
    generator = seeded(0)
    psi = GaussianMixture([0.6, 0.4], torch.tensor([[1.5, 0.0], [-1.5, 1.0]]), torch.full((2, 2), 0.4))
    psihat = GaussianMixture([0.5, 0.5], torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.full((2, 2), 0.5))
    bridge = MixtureBridge(OrnsteinUhlenbeck(1.0), psihat, psi)
    x0, x1 = (end.float() for end in bridge.sample_coupling(8000, generator=generator))
    fitted = fit_mixture_potentials(bridge.reference, x0, x1, MixtureStart(6, steps=600))
    path = bridge.sample_path(torch.tensor([0.0, 0.5, 1.0]), 500, generator=generator)
    time, forward, backward = drifts_of(fitted, bridge, 0.5, path[1])
    for found, exact in (
        (forward, bridge.forward_drift(time, path[1])),
        (backward, bridge.backward_drift(time, path[1])),
    ):
        assert float((found - exact).square().mean() / exact.square().mean()) < 0.02


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="at least 20 rows at each end; got 5"):
        fit_mixture_potential(torch.zeros(5, 2), torch.zeros(50, 2), 1.0)
