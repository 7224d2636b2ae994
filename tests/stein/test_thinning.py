"""Thinning against the greedy rule written out, weights against their optimality, comparisons of two models."""

import pytest
import torch
from scipy.stats import binom

from girsanov.stein import InverseMultiquadric, compare_scores, kernel_stein_discrepancy, stein_thinning, stein_weights
from girsanov.stein.gram import dense_gram
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")
KERNEL = InverseMultiquadric(1.0)


def draws(n, d, seed=0):
    return torch.randn(n, d, generator=seeded(seed))


def field(x):
    return torch.stack([1 + x**2, torch.sin(x), 0.5 * x + 1], -1)


@pytest.mark.parametrize("diffusion", [None, lambda x: 1 + x.square().sum(1), field])
def test_thinning_is_the_greedy_rule(diffusion):
    x = 1.5 * draws(80, 2) + 0.5
    gram = dense_gram(SteinPoints.at(x, lambda x: -x, diffusion), KERNEL)
    chosen = []
    for _ in range(30):
        discrepancy = [float(gram[[*chosen, i]][:, [*chosen, i]].sum()) for i in range(80)]
        chosen.append(min(range(80), key=discrepancy.__getitem__))
    found = stein_thinning(x, lambda x: -x, 30, kernel=KERNEL, diffusion=diffusion)
    assert found.tolist() == chosen


def test_thinned_rows_beat_as_many_random_ones():
    x = 1.5 * draws(500, 2)
    kept = x[stein_thinning(x, lambda x: -x, 40)]
    thinned, random = (
        kernel_stein_discrepancy(rows, lambda x: -x, kernel=KERNEL, statistic="v") for rows in (kept, x[:40])
    )
    assert thinned < 0.2 * random


@pytest.mark.parametrize("signed", [False, True])
def test_weights_are_optimal(signed):
    x = 1.5 * draws(60, 2) + 0.5
    gram = dense_gram(SteinPoints.at(x, lambda x: -x), KERNEL)
    weights = stein_weights(x, lambda x: -x, kernel=KERNEL, signed=signed)
    assert float(weights.sum()) == pytest.approx(1.0)
    slope = gram @ weights
    value = float(weights @ slope)
    used = weights.abs() > 1e-9 if not signed else torch.ones(60, dtype=torch.bool)
    torch.testing.assert_close(slope[used], torch.full_like(slope[used], value), rtol=1e-5, atol=1e-8)
    if not signed:
        assert bool((weights >= 0).all())
        assert bool((slope >= value - 1e-8).all())
        assert value < float(gram.mean())


def test_thinning_keeps_something():
    with pytest.raises(InputError, match="count must be"):
        stein_thinning(draws(5, 1), lambda x: -x, 0)
    with pytest.raises(InputError, match="kernel must be"):
        stein_thinning(draws(5, 1), lambda x: -x, 1, kernel=["imq", "matern"])


def test_the_nearer_model_wins():
    x = draws(500, 3)
    result = compare_scores(x, lambda x: -1.1 * x, lambda x: -x + 0.6)
    assert result.statistic < 0
    assert result.pvalue < 1e-3
    swapped = compare_scores(x, lambda x: -x + 0.6, lambda x: -1.1 * x)
    assert swapped.statistic == pytest.approx(-result.statistic)
    assert swapped.pvalue == pytest.approx(result.pvalue)
    each = [float(kernel_stein_discrepancy(x, score)) for score in (lambda x: -1.1 * x, lambda x: -x + 0.6)]
    assert result.discrepancies == pytest.approx(each)


def test_equally_far_models_tie():
    """False alarm 1e-4 on either side of the level."""
    count = sum(
        compare_scores(draws(200, 1, seed), lambda x: -x + 0.5, lambda x: -x - 0.5).pvalue <= 0.05
        for seed in range(300)
    )
    assert binom.ppf(1e-4, 300, 0.05) <= count <= binom.ppf(1 - 1e-4, 300, 0.05)


def test_one_model_is_not_compared_with_itself():
    with pytest.raises(InputError, match="nothing to compare"):
        compare_scores(draws(20, 2), lambda x: -x, lambda x: -x)
    with pytest.raises(InputError, match="kernel must be"):
        compare_scores(draws(20, 2), lambda x: -x, lambda x: -x, kernel=["imq", "matern"])
