"""Divergences against closed forms in any shape."""

import itertools

import pytest
import torch

from girsanov.calculus import Exact, Hutchinson, expand_as_rows, sum_event
from girsanov.randomness import keyed_generators, keyed_rademacher
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (2, 2, 3)


@pytest.fixture
def field():
    """A nonlinear field on (c, h, w) that mixes all dimensions, and its divergence."""
    matrix = torch.randn(12, 12, generator=seeded(1))

    def value(x):
        return (x.flatten(1) @ matrix.T + x.flatten(1).sin()).reshape(x.shape)

    def divergence(x):
        return matrix.trace() + x.cos().flatten(1).sum(1)

    return value, divergence


def all_signs(d):
    """Every sign vector: the exact law of one Rademacher probe, shape ``2^d 1 d``."""
    return torch.tensor(list(itertools.product([1.0, -1.0], repeat=d)))[:, None]


def assert_unbiased(strategy):
    """The mean over the whole law of the probe is the trace, to rounding."""
    matrix = torch.randn(4, 4, generator=seeded(2))
    _, divergence = strategy(lambda x: x @ matrix.T, torch.zeros(1, 4), all_signs(4))
    torch.testing.assert_close(divergence.mean(0), matrix.trace()[None])


def test_exact_divergence_of_an_image_field(field):
    value, divergence = field
    x = torch.randn(5, *SHAPE)
    out, trace = Exact()(value, x)
    torch.testing.assert_close(out, value(x))
    torch.testing.assert_close(trace, divergence(x)[None])


def test_hutchinson_averages_to_the_divergence_of_an_image_field(field):
    value, divergence = field
    x = torch.randn(3, *SHAPE)
    probes = keyed_rademacher(keyed_generators(0, "probes", x), (4000, *SHAPE), x).transpose(0, 1)
    out, traces = Hutchinson(probes=4000)(value, x, probes)
    torch.testing.assert_close(out, value(x))
    assert traces.shape == (4000, 3)
    z = (traces.mean(0) - divergence(x)) / (traces.std(0) / 4000**0.5)
    assert bool((z.abs() < 4.5).all())  # three rows: false alarm 2e-5


def test_hutchinson_is_unbiased_over_all_probes():
    assert_unbiased(Hutchinson(probes=16))


def test_forgetting_to_divide_by_the_probes_is_noticed():
    def forgetful(field, x, probes):
        value, traces = Hutchinson(len(probes))(field, x, probes)
        return value, traces.sum(0, keepdim=True)

    with pytest.raises(AssertionError):
        assert_unbiased(forgetful)


def test_divergence_is_differentiable(field):
    value, _ = field
    x = torch.randn(2, *SHAPE, requires_grad=True)
    for strategy, probes in ((Exact(), None), (Hutchinson(1), torch.ones(1, 2, *SHAPE))):
        _, trace = strategy(value, x, probes)
        (gradient,) = torch.autograd.grad(trace.sum(), x)
        torch.testing.assert_close(gradient, -x.sin())


def test_divergence_of_a_constant_field_is_zero():
    x = torch.randn(2, 3)
    for strategy, probes in ((Exact(), None), (Hutchinson(4), torch.ones(4, 2, 3))):
        value, trace = strategy(lambda x: torch.ones(len(x), 3), x, probes)
        assert bool((value == 1).all())
        assert trace.shape == (max(strategy.probes, 1), 2)
        assert not trace.any()


def test_divergence_without_gradients_enabled(field):
    value, divergence = field
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        _, trace = Exact()(value, x)
    assert not trace.requires_grad
    torch.testing.assert_close(trace[0], divergence(x))


def test_a_field_may_bring_its_own_divergence():
    class Linear:
        def with_divergence(self, x):
            return 2.0 * x, torch.full((len(x),), 6.0)

    assert Exact()(Linear(), torch.ones(2, 3))[1].tolist() == [[6.0, 6.0]]


def test_hutchinson_without_probes_says_so():
    with pytest.raises(ValueError, match="needs its probes"):
        Hutchinson()(lambda x: x, torch.ones(1, 2), None)


def test_costs_count_a_backward_pass_as_two():
    assert (Exact().cost(5), Hutchinson(3).cost(5)) == (11, 7)
    assert (Exact().probes, Hutchinson(3).probes) == (0, 3)


def test_sums_of_single_precision_accumulate_in_double():
    x = torch.full((1, 1000, 1000), 0.1).float()
    assert float(sum_event(x)) == pytest.approx(float(x[0, 0, 0].double()) * 1e6, rel=1e-12)
    assert expand_as_rows(torch.ones(2), x.expand(2, -1, -1)).dtype == torch.float32
