"""A wrong score whose every likelihood is known: the 1-D oracle of the note of paper 1, sections 2.8 and 4(a).

VP with constant rate 2 on [0, 3] is the same law as Ornstein-Uhlenbeck with rate 6 on [0, 1]. Data are
N(0.7, 0.3); the score is -(x - c)/U with U = (1.25 + 0.2 sin 3t) Var q_t and c = E q_t + 0.15 cos 2t, t in [0, 3].
All likelihoods are quadratic in x, so averages over data are exact with a few Gauss-Hermite nodes.
"""

import pytest
import torch
from scipy.integrate import solve_ivp

from girsanov.densities import Gaussian, StandardNormal
from girsanov.likelihoods import Replicates, elbo, ode_log_prob
from girsanov.pairs import ScorePair
from girsanov.processes import OrnsteinUhlenbeck
from girsanov.solvers import Adaptive
from tests.laws import hermite

pytestmark = pytest.mark.usefixtures("float64")

X = torch.tensor([[-1.0], [0.4], [1.5]], dtype=torch.float64)
LOG_P = torch.tensor([-3.401078, -0.770213, -1.089921], dtype=torch.float64)
BOUND = torch.tensor([-3.904374, -0.924641, -1.214234], dtype=torch.float64)
BEST, GAP, ODE = -0.8176, 0.2435, -1.2191  # C, J and E[log p_0] of the ODE


def process():
    return OrnsteinUhlenbeck(beta=6.0)


def data():
    return Gaussian(torch.tensor([0.7]), torch.tensor([[0.3]]))


def shift_and_scale(t):
    """c and U at times in [0, 1]."""
    alpha, sigma = process().marginal(t)
    clock = 3.0 * t
    variance = 0.3 * alpha.square() + sigma.square()
    return 0.7 * alpha + 0.15 * torch.cos(2.0 * clock), (1.25 + 0.2 * torch.sin(3.0 * clock)) * variance


def perturbed(t, x):
    c, u = shift_and_scale(t)
    return -(x - c[:, None]) / u[:, None]


def quadrature():
    nodes, weights = hermite(1, 5)
    return 0.7 + 0.3**0.5 * nodes, weights


def test_the_oracles_own_numbers():
    """The generator is Gaussian at every time: its moments run from T down to 0."""

    def moments(t, y):
        c, u = shift_and_scale(torch.tensor(t))
        slope = -3.0 + 6.0 / float(u)  # of the drift f - g^2 s in x
        return [slope * y[0] - 6.0 * float(c) / float(u), 2.0 * slope * y[1] - 6.0]

    mean, variance = solve_ivp(moments, (1.0, 0.0), [0.0, 1.0], rtol=1e-10, atol=1e-12).y[:, -1]
    law = torch.distributions.Normal(float(mean), float(variance) ** 0.5)
    torch.testing.assert_close(law.log_prob(X[:, 0]), LOG_P, rtol=0.0, atol=2e-6)
    assert bool((BOUND < LOG_P).all())


def test_the_bound_at_three_points():
    estimate = elbo(
        ScorePair(perturbed, process(), prior=StandardNormal(), reference=data()),
        X,
        samples=2**17,
        method=Replicates(64),
    )
    assert float(estimate.stderr.max()) < 5e-3
    assert float(((estimate.value - BOUND) / estimate.stderr).abs().max()) < 4.0  # three rows: false alarm 5e-4


def test_the_averaged_bound_lies_j_below_the_best():
    x, weights = quadrature()
    law = data()
    best = weights @ elbo(ScorePair(law.score(process()), prior=StandardNormal()), x, samples=8).value
    assert float(best) == pytest.approx(BEST, abs=6e-5)
    estimate = elbo(
        ScorePair(perturbed, process(), prior=StandardNormal(), reference=law), x, samples=2**16, method=Replicates(64)
    )
    stderr = float((weights @ estimate.replicates.T).std()) / 8.0
    assert stderr < 4e-3
    assert abs(float(weights @ estimate.value) - (BEST - GAP)) < 4 * stderr  # false alarm 2e-4


def test_the_ode_of_the_wrong_score_has_its_own_likelihood():
    x, weights = quadrature()
    estimate = ode_log_prob(ScorePair(perturbed, process()), x, solver=Adaptive(1e-7, 1e-7))
    assert float(weights @ estimate.value) == pytest.approx(ODE, abs=6e-5)
    assert float(weights @ estimate.value) < BEST - GAP - 0.1  # here worse than the reverse SDE's bound


def test_the_ode_agrees_with_its_moment_equations():
    def moments(t, y):
        c, u = shift_and_scale(torch.tensor(t))
        slope = -3.0 + 3.0 / float(u)  # of the drift f - g^2 s / 2 in x
        return [slope * y[0] - 3.0 * float(c) / float(u), 2.0 * slope * y[1]]

    mean, variance = solve_ivp(moments, (1.0, 0.0), [0.0, 1.0], rtol=1e-10, atol=1e-12).y[:, -1]
    law = torch.distributions.Normal(float(mean), float(variance) ** 0.5)
    estimate = ode_log_prob(ScorePair(perturbed, process()), X, solver=Adaptive(1e-8, 1e-8))
    torch.testing.assert_close(estimate.value, law.log_prob(X[:, 0]), rtol=0.0, atol=5e-6)
