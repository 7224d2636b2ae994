"""The mixture bridge: a plan of the right form with the right ends is the Schroedinger bridge; numbers of the note."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

import girsanov as gv
from girsanov.bridges import MixtureBridge, OneSidedBridge, gaussian_bridge
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods.weights import chain_elbo
from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck
from tests.bridges.registry import BRIDGES, NoteReference, note_mixture
from tests.laws import gaussian_case, mixture_case
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

MIXTURES = {name: make for name, make in BRIDGES.items() if "mixture" in name}
MIXTURES["note-4.3"] = note_mixture
each_mixture = pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)


def conditional_log_prob(law, y):
    """Log-density of one ``y`` for each of n rows, by ``torch.distributions``."""
    components = MultivariateNormal(law.means, law.covariances)
    return MixtureSameFamily(Categorical(law.weights), components).log_prob(y.flatten(1))


def test_numbers_of_the_note():
    """Section 4.3: Z and log q_0 at two points."""
    bridge = note_mixture()
    assert abs(math.exp(bridge.log_normaliser()) - 0.147439446148) < 1e-12
    values = bridge.start.log_prob(torch.tensor([[-1.0], [0.7]]))
    torch.testing.assert_close(values, torch.tensor([-1.521024, -0.912428]), atol=5e-7, rtol=0.0)


@each_mixture
def test_the_normaliser_is_the_same_at_every_time(make):
    bridge = make()
    values = [bridge.log_normaliser(share * bridge.horizon) for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert max(values) - min(values) < 1e-11


@each_mixture
def test_the_plan_is_optimal(make):
    """log plan(x, y) - log N(y; alpha x, s^2) = a(x) + b(y) for all pairs: optimal for its ends."""
    bridge = make()
    alpha, sigma = bridge.reference.marginal(torch.tensor(bridge.horizon))
    x, y = (1.5 * end.sample(6, generator=seeded(1)) for end in (bridge.start, bridge.end))
    rows, columns = x.repeat_interleave(6, 0), y.repeat(6, *[1] * (y.ndim - 1))
    plan = bridge.start.log_prob(rows) + conditional_log_prob(bridge.conditional(rows), columns)
    kernel = Normal(alpha * rows.flatten(1), sigma).log_prob(columns.flatten(1)).sum(1)
    ratio = (plan - kernel).reshape(6, 6)
    interaction = ratio - ratio[:1] - ratio[:, :1] + ratio[0, 0]
    torch.testing.assert_close(interaction, torch.zeros(6, 6), atol=1e-8, rtol=0.0)


def test_the_ends_of_the_plan():
    """Integrals of the plan over either argument are the ends, by the trapezoidal rule; Sinkhorn leaves it alone."""
    bridge = MixtureBridge(NoteReference(), note_mixture().start_potential, note_mixture().end_potential.mixture)
    grid = torch.linspace(-9.0, 9.0, 601)
    step = float(grid[1] - grid[0])
    law = bridge.conditional(grid[:, None])
    kernels = Normal(law.means[:, :, 0, None], law.covariances[:, 0, 0, None].sqrt())
    conditional = torch.logsumexp(law.weights.log()[:, :, None] + kernels.log_prob(grid), 1).exp()
    start, end = (law.log_prob(grid[:, None]).exp() for law in (bridge.start, bridge.end))
    plan = start[:, None] * conditional
    torch.testing.assert_close(step * plan.sum(1), start, atol=1e-10, rtol=0.0)
    torch.testing.assert_close(step * plan.sum(0), end, atol=1e-10, rtol=0.0)
    sinkhorn = plan / (step * plan.sum(0)) * end
    sinkhorn = sinkhorn / (step * sinkhorn.sum(1, keepdim=True)) * start[:, None]
    assert float((sinkhorn - plan).abs().sum()) * step**2 < 1e-12


def test_one_component_each_is_the_gaussian_bridge():
    """Two independent closed forms of one bridge, in three dimensions with an event shape."""
    first, second = (gaussian_case((3, 1), seed=seed) for seed in (1, 2))
    psihat, psi = (GaussianMixture(torch.ones(1), c.density.mean[None], c.covariances) for c in (first, second))
    reference = OrnsteinUhlenbeck(1.5)
    bridge = MixtureBridge(reference, psihat, psi)
    ends = [end.moment_match() for end in (bridge.start, bridge.end)]
    twin = gaussian_bridge(ends[0].mean, ends[0].covariance, ends[1].mean, ends[1].covariance, reference=reference)
    x = torch.randn(5, 3, 1, generator=seeded())
    for t in (0.0, 0.4, 1.0):
        torch.testing.assert_close(bridge.forward_drift(t, x), twin.forward_drift(t, x), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(bridge.backward_drift(t, x), twin.backward_drift(t, x), atol=1e-10, rtol=1e-10)
        law = bridge.marginal(t).moment_match()
        torch.testing.assert_close(law.covariance, twin.marginal(t).covariance)
    mean, covariance = bridge.conditional(x).moments()
    law = twin.transition(0.0, 1.0)
    torch.testing.assert_close(mean, law.mean(x).flatten(1))
    torch.testing.assert_close(covariance, law.covariance.expand(5, 3, 3))


@each_mixture
def test_moments_of_the_conditional_law(make):
    """Declared mean and covariance against draws: 5 standard errors of each entry."""
    bridge, n = make(), 20_000
    x = bridge.start.sample(1, generator=seeded(3))
    law = bridge.conditional(x.expand(n, *x.shape[1:]))
    drawn = law.sample(generator=seeded(4)).flatten(1)
    mean, covariance = (part[0] for part in law.moments())
    centred = drawn - mean
    assert bool((centred.mean(0).abs() < 5.0 * centred.std(0) / math.sqrt(n)).all())
    products = centred[:, :, None] * centred[:, None]
    assert bool(((products.mean(0) - covariance).abs() < 5.0 * products.std(0) / math.sqrt(n)).all())


@each_mixture
def test_conditionals_along_the_way_are_a_martingale(make):
    """E[E[X_T | X_t] | X_0] = E[X_T | X_0]: the conditional law at any time, by draws of the pinned path."""
    bridge, n = make(), 20_000
    x = bridge.start.sample(1, generator=seeded(5)).expand(n, *bridge.event_shape)
    y = bridge.conditional(x).sample(generator=seeded(6))
    t = 0.4 * bridge.horizon
    middle = bridge.clock.pinned(torch.full((n,), t)).state(x, y, torch.randn(x.shape, generator=seeded(7)))
    means = bridge.end_potential.conditional(middle, t).moments()[0]
    gap = means - bridge.conditional(x[:1]).moments()[0]
    assert bool((gap.mean(0).abs() < 5.0 * gap.std(0) / math.sqrt(n)).all())


def test_one_sided_and_two_sided_agree():
    """The forward half does not need to know the start: same drift and plan, and then any start will do."""
    bridge = note_mixture()
    half = OneSidedBridge(bridge.reference, bridge.start, bridge.end_potential.mixture)
    x = torch.linspace(-2.0, 2.0, 7)[:, None]
    t = torch.linspace(0.0, 1.0, 7)
    assert torch.equal(half.forward_drift(t, x), bridge.forward_drift(t, x))
    for ours, theirs in zip(half.sample_coupling(50), bridge.sample_coupling(50), strict=True):
        assert torch.equal(ours, theirs)
    case = mixture_case((2, 2), seed=3)
    other = OneSidedBridge(BrownianMotion(0.7), Gaussian(torch.zeros(2, 2), 1.0), case.density)
    path = other.sample_path(torch.tensor([0.0, 0.5, 1.0]), 10)
    assert path.shape == (3, 10, 2, 2)
    assert torch.equal(path[2], other.sample_coupling(10)[1])


def test_one_sided_drift_arrives_at_the_conditional_law():
    """Euler paths from one point have the conditional moments: 5 standard errors and the bias of 200 steps."""
    bridge = OneSidedBridge(BrownianMotion(0.7), Gaussian(torch.zeros(1), 1.0), note_mixture().end_potential.mixture)
    n, steps, generator = 4000, 200, seeded(1)
    x = torch.full((n, 1), 0.3)
    for k in range(steps):
        noise = 0.7 * steps**-0.5 * torch.randn(n, 1, generator=generator)
        x = x + bridge.forward_drift(k / steps, x) / steps + noise
    mean, covariance = bridge.conditional(torch.tensor([[0.3]])).moments()
    assert abs(float(x.mean() - mean)) < 5.0 * float(x.std()) / math.sqrt(n) + 0.01
    assert abs(float(x.var() / covariance) - 1.0) < 0.15


def test_components_far_apart_do_no_harm():
    """Pairs of components whose product underflows are dropped, not divided by."""
    far = torch.tensor([[-60.0], [60.0]])
    mixture = GaussianMixture(torch.ones(2), far, torch.full((2, 1), 0.1))
    bridge = MixtureBridge(BrownianMotion(), mixture, mixture)
    assert len(bridge.marginal(0.5).weights) == 2
    x0, x1 = bridge.sample_coupling(100)
    assert bool(((x0 > 0) == (x1 > 0)).all())
    assert bool(bridge.forward_drift(0.5, x0).isfinite().all())


@pytest.mark.slow
def test_the_bounds_of_the_note():
    """Section 4.3: the chain bound of the exact drifts at N = 1000 has standard deviation 0.04, not 0.9."""
    bridge, x = note_mixture(), torch.tensor([[-1.0], [0.7]])
    estimate = chain_elbo(bridge.pair(), x, steps=1000, paths=100)
    spread = estimate.stderr * math.sqrt(100)
    assert bool((spread < 0.08).all())
    gap = (estimate.value - bridge.start.log_prob(x)).abs()
    assert bool((gap < 4.0 * estimate.stderr + 0.005).all())


def test_what_cannot_be_done_is_refused():
    one, two = mixture_case((1,)).density, mixture_case((2,)).density
    with pytest.raises(gv.InputError, match="Both potentials need one event shape"):
        MixtureBridge(BrownianMotion(), one, two)
    with pytest.raises(gv.InputError, match="The start and the potential need one event shape"):
        OneSidedBridge(BrownianMotion(), one, two)
