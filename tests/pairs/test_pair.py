import pytest
import torch

import girsanov as gv
from girsanov.densities import StandardNormal
from girsanov.pairs import Pair, ScorePair
from tests.linear_pairs import LinearSDE
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def ou(g, horizon=1.0):
    return LinearSDE(lambda t: -torch.eye(2), lambda t: torch.zeros(2), lambda t: g, horizon)


def test_unequal_diffusion_coefficients_are_refused():
    with pytest.raises(gv.InputError, match="minus infinity"):
        Pair(ou(torch.tensor(1.0)), ou(torch.tensor(1.01)), StandardNormal(), event_shape=(2,))
    Pair(ou(torch.tensor(1.0)), ou(torch.ones(2)), StandardNormal(), event_shape=(2,))  # the same, said otherwise
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])  # G and its rotation have one G G^T
    Pair(ou(turn), ou(torch.eye(2)), StandardNormal(), event_shape=(2,))


def test_unequal_horizons_are_refused():
    with pytest.raises(gv.InputError, match="horizons are"):
        Pair(ou(torch.tensor(1.0)), ou(torch.tensor(1.0), 2.0), StandardNormal(), event_shape=(2,))


def test_a_prior_without_a_shape_needs_one():
    with pytest.raises(gv.InputError, match="event_shape="):
        Pair(ou(torch.tensor(1.0)), ou(torch.tensor(1.0)), StandardNormal())


def test_the_ode_has_no_pair():
    process, law = gv.VariancePreserving(), gv.Gaussian(torch.zeros(2), 1.0)
    with pytest.raises(gv.InputError, match="use ode_log_prob"):
        ScorePair(law.score(process), process, lmbd=1.0)


@pytest.mark.parametrize("lmbd", [-1.0, 0.0, 0.6])
def test_a_shared_score_gives_the_same_inference_drift(lmbd):
    process, law = gv.VariancePreserving(), gv.Gaussian(torch.ones(2), torch.tensor([0.3, 2.0]))
    x, t = torch.randn(5, 2, generator=seeded(0)), torch.full((5,), 0.4)
    pair = ScorePair(law.score(process), process, lmbd=lmbd, event_shape=(2,))
    v = pair.generative_drift(t, x)
    torch.testing.assert_close(pair._inference_beside(t, x, v, None), pair.inference_drift(t, x))


def test_an_exact_score_has_reverse_drifts():
    """u - v = g^2 grad log q for every member: the reversal of Anderson."""
    process, law = gv.VariancePreserving(), gv.Gaussian(torch.ones(2), torch.tensor([0.3, 2.0]))
    x, t = torch.randn(5, 2, generator=seeded(0)), torch.full((5,), 0.4)
    score = law.score(process)
    for lmbd in (-1.0, 0.0, 0.6):
        pair = ScorePair(score, process, lmbd=lmbd, event_shape=(2,))
        gap = pair.inference_drift(t, x) - pair.generative_drift(t, x)
        squared = pair.inference.diffusion(t, x).square()[:, None]
        torch.testing.assert_close(gap, squared * score(t, x))
