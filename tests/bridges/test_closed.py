"""Laws of every bridge in closed form: Fokker-Planck both ways, reversal, gradient fields, draws, tight bounds."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import ks_2samp

import girsanov as gv
from girsanov.bridges import pinned_path
from girsanov.bridges.reference import Clock
from girsanov.calculus import Exact, sum_event
from girsanov.likelihoods.weights import chain_elbo, path_log_weight
from girsanov.processes import BrownianMotion, Cosine, HarmonicVP, OrnsteinUhlenbeck, StraightPath
from tests.bridges.registry import BRIDGES
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

each_bridge = pytest.mark.parametrize("make", BRIDGES.values(), ids=BRIDGES)
SHARES = (0.0, 0.03, 0.4, 0.97, 1.0)


def score(bridge, t, x):
    """Gradient of the marginal's log-density, by automatic differentiation, itself differentiable."""
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(bridge.marginal(t).log_prob(point).sum(), point, create_graph=True)
    return gradient


def rows(bridge, t, n=5):
    return 1.5 * bridge.marginal(t).sample(n, generator=seeded(1))


@each_bridge
def test_reversal(make):
    """v = u - g^2 grad log q_t, at both ends too."""
    bridge = make()
    for share in SHARES:
        t = share * bridge.horizon
        x = rows(bridge, t)
        squared = bridge.reference.rates(torch.tensor(t))[1]
        expected = bridge.forward_drift(t, x) - squared * score(bridge, t, x).detach()
        torch.testing.assert_close(bridge.backward_drift(t, x), expected, atol=1e-9, rtol=1e-9)


@each_bridge
def test_fokker_planck(make):
    """Both drifts carry the marginals: d_t log q + div w + w . s +- g^2 (div s + s . s) / 2 = 0 at every point."""
    bridge = make()
    for share in (0.1, 0.5, 0.9):
        t, h = share * bridge.horizon, 1e-3 * bridge.horizon
        x = rows(bridge, t)
        values = [bridge.marginal(t + k * h).log_prob(x) for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * h)  # error of order h^4
        s, div_s = Exact()(lambda y, t=t: score(bridge, t, y), x)
        half = 0.5 * bridge.reference.rates(torch.tensor(t))[1]
        spread = half * (div_s[0] + sum_event(s.square()))
        for drift, sign in ((bridge.forward_drift, -1.0), (bridge.backward_drift, 1.0)):
            w, div_w = Exact()(lambda y, drift=drift, t=t: drift(t, y), x)
            flow = div_w[0] + sum_event(w * s)
            residual, size = slope + flow + sign * spread, slope.abs() + flow.abs() + spread.abs() + 1.0
            assert bool((residual.abs() < 1e-7 * size).all())


@each_bridge
def test_the_drifts_are_gradient_fields(make):
    bridge = make()
    for share in SHARES[:-1]:
        t = share * bridge.horizon
        x = rows(bridge, t, n=1)
        for drift in (bridge.forward_drift, bridge.backward_drift):
            jacobian = torch.autograd.functional.jacobian(
                lambda y, drift=drift, t=t: drift(t, y.reshape(1, *bridge.event_shape)).flatten(), x.flatten()
            )
            torch.testing.assert_close(jacobian, jacobian.T, atol=1e-9, rtol=1e-9)


@each_bridge
def test_the_ends_are_the_marginals(make):
    bridge = make()
    for t, end in ((0.0, bridge.start), (bridge.horizon, bridge.end)):
        x = rows(bridge, t)
        torch.testing.assert_close(bridge.marginal(t).log_prob(x), end.log_prob(x), atol=1e-9, rtol=1e-9)


@each_bridge
def test_a_time_for_each_row(make):
    """Mixed times, repeated times and one scalar time give the same rows; dtype and shape are kept."""
    bridge = make()
    t = bridge.horizon * torch.tensor([0.3, 1.0, 0.3, 0.0, 0.7])
    x = rows(bridge, 0.5 * bridge.horizon)
    for drift in (bridge.forward_drift, bridge.backward_drift):
        alone = torch.cat([drift(float(time), row[None]) for time, row in zip(t, x, strict=True)])
        torch.testing.assert_close(drift(t, x), alone, atol=1e-11, rtol=1e-11)
        single = drift(t.float(), x.float())
        assert single.dtype == torch.float32
        assert single.shape == x.shape
        torch.testing.assert_close(single, alone.float(), atol=1e-3, rtol=1e-4)


@each_bridge
def test_exact_draws(make):
    """Draws of paths have the marginals: Kolmogorov-Smirnov on coordinates and log-densities, false alarm 1e-5 each."""
    bridge, n = make(), 4000
    times = bridge.horizon * torch.tensor([0.0, 0.2, 0.6, 1.0])
    paths = bridge.sample_path(times, n, generator=seeded(5))
    assert paths.shape == (4, n, *bridge.event_shape)
    for t, drawn in zip(times, paths, strict=True):
        law = bridge.marginal(t)
        own = law.sample(n, generator=seeded(6))
        for statistic in (law.log_prob, lambda x: x.flatten(1)[:, 0]):
            assert ks_2samp(statistic(drawn).numpy(), statistic(own).numpy()).pvalue > 1e-5


@each_bridge
def test_simulated_ends(make):
    """Euler steps of each drift from the exact law at one end arrive at the other: false alarm 1e-5 each."""
    bridge, n, steps = make(), 1000, 200
    times = bridge.horizon * torch.linspace(0.0, 1.0, steps + 1)
    for forward in (True, False):
        grid = times if forward else times.flip(0)
        law, end = (bridge.start, bridge.end) if forward else (bridge.end, bridge.start)
        drift = bridge.forward_drift if forward else bridge.backward_drift
        x, generator = law.sample(n, generator=seeded(7)), seeded(8)
        for t, following in pairwise(grid):
            h, middle = following - t, 0.5 * (t + following)
            variance = bridge.reference.rates(middle)[1] * h.abs()
            noise = variance.sqrt() * torch.randn(x.shape, generator=generator)
            # Heun's step of the drift, with the noise of the step: the bias is below the noise of the test
            first = drift(float(t), x)
            second = drift(float(following), x + h * first + noise)
            x = x + 0.5 * h * (first + second) + noise
        own = end.sample(n, generator=seeded(9))
        for statistic in (end.log_prob, lambda y: y.flatten(1)[:, 0]):
            assert ks_2samp(statistic(x).numpy(), statistic(own).numpy()).pvalue > 1e-5


@pytest.mark.parametrize("name", ["brownian", "ornstein", "note-4.2", "note-4.3", "mixture-image"])
def test_every_bound_is_tight(name):
    """The bounds of the exact pair are log q_0: 4 standard errors, and what Euler steps add for the chain."""
    bridge = BRIDGES[name]()
    pair, x = bridge.pair(), bridge.start.sample(2, generator=seeded(2))
    truth = bridge.start.log_prob(x)
    path = path_log_weight(pair, x, steps=150, paths=250)
    assert bool(((path.value - truth).abs() < 4.0 * path.stderr + 0.02).all())
    gaps = []
    for steps in (64, 128):
        chain = chain_elbo(pair, x, steps=steps, paths=250)
        gaps.append(truth - chain.value)
        assert bool((gaps[-1].abs() < 4.0 * chain.stderr + 6.0 / steps).all())
    assert float(gaps[1].abs().sum()) < 0.75 * float(gaps[0].abs().sum()) + 4.0 * float(chain.stderr.sum())


def test_pinned_paths_meet_their_ends():
    """Moments of the reference pinned at both ends, against its covariance: Cov(X_s, X_t) given both ends."""
    process, n = OrnsteinUhlenbeck(2.0), 40_000
    x0, x1 = torch.full((n, 1, 2), 0.7), torch.full((n, 1, 2), -1.1)
    path = pinned_path(process, torch.tensor([0.0, 0.3, 0.8, 1.0]), x0, x1, generator=seeded())
    assert torch.equal(path[0], x0)
    assert torch.equal(path[3], x1)
    decay = torch.exp(-torch.tensor([0.3, 0.8, 1.0]))  # Cov(X_s, X_t | x0) = e^{-(t - s)} - e^{-(t + s)}
    s, t = torch.meshgrid(-decay.log(), -decay.log(), indexing="ij")
    given = torch.exp(-(t - s).abs()) - torch.exp(-(t + s))
    gain = given[:2, 2] / given[2, 2]
    mean = decay[:2] * 0.7 + gain * (-1.1 - decay[2] * 0.7)
    covariance = given[:2, :2] - torch.outer(gain, given[2, :2])
    inner = path[1:3].flatten(1)
    torch.testing.assert_close(inner.mean(1), mean, atol=4.0 / math.sqrt(2 * n), rtol=0.0)
    torch.testing.assert_close(inner.cov(), covariance, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("reference", [Cosine(), HarmonicVP(), StraightPath()])
def test_a_reference_without_memory_is_refused(reference):
    with pytest.raises(gv.InputError, match="forgets its start entirely"):
        Clock(reference)


def test_a_learned_reference_starts_at_its_own_noise():
    """The kernel between two times does not depend on the noise that a schedule has at t = 0."""

    class Shifted(BrownianMotion.__mro__[1]):
        def _kernel(self, t):
            return torch.zeros_like(t), 0.5 * (t + 0.5).log()

        def _rates(self, t):
            return torch.zeros_like(t), torch.ones_like(t)

        def _time(self, log_snr):
            return torch.exp(-log_snr) - 0.5

    t = torch.tensor([0.0, 0.25, 1.0])
    for ours, plain in zip(Clock(Shifted())(t), Clock(BrownianMotion())(t), strict=True):
        torch.testing.assert_close(ours, plain)
