"""Samplers: the oracle's law for every member of the family, and exactness where the model is its reference.

Laws are compared by Kolmogorov-Smirnov tests on fixed one-dimensional projections, whose exact distribution
functions are mixtures of normals: with a fixed seed a pass stays a pass, and each has a false alarm of 1e-4.
"""

import math

import pytest
import torch
from scipy.stats import kstest, norm

from girsanov.densities import Gaussian, StandardNormal
from girsanov.networks import Signature, TwoLayerNetwork
from girsanov.pairs import AncestralChain, ScoreModel, ScorePair
from girsanov.processes import OrnsteinUhlenbeck, VariancePreserving
from girsanov.samplers import sample, sample_with_log_prob
from girsanov.types import InputError
from tests.laws import REMEMBERING, each_process, gaussian_case, mixture_case, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

FAMILY = (-1.0, 0.0, 0.5, 1.0)


def assert_law(rows, case, alpha=1.0, sigma=0.0):
    """Projections of rows follow the law of alpha X + sigma eps."""
    directions = torch.randn(3, case.d, generator=seeded(11))
    for direction in directions / directions.norm(dim=1, keepdim=True):
        means = alpha * case.means @ direction
        spreads = (alpha**2 * torch.einsum("i,kij,j->k", direction, case.covariances, direction) + sigma**2).sqrt()

        parts = list(zip(case.weights.tolist(), means.tolist(), spreads.tolist(), strict=True))

        def cdf(values, parts=parts):
            return sum(weight * norm.cdf(values, mean, spread) for weight, mean, spread in parts)

        assert kstest((rows.flatten(1) @ direction).numpy(), cdf).pvalue > 1e-4


@pytest.mark.parametrize("lmbd", FAMILY)
@pytest.mark.parametrize("referred", [True, False])
def test_every_member_of_the_family_has_the_oracles_law(lmbd, referred):
    case, process = note_mixture_2d(), VariancePreserving()
    oracle = case.density.score(process)
    score = oracle if referred else lambda t, x: oracle(t, x)
    rows = sample(ScorePair(score, process, event_shape=(2,)), 3000, lmbd=lmbd, steps=128, generator=seeded(1))
    assert_law(rows, case)


@each_process
def test_images_under_every_process(make_process):
    case, process = mixture_case((3, 2, 2)), make_process()
    rows = sample(ScorePair(case.density.score(process), event_shape=(3, 2, 2)), 2000, steps=48, generator=seeded(2))
    assert rows.shape == (2000, 3, 2, 2)
    assert_law(rows, case)
    mean, covariance = case.moments()
    z = (rows.flatten(1).mean(0) - mean) / (covariance.diagonal() / 2000).sqrt()
    assert float(z.abs().max()) < 4.5  # twelve: false alarm 8e-5


@pytest.mark.parametrize("lmbd", FAMILY)
@pytest.mark.parametrize(("order", "steps"), [(1, 1), (1, 3), (2, 1), (2, 4), (3, 4)])
def test_a_model_equal_to_its_reference_is_sampled_exactly_in_any_number_of_steps(lmbd, order, steps):
    case, process = gaussian_case((1, 2, 2)), OrnsteinUhlenbeck(beta=2.0)
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    prior = case.density.marginal(process, 1.0)
    rows = sample(ScorePair(model, prior=prior), 4000, steps=steps, lmbd=lmbd, order=order, generator=seeded(3))
    assert_law(rows, case)


@pytest.mark.parametrize("lmbd", FAMILY)
def test_the_last_step_is_the_decoders_in_every_member(lmbd):
    """At a data end of log-SNR 1 half of the law is the decoder's: another mean than the posterior's would show."""
    case, process = gaussian_case((1, 2, 2)), OrnsteinUhlenbeck(beta=2.0, log_snr_range=(-1.85, 1.0))
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    prior = case.density.diffused(*process.marginal_at(torch.tensor(process.log_snr_range[0])))
    assert_law(sample(ScorePair(model, prior=prior), 4000, steps=2, lmbd=lmbd, generator=seeded(3)), case)


@pytest.mark.parametrize("lmbd", [0.0, 0.5])
def test_draws_are_those_of_the_chain_that_is_bounded(lmbd):
    case, process = note_mixture_2d(), VariancePreserving()
    score = case.density.score(process)
    rows = sample(ScorePair(score, process, event_shape=(2,)), 50, steps=6, lmbd=lmbd, order=1, generator=seeded(1))
    chain = AncestralChain(ScorePair(score, process, event_shape=(2,)), 6, lmbd=lmbd)
    assert torch.equal(rows, chain.sample(50, generator=seeded(1))[0])


def test_the_reference_cannot_make_up_for_the_prior():
    """With N(0, I) instead of the law at the horizon, one step shows the difference: the prior is really used."""
    case, process = gaussian_case((1, 2, 2)), OrnsteinUhlenbeck(beta=0.5)
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    plain = ScorePair(model, process, prior=StandardNormal(), event_shape=case.shape)
    with pytest.raises(AssertionError):
        assert_law(sample(plain, 4000, steps=1, generator=seeded(3)), case)
    # which by default is the reference's law, where so little is forgotten
    assert_law(sample(ScorePair(model, process, event_shape=case.shape), 4000, steps=1, generator=seeded(3)), case)


def test_denoising_ends_with_the_decoders_mean():
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=(-10.0, 2.0))
    pair, high = ScorePair(case.density.score(process)), torch.tensor(2.0)
    drawn, denoised = (
        sample(pair, 1000, steps=64, lmbd=1.0, order=1, denoise=flag, generator=seeded(4)) for flag in (False, True)
    )
    posterior = case.density.moment_match()
    difference = (drawn - denoised).T.cov()
    expected = torch.linalg.inv(torch.linalg.inv(posterior.covariance) + high.exp() * torch.eye(2))
    # 1000 draws: entries have a standard error of 4.5 % of the variance
    torch.testing.assert_close(difference, expected, rtol=0.2, atol=0.02)
    assert float(denoised.var(0).sum()) < float(drawn.var(0).sum())


def test_a_single_mode_is_denoised_to_the_posterior_mean():
    """For a Gaussian the denoised end has variance S^2 / (S + r^2), the posterior mean's."""
    law = Gaussian(torch.zeros(1), 2.0)
    process = VariancePreserving(log_snr_range=(-10.0, 0.0))
    rows = sample(ScorePair(law.score(process), event_shape=(1,)), 20_000, steps=4, denoise=True, generator=seeded(5))
    assert float(rows.var()) == pytest.approx(4.0 / 3.0, rel=0.05)  # 5 standard errors of a variance from 20,000


@pytest.mark.parametrize("lmbd", [0.0, 1.0])
def test_equal_seeds_give_equal_draws_and_the_ode_is_smooth_in_them(lmbd):
    case, process = note_mixture_2d(), VariancePreserving()
    pair, options = ScorePair(case.density.score(process)), {"steps": 8, "lmbd": lmbd}
    first, again, other = (sample(pair, 5, generator=seeded(s), **options) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    unset = sample(pair, 5, **options)
    assert torch.equal(unset, sample(pair, 5, generator=torch.Generator().manual_seed(0), **options))


def test_conditions_follow_their_rows():
    process, network = VariancePreserving(), TwoLayerNetwork((2,), Signature(classes=2), width=4).double()
    with torch.no_grad():
        network.embedding.labels.weight[1:] += torch.tensor([[3.0], [-3.0]])
        network.third.weight.add_(torch.randn(2, 4, generator=seeded(0)))
    model = ScoreModel(network, process, reference=Gaussian(torch.zeros(2), 1.0))
    options = {"steps": 8, "lmbd": 1.0, "denoise": True}
    labels = torch.tensor([0, 1] * 600)  # more rows than one chunk
    mixed = sample(ScorePair(model, process), 1200, condition=labels, generator=seeded(1), **options)
    zeros = sample(ScorePair(model, process), 1200, condition=torch.tensor([0]), generator=seeded(1), **options)
    torch.testing.assert_close(mixed[labels == 0], zeros[labels == 0])
    assert float((mixed - zeros)[labels == 1].abs().min()) > 1e-6


def test_samples_take_the_dtype_of_the_network():
    model = ScoreModel(
        TwoLayerNetwork((2,), width=4).float(), VariancePreserving(), reference=Gaussian(torch.zeros(2), 1.0)
    )
    assert sample(ScorePair(model, model.process, event_shape=(2,)), 3, steps=2).dtype == torch.float32


@each_process
def test_bad_arguments_are_named(make_process):
    case, process = note_mixture_2d(), make_process()
    score = case.density.score(process)
    with pytest.raises(InputError, match=r"lmbd must be at most 1, where the diffusion vanishes; got 1\.5"):
        sample(ScorePair(score, process, event_shape=(2,)), 3, lmbd=1.5)
    with pytest.raises(InputError, match="condition must have leading dimension 1 or 3; got 2"):
        sample(ScorePair(score, process, event_shape=(2,)), 3, condition=torch.zeros(2))
    if type(process).__name__ in REMEMBERING:
        with pytest.raises(InputError, match="pass prior=, or a reference"):
            sample(ScorePair(lambda t, x: score(t, x), process, event_shape=(2,)), 3)


def path_errors(case, process, *, referred, steps, n=400):
    """Errors of the density along sampled paths, and their stated standard errors."""
    oracle = case.density.score(process)
    score = oracle if referred else lambda t, x: oracle(t, x)
    x, estimate = sample_with_log_prob(
        ScorePair(score, process, event_shape=case.shape), n, steps=steps, generator=seeded(6)
    )
    assert (estimate.kind, estimate.model, estimate.nfe) == ("estimate", "sde", steps + 1)
    return estimate.value - case.log_prob(x), estimate.stderr


@pytest.mark.parametrize("referred", [True, False])
def test_the_density_along_paths_converges_at_order_one_half(referred):
    """Sixteen times the steps, a quarter of the error: the slope is known to 0.03 from 400 paths."""
    case, process = note_mixture_2d(), VariancePreserving()
    coarse, fine = (
        path_errors(case, process, referred=referred, steps=steps)[0].square().mean().sqrt() for steps in (128, 2048)
    )
    slope = float(torch.log(coarse / fine)) / torch.tensor(16.0).log().item()
    # without a reference the bias, of order one, still shows
    assert 0.4 < slope < (0.6 if referred else 0.8)
    assert float(fine) < (0.1 if referred else 0.6)


@pytest.mark.parametrize("make_case", [note_mixture_2d, lambda: mixture_case((3, 2, 2))], ids=["plane", "image"])
def test_the_standard_error_along_paths_is_that_of_the_discretisation(make_case):
    error, size = path_errors(make_case(), VariancePreserving(), referred=True, steps=1024)
    z = error / size
    # 400 normal scores: the mean square has a standard error of 0.07, the mean one of 0.05
    assert 0.7 < float(z.square().mean()) < 1.4
    assert abs(float(z.mean())) < 0.3


@each_process
def test_a_model_equal_to_its_reference_has_its_density_along_paths(make_process):
    case, process = gaussian_case((1, 2, 2)), make_process()
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    low = torch.tensor(model.log_snr_range[0])
    prior = case.density.diffused(*process.marginal_at(low))
    x, estimate = sample_with_log_prob(ScorePair(model, process, event_shape=case.shape, prior=prior), 5, steps=3)
    torch.testing.assert_close(estimate.value, case.log_prob(x))
    assert float(estimate.stderr.max()) == 0.0


def test_the_prior_at_hand_is_part_of_the_density():
    """With a wrong prior the model's density changes by the prior's, which the first states still show."""
    law, process = Gaussian(torch.zeros(2), 1.0), OrnsteinUhlenbeck(beta=0.5)
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=law)
    wide = Gaussian(torch.zeros(2), 4.0)
    x, estimate = sample_with_log_prob(
        ScorePair(model, process, event_shape=(2,), prior=wide), 4000, steps=2, generator=seeded(1)
    )
    alpha, sigma = process.marginal_at(torch.tensor(model.log_snr_range[0]))
    # x is alpha x_T + noise: Gaussian with variance alpha^2 4 + sigma^2; the mean log-ratio is that of the priors
    gap = (estimate.value - law.log_prob(x)).mean()
    expected = 2.0 * (0.5 * (4.0 - 1.0) - math.log(2.0))
    assert float(gap) == pytest.approx(expected, abs=0.15)
    assert float(x.var()) == pytest.approx(float(4.0 * alpha**2 + sigma**2), rel=0.08)


def test_rows_with_densities_are_the_samplers_rows():
    case, process = note_mixture_2d(), VariancePreserving()
    pair = ScorePair(case.density.score(process))
    x, estimate = sample_with_log_prob(pair, 1100, steps=16, generator=seeded(3))
    assert torch.equal(x, sample(pair, 1100, steps=16, order=1, generator=seeded(3)))
    assert estimate.value.shape == (1100,)
    with pytest.raises(InputError, match="condition must have leading dimension 1 or 3; got 2"):
        sample_with_log_prob(pair, 3, condition=torch.zeros(2), steps=16)
