"""Differences between conditions and pointwise information against class-conditional laws in closed form.

Statistical tests have fixed seeds; the false-alarm rates given are those of a fresh seed.
"""

import math

import pytest
import torch

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods import RandomisedRows, density
from girsanov.likelihoods.differences import difference, difference_curve, pointwise_information
from girsanov.likelihoods.estimator import View
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError
from tests.class_laws import ClassLaws, class_laws
from tests.laws import assert_student
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"vector": (3,), "image": (1, 4, 4)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def two_gaussians(d: int, distance: float) -> ClassLaws:
    """Unit Gaussians that differ in their first dimension only."""
    means = torch.zeros(2, 1, d, dtype=torch.float64)
    means[1, 0, 0] = distance
    laws = [GaussianMixture(torch.ones(1), mean, torch.ones(1, d, dtype=torch.float64)) for mean in means]
    return ClassLaws(laws, VariancePreserving())


@each_shape
def test_differences_are_unbiased_and_their_errors_follow_student(shape):
    """Independent rows, exact scores; two tests of false alarm 1e-5 each."""
    laws = class_laws(shape, distance=0.7)
    x, label = laws.sample(400, seeded(0))
    other = (label + 1) % 3
    estimate = difference(
        ScorePair(laws, reference=laws.reference()),
        x,
        label,
        other,
        exact=True,
        samples=256,
        generator=seeded(1),
    )
    truth = laws.log_prob(x)
    rows = torch.arange(len(x))
    assert estimate.kind == "unbiased"
    assert estimate.nfe == 512 + 8  # two conditions at both ends, noise of both signs
    assert_student(
        (estimate.value - (truth[rows, label] - truth[rows, other])) / estimate.stderr, len(estimate.replicates) - 1
    )


@each_shape
def test_the_kind_says_whether_the_score_was_declared_exact(shape):
    laws = class_laws(shape)
    x, label = laws.sample(4, seeded(2))
    assert difference(ScorePair(laws), x, label, 1).kind == "estimate"
    assert difference(ScorePair(laws), x, label, 1, exact=True).kind == "unbiased"
    information = pointwise_information(ScorePair(laws), x, label, exact=True)
    assert (information.value.kind, information.squared.kind) == ("unbiased", "estimate")


def test_shared_noise_is_many_times_as_precise():
    """Variance at 64 evaluations per class in d = 64, without a Gaussian reference that would take most of it away."""
    laws = class_laws((64,), classes=2, components=3, distance=0.5)
    x, _ = laws.sample(60, seeded(3))
    options = {"samples": 64, "exact": True}
    pair = ScorePair(laws)
    pair = pair.replace(
        proposal=LogSNRDensity.from_spectrum(*pair.log_snr_range, torch.ones(64))
    )  # given one, no Gaussian is fitted about each row
    paired = difference(pair, x, 0, 1, generator=seeded(1), **options)
    one, two = (density(pair, x, condition=torch.tensor([c]), generator=seeded(10 + c), **options) for c in (0, 1))
    unpaired = one.stderr.square() + two.stderr.square()
    assert float(unpaired.mean() / paired.stderr.square().mean()) > 8.0


@each_shape
def test_conditions_change_sign_and_vanish(shape):
    laws = class_laws(shape)
    x, label = laws.sample(7, seeded(4))
    there = difference(ScorePair(laws), x, label, None)
    back = difference(ScorePair(laws), x, None, label)
    assert torch.equal(there.value, -back.value)
    assert not difference(ScorePair(laws), x, 1, 1).replicates.any()


def test_a_row_does_not_depend_on_its_batch():
    laws = class_laws((2, 2))
    x, label = laws.sample(70, seeded(5))
    together = difference(ScorePair(laws), x, label, 0).value
    alone = torch.cat([difference(ScorePair(laws), x[i : i + 1], label[i : i + 1], 0).value for i in (0, 33, 69)])
    torch.testing.assert_close(together[[0, 33, 69]], alone, rtol=1e-12, atol=1e-12)


def test_information_matches_the_closed_form_and_adds_up_over_dimensions():
    """i(x; c) of Gaussians in closed form; assert_student's false alarm. Dimensions that tell nothing hold nothing."""
    laws = two_gaussians(5, 1.5)
    x, label = laws.sample(300, seeded(6))
    found = pointwise_information(ScorePair(laws), x, label, exact=True, samples=256, generator=seeded(7))
    truth = laws.log_prob(x)[torch.arange(300), label] - laws.marginal().log_prob(x)
    assert_student((found.value.value - truth) / found.value.stderr, len(found.value.replicates) - 1)
    torch.testing.assert_close(found.map.sum(1), found.value.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.squared_map.sum(1), found.squared.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.map_stderr[:, 0], found.value.stderr, rtol=1e-6, atol=1e-9)
    assert float(found.map[:, 1:].abs().max()) < 1e-9
    assert float(found.squared_map.min()) >= 0.0


def test_the_squared_form_agrees_in_the_mean_only_and_with_less_variance():
    """Mean over the joint law, |z| < 4.42 (false alarm 1e-5); single rows differ by many standard errors."""
    laws = class_laws((2, 2), distance=0.8)
    x, label = laws.sample(1500, seeded(8))
    pair = ScorePair(laws, reference=laws.reference())
    found = pointwise_information(pair, x, label, samples=64, generator=seeded(9))
    gap = found.value.value - found.squared.value
    assert abs(float(gap.mean() / gap.std())) * math.sqrt(len(gap)) < 4.42
    assert float(found.squared.stderr.square().mean()) < 0.7 * float(found.value.stderr.square().mean())
    assert float((gap.abs() > 6.0 * found.value.stderr).double().mean()) > 0.05
    assert found.squared.kind == "estimate"


def test_the_curve_integrates_to_the_difference():
    laws = two_gaussians(4, 2.0)
    x = torch.zeros(2000, 4, dtype=torch.float64) + 1e-3 * torch.arange(2000)[:, None]
    levels = torch.linspace(-15.0, 15.0, 121, dtype=torch.float64)
    curve = difference_curve(ScorePair(laws), x, 0, 1, levels=levels)
    share = torch.sigmoid(levels)
    expected = 0.5 * 4.0 * share * (1.0 - share)
    torch.testing.assert_close(curve.squared, expected[:, None].expand(-1, 2000), rtol=1e-6, atol=1e-9)
    truth = laws.log_prob(x)
    gap = curve.nats() - (truth[:, 0] - truth[:, 1])
    # antithetic noise cancels the odd part, and these integrands have no other
    assert float(gap.abs().max()) < 1e-3


def test_views_are_shared_by_both_conditions():
    """A preprocessing that adds noise drowns nothing: with equal laws the difference stays 0."""
    laws = two_gaussians(3, 0.0)

    def noisy(rows, replicates, seed, round_):
        noise = torch.randn(len(rows), replicates, 3, generator=seeded(seed + round_), dtype=rows.dtype)
        return View(rows[:, None] + noise, torch.zeros(len(rows), replicates, dtype=torch.float64))

    estimate = difference(ScorePair(laws), RandomisedRows(torch.ones(4, 3, dtype=torch.float64), noisy, "mass"), 0, 1)
    assert float(estimate.value.abs().max()) < 1e-12
    assert estimate.measure == "mass"


def test_the_atom_of_a_bound_is_no_part_of_a_difference():
    laws = two_gaussians(2, 1.0)
    x, _ = laws.sample(200, seeded(11))
    proposal = LogSNRDensity.from_spectrum(*laws.process.log_snr_range, torch.ones(1), atom=True)
    estimate = difference(ScorePair(laws, proposal=proposal), x, 0, 1, exact=True, samples=128)
    truth = laws.log_prob(x)
    assert_student((estimate.value - (truth[:, 0] - truth[:, 1])) / estimate.stderr, len(estimate.replicates) - 1)


def test_what_does_not_fit_is_refused():
    laws = two_gaussians(2, 1.0)
    x = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(InputError, match="leading dimension 1 or 3"):
        difference(ScorePair(laws), x, torch.zeros(2, dtype=torch.int64), None)
    with pytest.raises(InputError, match="samples"):
        difference(ScorePair(laws), x, 0, 1, samples=1)
    with pytest.raises(InputError, match="condition"):
        pointwise_information(ScorePair(laws), x, None)
    with pytest.raises(InputError, match=r"x\[0\]"):
        difference(ScorePair(laws), x / 0.0, 0, 1)


def test_a_reference_cancels_in_the_value():
    laws = two_gaussians(3, 1.0)
    x, _ = laws.sample(20, seeded(12))
    proposal = LogSNRDensity.uniform(*laws.process.log_snr_range)
    shifted = Gaussian(torch.full((3,), 5.0), 3.0)
    values = [
        difference(ScorePair(laws, proposal=proposal, reference=reference), x, 0, 1).value
        for reference in (None, shifted)
    ]
    torch.testing.assert_close(*values, rtol=1e-8, atol=1e-8)
