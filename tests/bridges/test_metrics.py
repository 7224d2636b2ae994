"""Metrics of bridges against closed forms: Gaussians, translations, points on a line, Girsanov's path KL."""

import math
import sys

import pytest
import torch
from scipy.stats import energy_distance as energy_distance_1d, wasserstein_distance

import girsanov as gv
from girsanov.bridges import gaussian_bridge
from girsanov.bridges.metrics import (
    bures_wasserstein,
    bw2_uvp,
    conditional_bw2_uvp,
    drift_divergence,
    energy_distance,
    wasserstein,
)
from girsanov.processes import BrownianMotion
from tests.bridges.registry import BRIDGES, GAUSSIANS, note_mixture
from tests.laws import spd
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def test_bures_wasserstein_of_commuting_covariances():
    """Half of sum (sqrt a - sqrt b)^2 in a common basis; symmetric; zero at equality, also for singular ones."""
    basis = torch.linalg.qr(torch.randn(3, 3, generator=seeded()))[0]
    a, b = torch.tensor([0.3, 2.0, 0.0]), torch.tensor([1.0, 0.1, 0.0])
    first, second = ((torch.full((3,), m), (basis * v) @ basis.T) for m, v in ((0.0, a), (1.0, b)))
    expected = 0.5 * (3.0 + (a.sqrt() - b.sqrt()).square().sum())
    assert abs(float(bures_wasserstein(first, second) - expected)) < 1e-7
    assert abs(float(bures_wasserstein(second, first) - expected)) < 1e-7
    assert abs(float(bures_wasserstein(first, first))) < 1e-7


def test_bures_wasserstein_is_the_limit_of_the_entropic_cost():
    """Two closed forms that share no line: optimal transport between Gaussians whose covariances do not commute."""
    S, m = spd(3, 2, seeded(2)), torch.tensor([1.0, 0.0, -1.0])
    bridge = gaussian_bridge(torch.zeros(3), S[0], m, S[1], reference=BrownianMotion(1e-4))
    distance = 2.0 * bures_wasserstein((torch.zeros(3), S[0]), (m, S[1]))
    assert abs(bridge._squared_distance() - distance) < 1e-6


def test_percentages_of_unexplained_variance():
    """Draws of the truth score near 0, the mean alone scores 100, and a shift by one standard deviation likewise."""
    covariance = spd(4, 1, seeded())[0]
    truth = gv.Gaussian(torch.zeros(2, 2), covariance)
    x = truth.sample(20_000, generator=seeded(1))
    assert bw2_uvp(x, torch.zeros(4), covariance) < 0.1
    assert abs(bw2_uvp(torch.zeros(10, 2, 2), torch.zeros(4), covariance) - 100.0) < 1e-3
    shift = (covariance.trace() / 4.0).sqrt()
    assert abs(bw2_uvp(x + shift, torch.zeros(4), covariance) - 100.0) < 5.0


@pytest.mark.parametrize("name", ["brownian", "mixture-image"])
def test_the_conditional_percentage_tells_the_plan(name):
    """Exact draws score what few draws cost; the independent plan's declared score is the one that its draws have."""
    bridge = BRIDGES[name]()
    starts = bridge.start.sample(40, generator=seeded(1))
    end = bridge.end.moment_match()
    truth = (end.mean.flatten(), end.covariance)
    if name == "brownian":
        law = bridge.transition(0.0, 1.0)
        exact = law.mean(starts).flatten(1), law.covariance
    else:
        exact = bridge.conditional(starts).moments()
    m = 600
    noise = torch.randn(m, 40, len(truth[0]), generator=seeded(2))
    roots = torch.linalg.cholesky(exact[1]).expand(40, -1, -1)
    good = exact[0] + torch.einsum("nij,mnj->mni", roots, noise)
    good = conditional_bw2_uvp(good.reshape(m, 40, *bridge.event_shape), exact, truth)
    bad = bridge.end.sample(m * 40, generator=seeded(3)).reshape(m, 40, *bridge.event_shape)
    bad = conditional_bw2_uvp(bad, exact, truth)
    assert good.value < 1.0 < 10.0 * good.value < good.independent
    assert abs(bad.value / bad.independent - 1.0) < 0.1


def test_drift_divergence_is_the_path_divergence():
    """Of the bridge from its reference, the closed form of KL: 4 standard errors (one false alarm in 16,000)."""
    bridge = GAUSSIANS["brownian"]()
    times = torch.linspace(0.0, 1.0, 41)
    paths = bridge.sample_path(times, 2000, generator=seeded())
    estimate = drift_divergence(paths, times, bridge.forward_drift, bridge.reference.drift, bridge.reference)
    assert abs(estimate.value - bridge.kl()) < 4.0 * estimate.stderr + 0.005 * bridge.kl()
    assert estimate.rows == 2000


def test_drift_divergence_of_a_mixture_is_the_static_one():
    """E log psi_T(y) / psi_0(x) with the bridge's own Z: path and plan tell the same KL."""
    bridge = note_mixture()
    times = torch.linspace(0.0, 1.0, 81)
    paths = bridge.sample_path(times, 4000, generator=seeded())
    estimate = drift_divergence(paths, times, bridge.forward_drift, bridge.reference.drift, bridge.reference)
    psi = bridge.end_potential.mixture
    static = psi.log_prob(paths[-1]) - psi.diffused(1.0, 0.5**0.5).log_prob(paths[0])
    stderr = math.hypot(estimate.stderr, float(static.std()) / math.sqrt(4000))
    assert abs(estimate.value - float(static.mean())) < 4.0 * stderr + 0.01


def test_exact_transport():
    """Translations, and one dimension against sorting."""
    pytest.importorskip("ot")
    x = torch.randn(50, 2, 2, generator=seeded())
    shift = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    for order in (1, 2):
        assert abs(wasserstein(x, x + shift, order=order) - 3.0) < 1e-9
    for count in (80, 100):  # different and equal sizes
        a, b = x.flatten()[:count, None], x.flatten()[count:, None] * 2.0
        assert abs(wasserstein(a, b) - wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())) < 1e-9


def test_energy_distance():
    """Against scipy's biased one; zero on average for equal laws (4 standard errors over 200 repetitions)."""
    x, y = torch.randn(60, 1, generator=seeded()), 1.0 + torch.randn(70, 1, generator=seeded(1))
    biased = energy_distance_1d(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    correction = sum(torch.cdist(z, z).sum() / len(z) ** 2 / (len(z) - 1) for z in (x, y))
    assert abs(energy_distance(x, y) - (biased - float(correction))) < 1e-9
    values = torch.tensor(
        [energy_distance(*torch.randn(2, 20, 3, generator=seeded(seed)).unbind(0)) for seed in range(200)]
    )
    assert abs(values.mean()) < 4.0 * values.std() / math.sqrt(200)


def test_without_pot_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(gv.InputError, match="pip install 'girsanov"):
        wasserstein(torch.zeros(2, 1), torch.zeros(3, 1))
    assert wasserstein(torch.zeros(2, 1), torch.ones(2, 1)) == 1.0  # equal sizes need no more than SciPy


def test_what_cannot_be_done_is_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(gv.InputError, match="order must be 1 or 2"):
        wasserstein(x, x, order=3)
    with pytest.raises(gv.InputError, match="one event shape"):
        energy_distance(x, torch.zeros(3, 1))
    with pytest.raises(gv.InputError, match="two samples or more"):
        energy_distance(x[:1], x)
    with pytest.raises(gv.InputError, match="The truth needs mean"):
        bw2_uvp(x, torch.zeros(3), torch.eye(3))
    with pytest.raises(gv.InputError, match="draws must be"):
        conditional_bw2_uvp(x[:, None], (torch.zeros(3, 2), torch.eye(2)), (torch.zeros(2), torch.eye(2)))
    with pytest.raises(gv.InputError, match="paths need one state"):
        drift_divergence(x[None], torch.zeros(1), torch.add, torch.add, BrownianMotion())
