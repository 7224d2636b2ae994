"""Four losses, one number: at a level by quadrature, over all levels by paired z-tests against the bound itself."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from girsanov.calculus import Hutchinson, Noised
from girsanov.densities import Gaussian, StandardNormal
from girsanov.likelihoods import Replicates, elbo, loss_bound
from girsanov.networks import ResidualMLP
from girsanov.objectives import (
    Batch,
    DebiasedTime,
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    ScoreMatchingObjective,
    SlicedScoreMatching,
    UniformTime,
    fit_times,
    independent,
    uniform_weight,
)
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VarianceExploding, VariancePreserving
from girsanov.types import InputError
from tests.laws import (
    Known,
    assert_student,
    each_process,
    gaussian_case,
    hermite,
    mixture_case,
    note_mixture_1d,
    note_mixture_2d,
)
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHORT = (-4.0, 3.0)
PRIOR = StandardNormal()

#: valid for every row
PER_ROW = {
    "denoising": DenoisingScoreMatching,
    "implicit": ImplicitScoreMatching,
    "implicit-probes": lambda: ImplicitScoreMatching(Hutchinson(2)),
    "sliced": lambda: SlicedScoreMatching(1),
    "sliced-plain": lambda: SlicedScoreMatching(2, reduced_variance=False),
}

each_loss = pytest.mark.parametrize("make_loss", PER_ROW.values(), ids=PER_ROW)


def perturbed(score):
    """A wrong score with a divergence of its own."""
    return lambda t, x: 0.8 * score(t, x) + 0.2 * torch.sin(1.5 * x) - 0.1 * x.flip(-1)


def signs_of(d: int) -> torch.Tensor:
    """All 2^d sign vectors, so that a mean over them is the exact mean over probes."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * d).reshape(-1, d)


def integrand(loss, pair, row, level, nodes: int = 40) -> torch.Tensor:
    """J at one level given one row, by quadrature over eps and all probes."""
    eps, weights = hermite(len(row), nodes)
    levels = torch.full((len(eps),), level)
    signs = signs_of(len(row))[:, None].expand(-1, len(eps), -1)
    pairs = [(a, b) for a in signs for b in signs] if loss.probes == 2 else [(a,) for a in signs]
    total = torch.zeros(())
    for chosen in pairs:
        at = Noised.of(levels, row.expand(len(eps), -1), eps, signs=torch.stack(chosen))
        total = total + weights @ (loss.loss(pair, at) + loss.constant(at)) / len(pairs)
    return total


@each_process
@each_loss
@pytest.mark.parametrize("make_case", [note_mixture_1d, note_mixture_2d])
def test_all_losses_have_one_integrand_given_the_row(make_case, make_loss, make_process):
    case, process = make_case(), make_process(log_snr_range=SHORT)
    pair = ScorePair(perturbed(case.density.score(process)), process)
    row = case.means[0] - 0.3  # on the flank of one component; between two the quadrature would need more nodes
    for level in (-1.0, 1.5):
        expected = integrand(DenoisingScoreMatching(), pair, row, level)
        torch.testing.assert_close(integrand(make_loss(), pair, row, level), expected, rtol=0, atol=2e-6)


def test_the_explicit_loss_has_the_same_integrand_in_the_mean_over_data():
    """Quadrature over the data too, in one dimension."""
    case, process = note_mixture_1d(), VariancePreserving(log_snr_range=SHORT)
    oracle = case.density.score(process)
    pair, level = ScorePair(perturbed(oracle), process), 0.5
    rows = torch.linspace(-6.0, 6.0, 401)[:, None]
    weight = case.log_prob(rows).exp() * (12.0 / 400)
    means = [
        sum(w * integrand(loss, pair, row, level, nodes=24) for row, w in zip(rows, weight, strict=True))
        for loss in (ExplicitScoreMatching(ScorePair(oracle)), DenoisingScoreMatching())
    ]
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-6)


def quadrature_bound(case, pair, x, points: int = 40, nodes: int = 30):
    """The whole bound of any score: Gauss-Legendre in log-SNR, Gauss-Hermite in eps, prior N(0, I)."""
    low, high = pair.log_snr_range
    steps, shares = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(points))
    levels = torch.cat([0.5 * (high + low) + 0.5 * (high - low) * steps, torch.tensor([high])])
    measure = torch.cat([0.5 * (high - low) * shares, torch.ones(1)])
    eps, weights = hermite(case.d, nodes)
    alpha, sigma = pair.process.marginal_at(torch.tensor(low))
    loss, total = DenoisingScoreMatching(), []
    for row in x:
        wide, noise = levels.repeat_interleave(len(eps)), eps.repeat(len(levels), 1)
        at = Noised.of(wide, row.expand(len(noise), -1), noise)
        values = (loss.loss(pair, at) + loss.constant(at)).reshape(len(levels), -1)
        second = (alpha * row).square().sum() + case.d * sigma.square()
        prior = -0.5 * (second + case.d * math.log(2 * math.pi))
        total.append(prior + case.d * alpha.log() - measure @ values @ weights)
    return torch.stack(total)


@pytest.mark.parametrize("make_case", [note_mixture_1d, note_mixture_2d])
def test_the_objective_s_bound_is_unbiased_for_its_quadrature(make_case):
    case, process = make_case(), VariancePreserving(log_snr_range=SHORT)
    pair, x = ScorePair(perturbed(case.density.score(process)), process, prior=PRIOR), case.rows(20)
    expected = quadrature_bound(case, pair, x)
    for make_loss in PER_ROW.values():
        for times in (None, UniformTime(process), DebiasedTime(process, truncation=1.5)):
            objective = ScoreMatchingObjective(make_loss(), times=times)
            estimate = loss_bound(objective, pair, x, samples=64)
            assert estimate.kind == "lower_bound"
            assert_student((estimate.value - expected) / estimate.stderr, degrees=7)


def assert_same_number(first, second):
    """Paired z-test of two estimates of the same rows' mean, and of every row; false alarm 1e-4 and 1e-5."""
    difference = first.value - second.value
    spread = (first.stderr.square() + second.stderr.square()).sqrt()
    mean_error = spread.square().sum().sqrt() / len(spread)
    assert abs(float(difference.mean() / mean_error)) < 4.4  # standard errors estimated from 8 replicates a row
    assert float((difference / spread).abs().max()) < 9.0


@each_process
@each_loss
def test_every_loss_is_the_bound_of_the_library(make_loss, make_process):
    """On an image-shaped mixture, with a wrong score, for every process."""
    case, process = mixture_case((3, 2, 2)), make_process(log_snr_range=SHORT)
    score, x = perturbed(case.density.score(process)), case.rows(60)
    pair = ScorePair(score, process, prior=Gaussian(torch.zeros(3, 2, 2), 4.0))
    expected = elbo(pair, x, samples=256)
    value = loss_bound(ScoreMatchingObjective(make_loss()), pair, x, samples=256, generator=seeded(1))
    assert_same_number(value, expected)


INNER = (-3.2, 6.0)


@each_process
@pytest.mark.parametrize("make_loss", [DenoisingScoreMatching, SlicedScoreMatching])
def test_a_score_is_evaluated_where_it_is_known_and_the_prior_stands_there(make_loss, make_process):
    """A range within the process's at both ends, with a wrong score of images: the bound, the loss, and its times."""
    case, process = mixture_case((3, 2, 2)), make_process()
    score = Known(perturbed(case.density.score(process)), process, INNER)
    score.reference = case.density.moment_match()
    pair, x = ScorePair(score, process), case.rows(40)
    objective = ScoreMatchingObjective(make_loss())
    found, expected = loss_bound(objective, pair, x, samples=128), elbo(pair, x, samples=128)
    assert found.log_snr_range == expected.log_snr_range == INNER
    assert_same_number(found, expected)
    given = loss_bound(objective, pair.replace(prior=pair.noised(score.reference)), x, samples=128)
    assert torch.equal(found.value, given.value)
    rows = x.repeat(50, 1, 1, 1)
    loss = objective(pair, Batch(rows), seeded(6)).detach().reshape(50, -1).mean(1)
    error = (loss.var() / 50 + found.stderr.square().sum() / 40**2).sqrt()
    assert abs(float((loss.mean() + found.value.mean()) / error)) < 5.0


def test_times_that_are_fitted_span_where_the_score_is_known():
    case, process = mixture_case((2, 2)), VariancePreserving()
    score = Known(perturbed(case.density.score(process)), process, INNER)
    score.reference, x = case.density.moment_match(), case.rows(60)
    loss, pair = ImplicitScoreMatching(), ScorePair(score, process)
    times = fit_times(loss, pair, x, levels=16)
    assert (float(times.edges[0]), float(times.edges[-1])) == INNER
    fitted = ScoreMatchingObjective(loss, times=times)
    # replicates of 16 draws are skewed: of so many the mean is normal
    assert_same_number(loss_bound(fitted, pair, x, samples=1024, method=Replicates(64)), elbo(pair, x, samples=128))
    weighted = ScoreMatchingObjective(loss, weighting=uniform_weight)
    assert bool(weighted(pair, Batch(x)).isfinite().all())  # asserts by itself that it stays within


def test_the_explicit_loss_is_the_bound_in_the_mean_over_data():
    case, process = mixture_case((3, 2, 2)), VariancePreserving(log_snr_range=SHORT)
    oracle, x = case.density.score(process), case.rows(4000)
    pair = ScorePair(perturbed(oracle), process, prior=PRIOR)
    objective = ScoreMatchingObjective(ExplicitScoreMatching(ScorePair(oracle)))
    explicit, expected = loss_bound(objective, pair, x, samples=16), elbo(pair, x, samples=16)
    difference = explicit.value - expected.value  # rows are drawn from the law: they are the randomness
    assert abs(float(difference.mean())) < 4.0 * float(difference.std()) / 4000**0.5  # false alarm 6e-5
    assert explicit.kind == "estimate"


class TrainedNetwork:
    """A small network, trained with one of the losses on a mixture."""

    def __init__(self, make_loss, steps: int = 150):
        torch.manual_seed(0)
        self.case, self.process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
        self.model = ScoreModel(_Flat(ResidualMLP((2,), width=32, blocks=1)), self.process, "noise")
        self.pair = ScorePair(self.model, prior=PRIOR)
        x = self.case.rows(4096, seed=5)
        objective = ScoreMatchingObjective(make_loss())
        optimizer = torch.optim.Adam(self.model.parameters(), 5e-3)
        generator, self.losses = seeded(0), []
        for step in range(steps):
            index = torch.randint(len(x), (128,), generator=generator)
            loss = objective(self.pair, Batch(x[index]), generator, step).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.losses.append(float(loss.detach()))
        self.model.eval()


class _Flat(nn.Module):
    """A network of feature maps as one of states."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, log_snr, x, condition):
        return self.network(log_snr, x[:, None], condition)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("make_loss", [DenoisingScoreMatching, ImplicitScoreMatching, SlicedScoreMatching])
def test_each_loss_trains_and_all_agree_on_the_trained_network(make_loss):
    trained = TrainedNetwork(make_loss)
    rows = trained.case.rows(100, seed=7)
    expected = elbo(trained.pair, rows, samples=128, method=Replicates(8))
    assert expected.mean().value > -3.15  # the mixture's entropy is 2.34; N(0, I) has 3.6
    for other in PER_ROW.values():
        objective = ScoreMatchingObjective(other())
        assert_same_number(loss_bound(objective, trained.pair, rows, samples=128, generator=seeded(2)), expected)


def gradients(loss, times, process, case, repeats, family):
    """Draws of the gradient of the loss in one parameter of a family of scores, shape ``repeats``."""
    x = case.rows(512)
    objective = ScoreMatchingObjective(loss, times=times, draws=independent)
    found = []
    for seed in range(repeats):
        parameter = torch.tensor(0.1, requires_grad=True)
        rows = x[torch.randint(len(x), (64,), generator=seeded(1000 + seed))]
        pair = ScorePair(family(parameter), process, prior=PRIOR)
        value = objective(pair, Batch(rows), seeded(seed)).mean()
        found.append(float(torch.autograd.grad(value, parameter)[0]))
    return torch.tensor(found)


def test_all_losses_have_one_gradient():
    """Gradient of the bound in a parameter of the score; z-tests with false alarm 6e-5 each."""
    case, process = gaussian_case((1, 2, 3)), VariancePreserving(log_snr_range=SHORT)
    oracle = case.density.score(process)
    family = lambda a: lambda t, x: (1.0 - a) * oracle(t, x) + a * torch.sin(x)  # noqa: E731
    base = gradients(DenoisingScoreMatching(), None, process, case, 150, family)
    for loss in (ImplicitScoreMatching(), SlicedScoreMatching(1), ExplicitScoreMatching(ScorePair(oracle))):
        other = gradients(loss, None, process, case, 150, family)
        error = ((base.var() + other.var()) / 150).sqrt()
        assert abs(float((base.mean() - other.mean()) / error)) < 4.0


def test_debiased_times_lower_the_variance_of_the_gradient_without_bias():
    """Paper 1's claim, on an oracle whose noise prediction is off by a parameter at every level, as a network's is."""
    case, process = gaussian_case((1, 2, 3)), VariancePreserving()
    oracle = case.density.score(process)
    family = lambda a: lambda t, x: oracle(t, x) - a / process.marginal(t)[1][:, None, None, None]  # noqa: E731
    uniform, debiased = (
        gradients(DenoisingScoreMatching(), times, process, case, 200, family)
        for times in (UniformTime(process), DebiasedTime(process))
    )
    error = ((uniform.var() + debiased.var()) / 200).sqrt()
    assert abs(float((uniform.mean() - debiased.mean()) / error)) < 4.0  # false alarm 6e-5
    assert float(debiased.var()) < 0.25 * float(uniform.var())


def test_a_fitted_law_and_low_discrepancy_lower_it_further():
    case, process = mixture_case((2, 2)), VariancePreserving(log_snr_range=(-9.0, 9.0))
    pair, x, loss = ScorePair(case.density.score(process)), case.rows(400), ImplicitScoreMatching()
    fitted = fit_times(loss, pair, x)
    errors = [
        float(loss_bound(ScoreMatchingObjective(loss, times=times), pair, x, samples=64).stderr.square().mean())
        for times in (fitted, UniformTime(process))
    ]
    assert errors[0] < errors[1]


def test_a_user_s_weight_is_per_unit_of_time_whatever_the_law_of_times():
    """Uniform weight: the mean loss over the time range, by two laws; a doubled weight doubles it."""
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    pair, x = ScorePair(case.density.score(process)), case.rows(4000)
    values = []
    for times in (UniformTime(process, atom=0.0), DebiasedTime(process), DebiasedTime(process, 1.0, atom=0.0)):
        objective = ScoreMatchingObjective(weighting=uniform_weight, times=times)
        values.append(objective(pair, Batch(x), seeded(3)).detach())
    for other in values[1:]:
        error = ((values[0].var() + other.var()) / 4000).sqrt()
        assert abs(float((values[0].mean() - other.mean()) / error)) < 4.0  # false alarm 6e-5
    twice = ScoreMatchingObjective(weighting=lambda t: 2.0 * torch.ones_like(t))
    once = ScoreMatchingObjective(weighting=uniform_weight)
    torch.testing.assert_close(
        twice(pair, Batch(x), seeded(3)), 2.0 * once(pair, Batch(x), seeded(3)), rtol=1e-12, atol=1e-12
    )


def test_the_likelihood_s_weight_by_hand_is_the_default_s_loss():
    """lambda = g^2 / sigma^2 is no weight in log-SNR: the loss without its constants."""
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    pair, x = ScorePair(case.density.score(process)), case.rows(50)

    def weight(t):
        _, g2 = process.rates(t)
        return g2 / process.marginal(t)[1].square()

    times = DebiasedTime(process, atom=0.0)
    value = ScoreMatchingObjective(weighting=weight, times=times)(pair, Batch(x), seeded(4))
    levels, eps = 7.0 * low_positions(50, 4) - 4.0, noise_after_positions(x, 4)
    at = Noised.of(levels, x, eps)
    torch.testing.assert_close(value, 7.0 * DenoisingScoreMatching().loss(pair, at), rtol=1e-9, atol=1e-9)


def low_positions(count, seed):
    from girsanov.objectives import low_discrepancy

    return low_discrepancy(count, seeded(seed))


def noise_after_positions(x, seed):
    from girsanov.objectives import low_discrepancy

    generator = seeded(seed)
    low_discrepancy(len(x), generator)
    return torch.randn(x.shape, generator=generator)


def test_a_row_does_not_depend_on_its_batch_mates():
    case, process = mixture_case((2, 2)), VariancePreserving()
    pair, x = ScorePair(case.density.score(process)), case.rows(40)
    for make in PER_ROW.values():
        objective = ScoreMatchingObjective(make())
        alone = loss_bound(objective, pair, x[17:18], samples=16).value
        together = loss_bound(objective, pair, x, samples=16).value[17:18]
        torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)


def test_what_a_loss_cannot_say_is_refused():
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    pair, x = ScorePair(case.density.score(process)), case.rows(2)
    with pytest.raises(InputError, match="reweighted loss is no likelihood bound"):
        loss_bound(ScoreMatchingObjective(weighting=uniform_weight), pair, x)
    with pytest.raises(InputError, match="have an atom for the residual"):
        ScoreMatchingObjective(times=UniformTime(process, atom=0.0))
    other = UniformTime(VariancePreserving(log_snr_range=(-3.0, 3.0)))
    elsewhere = ScoreMatchingObjective(times=other)
    with pytest.raises(InputError, match=r"span the log-SNR range \(-4.0, 3.0\) where the score is known"):
        loss_bound(elsewhere, ScorePair(lambda t, y: -y, process, prior=PRIOR), x)
    with pytest.raises(InputError, match="probes must be a whole number of 1 or more"):
        SlicedScoreMatching(0)
    for remembering in (process, VarianceExploding()):
        objective, unsaid = ScoreMatchingObjective(), ScorePair(lambda t, y: -y, remembering)
        with pytest.raises(InputError, match=r"remembers the data .* pass prior=, or a reference"):
            loss_bound(objective, unsaid, x)
        with pytest.raises(InputError, match=r"remembers the data .* pass prior=, or a reference"):
            objective(unsaid, Batch(x))


@pytest.mark.parametrize("mistake", ["divergence", "constant", "residual", "probes"])
def test_a_classic_mistake_is_noticed(mistake, monkeypatch):
    """A wrong sign, a forgotten constant, a forgotten residual, a forgotten division by the number of probes."""
    from girsanov.objectives import score_matching

    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=SHORT)
    loss = SlicedScoreMatching(2)
    if mistake == "divergence":
        sigma = score_matching._sigma
        monkeypatch.setattr(score_matching, "_sigma", lambda at: -sigma(at))
    elif mistake == "constant":
        loss = DenoisingScoreMatching()
        monkeypatch.setattr(DenoisingScoreMatching, "constant", lambda self, at: torch.zeros(len(at.z)))
    elif mistake == "probes":
        monkeypatch.setattr(score_matching, "Hutchinson", lambda probes: _summed(probes))
    x = case.rows(1000 if mistake == "residual" else 100)
    pair = ScorePair(perturbed(case.density.score(process)), process, prior=PRIOR)
    made = ScoreMatchingObjective(loss)
    if mistake == "residual":
        made.times = DebiasedTime(process, atom=0.0)
    with pytest.raises(AssertionError):
        assert_same_number(loss_bound(made, pair, x, samples=256), elbo(pair, x, samples=256))


def _summed(probes):
    """Hutchinson's estimate with the mean over probes forgotten."""

    def call(field, x, signs):
        value, divergence = Hutchinson(probes)(field, x, signs)
        return value, probes * divergence

    return call
