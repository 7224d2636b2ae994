"""The bound against its own expectation: prior gap, residual and all, which telescoping gives in closed form.

The ranges are cut short, so that the prior's and the decoder's gaps are large enough to be seen.
"""

import pytest
import torch
from torch.distributions import MultivariateNormal

from girsanov.densities import Gaussian
from girsanov.likelihoods import density, elbo, fit_proposal
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.types import InputError
from tests.laws import (
    GAUSSIANS,
    PROCESSES,
    REMEMBERING,
    assert_student,
    diagonal_gaussian_case,
    each_gaussian,
    each_process,
    gaussian_case,
    gaussian_elbo,
    mixture_case,
    note_mixture_1d,
    note_mixture_2d,
    quadrature_elbo,
)
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHORT = (-4.0, 3.0)


def end_law(case, process):
    """Mean and covariance of a one-component law at the noise end, dense."""
    alpha, sigma = process.marginal_at(torch.tensor(process.log_snr_range[0]))
    return alpha * case.means[0], alpha**2 * case.covariances[0] + sigma**2 * torch.eye(case.d)


def exact_prior(case, process):
    return case.density.diffused(*process.marginal_at(torch.tensor(process.log_snr_range[0])))


def default_prior(case, process):
    """The law of the Gaussian with the same moments at a noise end where no kernel has forgotten the data."""
    alpha, sigma = process.marginal_at(torch.tensor(process.log_snr_range[0]))
    mean, covariance = case.moments()
    return MultivariateNormal(alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(case.d))


def posterior(covariance, high):
    """Covariance of x given its noised version at log-SNR ``high``, dense."""
    return torch.linalg.inv(torch.linalg.inv(covariance) + torch.tensor(high).exp() * torch.eye(len(covariance)))


@each_process
@each_gaussian
def test_gaussian_bound_with_the_default_prior_is_its_closed_form(make_case, make_process):
    """With the law as its own reference nothing is sampled, so this is an equality to rounding."""
    case, process = make_case(), make_process(log_snr_range=SHORT)
    x = case.rows(4)
    prior = default_prior(case, process)
    expected = gaussian_elbo(case, process, x, (prior.mean, prior.covariance_matrix))
    value = elbo(ScorePair(case.density.score(process)), x, samples=8).value
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-6)


@each_process
@each_gaussian
def test_gaussian_bound_with_the_exact_prior_and_decoder_is_the_log_density(make_case, make_process):
    case, process = make_case(), make_process(log_snr_range=SHORT)
    x, score = case.rows(4), case.density.score(process)
    tight = elbo(ScorePair(score, process, prior=exact_prior(case, process), decoder=case.density), x, samples=8).value
    torch.testing.assert_close(tight, case.log_prob(x), rtol=1e-7, atol=1e-6)
    loose = elbo(ScorePair(score, process, prior=exact_prior(case, process)), x, samples=8).value
    torch.testing.assert_close(loose, gaussian_elbo(case, process, x, end_law(case, process)), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 4, 4), (64,), (2, 16, 16)], ids=str)
def test_gaussian_bound_is_unbiased_for_its_closed_form_in_all_dimensions(shape):
    case = gaussian_case(shape) if len(shape) == 3 and shape[0] == 1 else diagonal_gaussian_case(shape)
    process = VariancePreserving(log_snr_range=SHORT)
    x = case.rows(40 if case.d < 512 else 10)
    other = Gaussian(torch.zeros(shape), 0.9)
    estimate = elbo(ScorePair(case.density.score(process), reference=other), x, samples=128)
    alpha, sigma = process.marginal_at(torch.tensor(SHORT[0]))
    end = (torch.zeros(case.d), (0.9 * alpha**2 + sigma**2) * torch.eye(case.d))
    expected = gaussian_elbo(case, process, x, end)
    assert_student((estimate.value - expected) / estimate.stderr, degrees=len(estimate.replicates) - 1)


@each_process
@pytest.mark.parametrize("prior", ["default", "exact"])
def test_mixture_bound_is_unbiased_for_its_quadrature(make_process, prior):
    case, process = note_mixture_1d(), make_process(log_snr_range=SHORT)
    x = torch.linspace(-3.0, 3.0, 40)[:, None]
    law = exact_prior(case, process) if prior == "exact" else default_prior(case, process)
    given = {"prior": law} if prior == "exact" else {}
    estimate = elbo(ScorePair(case.density.score(process), **given), x, samples=128, generator=seeded(3))
    expected = quadrature_elbo(case, process, x, law)
    assert_student((estimate.value - expected) / estimate.stderr, degrees=len(estimate.replicates) - 1)


def test_mixture_bound_in_two_dimensions_with_both_decoders():
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    x, prior = case.rows(30), exact_prior(case, process)
    reference = case.density.moment_match()
    score = case.density.score(process)
    for decoder, covariance in ((None, None), (reference, posterior(reference.covariance, SHORT[1]))):
        expected = quadrature_elbo(case, process, x, prior, decoder=covariance, nodes=40)
        estimate = elbo(ScorePair(score, process, prior=prior, reference=reference, decoder=decoder), x, samples=256)
        assert_student((estimate.value - expected) / estimate.stderr, degrees=len(estimate.replicates) - 1)
        # without a reference the norm of the noise is the control variate: another estimator, the same mean
        plain = elbo(ScorePair(lambda t, x: score(t, x), process, prior=prior, decoder=decoder), x, samples=256)
        assert_student((plain.value - expected) / plain.stderr, degrees=len(plain.replicates) - 1)


@each_process
def test_the_reference_never_changes_the_expectation(make_process):
    case, process = note_mixture_1d(), make_process(log_snr_range=SHORT)
    x, prior = torch.linspace(-3.0, 3.0, 40)[:, None], Gaussian(torch.ones(1), 1.5)
    expected = quadrature_elbo(case, process, x, prior)
    oracle = case.density.score(process)
    for reference in (Gaussian(torch.zeros(1), 1.0), Gaussian(torch.tensor([-1.0]), 4.0), None):
        estimate = elbo(ScorePair(lambda t, x: oracle(t, x), process, prior=prior, reference=reference), x, samples=128)
        assert_student((estimate.value - expected) / estimate.stderr, degrees=len(estimate.replicates) - 1)


@each_process
@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_model_equal_to_its_reference_is_the_reference_without_error(make_process, name):
    case, process = GAUSSIANS[name](), make_process()
    x = case.rows(3)
    model = ScoreModel(lambda l, f, c: torch.zeros_like(f), process, reference=case.density)
    estimate = elbo(ScorePair(model, process, prior=exact_prior(case, process), decoder=case.density), x)
    assert not estimate.stderr.any()
    torch.testing.assert_close(estimate.value, case.log_prob(x), rtol=1e-9, atol=1e-9)


@each_process
@pytest.mark.parametrize("span", [SHORT, None], ids=["short", "default"])
def test_averaged_over_data_the_bound_stays_below_the_truth(make_process, span):
    case, process = note_mixture_2d(), make_process(log_snr_range=span)
    x = case.rows(3000 if span == SHORT else 300, seed=4)
    estimate = elbo(ScorePair(case.density.score(process)), x, samples=64)
    gap = estimate.value - case.log_prob(x)
    assert float(gap.mean()) < 5 * float(gap.std()) / len(x) ** 0.5
    if span == SHORT:  # 0.03 nats below, six standard errors
        assert float(gap.mean()) < 0.0


@pytest.mark.parametrize("method", [elbo, density])
def test_no_estimate_beats_the_entropy(method):
    """Honesty rule 5: a mean negative log-likelihood never lies 4 standard errors below the oracle's entropy."""
    case, process = gaussian_case((1, 2, 3)), VariancePreserving()
    entropy = float(case.twin().component_distribution.entropy())
    x = case.rows(400, seed=6)
    oracle = case.density.score(process)
    for factor in (0.7, 1.0, 1.3):  # scores of any quality
        wrong = lambda t, x, factor=factor: factor * oracle(t, x)  # noqa: E731
        mean = method(ScorePair(wrong, process, reference=Gaussian(torch.zeros(1, 2, 3), 1.0)), x, samples=64).mean()
        assert -mean.value > entropy - 4 * (mean.stderr**2 + mean.rows_stderr**2) ** 0.5


def test_norm_and_gaussian_control_variates_agree_but_for_their_error():
    case, process = mixture_case((1, 4, 4)), VariancePreserving()
    oracle, x = case.density.score(process), case.rows(60)
    plain = elbo(ScorePair(lambda t, x: oracle(t, x), process), x, samples=256)
    guided = elbo(ScorePair(oracle, process), x, samples=256)
    both = (plain.stderr.square() + guided.stderr.square()).sqrt()
    z = (plain.value - guided.value) / both
    assert (
        float(z.abs().max()) < 5.5
    )  # sixty of them with 7 to 14 degrees of freedom: false alarm below 5 %, seed fixed
    assert float(z.mean().abs()) < 0.6
    assert float(guided.stderr.mean()) < float(plain.stderr.mean())


def test_an_estimate_says_what_it_is():
    case, process = note_mixture_2d(), VariancePreserving()
    estimate = elbo(ScorePair(case.density.score(process)), case.rows(3), samples=16)
    assert (estimate.kind, estimate.model, estimate.measure) == ("lower_bound", "sde", "density")
    assert (estimate.nfe, estimate.event_dim, len(estimate.replicates)) == (16, 2, 2)
    assert estimate.log_snr_range == process.log_snr_range
    assert set(estimate.terms) == {"prior", "diffusion", "residual"}
    torch.testing.assert_close(sum(estimate.terms.values()), estimate.value)
    few = elbo(ScorePair(case.density.score(process)), case.rows(3), samples=3)
    assert (few.nfe, len(few.replicates)) == (2, 2)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_process_that_remembers_needs_a_prior_or_a_reference(name):
    case, process = note_mixture_2d(), PROCESSES[name]()
    oracle = case.density.score(process)
    with pytest.raises(InputError, match="pass prior=, or a reference"):
        elbo(ScorePair(lambda t, x: oracle(t, x), process), case.rows(2))
    assert bool(elbo(ScorePair(oracle, process), case.rows(2)).value.isfinite().all())


def test_two_different_gaussians_for_decoder_and_control_variate_are_refused():
    case, process = gaussian_case((2,)), VariancePreserving()
    with pytest.raises(InputError, match="decoder and reference must be the same Gaussian"):
        elbo(
            ScorePair(
                case.density.score(process),
                reference=Gaussian(torch.zeros(2), 2.0),
                decoder=Gaussian(torch.zeros(2), 1.0),
            ),
            case.rows(1),
        )


def test_a_fitted_proposal_samples_the_residual_and_keeps_the_mean():
    case, process = note_mixture_1d(), VariancePreserving(log_snr_range=SHORT)
    score = case.density.score(process)
    proposal = fit_proposal(ScorePair(score, process), case.rows(300, seed=8))
    assert proposal.atom >= 0.02
    x = torch.linspace(-3.0, 3.0, 40)[:, None]
    estimate = elbo(ScorePair(score, process, proposal=proposal), x, samples=128)
    expected = quadrature_elbo(case, process, x, MultivariateNormal(torch.zeros(1), torch.eye(1)))
    assert_student((estimate.value - expected) / estimate.stderr, degrees=len(estimate.replicates) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["own", "none"])
def test_intervals_of_the_bound_cover(reference):
    """2000 repeats (rows x seeds): the observed share has standard error 0.5 %, false alarm 1e-4."""
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    oracle = case.density.score(process)
    score = oracle if reference == "own" else lambda t, x: oracle(t, x)
    x, prior = case.rows(20, seed=9), exact_prior(case, process)
    expected, covered = quadrature_elbo(case, process, x, prior), []
    for seed in range(100):
        low, high = elbo(ScorePair(score, process, prior=prior), x, samples=128, generator=seeded(seed)).interval(0.95)
        covered.append((low <= expected) & (expected <= high))
    assert 0.93 <= float(torch.stack(covered).double().mean()) <= 0.97
