"""Conditional paths: velocities by finite differences, the bound's oracles, and learned paths that gain by training."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from girsanov.densities import Gaussian
from girsanov.likelihoods import Replicates, elbo, loss_bound
from girsanov.objectives import Batch, PathObjective, gaussian_decoder
from girsanov.pairs import ScorePair
from girsanov.processes import (
    ConditionalPath,
    EncodedPath,
    OrnsteinUhlenbeck,
    ProcessPath,
    ScheduledPath,
    VariancePreserving,
)
from girsanov.types import InputError
from tests.laws import each_process, gaussian_case, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 2, 3)


class Logits(nn.Module):
    """A network for :class:`ScheduledPath`."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        d = math.prod(shape)
        self.shape = shape
        self.net = nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, 5 * d))

    def forward(self, x):
        return self.net(x.flatten(1)).reshape(len(x), 5, *self.shape)


class Shift(nn.Module):
    """A network for :class:`EncodedPath`."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        d = math.prod(shape)
        self.net = nn.Sequential(nn.Linear(d + 1, 16), nn.Tanh(), nn.Linear(16, d))

    def forward(self, t, x):
        return self.net(torch.cat([x.flatten(1), t[:, None]], 1)).reshape(x.shape)


RANGE = (-5.0, 4.0)
PATHS = {
    "process": lambda: ProcessPath(VariancePreserving(log_snr_range=RANGE)),
    "scheduled": lambda: ScheduledPath(RANGE, Logits()),
    "encoded": lambda: EncodedPath(VariancePreserving(log_snr_range=RANGE), Shift()),
}

each_path = pytest.mark.parametrize("make_path", PATHS.values(), ids=PATHS)


def draws(count=7, shape=SHAPE):
    return torch.randn(count, *shape, generator=seeded(1)), torch.randn(count, *shape, generator=seeded(2))


@each_path
def test_velocity_and_score_are_derivatives_of_the_sample(make_path):
    path, (x, eps), step = make_path(), draws(), 1e-6
    start, end = path.span
    t = start + (end - start) * torch.linspace(0.1, 0.9, 7)
    finite = (path.sample(t + step, x, eps) - path.sample(t - step, x, eps)) / (2 * step)
    torch.testing.assert_close(path.velocity(t, x, eps), finite, rtol=1e-5, atol=1e-6)
    mean, scale = path.mean_and_scale(t, x)
    point = path.sample(t, x, eps).detach().requires_grad_()
    log_prob = torch.distributions.Normal(mean.detach(), scale.detach()).log_prob(point).sum()
    torch.testing.assert_close(path.score(t, x, eps), torch.autograd.grad(log_prob, point)[0], rtol=1e-9, atol=1e-9)


@each_path
def test_the_clock_integrates_over_the_span_and_ends_are_exact(make_path):
    path = make_path()
    t, weight = path.clock((torch.arange(100_000) + 0.5) / 100_000)
    start, end = path.span
    expected = math.sin(end) - math.sin(start)
    assert float((weight * torch.cos(t)).mean()) == pytest.approx(expected, rel=1e-5)
    x, _ = draws(2)
    for time, level in ((start, RANGE[1]), (end, RANGE[0])):
        _, scale = path.mean_and_scale(torch.full((2,), time), x)
        torch.testing.assert_close(
            scale, torch.sigmoid(torch.tensor(-level)).sqrt().expand_as(scale), rtol=1e-9, atol=1e-12
        )


class PosteriorPath(ConditionalPath):
    """The exact posterior of a stationary process given x = X_0 + noise of variance ``blur``."""

    def __init__(self, process, blur):
        super().__init__()
        self.process, self.blur = process, blur

    def mean_and_scale(self, t, x):
        alpha, _ = self.process.marginal(t)
        share = alpha.reshape(-1, *(1,) * (x.ndim - 1)) / (1.0 + self.blur)
        variance = 1.0 - alpha.reshape(-1, *(1,) * (x.ndim - 1)) * share
        return share * x, variance.sqrt().expand(x.shape)


def test_the_posterior_path_has_no_gap_and_its_estimate_no_diffusion_error():
    """X stationary N(0, I), decoder N(x; x_0, blur): log p(x) = log N(x; 0, 1 + blur), and the bound is equal to it."""
    process, blur = OrnsteinUhlenbeck(2.0), 0.3
    objective = PathObjective(
        PosteriorPath(process, blur), lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(blur)
    )
    drift, x = (
        ScorePair(lambda t, y: -y, process).generative_drift,
        Gaussian(torch.zeros(SHAPE), 1.3).sample(40, generator=seeded(3)),
    )
    estimate = loss_bound(objective, drift, x, samples=512)
    truth = torch.distributions.Normal(0.0, math.sqrt(1.0 + blur)).log_prob(x).flatten(1).sum(1)
    # the prior's and the decoder's expectations in closed form
    mean, scale = objective.path.mean_and_scale(torch.zeros(40), x)
    expected = torch.distributions.Normal(x, math.sqrt(blur)).log_prob(mean) - 0.5 * scale.square() / blur
    residual = expected.flatten(1).sum(1)
    diffusion = estimate.terms["diffusion"]
    fine = loss_bound(objective, drift, x[:4], samples=4096, method=Replicates(2))
    gap = truth - (estimate.terms["prior"] + residual + diffusion)
    assert float(gap.mean().abs()) < 4 * float((estimate.stderr.square().sum()).sqrt() / 40)
    assert float((fine.value - truth[:4]).abs().max()) < 5 * float(fine.stderr.max()) + 0.05
    assert estimate.kind == "lower_bound"


def test_the_posterior_path_s_gap_is_zero_to_nine_digits():
    """The same by quadrature: Gauss-Legendre in t, the Gaussian mean of the squared error in closed form."""
    process, blur = OrnsteinUhlenbeck(2.0), 0.3
    path, x = PosteriorPath(process, blur), torch.tensor([[0.7], [-1.9]])
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(60))
    drift, total = ScorePair(lambda t, y: -y, process).generative_drift, torch.zeros(2)
    for node, weight in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
        t = node.expand(2)
        g = process.rates(t)[1].sqrt()

        def error(eps, t=t, g=g):
            return (path.reverse_drift(t, x, eps, g) - drift(t, path.sample(t, x, eps)))[:, 0] / g

        offset = error(torch.zeros(2, 1))  # affine in eps: E(e^2) = e(0)^2 + (e(1) - e(0))^2
        total = total + weight * 0.5 * (offset.square() + (error(torch.ones(2, 1)) - offset).square())
    mean, scale = path.mean_and_scale(torch.zeros(2), x)
    decoded = torch.distributions.Normal(x, math.sqrt(blur)).log_prob(mean) - 0.5 * scale.square() / blur
    objective = PathObjective(path, lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(blur))
    prior = objective._prior(torch.ones(2), x, torch.zeros(2, 1))
    truth = torch.distributions.Normal(0.0, math.sqrt(1.3)).log_prob(x)[:, 0]
    torch.testing.assert_close(prior + decoded[:, 0] - total, truth, rtol=0, atol=1e-8)


@each_process
def test_the_path_of_a_process_has_the_bound_of_its_reverse_sde(make_process):
    """Decoder with the denoiser's mean, as in the bound of the library: paired z-test, false alarm 6e-5."""
    case, process = gaussian_case(SHAPE), make_process(log_snr_range=RANGE)
    oracle, x = case.density.score(process), case.rows(60)
    score = lambda t, y: 0.9 * oracle(t, y)  # noqa: E731
    prior = Gaussian(torch.zeros(SHAPE), 4.0)
    end = torch.tensor(RANGE[1])
    alpha, sigma = process.marginal_at(end)

    def decode(rows, x_0):
        noise = -sigma * score(process.time(end).expand(len(rows)), x_0)
        return gaussian_decoder(float((sigma / alpha).square()))(rows, (x_0 - sigma * noise) / alpha)

    objective = PathObjective(ProcessPath(process), lambda t: process.rates(t)[1].sqrt(), decode, prior)
    estimate = loss_bound(objective, ScorePair(score, process).generative_drift, x, samples=256)
    expected = elbo(ScorePair(score, process, prior=prior), x, samples=256)
    # the residual's entropy, which the decoder alone lacks, is in the prior's
    spread = (estimate.stderr.square() + expected.stderr.square()).sum().sqrt() / 60
    assert abs(float((estimate.value - expected.value).mean() / spread)) < 4.4


@each_path
def test_any_path_bounds_the_density_in_the_mean(make_path):
    """A model with the exact score of a Gaussian and a wide decoder, whose density is a Gaussian convolved."""
    process, blur = OrnsteinUhlenbeck(2.0, log_snr_range=RANGE), 0.2
    path, drift = make_path(), ScorePair(lambda t, y: -y, process).generative_drift
    objective = PathObjective(path, lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(blur))
    x = Gaussian(torch.zeros(SHAPE), 1.0 + blur).sample(200, generator=seeded(4))
    truth = torch.distributions.Normal(0.0, math.sqrt(1.0 + blur)).log_prob(x).flatten(1).sum(1)
    estimate = loss_bound(objective, drift, x, samples=64)
    gap = truth - estimate.value
    assert float(gap.mean()) > -4 * float(estimate.stderr.square().sum().sqrt() / 200)
    assert float(gap.mean()) > 0.05  # none of them is the posterior


@pytest.mark.parametrize(("name", "centre"), [("scheduled", 0.0), ("encoded", 1.0)])
def test_a_path_learns_by_the_gradient_of_its_bound(name, centre):
    """The generative process N(centre, I) is fixed, so all that the bound gains is the path's."""
    process, blur = OrnsteinUhlenbeck(2.0, log_snr_range=RANGE), 0.2
    path, drift = PATHS[name](), lambda t, y: y - centre  # dX = -(X - c) dt + sqrt 2 dW, reversed
    prior = Gaussian(torch.full(SHAPE, centre), 1.0)
    objective = PathObjective(path, lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(blur), prior)
    x = centre + Gaussian(torch.zeros(SHAPE), 1.0 + blur).sample(256, generator=seeded(4))

    def bound():
        replicates = loss_bound(objective, drift, x[:100], samples=64).replicates
        assert replicates is not None
        return replicates.mean(1)

    before = bound()
    optimizer, generator = torch.optim.Adam(path.parameters(), 0.01), seeded(5)
    for step in range(150):
        optimizer.zero_grad()
        objective(drift, Batch(x), generator, step).mean().backward()
        optimizer.step()
    gain = bound() - before  # under common noise
    assert float(gain.mean()) > 5 * float(gain.std()) / 8**0.5


def test_the_loss_is_minus_the_bound():
    process = VariancePreserving(log_snr_range=RANGE)
    case = note_mixture_2d()
    objective = PathObjective(ProcessPath(process), lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(0.05))
    drift, x = ScorePair(case.density.score(process)).generative_drift, case.rows(300)
    losses = torch.stack([objective(drift, Batch(x), seeded(k)).mean() for k in range(40)])
    estimate = loss_bound(objective, drift, x, samples=64).mean()
    error = math.hypot(float(losses.std()) / 40**0.5, estimate.stderr)
    assert abs(float(losses.mean()) + estimate.value) < 4.0 * error


def test_a_row_does_not_depend_on_its_batch_mates():
    process = VariancePreserving(log_snr_range=RANGE)
    case = note_mixture_2d()
    objective = PathObjective(ProcessPath(process), lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(0.05))
    drift, x = ScorePair(case.density.score(process)).generative_drift, case.rows(100)
    alone, together = loss_bound(objective, drift, x[7:8]).value, loss_bound(objective, drift, x).value[7:8]
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)


def test_a_range_upside_down_is_refused():
    with pytest.raises(InputError, match="low < high"):
        ScheduledPath((3.0, -3.0), Logits())
