"""The law at the end of a score's range, over processes and likelihoods; and kinds that say what the range resolves.

The truth is a mixture in two dimensions whose score is known on a range that is narrower than the process's at both
ends. With its law at the noise end as the prior, what claims the density must have it, and a bound lacks its known gap.
"""

import math
from functools import lru_cache

import pytest
import torch

import girsanov as gv
from girsanov.densities import StandardNormal
from girsanov.likelihoods.discrete import LatticePoints, categorical_elbo
from girsanov.pairs import AncestralChain, EulerChain, ScorePair
from tests.laws import Known, assert_student, each_process, hermite, note_mixture_2d, quadrature_elbo
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

INNER = (-3.2, 6.0)


def narrow(make_process, span=INNER):
    case, process = note_mixture_2d(), make_process()
    score = Known(case.density.score(process), process, span)
    return case, process, score, ScorePair(score, process).noised(case.density)


@each_process
def test_the_ode_of_an_exact_score_has_the_density_whatever_the_process_does_beyond_its_range(make_process):
    case, process, score, law = narrow(make_process, (-3.2, 9.0))
    x = case.rows(4)
    estimate = gv.ode_log_prob(gv.ScorePair(score, process, prior=law), x)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 5e-3
    assert (estimate.kind, estimate.log_snr_range) == ("exact", (-3.2, 9.0))


@each_process
def test_the_bound_lacks_its_known_gap(make_process):
    case, process, score, law = narrow(make_process)
    x = case.rows(12)
    cut = make_process(log_snr_range=INNER)
    for prior in (law, case.density.moment_match().diffused(*process.marginal_at(torch.tensor(INNER[0])))):
        given = {"prior": prior} if prior is law else {"reference": case.density.moment_match()}
        estimate = gv.elbo(gv.ScorePair(score, process, **given), x, samples=256, generator=seeded(1))
        assert_student(
            (estimate.value - quadrature_elbo(case, cut, x, prior, nodes=40)) / estimate.stderr,
            degrees=len(estimate.replicates) - 1,
        )
        assert estimate.log_snr_range == INNER


@lru_cache
def chain_bound(rows, steps, nodes=24):
    """Mean log-weight of the posterior chain of the exact score, by quadrature: the same for every process."""
    case = note_mixture_2d()
    chain = AncestralChain(
        ScorePair(lambda t, y: -y, gv.VariancePreserving(log_snr_range=INNER), prior=gv.Gaussian(torch.zeros(2), 1.0)),
        steps,
    )
    v, x = torch.exp(-chain.get_buffer("levels")), case.rows(rows)
    eps, weights = hermite(2, nodes)
    errors = []
    for variance in v:
        y = (x[:, None] + variance.sqrt() * eps).flatten(0, 1)
        left = eps.repeat(rows, 1) + variance.sqrt() * case.score(y, 1.0, variance.sqrt())
        errors.append(left.square().sum(1).reshape(rows, -1) @ weights)
    shares = torch.cat([torch.ones(1), v[1:] / v[:-1] - 1.0])
    last = case.twin(1.0, v[-1].sqrt()).log_prob(x[:, None] + v[-1].sqrt() * eps) @ weights
    return last + (v[-1] / v[0]).log() + 1.0 - 0.5 * shares @ torch.stack(errors)


@lru_cache
def drawn_paths(rows, steps):
    """Draws of the exact score with their log-densities along the path."""
    _, process, score, law = narrow(gv.VariancePreserving)
    return gv.sample_with_log_prob(
        gv.ScorePair(score, process, event_shape=(2,), prior=law), rows, steps=steps, generator=seeded(steps)
    )


def test_draws_have_the_law_and_its_density_up_to_the_order_of_their_steps():
    """The error's first order in the steps, taken out by twice as many, leaves nothing beyond five errors."""
    case, rows = note_mixture_2d(), 1024
    errors = []
    for steps in (128, 256):
        drawn, value = drawn_paths(rows, steps)
        errors.append(value.value - case.log_prob(drawn))
        mean, covariance = case.moments()
        assert float(((drawn.mean(0) - mean) / (covariance.diagonal() / rows).sqrt()).abs().max()) < 5.0
    extrapolated = 2.0 * errors[1].mean() - errors[0].mean()
    margin = 5.0 * (4.0 * errors[1].var() / rows + errors[0].var() / rows).sqrt()
    assert abs(float(extrapolated)) < float(margin)


@each_process
def test_samplers_and_chains_start_from_the_law_at_the_end(make_process):
    case, process, score, law = narrow(make_process)
    x = case.rows(3)
    reference = case.density.moment_match()
    bare = ScorePair(score, process, reference=reference)
    end = bare.noised(reference)
    assert torch.equal(bare.prior.log_prob(x), end.log_prob(x))
    chain = AncestralChain(ScorePair(score, process, prior=law), 100)
    bound = gv.chain_elbo(chain, x, paths=64, generator=seeded(2))
    expected = chain_bound(3, 100)
    assert bool((expected < case.log_prob(x)).all())
    assert float(((bound.value - expected) / bound.stderr).abs().max()) < 6.0
    drawn, value = gv.sample_with_log_prob(
        gv.ScorePair(score, process, event_shape=(2,), prior=law), 64, steps=32, generator=seeded(32)
    )
    theirs = drawn_paths(64, 32)  # without the mean scale, the walk is the same for every process
    torch.testing.assert_close(drawn, theirs[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(value.value, theirs[1].value, rtol=1e-6, atol=1e-6)
    default = AncestralChain(bare, 4)
    assert torch.equal(default.prior.log_prob(x), end.log_prob(x))


@each_process
def test_what_is_remembered_and_unsaid_is_refused_in_one_sentence(make_process):
    case, process, score, _ = narrow(make_process)
    x = case.rows(2)
    lattice = LatticePoints(torch.zeros(2), torch.ones(2), 2)
    calls = (
        lambda: gv.elbo(gv.ScorePair(score, process), x),
        lambda: gv.ode_log_prob(gv.ScorePair(score, process), x),
        lambda: categorical_elbo(ScorePair(score, process), x, lattice=lattice),
        lambda: gv.sample(gv.ScorePair(score, process, event_shape=(2,)), 2),
        lambda: gv.sample_with_log_prob(gv.ScorePair(score, process, event_shape=(2,)), 2),
        lambda: AncestralChain(ScorePair(score, process, event_shape=(2,)), 4),
        lambda: gv.ScorePair(score, process).prior,
        lambda: gv.elbo(gv.ScorePair(lambda t, y: score.inner(t, y), make_process(log_snr_range=INNER)), x),
    )
    for call in calls:
        with pytest.raises(gv.InputError, match=r"remembers the data at log-SNR -3.2, .* pass prior=, or a reference"):
            call()


def test_a_pair_of_euler_steps_starts_there_too():
    """The weights are those of a process that ends there; their first order in the steps goes as above."""
    case, process, score, law = narrow(gv.VariancePreserving)
    cut, x = gv.VariancePreserving(log_snr_range=INNER), case.rows(3)
    pair, same = gv.ScorePair(score, process, prior=law), gv.ScorePair(case.density.score(cut), prior=law)
    coarse, fine = (gv.path_log_weight(pair, x, steps=steps, paths=128, generator=seeded(steps)) for steps in (50, 100))
    expected = gv.path_log_weight(same, x, steps=50, paths=128, generator=seeded(50))
    torch.testing.assert_close(coarse.value, expected.value, rtol=1e-9, atol=1e-9)
    error = 2.0 * fine.value - coarse.value - quadrature_elbo(case, cut, x, law, nodes=40)
    spread = (4.0 * fine.stderr.square() + coarse.stderr.square()).sqrt()
    assert float((error / spread).abs().max()) < 5.0
    bound = gv.chain_elbo(EulerChain(pair, 100), x, paths=32, generator=seeded(4))
    assert float(((bound.value - case.log_prob(x)) / bound.stderr).max()) < 5.0


def test_a_range_that_ends_where_the_data_are_forgotten_needs_no_more():
    case, process, score, _ = narrow(gv.processes.Cosine, (-9.0, 9.0))
    x = case.rows(4)
    estimate = gv.ode_log_prob(gv.ScorePair(score, process), x)
    assert float((estimate.value - case.log_prob(x)).abs().max()) < 0.01
    bound = gv.elbo(gv.ScorePair(score, process), x, samples=512, generator=seeded(5))
    assert float(((case.log_prob(x) - bound.value) / bound.stderr).abs().max()) < 6.0


SPIKE = 1e-5  # scale of half of the mass, which log-SNR 15 (scale 5e-4) does not resolve


def spiked():
    variances = torch.tensor([[SPIKE**2, 0.5], [1.0, 0.5]])
    return gv.GaussianMixture(torch.ones(2), torch.zeros(2, 2), variances)


def test_a_score_that_says_it_is_known_farther_is_evaluated_there():
    law, process = spiked(), gv.VariancePreserving()
    x = law.sample(12, generator=seeded(6))
    estimate = gv.ode_log_prob(gv.ScorePair(law.score(process)), x)
    assert estimate.kind == "exact"
    assert estimate.log_snr_range[1] > 30.0
    assert float((estimate.value - law.log_prob(x)).abs().max()) < 0.02
    assert gv.density(gv.ScorePair(law.score(process)), x, exact=True).kind == "unbiased"


@pytest.mark.parametrize("name", ["ode", "density"])
def test_rows_that_the_range_does_not_resolve_are_estimates_and_say_what_they_need(name):
    law, process = spiked(), gv.VariancePreserving()
    oracle = law.score(process)
    plain = lambda t, y: oracle(t, y)  # noqa: E731

    def evaluate(rows):
        if name == "ode":
            return gv.ode_log_prob(gv.ScorePair(plain, process), rows)
        return gv.density(gv.ScorePair(plain, process), rows, exact=True, samples=64)

    x = torch.tensor([[0.0, 0.3], [0.5, -1.0], [0.5 * SPIKE, 0.1], [-1.2, 0.4]])
    found = evaluate(x)
    assert found.kind == "estimate"
    assert found.resolved.tolist() == [False, True, False, True]
    assert float(found.needed[0, 1]) > 17.0
    assert "2 of 4 rows need a score that is known for log-SNR from -10" in found.caveat
    alone = evaluate(x[[1, 3]])
    assert alone.kind == ("exact" if name == "ode" else "unbiased")
    assert alone.caveat == ""
    torch.testing.assert_close(alone.value, found.value[[1, 3]], rtol=1e-12, atol=1e-12)
    assert torch.equal(alone.needed, found.needed[[1, 3]])


def test_a_formula_that_leaves_out_a_noise_end_is_no_unbiased_one():
    case, process = note_mixture_2d(), gv.OrnsteinUhlenbeck(2.0)  # its horizon remembers the data
    oracle = case.density.score(process)
    found = gv.density(gv.ScorePair(lambda t, y: oracle(t, y), process), case.rows(20), exact=True)
    assert found.kind == "estimate"
    assert float(found.needed[:, 0].min()) < process.log_snr_range[0]


def test_differences_beyond_the_range_are_estimates():
    process, far = gv.VariancePreserving(), torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    laws = [gv.Gaussian(mean, 1.0).score(process) for mean in far]

    class Labelled:
        log_snr_range = (-3.0, 9.0)

        def __call__(self, t, x, c):
            return torch.where(c[:, None] == 0, laws[0](t, x), laws[1](t, x))

    x = torch.tensor([[3.0, 1.0]])
    found = gv.difference(gv.ScorePair(Labelled(), process), x, 0, 1, exact=True, samples=64)
    assert found.kind == "estimate"
    assert float(found.needed[0, 0]) < -4.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_promises_no_more_than_an_estimate(dtype):
    case, process = note_mixture_2d(), gv.VariancePreserving()
    reference = case.density.moment_match()
    torch.manual_seed(0)
    network = gv.networks.ResidualMLP((2,), width=8, blocks=1).to(dtype)
    model = gv.ScoreModel(network, process, reference=reference)
    x = case.rows(3)
    found = gv.ode_log_prob(gv.ScorePair(model, process), x, solver=gv.solvers.FixedGrid(4))
    assert found.kind == "estimate"
    assert bool(found.value.isfinite().all())
    assert gv.density(gv.ScorePair(model, process), x, exact=True).kind == "estimate"
    assert gv.elbo(gv.ScorePair(model, process), x).kind == "lower_bound"
    smooth = gv.ScoreModel(network.float(), process, reference=reference)
    wide = gv.ode_log_prob(gv.ScorePair(smooth, process), x, solver=gv.solvers.FixedGrid(4))
    assert wide.kind == "exact"
    torch.testing.assert_close(found.value, wide.value, rtol=0.0, atol=0.05)


@pytest.mark.parametrize("offset", [10.0, 300.0])
def test_data_far_off_are_remembered_at_the_horizon_too(offset):
    """N(0, I) at the horizon would be off by alpha times the offset: the reference's law stands there."""
    means = torch.tensor([[offset - 1.0, offset], [offset + 1.0, offset]], dtype=torch.float64)
    law = gv.GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.full((2, 2), 0.5, dtype=torch.float64))
    x = law.sample(4, generator=seeded(0))
    pair = gv.ScorePair(law.score(gv.VariancePreserving()), reference=law.moment_match())
    found = gv.ode_log_prob(pair, x)
    assert found.kind == "exact"
    torch.testing.assert_close(found.value, law.log_prob(x), rtol=0.0, atol=1e-4)
    near = gv.ScorePair(law.score(gv.VariancePreserving()), prior=StandardNormal())
    assert float((gv.ode_log_prob(near, x).value - law.log_prob(x)).abs().max()) > 0.02


RANGES = [(9.0, -9.0), (3.0, 3.0), (-math.inf, math.inf), (math.nan, 2.0), (-1.0, 2.0, 3.0), "ab", 4.0]


@pytest.mark.parametrize("given", RANGES, ids=str)
def test_a_range_that_is_none_is_refused_whoever_declares_it(given):
    class Declared:
        process, log_snr_range = gv.VariancePreserving(), given

        def __call__(self, t, x):
            return -x

    with pytest.raises(gv.InputError, match=r"log_snr_range must be \(low, high\)"):
        gv.ScorePair(Declared())
    with pytest.raises(gv.InputError, match=r"log_snr_range must be \(low, high\)"):
        gv.ScorePair(lambda t, x: -x, gv.VariancePreserving(), log_snr_range=given)


def test_ranges_of_score_and_process_that_do_not_meet_are_refused():
    process = gv.VariancePreserving(log_snr_range=(-10.0, 0.0))
    with pytest.raises(gv.InputError, match="share no range"):
        gv.ScorePair(lambda t, x: -x, process, log_snr_range=(2.0, 9.0))
