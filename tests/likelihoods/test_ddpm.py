"""The DDPM bound against the note's table, the true chain's density, and the formula by quadrature."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from girsanov.densities import Gaussian
from girsanov.likelihoods.ddpm import SCHEDULES, NoiseSchedule, ddpm_bound
from girsanov.likelihoods.denoising import MonteCarlo, Quadrature, density_by_quadrature, squared_errors
from girsanov.networks import TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import HarmonicVP, VariancePreserving
from girsanov.types import InputError
from tests.laws import each_process, gaussian_case, mixture_case, note_mixture_1d, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

#: (schedule, steps) -> errors in nats at x = 0.5: weights of the bound, left ones, the bound itself, trapezoid at most
TABLE = {
    ("linear", 1000): (-0.469, -0.465, -0.469, 1.5e-5),
    ("linear", 4000): (-0.349, -0.348, -0.349, 1e-5),
    ("scaled_linear", 1000): (-0.298, -0.295, -0.299, 6e-4),
    ("cosine", 1000): (-0.409, -0.407, -0.409, 1.5e-5),
    ("cosine", 4000): (-0.329, -0.329, -0.329, 1e-5),
    ("theory", 1000): (-0.097, -0.094, -0.097, 1e-5),
    ("theory", 4000): (-0.035, -0.034, -0.035, 1e-5),
}


@pytest.mark.parametrize(("name", "steps"), TABLE, ids=str)
def test_the_bias_of_discrete_sums_is_the_notes(name, steps):
    case, process, x = note_mixture_1d(), HarmonicVP(), torch.tensor([[0.5]])
    schedule = SCHEDULES[name](steps)
    bound = ddpm_bound(ScorePair(case.density.score(process)), x, schedule=schedule, noise=Quadrature(spacing=0.1))
    truth, (kl, left, full, trapezoid) = case.log_prob(x), TABLE[name, steps]
    assert float(bound.discretised_formula() - truth) == pytest.approx(kl, rel=0.05)
    assert float(bound.discretised_formula(left=True) - truth) == pytest.approx(left, rel=0.05)
    assert float(bound.estimate.value - truth) == pytest.approx(full, rel=0.05)
    assert abs(float(bound.continuous.value - truth)) < trapezoid


def test_the_formula_by_quadrature_is_exact():
    case, process = note_mixture_1d(), VariancePreserving()
    x = torch.tensor([[-2.0], [0.0], [0.5], [1.5], [3.0]])
    estimate = density_by_quadrature(ScorePair(case.density.score(process), reference=case.density.moment_match()), x)
    torch.testing.assert_close(estimate.value, case.log_prob(x), atol=1e-8, rtol=0.0)
    note = torch.tensor([-1.429709, -2.893749, -1.853528, -1.020201, -2.895201])
    torch.testing.assert_close(estimate.value, note, atol=1e-6, rtol=0.0)


@pytest.mark.slow
def test_the_formula_by_quadrature_is_exact_in_two_dimensions():
    case, process = note_mixture_2d(), VariancePreserving()
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.5, 0.6], [2.5, -1.0]])
    pair = ScorePair(case.density.score(process))
    estimate = density_by_quadrature(pair, x, spacing=0.25, noise=Quadrature(0.2, 7.0))
    torch.testing.assert_close(estimate.value, case.log_prob(x), atol=1e-5, rtol=0.0)
    note = torch.tensor([-7.237156, -1.511860, -1.286302, -9.715931])
    torch.testing.assert_close(estimate.value, note, atol=1e-6, rtol=0.0)


@each_process
def test_errors_are_the_gaussians_closed_form_under_every_process(make_process):
    case, process = gaussian_case((1, 2, 2)), make_process()
    x, levels = case.rows(3), torch.linspace(-8.0, 8.0, 9)
    score = case.density.score(process)  # without its reference, whose errors are known without noise
    errors = squared_errors(ScorePair(lambda t, y: score(t, y), process), x, levels, noise=MonteCarlo(400))
    closed = torch.stack([case.density.squared_error(x, float(level)) for level in levels])
    z = (errors.mean(0) - closed) / (errors.std(0) / 20.0)
    assert float(z.abs().max()) < 5.0  # 27 normal scores: false alarm 2e-5


def chain_bound(case, schedule, x, draws):
    """The bound by its definition: log-weights of simulated chains, densities by ``torch.distributions``."""
    d, betas, bar = case.d, schedule.betas, schedule.alpha_bar
    before = torch.cat([torch.ones(1), bar[:-1]])
    eye, generator = torch.eye(d), seeded(5)
    path = [x.expand(draws, d)]
    for beta in betas:
        path.append((1 - beta).sqrt() * path[-1] + beta.sqrt() * torch.randn(draws, d, generator=generator))
    total = MultivariateNormal(torch.zeros(d), eye).log_prob(path[-1])
    for k, beta in enumerate(betas):
        denoised = (path[k + 1] + (1 - bar[k]) * case.score(path[k + 1], bar[k].sqrt(), (1 - bar[k]).sqrt())) / bar[
            k
        ].sqrt()
        scale = before[k].sqrt() * beta / (1 - bar[k]), (1 - beta).sqrt() * (1 - before[k]) / (1 - bar[k])
        variance = (1 - before[k]) / (1 - bar[k]) * beta if k else beta / (1 - beta)
        total += MultivariateNormal(scale[0] * denoised + scale[1] * path[k + 1], variance * eye).log_prob(path[k])
        total -= MultivariateNormal((1 - beta).sqrt() * path[k], beta * eye).log_prob(path[k + 1])
    return total


def test_the_bound_is_the_mean_log_weight_of_the_chain():
    case, process = mixture_case((2,)), VariancePreserving()
    schedule = NoiseSchedule(torch.tensor([0.05, 0.1, 0.2, 0.4, 0.6]))
    x = case.rows(1, seed=3)
    bound = ddpm_bound(ScorePair(case.density.score(process)), x, schedule=schedule, noise=Quadrature(0.2, 7.0))
    weights = chain_bound(case, schedule, x, 40_000)
    z = (weights.mean() - bound.estimate.value[0]) / (weights.std() / 200.0)
    assert abs(float(z)) < 4.5  # false alarm 7e-6
    assert float(bound.estimate.value) < float(case.log_prob(x))


def test_draws_agree_with_quadrature_and_know_their_error():
    case, process = note_mixture_2d(), VariancePreserving()
    schedule, x = SCHEDULES["cosine"](20), case.rows(6, seed=1)
    score = case.density.score(process)
    exact = ddpm_bound(ScorePair(score, process), x, schedule=schedule, noise=Quadrature(0.2, 7.0))
    drawn = ddpm_bound(ScorePair(score, process), x, schedule=schedule, noise=MonteCarlo(64))
    for name in ("estimate", "continuous", "gap"):
        value, truth = getattr(drawn, name), getattr(exact, name)
        z = (value.value - truth.value) / value.stderr
        assert float(z.abs().max()) < 5.0, name  # Student-63, six rows: false alarm 3e-5
    assert (drawn.estimate.kind, drawn.estimate.model, drawn.estimate.nfe) == ("lower_bound", "chain", 64 * 20)
    assert drawn.continuous.kind == "estimate"


def test_rows_do_not_depend_on_their_batch_and_images_have_the_flat_value():
    case, process = mixture_case((1, 2, 3)), VariancePreserving()
    network = TwoLayerNetwork((1, 2, 3), width=8)
    torch.nn.init.normal_(network.third.weight, std=0.3)
    model = ScoreModel(network, process, reference=case.density.moment_match())
    x, options = case.rows(5), {"schedule": SCHEDULES["linear"](30), "noise": MonteCarlo(2)}
    together = ddpm_bound(ScorePair(model, process), x, **options).estimate.value
    alone = torch.cat([ddpm_bound(ScorePair(model, process), x[i : i + 1], **options).estimate.value for i in range(5)])
    assert torch.equal(together, alone)
    score = lambda t, rows: model(t, rows.reshape(-1, 1, 2, 3)).flatten(1)  # noqa: E731
    moments = case.density.moment_match()
    pair = ScorePair(score, process, reference=Gaussian(moments.mean.flatten(), moments.covariance))
    flat = ddpm_bound(pair, x.flatten(1), **options)
    torch.testing.assert_close(flat.estimate.value, together)


def test_conditions_follow_their_rows():
    process = VariancePreserving()
    score = lambda t, x, c: -(x - c)  # noqa: E731
    x, levels = torch.zeros(2, 1), torch.tensor([0.0])
    errors = squared_errors(
        ScorePair(score, process), x, levels, noise=Quadrature(), condition=torch.tensor([[0.0], [3.0]])
    )
    one = squared_errors(ScorePair(score, process), x, levels, noise=Quadrature(), condition=torch.tensor([[3.0]]))
    assert float(errors[0, 0, 1]) == pytest.approx(float(one[0, 0, 0]))
    assert float(errors[0, 0, 0]) < float(errors[0, 0, 1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_decrease_in_log_snr_and_bound_the_weights(name):
    coarse, fine = SCHEDULES[name](200), SCHEDULES[name](2000)
    for schedule in (coarse, fine):
        assert bool((schedule.log_snr.diff() < 0).all())
        assert bool((schedule.weights > -0.5 * schedule.log_snr.diff()).all())
        assert schedule.distortion() >= 1.0
    assert fine.weights[:-1].max() < coarse.weights[:-1].max()


def test_bad_arguments_are_named():
    process = VariancePreserving()
    score = note_mixture_1d().density.score(process)
    with pytest.raises(InputError, match="two or more betas, each between 0 and 1"):
        NoiseSchedule(torch.tensor([0.1, 1.0]))
    with pytest.raises(InputError, match="replicates must be a whole number of 1 or more"):
        MonteCarlo(0)
    with pytest.raises(InputError, match="at most 2 dimensions; these rows have 3: use MonteCarlo"):
        squared_errors(ScorePair(lambda t, y: -y, process), torch.zeros(1, 3), torch.zeros(1), noise=Quadrature())
    with pytest.raises(InputError, match="condition must have leading dimension 1 or 1; got 2"):
        squared_errors(ScorePair(score, process), torch.zeros(1, 1), torch.zeros(1), condition=torch.zeros(2))
