"""The pair's own score matching: the drop of KL with state-dependent noise, exact kernels, and training by it."""

import math

import pytest
import torch

from girsanov.calculus import Exact, Hutchinson
from girsanov.densities import Gaussian
from girsanov.objectives import Batch, PairObjective
from girsanov.pairs import Pair
from girsanov.processes import OrnsteinUhlenbeck, Process
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

DRIFT, VOLATILITY, D = 0.1, 0.6, 2


class Brownian(Process):
    """Geometric Brownian motion in every column; as a diagonal or as a full matrix."""

    def __init__(self, form="diagonal"):
        super().__init__()
        self.form = form

    def drift(self, t, x):
        return DRIFT * x

    def diffusion(self, t, x):
        value = VOLATILITY * x
        return value if self.form == "diagonal" else torch.diag_embed(value.flatten(1))


def reversal(mean, variance):
    """The generative drift of log-normal rows: u - div D - D s, D = 0.36 x^2."""
    square = VOLATILITY**2

    def drift(t, x):
        t = t.reshape(-1, *(1,) * (x.ndim - 1))
        middle, spread = mean + (DRIFT - 0.5 * square) * t, variance + square * t
        return x * (DRIFT - square + square * (x.log() - middle) / spread)

    return drift


def divergence(q, p, t):
    """KL of D independent normal laws: that of the log-normal ones too."""
    (m, v), (m_, v_) = ((a + (DRIFT - 0.5 * VOLATILITY**2) * t, b + VOLATILITY**2 * t) for a, b in (q, p))
    return D * 0.5 * (v / v_ - 1.0 - math.log(v / v_) + (m - m_) ** 2 / v_)


PRIOR = Gaussian(torch.zeros(D, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("form", ["diagonal", "matrix"])
def test_the_loss_is_the_drop_of_divergence(form):
    """Two models, paired rows and times: 4 standard errors (6e-5), and Euler's bias at 64 steps is below one."""
    q, p = (0.2, 0.3), (-0.1, 0.6)
    x = (q[0] + math.sqrt(q[1]) * torch.randn(6000, D, generator=seeded(0))).exp()
    losses = [
        PairObjective(64)(Pair(Brownian(form), reversal(*law), PRIOR), Batch(x), seeded(1)).detach() for law in (p, q)
    ]
    gap = D * (losses[0] - losses[1])
    expected = divergence(q, p, 0.0) - divergence(q, p, 1.0)
    assert expected > 0.1
    assert abs(float(gap.mean()) - expected) < 4.0 * float(gap.std()) / math.sqrt(len(gap))
    assert 4.0 * float(gap.std()) / math.sqrt(len(gap)) < 0.25 * expected


def test_images_and_probes():
    """A diagonal of the event's shape; Hutchinson's loss has the exact one as its mean."""

    class Still(Brownian):
        def drift(self, t, x):
            return torch.tanh(x.flip(-1))

    x = (0.3 * torch.randn(3, 1, 2, 1, generator=seeded(0))).exp()
    pair = Pair(Still(), lambda t, x: torch.sin(x.flip(-2)), Gaussian(torch.zeros(1, 2, 1), 1.0))
    exact, probed = (PairObjective(4, divergence=d)(pair, Batch(x), seeded(3)) for d in (Exact(), Hutchinson(4000)))
    assert exact.shape == (3,)
    torch.testing.assert_close(probed, exact, rtol=0.1, atol=0.02)


def test_linear_processes_are_drawn_from_their_kernel():
    process, x = OrnsteinUhlenbeck(2.0), torch.full((4000, 2), 1.5)
    pair = Pair(process, lambda t, x: -process.drift(t, x), Gaussian(torch.zeros(2), 1.0))
    t = torch.full((4000,), 0.4)
    drawn = PairObjective(1).draw(pair, Batch(x), t, seeded(0))
    alpha, sigma = process.marginal(t[:1])
    torch.testing.assert_close(drawn.mean(0), (1.5 * alpha).expand(2), atol=4.0 * float(sigma) / 63.0, rtol=0.0)
    torch.testing.assert_close(drawn.std(0), sigma.expand(2), rtol=0.05, atol=0.0)


@pytest.mark.slow
def test_training_finds_the_reversal():
    """A drift x (a + b log x) of stationary-time rows: the reversal's coefficients within 5 %."""
    rows = (0.2 + math.sqrt(0.3) * torch.randn(4000, D, generator=seeded(0))).exp()
    target = reversal(0.2, 0.3)
    weight = torch.nn.Parameter(torch.zeros(2))

    def drift(t, x):
        t = t.reshape(-1, 1)
        middle, spread = 0.2 + (DRIFT - 0.18) * t, 0.3 + 0.36 * t
        return x * (weight[0] + weight[1] * (x.log() - middle) / spread)

    pair, objective = Pair(Brownian(), drift, PRIOR), PairObjective(16)
    optimiser, source = torch.optim.Adam([weight], lr=0.02), seeded(2)
    for _ in range(300):
        loss = objective(pair, Batch(rows), source).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([DRIFT - 0.36, 0.36]), atol=0.02, rtol=0.0)
    x, t = rows[:5], torch.full((5,), 0.3)
    torch.testing.assert_close(drift(t, x).detach(), target(t, x), atol=0.1, rtol=0.0)


def test_a_trained_diffusion_is_refused():
    class Learned(Brownian):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def diffusion(self, t, x):
            return self.scale * (1.0 + x.square())

    pair = Pair(Learned(), lambda t, x: x, PRIOR)
    with pytest.raises(InputError, match="depends on parameters"):
        PairObjective(2)(pair, Batch(torch.ones(4, D)), seeded(0))
