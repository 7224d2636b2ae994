"""Log-masses against the exact ones: importance weighting tightens and never overshoots, the decoder by quadrature."""

import math
from functools import partial

import pytest
import torch

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods import RandomisedRows, Replicates, elbo
from girsanov.likelihoods.discrete import LatticePoints, categorical_elbo, importance_weighted, log_mean_exp
from girsanov.likelihoods.estimator import keyed_view
from girsanov.pairs import ScorePair
from girsanov.processes import OrnsteinUhlenbeck, VarianceExploding, VariancePreserving
from girsanov.solvers import LogSNRDensity
from girsanov.transforms import Dequantise, TruncatedNormalDequantise
from girsanov.types import Estimate, InputError
from tests.laws import Case, assert_student, hermite, note_mixture_2d
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

STEP = 1.5


def wide_cells(n: int = 24, seed: int = 1) -> tuple[Case, torch.Tensor, torch.Tensor]:
    """Lattice rows of a mixture rounded to wide cells, and their exact log-masses by the midpoint rule."""
    case = note_mixture_2d()
    rows = STEP * (case.rows(n, seed=seed) / STEP).round()
    grid = STEP * ((torch.arange(60) + 0.5) / 60 - 0.5)
    nodes = torch.cartesian_prod(grid, grid)
    values = case.log_prob((rows[:, None] + nodes).flatten(0, 1)).reshape(n, -1)
    return case, rows, torch.logsumexp(values, 1) + math.log((STEP / 60) ** 2)


def closed_form(case):
    """An exact estimate of the mixture itself, one replicate per view: no noise in a draw's value."""

    def evaluate(x, count):
        view = x.view(count, 0)
        values = case.density.log_prob(view.x.flatten(0, 1)).reshape(len(x), count) + view.log_det
        return Estimate.from_replicates(
            values.T, kind="lower_bound", model="density", nfe=0, event_dim=2, measure="mass"
        )

    return evaluate


@pytest.mark.parametrize(
    "spread", [Dequantise((2,), torch.full((2,), STEP)), TruncatedNormalDequantise((2,), torch.full((2,), STEP))]
)
def test_more_exact_draws_tighten_the_bound_up_to_the_mass(spread):
    """Monotone in K and never above the truth by more than 4 standard errors; at K = 1 it is the plain mean."""
    case, rows, mass = wide_cells()
    views, means, previous = partial(keyed_view, spread), [], -math.inf
    for draws in (1, 4, 16, 64):
        estimate = importance_weighted(
            closed_form(case), RandomisedRows(rows, views, "mass"), draws=draws, replicates=64
        )
        assert estimate.kind == "lower_bound"
        mean, error = estimate.mean().value, float(estimate.stderr.square().sum().sqrt()) / len(rows)
        assert mean < float(mass.mean()) + 4 * error
        assert mean > previous
        previous = mean
        means.append(mean)
    gaps = [float(mass.mean()) - mean for mean in means]
    assert gaps[0] > 0.3
    assert gaps[-1] < 0.25 * gaps[0]


def test_exact_draws_are_weighted_like_a_log_mean_exp():
    """With no noise between the folds the variational value at the optimal weights is the log of the mean."""
    case, rows, _ = wide_cells(6)
    views = partial(keyed_view, Dequantise((2,), torch.full((2,), STEP)))
    estimate = importance_weighted(closed_form(case), RandomisedRows(rows, views, "mass"), draws=8, replicates=5)
    view = views(rows, 40, 0, 0)
    values = case.density.log_prob(view.x.flatten(0, 1)).reshape(6, 40) + view.log_det
    expected = log_mean_exp(values.T.reshape(5, 8, 6))
    torch.testing.assert_close(estimate.replicates, expected, rtol=1e-10, atol=1e-10)


def noisy(case, process, points):
    pair = ScorePair(case.density.score(process))
    return lambda x, count: elbo(pair, x, samples=points * count, method=Replicates(count))


@pytest.mark.parametrize("points", [1, 16])
def test_weighting_noisy_bounds_stays_a_bound_and_tightens(points):
    """Where the noise of a draw is large, the logarithm of the mean exponential overshoots the mass; this does not."""
    case, rows, mass = wide_cells(160)
    rows = own_noise(rows)
    process = VariancePreserving(log_snr_range=(-9.0, 9.0))
    seen = RandomisedRows(rows, partial(keyed_view, Dequantise((2,), torch.full((2,), STEP))), "mass")
    plain, weighted = (
        importance_weighted(noisy(case, process, points), seen, draws=draws, replicates=8) for draws in (1, 8)
    )
    error = float(weighted.stderr.square().sum().sqrt()) / len(rows)
    assert weighted.mean().value < float(mass.mean()) + 4 * error  # false alarm below 1e-4 even where it is tight
    if points == 1:
        replicates = noisy(case, process, 1)(seen, 64).replicates
        assert replicates is not None
        wrong = log_mean_exp(replicates.reshape(8, 8, -1)).mean()
        assert float(wrong) > float(mass.mean())
    both = error + float(plain.stderr.square().sum().sqrt()) / len(rows)
    assert weighted.mean().value > plain.mean().value + (2 * both if points == 16 else -3 * both)


def test_weighting_refuses_too_few_draws_and_a_short_estimate():
    case, rows, _ = wide_cells(2)
    views = partial(keyed_view, Dequantise((2,), torch.full((2,), STEP)))
    with pytest.raises(InputError, match="draws >= 1 and replicates >= 2"):
        importance_weighted(closed_form(case), RandomisedRows(rows, views, "mass"), draws=4, replicates=1)
    with pytest.raises(InputError, match="as many replicates as it is asked for"):
        importance_weighted(
            lambda x, count: closed_form(case)(x, count - 2), RandomisedRows(rows, views, "mass"), draws=4
        )


def own_noise(x: torch.Tensor) -> torch.Tensor:
    """Rows a hair off each other: noise is keyed by content, and equal lattice points would share theirs."""
    return x + 1e-6 * torch.arange(len(x)).reshape(-1, *(1,) * (x.ndim - 1))


class LatticeLaw:
    """A law on the points of a small lattice in any event shape, independent dimensions, with its exact score."""

    def __init__(self, shape: tuple[int, ...], process, step: float = 0.7):
        self.weights = torch.tensor([0.1, 0.3, 0.4, 0.2])
        self.values = -1.0 + step * torch.arange(4)
        self.points = LatticePoints(torch.full(shape, -1.0), torch.full(shape, step), 4)
        self.shape, self.process = shape, process

    def rows(self, n: int, seed: int = 0) -> torch.Tensor:
        d = math.prod(self.shape)
        return self.values[torch.multinomial(self.weights, n * d, True, generator=seeded(seed))].reshape(n, *self.shape)

    def log_mass(self, x: torch.Tensor) -> torch.Tensor:
        return self.weights[self.points.index(x)].log().flatten(1).sum(1)

    def __call__(self, t, x):
        alpha, sigma = (part.reshape(-1, *(1,) * x.ndim) for part in self.process.marginal(t))
        error = alpha * self.values - x[..., None]
        posterior = torch.softmax(self.weights.log() - 0.5 * (error / sigma).square(), -1)
        return (posterior * error).sum(-1) / sigma[..., 0].square()


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("make_process", [VariancePreserving, OrnsteinUhlenbeck])
def test_the_categorical_bound_of_the_exact_score_is_the_log_mass(shape, make_process):
    """Cells ten deviations wide and a forgotten start: the gap is below 1e-3."""
    high = LatticePoints(torch.zeros(1), torch.tensor([0.7]), 4).level_for(5.0)
    process = make_process(log_snr_range=(-9.0, high))
    law = LatticeLaw(shape, process)
    x = own_noise(law.rows(40))
    estimate = categorical_elbo(ScorePair(law, process), x, lattice=law.points, samples=256)
    assert (estimate.kind, estimate.measure, estimate.nfe) == ("lower_bound", "mass", 256)
    assert_student((estimate.value - law.log_mass(x)) / estimate.stderr, degrees=7)
    torch.testing.assert_close(sum(estimate.terms.values()), estimate.value)
    entropy = -float((law.weights * law.weights.log()).sum()) * math.prod(shape)
    torch.testing.assert_close(
        estimate.bits_per_dim(), -estimate.value / (math.prod(shape) * math.log(2.0)), rtol=1e-12, atol=0
    )
    assert -float(estimate.value.mean()) > entropy - 4 * float(estimate.value.std()) / 40**0.5


def test_the_categorical_bound_with_coarse_cells_is_its_quadrature():
    """Cells two deviations wide, a prior with a gap: telescoped as in tests/laws.py, by quadrature over the noise."""
    process = VariancePreserving(log_snr_range=(-3.0, 2.0))
    law = LatticeLaw((1,), process)
    x = law.values[:, None]
    eps, weights = hermite(1, 100)
    (alpha_t, alpha_0), (sigma_t, sigma_0) = process.marginal_at(torch.tensor([-3.0, 2.0]))

    def noised(points, alpha, sigma):
        kernels = torch.distributions.Normal(alpha * law.values, sigma).log_prob(points)
        return torch.logsumexp(law.weights.log() + kernels, -1)

    expected = []
    for row in x:
        start, end = alpha_0 * row + sigma_0 * eps, alpha_t * row + sigma_t * eps
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(end)[:, 0] - noised(end, alpha_t, sigma_t)
        own = torch.distributions.Normal(alpha_0 * row, sigma_0).log_prob(start)[:, 0]
        logits = -0.5 * math.exp(2.0) * (start / alpha_0 - law.values).square()
        decoded = (logits - torch.logsumexp(logits, 1, keepdim=True))[:, int(law.points.index(row[None]))]
        expected.append(weights @ (prior + noised(start, alpha_0, sigma_0) - own + decoded))
    many = own_noise(x.repeat(10, 1))
    standard = Gaussian(torch.zeros(1), 1.0)
    estimate = categorical_elbo(ScorePair(law, process, prior=standard), many, lattice=law.points, samples=128)
    assert_student((estimate.value - torch.stack(expected).repeat(10)) / estimate.stderr, degrees=7)
    assert float(torch.stack(expected).exp().sum()) < 1.0  # a bound on masses
    assert float(law.weights @ torch.stack(expected)) < float(law.weights @ law.log_mass(x))


@pytest.mark.parametrize("log_snr", [-1.0, 2.0, 6.0])
def test_the_reconstruction_is_its_quadrature(log_snr):
    first, step = torch.tensor([-1.0, 0.0]), torch.tensor([0.7, 0.4])
    lattice = LatticePoints(first, step, 70)
    x = first + step * torch.tensor([[0.0, 69.0], [3.0, 40.0]])
    eps, weights = torch.linspace(-8.5, 8.5, 20_001), None
    weights = torch.exp(-0.5 * eps.square())
    expected = torch.zeros(2)
    for i in (0, 1):
        points = first[i] + step[i] * torch.arange(70)
        for n in (0, 1):
            seen = x[n, i] + math.exp(-0.5 * log_snr) * eps
            logits = -0.5 * math.exp(log_snr) * (seen[:, None] - points).square()
            at = int(((x[n, i] - first[i]) / step[i]).round())
            expected[n] += (logits.log_softmax(1)[:, at] * weights).sum() / weights.sum()
    torch.testing.assert_close(lattice.reconstruction(x, log_snr), expected, rtol=1e-9, atol=1e-10)


def test_a_prior_without_a_closed_form_is_sampled():
    process = VariancePreserving(log_snr_range=(-4.0, 6.0))
    law = LatticeLaw((2,), process)
    x = own_noise(law.rows(40))

    standard = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2))
    assert not hasattr(standard, "expected_log_prob")
    drawn, exact = (
        categorical_elbo(ScorePair(law, process, prior=prior), x, lattice=law.points, samples=128)
        for prior in (standard, Gaussian(torch.zeros(2), 1.0))
    )
    difference = drawn.terms["prior"] - exact.terms["prior"]
    assert 0.0 < float(difference.abs().max()) < 0.5
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 40**0.5


def test_the_reference_never_changes_the_expectation_and_remembering_processes_work():
    reference = Gaussian(torch.zeros(2), 1.0)
    process = VarianceExploding(sigma_min=0.05, sigma_max=50.0, log_snr_range=(-7.0, 5.0))
    law = LatticeLaw((2,), process)
    x = own_noise(law.rows(40))
    prior = reference.diffused(*process.marginal_at(torch.tensor(-7.0)))
    values = [
        categorical_elbo(
            ScorePair(law, process, prior=prior, reference=r), x, lattice=law.points, samples=256, generator=seeded(s)
        )
        for s, r in enumerate((None, reference))
    ]
    spread = (values[0].stderr.square() + values[1].stderr.square()).sqrt()
    z = (values[0].value - values[1].value) / spread
    assert abs(float(z.mean())) < 4.4 / 40**0.5 * 1.3


def test_rows_off_the_lattice_are_refused():
    process = VariancePreserving(log_snr_range=(-4.0, 6.0))
    law = LatticeLaw((2,), process)
    with pytest.raises(InputError, match="not on the lattice of 4 points"):
        categorical_elbo(
            ScorePair(law, process, reference=Gaussian(torch.zeros(2), 1.0)), law.rows(2) + 0.1, lattice=law.points
        )
    with pytest.raises(InputError, match="not on the lattice"):
        categorical_elbo(
            ScorePair(law, process, reference=Gaussian(torch.zeros(2), 1.0)), law.rows(2) + 7.0, lattice=law.points
        )


def test_an_atom_of_the_proposal_is_left_out():
    process = VariancePreserving(log_snr_range=(-4.0, 6.0))
    law = LatticeLaw((2,), process)
    values = [
        categorical_elbo(
            ScorePair(
                law, process, prior=Gaussian(torch.zeros(2), 1.0), proposal=LogSNRDensity.uniform(-4.0, 6.0, atom=atom)
            ),
            law.rows(3),
            lattice=law.points,
        ).value
        for atom in (0.0, 0.3)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)
