"""Midpoint steps: the infinitely deep chain is the continuum, also where the noise depends on the state."""

import pytest
import torch

import girsanov as gv
from girsanov.linear.fields import ito_correction, log_det_about
from girsanov.pairs import MidpointChain
from tests.seeds import seeded
from tests.state_noise import CASES, Inference, geometric

pytestmark = pytest.mark.usefixtures("float64")
each_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def gaps(case, steps, paths=2000):
    """Bound less log-density of the continuum, with its standard error, row by row."""
    found = gv.chain_elbo(case.pair, case.x, steps=steps, paths=paths, generator=seeded(steps))
    return found.value - case.truth, found.stderr


@each_case
def test_the_gap_to_the_continuum_falls_with_the_step(make):
    """Of either sign: the chain's own density, of which it is a bound, is off by a number of that order too."""
    case = make()
    (coarse, first), (fine, second) = gaps(case, 8), gaps(case, 64)
    # there is a gap to see, over the rows together
    assert float(coarse.abs().sum()) > 5.0 * float(first.square().sum().sqrt())
    # an eighth of it, up to the second order, for which another eighth is allowed; 5 standard errors
    assert bool((fine.abs() < 0.25 * coarse.abs() + 5.0 * (second + 0.25 * first)).all())


@each_case
def test_the_mean_weight_is_the_density_of_the_chain(make):
    """Bracketed from both sides, on rows that the chain makes."""
    case = make()
    found = gv.chain_bracket(case.pair, 200, steps=16, paths=16, generator=seeded(1))
    assert -5.0 * found.width.stderr < found.width.value < 0.5
    low, high = found.interval()
    assert bool((low < high).all())


def test_euler_steps_stay_below():
    """The loss that no number of steps removes, 3 int |G'|^2 dt = 0.48 in each dimension, less at few steps."""
    case = geometric()
    for steps in (16, 64):
        found = gv.chain_elbo(gv.EulerChain(case.pair, steps), case.x, paths=500, generator=seeded(0))
        assert bool((found.value - case.truth < -0.6).all())
    assert isinstance(gv.likelihoods.weights._chain(case.pair, 4, case.x), MidpointChain)


def test_a_step_that_is_too_long_is_refused():
    steep = Inference(lambda t, x: 0.0 * x, lambda x: x.exp())
    pair = gv.Pair(steep, lambda t, x: 0.0 * x, gv.Gaussian(torch.zeros(2), 1.0))
    with pytest.raises(gv.InputError, match="take more steps"):
        gv.chain_elbo(pair, 3.0 * torch.ones(4, 2), steps=1)


def test_terms_of_a_coefficient_are_those_of_its_derivatives():
    x, w = torch.randn(3, 2, generator=seeded(0)), 0.2 * torch.rand(3, 2, generator=seeded(1)) - 0.1  # 1 + 2 x w > 0
    for coefficient in (
        lambda x: 1.0 + x.square().sum(1),
        lambda x: 1.0 + x.square() + 0.3 * x.flip(1),
        lambda x: torch.stack([1.0 + x, x.sin()], 2),
        lambda x: torch.ones(len(x)),
    ):

        def dense(y, coefficient=coefficient):
            g = coefficient(y[None])
            return g[0] * torch.eye(2) if g.ndim == 1 else g[0].diag() if g.ndim == 2 else g[0]

        slopes = [torch.autograd.functional.jacobian(dense, row) for row in x]  # i k j
        by_hand = [0.5 * torch.einsum("ikj,jk->i", slope, dense(row)) for slope, row in zip(slopes, x, strict=True)]
        torch.testing.assert_close(ito_correction(coefficient, x), torch.stack(by_hand))
        bent = [torch.eye(2) + torch.einsum("ikj,k->ij", slope, v) for slope, v in zip(slopes, w, strict=True)]
        torch.testing.assert_close(log_det_about(coefficient, x, w), torch.stack(bent).det().log())
