"""The classifier against Bayes' rule on exact class-conditional mixtures; statistical tests state their false alarm."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.applications.classifier import DiffusionClassifier
from girsanov.datasets import from_array
from girsanov.pairs import ScorePair
from girsanov.types import InputError
from tests.class_laws import class_laws
from tests.seeds import rng, seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"vector": (4,), "image": (1, 2, 2)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def classifier_of(laws, **options):
    pair = ScorePair(laws, laws.process, reference=laws.reference())
    return DiffusionClassifier(pair, **{"classes": range(len(laws.laws)), **options})


def rate_exceeds(count, trials, rate):
    """Whether ``count`` of ``trials`` is more than ``rate`` allows; false alarm 1e-4 at the rate itself."""
    from scipy.stats import binom

    return binom.sf(count - 1, trials, rate) < 1e-4


@each_shape
def test_evidence_is_bayes_rule_for_an_exact_score(shape):
    """Mean error of every log-odds, |z| < 4.42 (false alarm 1e-5 each), and the argmax where it is clear."""
    laws = class_laws(shape, classes=4)
    x, _ = laws.sample(400, seeded(0))
    found = classifier_of(laws, samples=256).classify(x)
    truth = laws.log_prob(x)
    odds, expected = (a[:, 1:] - a[:, :1] for a in (found.log_odds, truth))
    z = (odds - expected).mean(0) / (odds - expected).std(0) * math.sqrt(len(x))
    assert float(z.abs().max()) < 4.42
    top = truth.topk(2, 1).values
    clear = top[:, 0] - top[:, 1] > 2.0
    assert torch.equal(found.index[clear], truth.argmax(1)[clear])
    assert bool((found.nfe == 4 * 256).all())
    assert found.decided.all()


def test_a_prior_shifts_the_log_odds():
    laws = class_laws((2, 2))
    x, _ = laws.sample(20, seeded(1))
    prior = torch.tensor([0.7, 0.2, 0.1])
    flat, tilted = (classifier_of(laws, prior=p).classify(x) for p in (None, prior))
    shift = (tilted.log_odds - tilted.log_odds[:, :1]) - (flat.log_odds - flat.log_odds[:, :1])
    torch.testing.assert_close(shift, (prior / prior[0]).log().expand(20, 3), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
@each_shape
def test_elimination_errs_no_more_often_than_stated(shape, calibrated):
    """Close classes, 800 rows: a decided row differs from Bayes' rule in at most 1 - confidence of the rows."""
    laws = class_laws(shape, classes=5, distance=0.6)
    classifier = classifier_of(laws, max_samples=256)
    if calibrated:
        held_out, label = laws.sample(150, seeded(2))
        classifier.calibrate(held_out, label)
    x, _ = laws.sample(800, seeded(3))
    found = classifier.classify(x, confidence=0.8)
    wrong = found.decided & (found.index != laws.log_prob(x).argmax(1))
    assert not rate_exceeds(int(wrong.sum()), len(x), 0.2)
    assert float(found.decided.double().mean()) > 0.3
    assert float(found.nfe.double().mean()) < 0.6 * 5 * 256
    # rows that stay open have spent everything on the classes that are left
    assert bool((found.nfe[~found.decided] >= 2 * 256).all())


def test_calibration_saves_evaluations_and_keeps_a_true_temperature():
    """For exact scores and likelihood weights the posterior is calibrated as it is: the factor is near 1."""
    laws = class_laws((4,), classes=5, distance=1.2)
    held_out, label = laws.sample(400, seeded(4))
    x, _ = laws.sample(300, seeded(5))
    plain, calibrated = (classifier_of(laws, samples=128) for _ in range(2))
    calibrated.calibrate(held_out, label)
    spent = [c.classify(x, confidence=0.9).nfe.double().mean() for c in (plain, calibrated)]
    assert float(spent[1]) < 0.9 * float(spent[0])
    assert 0.75 < float(calibrated.level_weights.values.max()) < 1.25


def test_a_row_does_not_depend_on_its_batch():
    laws = class_laws((2, 2))
    x, _ = laws.sample(130, seeded(6))
    classifier = classifier_of(laws)
    together = classifier.classify(x, confidence=0.9)
    for i in (0, 77, 129):
        alone = classifier.classify(x[i : i + 1], confidence=0.9)
        torch.testing.assert_close(alone.log_odds[0], together.log_odds[i], rtol=1e-10, atol=1e-10)
        assert int(alone.nfe) == int(together.nfe[i])


def test_weights_scale_the_evidence():
    laws = class_laws((4,))
    x, _ = laws.sample(15, seeded(7))
    one, two = (
        classifier_of(laws, weights=lambda l, k=k: torch.full_like(l, k)).classify(x).log_odds for k in (1.0, 2.0)
    )
    torch.testing.assert_close(2.0 * one, two, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one, classifier_of(laws).classify(x).log_odds, rtol=1e-12, atol=1e-12)


def test_uniform_weights_are_uniform_in_the_process_time():
    laws = class_laws((4,))
    weights = classifier_of(laws, weights="uniform").level_weights
    share = weights.values[:-1].cumsum(0) / weights.values.sum()
    time = laws.process.time(weights.edges)
    torch.testing.assert_close(share, (time[0] - time[1:-1]) / (time[0] - time[-1]), rtol=1e-9, atol=1e-9)


def test_weights_of_a_band_evaluate_in_the_band_only():
    laws = class_laws((4,))
    seen = []

    def spy(t, x, condition=None):
        seen.append(laws.process.log_snr(t))
        return laws(t, x, condition)

    band = DiffusionClassifier(
        ScorePair(spy, laws.process), classes=range(3), weights=lambda l: ((l > -2) & (l < 1)).double()
    )
    band.predict(laws.sample(5, seeded(8))[0])
    levels = torch.cat(seen)
    assert -2.3 < float(levels.min()) < -1.5
    assert 0.5 < float(levels.max()) < 1.3


def test_fitted_weights_raise_the_log_probability_of_a_distorted_score():
    """A score that is right in a band and noise elsewhere: fitted weights must find the band."""
    laws = class_laws((6,), classes=4, distance=0.8)

    def distorted(t, x, condition=None):
        score = laws(t, x, condition)
        level = laws.process.log_snr(t)
        shift = torch.sin(7.0 * condition[:, None] + torch.arange(6.0)) * ((level > 1.0) & (level < 6.0))[:, None]
        return score + shift / laws.process.marginal(t)[1][:, None]

    x, label = laws.sample(600, seeded(9))
    results = {}
    for name in ("likelihood", "fitted"):
        classifier = DiffusionClassifier(
            ScorePair(distorted, laws.process, reference=laws.reference()), classes=range(4), weights=name
        )
        classifier.calibrate(x[:300], label[:300])
        probability = classifier.predict_proba(x[300:])[np.arange(300), label[300:]]
        results[name] = np.log(probability).mean()
        weights = classifier.level_weights
    assert results["fitted"] > results["likelihood"] + 0.05
    inside = weights(torch.tensor([2.5, 3.5])).max()
    assert float(inside) < 0.3 * float(weights(torch.tensor([-1.0, 0.0])).max())


def test_conditions_may_be_vectors_and_names_anything():
    laws = class_laws((4,))
    x, _ = laws.sample(12, seeded(10))
    named = DiffusionClassifier(
        ScorePair(lambda t, x, c: laws(t, x, c.argmax(1)), laws.process, reference=laws.reference()),
        classes=dict(zip("abc", torch.eye(3), strict=True)),
    )
    plain = classifier_of(laws).predict(x)
    assert [["a", "b", "c"][k] for k in plain] == named.predict(x).tolist()
    assert named.predict_proba(x).shape == (12, 3)
    assert named.predict_proba(x).sum(1) == pytest.approx(np.ones(12))
    assert named.score(x, named.predict(x)) == 1.0


def test_what_does_not_fit_is_refused():
    laws = class_laws((4,))
    x, label = laws.sample(6, seeded(11))
    with pytest.raises(InputError, match="process"):
        DiffusionClassifier(laws.__call__, classes=range(3))
    with pytest.raises(InputError, match="Two or more"):
        DiffusionClassifier(ScorePair(laws, laws.process), classes=["one"])
    with pytest.raises(InputError, match="Unknown weights"):
        classifier_of(laws, weights="vlb")
    with pytest.raises(InputError, match="not negative"):
        classifier_of(laws, weights=lambda l: -l.exp())
    with pytest.raises(InputError, match="3 classes"):
        classifier_of(laws, prior=torch.ones(2))
    with pytest.raises(InputError, match="calibrate"):
        classifier_of(laws, weights="fitted").predict(x)
    with pytest.raises(InputError, match="confidence"):
        classifier_of(laws).predict(x, confidence=1.0)
    with pytest.raises(InputError, match="Unknown class 7"):
        classifier_of(laws).calibrate(x, [7] * 6)
    with pytest.raises(InputError, match="class for every row"):
        classifier_of(laws).calibrate(x, label[:3])
    with pytest.raises(InputError, match=r"x\[0\]"):
        classifier_of(laws).predict(x / 0.0)


@pytest.fixture(scope="module")
def fitted():
    """A conditional model of two clusters with discrete and continuous columns, and its rows."""
    generator = rng(0)
    label = generator.integers(0, 2, 400)
    x = np.stack([generator.poisson(3.0 + 12.0 * label), generator.normal(size=400) + 4.0 * label], 1)
    data = dataclasses.replace(from_array(x, labels=label), classes=("low", "high"))
    config = gv.Config(
        conditional=True, network=gv.networks.MLPConfig(width=32, blocks=1), steps=200, members=1, flow=False
    )
    return gv.fit(data, config=config), x, label


def test_a_fitted_model_knows_its_classes(fitted):
    model, x, label = fitted
    names = np.array(["low", "high"])[label]
    classifier = DiffusionClassifier(model, samples=16)
    assert classifier.classes_.tolist() == ["low", "high"]
    assert classifier.score(x[:100], names[:100]) > 0.85
    classifier.calibrate(x[100:200], names[100:200])
    found = classifier.classify(x[:100], confidence=0.9)
    assert float(found.nfe.double().median()) < 32
    assert (classifier.predict(x[:100], confidence=0.9) == names[:100]).mean() > 0.85
    with pytest.raises(InputError):
        classifier.predict(x[:, :1])


def test_differences_of_a_fitted_model_are_in_nats_of_its_rows(fitted):
    model, x, label = fitted
    rows = x[:60]
    estimate = model.difference(rows, torch.from_numpy(label[:60]), torch.from_numpy(1 - label[:60]), samples=64)
    separate = [
        model.density(rows, samples=512, condition=torch.from_numpy(c)).value for c in (label[:60], 1 - label[:60])
    ]
    gap = float(estimate.value.mean() - (separate[0] - separate[1]).mean())
    assert abs(gap) < 0.1 * float(estimate.value.mean())
    assert (estimate.kind, estimate.measure) == ("estimate", "mixed")
    information = model.pointwise_information(rows, 1)
    assert information.map.shape == (60, 2)
    torch.testing.assert_close(information.map.sum(1), information.value.value, rtol=1e-5, atol=1e-5)
    assert model.difference_curve(rows, 0, 1, levels=torch.tensor([-1.0, 1.0])).difference.shape == (2, 60)
    with pytest.raises(InputError, match="missing"):
        model.difference(rows * np.nan, 0, 1)
