"""The regulariser's gradients against closed forms, and the GAN optimum against numerical minimisation."""

import pytest
import torch

from girsanov.applications.regulariser import density_regulariser, gan_optimum
from girsanov.densities import Gaussian
from girsanov.networks import Signature, TwoLayerNetwork
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.types import InputError
from tests.applications.test_novelty import ExactNetwork
from tests.laws import gaussian_case, mixture_case, note_mixture_1d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def exact(case, reference=None):
    """The exact score of a law around a reference, by default one that is a bit off."""
    reference = reference or Gaussian(case.moments()[0].reshape(case.shape) + 0.1, 1.3)
    network = ExactNetwork(case.density, reference)
    return ScorePair.around(ScoreModel(network, VariancePreserving(), "noise", reference=reference))


def gradient(model, x, **options):
    """Mean gradient over many draws with its standard error, each row repeated."""
    copies = 2000
    wide = x.repeat_interleave(copies, 0).requires_grad_()
    value = density_regulariser(model, wide, generator=seeded(1), **options)
    (found,) = torch.autograd.grad(value.sum(), wide)
    found, value = found.unflatten(0, (len(x), copies)), value.detach().unflatten(0, (len(x), copies))
    return found.mean(1), found.std(1) / copies**0.5, value.mean(1), value.std(1) / copies**0.5


def assert_close(found, error, expected):
    """All entries within five standard errors: false alarm 6e-7 each."""
    assert float(((found - expected) / (error + 1e-9)).abs().max()) < 5.0


def grad_log_prob(case, x):
    return case.score(x, 1.0, 0.0)


CASES = {"gaussian": lambda: gaussian_case((1, 2, 2)), "mixture": lambda: mixture_case((3,))}


@pytest.mark.parametrize("make_case", CASES.values(), ids=CASES)
def test_the_full_range_is_minus_log_p_with_its_gradient(make_case):
    case = make_case()
    x = case.rows(2)
    found, error, value, value_error = gradient(exact(case), x)
    assert_close(found, error, -grad_log_prob(case, x))
    assert_close(value, value_error, -case.log_prob(x))


@pytest.mark.parametrize("options", [{}, {"log_snr_range": (-3.0, 4.0)}], ids=["full", "band"])
def test_a_model_that_is_its_reference_has_no_noise(options):
    case = gaussian_case((1, 2, 2))
    zero = ScoreModel(lambda l, f, c: torch.zeros_like(f), VariancePreserving(), reference=case.density)
    x = case.rows(3).requires_grad_()
    value = density_regulariser(ScorePair.around(zero), x, samples=1, **options)
    (found,) = torch.autograd.grad(value.sum(), x)
    if options:
        torch.testing.assert_close(value, 0.5 * case.density.squared_error_integral(x, *options["log_snr_range"]))
    else:
        torch.testing.assert_close(value, -case.log_prob(x))
        torch.testing.assert_close(found, -grad_log_prob(case, x))


def test_a_band_is_the_integral_of_its_errors():
    case, band = mixture_case((2,)), (-2.0, 3.0)
    model, x = exact(case), case.rows(1, seed=4)
    _, _, value, error = gradient(model, x, log_snr_range=band)
    levels = torch.linspace(*band, 81)
    eps = torch.randn(20_000, 2, generator=seeded(2))
    errors = []
    for level in levels:
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        z = alpha * x + sigma * eps
        errors.append((eps - case.density.noise(level.expand(len(z)), z)).square().sum(1).mean())
    expected = 0.5 * torch.trapezoid(torch.stack(errors), levels)
    assert float(value) == pytest.approx(float(expected), abs=0.03 + 5 * float(error))


def smoothed_gradient(case, x, band):
    """Gradient of the band's mean of -E[log q_l(x_l)] for a Gaussian law, closed form by quadrature in l."""
    levels = torch.linspace(*band, 2001)
    rows = []
    for level in levels:
        alpha2, sigma2 = torch.sigmoid(level), torch.sigmoid(-level)
        precision = torch.linalg.inv(alpha2 * case.covariances[0] + sigma2 * torch.eye(case.d))
        rows.append(alpha2 * (x.flatten(1) - case.means[0]) @ precision)
    return (torch.trapezoid(torch.stack(rows), levels, dim=0) / (band[1] - band[0])).reshape(x.shape)


@pytest.mark.parametrize("own", [True, False], ids=["own reference", "another"])
def test_the_detached_gradient_is_that_of_the_smoothed_density(own):
    case, band = gaussian_case((1, 2, 2)), (-3.0, 2.0)
    x = case.rows(2)
    model = exact(case, case.density if own else None)
    found, error, value, _ = gradient(model, x, log_snr_range=band, detach_jacobian=True)
    assert_close(found, error + 1e-6, smoothed_gradient(case, x, band))
    assert float(value.abs().max()) == 0.0
    if own:
        assert float(error.max()) < 1e-9


def test_the_paired_gradient_vanishes_for_equal_laws_and_is_the_difference_otherwise():
    case, other, band = gaussian_case((2,), seed=1), gaussian_case((2,), seed=2), (-3.0, 2.0)
    model, x = exact(case), case.rows(2)
    fake = other.density.score(VariancePreserving())
    found, error, _, _ = gradient(model, x, log_snr_range=band, fake=fake)
    assert_close(found, error, smoothed_gradient(case, x, band) - smoothed_gradient(other, x, band))
    same, spread, _, _ = gradient(model, x, log_snr_range=band, fake=case.density.score(VariancePreserving()))
    assert float(same.abs().max()) < 1e-5
    assert float(spread.max()) < 1e-6


def test_parameters_of_the_generator_get_the_gradient_and_conditions_follow_rows():
    reference = Gaussian(torch.zeros(2), 1.0)
    network = TwoLayerNetwork((2,), Signature(classes=2), width=4)
    torch.nn.init.normal_(network.third.weight)
    model = ScorePair.around(ScoreModel(network, VariancePreserving(), reference=reference))
    layer = torch.nn.Linear(2, 2)
    x = layer(torch.ones(4, 2))
    labels = torch.tensor([0, 1, 0, 1])
    density_regulariser(model, x, condition=labels).sum().backward()
    assert float(layer.weight.grad.abs().sum()) > 0.0
    with torch.no_grad():
        mixed = density_regulariser(model, x, condition=labels, generator=seeded(2))
        zeros = density_regulariser(model, x, condition=torch.tensor([0]), generator=seeded(2))
    torch.testing.assert_close(mixed[::2], zeros[::2])
    assert float((mixed - zeros)[1::2].abs().min()) > 1e-9


def gan_objective(p, q, volume, weight):
    """The GAN's value at its optimal discriminator, plus weight times E_G[-log p]."""
    both = p + q
    value = (p * (p / both).log() + q * (q / both).log() - weight * q * p.log()) * volume
    return value.sum()


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5])
def test_the_gan_optimum_is_what_minimisation_finds(weight):
    case = note_mixture_1d()
    x, volume = torch.linspace(-4.0, 4.0, 41), 0.2
    log_p = case.log_prob(x[:, None])
    log_p = log_p - (log_p.exp() * volume).sum().log()
    closed = gan_optimum(log_p, volume, weight)
    assert float((closed * volume).sum()) == pytest.approx(1.0, abs=1e-10)
    tilt = (0.1 * torch.randn(41, generator=seeded(0))).requires_grad_()
    optimiser = torch.optim.LBFGS([tilt], max_iter=500, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = gan_objective(log_p.exp(), (log_p + tilt).softmax(0) / volume, volume, weight)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = (log_p + tilt.detach()).softmax(0) / volume
    least = float(gan_objective(log_p.exp(), closed, volume, weight))
    assert closure().item() == pytest.approx(least, abs=1e-9)
    torch.testing.assert_close(found, closed, atol=1e-4, rtol=1e-3)


def test_the_gan_optimum_sharpens_as_the_note_says():
    case, x = note_mixture_1d(), torch.linspace(-8.0, 8.0, 4001)
    log_p, volume = case.log_prob(x[:, None]), 16.0 / 4000
    found = [float((-log_p * gan_optimum(log_p, volume, w) * volume).sum()) for w in (0.0, 0.1, 0.5)]
    assert found == pytest.approx([1.635, 1.555, 1.378], abs=2e-3)
    torch.testing.assert_close(gan_optimum(log_p, volume, 0.0), log_p.exp(), rtol=1e-5, atol=1e-9)


def test_bad_arguments_are_named():
    model = exact(gaussian_case((2,)))
    x = torch.zeros(1, 2)
    with pytest.raises(InputError, match="must lie within the score's log-SNR range"):
        density_regulariser(model, x, log_snr_range=(0.0, 99.0))
    with pytest.raises(InputError, match="samples must be a whole number of 1 or more; got 0"):
        density_regulariser(model, x, samples=0)
    with pytest.raises(InputError, match="weight must not be negative; got -1"):
        gan_optimum(torch.zeros(3), 1.0, -1.0)
