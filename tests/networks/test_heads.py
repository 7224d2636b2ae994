"""Heads: an untrained expert is the reference, a calibrated one is the exact denoiser it stands for."""

import inspect
import math

import pytest
import torch

from girsanov.adapters.diffusers.network import PretrainedHead
from girsanov.calculus import sum_event
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.networks import (
    CellHistogram,
    Ensemble,
    ExpertHead,
    Head,
    LatticeHead,
    LevelHead,
    LevelPrior,
    MixtureHead,
    ResidualHead,
)
from girsanov.networks.heads import truncated_moments
from girsanov.pairs import ScoreModel
from girsanov.processes import VariancePreserving
from tests.seeds import seeded


def silent(outputs):
    return lambda log_snr, features, condition: features.new_zeros(len(features), outputs, *features.shape[2:])


def lattice_head(shape=(3,), cells=4):
    """Uniform cells on [0, 4), reference with the same first two moments."""
    reference = Gaussian(torch.full(shape, cells / 2.0), torch.full(shape, cells**2 / 12.0))
    histogram = torch.full((*shape, cells), -math.log(cells))
    return LatticeHead(reference, "v", CellHistogram(torch.zeros(shape), torch.ones(shape), histogram)), reference


def level_head(shape=(1, 2, 3)):
    """Sixty levels from -1.5 to 1.5, two of them atoms."""
    step = 3.0 / 59.0
    atoms, means, deviations = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 2.1]), torch.tensor([3.0 * step, 0.4])
    prior = LevelPrior(
        torch.full(shape, -1.5), step, atoms, means, deviations, torch.randn(4, *shape, generator=seeded(7))
    )
    return LevelHead(Gaussian(torch.zeros(shape), 1.3), "v", prior)


def mixture_head():
    mixture = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.2, 0.5], [0.4, 0.1]])
    )
    return MixtureHead(mixture.moment_match(), "v", mixture), mixture


#: name -> constructor of a head
HEADS = {
    "residual": lambda: ResidualHead(mixture_head()[1].moment_match(), "v"),
    "lattice": lambda: lattice_head()[0],
    "lattice, image": lambda: lattice_head(shape=(1, 2, 2))[0],
    "levels": level_head,
    "mixture": lambda: mixture_head()[0],
    "pretrained": lambda: PretrainedHead(mixture_head()[1].moment_match()),
}
each_head = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)


def woken(head):
    """With its expert at work, where it has one."""
    if isinstance(head, ExpertHead):
        torch.nn.init.constant_(head.share, 0.7)
    return head


def talking(head):
    """A network whose maps are made of all that it is given, row by row."""
    if not head.outputs:
        return torch.sin
    return lambda features: torch.stack([(k + features).sin().sum(1) for k in range(head.outputs)], 1)


def test_every_kind_of_head_is_under_the_laws():
    kinds, found = [Head], set()
    while kinds:
        kinds += (kind := kinds.pop()).__subclasses__()
        found |= set() if inspect.isabstract(kind) or not kind.__module__.startswith("girsanov.") else {kind}
    assert {type(make()) for make in HEADS.values()} == found


@each_head
def test_a_head_whose_network_is_silent_is_the_reference_exactly(make):
    head = make()
    level, z = torch.linspace(-10.0, 15.0, 64, dtype=torch.float64), torch.randn(64, *head.reference.event_shape)

    def network(log_snr, features, condition):
        return head.silent(level, features)

    model = ScoreModel(network, VariancePreserving(), reference=head.reference, head=head).eval()
    assert not model.deviation(level, z).any()


@each_head
def test_a_head_exchanges_the_maps_that_it_counts(make):
    head, seen = make(), []
    level, z = torch.linspace(-5.0, 5.0, 5), torch.randn(5, *head.reference.event_shape)

    def network(features):
        outputs = talking(head)(features)
        seen.extend([features.shape, outputs.shape, head.silent(level, features).shape])
        return outputs

    given, returned = ((5, *(n,) * bool(n), *z.shape[1:]) for n in (head.inputs, head.outputs))
    assert head.deviation(network, level, z).shape == z.shape
    assert seen == [given, returned, returned]


@each_head
def test_rows_of_a_head_do_not_see_each_other_and_the_network_is_heard(make):
    head = woken(make())
    level, z = torch.linspace(-8.0, 12.0, 6), torch.randn(6, *head.reference.event_shape)
    with torch.no_grad():
        together = head.deviation(talking(head), level, z)
        for i in range(6):
            alone = head.deviation(talking(head), level[i : i + 1], z[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)
        silence = head.deviation(lambda features: 0.0 * talking(head)(features), level, z)
    assert bool((silence - together).flatten(1).abs().amax(1).gt(0.0).any())


@each_head
def test_gradients_of_a_head_are_finite_and_reach_rows_and_network(make):
    head = woken(make())
    level, z = torch.linspace(-10.0, 14.0, 9), 3.0 * torch.randn(9, *head.reference.event_shape)
    weight = torch.ones((), requires_grad=True)
    deviation = head.deviation(lambda f: weight * talking(head)(f), level, z.requires_grad_())
    gradients = torch.autograd.grad(deviation.square().sum(), [z, weight])
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients)


def test_a_calibrated_mixture_head_is_the_mixtures_denoiser():
    head, mixture = mixture_head()
    head.calibrate(mixture.sample(4000, generator=seeded(0)), seeded(1))
    model = ScoreModel(silent(1), VariancePreserving(), reference=head.reference, head=head).double().eval()
    level = torch.full((200,), 1.0, dtype=torch.float64)
    x = mixture.sample(200, generator=seeded(2))
    eps = torch.randn(200, 2, dtype=torch.float64, generator=seeded(3))
    z = torch.sigmoid(level).sqrt()[:, None] * x + torch.sigmoid(-level).sqrt()[:, None] * eps
    exact = sum_event((eps - mixture.noise(level, z)).square()).mean()
    gaussian = sum_event((eps - head.reference.noise(level, z)).square()).mean()
    with torch.no_grad():
        ours = sum_event((eps - model.noise(level, z)).square()).mean()
    assert float((ours - exact).abs()) < 0.03 * float(gaussian - exact)


def test_the_lattice_expert_is_exact_for_independent_uniform_cells():
    """With the right histogram and independent dimensions, the untrained expert at share 1 is E[eps | z]."""
    head, reference = lattice_head(shape=(1,), cells=4)
    with torch.no_grad():
        head.share.fill_(1.0)
        head.histogram.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    head.TRUST = 1.0 - 1e-7  # the histogram alone: one dimension has no neighbours to learn from
    level = torch.full((50,), 4.0, dtype=torch.float64)
    r = math.exp(-2.0)
    y = torch.linspace(0.05, 3.95, 50, dtype=torch.float64)[:, None]
    grid = torch.linspace(0.0, 4.0, 400_001, dtype=torch.float64)
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)[grid.long().clamp_max(3)]
    weight = prior * torch.exp(-0.5 * ((y - grid) / r).square())
    exact = ((y - grid) / r * weight).sum(1) / weight.sum(1)
    z = torch.sigmoid(level).sqrt()[:, None] * y
    model = ScoreModel(silent(head.outputs), VariancePreserving(), reference=reference, head=head).eval()
    torch.testing.assert_close(model.noise(level, z.float())[:, 0].double(), exact, atol=2e-3, rtol=0)


def test_truncated_moments_against_quadrature_in_both_tails():
    for u, s in ((0.3, 0.2), (-2.0, 0.5), (6.5, 0.7), (1.9, 2.0)):
        log_mass, moment = truncated_moments(torch.tensor([[u]]).double(), torch.tensor([[s]]).double(), 4)
        for k in range(4):
            grid = torch.linspace(k, k + 1, 20_001, dtype=torch.float64)
            bell = torch.exp(-0.5 * ((grid - u) / s).square()) / (s * math.sqrt(2.0 * math.pi))
            mass = torch.trapezoid(bell, grid)
            torch.testing.assert_close(log_mass[0, 0, k].exp(), mass, rtol=1e-5, atol=1e-12)
            if float(mass) < 1e-30:  # beyond any weight: the nearest edge stands in
                nearest = torch.tensor([(k - u) / s, (k + 1 - u) / s], dtype=torch.float64)
                assert bool(torch.isclose(nearest, moment[0, 0, k]).any())
                continue
            mean = torch.trapezoid(bell * (grid - u) / s, grid) / mass
            torch.testing.assert_close(moment[0, 0, k], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truncated_moments_outside_the_lattice_meet_those_inside(dtype):
    """Both formulas where they meet, and far out the limit: all mass at the nearest edge, slope of a tail."""
    s = torch.tensor([[0.3]], dtype=dtype)
    near = torch.tensor([[-8.0 * 0.3 + 1e-3], [-8.0 * 0.3 - 1e-3]], dtype=dtype)
    (inside, outside), moments = truncated_moments(near, s, 4)[0][:, 0, :1], truncated_moments(near, s, 4)[1][:, 0, :1]
    slope = 2e-3 * 8.0 / 0.3
    torch.testing.assert_close(outside, inside - slope, atol=1e-3, rtol=0)
    torch.testing.assert_close(moments[1], moments[0] + 2e-3 / 0.3, atol=1e-3, rtol=0)
    for u, edge in ((-1000.0, 1000.0), (1004.0, -1000.0)):
        x = torch.tensor([[u]], dtype=dtype, requires_grad=True)
        log_mass, moment = truncated_moments(x, s, 4)
        weight = torch.softmax(log_mass, -1)
        assert float(weight.detach().max()) == 1.0
        mean = (weight * moment).sum()
        (gradient,) = torch.autograd.grad(mean, x)
        assert float(mean.detach()) == pytest.approx(edge / 0.3, rel=1e-5)
        assert float(gradient) == pytest.approx(-1.0 / 0.3, rel=1e-3)


def test_gradients_of_a_lattice_head_are_finite_and_lead_back_from_anywhere():
    """Single precision, from the middle of the lattice to a thousand cells outside, at every noise level."""
    head, reference = lattice_head(shape=(1,), cells=4)
    with torch.no_grad():
        head.share.fill_(1.0)
    model = ScoreModel(silent(head.outputs), VariancePreserving(), reference=reference, head=head).eval()
    for level in (-4.0, 2.0, 6.0, 10.0, 14.0):
        r = math.exp(-0.5 * level)
        y = torch.cat([torch.linspace(2.0, 4.0 + 14.0 * r, 400), torch.tensor([10.0, 100.0, 1000.0])])[:, None]
        z = (math.sqrt(1.0 / (1.0 + r * r)) * y).requires_grad_()
        noise = model.noise(torch.full((len(z),), level, dtype=torch.float64), z)
        (gradient,) = torch.autograd.grad((1e3 * noise).sum(), z)
        assert bool(gradient.isfinite().all())
        outside = (y[:, 0] > 4.0 + 8.0 * r) & (level > 0.0)
        # the clean point is the nearest edge at the latest, and noise is what lies between
        expected = (y[outside, 0] - 4.0) / r
        assert bool((noise.detach()[outside, 0] >= expected * (1.0 - 1e-4)).all())
        assert bool((noise.detach()[outside, 0] <= expected + 0.2 + 0.5 / r).all())


def test_an_ensemble_averages_in_evaluation_and_shares_rows_in_training():
    members = [torch.nn.Module() for _ in range(2)]
    for value, member in zip((1.0, 3.0), members, strict=True):
        member.forward = lambda log_snr, features, condition, value=value: torch.full_like(features, value)
    reference = Gaussian(torch.zeros(2), 1.0)
    model = ScoreModel(Ensemble(members), VariancePreserving(), "noise", reference=reference)
    level, z = torch.zeros(4, dtype=torch.float64), torch.randn(4, 2)
    assert torch.equal(model.eval().deviation(level, z), torch.full((4, 2), 2.0))
    assert torch.equal(model.train().deviation(level, z)[:, 0], torch.tensor([1.0, 1.0, 3.0, 3.0]))
