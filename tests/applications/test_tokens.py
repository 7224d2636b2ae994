"""Token densities against a linear-Gaussian autoregressive process, whose every factor is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from girsanov.applications.tokens import WEIGHTINGS, TokenModel, TokenObjective, fit_tokens, token_log_prob
from girsanov.densities import Gaussian
from girsanov.likelihoods import elbo
from girsanov.pairs import ScorePair
from girsanov.processes import BrownianMotion, VariancePreserving
from girsanov.training import TrainingConfig
from girsanov.types import InputError
from tests.laws import assert_student, each_process
from tests.seeds import seeded

LENGTH = 5


class AutoRegression:
    """Tokens x_i = A x_{i-1} + N(0, Q), from x_0 = 0."""

    def __init__(self, dtype=torch.float64):
        self.transition = torch.tensor([[0.9, 0.3], [-0.2, 0.7]], dtype=dtype)
        self.noise = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=dtype)

    def sample(self, n, seed):
        factor, generator = torch.linalg.cholesky(self.noise), seeded(seed)
        rows = [torch.zeros(n, 2, dtype=self.noise.dtype)]
        for _ in range(LENGTH):
            eps = torch.randn(n, 2, generator=generator, dtype=self.noise.dtype)
            rows.append(rows[-1] @ self.transition.T + eps @ factor.T)
        return torch.stack(rows[1:], 1)

    def means(self, x):
        """Conditional mean of every token, ``n T c``."""
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) @ self.transition.T

    def log_prob(self, x):
        """Of every token given those before, ``n T``."""
        return MultivariateNormal(self.means(x), self.noise).log_prob(x)

    def head(self, process):
        """The exact score of a token given its conditional mean."""

        def score(t, x, mean):
            alpha, sigma = process.marginal(t)
            covariance = alpha[:, None, None] ** 2 * self.noise + sigma[:, None, None] ** 2 * torch.eye(2)
            return -torch.linalg.solve(covariance, (x - alpha[:, None] * mean)[:, :, None])[:, :, 0]

        return score


@each_process
@pytest.mark.usefixtures("float64")
def test_an_exact_head_gives_the_exact_density_of_tokens_and_sequences(make_process):
    law, process = AutoRegression(), make_process()
    x = law.sample(40, seed=1)
    reference = Gaussian(torch.tensor([0.1, -0.1]), torch.cov(x.flatten(0, 1).T))
    found = token_log_prob(ScorePair(law.head(process), process, reference=reference), x, law.means(x), samples=256)
    truth = law.log_prob(x)
    assert_student((found.tokens.value - truth.flatten()) / found.tokens.stderr, len(found.tokens.replicates) - 1)
    assert_student((found.sequence.value - truth.sum(1)) / found.sequence.stderr, len(found.sequence.replicates) - 1)
    torch.testing.assert_close(found.sequence.value, found.tokens.value.reshape(40, LENGTH).sum(1))
    assert (found.tokens.kind, found.sequence.model) == ("lower_bound", "sde")
    assert (found.tokens.nfe, found.sequence.nfe, found.sequence.event_dim) == (256, 256 * LENGTH, 2 * LENGTH)


@pytest.mark.usefixtures("float64")
def test_a_wrong_context_costs_the_kl_of_the_conditionals():
    law, process = AutoRegression(), VariancePreserving()
    x = law.sample(200, seed=1)
    reference = Gaussian(torch.zeros(2), torch.cov(x.flatten(0, 1).T))
    found = token_log_prob(
        ScorePair(law.head(process), process, reference=reference), x, torch.zeros_like(x), samples=128
    )
    truth = MultivariateNormal(torch.zeros(2), law.noise).log_prob(x)
    assert_student(((found.tokens.value - truth.flatten()) / found.tokens.stderr), len(found.tokens.replicates) - 1)


def small_model():
    x = AutoRegression().sample(50, seed=3)
    factor = torch.linalg.cholesky(torch.cov(x.flatten(1).T))
    model = TokenModel(x.mean(0), factor, width=16, layers=2, heads=2, head_width=16, head_blocks=1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False), x


def test_a_token_depends_on_those_before_it_alone():
    model, x = small_model()
    y = model.whiten(x)
    before = model.context(y)
    for i in range(LENGTH):
        changed = x.clone()
        changed[:, i] += 3.0
        innovations = model.whiten(changed)
        torch.testing.assert_close(innovations[:, :i], y[:, :i])
        moved = (model.context(innovations) - before).abs().amax((0, 2))
        assert float(moved[: i + 1].max()) == 0.0
        assert i == LENGTH - 1 or float(moved[i + 1 :].min()) > 1e-4
        # a prefix has the same contexts, and that of the next token
        torch.testing.assert_close(model.context(y[:, :i]), before[:, : i + 1], atol=1e-5, rtol=1e-5)


def test_an_untrained_model_is_the_joint_gaussian_factor_by_factor():
    model, x = small_model()
    for parameter in model.head.network.leave.parameters():
        torch.nn.init.zeros_(parameter)
    found = model.log_prob(x, samples=8)
    law = MultivariateNormal(model.mean.flatten(), torch.cov(x.flatten(1).T))
    torch.testing.assert_close(found.sequence.value, law.log_prob(x.flatten(1)), atol=1e-5, rtol=1e-5)
    # the first token's factor is its marginal
    first = MultivariateNormal(law.mean[:2], law.covariance_matrix[:2, :2]).log_prob(x[:, 0])
    torch.testing.assert_close(found.tokens.value.reshape(-1, LENGTH)[:, 0], first, atol=1e-5, rtol=1e-5)
    assert float(found.sequence.stderr.max()) < 1e-5
    drawn = model.sample(4000, steps=4, generator=seeded(1))
    torch.testing.assert_close(torch.cov(drawn.flatten(1).T), torch.cov(x.flatten(1).T), atol=0.25, rtol=0.1)


def test_rows_do_not_depend_on_their_batch():
    model, x = small_model()
    together = model.log_prob(x, samples=16)
    alone = model.log_prob(x[7:8], samples=16)
    torch.testing.assert_close(alone.sequence.value, together.sequence.value[7:8], rtol=1e-5, atol=1e-5)
    first, second = (model.log_prob(x, samples=16, generator=seeded(s)).sequence.value for s in (1, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_is_zero_at_the_reference(weighting):
    model, x = small_model()
    for parameter in model.head.network.leave.parameters():
        torch.nn.init.zeros_(parameter)
    loss = TokenObjective(model, weighting, repeats=3)(model, model.whiten(x), seeded(0), 0)
    assert loss.shape == (50 * LENGTH * 3,)
    assert float(loss.abs().max()) < 1e-6


def test_the_likelihoods_loss_is_minus_the_gain_in_the_bound():
    model, x = small_model()
    for parameter in model.head.network.leave.parameters():
        parameter.mul_(0.5)  # random weights cost far more than the error of what they cost
    objective = TokenObjective(model, repeats=4)
    losses = torch.stack([objective(model, model.whiten(x), seeded(s), 0).mean() for s in range(120)])
    gaussian = MultivariateNormal(model.mean.flatten(), torch.cov(x.flatten(1).T)).log_prob(x.flatten(1))
    bound = model.log_prob(x, samples=256).sequence
    gain = float((bound.value - gaussian).mean()) / (2 * LENGTH)
    error = math.hypot(float(losses.std()) / 120**0.5, bound.mean().stderr / (2 * LENGTH))
    y, ends = model.whiten(x), []
    context = model.context(y).flatten(0, 1)
    for factor in (1.0, 0.0):  # the model, and the Gaussian
        for parameter in model.head.network.leave.parameters():
            parameter.mul_(factor)
        found = elbo(ScorePair.around(model.head), y.flatten(0, 1), samples=256, condition=context)
        ends.append(0.5 * float(found.terms["residual"].mean()))
    # the bound has the decoder at the end of the range besides
    assert float(-losses.mean()) == pytest.approx(gain - (ends[0] - ends[1]), abs=5.0 * error)
    assert gain < -5.0 * error


class Switching:
    """Scalar tokens x_i = 2 tanh(2 x_{i-1}) + 0.4 eps from x_0 = eps: bimodal marginals, simple factors."""

    def sample(self, n, seed):
        generator = seeded(seed)
        rows = [torch.randn(n, generator=generator, dtype=torch.float64)]
        for _ in range(LENGTH - 1):
            rows.append(2.0 * torch.tanh(2.0 * rows[-1]) + 0.4 * torch.randn(n, generator=generator).double())
        return torch.stack(rows, 1)[:, :, None]

    def log_prob(self, x):
        flat = x[:, :, 0]
        means = torch.cat([torch.zeros_like(flat[:, :1]), 2.0 * torch.tanh(2.0 * flat[:, :-1])], 1)
        scales = torch.tensor([1.0] + [0.4] * (LENGTH - 1)).double()
        return torch.distributions.Normal(means, scales).log_prob(flat)


@pytest.mark.slow
def test_a_trained_head_is_below_the_truth_in_the_mean_and_nearer_than_the_gaussian():
    law = Switching()
    config = TrainingConfig(
        steps=350, batch_size=64, learning_rate=4e-3, warmup=30, clip_norm=5.0, ema_decay=0.98, validate_every=175
    )
    sizes = {"width": 32, "layers": 1, "heads": 2, "head_width": 64, "head_blocks": 1}
    model = fit_tokens(law.sample(1500, seed=1), config=config, **sizes)
    x = law.sample(300, seed=2)
    found = model.log_prob(x, samples=64)
    truth = law.log_prob(x)
    gap = truth - found.tokens.value.reshape(-1, LENGTH)
    total = gap.sum(1)
    error = math.hypot(float(total.std()) / 300**0.5, found.sequence.mean().stderr)
    assert -4.0 * error < float(total.mean())  # false alarm 3e-5
    gaussian = MultivariateNormal(model.mean.flatten(), model.factor @ model.factor.T)
    lost = float((truth.sum(1) - gaussian.log_prob(x.flatten(1))).mean())
    assert float(total.mean()) < 0.6 * lost


def test_bad_arguments_are_named():
    model, x = small_model()
    with pytest.raises(InputError, match=r"have shape \(4, 2\); the model has \(5, 2\)"):
        model.log_prob(x[:, :4])
    with pytest.raises(InputError, match="Unknown weighting 'vlb': choose one of likelihood, uniform-t"):
        TokenObjective(model, "vlb")
    with pytest.raises(InputError, match=r"20 or more; got \(5, 5, 2\)"):
        fit_tokens(x[:5])
    with pytest.raises(InputError, match="width must be a multiple of heads; got 10 and 4"):
        TokenModel(x.mean(0), torch.eye(10), width=10)
    with pytest.raises(InputError, match="context must have leading dimensions 50, 5"):
        token_log_prob(ScorePair(model.head, model.head.process), x, torch.zeros(50, 4, 1))
    with pytest.raises(InputError, match="or a reference fitted to the data"):
        token_log_prob(ScorePair(lambda t, x, c: x, BrownianMotion()), x, torch.zeros(50, 5, 1))
