"""Balls about a model: what is inside is seldom rejected, what is outside is found, and 0 is the plain test."""

import math

import pytest
import torch

from girsanov.randomness import seed_of
from girsanov.stein import (
    FiniteSet,
    IncompleteU,
    InverseMultiquadric,
    MarkovBootstrap,
    Matern,
    ParametricBootstrap,
    SquaredExponential,
    SteinBall,
    WildBootstrap,
    goodness_of_fit,
)
from girsanov.stein.gram import dense_gram, diagonal
from girsanov.stein.nulls import random_signs
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SIGNED = {"wild": WildBootstrap(39), "chain": MarkovBootstrap(39), "incomplete": IncompleteU(30, resamples=39)}
each_method = pytest.mark.parametrize("method", SIGNED.values(), ids=SIGNED)
ROBUST = {"kernel": "imq", "diffusion": "robust"}


def draws(n, d=1, seed=0):
    return torch.randn(n, d, generator=seeded(seed))


def normal(x):
    return -x


def contaminated(n, share, seed=0, place=9.0):
    """Rows of the model, each of them foreign with this probability."""
    generator = seeded(seed)
    x = torch.randn(n, 1, generator=generator)
    return torch.where(torch.rand(n, 1, generator=generator) < share, place, x)


def rejected(rows, ball, repeats, score=normal, **options):
    """How many of the repeats are rejected at 5 %, 19 replicates giving p-values in twentieths."""
    found = [
        goodness_of_fit(rows(seed), score, method=ball, generator=seeded(seed), **options) for seed in range(repeats)
    ]
    return sum(result.pvalue <= 0.05 for result in found)


def limit(repeats, rate=0.05):
    """Five standard errors above the mean count."""
    return repeats * rate + 5.0 * math.sqrt(repeats * rate * (1.0 - rate))


@each_method
@pytest.mark.parametrize("kernel", ["imq", None])
def test_a_ball_of_radius_0_is_the_plain_test(method, kernel):
    x = draws(200, 2) + 0.1
    plain, ball = (goodness_of_fit(x, normal, kernel=kernel, method=m) for m in (method, SteinBall(method=method)))
    assert torch.equal(plain.null_distribution, ball.null_distribution)
    assert ball.pvalue == plain.pvalue
    assert ball.radius == plain.radius == 0.0


@each_method
def test_a_ball_changes_the_null_and_nothing_else(method):
    x = draws(200, 2) + 0.3
    plain, ball = (goodness_of_fit(x, normal, method=m) for m in (method, SteinBall(radius=0.1, method=method)))
    assert torch.equal(ball.discrepancies, plain.discrepancies)
    assert ball.pvalue >= plain.pvalue
    assert ball.radius == pytest.approx(0.1)
    assert goodness_of_fit(x, normal, method=SteinBall(radius=10.0, method=method)).pvalue == 1.0


def test_replicates_are_of_a_law_at_the_boundary():
    """Features shifted to a mean of norm theta, random signs about it: the squared norm of their mean, pairs alone."""
    n, theta, kernel = 60, 0.2, InverseMultiquadric(1.0)
    x = draws(n, 2) + 0.4
    gram = dense_gram(SteinPoints.at(x, normal), kernel).fill_diagonal_(0.0)
    signs = random_signs(n, 39, torch.Generator().manual_seed(seed_of(seeded(3)))).double()
    part = theta / (gram.sum() / (n * (n - 1))).sqrt()  # of the sample's mean
    weights = part + signs - part * signs.mean(0)  # mu + (1/n) sum e_i (xi_i - mu) = (1/n) sum_i weights_i xi_i
    expected = (weights * (gram @ weights)).sum(0) / (n * (n - 1))
    found = goodness_of_fit(
        x, normal, kernel=kernel, method=SteinBall(radius=theta, method=WildBootstrap(39)), generator=seeded(3)
    )
    torch.testing.assert_close(found.null_distribution, expected)
    assert float(found.null_distribution.mean()) == pytest.approx(theta**2, rel=0.6)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 2.0**40])
def test_radii_are_those_of_the_bounds_in_any_units(scale):
    x, kernel = contaminated(100, 0.1), InverseMultiquadric(0.7 * scale)
    points = SteinPoints.at(scale * x, lambda z: -(z / scale) / scale)
    largest = float(diagonal(points, kernel).max().sqrt())
    ball = SteinBall(0.02, 0.3 / scale, WildBootstrap(19))
    found = goodness_of_fit(scale * x, lambda z: -(z / scale) / scale, kernel=kernel, method=ball)
    assert found.radius == pytest.approx(0.02 * largest + 0.3 / scale)


@pytest.mark.parametrize("kernel", [InverseMultiquadric(0.5), SquaredExponential(2.0), Matern(0.3)])
def test_both_kinds_of_errors_are_within_their_radii(kernel):
    """A law that is foreign by a share, and a score off by so much in the mean; V-statistics are norms of means."""
    x = draws(800)
    points = SteinPoints.at(torch.cat([x, draws(40, seed=1) * 3.0 + 2.0]), normal)
    gram = dense_gram(points, kernel)
    own, foreign, share = torch.zeros(840), torch.zeros(840), 0.05
    own[:800], foreign[800:] = 1.0 / 800, 1.0 / 40
    mixed = (1.0 - share) * own + share * foreign
    moved = float((mixed @ gram @ mixed).sqrt() - (1.0 - share) * (own @ gram @ own).sqrt())
    assert moved <= share * float(gram.diagonal().max().sqrt())
    error = 0.3 * torch.sin(3.0 * x)
    wrong = dense_gram(SteinPoints.at(x, -x + error), kernel).mean()
    right = dense_gram(SteinPoints.at(x, -x), kernel).mean()
    assert float(wrong.sqrt() - right.sqrt()) <= float(error.abs().mean())


@pytest.mark.parametrize("place", [3.0, 9.0, 1e4])
def test_tolerated_foreign_rows_are_rarely_rejected_and_more_of_them_are(place):
    ball, repeats = SteinBall(contamination=0.05, method=WildBootstrap(19)), 20
    assert rejected(lambda s: contaminated(600, 0.05, s, place), ball, repeats, **ROBUST) <= limit(repeats)
    assert rejected(lambda s: contaminated(600, 0.25, s, place), ball, 5, **ROBUST) == 5


def test_ten_bandwidths_have_ten_balls():
    ball, options = SteinBall(contamination=0.05, method=WildBootstrap(19)), {"kernel": None, "diffusion": "robust"}
    assert rejected(lambda s: contaminated(300, 0.05, s), ball, 20, **options) <= limit(20)
    assert rejected(lambda s: draws(300, seed=s) + 0.6, ball, 5, **options) == 5


def test_many_rows_do_not_reject_a_score_that_is_rounded():
    """In linear time; the plain test finds it, and the ball a larger error."""
    x, digit = draws(10_000), 0.5
    ball = SteinBall(radius=digit, method=IncompleteU(50, resamples=39))

    def rounded(x):
        return torch.trunc(-x / digit) * digit

    def pvalue(x, method):
        return goodness_of_fit(x, rounded, kernel=InverseMultiquadric(1.0), method=method).pvalue

    assert pvalue(x, ball.method) == 1 / 40
    assert pvalue(x, ball) > 0.5
    assert pvalue(x + 1.5, ball) == 1 / 40


@pytest.mark.parametrize("n", [50, 500])
def test_the_level_is_kept_at_the_boundary(n):
    """A shift by 0.2 with the radius that it has: 0.2 times the root of E k(X, X')."""
    kernel, shift, repeats = InverseMultiquadric(1.0), 0.2, 100
    z = torch.linspace(-9.0, 9.0, 2001)
    weights = torch.softmax(-0.5 * z.square(), 0)
    radius = shift * float((weights * kernel.profile(2.0 * z.square())[0]).sum().sqrt())
    ball = SteinBall(radius=radius, method=WildBootstrap(19))
    assert rejected(lambda s: draws(n, seed=s) + shift, ball, repeats, kernel=kernel) <= limit(repeats)
    if n == 500:
        assert rejected(lambda s: draws(n, seed=s) + 3.0 * shift, ball, 20, kernel=kernel) == 20


def test_chains_may_be_tested_in_a_ball():
    ball = SteinBall(contamination=0.1, method=MarkovBootstrap(39))
    assert goodness_of_fit(contaminated(400, 0.05), normal, method=ball, **ROBUST).pvalue > 0.05
    assert goodness_of_fit(draws(400) + 0.8, normal, method=ball, **ROBUST).pvalue <= 0.05


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_shares_that_cannot_be(share):
    with pytest.raises(InputError, match="A share of foreign rows is 0 or more and below 1"):
        SteinBall(contamination=share)


@pytest.mark.parametrize("radius", [-0.1, math.inf, math.nan])
def test_radii_that_cannot_be(radius):
    with pytest.raises(InputError, match="A radius is a finite discrepancy, 0 or more"):
        SteinBall(radius=radius)


@pytest.mark.parametrize(
    "method", [FiniteSet(), ParametricBootstrap(lambda n, g: torch.randn(n, 1, generator=g), None, 9)]
)
def test_methods_without_signs_of_rows_are_refused(method):
    with pytest.raises(InputError, match=r"give method=WildBootstrap\(\), MarkovBootstrap\(\) or IncompleteU\(\)"):
        goodness_of_fit(draws(50), normal, method=SteinBall(radius=0.1, method=method))


def test_slices_are_refused():
    with pytest.raises(InputError, match="leave slices out"):
        goodness_of_fit(draws(50, 3), normal, method=SteinBall(radius=0.1), slices=2)
