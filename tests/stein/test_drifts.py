"""The link to SDEs: entropy rates against closed forms, and the drift form of the loss against the score form."""

import math

import numpy as np
import pytest
import torch

from girsanov.calculus import Hutchinson
from girsanov.stein import drift_score_matching, entropy_rate, score_matching, score_of_drifts
from girsanov.types import InputError
from tests.linear.registry import mixing
from tests.seeds import seeded
from tests.stein.registry import potential, score_of

pytestmark = pytest.mark.usefixtures("float64")

VOLATILITY = 0.6
DRIFT = 0.1


def log_normal(mean, variance, t):
    """Mean and variance of log X_t under dX = 0.1 X dt + 0.6 X dW."""
    return mean + (DRIFT - 0.5 * VOLATILITY**2) * t, variance + VOLATILITY**2 * t


def log_normal_score(mean, variance):
    return lambda x: -1.0 / x - (x.log() - mean) / (variance * x)


def divergence(q, p):
    """KL of two normal laws, given as (mean, variance): that of the log-normal ones too."""
    return 0.5 * (q[1] / p[1] - 1.0 - math.log(q[1] / p[1]) + (q[0] - p[0]) ** 2 / p[1])


@pytest.mark.parametrize(
    ("q", "p", "t", "expected"),
    [((0.2, 0.3), (-0.1, 0.6), 0.5, -0.0821005917), ((0.2, 0.5), (-0.3, 0.9), 0.7, -0.0627666500)],
)
def test_entropy_rate_of_geometric_brownian_motion(q, p, t, expected):
    """The note's figures to 1e-9, and the closed-form derivative of KL to 1e-8."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    q_t, p_t = log_normal(*q, t), log_normal(*p, t)
    x = (q_t[0] + math.sqrt(q_t[1]) * points).exp()[:, None]
    times = torch.full((len(x),), t)
    rate = -weights @ entropy_rate(
        times, x, log_normal_score(*p_t), log_normal_score(*q_t), lambda t, x: VOLATILITY * x
    )
    h = 1e-5
    slope = (
        divergence(log_normal(*q, t + h), log_normal(*p, t + h))
        - divergence(log_normal(*q, t - h), log_normal(*p, t - h))
    ) / (2 * h)
    assert float(rate) == pytest.approx(expected, abs=1e-9)
    assert float(rate) == pytest.approx(slope, abs=1e-8)


def test_divergence_is_the_integral_of_the_rate():
    """KL(q_0 | p_0) = KL(q_T | p_T) + integral, by Gauss-Legendre in time: to 1e-8."""
    q, p, horizon = (0.2, 0.3), (-0.1, 0.6), 1.0
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    nodes, lengths = np.polynomial.legendre.leggauss(30)
    total = divergence(log_normal(*q, horizon), log_normal(*p, horizon))
    for node, length in zip(nodes, lengths, strict=True):
        t = 0.5 * horizon * (1.0 + node)
        q_t, p_t = log_normal(*q, t), log_normal(*p, t)
        x = (q_t[0] + math.sqrt(q_t[1]) * points).exp()[:, None]
        scores = log_normal_score(*p_t), log_normal_score(*q_t)
        rate = entropy_rate(torch.full((len(x),), t), x, *scores, lambda t, x: VOLATILITY * x)
        total += 0.5 * horizon * length * float(weights @ rate)
    assert total == pytest.approx(divergence(q, p), abs=1e-8)


def scalar(t, x):
    return (1.0 + 0.3 * t) * (1.5 + torch.sin(x.flatten(1)[:, 0]))


def diagonal(t, x):
    return 1.5 + 0.5 * torch.sin(x.flatten(1) + t[:, None])


def full(t, x):
    return mixing(4, 4)(x.flatten(1)) + 0.5 * t[:, None, None] * torch.eye(4)


@pytest.mark.parametrize("diffusion", [scalar, diagonal, full])
def test_drift_form_is_the_score_form(diffusion):
    """The generative drift that a score stands for gives back the score, and its loss, row by row."""
    generator = seeded(1)
    x, t = torch.randn(5, 2, 2, generator=generator), torch.rand(5, generator=generator)
    model = score_of(potential)

    def drift(t, x):
        return -0.5 * x * (1.0 + t[:, None, None])

    def matrix(x):
        return diffusion(t, x)

    def reverse_drift(t, x):
        """u - div D - D s, by central differences of D."""
        flat = x.flatten(1)

        def square(flat):
            m = matrix(flat.reshape(x.shape))
            m = m[:, None, None] * torch.eye(4) if m.ndim == 1 else torch.diag_embed(m) if m.ndim == 2 else m
            return m @ m.mT

        units = 1e-4 * torch.eye(4)
        slope = sum((square(flat + u) - square(flat - u))[:, i] / 2e-4 for i, u in enumerate(units))
        raised = (square(flat) @ model(x).flatten(1)[..., None])[..., 0]
        return drift(t, x) - (slope + raised).reshape(x.shape)

    parts = {"drift": drift, "reverse_drift": reverse_drift, "diffusion": diffusion}
    recovered = score_of_drifts(t, drift, reverse_drift, diffusion)
    torch.testing.assert_close(recovered(x), model(x), rtol=1e-6, atol=1e-6)
    expected = score_matching(x, model, diffusion=matrix).rows
    torch.testing.assert_close(drift_score_matching(t, x, **parts).rows, expected, rtol=1e-6, atol=1e-6)
    probed = drift_score_matching(t, x, **parts, divergence=Hutchinson(100)).rows
    assert (probed - expected).abs().max() < 0.3 * (1.0 + expected.abs().max())


def test_the_exact_reversal_is_stationary():
    """Rows of N(0, 1), stationary under dX = -X/2 dt + dW: the loss is least at the reversal v = X/2."""
    x = torch.randn(4000, 1, generator=seeded(0))
    x = (x - x.mean()) / x.std(correction=0)
    slope = torch.tensor(0.5, requires_grad=True)
    loss = drift_score_matching(
        torch.zeros(len(x)),
        x,
        drift=lambda t, x: -0.5 * x,
        reverse_drift=lambda t, x: slope * x,
        diffusion=lambda t, x: torch.ones(len(x)),
    )
    (gradient,) = torch.autograd.grad(loss.value, slope)
    assert abs(float(gradient)) < 1e-10


def test_bad_diffusions_are_errors():
    x, t = torch.randn(3, 2), torch.zeros(3)
    drifts = {"drift": lambda t, x: -x, "reverse_drift": lambda t, x: x}
    with pytest.raises(InputError, match="square"):
        drift_score_matching(t, x, **drifts, diffusion=lambda t, x: torch.ones(3, 2, 3))
    weight = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(InputError, match="depends on parameters"):
        drift_score_matching(t, x, **drifts, diffusion=lambda t, x: weight * torch.ones(3))
