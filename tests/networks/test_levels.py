"""The head of levels: its denoiser is the exact posterior mean of the law that it stands for."""

import math

import pytest
import torch

from girsanov.densities import Gaussian
from girsanov.networks import LevelHead, LevelPrior
from girsanov.networks.levels import FINE, _Denoised
from girsanov.pairs import ScoreModel
from girsanov.processes import VariancePreserving
from tests.networks.test_heads import level_head, talking
from tests.seeds import seeded

ENDLESS = torch.arange(-400, 460)  # lattice points that stand for all of them


def exact(head, law, y, r):
    """Posterior mean by the sum over every lattice point, and log-masses of these, in float64."""
    points = head.step * ENDLESS
    distance = (points - law.means[..., None]).square() / law.variances[..., None]
    bells = head.step * torch.exp(-0.5 * distance) / (2.0 * math.pi * law.variances[..., None]).sqrt()
    masses = (law.gaussians.exp()[..., None] * bells).sum(1)
    for weight, atom in zip(law.atoms.exp().unbind(1), head.atoms, strict=True):
        masses += weight[..., None] * ((points - atom).abs() < 0.5 * head.step)
    weights = torch.softmax(masses.log() - 0.5 * ((y[..., None] - points) / r[..., None]).square(), -1)
    return (weights * points).sum(-1), masses


def noisy_rows(head, log_snr, dtype, rows=64):
    """A law of each row, and rows drawn from it and noised, with the exact answers."""
    event = head.log_weights.shape[1:]
    outputs = 0.5 * torch.randn(rows, head.outputs, *event, generator=seeded(1), dtype=torch.float64)
    outputs[::2, -head.counts[1] :] -= 3.0  # as narrow as Gaussians may be
    r = torch.full((rows, *(1,) * len(event)), math.exp(-0.5 * log_snr), dtype=torch.float64)
    level = torch.full((rows,), log_snr, dtype=torch.float64)
    zero = torch.zeros(rows, *event, dtype=dtype)
    law = head._moved(head._start(level, zero, r.to(dtype), zero), outputs.to(dtype))
    wide = type(law)(*(part.double() for part in vars(law).values()))
    masses = exact(head, wide, zero.double(), r)[1].flatten(0, -2)
    drawn = ENDLESS[torch.multinomial(masses, 1, generator=seeded(2))[:, 0]].reshape(rows, *event)
    eps = torch.randn(rows, *event, generator=seeded(3), dtype=torch.float64)
    y = head.step * drawn + r * eps
    return law, y.to(dtype), r.to(dtype), exact(head, wide, y, r)[0]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_the_denoiser_is_the_mean_over_all_levels(dtype, bound):
    """From noise that hides the lattice to noise that a cell hides, where both formulas meet, in units of the noise."""
    head = level_head() if dtype == torch.float32 else level_head().double()
    edge = -2.0 * math.log(FINE * float(head.step))
    for log_snr in (-8.0, -2.0, 2.0, edge - 0.5, edge - 1e-3, edge + 1e-3, edge + 1.0, edge + 4.0):
        law, y, r, answer = noisy_rows(head, log_snr, dtype)
        error = ((head.denoised(law, y, r).double() - answer) / r.double()).abs().max()
        assert float(error) < bound, log_snr


def test_an_untrained_head_is_the_histogram_expert():
    """With no trust in the reference and the whole share, it is the posterior mean under the pixel's own law."""
    head = level_head().double()
    torch.nn.init.ones_(head.share)
    level = torch.tensor([-3.0, 1.0, 4.0, 7.0, 9.0], dtype=torch.float64)
    r = torch.exp(-0.5 * level).reshape(-1, 1, 1, 1)
    y = head.step * torch.randint(60, (5, 1, 2, 3), generator=seeded(0))
    y = y + r * torch.randn(5, 1, 2, 3, generator=seeded(1), dtype=torch.float64)
    start = head._start(level, y, r, torch.zeros_like(y))
    law = type(start)(*(part[:, :2] for part in vars(start).values()))  # two atoms, two Gaussians, no reference
    z = torch.sigmoid(level).sqrt().reshape(-1, 1, 1, 1) * (y + head.lowest)
    silent = ScoreModel(
        lambda l, f, c: f.new_zeros(5, head.outputs, *f.shape[2:]),
        VariancePreserving(),
        reference=head.reference,
        head=head,
    )
    with torch.no_grad():
        denoised = y - r * silent.noise(level, z)
    weights = torch.cat([law.atoms, law.gaussians], 1)
    torch.testing.assert_close(weights[0], head.log_weights, rtol=0, atol=1e-9)
    torch.testing.assert_close(denoised, exact(head, law, y, r)[0], rtol=0, atol=1e-4)


def test_trust_is_put_in_the_reference_where_it_knows_more():
    """Rows of the reference's own law: calibration asks it, not the histogram, which knows no other pixel."""
    covariance = 0.02 * torch.eye(6) + 0.98
    plain = level_head()
    reference = Gaussian(torch.zeros(1, 2, 3), covariance)
    prior_of = {name: getattr(plain, name) for name in ("atoms", "means", "deviations", "log_weights")}
    head = LevelHead(reference, "v", LevelPrior(plain.lowest, float(plain.step), **prior_of))
    head.calibrate(reference.sample(512, generator=seeded(4)).float(), seeded(5))
    middle = (head.knots.abs() < 3.0).nonzero()[:, 0]
    assert bool((head.trust[middle] >= 0.5).all())
    assert bool((head.share == 1.0).all())


@pytest.mark.parametrize("scale", [0.5, 8.0], ids=["within limits", "at their limits"])
def test_slopes_are_the_graphs_gradient(scale):
    """In training the head has its own backward pass: that of a graph, from noise above the range to noise below."""
    head = level_head().double()
    level = torch.linspace(-12.0, 14.0, 27, dtype=torch.float64)
    r = torch.exp(-0.5 * level).reshape(-1, 1, 1, 1)
    y = 3.0 * torch.rand(27, 1, 2, 3, generator=seeded(1), dtype=torch.float64)
    y = y + r * torch.randn(27, 1, 2, 3, generator=seeded(2), dtype=torch.float64)
    start = head._start(level, y, r, torch.randn(27, 1, 2, 3, generator=seeded(3), dtype=torch.float64))
    outputs = scale * torch.randn(27, head.outputs, 1, 2, 3, generator=seeded(4), dtype=torch.float64)
    weights = torch.randn(27, 1, 2, 3, generator=seeded(5), dtype=torch.float64)
    graph, closed = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    plain = head.denoised(head._moved(start, graph), y, r)
    fast = _Denoised.apply(closed, head, start, y, r)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    (weights * plain).sum().backward()
    (weights * fast).sum().backward()
    assert bool(graph.grad.flatten(1).any(1).all())
    torch.testing.assert_close(closed.grad, graph.grad, rtol=1e-9, atol=1e-11)


def test_training_and_evaluation_have_the_same_gradient():
    """Of a whole deviation, for the network's weights and the share; a batch is worked on in tiles."""
    head, gradients = level_head().double(), []
    torch.nn.init.constant_(head.share, 0.7)
    level = torch.linspace(-8.0, 12.0, 40, dtype=torch.float64)
    z = torch.randn(40, 1, 2, 3, generator=seeded(0), dtype=torch.float64)
    for training in (True, False):
        weight = torch.ones((), dtype=torch.float64, requires_grad=True)
        delta = head.train(training).deviation(lambda f, w=weight: w * talking(head)(f), level, z)
        gradients.append(torch.autograd.grad(delta.square().sum(), [weight, head.share]))
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=0.0)


def test_a_pixels_own_variance_is_that_of_the_reference():
    """Between the levels at which it is known, against the diagonal of the inverse."""
    covariance = 0.1 * torch.eye(6, dtype=torch.float64) + 0.9 * torch.rand(6, 6, generator=seeded(0)).double().cov()
    plain = level_head()
    reference = Gaussian(torch.zeros(1, 2, 3), covariance)
    prior_of = {name: getattr(plain, name) for name in ("atoms", "means", "deviations", "log_weights")}
    head = LevelHead(reference, "v", LevelPrior(plain.lowest, float(plain.step), **prior_of))
    level = torch.linspace(-9.9, 14.9, 100, dtype=torch.float64)
    found = torch.exp(head._at_knots(head.own_log_variances, level)).double().flatten(1)
    for variance, squared in zip(found, torch.exp(-level), strict=True):
        exact = 1.0 / torch.linalg.inv(covariance + squared * torch.eye(6)).diagonal() - squared
        torch.testing.assert_close(variance, exact, rtol=6e-3, atol=1e-6)
