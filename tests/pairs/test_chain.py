"""Chains against the moment recursion of linear Gaussian ones: bounds at every N, tight for the exact posterior."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal

import girsanov as gv
from girsanov.linear import Full, Isotropic
from girsanov.pairs import AncestralChain, Chain, EulerChain, GaussianKernel, Pair, ScorePair
from girsanov.processes import Process
from tests.laws import mixture_case
from tests.linear_pairs import chain_marginal, log_mean_exp, mean_of_quadratic, random_linear_pair
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

KINDS = ("isotropic", "diagonal", "matrix")


def noise(n, shape, seed=0):
    generator = seeded(seed)
    return lambda count: torch.randn(count, n, *shape, generator=generator)


class Encoder1(Process):
    """The encoder of oracle O1 in the note of paper 3, section 2.3."""

    def drift(self, t, x):
        return (-0.7 + 0.4 * t)[:, None] * x + 0.2

    def diffusion(self, t, x):
        return 0.8 + 0.6 * t


def oracle_1():
    def decoder(t, x):
        return (0.5 + 0.3 * torch.sin(3 * t))[:, None] * x - 0.1 + 0.5 * t[:, None]

    return Pair(Encoder1(), decoder, gv.Gaussian(torch.tensor([0.3]), torch.tensor([1.2])))


@pytest.mark.parametrize(
    ("steps", "bound"),
    [(1, -2.938837), (2, -2.652811), (4, -2.356529), (8, -2.215312), (16, -2.150754), (64, -2.105442)],
)
def test_the_table_of_oracle_1(steps, bound):
    """Note of paper 3, section 3 (f): ELBO_N at x = 1.5."""
    chain = EulerChain(oracle_1(), steps)
    value = mean_of_quadratic(lambda x, draw: chain.log_weights(x, draw), torch.tensor([[1.5]]), steps + 1)
    assert abs(float(value) - bound) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_mean_log_weight_is_a_bound_on_the_chain(kind, steps):
    """T2 of the note of paper 3: E log w <= log p_chain, both exact, for random pairs that do not fit each other."""
    for seed in range(30):
        chain, _, _ = random_linear_pair(3, steps, seed, kind=kind)
        chain.decoder_log_variance += 0.3 * torch.randn(steps, generator=seeded(seed))
        x = torch.randn(1, 3, generator=seeded(seed + 1000))
        bound = mean_of_quadratic(lambda rows, draw, chain=chain: chain.log_weights(rows, draw), x, steps + 1)
        assert float(bound) < float(chain_marginal(chain).log_prob(x))


@pytest.mark.slow
def test_a_thousand_bounds():
    """The same 1000 times in one dimension, with every number of steps from 1 to 6."""
    for seed in range(1000):
        steps = 1 + seed % 6
        chain, _, _ = random_linear_pair(1, steps, seed)
        x = torch.randn(1, 1, generator=seeded(seed + 1))
        bound = mean_of_quadratic(lambda rows, draw, chain=chain: chain.log_weights(rows, draw), x, steps + 1)
        assert float(bound) <= float(chain_marginal(chain).log_prob(x)) + 1e-9


class Posterior(Chain):
    """A linear Gaussian chain whose encoder is the exact posterior of its decoder."""

    def __init__(self, chain):
        super().__init__(chain.length)
        self.inner = chain
        self.laws = self._laws()

    def _laws(self):
        """Mean and covariance of every state under the decoder."""
        chain, prior = self.inner, self.inner.pair.prior
        laws = [(prior.mean, prior.covariance)]
        for k in reversed(range(chain.length)):
            step, offset, noise = self._decoder(k)
            mean, covariance = laws[0]
            laws.insert(0, (step @ mean + offset, step @ covariance @ step.T + noise))
        return laws

    def _decoder(self, k):
        chain, d = self.inner, self.inner.pair.prior.event_dim
        down, up, h = chain.pair.generative, chain.pair.inference, chain.times[k + 1] - chain.times[k]
        at, g = chain.times[k + 1], up.coefficient(chain.times[k])
        return torch.eye(d) - h * down.matrix(at), -h * down.offset(at), h * g.square() * torch.eye(d)

    def encode(self, k, x, condition=None):
        step, offset, noise = self._decoder(k)
        mean, covariance = self.laws[k + 1]
        gain = covariance @ step.T @ torch.linalg.inv(step @ covariance @ step.T + noise)
        spread = covariance - gain @ step @ covariance
        centre = mean + (x - step @ mean - offset) @ gain.T
        root = torch.linalg.cholesky(0.5 * (spread + spread.T)).expand(len(x), -1, -1)
        return GaussianKernel(centre - x, Full(root), self.encoder_log_variance[k])

    def decode(self, k, x, condition=None):
        return self.inner.decode(k, x)

    def log_prior(self, x):
        return self.inner.log_prior(x)

    def sample_prior(self, n, generator):
        return self.inner.sample_prior(n, generator)


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_the_exact_posterior_has_one_weight(steps):
    """T1 of the note of paper 3: |log w - log p_chain| < 1e-10 on every path, and on the decoder's own paths."""
    chain, _, _ = random_linear_pair(3, steps, 5)
    exact = Posterior(chain)
    x = torch.randn(20, 3, generator=seeded(1))
    torch.testing.assert_close(
        exact.log_weights(x, noise(20, (3,))), chain_marginal(chain).log_prob(x), atol=1e-10, rtol=0.0
    )
    made, weight = exact.sample(20)
    torch.testing.assert_close(weight, chain_marginal(chain).log_prob(made), atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_weight_is_the_density(kind):
    """E w = p_chain: 4 standard errors (one false alarm in 16,000 for each kind)."""
    chain, _, _ = random_linear_pair(2, 4, 3, kind=kind)
    x, n = torch.tensor([[0.4, -0.7]]), 40_000
    weights = chain.log_weights(x.expand(n, 2), noise(n, (2,)))
    ratio = (weights - chain_marginal(chain).log_prob(x)).exp()
    assert abs(ratio.mean() - 1.0) < 4 * ratio.std() / math.sqrt(n)


def test_decoder_paths_have_the_law_of_the_decoder():
    chain, _, _ = random_linear_pair(2, 3, 7, shape=(1, 2))
    x, weight = chain.sample(40_000, generator=seeded(1))
    law = chain_marginal(chain)
    assert x.shape == (40_000, 1, 2)
    torch.testing.assert_close(x.flatten(1).mean(0), law.mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(x.flatten(1).T.cov(), law.covariance_matrix, atol=0.1, rtol=0.05)
    gap = weight - law.log_prob(x.flatten(1))
    assert gap.mean() > -5 * gap.std() / 200  # an upper bound in the mean
    # E h(r) over the encoder's paths is E h(r) / r over the decoder's; with h = min(r, 1) both are bounded
    encoded = chain.log_weights(x, noise(40_000, (1, 2))) - law.log_prob(x.flatten(1))
    difference = encoded.exp().clamp_max(1.0) - (-gap).exp().clamp_max(1.0)
    assert abs(difference.mean()) < 5 * difference.std() / 200


def ornstein(variance=0.05):
    """Section 3 (d) of the note of paper 3: data N(0, 0.05), u = -4 x, g^2 = 8, with exact posterior means."""

    class Forward(Process):
        def drift(self, t, x):
            return -4.0 * x

        def diffusion(self, t, x):
            return torch.full((len(x),), math.sqrt(8.0))

    class Exact(Chain):
        def __init__(self, steps):
            super().__init__(steps)
            self.h = 1.0 / steps
            self.variances = [variance]
            for _ in range(steps):
                self.variances.append((1.0 - 4.0 * self.h) ** 2 * self.variances[-1] + 8.0 * self.h)

        def encode(self, k, x, condition=None):
            return GaussianKernel(-4.0 * self.h * x, self._scale(x), self.encoder_log_variance[k])

        def decode(self, k, x, condition=None):
            gain = self.variances[k] * (1.0 - 4.0 * self.h) / self.variances[k + 1]
            return GaussianKernel((gain - 1.0) * x, self._scale(x), self.decoder_log_variance[k])

        def _scale(self, x):
            return Isotropic(torch.full((len(x),), math.sqrt(8.0 * self.h)))

        def log_prior(self, x):
            return gv.Gaussian(torch.zeros(1), 1.0).log_prob(x)

        def sample_prior(self, n, generator):
            return torch.randn(n, 1, generator=generator)

    return Exact


@pytest.mark.parametrize(
    ("steps", "tied", "fitted"),
    [(4, 1.43, 0.0745), (8, 0.98, -0.0561), (16, 0.70, -0.0743), (32, 0.46, -0.0779), (64, 0.27, -0.0787)],
)
def test_the_table_of_learned_variances(steps, tied, fitted):
    """T12 of the note of paper 3: the best step variances make few steps enough; its table within 0.01."""
    chain = ornstein()(steps)
    x = math.sqrt(0.05) * torch.randn(200_000, 1, generator=seeded(0))
    grid = torch.tensor([[-1.0], [1.0]]) * math.sqrt(0.05)  # the mean over N(0, 0.05) of a quadratic in x

    def loss():
        values = [mean_of_quadratic(lambda r, d: chain.log_weights(r, d), row[None], steps + 1) for row in grid]
        return -float(sum(values) / 2)

    assert abs(loss() - tied) < 0.01
    chain.fit_variances(x)
    assert abs(loss() - fitted) < 0.01


def test_the_error_of_fitted_variances_is_shrunk():
    """Where no step needs an offset, fitting 100 of them to 200 rows costs 100 / 400 nats: a third is left."""
    law, process = gv.Gaussian(torch.zeros(2), torch.tensor([0.5, 2.0])), gv.VariancePreserving()
    chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 100)
    x = law.sample(4000, generator=seeded(0))
    before = chain.log_weights(x, noise(4000, (2,))).mean()
    chain.fit_variances(law.sample(200, generator=seeded(1)))
    cost = float(before - chain.log_weights(x, noise(4000, (2,))).mean())
    assert 0.0 < cost < 0.6 * 100 / 400


def test_variances_per_dimension():
    """Each dimension gets its own mean square residual; the bound cannot fall by it."""
    chain, _, _ = random_linear_pair(2, 3, 2)
    shared = EulerChain(chain.pair, 3)
    own = EulerChain(chain.pair, 3, per_dimension=True)
    x = torch.randn(20_000, 2, generator=seeded(0)) * torch.tensor([0.2, 2.0])
    for candidate in (shared, own):
        candidate.fit_variances(x, generator=seeded(1))
    assert own.decoder_log_variance.shape == (3, 2)
    bounds = [c.log_weights(x, noise(len(x), (2,))).mean() for c in (EulerChain(chain.pair, 3), shared, own)]
    assert bounds[0] < bounds[1] < bounds[2]


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_an_ancestral_chain_at_its_reference_is_the_reference(steps):
    """Exact at every N, in any event shape, with log-weights that do not vary."""
    process = gv.VariancePreserving()
    generator = seeded(0)
    root = torch.randn(6, 6, generator=generator)
    law = gv.Gaussian(torch.randn(1, 2, 3, generator=generator), root @ root.T + 0.1 * torch.eye(6))
    score = law.score(process)
    low = torch.tensor(max(process.log_snr_range[0], score.log_snr_range[0]))
    chain = AncestralChain(ScorePair(score, process, prior=law.diffused(*process.marginal_at(low))), steps)
    x = law.sample(30, generator=generator)
    weights = chain.log_weights(x, noise(30, (1, 2, 3)))
    torch.testing.assert_close(weights, law.log_prob(x), atol=1e-6, rtol=1e-6)
    made, weight = chain.sample(30)
    torch.testing.assert_close(weight, law.log_prob(made), atol=1e-6, rtol=1e-6)


def test_the_ancestral_bound_tends_to_the_continuous_one():
    """Measured order: without a reference the gap to the truth falls about as 1/N, and more steps are never worse."""
    case, process = mixture_case((2,), seed=1), gv.VariancePreserving()
    score = case.density.score(process)
    score._reference = None
    x = case.rows(2000)
    truth = case.log_prob(x)
    gaps = []
    for steps in (64, 128, 256, 512):
        chain = AncestralChain(ScorePair(_Bare(score), process, event_shape=(2,)), steps)
        gaps.append(float((truth - chain.log_weights(x, noise(2000, (2,)))).mean()))
    orders = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(0.8 < order < 1.5 for order in orders), (gaps, orders)
    chain = AncestralChain(ScorePair(_Bare(score), process, event_shape=(2,)), 64)
    chain.fit_variances(case.rows(2000, seed=1))  # what posterior variances lose at few steps
    assert float((truth - chain.log_weights(x, noise(2000, (2,)))).mean()) < 0.2 * gaps[0]


class _Bare:
    """A score without a reference."""

    def __init__(self, score):
        self.score = score
        self.log_snr_range = score.log_snr_range

    def __call__(self, t, x):
        return self.score(t, x)


@pytest.mark.parametrize("lmbd", [-1.0, 0.0, 0.5])
def test_euler_chains_of_the_family_bound_their_own_density(lmbd):
    """Bracket of E log p_chain on the chain's own rows: lower <= upper within 4 standard errors, and it closes."""
    case, process = mixture_case((2,), seed=1), gv.VariancePreserving()
    pair = ScorePair(case.density.score(process), event_shape=(2,)).family(lmbd)
    widths = []
    for steps in (32, 128):
        chain = EulerChain(pair, steps)
        x, upper = chain.sample(1000, generator=seeded(0))
        gap = upper - chain.log_weights(x, noise(1000, (2,)))
        assert gap.mean() > -4 * gap.std() / math.sqrt(1000)
        widths.append(float(gap.mean()))
    assert widths[1] < 0.6 * widths[0]


def test_gradients_flow_along_the_path_and_checkpoints_change_nothing():
    """Reparameterised gradients of a learned inference drift against finite differences."""

    class Learned(Process):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(-0.3))

        def drift(self, t, x):
            return self.slope * x + torch.sin(x)

        def diffusion(self, t, x):
            return torch.ones(len(x))

    process = Learned()
    chain = EulerChain(Pair(process, lambda t, x: 0.4 * x, gv.Gaussian(torch.zeros(2), 1.0)), 6, learn_variances=True)
    x = torch.randn(50, 2, generator=seeded(0))

    def bound(checkpoint=False):
        return chain.log_weights(x, noise(50, (2,)), checkpoint=checkpoint).mean()

    plain = torch.autograd.grad(bound(), list(chain.parameters()))
    saved = torch.autograd.grad(bound(checkpoint=True), list(chain.parameters()))
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b)
    slopes = dict(zip([name for name, _ in chain.named_parameters()], plain, strict=True))
    with torch.no_grad():
        process.slope += 1e-6
        above = bound()
        process.slope -= 2e-6
        numeric = (above - bound()) / 2e-6
    assert abs(float(numeric - slopes["pair.inference.slope"])) < 1e-6


def test_the_ode_s_sampler_has_no_weights():
    case, process = mixture_case((2,), seed=1), gv.VariancePreserving()
    chain = AncestralChain(ScorePair(case.density.score(process), event_shape=(2,)), 4, lmbd=1.0)
    with pytest.raises(gv.InputError, match="have no noise, so its paths have no weights: use ode_log_prob"):
        chain.log_weights(torch.zeros(1, 2), lambda count: torch.zeros(count, 1, 2))
    with pytest.raises(gv.InputError, match="use ode_log_prob"):
        chain.sample(1)


def test_a_chain_needs_a_step():
    with pytest.raises(gv.InputError, match="steps must be a whole number"):
        EulerChain(oracle_1(), 0)


def test_marginal_of_the_oracle():
    """The oracle itself, against the note's log p_chain of O1 (section 3 (f))."""
    chain, _, _ = random_linear_pair(2, 3, 0)
    assert isinstance(chain_marginal(chain), MultivariateNormal)
    one = EulerChain(oracle_1(), 4)
    n = 400_000
    weights = one.log_weights(torch.full((n, 1), 1.5), noise(n, (1,)))
    assert abs(float(log_mean_exp(weights)) + 2.188014) < 0.01
