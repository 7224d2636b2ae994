"""Estimates from paths and chains: what they promise, per row and whatever the batch."""

import math

import pytest
import torch

import girsanov as gv
from girsanov.likelihoods.weights import chain_bracket, chain_elbo, feynman_kac, importance_bound, path_log_weight
from girsanov.pairs import AncestralChain, EulerChain, Pair, ScorePair
from girsanov.processes import Process
from girsanov.types import Estimate, InputError
from tests.laws import mixture_case
from tests.linear_pairs import chain_marginal, random_linear_pair
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


class Mismatched(Process):
    """Note of paper 3, section 3 (e): u = -0.9 x, g = 1."""

    def drift(self, t, x):
        return -0.9 * x

    def diffusion(self, t, x):
        return torch.ones(len(x))


def mismatched_pair():
    return Pair(Mismatched(), lambda t, x: 0.5 * x, gv.Gaussian(torch.zeros(1), 1.0))


LIKELIHOODS = {
    "path_log_weight": lambda pair, x, **kw: path_log_weight(pair, x, steps=4, **kw),
    "feynman_kac": lambda pair, x, **kw: feynman_kac(pair, x, steps=4, paths=64, **kw),
    "chain_elbo": lambda pair, x, **kw: chain_elbo(pair, x, steps=4, **kw),
    "importance_bound": lambda pair, x, **kw: importance_bound(pair, x, steps=4, paths=8, **kw),
}
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)


@each_likelihood
def test_a_row_does_not_depend_on_its_batch(likelihood):
    chain, _, _ = random_linear_pair(4, 4, 0, shape=(2, 2))
    x = torch.randn(700, 2, 2, generator=seeded(0))
    together = likelihood(chain.pair, x)
    assert torch.equal(likelihood(chain.pair, x[400:401]).value, together.value[400:401])
    assert torch.equal(likelihood(chain.pair, x.flip(0)).value.flip(0), together.value)


@each_likelihood
def test_the_generator_decides(likelihood):
    chain, _, _ = random_linear_pair(2, 4, 0)
    x = torch.ones(3, 2)
    values = [likelihood(chain.pair, x, generator=seeded(s)).value for s in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@each_likelihood
def test_gradients_with_respect_to_rows(likelihood):
    chain, _, _ = random_linear_pair(2, 4, 0)
    x = torch.ones(1, 2)
    assert not likelihood(chain.pair, x).value.requires_grad
    assert likelihood(chain.pair, x.requires_grad_()).value.requires_grad


@pytest.mark.slow
def test_the_importance_bound_of_the_note():
    """Note of paper 3, section 3 (e): ELBO -1.464, K = 8 -1.418, K = 64 -1.408, truth -1.4057, means over N(0, 1)."""
    x = torch.randn(4000, 1, generator=seeded(0))
    truth = chain_truth(x, 16)
    elbo = chain_elbo(mismatched_pair(), x, steps=16)
    few = importance_bound(mismatched_pair(), x, steps=16, paths=8)
    many = importance_bound(mismatched_pair(), x, steps=16, paths=64, groups=2)
    gaps = [float((truth - estimate.value).mean()) for estimate in (elbo, few, many)]
    assert abs(gaps[0] - 0.0583) < 0.01
    assert abs(gaps[1] - 0.0123) < 0.004
    assert abs(gaps[2] - 0.0023) < 0.002
    assert (elbo.kind, elbo.model, elbo.nfe) == ("lower_bound", "chain", 128)
    assert (many.kind, many.nfe) == ("lower_bound", 16 * 128)


def chain_truth(x, steps):
    """Log-density of the decoder chain x_k = (1 - h / 2) x_{k+1} + sqrt(h) eps from N(0, 1)."""
    h, variance = 1.0 / steps, 1.0
    for _ in range(steps):
        variance = (1.0 - 0.5 * h) ** 2 * variance + h
    return torch.distributions.Normal(0.0, variance**0.5).log_prob(x[:, 0])


def test_intervals_cover_the_exact_mean_of_the_bound():
    """95 % of 2000 rows, by replicates over seeds: between 93 and 97 %."""
    # a fixed pair: Student's t is for log-weights that are not too skewed, and how skewed they are its numbers decide
    chain, _, _ = random_linear_pair(2, 4, 1)
    x = torch.tensor([[0.3, -0.2]]).expand(2000, 2) + 1e-6 * torch.arange(2000)[:, None]
    estimate = chain_elbo(chain, x, paths=128)
    truth = chain_elbo(chain, x[:1], paths=100_000).value
    low, high = estimate.interval()
    assert 0.93 < float(((low < truth) & (truth < high)).double().mean()) < 0.97


@pytest.mark.parametrize("kind", ["isotropic", "matrix"])
def test_the_bracket_holds_the_density(kind):
    """Mean of lower <= mean of log p <= mean of upper; per row, Markov's interval covers at least 95 %."""
    # a fixed pair: how fast the bracket narrows, and whether means settle, depends on how heavy its weights' tails are
    chain, _, _ = random_linear_pair(2, 4, 3, kind=kind)
    truth_of = chain_marginal(chain)
    widths = []
    for paths in (1, 16, 128):
        bracket = chain_bracket(chain, 2000, paths=paths)
        truth = truth_of.log_prob(bracket.x)
        below, above = truth - bracket.lower.value, bracket.upper.value - truth
        for gap in (below, above):
            assert gap.mean() > -4 * gap.std() / math.sqrt(2000)
        low, high = bracket.interval(0.95)
        assert float(((low < truth) & (truth < high)).double().mean()) > 0.95
        low, high = bracket.mean_interval()
        assert low < float(truth.mean()) < high
        assert (bracket.lower.kind, bracket.upper.kind) == ("lower_bound", "upper_bound")
        widths.append(bracket.width.value)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_brackets_interval_of_the_mean_keeps_its_promise_or_none_is_given():
    """Lower and upper bounds that meet, as of an exact chain: rows of a log-density in one dimension."""
    values, hits, repeats = -0.5 * torch.randn(2000, 10, generator=seeded(3)).square(), 0, 2000
    for row in values:
        sides = (Estimate(row, row, kind, "chain", 1, 1) for kind in ("lower_bound", "upper_bound"))
        low, high = gv.likelihoods.Bracket(row[:, None], *sides).mean_interval()
        hits += low <= -0.5 <= high
    assert abs(hits / repeats - 0.945) < 5 * math.sqrt(0.95 * 0.05 / repeats)
    chain, _, _ = random_linear_pair(2, 4, 3)
    with pytest.raises(InputError, match="needs 10 rows or more; got 5"):
        chain_bracket(chain, 5, paths=1).mean_interval()


def test_the_bracket_of_the_reverse_sde_of_a_mixture():
    case, process = mixture_case((2,), seed=1), gv.VariancePreserving()
    chain = AncestralChain(ScorePair(case.density.score(process)), 32)
    wide, narrow = (chain_bracket(chain, 500, paths=paths).width for paths in (1, 16))
    # 32 steps are so many that both are near 0: wider only up to the errors of both
    assert -4.5 * narrow.stderr < narrow.value < wide.value + 4.5 * math.hypot(narrow.stderr, wide.stderr)
    assert wide.value < 0.2


def test_euler_chain_and_path_weight_of_a_score_tend_to_the_elbo():
    case, process = mixture_case((2,), seed=2), gv.VariancePreserving()
    score, x = case.density.score(process), case.rows(20)
    pair = ScorePair(score, process, event_shape=(2,))
    bound = gv.elbo(gv.ScorePair(score, process), x, samples=2048).mean()
    for estimate in (chain_elbo(EulerChain(pair, 400), x), path_log_weight(pair, x, steps=800)):
        mean = estimate.mean()
        assert abs(mean.value - bound.value) < 0.1 + 4 * math.hypot(mean.stderr, bound.stderr)


def test_what_cannot_be_done_is_refused():
    pair = mismatched_pair()
    x = torch.zeros(2, 1)
    with pytest.raises(gv.InputError, match="steps= is needed"):
        chain_elbo(pair, x)
    with pytest.raises(gv.InputError, match="This chain has 4 steps"):
        chain_elbo(EulerChain(pair, 4), x, steps=8)
    with pytest.raises(gv.InputError, match="paths must be a whole number of 1 or more"):
        chain_elbo(pair, x, steps=2, paths=0)
    with pytest.raises(gv.InputError, match="condition must have"):
        chain_elbo(pair, x, steps=2, condition=torch.zeros(3))


def of_coefficient(g, drift=lambda t, x: x):
    class Coefficient(gv.processes.Process):
        def drift(self, t, x):
            return -x

        def diffusion(self, t, x):
            return g(x)

    return Pair(Coefficient(), drift, gv.densities.StandardNormal(), event_shape=(2,))


DEGENERATE = {
    "zero": lambda x: x.new_zeros(len(x)),
    "negative": lambda x: -x.new_ones(len(x)),
    "nan": lambda x: x.new_full((len(x),), math.nan),
    "one direction": lambda x: torch.tensor([1.0, 0.0]).expand(len(x), 2),
    "singular": lambda x: torch.ones(len(x), 2, 2),
}


@pytest.mark.parametrize("g", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("weigh", [chain_elbo, path_log_weight, feynman_kac])
def test_a_degenerate_diffusion_has_no_weights(weigh, g):
    with pytest.raises(InputError, match="must be positive and finite, as a matrix invertible"):
        weigh(of_coefficient(g), torch.zeros(3, 2), steps=2)


DRIFTS = {
    "shape": (lambda t, x: x[:, :1], "returned shape"),
    "nan": (lambda t, x: x * math.nan, "not finite"),
    "detached": (lambda t, x: x.detach(), "do not follow its rows"),
    "failing": (lambda x: x, r"drift fails when it is called as drift\(t, x\)"),
}


@pytest.mark.parametrize(("drift", "sentence"), DRIFTS.values(), ids=DRIFTS)
def test_a_drift_is_looked_at_as_a_score_is(drift, sentence):
    with pytest.raises(InputError, match=sentence):
        path_log_weight(of_coefficient(lambda x: x.new_ones(len(x)), drift), torch.ones(3, 2), steps=2)
