"""The identities that paper 3 rests on, on its oracle O1, whose every term is a one-dimensional integral.

Encoder u = (-0.7 + 0.4 t) x + 0.2, decoder v = (0.5 + 0.3 sin 3t) x - 0.1 + 0.5 t, g = 0.8 + 0.6 t, data N(0.7, 0.9),
prior N(0.3, 1.2). The moments come from an ODE solver, the bounds from the library.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch.distributions import MultivariateNormal, kl_divergence

import girsanov as gv
from girsanov.likelihoods.weights import chain_elbo, importance_bound, path_log_weight
from girsanov.pairs import EulerChain, Pair, euler_log_weights
from girsanov.processes import Process
from tests.bridges.registry import BRIDGES
from tests.linear_pairs import chain_marginal, mean_of_quadratic, random_linear_pair
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

MU, PI = (0.7, 0.9), (0.3, 1.2)
ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e * MU[1])


def g2(t):
    return (0.8 + 0.6 * t) ** 2


def encoder(t, slope=0.0, offset=0.0):
    """Slope and offset of u."""
    return -0.7 + 0.4 * t + slope, 0.2 + offset


def decoder(t):
    """Slope and offset of v."""
    return 0.5 + 0.3 * np.sin(3.0 * t), -0.1 + 0.5 * t


def moments(drift, noise, start, times):
    """Mean and variance of a linear process, ``t -> (m, V)``, from one end to the other."""
    law = solve_ivp(
        lambda t, y: [drift(t)[0] * y[0] + drift(t)[1], 2.0 * drift(t)[0] * y[1] + noise * g2(t)],
        times,
        start,
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
        dense_output=True,
    )
    return law.sol


def inference_law(slope=0.0, offset=0.0):
    return moments(lambda t: encoder(t, slope, offset), 1.0, MU, (0.0, 1.0))


def generative_law():
    return moments(decoder, -1.0, PI, (1.0, 0.0))


def gaussian_kl(m, v, n, w):
    return 0.5 * (math.log(w / v) + (v + (m - n) ** 2) / w - 1.0)


def prior_loss(slope=0.0, offset=0.0):
    return gaussian_kl(*inference_law(slope, offset)(1.0), *PI)


def drift_matching():
    law = inference_law()

    def error(t):
        (m, V), (a, b), (c, e) = law(t), encoder(t), decoder(t)
        slope = a + g2(t) / V - c
        return ((slope * m + b - g2(t) * m / V - e) ** 2 + slope**2 * V) / (2.0 * g2(t))

    return quad(error, 0.0, 1.0, epsabs=1e-12)[0]


class Encoder(Process):
    """The encoder, with what a gradient may move."""

    def __init__(self):
        super().__init__()
        self.slope, self.offset = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))

    def drift(self, t, x):
        return (-0.7 + 0.4 * t + self.slope)[:, None] * x + 0.2 + self.offset

    def diffusion(self, t, x):
        return 0.8 + 0.6 * t


def linear(drift):
    """A drift of the library from slope and offset as functions of one scalar time."""

    def field(t, x):
        slope, offset = drift(float(t[0]))
        return slope * x + offset

    return field


def reversal(t):
    """Slope and offset of the exact reversal of the encoder."""
    (m, V), (a, b) = REVERSAL_LAW(t), encoder(t)
    return a + g2(t) / V, b - g2(t) * m / V


REVERSAL_LAW = inference_law()


def pair(drift=decoder, inference=None):
    return Pair(inference or Encoder(), linear(drift), gv.Gaussian(torch.tensor([PI[0]]), torch.tensor([PI[1]])))


def continuous_bound(model, x, steps):
    """Bound (2) of one row by N Euler steps, exactly averaged over the noise."""
    weigh = lambda rows, draw: euler_log_weights(model, rows, draw, steps=steps)  # noqa: E731
    return mean_of_quadratic(weigh, x, 1 + steps).detach()


def extrapolate(values):
    """Richardson from N, 2N, 4N, ...: errors in powers of the step."""
    order = 1
    while len(values) > 1:
        values = [(2**order * b - a) / (2**order - 1) for a, b in pairwise(values)]
        order += 1
    return values[0]


def over_data(function):
    """Mean over N(0.7, 0.9) of a quadratic function of one row."""
    return 0.5 * sum(function(torch.tensor([[MU[0] + sign * MU[1] ** 0.5]])) for sign in (-1.0, 1.0))


def test_terms_of_the_note():
    """Section 2.3: prior loss 0.03466, drift matching 0.26142, entropy 1.36626."""
    assert abs(prior_loss() - 0.03466) < 5e-6
    assert abs(drift_matching() - 0.26142) < 5e-6
    assert abs(ENTROPY - 1.36626) < 5e-6


def test_the_averaged_identity():
    """T4: minus the mean bound = entropy + prior loss + drift matching = 1.662339189, to 1e-6."""
    bound = extrapolate([over_data(lambda x, n=n: continuous_bound(pair(), x, n)) for n in (8, 16, 32, 64)])
    parts = ENTROPY + prior_loss() + drift_matching()
    assert abs(parts - 1.662339189) < 1e-8
    assert abs(float(bound) + parts) < 1e-6


@pytest.mark.parametrize(
    ("x", "log_density", "bound"),
    [(-2.0, -3.247474469, -3.539297257), (0.0, -0.863662100, -0.902946393), (1.5, -2.020526716, -2.090954533)],
)
def test_the_bounds_of_single_rows(x, log_density, bound):
    """Section 2.3: L(x) <= log p_0(x), the library's and the note's digits; both to 1e-6 after extrapolation."""
    m, V = generative_law()(0.0)
    truth = -0.5 * (math.log(2.0 * math.pi * V) + (x - m) ** 2 / V)
    assert abs(truth - log_density) < 1e-8
    row = torch.tensor([[x]])
    value = extrapolate([continuous_bound(pair(), row, n) for n in (8, 16, 32, 64)])
    assert abs(float(value) - bound) < 1e-6


def test_the_tight_encoder_closes_the_gap():
    """u* = v + g^2 grad log p_t: the bound is log p_0."""
    law = generative_law()

    class Tight(Process):
        def drift(self, t, x):
            (m, V), (c, e) = law(float(t[0])), decoder(float(t[0]))
            return c * x + e - g2(float(t[0])) * (x - m) / V

        def diffusion(self, t, x):
            return 0.8 + 0.6 * t

    row = torch.tensor([[1.5]])
    value = extrapolate([continuous_bound(pair(inference=Tight()), row, n) for n in (8, 16, 32, 64)])
    assert abs(float(value) + 2.020526716) < 1e-6


def test_the_exact_decoder_leaves_the_prior_loss():
    """Section 2.4: with v = v*, the mean bound is -(entropy + prior loss): 1.400916194."""
    bound = extrapolate([over_data(lambda x, n=n: continuous_bound(pair(reversal), x, n)) for n in (8, 16, 32, 64)])
    assert abs(ENTROPY + prior_loss() - 1.400916194) < 1e-8
    assert abs(float(bound) + 1.400916194) < 1e-6


def test_the_encoder_sees_only_the_prior_loss():
    """T5: at v = v*, gradients of bound and prior loss agree: +0.1366916 and +0.1947800, to 1e-5.

    The library's by backpropagation through the chain's paths, as training does it, extrapolated in the step.
    """
    gradients = []
    for steps in (8, 16, 32, 64):
        chain = EulerChain(pair(reversal), steps)
        loss = -over_data(
            lambda x, chain=chain, n=steps: mean_of_quadratic(lambda r, d: chain.log_weights(r, d), x, n + 1)
        )
        process = chain.pair.inference
        gradients.append(torch.stack(torch.autograd.grad(loss, [process.slope, process.offset])))
    ours, h = extrapolate(gradients), 1e-4
    slope = (prior_loss(slope=h) - prior_loss(slope=-h)) / (2.0 * h)
    offset = (prior_loss(offset=h) - prior_loss(offset=-h)) / (2.0 * h)
    assert abs(slope - 0.1366916) < 1e-6
    assert abs(offset - 0.1947800) < 1e-6
    torch.testing.assert_close(ours, torch.tensor([slope, offset]), atol=1e-5, rtol=0.0)


def test_chain_and_continuum_agree_at_order_one():
    """T3: the bounds (2) and (3) of x = 1.5 approach each other at order 1 in the step."""
    row, gaps = torch.tensor([[1.5]]), []
    for steps in (16, 32, 64):
        chain = EulerChain(pair(), steps)
        discrete = mean_of_quadratic(lambda r, d, chain=chain: chain.log_weights(r, d), row, steps + 1)
        gaps.append(float((continuous_bound(pair(), row, steps) - discrete.detach()).abs()))
    orders = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(0.85 < order < 1.2 for order in orders), orders


def joint_law(times, law, transport):
    """Law of the states at ``times``; ``transport(s, t)`` is E[X_t | X_s] in slope, for s on its own side of t."""
    means, variances = law(times)
    covariance = np.diag(variances)
    for i in range(len(times)):
        for j in range(i):
            covariance[i, j] = covariance[j, i] = transport(times[j], times[i], variances[j], variances[i])
    return MultivariateNormal(torch.tensor(means), torch.tensor(covariance))


def test_the_data_processing_chain():
    """KL of what is seen of the path grows with what is seen: data, ends, finer grids, the whole path.

    KL(mu || p_0) = 0.227980 <= KL of the joint laws on nested grids <= prior loss + drift matching = 0.296081.
    """
    inference, generative = inference_law(), generative_law()

    def forward(s, t, v_s, v_t):
        return v_s * math.exp(quad(lambda r: encoder(r)[0], s, t)[0])

    def backward(s, t, v_s, v_t):
        return v_t * math.exp(-quad(lambda r: decoder(r)[0], s, t)[0])

    divergences = [gaussian_kl(*inference(0.0), *generative(0.0))]
    for count in (1, 2, 4, 8, 16):
        times = np.linspace(0.0, 1.0, count + 1)
        laws = joint_law(times, inference, forward), joint_law(times, generative, backward)
        divergences.append(float(kl_divergence(*laws)))
    whole = prior_loss() + drift_matching()
    divergences.append(whole)
    assert abs(divergences[0] - 0.227980) < 5e-7
    assert abs(whole - 0.296081) < 5e-7
    assert all(a < b for a, b in pairwise(divergences)), divergences
    assert whole - divergences[-2] < 0.002


def test_importance_bounds_grow_and_stay_below():
    """T9: non-decreasing in K and at most log p_chain, each within 4 standard errors."""
    chain, _, _ = random_linear_pair(2, 4, 3)
    x = chain.sample(300, generator=seeded(0))[0]
    truth, before = chain_marginal(chain).log_prob(x), None
    for paths in (1, 8, 64):
        bound = importance_bound(chain, x, paths=paths)
        below = truth - bound.value
        assert below.mean() > -4.0 * below.std() / math.sqrt(300)
        if before is not None:
            gain = bound.value - before
            assert gain.mean() > -4.0 * gain.std() / math.sqrt(300)
        before = bound.value


@pytest.mark.parametrize("name", ["note-4.2", "note-4.3", "ornstein"])
def test_no_bound_breaks_the_entropy_floor(name):
    """T11: E[-bound] >= H - 4 standard errors on a known law, with exact and with wrong drifts.

    The chain and its importance-weighted bound are of a density; an estimate of the continuum is not held to it.
    """
    bridge = BRIDGES[name]()
    x = bridge.start.sample(500, generator=seeded(0))
    log_density = bridge.start.log_prob(x)
    for error in (0.0, -0.3, 0.3):

        def drift(t, y, error=error):
            return bridge.backward_drift(t, y) + error * torch.sin(y + 0.5)

        model = Pair(bridge.pair().inference, drift, bridge.end)
        for bound in (
            chain_elbo(model, x, steps=8),
            importance_bound(model, x, steps=8, paths=8, groups=2),
        ):
            excess = log_density - bound.value  # its mean is KL(mu || model) plus a gap
            assert excess.mean() > -4.0 * excess.std() / math.sqrt(500)


def test_the_divergence_along_a_stochastic_path_is_no_bound():
    """Section 5: data and prior N(0, 1), u = -x/2, v = 0.8 x. A published code's sum says 1.2689 nats, below the
    entropy 1.4189; the truth is 1.4547 and the bound 1.4639."""

    class Stationary(Process):
        def drift(self, t, x):
            return -0.5 * x

        def diffusion(self, t, x):
            return torch.ones(len(x))

    model = Pair(Stationary(), lambda t, x: 0.8 * x, gv.Gaussian(torch.zeros(1), 1.0))
    points = torch.tensor([[-1.0], [1.0]])  # second moment 1: the mean over N(0, 1) of a quadratic
    bound = extrapolate([sum(continuous_bound(model, x[None], n) for x in points) / 2 for n in (8, 16, 32, 64)])
    assert abs(float(bound) + 1.4639) < 5e-5
    entropy = 0.5 * math.log(2.0 * math.pi * math.e)
    assert entropy - 0.5 * (0.8 - 0.5) < 1.2690 < entropy  # what div (u + v) / 2 along the path adds up to
    variance = math.exp(-1.6) + (1.0 - math.exp(-1.6)) / 1.6
    truth = 0.5 * (math.log(2.0 * math.pi * variance) + 1.0 / variance)
    assert abs(truth - 1.4547) < 5e-5
    assert entropy < truth < -float(bound)


def test_a_stationary_process_has_no_variance_in_the_chain_form():
    """Oracle O2 and section 3 (c): x = 1.3, L = log p_0 = -1.76393853; spread 0.019 at N = 20, 0.0021 at N = 200.

    Path weights keep the martingale of the control, so their spread is that of the Euler error and falls with it.
    """
    process = gv.OrnsteinUhlenbeck(2.0)
    model = Pair(process, lambda t, x: -process.drift(t, x), gv.Gaussian(torch.zeros(1), 1.0))
    x, truth = torch.tensor([[1.3]]), -1.7639385332046727
    value = extrapolate([continuous_bound(model, x, n) for n in (8, 16, 32, 64)])
    assert abs(float(value) - truth) < 1e-6
    few, many = (float(chain_elbo(model, x, steps=n, paths=1000).replicates.std()) for n in (20, 200))
    assert abs(few - 0.019) < 0.003
    assert abs(many - 0.0021) < 0.0004
    few, many = (float(path_log_weight(model, x, steps=n, paths=1000).replicates.std()) for n in (20, 80))
    assert abs(few / many - 2.0) < 0.4
