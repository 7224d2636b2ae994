import pytest
import torch

import girsanov as gv
from girsanov.densities import Gaussian, StandardNormal
from girsanov.pairs import Pair, ScorePair
from girsanov.processes import VariancePreserving
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
        ScorePair(law.score(process)).family(1.0)


@pytest.mark.parametrize("lmbd", [-1.0, 0.0, 0.6])
def test_a_shared_score_gives_the_same_inference_drift(lmbd):
    process, law = gv.VariancePreserving(), gv.Gaussian(torch.ones(2), torch.tensor([0.3, 2.0]))
    x, t = torch.randn(5, 2, generator=seeded(0)), torch.full((5,), 0.4)
    pair = ScorePair(law.score(process), event_shape=(2,)).family(lmbd)
    v = pair.generative_drift(t, x)
    torch.testing.assert_close(pair._inference_beside(t, x, v, None), pair.inference_drift(t, x))


def test_an_exact_score_has_reverse_drifts():
    """u - v = g^2 grad log q for every member: the reversal of Anderson."""
    process, law = gv.VariancePreserving(), gv.Gaussian(torch.ones(2), torch.tensor([0.3, 2.0]))
    x, t = torch.randn(5, 2, generator=seeded(0)), torch.full((5,), 0.4)
    score = law.score(process)
    for lmbd in (-1.0, 0.0, 0.6):
        pair = ScorePair(score, process, event_shape=(2,)).family(lmbd)
        gap = pair.inference_drift(t, x) - pair.generative_drift(t, x)
        squared = pair.inference.diffusion(t, x).square()[:, None]
        torch.testing.assert_close(gap, squared * score(t, x))


def test_the_old_form_of_a_call_is_refused_in_one_sentence():
    process = VariancePreserving()
    score = Gaussian(torch.zeros(2), 1.0).score(process)
    for call in (gv.elbo, gv.density, gv.ode_log_prob):
        with pytest.raises(gv.InputError, match=r"pair must be ScorePair; .*ScorePair\(score, process\)"):
            call(score, process, torch.zeros(1, 2))
        with pytest.raises(gv.InputError, match=r"pair must be ScorePair; .*ScorePair\(score, process\)"):
            call(score, torch.zeros(1, 2))


def test_laws_of_other_rows_and_a_second_reference_are_refused():
    score = Gaussian(torch.zeros(2), 1.0).score(VariancePreserving())
    with pytest.raises(gv.InputError, match=r"rows of one shape; got prior \(3,\), score \(2,\)"):
        ScorePair(score, prior=Gaussian(torch.zeros(3), 1.0))
    with pytest.raises(gv.InputError, match="decoder and reference must be the same Gaussian"):
        ScorePair(score, reference=Gaussian(torch.zeros(2), 1.0), decoder=Gaussian(torch.zeros(2), 1.0))
    with pytest.raises(gv.InputError, match="does not say its forward process"):
        ScorePair(lambda t, x: -x)


def test_the_prior_is_made_when_it_is_needed_and_moves_with_the_pair():
    process = VariancePreserving(log_snr_range=(-2.0, 6.0))
    pair = ScorePair(lambda t, x: -x, process)
    assert pair.noise(torch.zeros(3).double(), torch.ones(3, 2)).shape == (3, 2)  # needs no prior
    with pytest.raises(gv.InputError, match="remembers the data at log-SNR -2"):
        pair.prior  # noqa: B018
    law = Gaussian(torch.zeros(2), 2.0)
    given = pair.replace(reference=law)
    assert torch.equal(given.prior.covariance, given.noised(law).covariance)
    assert given.to(torch.float64).prior.mean.dtype == torch.float64
