"""The claim that the DDPM objective's minimiser is that of the KL, on Gaussian families, and the certificate's numbers.

For a Gaussian family both objectives are closed form per row, so minimisers are found without noise: once with the
data inside the family, once with a mixture's rows (misspecified), once with a family of the wrong shape, where the
two minimisers differ and the certificate's factor must cover the difference.
"""

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from girsanov.densities import Gaussian
from girsanov.likelihoods import elbo
from girsanov.likelihoods.certificate import certificate
from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
from girsanov.likelihoods.denoising import MonteCarlo, Quadrature, squared_errors
from girsanov.networks import TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.types import InputError
from tests.laws import diagonal_gaussian_case, gaussian_case, mixture_case, note_mixture_1d, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def errors_of(law, x, schedule):
    """Mean squared errors of a Gaussian's own denoiser on rows, shape ``k``: the closed form, all levels at once."""
    second = ((x - law.mean) @ law.basis).square().mean(0)
    p = torch.sigmoid(schedule.log_snr[:, None] + law.eigenvalues.log())
    return (p.square() + p * (1.0 - p) * second / law.eigenvalues).sum(1)


def discrete_loss(law, x, schedule):
    """Minus the DDPM bound of a Gaussian's score, up to a constant."""
    errors = errors_of(law, x, schedule)
    return float(0.5 * errors[0] + schedule.weights @ errors[1:])


def continuous_loss(law, x, schedule):
    """Minus the continuous bound, up to the same constant."""
    return float(schedule.trapezoid_weights @ errors_of(law, x, schedule))


def gaussian_of(parameters, d):
    """Mean and Cholesky factor from one flat vector."""
    factor = torch.zeros(d, d)
    factor[tuple(torch.tril_indices(d, d))] = torch.as_tensor(parameters[d:])
    return Gaussian(torch.as_tensor(parameters[:d]), factor @ factor.T)


def test_the_closed_form_is_the_bound():
    schedule, law, x = (
        SCHEDULES["linear"](40),
        Gaussian(torch.zeros(1), 0.5 * torch.eye(1)),
        torch.tensor([[0.3], [-1.0]]),
    )
    process = VariancePreserving()
    bound = ddpm_bound(ScorePair(law.score(process)), x, schedule=schedule, noise=Quadrature())
    first = 0.5 * math.log(2 * math.pi * float(schedule.betas[0] / (1 - schedule.betas[0])))
    expected = -first - discrete_loss(law, x, schedule) - float(bound.last.mean())
    assert float(bound.estimate.value.mean()) == pytest.approx(expected, abs=1e-10)
    gap = discrete_loss(law, x, schedule) - continuous_loss(law, x, schedule)
    assert float(bound.gap.value.mean()) == pytest.approx(gap, abs=1e-10)


DATA = {"inside": lambda: gaussian_case((2,)), "misspecified": lambda: mixture_case((2,))}


@pytest.mark.parametrize("make_case", DATA.values(), ids=DATA)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_over_all_gaussians_the_ddpm_minimiser_is_the_maximum_of_likelihood(make_case, name):
    """Although the discrete loss is off by tenths of a nat, its minimiser is the sample's mean and covariance."""
    x, schedule = make_case().rows(400, seed=1), SCHEDULES[name](60)
    start = torch.tensor([0.3, -0.3, 1.0, 0.0, 1.0]).numpy()
    found = minimize(lambda p: discrete_loss(gaussian_of(p, 2), x, schedule), start, options={"gtol": 1e-7})
    law = gaussian_of(found.x, 2)
    torch.testing.assert_close(law.mean, x.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(law.covariance, torch.cov(x.T, correction=0), atol=1e-4, rtol=1e-4)


def scale_family(x, shape, loss):
    """The best c of N(0, c shape) by a loss."""
    objective = lambda c: loss(Gaussian(torch.zeros(2), torch.diag(c * shape)))  # noqa: E731
    found = minimize_scalar(objective, bounds=(0.01, 30.0), method="bounded", options={"xatol": 1e-9})
    return found.x


def kl(data, model):
    """KL(N(0, data) || N(0, model)) for diagonal covariances."""
    ratio = data / model
    return float(0.5 * (ratio - 1.0 - ratio.log()).sum())


def test_in_a_family_of_the_wrong_shape_the_factor_covers_what_the_discrete_loss_costs():
    data, shape = torch.tensor([4.0, 0.05]), torch.tensor([0.5, 1.0])
    # four rows whose second moments are exactly those of N(0, diag(data))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * data.sqrt()
    best = float((data / shape).mean())
    costs = []
    for schedule in (SCHEDULES["linear"](1000), SCHEDULES["theory"](4000)):
        continuous = scale_family(x, shape, lambda law, s=schedule: continuous_loss(law, x, s))
        assert continuous == pytest.approx(best, rel=2e-3)
        discrete = scale_family(x, shape, lambda law, s=schedule: discrete_loss(law, x, s))
        least, reached = kl(data, best * shape), kl(data, discrete * shape)
        costs.append(reached - least)
        assert 0.0 < reached - least <= (schedule.distortion() - 1.0) * least
    assert costs[1] < 0.3 * costs[0]


def test_for_exact_scores_the_continuous_bound_is_the_log_density():
    case, process = note_mixture_1d(), VariancePreserving()
    x = case.rows(8)
    bound = ddpm_bound(ScorePair(case.density.score(process)), x, noise=Quadrature(0.1))
    found = certificate(bound, process.log_snr_range)
    assert found.continuous.value == pytest.approx(float(case.log_prob(x).mean()), abs=1e-4)
    assert found.gap.value == pytest.approx(found.continuous.value - found.discrete.value, abs=1e-12)
    total = sum(part.value for part in found.terms.values())
    assert found.discrete.value == pytest.approx(-total, abs=1e-10)
    assert float(found.curve.sum()) == pytest.approx(found.terms["L_t"].value, abs=1e-10)


def test_errors_of_the_certificate_are_those_of_fresh_noise():
    """Eight seeds: the mean's spread agrees with its standard error (chi-square with 7 degrees, false alarm 1e-4)."""
    case, process = diagonal_gaussian_case((1, 2, 2)), VariancePreserving()
    network = TwoLayerNetwork((1, 2, 2), width=8)
    torch.nn.init.normal_(network.third.weight, std=0.2)
    model = ScoreModel(network, process, reference=case.density)
    x, options = case.rows(16), {"schedule": SCHEDULES["linear"](50), "noise": MonteCarlo(8)}
    bounds = [ddpm_bound(ScorePair(model, process), x, generator=seeded(s), **options) for s in range(8)]
    found = [certificate(bound, model.log_snr_range) for bound in bounds]
    values = torch.tensor([one.discrete.value for one in found])
    size = torch.tensor([one.discrete.stderr for one in found]).square().mean()
    assert 0.05 < float(values.var() / size) < 5.0


def test_text_and_json_hold_the_numbers_and_levels_outside_are_counted():
    case, process = note_mixture_1d(), VariancePreserving(log_snr_range=(-8.0, 8.0))
    network = TwoLayerNetwork((1,), width=4)
    model = ScoreModel(network, process, reference=case.density.moment_match())
    schedule = SCHEDULES["linear"](100)
    bound = ddpm_bound(ScorePair(model, process), case.rows(4), schedule=schedule)
    found = certificate(bound, model.log_snr_range, log_det=torch.full((4,), 1.5))
    outside = int((schedule.log_snr.abs() > 8.0).sum())
    assert (found.outside, outside > 0) == (outside, True)
    text = str(found)
    for part in ("L_0, the last decoder", "discrete bound of the chain", f"{found.gap.value:.4f}", "no log p"):
        assert part in text
    assert f"{outside} of 100 levels lie outside" in text
    assert found.discrete.value == pytest.approx(1.5 + float(bound.estimate.value.mean()), abs=1e-12)
    assert found.terms["log_det"].value == found.log_det == 1.5
    record = found.to_json()
    assert (len(record["curve"]), len(record["log_snr"]), record["rows"]) == (99, 99, 4)
    assert record["table"][4]["nats"] == found.discrete.value


def test_what_the_ends_change_is_closed_form_for_a_gaussian():
    """Its own bound is exact; what the chain's range lacks of it follows from the closed form of every error."""
    case, process, schedule = diagonal_gaussian_case((3,)), VariancePreserving(), SCHEDULES["linear"](50)
    law, x = case.density, case.rows(12)
    score = law.score(process)
    own = elbo(ScorePair(score, prior=ScorePair(score).noised(law), decoder=law), x)
    bound = ddpm_bound(ScorePair(score), x, schedule=schedule, noise=MonteCarlo(32))
    found = certificate(bound, score.log_snr_range, elbo=own)
    assert found.continuous.value == pytest.approx(float(case.log_prob(x).mean()), abs=1e-6)
    errors = torch.stack([law.squared_error(x, float(level)) for level in schedule.log_snr])[None]
    exact = replace(bound, errors=errors)
    for part, expected in (
        (found.ends, case.log_prob(x) - exact.continuous.value),
        (found.steps, exact.gap.value),
        (found.gap, case.log_prob(x) - exact.estimate.value),
    ):
        assert abs(part.value - float(expected.mean())) < 5.0 * part.stderr + 1e-6
    assert f"{found.ends.value:.3f} +- {found.ends.stderr:.3f} are its ends" in str(found)


def test_a_reference_under_the_same_noise_leaves_the_mean_and_takes_the_noise():
    case, process, levels = note_mixture_2d(), VariancePreserving(), torch.linspace(-6.0, 6.0, 7)
    score, reference, x = case.density.score(process), case.density.moment_match(), case.rows(3)
    plain, controlled = (
        squared_errors(ScorePair(score, process, reference=law), x, levels, noise=Quadrature(0.1))
        for law in (None, reference)
    )
    torch.testing.assert_close(plain, controlled, rtol=0.0, atol=1e-8)
    gaussian = diagonal_gaussian_case((3,))
    law, rows = gaussian.density, gaussian.rows(5)
    drawn = squared_errors(ScorePair(law.score(process), reference=law), rows, levels, noise=MonteCarlo(2))
    exact = torch.stack([law.squared_error(rows, float(level)) for level in levels])
    torch.testing.assert_close(drawn, exact.expand_as(drawn), rtol=0.0, atol=1e-8)


def test_one_row_is_refused():
    case, process = note_mixture_1d(), VariancePreserving()
    with pytest.raises(InputError, match="give 2 or more held-out rows"):
        certificate(ddpm_bound(ScorePair(case.density.score(process)), case.rows(1)), process.log_snr_range)
