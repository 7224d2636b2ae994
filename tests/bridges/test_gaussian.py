"""The Gaussian bridge against Gaussian Sinkhorn, quadrature, published closed forms and the numbers of the note."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.bridges import gaussian_bridge
from girsanov.processes import BrownianMotion, VariancePreserving
from tests.bridges.registry import GAUSSIANS, gaussian, note_gaussian
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

each_gaussian = pytest.mark.parametrize("make", GAUSSIANS.values(), ids=GAUSSIANS)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.T


def sinkhorn(S0, S1, alpha, variance, sweeps=1000):
    """Cov(X_0, X_T) by alternating projections of the joint covariance onto the two ends."""
    d = len(S0)
    joint = torch.cat(
        [torch.cat([S0, alpha * S0], 1), torch.cat([alpha * S0, alpha**2 * S0 + variance * torch.eye(d)], 1)]
    )
    for k in range(sweeps):
        own, other = (slice(d, None), slice(0, d)) if k % 2 == 0 else (slice(0, d), slice(d, None))
        target = S1 if k % 2 == 0 else S0
        gain = torch.linalg.solve(joint[own, own], joint[own, other]).T
        rest = joint[other, other] - gain @ joint[own, other]
        joint = joint.clone()
        joint[own, own] = target
        joint[other, own], joint[own, other] = gain @ target, target @ gain.T
        joint[other, other] = rest + gain @ target @ gain.T
    return joint[:d, d:]


@each_gaussian
def test_the_coupling_is_that_of_sinkhorn(make):
    bridge = make()
    alpha, sigma = bridge.reference.marginal(torch.tensor(bridge.horizon))
    expected = sinkhorn(bridge.start.covariance, bridge.end.covariance, alpha, sigma**2)
    torch.testing.assert_close(bridge.cross, expected, atol=1e-13, rtol=1e-10)


@each_gaussian
def test_the_ends_are_those_asked_for(make):
    bridge = make()
    for t, end in ((0.0, bridge.start), (bridge.horizon, bridge.end)):
        law = bridge.marginal(t)
        assert law.event_shape == bridge.event_shape
        torch.testing.assert_close(law.mean, end.mean, atol=1e-13, rtol=1e-13)
        torch.testing.assert_close(law.covariance, end.covariance, atol=1e-13, rtol=1e-13)


def test_the_brownian_closed_form_of_the_note():
    """Section 4.1: C = (S0^{1/2} D S0^{-1/2} - b I) / 2, m_r, S_r and both drifts, in d = 3."""
    bridge, b = GAUSSIANS["brownian"](), 1.3**2
    S0, S1, eye = bridge.start.covariance, bridge.end.covariance, torch.eye(3)
    m0, m1 = bridge.start.mean, bridge.end.mean
    half = root(S0)
    C = 0.5 * (half @ root(4.0 * half @ S1 @ half + b**2 * eye) @ torch.linalg.inv(half) - b * eye)
    torch.testing.assert_close(bridge.cross, C)
    x = torch.randn(4, 3, generator=seeded(0))
    for r in (0.0, 0.3, 1.0):
        m_r = (1 - r) * m0 + r * m1
        S_r = (1 - r) ** 2 * S0 + r**2 * S1 + r * (1 - r) * (C + C.T + b * eye)
        K_r = r * S1 + (1 - r) * C.T - (1 - r) * S0 - r * C - r * b * eye
        for drift, matrix in ((bridge.forward_drift, K_r), (bridge.backward_drift, K_r + b * eye)):
            expected = m1 - m0 + (x - m_r) @ (matrix @ torch.linalg.inv(S_r)).T  # g^2 / b = 1 for T = 1
            torch.testing.assert_close(drift(r, x), expected, atol=1e-12, rtol=1e-12)


@each_gaussian
def test_static_and_dynamic_divergence(make):
    """KL(bridge || reference) by its ends = half the energy of the control = entropic cost / (2 s^2) + constants."""
    bridge = make()
    d = len(bridge.cross)
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(60))
    energy = 0.0
    for t, weight in zip(0.5 * bridge.horizon * (nodes + 1.0), 0.5 * bridge.horizon * weights, strict=True):
        law = bridge.marginal(t)
        axes = math.sqrt(d) * root(law.covariance).reshape(d, *bridge.event_shape)
        x = law.mean + torch.cat([axes, -axes])  # the mean over these is exact for quadratics
        control = bridge.forward_drift(t, x) - bridge.reference.drift(t.expand(len(x)), x)
        squares = control.flatten(1).square().sum(1).mean() / bridge.reference.rates(t)[1]
        energy = energy + 0.5 * weight * squares
    assert abs(bridge.kl() - float(energy)) < 1e-8 * max(1.0, bridge.kl())
    variance = bridge.reference.marginal(torch.tensor(bridge.horizon))[1] ** 2
    entropy = 0.5 * torch.logdet(2.0 * math.pi * math.e * bridge.end.covariance)
    static = bridge.entropic_cost() / (2.0 * variance) + 0.5 * d * torch.log(2.0 * math.pi * variance) - entropy
    assert abs(bridge.kl() - float(static)) < 1e-9 * max(1.0, bridge.kl())


def test_the_entropic_cost_is_the_published_one():
    """Janati et al. 2020, section 4.1 of the note: squared distance with regularisation 2 b."""
    bridge, b, d = GAUSSIANS["brownian"](), 1.3**2, 3
    S0, S1 = bridge.start.covariance, bridge.end.covariance
    D = root(4.0 * root(S0) @ S1 @ root(S0) + b**2 * torch.eye(d))
    value = (bridge.start.mean - bridge.end.mean).square().sum() + S0.trace() + S1.trace() - D.trace()
    value += d * b * (1.0 - math.log(2.0 * b)) + b * torch.logdet(D + b * torch.eye(d))
    assert abs(bridge.entropic_cost() - float(value)) < 1e-10


def test_the_convention_of_the_regularisation():
    """One dimension, discretised: entropic transport of POT with reg = 2 b has the bridge's plan and its value."""
    ot = pytest.importorskip("ot")
    b = 0.8
    bridge = gaussian_bridge(torch.tensor([-0.5]), 0.6, torch.tensor([0.7]), 0.9, reference=BrownianMotion(b**0.5))
    grid = np.linspace(-7.0, 7.0, 181)
    step = grid[1] - grid[0]
    masses = [end.log_prob(torch.tensor(grid)[:, None]).exp().numpy() * step for end in (bridge.start, bridge.end)]
    masses = [m / m.sum() for m in masses]
    cost = (grid[:, None] - grid) ** 2
    plan = ot.sinkhorn(*masses, cost, reg=2.0 * b, stopThr=1e-12)
    covariance = grid @ plan @ grid - (masses[0] @ grid) * (masses[1] @ grid)
    assert abs(covariance - float(bridge.cross)) < 1e-6
    independent = masses[0][:, None] * masses[1]
    value = (plan * cost).sum() + 2.0 * b * (plan * np.log(plan / independent)).sum()
    assert abs(value - bridge.entropic_cost()) < 1e-6


def test_numbers_of_the_note():
    """Sections 2.7 and 4.2."""
    simple = gaussian_bridge(torch.tensor([-1.0]), 1.0, torch.tensor([1.0]), 1.0, reference=BrownianMotion())
    assert abs(float(simple.cross) - (math.sqrt(5.0) - 1.0) / 2.0) < 1e-14
    assert abs(simple.kl() - 2.12257) < 5e-6
    bridge = note_gaussian()
    assert abs(float(bridge.cross) - 0.3442873) < 5e-8
    assert abs(float(bridge.covariance(0.0, 2.0)) - 0.3442873) < 5e-8


@each_gaussian
def test_the_path_is_markov(make):
    """Cov(s, u) = Cov(s, t) Cov(t, t)^{-1} Cov(t, u) for s < t < u, and Cov(t, s) is the transpose."""
    bridge = make()
    times = bridge.horizon * torch.tensor([0.0, 0.1, 0.55, 0.9, 1.0])
    for s, t, u in combinations(times, 3):
        middle = torch.linalg.solve(bridge.covariance(t, t), bridge.covariance(t, u))
        torch.testing.assert_close(bridge.covariance(s, t) @ middle, bridge.covariance(s, u), atol=1e-12, rtol=1e-11)
        torch.testing.assert_close(bridge.covariance(u, s), bridge.covariance(s, u).T)


@each_gaussian
def test_transitions_compose_and_start_like_the_drifts(make):
    """Kernels both ways: Chapman-Kolmogorov, and d/dt of the mean at no distance is the drift."""
    bridge = make()
    x = torch.randn(3, *bridge.event_shape, generator=seeded(0))
    for times in ((0.1, 0.5, 0.8), (0.8, 0.5, 0.1)):
        s, t, u = (bridge.horizon * v for v in times)
        first, second, whole = bridge.transition(s, t), bridge.transition(t, u), bridge.transition(s, u)
        torch.testing.assert_close(second.mean(first.mean(x)), whole.mean(x), atol=1e-11, rtol=1e-11)
        covariance = second.gain @ first.covariance @ second.gain.T + second.covariance
        torch.testing.assert_close(covariance, whole.covariance, atol=1e-12, rtol=1e-11)
    h = 1e-5 * bridge.horizon
    for share in (0.2, 0.7):
        t = share * bridge.horizon
        for drift, sign in ((bridge.forward_drift, 1.0), (bridge.backward_drift, -1.0)):
            near, far = (bridge.transition(t, t + sign * k * h).mean(x) for k in (1, 2))
            slope = (4.0 * near - far - 3.0 * x) / (2.0 * sign * h)
            torch.testing.assert_close(slope, drift(t, x), atol=1e-5, rtol=1e-5)


@each_gaussian
def test_the_exact_chain_has_one_weight(make):
    """log w = log q_0 on every path at any N, on grids that are not uniform, and on the decoder's own paths."""
    bridge = make()
    for shares in ([0.0, 1.0], [0.0, 0.01, 0.5, 0.52, 1.0], torch.linspace(0.0, 1.0, 41).tolist()):
        chain = bridge.chain(bridge.horizon * torch.tensor(shares))
        x = bridge.start.sample(20, generator=seeded(0))
        generator = seeded(1)
        weights = chain.log_weights(x, lambda count, g=generator, x=x: torch.randn(count, *x.shape, generator=g))
        torch.testing.assert_close(weights, bridge.start.log_prob(x), atol=1e-8, rtol=0.0)
        made, weight = chain.sample(20)
        torch.testing.assert_close(weight, bridge.start.log_prob(made), atol=1e-8, rtol=0.0)


def test_a_reference_of_much_noise_loses_no_digits():
    """VP forgets nearly all: C is tiny, and still that of Sinkhorn relative to itself; a wide Brownian likewise."""
    for reference in (VariancePreserving(0.1, 60.0), BrownianMotion(sigma=1e5)):
        bridge = gaussian((2,), reference)
        alpha, sigma = reference.marginal(torch.ones(()))
        expected = sinkhorn(bridge.start.covariance, bridge.end.covariance, alpha, sigma**2, sweeps=20)
        torch.testing.assert_close(bridge.cross, expected, atol=0.0, rtol=1e-9)


def test_little_noise_is_optimal_transport():
    """As b -> 0 the coupling is Monge's: C -> S0^{1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}."""
    bridge = gaussian((3,), BrownianMotion(sigma=1e-5))
    half = root(bridge.start.covariance)
    monge = half @ root(half @ bridge.end.covariance @ half) @ torch.linalg.inv(half)
    torch.testing.assert_close(bridge.cross, monge, atol=1e-9, rtol=1e-8)


def test_what_cannot_be_done_is_refused():
    bridge = GAUSSIANS["ornstein"]()
    with pytest.raises(gv.InputError, match="Both ends need one event shape"):
        gaussian_bridge(torch.zeros(2), 1.0, torch.zeros(3), 1.0, reference=BrownianMotion())
    with pytest.raises(gv.InputError, match="not positive definite"):
        gaussian_bridge(torch.zeros(2), 0.0, torch.zeros(2), 1.0, reference=BrownianMotion())
    with pytest.raises(gv.InputError, match="times must increase from 0"):
        bridge.chain(torch.tensor([0.0, 0.5]))
