"""Laws of closed-form densities, over all of them, against dense twins of ``torch.distributions``."""

import math

import pytest
import torch

from girsanov.densities import BroadGaussian, Gaussian, GaussianMixture, StandardNormal
from girsanov.types import InputError
from tests.laws import PROCESSES, each_density, gaussian_case, note_mixture_1d, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


@each_density
def test_log_prob_is_the_twins(make_case):
    case = make_case()
    x = 2.0 * torch.randn(7, *case.shape)
    torch.testing.assert_close(case.density.log_prob(x), case.log_prob(x), rtol=1e-11, atol=1e-11)
    assert case.density.log_prob(x.float()).dtype == torch.float64


@each_density
def test_samples_have_the_mean_and_covariance(make_case):
    case, n = make_case(), 20_000
    flat = case.rows(n).flatten(1)
    mean, covariance = case.moments()
    centred = flat - mean
    z_mean = (flat.mean(0) - mean) / (flat.std(0) / n**0.5)
    products = centred[:, :, None] * centred[:, None, :]
    z_covariance = (products.mean(0) - covariance) / (products.std(0) / n**0.5)
    # at most 144 + 12 z-scores a density, 10 densities: false alarm below 1e-3 even if all were independent
    assert max(float(z_mean.abs().max()), float(z_covariance.abs().max())) < 5.2


@each_density
def test_log_probability_of_samples_is_minus_the_entropy_of_the_twin(make_case):
    case, n = make_case(), 4000
    own, other = case.density.log_prob(case.rows(n)), case.log_prob(case.twin().sample((n,)))
    spread = ((own.var() + other.var()) / n).sqrt()
    assert abs(float(own.mean() - other.mean())) < 5 * float(spread)  # false alarm 6e-7 each


@pytest.mark.parametrize("process_name", PROCESSES)
@each_density
def test_marginals_and_scores_are_exact_at_all_times(make_case, process_name):
    case, process = make_case(), PROCESSES[process_name]()
    score = case.density.score(process)
    x = torch.randn(4, *case.shape)
    for t in (0.0, 1e-4, 0.1, 0.5, 0.9, 1.0):
        alpha_t, sigma_t = process.marginal(torch.tensor(t))
        marginal = case.density.marginal(process, t)
        twin = case.twin(alpha_t, sigma_t)
        torch.testing.assert_close(marginal.log_prob(x), twin.log_prob(x.flatten(1)), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(score(t, x), case.score(x, alpha_t, sigma_t), rtol=1e-8, atol=1e-9)


@each_density
def test_scores_take_one_time_per_row(make_case):
    case, process = make_case(), PROCESSES["VariancePreserving"]()
    x, times = torch.randn(3, *case.shape), torch.tensor([0.0, 0.3, 0.8])
    score = case.density.score(process)
    each = torch.cat([score(t, row[None]) for t, row in zip(times, x, strict=True)])
    torch.testing.assert_close(score(times, x), each, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score(times, x, torch.zeros(3)), each, rtol=1e-12, atol=1e-12)


@each_density
def test_noise_prediction_is_minus_sigma_times_the_score(make_case):
    case = make_case()
    z = torch.randn(3, *case.shape)
    for level in (-9.0, 0.0, 6.0):
        levels = torch.full((3,), level)
        alpha, sigma = torch.sigmoid(levels[0]).sqrt(), torch.sigmoid(-levels[0]).sqrt()
        expected = -sigma * case.score(z, alpha, sigma)
        torch.testing.assert_close(case.density.noise(levels, z), expected, rtol=1e-9, atol=1e-9)


@each_density
def test_scores_in_single_precision_stay_close_at_both_ends(make_case):
    case, process = make_case(), PROCESSES["VariancePreserving"]()
    x = case.rows(5)
    score = case.density.score(process)
    for t in (1e-6, 1.0):
        narrow, wide = score(t, x.float()), score(t, x.float().double())
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)


@each_density
def test_moment_match_has_the_mean_and_covariance(make_case):
    case = make_case()
    matched = case.density.moment_match()
    mean, covariance = case.moments()
    torch.testing.assert_close(matched.mean.flatten(), mean)
    torch.testing.assert_close(matched.covariance, covariance)
    assert matched.event_shape == case.shape
    reference = case.density.score(PROCESSES["Cosine"]()).reference
    torch.testing.assert_close(reference.covariance, covariance)


def test_the_notes_mixture_values_are_reproduced():
    one, two = note_mixture_1d().density, note_mixture_2d().density
    x = torch.tensor([[-2.0], [0.0], [0.5], [1.5], [3.0]])
    expected = torch.tensor([-1.429709, -2.893749, -1.853528, -1.020201, -2.895201])
    torch.testing.assert_close(one.log_prob(x), expected, rtol=0.0, atol=6e-7)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.5, 0.6], [2.5, -1.0]])
    expected = torch.tensor([-7.237156, -1.511860, -1.286302, -9.715931])
    torch.testing.assert_close(two.log_prob(x), expected, rtol=0.0, atol=6e-7)


def test_mixture_weights_are_normalised():
    x = torch.randn(3, 2)
    means, variances = torch.randn(2, 2), torch.rand(2, 2) + 0.1
    one = GaussianMixture(torch.tensor([1.0, 3.0]), means, variances)
    other = GaussianMixture(torch.tensor([0.25, 0.75]), means, variances)
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x))


@pytest.mark.parametrize("full", [False, True])
def test_a_mixtures_score_at_one_time_is_that_of_every_row(full):
    x = torch.randn(6, 3)
    root = torch.randn(2, 3, 3)
    covariances = root @ root.mT + 0.1 * torch.eye(3) if full else torch.rand(2, 3) + 0.1
    law = GaussianMixture(torch.tensor([1.0, 3.0]), torch.randn(2, 3), covariances)
    alpha, sigma = torch.full((6,), 0.7), torch.full((6,), 0.4)
    alpha[-1], sigma[-1] = 0.9, 0.2  # one row at another time: each row by itself
    each = law.diffused_score(alpha, sigma, x)[:-1]
    torch.testing.assert_close(law.diffused_score(alpha[:-1], sigma[:-1], x[:-1]), each)
    torch.testing.assert_close(law.diffused_score(alpha[:1], sigma[:1], x[:-1]), each)


def test_mixtures_survive_far_out():
    case = note_mixture_2d()
    far = torch.tensor([[300.0, -400.0]])
    assert bool(case.density.log_prob(far).isfinite().all())
    torch.testing.assert_close(case.density.score(PROCESSES["Cosine"]())(0.0, far), case.score(far, 1.0, 0.0))


def test_a_score_without_a_known_gaussian_has_no_reference():
    assert StandardNormal().score(PROCESSES["Cosine"]()).reference is None


def test_standard_normal_takes_any_event_shape():
    law, x = StandardNormal(), torch.randn(3, 2, 2)
    twin = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(law.log_prob(x), twin.log_prob(x).sum((1, 2)))
    assert law.sample(4, generator=seeded(0), event_shape=(2, 3)).shape == (4, 2, 3)
    alpha, sigma = torch.tensor([0.3, 0.5, 0.9]), torch.tensor([2.0, 1.0, 0.1])
    expected = -x / (alpha**2 + sigma**2).reshape(3, 1, 1)
    torch.testing.assert_close(law.diffused_score(alpha, sigma, x), expected)
    same = Gaussian(torch.zeros(2, 2), 1.0).expected_log_prob(x, torch.tensor(0.7))
    torch.testing.assert_close(law.expected_log_prob(x, torch.tensor(0.7)), same)
    with pytest.raises(InputError, match="has no event shape to diffuse: use Gaussian"):
        law.diffused(1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(torch.zeros(3), torch.ones(2)), r"Expected covariance.shape \(3, 3\), \(3,\) or \(\); got"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "not positive definite"),
        (lambda: Gaussian(torch.zeros(2), 0.0), "not positive definite"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([1.0, torch.nan])), "not positive definite"),
        (lambda: GaussianMixture(torch.ones(3), torch.zeros(2, 1), torch.ones(2, 1)), r"Expected weights.shape \(2,\)"),
        (lambda: GaussianMixture(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1)), "must be positive"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(2, 3), torch.ones(2, 2)), "Expected covariances.shape"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(2, 1), torch.zeros(2, 1)), "not positive definite"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_an_ambiguous_square_event_reads_variances_of_its_own_shape():
    case = gaussian_case((2, 2))  # a 4 x 4 covariance for a 2 x 2 event
    torch.testing.assert_close(case.density.covariance, case.covariances[0])
    variances = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(Gaussian(torch.zeros(2, 2), variances).covariance, variances.flatten().diag())


@each_density
def test_a_density_is_its_buffers(make_case):
    case, blank = make_case(), make_case().density
    for buffer in blank.buffers():
        buffer.fill_(0.5)
    x = case.rows(3)
    assert not torch.allclose(blank.log_prob(x), case.log_prob(x))
    blank.load_state_dict(case.density.state_dict())
    torch.testing.assert_close(blank.log_prob(x), case.log_prob(x))


@pytest.mark.parametrize("share", [0.3, 1e-6])
def test_a_broad_gaussian_is_a_density_and_its_expectation_is_bounded_from_below(share):
    law = BroadGaussian(Gaussian(torch.ones(1), 2.0), share)
    edges = torch.sinh(torch.linspace(-20.0, 20.0, 400_001, dtype=torch.float64))
    mass = torch.trapezoid(law.log_prob(edges[:, None]).exp(), edges)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-6, atol=1e-6)
    mean, variance = torch.tensor([[1.0], [4.0], [300.0]]).double(), torch.tensor(0.5).double()
    eps = torch.randn(20_000, 1, 1, generator=seeded(0), dtype=torch.float64)
    values = law.log_prob((mean + variance.sqrt() * eps).flatten(0, 1)).reshape(len(eps), len(mean))
    gap = values.mean(0) - law.expected_log_prob(mean, variance)
    error = values.std(0) / len(eps) ** 0.5
    assert bool((gap > -5.0 * error).all())
    assert bool((gap < 5.0 * error + share + 0.05).all())


def test_a_broad_gaussian_draws_its_share():
    law = BroadGaussian(Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])), 0.3)
    n, reach = 20_000, 6.0
    white = law.law.whiten(torch.full((n,), float("inf")).double(), law.sample(n, generator=seeded(0)))
    beyond = (white[:, 0].abs() > reach).double().mean()
    expected = 0.3 * (1.0 - 2.0 / math.pi * math.atan(reach))
    assert abs(float(beyond) - expected) < 5.0 * (expected / n) ** 0.5


def test_a_broad_gaussian_refuses_what_it_is_not_for():
    law = BroadGaussian(Gaussian(torch.zeros(1), 1.0))
    with pytest.raises(InputError, match="no noised version"):
        law.diffused(1.0, 1.0)
    with pytest.raises(InputError, match="no noised version"):
        law.diffused_score(torch.ones(1), torch.ones(1), torch.zeros(1, 1))
    with pytest.raises(InputError, match="between 0 and 1"):
        BroadGaussian(law.law, 0.0)
