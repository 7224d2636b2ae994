"""Path weights against closed forms: state-dependent and matrix diffusions, the lambda family, the limit of flows."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, LogNormal, MultivariateNormal

import girsanov as gv
from girsanov.densities import Density
from girsanov.pairs import Pair, ScorePair, euler_log_weights
from girsanov.processes import Process
from girsanov.solvers import FixedGrid
from tests.linear_pairs import log_mean_exp, mean_of_quadratic
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


class Law(Density):
    """A law of independent coordinates given by a torch distribution."""

    def __init__(self, distribution, d):
        super().__init__()
        self.distribution, self.event_shape = distribution, torch.Size((d,))

    def log_prob(self, x):
        return self.distribution.log_prob(x).sum(1)

    def sample(self, n, *, generator=None):
        return self.distribution.sample((n, *self.event_shape))

    def diffused(self, alpha, sigma):
        raise NotImplementedError

    def diffused_score(self, alpha, sigma, x):
        raise NotImplementedError


def noise(n, d, seed=0):
    generator = seeded(seed)
    return lambda count: torch.randn(count, n, d, generator=generator)


class Oracle:
    """An inference process with state-dependent diffusion, its marginals, and its exact reversal."""

    def __init__(self, process, marginal, div_d, squared):
        self.process, self.marginal, self.div_d, self.squared = process, marginal, div_d, squared

    def reversal(self, t, x):
        """v = u - div D - D grad log q_t."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.marginal(t[0]).log_prob(point).sum(), point, create_graph=True)
        if x.requires_grad:  # the divergence needs the graph
            (score,) = torch.autograd.grad(self.marginal(t[0]).log_prob(x).sum(), x, create_graph=True)
        return self.process.drift(t, x) - self.div_d(x) - self.squared(x) * score


def geometric_brownian():
    """dX = m X dt + s X dW from a log-normal: log-normal at every t."""
    m, s, mean, std = 0.3, 0.6, 0.1, 0.5

    class GBM(Process):
        def drift(self, t, x):
            return m * x

        def diffusion(self, t, x):
            return s * x

    return Oracle(
        GBM(),
        lambda t: LogNormal(mean + (m - s**2 / 2) * t, (std**2 + s**2 * t) ** 0.5),
        lambda x: 2 * s**2 * x,
        lambda x: s**2 * x.square(),
    )


def cox_ingersoll_ross():
    """dX = k (a - X) dt + s sqrt(X) dW in its stationary law, a Gamma."""
    k, a, s = 2.0, 1.5, 0.8

    class CIR(Process):
        def drift(self, t, x):
            return k * (a - x)

        def diffusion(self, t, x):
            return s * x.sqrt()

    law = Gamma(torch.tensor(2 * k * a / s**2), torch.tensor(2 * k / s**2))
    return Oracle(CIR(), lambda t: law, lambda x: torch.full_like(x, s**2), lambda x: s**2 * x)


ORACLES = {"geometric-brownian": (geometric_brownian, 1e-2), "cox-ingersoll-ross": (cox_ingersoll_ross, 1e-2)}


@pytest.mark.parametrize(("make", "tolerance"), ORACLES.values(), ids=ORACLES)
def test_state_dependent_diffusion_against_the_exact_density(make, tolerance):
    """The tight control has a constant weight, log q_0(x), up to sqrt(h); its mean error falls with the step."""
    oracle = make()
    d = 2
    prior = Law(oracle.marginal(torch.tensor(1.0)), d)
    pair = Pair(oracle.process, oracle.reversal, prior)
    x = torch.tensor([[0.7, 1.9], [1.4, 1.1]]).repeat_interleave(400, 0)
    truth = oracle.marginal(torch.tensor(0.0)).log_prob(x).sum(1)
    spreads = []
    for steps in (50, 200):
        error = euler_log_weights(pair, x, noise(len(x), d), steps=steps).detach() - truth
        spreads.append(float(error.std()))
    assert abs(float(error.mean())) < tolerance + 4 * spreads[1] / math.sqrt(len(x))
    assert 1.6 < spreads[0] / spreads[1] < 2.5  # order one half


@pytest.mark.parametrize(("make", "tolerance"), ORACLES.values(), ids=ORACLES)
def test_the_extra_divergence_terms_are_needed(make, tolerance):
    """The mistake of treating D as constant (no div D, no ddD): off by far more than the tolerance."""
    oracle = make()
    prior = Law(oracle.marginal(torch.tensor(1.0)), 2)
    pair = Pair(oracle.process, oracle.reversal, prior)
    x = torch.tensor([[0.7, 1.9]]).expand(400, 2)
    import girsanov.pairs.pair as module

    kept = module.diffusion_terms
    module.diffusion_terms = lambda coefficient, rows: None
    try:
        wrong = euler_log_weights(pair, x, noise(400, 2), steps=200).detach()
    finally:
        module.diffusion_terms = kept
    truth = oracle.marginal(torch.tensor(0.0)).log_prob(x[:1]).sum()
    assert abs(float(wrong.mean() - truth)) > 10 * tolerance


def test_any_inference_drift_has_the_density_as_its_mean_weight():
    """E exp W = p_0 for a wrong control, and Feynman-Kac alike (one false alarm in 16,000 each; 1 % for the steps)."""
    oracle = geometric_brownian()

    class Other(Process):
        def drift(self, t, x):
            return 0.1 * x + 0.2

        def diffusion(self, t, x):
            return oracle.process.diffusion(t, x)

    pair = Pair(Other(), oracle.reversal, Law(oracle.marginal(torch.tensor(1.0)), 1))
    n, x = 20_000, 1.2
    truth = float(oracle.marginal(torch.tensor(0.0)).log_prob(torch.tensor(x)))
    for controlled in (True, False):
        rows, draws = torch.full((n, 1), x), noise(n, 1)
        weights = euler_log_weights(pair, rows, draws, steps=100, controlled=controlled).detach() - truth
        ratio = weights.exp()
        assert abs(float(ratio.mean()) - 1.0) < 0.01 + 4 * float(ratio.std()) / math.sqrt(n)


def rotated_ou():
    """dX = A X dt + G dW with full matrices, and the moments of X_t for X_0 ~ N(m, S)."""
    a = torch.tensor([[-0.8, 0.5], [-0.4, -1.2]])
    g = torch.tensor([[0.9, 0.3], [-0.2, 0.7]])
    m, s = torch.tensor([0.5, -1.0]), torch.tensor([[0.6, 0.2], [0.2, 0.4]])

    class OU(Process):
        def drift(self, t, x):
            return x @ a.T

        def diffusion(self, t, x):
            return g.expand(len(x), 2, 2)

    def moments(t):
        e = torch.linalg.matrix_exp(a * t)
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(20))
        noise_part = torch.zeros(2, 2)
        for node, weight in zip(nodes, weights, strict=True):
            step = torch.linalg.matrix_exp(a * (0.5 * t * (node + 1.0)))
            noise_part += 0.5 * t * weight * step @ g @ g.T @ step.T
        return e @ m, e @ s @ e.T + noise_part

    return OU(), moments, g @ g.T


def test_a_full_matrix_diffusion_against_the_exact_density():
    process, moments, squared = rotated_ou()

    def reversal(t, x):
        mean, covariance = moments(t[0])
        score = -torch.linalg.solve(covariance, (x - mean).T).T
        return process.drift(t, x) - score @ squared.T

    mean, covariance = moments(torch.tensor(1.0))
    pair = Pair(process, reversal, gv.Gaussian(mean, covariance))
    x = torch.tensor([[0.2, -0.4], [1.5, -2.0]]).repeat_interleave(300, 0)
    truth = MultivariateNormal(*moments(torch.tensor(0.0))).log_prob(x)
    error = euler_log_weights(pair, x, noise(len(x), 2), steps=100).detach() - truth
    assert abs(float(error.mean())) < 0.02 + 4 * float(error.std()) / math.sqrt(len(x))
    assert float(error.std()) < 0.3
    hutchinson = euler_log_weights(
        pair, x, noise(len(x), 2, 1), steps=100, divergence=gv.calculus.Hutchinson(4)
    ).detach()
    hutchinson = hutchinson - truth
    assert abs(float(hutchinson.mean())) < 0.02 + 4 * float(hutchinson.std()) / math.sqrt(len(x))


TABLE = {-4.0: -1.2558, -1.0: -1.0915, 0.0: -1.0610, 0.3: -1.0688, 0.6: -1.1158, 0.9: -1.5540}


@pytest.mark.slow
@pytest.mark.parametrize("lmbd", TABLE)
def test_the_lambda_family_has_the_bounds_of_the_note(lmbd):
    """Note of paper 1, section 2.8: E[L_lambda] over data N(0.7, 0.3) and noise, exact for Euler, extrapolated in h."""
    process = gv.OrnsteinUhlenbeck(6.0, log_snr_range=(-6.0, 9.0))  # rate 2 on [0, 3]
    law = gv.Gaussian(torch.tensor([0.7]), 0.3)
    exact = law.score(process)

    def perturbed(t, x):
        alpha, sigma = process.marginal(t)
        wide = (1.25 + 0.2 * torch.sin(9.0 * t)) * (alpha.square() * 0.3 + sigma.square())
        return -(x - (0.7 * alpha + 0.15 * torch.cos(6.0 * t))[:, None]) / wide[:, None]

    pair = ScorePair(perturbed, process, event_shape=(1,)).family(lmbd, exact)
    pair.log_snr_range = (float(process.log_snr(torch.tensor(1.0))), 9.0)

    def bound(steps):
        rows = [torch.tensor([[0.7 + sign * math.sqrt(0.3)]]) for sign in (-1.0, 1.0)]  # W is quadratic in x too

        def weigh(x, draw):
            return euler_log_weights(pair, x, draw, steps=steps)

        return sum(float(mean_of_quadratic(weigh, x, steps + 1).detach()) for x in rows) / 2

    steps = 300 if lmbd < -2.0 else 150  # more noise, larger step errors
    coarse, middle, fine = bound(steps), bound(2 * steps), bound(4 * steps)
    assert abs((8.0 * fine - 6.0 * middle + coarse) / 3.0 - TABLE[lmbd]) < 2e-3


def test_without_noise_the_weight_is_the_change_of_variables():
    """sigma -> 0: with u = v the weight is log pi(x_T) + the integral of div v along the flow."""

    class Still(Process):
        def drift(self, t, x):
            return velocity(t, x)

        def diffusion(self, t, x):
            return torch.full((len(x),), 1e-6)

    def velocity(t, x):
        return torch.tanh(x @ torch.tensor([[0.5, -0.8], [0.9, 0.3]])) - 0.5 * x

    pair = Pair(Still(), velocity, gv.Gaussian(torch.zeros(2), 1.0))
    x = torch.randn(5, 2, generator=seeded(0))

    def field(s, y, rows):
        value, divergence = gv.calculus.Exact()(lambda z: velocity(s, z), y)
        return value, divergence

    solved = FixedGrid(64).solve(field, x, torch.linspace(0.0, 1.0, 65))
    flow = pair.prior.log_prob(solved.state) + solved.integrals[0]
    errors = [(euler_log_weights(pair, x, noise(5, 2), steps=n) - flow).abs().max() for n in (100, 200)]
    assert errors[1] < 2e-2
    assert 1.7 < errors[0] / errors[1] < 2.3  # Euler: first order


def test_weights_of_a_score_pair_include_the_residual():
    """Forgetting the residual term's entropy moves log p by d log alpha_e + d/2 - mse/2: here the sum must be right."""
    process, law = gv.VariancePreserving(log_snr_range=(-10.0, 3.0)), gv.Gaussian(torch.tensor([0.4, -1.0]), 0.5)
    low = torch.tensor(-10.0)
    pair = ScorePair(_Ranged(law.score(process)), process, prior=law.diffused(*process.marginal_at(low)))
    steps = 0.5 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    x = (law.mean + steps).repeat_interleave(500, 0)
    weights = euler_log_weights(pair, x, noise(len(x), 2), steps=1000).reshape(4, 500)
    bound = gv.elbo(gv.ScorePair(_Ranged(law.score(process)), process, prior=pair.prior), x[::500], samples=4096)
    gap = weights.mean(1) - bound.value
    assert bool((gap.abs() < 0.03 + 4 * weights.std(1) / math.sqrt(500)).all()), gap
    assert bool((log_mean_exp(weights, 1) > weights.mean(1)).all())


class _Ranged:
    """A score known on the process's range only, without a reference."""

    def __init__(self, score):
        self.score = score

    def __call__(self, t, x):
        return self.score(t, x)
