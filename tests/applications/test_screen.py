"""Screens: the conformal promise against binomial tails, Gaussians against Bayes' rule, and what elimination saves."""

import math

import pytest
import torch

from girsanov.applications.classifier import DiffusionClassifier
from girsanov.applications.screen import GaussianScreen, Screened, largest_lag
from girsanov.pairs import ScorePair
from girsanov.types import InputError
from tests.class_laws import class_laws
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def rate_exceeds(count, trials, rate):
    """Whether ``count`` of ``trials`` is more than ``rate`` allows; false alarm 1e-4 at the rate itself."""
    from scipy.stats import binom

    return binom.sf(count - 1, trials, rate) < 1e-4


@pytest.mark.parametrize("quality", [0.0, 1.0, 4.0])
def test_the_models_own_class_is_lost_as_seldom_as_stated(quality):
    """Screens from worthless to good, thresholds from 99 rows each, 400 fresh thresholds with five new rows each.

    Given its calibration rows a threshold's error is Beta distributed around the stated one, so new rows share it: the
    count's variance is inflated by less than (1 + 4 * 0.01), which the false alarm of 1e-4 hardly notices.
    """
    generator, lost, sizes = seeded(0), 0, []
    for _ in range(400):
        winner = torch.randint(6, (104,), generator=generator)
        scores = torch.randn(104, 6, generator=generator)
        scores[torch.arange(104), winner] += quality
        lags = scores.amax(1) - scores.gather(1, winner[:, None])[:, 0]
        found = Screened(lags[:99], 1.0)
        kept = found.kept(scores[99:], 0.1)
        lost += int((~kept[torch.arange(5), winner[99:]]).sum())
        sizes.append(kept.sum(1).double().mean())
        assert int(kept.sum(1).min()) >= 2
    assert not rate_exceeds(lost, 2000, 0.1)
    mean = float(torch.stack(sizes).mean())
    assert mean > 5.0 if quality == 0.0 else mean < 5.0
    # keeping two classes at least makes a good screen safer than it promises; a worthless one keeps its promise tightly
    assert lost > 140 or quality == 4.0


def test_lags_and_temperature_come_from_the_models_choice_and_the_right_classes():
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 2.0], [1.0, 0.0, 4.0], [2.0, 0.0, 0.0]])
    winner, label = torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 2, 0])
    found = Screened.of(scores, winner, label, torch.zeros(3))
    assert found.lags.tolist() == [0.0, 3.0, 0.0, 2.0]
    assert 0.1 < found.factor < 10.0


def test_too_few_rows_vouch_for_nothing():
    assert largest_lag(torch.zeros(18), 0.05) == math.inf
    assert largest_lag(torch.zeros(19), 0.05) == 0.0
    assert bool(Screened(torch.zeros(5), 1.0).kept(torch.randn(3, 4), 0.1).all())


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_gaussian_classes_are_recovered(shape):
    """With many rows the screen is the Bayes rule of Gaussian classes, covariances included: accuracy within 2 %."""
    generator, d = seeded(1), math.prod(shape)
    # far from singular, so that no few rows hold all of the odds' variance
    turns = torch.linalg.qr(torch.randn(3, d, d, generator=generator))[0]
    roots = turns * torch.linspace(0.6, 1.6, d)
    means = 1.2 * torch.randn(3, d, generator=generator)
    label = torch.arange(6000) % 3
    x = means[label] + (roots[label] @ torch.randn(6000, d, 1, generator=generator))[..., 0]
    screen = GaussianScreen.fit(x[:3000].reshape(-1, *shape), label[:3000])
    laws = [torch.distributions.MultivariateNormal(m, r @ r.T) for m, r in zip(means, roots, strict=True)]
    truth = torch.stack([law.log_prob(x[3000:]) for law in laws], 1)
    scores = screen(x[3000:].reshape(-1, *shape))
    right, best = (float((s.argmax(1) == label[3000:]).double().mean()) for s in (scores, truth))
    assert right > best - 0.02
    assert best > 0.8
    odds, exact = (s[:, 1:] - s[:, :1] for s in (scores, truth))
    assert float(torch.corrcoef(torch.stack([odds.flatten(), exact.flatten()]))[0, 1]) > 0.97


def test_columns_of_any_scale_and_many_dimensions_are_taken():
    """A tiny informative column beside a huge idle one, a constant column, and more dimensions than components."""
    generator, label = seeded(2), torch.arange(400) % 2
    x = torch.randn(400, 160, generator=generator)
    x[:, 0] *= 1e4
    x[:, 1] = 1e-3 * (x[:, 1] + 4.0 * label)
    x[:, 2] = 5.0
    right = GaussianScreen.fit(x[:, :4], label)(x[:, :4]).argmax(1) == label
    assert float(right.double().mean()) > 0.95
    wide = GaussianScreen.fit(x, label)
    assert wide.project.shape == (128, 160)
    assert bool(wide(x).isfinite().all())


def screened_and_plain(laws, screen, **options):
    held_out, label = laws.sample(300, seeded(3))
    pair, classes = ScorePair(laws, laws.process, reference=laws.reference()), range(len(laws.laws))
    both = (DiffusionClassifier(pair, screen=s, classes=classes, **options) for s in (screen, None))
    return [classifier.calibrate(held_out, label) for classifier in both]


def test_a_screen_saves_evaluations_and_the_answer_is_still_the_models():
    """Six classes, 300 rows: at most 1 - confidence of the decided rows differ from Bayes' rule."""
    laws = class_laws((4,), classes=6, distance=1.5)
    train, label = laws.sample(900, seeded(4))
    screened, plain = screened_and_plain(laws, GaussianScreen.fit(train, label), max_samples=256)
    x, _ = laws.sample(300, seeded(5))
    found, full = (c.classify(x, confidence=0.8) for c in (screened, plain))
    assert float(found.nfe.double().mean()) < 0.75 * float(full.nfe.double().mean())
    assert int(found.nfe.min()) >= 4  # two classes, one antithetic pair each: the screen alone decides nothing
    wrong = found.decided & (found.index != laws.log_prob(x).argmax(1))
    assert not rate_exceeds(int(wrong.sum()), len(x), 0.2)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(300))
    assert bool((found.log_odds.argmax(1) == found.index).double().mean() > 0.97)
    # without a confidence every class is evaluated, screen or no screen
    torch.testing.assert_close(screened.classify(x[:9]).log_odds, plain.classify(x[:9]).log_odds)


def test_a_worthless_screen_costs_little_more_than_nothing():
    laws = class_laws((4,), classes=4, distance=1.5)
    screened, plain = screened_and_plain(laws, lambda rows: torch.sin(1e4 * rows[:, :4]))
    x, _ = laws.sample(200, seeded(6))
    found, full = (c.classify(x, confidence=0.8) for c in (screened, plain))
    assert float((found.index == full.index).double().mean()) > 0.8 - 5.0 * (0.8 * 0.2 / 200) ** 0.5  # what is promised
    assert float(found.nfe.double().mean()) < 1.3 * float(full.nfe.double().mean())


def test_what_does_not_fit_is_refused():
    laws = class_laws((4,))
    x, label = laws.sample(60, seeded(7))
    pair = ScorePair(laws, laws.process, reference=laws.reference())
    with pytest.raises(InputError, match="calibrate"):
        DiffusionClassifier(pair, screen=lambda rows: rows[:, :3], classes=range(3)).predict(x, confidence=0.9)
    with pytest.raises(InputError, match="3 numbers"):
        DiffusionClassifier(pair, screen=lambda rows: rows[:, :2], classes=range(3)).calibrate(x, label)
    with pytest.raises(InputError, match="5 or more rows"):
        GaussianScreen.fit(x[:6], label[:6])
