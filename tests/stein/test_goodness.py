"""Tests of fit: bookkeeping, level, power, chains, fitted models, slices, linear time.

A rejection count is compared with the binomial quantile that it exceeds with probability 1e-4.
"""

import math

import pytest
import torch
from scipy.stats import binom

from girsanov.randomness import seed_of
from girsanov.stein import (
    FiniteSet,
    IncompleteU,
    InverseMultiquadric,
    MarkovBootstrap,
    Matern,
    ParametricBootstrap,
    WildBootstrap,
    autocorrelation_time,
    bandwidth_collection,
    goodness_of_fit,
    kernel_stein_discrepancy,
    median_bandwidth,
)
from girsanov.stein.gram import dense_gram, gram_sums
from girsanov.stein.linear_time import _gaussian_draws, stein_features
from girsanov.stein.nulls import random_signs
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError
from tests.laws import hermite
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

METHODS = {
    "wild": WildBootstrap(99),
    "markov": MarkovBootstrap(99),
    "parametric": ParametricBootstrap(lambda n, g: torch.randn(n, 2, generator=g), resamples=99),
    "finite-set": FiniteSet(resamples=99),
    "finite-set-optimised": FiniteSet(optimise=True, steps=20, resamples=99),
    "incomplete": IncompleteU(40, resamples=99),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def draws(n, d, seed=0):
    return torch.randn(n, d, generator=seeded(seed))


def normal(x):
    return -x


@each_method
@pytest.mark.parametrize("kernel", [None, InverseMultiquadric(0.7)], ids=["default", "given"])
def test_results_are_free_of_units_in_single_precision(method, kernel):
    x = draws(120, 2).float() + 0.5

    def test(scale):
        sampled = isinstance(method, ParametricBootstrap)
        own = (
            ParametricBootstrap(lambda n, g: scale * torch.randn(n, 2, generator=g), resamples=19)
            if sampled
            else method
        )
        own_kernel = None if kernel is None else kernel.in_units(1.0 / scale)
        options = {"method": own, "kernel": own_kernel, "generator": seeded(1)}
        return goodness_of_fit(scale * x, lambda z: -(z / scale) / scale, **options)

    base = test(1.0)
    assert 0.0 < base.effect_size <= 1.0
    for scale in (2.0**-80, 2.0**-30, 1e-9, 1e12, 2.0**45):
        found = test(scale)
        assert found.pvalue == pytest.approx(base.pvalue, abs=0.021)  # one replicate may change its rank
        assert found.effect_size == pytest.approx(base.effect_size, rel=1e-3)
        for name in ("discrepancy", "stderr"):
            assert getattr(found, name) * scale**2 == pytest.approx(getattr(base, name), rel=1e-3)
        assert found.kernels[0].bandwidth == pytest.approx(scale * base.kernels[0].bandwidth, rel=1e-3)


def rejections(test, repeats, level=0.05):
    return sum(test(seed) <= level for seed in range(repeats))


def assert_level(count, repeats, level=0.05):
    assert count <= binom.ppf(1 - 1e-4, repeats, level)


@each_method
def test_every_method_keeps_the_books(method):
    x = draws(120, 2)
    for kernel in ("imq", ["imq", Matern()], None):
        result = goodness_of_fit(x, normal, kernel=kernel, method=method)
        null = result.null_distribution
        assert len(null) == 99
        assert result.pvalue == (1 + int((null >= result.statistic).sum())) / 100
        assert result.pvalue >= 0.01
        count = len(result.kernels)
        assert result.discrepancies.shape == result.pvalues.shape == result.effect_sizes.shape == (count,)
        assert result.statistic == result.discrepancy or count > 1
        again = goodness_of_fit(x, normal, kernel=kernel, method=method)
        assert torch.equal(null, again.null_distribution)


@each_method
def test_every_method_has_power(method):
    result = goodness_of_fit(draws(400, 2) + 0.6, normal, method=method)
    assert result.pvalue == 0.01
    assert 0.01 < result.effect_size < 1.0
    assert 0.0 < result.stderr < result.discrepancy


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "parametric"])
def test_every_method_keeps_its_level(name):
    def test(seed):
        x, generator = draws(100, 2, seed), seeded(seed + 1000)
        return goodness_of_fit(x, normal, kernel="imq", method=METHODS[name], generator=generator).pvalue

    assert_level(rejections(test, 150), 150)


@pytest.mark.slow
def test_the_aggregated_test_keeps_its_level_and_uses_it():
    def test(seed):
        method, generator = WildBootstrap(99), seeded(seed + 1000)
        return goodness_of_fit(draws(80, 3, seed), normal, method=method, generator=generator).pvalue

    count = rejections(test, 400)
    assert_level(count, 400)
    assert count >= binom.ppf(1e-4, 400, 0.05)


@pytest.mark.parametrize("n", [20, 50])
def test_ten_bandwidths_keep_their_level_in_few_rows(n):
    def test(seed):
        return goodness_of_fit(draws(n, 2, seed), normal, method=WildBootstrap(19), generator=seeded(seed)).pvalue

    assert rejections(test, 100) <= 100 * 0.05 + 5 * math.sqrt(100 * 0.05 * 0.95)


def test_kernels_that_rest_on_few_pairs_take_no_part():
    """Beside one that rests on many, the p-value is that one's own; alone, a kernel is always tested."""
    side, wide, narrow = torch.tensor([-1.0, 0.1, 1.2]), InverseMultiquadric(2.0), InverseMultiquadric(0.02)
    x = torch.cartesian_prod(side, side, side)  # one close pair beside a grid, whatever the seed
    x[1] = x[0] + 0.01
    sums = gram_sums(SteinPoints.at(x, normal), [wide, narrow], rows=True)
    gram = dense_gram(SteinPoints.at(x, normal), narrow).fill_diagonal_(0.0)
    torch.testing.assert_close(sums.spread[1], gram.triu().square().sum() / gram.square().max())
    assert float(sums.spread[0]) > 5.0 > float(sums.spread[1])
    both = goodness_of_fit(x, normal, kernel=[wide, narrow])
    assert both.pvalue == goodness_of_fit(x, normal, kernel=wide).pvalue
    assert len(both.pvalues) == 2
    alone = goodness_of_fit(x, normal, kernel=narrow)
    assert alone.pvalue == both.pvalues[1]


def test_statistics_are_the_discrepancy():
    x, kernels = draws(90, 3), [InverseMultiquadric(1.0), Matern(2.0)]
    result = goodness_of_fit(x, normal, kernel=kernels)
    torch.testing.assert_close(result.discrepancies, kernel_stein_discrepancy(x, normal, kernel=kernels))
    chain = goodness_of_fit(x, normal, kernel=kernels, method=MarkovBootstrap(9))
    expected = kernel_stein_discrepancy(x, normal, kernel=kernels, statistic="v")
    torch.testing.assert_close(chain.discrepancies, expected)


def test_replicates_are_quadratic_forms_of_signs():
    x, kernel = draws(50, 2), InverseMultiquadric(1.0)
    gram = dense_gram(SteinPoints.at(x, normal), kernel).fill_diagonal_(0.0)
    signs = random_signs(50, 19, torch.Generator().manual_seed(seed_of(seeded(3)))).double()
    result = goodness_of_fit(x, normal, kernel=kernel, method=WildBootstrap(19), generator=seeded(3))
    torch.testing.assert_close(result.null_distribution, (signs * (gram @ signs)).sum(0) / (50 * 49))


def test_effect_size_does_not_depend_on_the_number_of_rows():
    few, many = (goodness_of_fit(draws(n, 2) * 1.5, normal, kernel="imq").effect_size for n in (300, 1500))
    assert few == pytest.approx(many, rel=0.35)
    assert abs(goodness_of_fit(draws(1500, 2), normal, kernel="imq").effect_size) < 0.005


def test_effect_size_is_the_mean_over_the_root_mean_square_of_pairs():
    x, kernel = draws(60, 2) + 0.5, InverseMultiquadric(1.0)
    off = dense_gram(SteinPoints.at(x, normal), kernel)[~torch.eye(60, dtype=torch.bool)]
    expected = float(off.mean() / off.square().mean().sqrt())
    for method in (WildBootstrap(9), MarkovBootstrap(9), IncompleteU(59, resamples=9)):
        assert goodness_of_fit(x, normal, kernel=kernel, method=method).effect_size == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 5])
def test_an_effect_shows_in_five_rows_over_it(d):
    """More than half of the tests with n = 5 / effect find it, and with a fifth of that many rows few do."""
    kernel = InverseMultiquadric(2.0)
    effect = goodness_of_fit(draws(3000, d) + 0.2, normal, kernel=kernel, method=WildBootstrap(1)).effect_size

    def power(n):
        def test(seed):
            x, generator = draws(n, d, seed) + 0.2, seeded(seed)
            return goodness_of_fit(x, normal, kernel=kernel, method=WildBootstrap(99), generator=generator).pvalue

        return rejections(test, 60) / 60

    assert power(round(5 / effect)) > 0.5
    assert power(round(1 / effect)) < 0.35


@pytest.mark.parametrize(
    "method",
    [WildBootstrap(1), FiniteSet(resamples=1), *(IncompleteU(count, resamples=1) for count in (1, 10, 99))],
    ids=["wild", "finite-set", "incomplete-1", "incomplete-10", "incomplete-99"],
)
def test_standard_errors_are_the_spread_over_samples(method):
    """Where the model is wrong. Over 150 samples, within 25 %: the spread's own error is 6 %."""
    kernel = InverseMultiquadric(1.0)
    found = [goodness_of_fit(draws(100, 2, seed) + 0.7, normal, kernel=kernel, method=method) for seed in range(150)]
    spread = float(torch.tensor([result.discrepancy for result in found]).std())
    assert sum(result.stderr for result in found) / 150 == pytest.approx(spread, rel=0.25)


@each_method
def test_units_do_not_matter(method):
    if isinstance(method, ParametricBootstrap):
        method = ParametricBootstrap(lambda n, g: 1e-3 * torch.randn(n, 2, generator=g), resamples=99)
        before = METHODS["parametric"]
    else:
        before = method
    x = draws(150, 2) + 0.15
    plain = goodness_of_fit(x, normal, method=before)
    tiny = goodness_of_fit(1e-3 * x, lambda x: -x * 1e6, method=method)
    # a rounding error may turn one replicate's rank
    assert plain.pvalue == pytest.approx(tiny.pvalue, abs=0.011)
    assert plain.effect_size == pytest.approx(tiny.effect_size, rel=1e-3)


def test_event_shapes_are_flattened():
    x = draws(60, 4)
    flat = goodness_of_fit(x, normal).pvalue
    assert goodness_of_fit(x.reshape(60, 1, 2, 2), normal).pvalue == flat
    assert goodness_of_fit(x.reshape(60, 1, 2, 2), -x).pvalue == flat


def test_arrays_will_do():
    x = draws(60, 2)
    expected = goodness_of_fit(x, normal).pvalue
    assert goodness_of_fit(x.numpy(), -x.numpy()).pvalue == expected
    assert float(kernel_stein_discrepancy(x.numpy(), -x.numpy())) == float(kernel_stein_discrepancy(x, normal))


def test_a_result_begins_with_its_pvalue():
    result = goodness_of_fit(draws(60, 2), normal)
    assert repr(result).startswith(f"p = {result.pvalue:.2g}, effect {result.effect_size:.2g}, 60 rows")


def test_scores_may_differentiate_an_energy():
    def score(x):
        point = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((-0.5 * point.square()).sum(), point)
        return slope

    assert goodness_of_fit(draws(60, 2), score).pvalue == goodness_of_fit(draws(60, 2), normal).pvalue


@pytest.mark.parametrize(("rho", "time"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_autocorrelation_time_of_a_chain(rho, time):
    assert autocorrelation_time(autoregression(40_000, rho, 1)) == pytest.approx(time, rel=0.15)


def autoregression(n, rho, seed, chains=1, burn=200):
    """Chains with standard normal marginals, one per column."""
    noise = draws(n + burn, chains, seed)
    x, scale = [noise[0]], math.sqrt(1 - rho**2)
    for step in noise[1:]:
        x.append(rho * x[-1] + scale * step)
    return torch.stack(x[burn:])


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "n", "d"), [(0.0, 100, 1), (0.5, 200, 1), (0.5, 200, 3), (0.9, 1000, 1)])
def test_chains_keep_their_level_where_independent_signs_do_not(rho, n, d):
    """At most 7 %, and five standard errors of 120 chains: worth 50 rows or more."""
    kernel, repeats, refused = InverseMultiquadric(1.0), 120, []
    chains = autoregression(n, rho, 0, repeats * d)

    def count(method):
        def test(seed):
            x, generator = chains[:, seed * d : (seed + 1) * d], seeded(seed)
            try:
                return goodness_of_fit(x, normal, kernel=kernel, method=method, generator=generator).pvalue
            except InputError:
                refused.append(seed)
                return 1.0

        return rejections(test, repeats)

    assert count(MarkovBootstrap(99)) <= binomial_limit(repeats, 0.07)
    assert len(refused) < 0.2 * repeats
    if rho == 0.9:
        assert count(WildBootstrap(99)) > 0.5 * repeats


def binomial_limit(repeats, rate):
    """Five standard errors above the mean count."""
    return repeats * rate + 5.0 * math.sqrt(repeats * rate * (1.0 - rate))


@pytest.mark.parametrize(("rho", "n"), [(0.5, 50), (0.9, 50), (0.97, 50), (0.9, 200), (0.97, 500)])
def test_chains_that_are_worth_too_little_are_refused_or_seldom_rejected(rho, n):
    """Worth 17 rows at most: 40 chains, of which a twentieth would be rejected by a test at its level."""
    rejected, said = 0, set()
    for seed, x in enumerate(autoregression(n, rho, 1, 40).T):
        try:
            result = goodness_of_fit(
                x[:, None], normal, kernel="imq", method=MarkovBootstrap(19), generator=seeded(seed)
            )
            rejected += result.pvalue <= 0.05
        except InputError as error:
            said.add(str(error).split(" are worth ")[0])
    assert said == {f"The {n} states of this chain"}
    assert rejected <= binomial_limit(40, 0.05)


@pytest.mark.parametrize("n", [60, 400])
def test_blocks_are_as_many_as_the_root_of_the_worth_and_seven_at_least(n):
    """Independent rows in a chain: replicates are sums over blocks alone, under the signs of blocks."""
    x, kernel = draws(n, 1), InverseMultiquadric(1.0)
    worth = n / autocorrelation_time(x)
    blocks = max(7, round(1.1 * math.sqrt(worth)))
    points = SteinPoints.at(x, normal)
    found = goodness_of_fit(x, normal, kernel=kernel, method=MarkovBootstrap(29), generator=seeded(5))
    signs = random_signs(blocks, 29, torch.Generator().manual_seed(seed_of(seeded(5)))).double()
    signs = signs[torch.arange(n) * blocks // n]
    expected = (signs * (dense_gram(points, kernel) @ signs)).sum(0) / n**2
    torch.testing.assert_close(found.null_distribution, expected)


def test_a_chain_that_is_refused_may_be_tested_with_signs_of_a_given_memory():
    x = autoregression(200, 0.97, 1)
    with pytest.raises(InputError, match="independent rows, too few for a test, which needs 30: run the chain longer"):
        goodness_of_fit(x, normal, method=MarkovBootstrap(19))
    assert goodness_of_fit(x, normal, method=MarkovBootstrap(19, flip=0.01)).effective_n < 30


@pytest.mark.parametrize(("rho", "n"), [(0.0, 100), (0.5, 200), (0.9, 1000)])
def test_the_worth_of_short_chains_is_right_in_the_middle(rho, n):
    """Median over 60 chains, to a quarter: five standard errors, since a single chain's has a spread of a third."""
    found = torch.tensor([n / autocorrelation_time(x[:, None]) for x in autoregression(n, rho, 3, 60).T])
    assert float(found.median()) == pytest.approx(n * (1 - rho) / (1 + rho), rel=0.25)


def test_signs_that_never_change_are_ties():
    """Few blocks: some replicates are the sample itself, and count against it to the last digit."""
    x = draws(40, 1) + 3.0
    result = goodness_of_fit(x, normal, kernel="imq", method=MarkovBootstrap(2999))
    assert int((result.null_distribution == result.statistic).sum()) >= 1
    assert result.pvalue > 1 / 3000


def test_markov_signs_flip_as_often_as_asked():
    signs = random_signs(4000, 50, seeded(0), flip=0.1).double()
    assert float((signs[1:] != signs[:-1]).double().mean()) == pytest.approx(0.1, abs=0.003)
    assert abs(float(signs[0].mean())) < 0.6
    assert set(signs.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.slow
def test_a_refit_keeps_the_level_of_fitted_models():
    """Mean and scale are fitted to the tested rows: without a refit the test hardly ever rejects."""

    def fit(x):
        mean, variance = x.mean(0), x.var(0)
        return lambda y: -(y - mean) / variance

    def test(seed):
        x = 3.0 + 2.0 * draws(50, 1, seed)
        mean, scale = x.mean(0), x.std(0)
        method = ParametricBootstrap(lambda n, g: mean + scale * torch.randn(n, 1, generator=g), fit, 39)
        return goodness_of_fit(x, fit(x), kernel="imq", method=method, generator=seeded(seed + 1000)).pvalue

    count = rejections(test, 150)
    assert_level(count, 150)
    assert count >= binom.ppf(1e-3, 150, 0.05)


# Slices


def test_one_slice_in_one_dimension_is_no_slice():
    x = draws(40, 1)
    kernel = InverseMultiquadric(1.0)
    torch.testing.assert_close(
        kernel_stein_discrepancy(x, normal, kernel=kernel, slices=3), kernel_stein_discrepancy(x, normal, kernel=kernel)
    )


def test_slices_are_differentiable_and_see_a_shift_in_many_dimensions():
    x = draws(300, 40)
    shift = torch.zeros(40, requires_grad=True)
    value = kernel_stein_discrepancy(x, lambda x: -(x - shift), slices=5)
    (slope,) = torch.autograd.grad(value, shift)
    assert bool((slope != 0).any())
    shifted = goodness_of_fit(x + 0.25, normal, slices=10, method=WildBootstrap(99))
    assert shifted.pvalue == 0.01
    assert goodness_of_fit(x, normal, slices=10, method=WildBootstrap(99)).pvalue > 0.01


# Linear time


def test_stein_features_are_their_definition():
    x, places, kernel = draws(7, 2), draws(3, 2, 1), InverseMultiquadric(1.2)

    def matrix(x):
        return torch.stack([1 + x**2, torch.sin(x), 0.5 * x + 1], -1)

    points = SteinPoints.at(x, lambda x: -(x**3), matrix)
    features = stein_features(points, kernel, places - x.mean(0))
    for j, place in enumerate(places):
        point = x.clone().requires_grad_()
        k = (1 + (point - place).square().sum(1) / 1.44) ** -0.5
        (slope,) = torch.autograd.grad(k.sum(), point)
        expected = points.b * k[:, None] + torch.einsum("ndr,nd->nr", matrix(x), slope)
        torch.testing.assert_close(features[:, :, j], expected.detach() / 3.0)


def test_stein_features_have_mean_zero_under_the_model():
    x, weights = hermite(2, 60)
    tau = stein_features(SteinPoints(x, -x), InverseMultiquadric(3.0), draws(4, 2))
    assert float((weights @ tau.flatten(1)).abs().max()) < 1e-6


def test_finite_set_statistic_is_the_u_statistic_of_its_features():
    x = draws(60, 2) + 0.3
    result = goodness_of_fit(x, normal, kernel=InverseMultiquadric(1.0), method=FiniteSet(3, resamples=9999))
    points = SteinPoints.at(x, normal)
    source = torch.Generator().manual_seed(seed_of(None))
    tau = stein_features(points, InverseMultiquadric(1.0), _gaussian_draws(points.x, 3, source)).flatten(1)
    gram = (tau @ tau.T).fill_diagonal_(0.0)
    assert result.discrepancy == pytest.approx(float(gram.sum()) / (60 * 59), rel=1e-9)
    # the null's spread is that of 9,999 draws of heavy tails: a root of two would show
    assert result.effect_size == pytest.approx(float(gram.mean() / gram.square().mean().sqrt()), rel=0.1)


def test_learning_places_raises_power():
    """A narrow bump of the score's error that places near the middle of the data do not see."""

    def score(x):
        return -x + 3.0 * torch.exp(-8.0 * (x - 2.0).square())

    x = draws(6000, 1)
    fixed, learned = (
        goodness_of_fit(x, score, kernel="imq", method=FiniteSet(1, optimise=optimise, resamples=99))
        for optimise in (False, True)
    )
    assert learned.effect_size > fixed.effect_size
    assert learned.pvalue <= 0.05


def test_all_diagonals_are_the_complete_statistic():
    x, kernels = draws(40, 2), [InverseMultiquadric(1.0), Matern(2.0)]
    result = goodness_of_fit(x, normal, kernel=kernels, method=IncompleteU(39, resamples=9))
    torch.testing.assert_close(result.discrepancies, kernel_stein_discrepancy(x, normal, kernel=kernels))
    few = goodness_of_fit(x, normal, kernel=kernels, method=IncompleteU(2, resamples=9))
    gram = dense_gram(SteinPoints.at(x, normal), kernels[0])
    expected = (gram.diagonal(1).sum() + gram.diagonal(2).sum()) / (39 + 38)
    assert float(few.discrepancies[0]) == pytest.approx(float(expected))


# Bandwidths


def test_bandwidths_follow_the_units():
    x = draws(200, 3)
    assert median_bandwidth(5.0 * x) == pytest.approx(5.0 * median_bandwidth(x))
    widths, wider = bandwidth_collection(x), bandwidth_collection(5.0 * x)
    assert wider == pytest.approx([5.0 * width for width in widths])
    assert widths[0] == pytest.approx(median_bandwidth(x) / 30)
    assert widths[-1] == pytest.approx(float(torch.pdist(x).max()) / 3)
    assert len(widths) == 10


def test_many_bandwidths_are_one_pass():
    x, widths = draws(60, 2), (0.3, 1.0, 3.0)
    together = kernel_stein_discrepancy(x, normal, kernel=[InverseMultiquadric(width) for width in widths])
    alone = [kernel_stein_discrepancy(x, normal, kernel=InverseMultiquadric(width)) for width in widths]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cosine"}, "Unknown kernel"),
        ({"kernel": []}, "empty list"),
        ({"kernel": InverseMultiquadric(-0.0)}, "positive"),
        ({"kernel": InverseMultiquadric(math.nan)}, "positive"),
        ({"method": WildBootstrap(0)}, "resamples must be"),
        ({"method": MarkovBootstrap(flip=0.7)}, "at most 1/2"),
        ({"method": IncompleteU(50)}, "1 to 29 diagonals"),
        ({"method": FiniteSet(0)}, "one location"),
        ({"slices": 0}, "slices must be"),
        ({"slices": 2, "diffusion": "robust"}, "leave diffusion out"),
        ({"slices": 2, "method": FiniteSet()}, "no slices"),
        ({"score": lambda x: x * math.nan}, "not finite"),
        ({"score": lambda x: x * 1e200}, "overflows"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        goodness_of_fit(draws(30, 2), **({"score": normal} | options))


def test_equal_rows_have_no_scale():
    with pytest.raises(InputError, match="All points are equal"):
        goodness_of_fit(torch.ones(10, 2), normal)


def test_an_exponent_lies_between_zero_and_one():
    with pytest.raises(InputError, match="exponent"):
        InverseMultiquadric(1.0, exponent=-0.5)


def test_samples_of_a_fixed_score_tensor_cannot_be_drawn():
    with pytest.raises(InputError, match="as a callable"):
        goodness_of_fit(draws(30, 2), -draws(30, 2), method=METHODS["parametric"])


@pytest.mark.parametrize("statistic", ["u", "v"])
def test_minimum_discrepancy_finds_the_parameters(statistic):
    """The gradient through tiles trains: location and precision of a Gaussian in two dimensions."""
    x = torch.tensor([1.0, -2.0]) + 0.5 * draws(400, 2)
    theta = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([theta], max_iter=40, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = kernel_stein_discrepancy(
            x, lambda x: -(x - theta[:2]) * theta[2].exp(), kernel="imq", statistic=statistic, block=256
        )
        loss.backward()
        return loss

    optimiser.step(closure)
    found = theta.detach()
    assert found[:2].tolist() == pytest.approx([1.0, -2.0], abs=0.12)
    assert float(found[2].exp()) == pytest.approx(4.0, rel=0.2)


def test_single_precision_agrees_with_double():
    x = draws(500, 5)
    double = kernel_stein_discrepancy(x, lambda x: -1.2 * x, kernel=InverseMultiquadric(2.0))
    single = kernel_stein_discrepancy(x.float(), lambda x: -1.2 * x, kernel=InverseMultiquadric(2.0))
    assert single.dtype == torch.float64
    assert float(single) == pytest.approx(float(double), rel=1e-4)


def test_sums_of_the_gram_matrix_scale():
    points = SteinPoints.at(draws(20, 2), normal)
    sums = gram_sums(points, [InverseMultiquadric(1.0)], rows=True)
    torch.testing.assert_close(((sums + sums) / 2.0).rows, sums.rows)
