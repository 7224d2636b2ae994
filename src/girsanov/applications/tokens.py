r"""Autoregressive densities of sequences of continuous tokens: a causal transformer and a diffusion head per token.

Rows of an image, columns of a table or time steps are tokens :math:`x_1 \dots x_T` of c numbers each, and

.. math::
    \log p(x) = \sum_i \log p(x_i \mid z_i), \qquad z_i = \mathrm{transformer}(x_1 \dots x_{i-1}),

with each factor a small diffusion model of c dimensions whose bound is computed as everywhere else: in log-SNR, with
a reference as control variate and a standard error. The order is fixed, so the sum over tokens is the chain rule and
not a bound over orders; each factor is a lower bound, hence so is the sum (note of paper 2, section 2.7).

Sequences are first whitened by the Cholesky factor of their covariance, :math:`y = L^{-1} (x - m)`. In the order of
the tokens this is triangular: :math:`y_i` is the innovation of :math:`x_i` after linear prediction from the tokens
before, so an untrained model is the Gaussian :math:`\mathcal{N}(m, L L^\top)`, factor by factor, and the networks learn
what it misses.

The head is trained with the likelihood's weight in log-SNR, of which the bound is the value. The loss that
autoregressive image models use instead, noise errors at uniform times, is offered for comparison: its optimum over
all networks is the same, but a network of finite capacity spends itself elsewhere.
"""

__all__ = ["WEIGHTINGS", "TokenEstimates", "TokenModel", "TokenObjective", "fit_tokens", "token_log_prob"]

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.calculus import gain, noised
from girsanov.densities import Gaussian
from girsanov.display import Shown, Summary, counted, parameter_count
from girsanov.inputs import as_condition, as_rows, checked
from girsanov.likelihoods import elbo
from girsanov.networks import ResidualMLP, Signature
from girsanov.objectives import Batch, DenoisingObjective, independent
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import Cosine, LinearProcess
from girsanov.randomness import mix, normal_like, seed_of, source_of
from girsanov.samplers import sample
from girsanov.training import ShuffledBatches, TrainingConfig, train
from girsanov.transforms import Compose
from girsanov.types import Estimate, InputError, State

VALIDATION_SAMPLES = 8
VALIDATION_SHARE = 0.1


@final
@dataclass(frozen=True, repr=False)
class TokenEstimates(Shown):
    """Log-densities of tokens and of their sequences, in nats.

    Attributes:
        tokens: one value per token given those before it, rows in the order (sequence, token): ``n T``; reshape
            its fields with ``.reshape(n, T)``.
        sequence: their sums, one per sequence, with a standard error from whole replicates.
        count: number T of tokens of a sequence.
    """

    tokens: Estimate
    sequence: Estimate
    count: int


def token_log_prob(
    pair: ScorePair,
    x: State,
    context: Tensor,
    *,
    samples: int = 32,
    log_det: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> TokenEstimates:
    """Bounds on the log-density of every token given its context, and of the sequences.

    Args:
        pair: the model of one token, with a score ``(t, x, context) -> grad log p_t(x given context)``.
        x: sequences ``n T *c``.
        context: what the tokens before say, ``n T h``.
        samples: network evaluations per token.
        log_det: log-determinants that lead to data units, shape ``T``.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimates of kind ``lower_bound``, model ``sde``.

    Raises:
        InputError: if x and context are not of the same sequences and tokens.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> score = lambda t, x, context: -x  # standard normal tokens, whatever the context
        >>> pair = ScorePair(score, VariancePreserving(), decoder=Gaussian(torch.zeros(1).double(), 1.0))
        >>> x = torch.zeros(2, 3, 1, dtype=torch.float64)
        >>> found = token_log_prob(pair, x, torch.zeros(2, 3, 1))
        >>> found.tokens.value.reshape(2, 3)[0], found.sequence.value[0]
        (tensor([-0.9189, -0.9189, -0.9189], dtype=torch.float64), tensor(-2.7568, dtype=torch.float64))
    """
    x, context = as_rows(x), as_condition(context, len(x), "context")
    n, count = x.shape[:2]
    if context.shape[:2] != x.shape[:2]:
        raise InputError(f"context must have leading dimensions {n}, {count}; got {tuple(context.shape[:2])}")
    rows, given = x.flatten(0, 1), context.flatten(0, 1)
    found = elbo(pair, rows, samples=samples, condition=given, generator=generator)
    assert found.replicates is not None
    replicates = found.replicates.unflatten(1, (n, count))
    if log_det is not None:
        replicates = replicates + log_det.to(replicates)
    fields = {"kind": found.kind, "model": found.model, "log_snr_range": found.log_snr_range}
    c = x[0, 0].numel()
    tokens = Estimate.from_replicates(replicates.flatten(1), nfe=found.nfe, event_dim=c, **fields)
    sequence = Estimate.from_replicates(replicates.sum(2), nfe=count * found.nfe, event_dim=count * c, **fields)
    return TokenEstimates(tokens, sequence, count)


class TokenModel(Shown, nn.Module):
    """A causal transformer over tokens with a diffusion head; made by :func:`fit_tokens`.

    Args:
        mean: of the sequences, ``T c``, data units.
        factor: lower triangular root of their covariance, ``T*c T*c``.
        width: of the transformer.
        layers: number of its layers.
        heads: number of its attention heads.
        head_width: width of the diffusion head.
        head_blocks: residual blocks of the diffusion head.
        process: forward process of the head; default the cosine schedule.

    Raises:
        InputError: if width is not a multiple of heads.
    """

    mean: Tensor
    factor: Tensor
    mask: Tensor

    @checked
    def __init__(
        self,
        mean: Tensor,
        factor: Tensor,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        head_width: int = 128,
        head_blocks: int = 2,
        process: LinearProcess | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width must be a multiple of heads; got {width} and {heads}")
        count, c = mean.shape
        self.register_buffer("mean", mean.double())
        self.register_buffer("factor", factor.double())
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(count))
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, count, width))
        self.enter = nn.Linear(c, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        network = ResidualMLP((c,), Signature(condition_dim=width), width=head_width, blocks=head_blocks)
        self.head = ScoreModel(network, process or Cosine(), reference=Gaussian(torch.zeros(c).double(), 1.0))

    def _summary(self) -> Summary:
        tokens, width = self.mean.shape
        facts = {
            "sequences": f"{counted(tokens, 'token')} of {counted(width, 'number')}",
            "network": f"causal transformer with a diffusion head, {counted(parameter_count(self), 'parameter')}",
        }
        return Summary("TokenModel", facts, hint="model.log_prob(x): .tokens and .sequence, bounds in nats")

    def context(self, y: State) -> Tensor:
        """What the tokens before each one say: ``n T width`` from whitened sequences ``n T c``.

        Only the first T - 1 tokens are read, and fewer tokens give the contexts of the next one too.
        """
        count = len(self.mean)
        before = self.enter(y[:, : count - 1].to(self.enter.weight.dtype))
        shifted = torch.cat([self.start.expand(len(y), 1, -1), before], 1)
        length = shifted.shape[1]
        return self.transformer(shifted + self.position[:, :length], mask=self.mask[:length, :length], is_causal=True)

    def whiten(self, x: State) -> State:
        """Data units to innovations of unit covariance, float64 ``n T c``.

        Raises:
            InputError: for sequences of another shape than those of the fit.
        """
        if x.shape[1:] != self.mean.shape:
            raise InputError(f"These tokens have shape {tuple(x.shape[1:])}; the model has {tuple(self.mean.shape)}")
        inverse = torch.linalg.solve_triangular(self.factor, torch.eye(len(self.factor)).to(self.factor), upper=False)
        flat = (x.double() - self.mean).flatten(1)
        # row by row: noise is keyed by the bits of a row, which a product of matrices would let its batch mates change
        return torch.stack([(inverse * row).sum(1) for row in flat]).reshape(x.shape)

    @checked
    @torch.no_grad()
    def log_prob(self, x: State, *, samples: int = 32, generator: torch.Generator | None = None) -> TokenEstimates:
        """Lower bounds on log-densities per token and sequence, in data units, with standard errors.

        Args:
            x: sequences ``n T c``.
            samples: network evaluations of the head per token; the transformer is evaluated once.
            generator: read once for a seed; ``None`` means seed 0.
        """
        y = self.whiten(x)
        log_det = -self.factor.diagonal().log().reshape(self.mean.shape).sum(1)
        options = {"samples": samples, "log_det": log_det, "generator": generator}
        return token_log_prob(ScorePair.around(self.head), y, self.context(y), **options)

    @checked
    @torch.no_grad()
    def sample(self, n: int, *, steps: int = 32, generator: torch.Generator | None = None) -> State:
        """Draw ``n`` sequences ``n T c`` in data units, token by token.

        Args:
            n: number of sequences.
            steps: of the sampler, per token.
            generator: source of all draws; ``None`` means seed 0.
        """
        generator = source_of(generator)
        (count, c), pair = self.mean.shape, ScorePair.around(self.head)
        y = self.mean.new_zeros(n, 0, c)
        for _ in range(count):
            token = sample(pair, n, steps=steps, condition=self.context(y)[:, -1], generator=generator)
            y = torch.cat([y, token[:, None].double()], 1)
        return self.mean + (y.flatten(1) @ self.factor.T).reshape(y.shape)


#: losses of the head: the bound's own, or noise errors at uniform times
WEIGHTINGS = ("likelihood", "uniform-t")


class TokenObjective(nn.Module):
    """Diffusion loss of a token model per dimension, relative to its reference's.

    With ``likelihood`` this is :class:`girsanov.objectives.DenoisingObjective` of the head, whose value reads as nats
    per dimension below the reference; with ``uniform-t`` every level of a uniform time counts the same.

    Args:
        model: the token model.
        weighting: one of :data:`WEIGHTINGS`.
        repeats: noise draws per token and step; the transformer is evaluated once for all of them.

    Raises:
        InputError: for an unknown weighting.
    """

    def __init__(self, model: TokenModel, weighting: str = "likelihood", *, repeats: int = 4) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise InputError(f"Unknown weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
        self.likelihood = DenoisingObjective(model.head, Compose()) if weighting == "likelihood" else None
        self.repeats = repeats

    def forward(self, model: TokenModel, y: State, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every draw for whitened sequences ``n T c``, shape ``n*T*repeats``."""
        context = model.context(y).flatten(0, 1).repeat_interleave(self.repeats, 0)
        clean = y.to(context.dtype).flatten(0, 1).repeat_interleave(self.repeats, 0)
        if self.likelihood is not None:
            return self.likelihood(model.head, Batch(clean, context), generator, step)
        return _uniform_time(model.head, clean, context, generator)


def _uniform_time(head: ScoreModel, clean: State, context: Tensor, generator: torch.Generator) -> Tensor:
    """Half the squared noise error at uniform times, minus the reference's, per dimension."""
    assert head.reference is not None
    times = head.process.horizon * independent(len(clean), generator)
    levels = head.process.log_snr(times).clamp(*head.log_snr_range)
    eps = normal_like(clean, generator)
    z = noised(levels, clean, eps)
    delta = head.deviation(levels, z, context)
    return -gain(eps - head.reference.noise(levels, z), delta) / clean.shape[1]


@checked
def fit_tokens(
    x: State,
    *,
    weighting: str = "likelihood",
    config: TrainingConfig | None = None,
    repeats: int = 4,
    generator: torch.Generator | None = None,
    **sizes: Any,
) -> TokenModel:
    """Fit a token model to sequences, stopping early on the bound of held-out ones.

    Args:
        x: sequences ``n T c`` in data units, continuous (dequantise discrete ones first).
        weighting: of the loss, see :data:`WEIGHTINGS`; validation always uses the bound.
        config: of the training loop; default 2000 steps of 64 sequences.
        repeats: see :class:`TokenObjective`.
        generator: read once for a seed that replaces ``config.seed``; ``None`` keeps that.
        sizes: ``width``, ``layers``, ``heads``, ``head_width``, ``head_blocks``, ``process`` of :class:`TokenModel`.

    Raises:
        InputError: for rows of another shape, or fewer than 20.

    Example:
        >>> x = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(0))
        >>> config = TrainingConfig(steps=2, batch_size=8)
        >>> model = fit_tokens(x, config=config, width=8, layers=1, heads=1, head_width=8)
        >>> found = model.log_prob(x[:5], samples=8)
        >>> found.tokens.value.shape, found.sequence.value.shape, found.sequence.kind
        (torch.Size([15]), torch.Size([5]), 'lower_bound')
    """
    if x.ndim != 3 or len(x) < 20:
        raise InputError(f"Sequences of shape (n, tokens, numbers) are needed, 20 or more; got {tuple(x.shape)}")
    config = config or TrainingConfig(steps=2000, batch_size=64, clip_norm=5.0, patience=10)
    seed = config.seed if generator is None else seed_of(generator) % 2**31
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, kept = order[: max(2, int(VALIDATION_SHARE * len(x)))], order[max(2, int(VALIDATION_SHARE * len(x))) :]
    rows = x[kept].double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenModel(rows.mean(0), _factor(rows), **sizes)
    y = model.whiten(rows)
    objective = TokenObjective(model, weighting, repeats=repeats)
    shuffled = ShuffledBatches(len(y), min(config.batch_size, len(y)), mix(seed, 7))

    def validate(module: nn.Module, step: int) -> float:
        del step
        assert isinstance(module, TokenModel)
        return float(module.log_prob(x[held], samples=VALIDATION_SAMPLES).sequence.value.mean())

    result = train(model, objective, lambda step: y[shuffled(step)], config=config, validate=validate)
    assert isinstance(result.module, TokenModel)
    return result.module


def _factor(x: State) -> Tensor:
    """Cholesky factor of the sequences' covariance, whose correlations are shrunk (Ledoit-Wolf)."""
    flat = x.flatten(1)
    scale = flat.std(0).clamp_min(1e-6)
    law = Gaussian.fit((flat - flat.mean(0)) / scale)
    return scale[:, None] * torch.linalg.cholesky(law.covariance)
