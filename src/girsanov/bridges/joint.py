r"""Both halves of a bridge to a known prior by one objective: prior loss plus drift matching.

With the chain's log-weight w (note of paper 3, equations 3, 4 and 6)

.. math::
    J = E_{x \sim \mu} [-\log w(x)] + \eta\, \mathrm{KL}(Q \| R), \qquad
    E[-\log w] = H(\mu) + \mathrm{KL}(q_T \| \pi) + \text{drift matching} ,

where eta = 0 is the likelihood of the sampler itself and eta falling to 0 selects the Schroedinger bridge among the
encoders that are equally good. The prior loss is never known exactly on data: what is reported is a bracket, the
divergence of the moment-matched Gaussian below and, where the encoder is still the reference, the conditional one
above.

*Freezing* is the paper's recipe: at a decoder that reverses the encoder, the gradient of J in the encoder is that of
the prior loss alone (section 2.4), so once the prior loss no longer moves on validation rows the encoder is kept, its
paths are simulated once in a while, and the decoder goes on alone, a step of a path at a time.
"""

__all__ = ["JointConfig", "JointObjective", "PriorLoss", "Progressed", "fit_joint", "prior_loss"]

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.bridges.alternating import simulate_rows
from girsanov.bridges.chain import BridgeChain, StepVariances
from girsanov.bridges.ends import EndRows
from girsanov.bridges.matching import MatchingObjective, Paths, TrajectoryObjective
from girsanov.bridges.potentials import FlatPotentials
from girsanov.densities import Density, Gaussian, StandardNormal
from girsanov.files import read_json, write_json
from girsanov.objectives import Batch
from girsanov.randomness import mix, normal_blocks
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, TrainingResult, train
from girsanov.types import MeanEstimate, State

HISTORY = "validations.json"


@dataclass(frozen=True)
class JointConfig:
    """How a bridge to a known prior is fitted.

    Attributes:
        steps: joint training steps.
        batch_size: rows per step.
        learning_rate: peak rate.
        reference_weight: eta at the first and at the last step, geometric in between; ``(0, 0)`` is pure likelihood.
        warm_steps: steps of denoising score matching of the decoder on the reference, before the encoder is unlocked.
        step_variances: ``fixed``, ``diagonal`` or ``full``: see :class:`~girsanov.bridges.chain.BridgeChain`. Where an
            annealed ``reference_weight`` is to select the Schroedinger bridge in d > 1, take ``full``.
        learn_encoder: whether the forward process, its drift and step variances, is learned; without, it stays where it
            starts, an ordinary diffusion.
        freeze: whether the encoder is frozen once its prior loss has converged.
        freeze_tolerance: nats by which the prior loss must move, up or down, to count.
        freeze_patience: validations in which it has not, after which it has converged.
        decoder_steps: training steps of the decoder alone, after freezing.
        refresh: steps between fresh paths of the frozen encoder.
        validation: share of the rows that is held out.
        validate_every: steps between validations; ``None`` plans them.
        patience: validations without improvement that end the joint training.
        ema_decay: of the averaged weights.
        path_gradients: leave the part with mean zero out of the encoder's gradient, see
            :meth:`~girsanov.bridges.chain.BridgeChain.weigh`: less noise, for one more evaluation of the encoder. By
            default where the reference has no weight: there bounds gain much, while annealed fits end further from the
            Schroedinger bridge with it (decision 0009).
        checkpoint: keep only states and pulls of a path in memory and evaluate the networks again for the gradient.
        seed: keys everything random.
    """

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    reference_weight: tuple[float, float] = (0.0, 0.0)
    warm_steps: int = 0
    step_variances: StepVariances = "diagonal"
    learn_encoder: bool = True
    freeze: bool = False
    freeze_tolerance: float = 0.01
    freeze_patience: int = 3
    decoder_steps: int = 3000
    refresh: int = 200
    validation: float = 0.1
    validate_every: int | None = None
    patience: int | None = None
    ema_decay: float = 0.995
    path_gradients: bool | None = None
    checkpoint: bool = False
    seed: int = 0

    def weight(self, step: int) -> float:
        """Eta at a step."""
        first, last = self.reference_weight
        share = min(1.0, step / max(1, self.steps - 1))
        if min(first, last) > 0:
            return first ** (1.0 - share) * last**share
        return first * (1.0 - share) + last * share


@dataclass(frozen=True)
class PriorLoss:
    """What is known of KL(q_T || prior), in nats.

    Attributes:
        lower: the divergence of the Gaussian with q_T's moments, less what the rows' own noise adds to it on average;
            0 where the prior is no Gaussian, or there are no more rows than dimensions to tell.
        upper: mean divergence of q(x_T | x), where the encoder is the reference; else ``None``.
    """

    lower: float
    upper: float | None


@dataclass(frozen=True)
class Progressed:
    """A validation of the averaged weights during training.

    Attributes:
        stage: ``joint`` or ``decoder``.
        step: of the stage.
        elbo: mean bound on validation rows, nats.
        prior: mean log-density of the prior's term, nats.
        prior_lower: lower end of the bracket of the prior loss.
        reference: KL(encoder || reference), nats.
        cpu_seconds: processor time of this fit until then, its validations included.
    """

    stage: str
    step: int
    elbo: float
    prior: float
    prior_lower: float
    reference: float
    cpu_seconds: float


@final
class JointObjective:
    """J per dimension along one fresh path per row, ``loss(chain, batch, generator, step) -> b``.

    Args:
        weight: eta at a step.
        path_gradients: see :class:`JointConfig`.
        checkpoint: see :class:`JointConfig`.

    Example:
        >>> JointObjective(lambda step: 0.0).weight(3)
        0.0
    """

    def __init__(
        self, weight: Callable[[int], float], *, path_gradients: bool = False, checkpoint: bool = False
    ) -> None:
        self.weight, self.checkpoint = weight, checkpoint
        self.path_gradients = path_gradients

    def __call__(self, chain: nn.Module, batch: Batch, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every row, shape ``b``."""
        assert isinstance(chain, BridgeChain)
        x, eta = batch.x, self.weight(step)
        weighed = chain.weigh(
            x,
            normal_blocks(x, generator),
            condition=batch.condition,
            path_gradient=self.path_gradients,
            checkpoint=self.checkpoint,
        )
        loss = -(chain.log_prior(weighed.end) + weighed.steps)
        if eta:
            loss = loss + eta * weighed.reference
        return loss / x[0].numel()


def prior_loss(chain: BridgeChain, x: State, end: State) -> PriorLoss:
    """The bracket of KL(q_T || prior) from rows ``x`` and the ends of their encoder paths, each ``n *d``."""
    prior = chain.prior
    assert prior is not None
    ends = end.double().flatten(1)
    target = _gaussian(prior, end)
    if target is None:
        return PriorLoss(0.0, None)
    lower = _moment_kl(ends, target)
    half = chain.forward_half
    if not isinstance(half.potentials, FlatPotentials) or not half.untrained():
        return PriorLoss(lower, None)
    clock = half.clock
    variance = clock.scale.square() * clock.total * torch.eye(ends.shape[1]).to(ends)
    means = clock.scale * x.double().flatten(1)
    each = torch.stack([_gaussian_kl(m, variance, target) for m in means[:256]])
    return PriorLoss(lower, float(each.mean()))


def fit_joint(
    chain: BridgeChain,
    rows: EndRows,
    config: JointConfig,
    *,
    run: Path | None = None,
    progress: Progress | None = None,
    identity: str = "",
) -> list[Progressed]:
    """Fit both halves of ``chain``, whose prior is known, in place.

    Args:
        chain: the bridge.
        rows: data; a share of them is held out.
        config: settings.
        run: folder for checkpoints, one for each stage, and for the validations.
        progress: what shows the progress.
        identity: describes the rows and the bridge; a resume with another one is refused.

    Returns:
        The validations, in order.
    """
    parts = rows.split(config.validation, mix(config.seed, 18))
    held, kept = (part.unweighted(mix(config.seed, 17)) for part in parts)
    fitting = _Fitting(chain, held, kept, config, run, progress, identity)
    chain.forward_half.requires_grad_(config.learn_encoder)
    if isinstance(chain.encoder_log_variance, nn.Parameter):
        chain.encoder_log_variance.requires_grad_(config.learn_encoder)
    if config.warm_steps:
        fitting.warm_up()
    fitting.joint()
    if config.freeze:
        fitting.decoder_alone()
    chain.requires_grad_(True)
    return fitting.history


@dataclass
class _Fitting:
    """The stages of a joint fit."""

    chain: BridgeChain
    held: EndRows
    kept: EndRows
    config: JointConfig
    run: Path | None
    progress: Progress | None
    identity: str
    history: list[Progressed] = field(default_factory=list)
    begun: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        """Validations of a run that goes on are known; its processor time counts from there."""
        if self.run is not None and (file := self.run / HISTORY).is_file():
            self.history = [Progressed(**entry) for entry in read_json(file)["validations"]]
            self.begun -= max((entry.cpu_seconds for entry in self.history), default=0.0)

    def note(self, entry: Progressed) -> None:
        """Keep a validation; one that is made again after a stop replaces itself."""
        known = [e for e in self.history if (e.stage, e.step) != (entry.stage, entry.step)]
        self.history = [*known, entry]
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            write_json(self.run / HISTORY, {"validations": [asdict(e) for e in self.history]})

    def warm_up(self) -> None:
        """The decoder alone, on paths of the encoder as it is, by matching their ends."""
        chain, config = self.chain, self.config
        generator = torch.Generator().manual_seed(mix(config.seed, 10))
        pairs = simulate_rows(chain, self.kept, "forward", generator, ends_only=True).ends()
        half = chain.backward_half
        objective, batches = MatchingObjective(half), self._batches(pairs.__getitem__, len(pairs), 11)
        result = self._train(half, objective, batches, "warm", config.warm_steps, None, None)
        half.load_state_dict(result.module.state_dict())

    def joint(self) -> None:
        """Both halves, until the steps or the patience end, or the prior loss has converged."""
        config = self.config
        batches = self._batches(self.kept.batch, len(self.kept.x), 12)
        patience = config.freeze_patience if config.freeze else config.patience
        validate = self._prior_moves if config.freeze else partial(self._validate, stage="joint")
        path = not any(config.reference_weight) if config.path_gradients is None else config.path_gradients
        path = path and config.learn_encoder
        objective = JointObjective(config.weight, path_gradients=path, checkpoint=config.checkpoint)
        result = self._train(self.chain, objective, batches, "joint", config.steps, validate, patience)
        if not config.freeze:  # else the last weights are kept: the plateau is of the encoder, the decoder goes on
            self.chain.load_state_dict(result.module.state_dict())

    def decoder_alone(self) -> None:
        """The decoder on cached paths of the frozen encoder, one random step of each path at a time."""
        chain, config = self.chain, self.config
        for parameter in chain.parameters():
            parameter.requires_grad_(False)
        for parameter in chain.backward_half.parameters():
            parameter.requires_grad_(True)
        for variances in (chain.decoder_log_variance, chain.decoder_below):
            if isinstance(variances, nn.Parameter):
                variances.requires_grad_(True)
        cache = _PathCache(chain, self.kept, config)
        objective = TrajectoryObjective("backward")
        validate = partial(self._validate, stage="decoder")
        result = self._train(chain, objective, cache, "decoder", config.decoder_steps, validate, config.patience)
        chain.load_state_dict(result.module.state_dict())

    def _prior_moves(self, module: nn.Module, step: int) -> float:
        """How often the prior loss has moved by more than the tolerance until this step, up or down."""
        self._validate(module, step, "joint")
        losses = [entry.prior_lower for entry in self.history if entry.stage == "joint" and entry.step <= step]
        moves, last = 0, losses[0]
        for loss in losses:
            if abs(loss - last) > self.config.freeze_tolerance:
                moves, last = moves + 1, loss
        return float(moves)

    @torch.no_grad()
    def _validate(self, module: nn.Module, step: int, stage: str) -> MeanEstimate:
        assert isinstance(module, BridgeChain)
        x = self.held.x
        generator = torch.Generator().manual_seed(mix(self.config.seed, 13))
        weighed = module.weigh(x, normal_blocks(x, generator), condition=self.held.condition)
        log_prior = module.log_prior(weighed.end)
        values = log_prior + weighed.steps
        lower = prior_loss(module, x, weighed.end).lower
        elbo, prior, reference = (float(v.mean()) for v in (values, log_prior, weighed.reference))
        spent = round(time.process_time() - self.begun, 3)
        self.note(Progressed(stage, step, elbo, prior, lower, reference, spent))
        return MeanEstimate(elbo, 0.0, float(values.std() / len(values) ** 0.5), len(values))

    def _batches(self, take: Callable[[Tensor], Any], n: int, purpose: int) -> Callable[[int], Any]:
        order = ShuffledBatches(n, min(self.config.batch_size, n), mix(self.config.seed, purpose))
        return lambda step: take(order(step))

    def _train(
        self, module: nn.Module, objective: Any, batches: Any, name: str, steps: int, validate: Any, patience: Any
    ) -> TrainingResult:
        config = self.config
        training = TrainingConfig(
            steps=steps, batch_size=min(config.batch_size, len(self.kept.x)), learning_rate=config.learning_rate,
            ema_decay=config.ema_decay, patience=patience, validate_every=config.validate_every,
            seed=mix(config.seed, 14) % 2**31,
        )  # fmt: skip
        folder = None if self.run is None else self.run / name
        return train(
            module, objective, batches, config=training, validate=validate, run=folder, progress=self.progress,
            identity=f"{name} {len(self.kept.x)} {self.identity}",
        )  # fmt: skip


class _PathCache:
    """Batches of paths of a frozen encoder, simulated afresh every so many steps; a function of the step alone."""

    def __init__(self, chain: BridgeChain, rows: EndRows, config: JointConfig) -> None:
        self.chain, self.rows, self.config = chain, rows, config
        self.order = ShuffledBatches(len(rows.x), min(config.batch_size, len(rows.x)), mix(config.seed, 15))
        self.epoch, self.paths = -1, None

    def __call__(self, step: int) -> Paths:
        epoch = step // self.config.refresh
        if epoch != self.epoch or self.paths is None:
            generator = torch.Generator().manual_seed(mix(self.config.seed, 16, epoch))
            self.epoch, self.paths = epoch, simulate_rows(self.chain, self.rows, "forward", generator)
        return self.paths[self.order(step)]


def _gaussian(prior: Density, x: State) -> Gaussian | None:
    if isinstance(prior, StandardNormal):
        return Gaussian(torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device), 1.0)
    return prior if isinstance(prior, Gaussian) else None


def _moment_kl(ends: Tensor, target: Gaussian) -> float:
    r"""KL from ``target`` of the Gaussian with the moments of rows ``n d``, without the bias of n Gaussian rows.

    Their sample moments have :math:`E\, \mathrm{KL} = \mathrm{KL} + \frac12 \big(d/n + d \log\frac{n-1}{2}
    - \sum_{i=1}^d \psi(\tfrac{n-i}{2})\big)`, by the law of a Wishart determinant.
    """
    n, d = ends.shape
    if n <= d + 1:
        return 0.0
    found = _gaussian_kl(ends.mean(0), torch.cov(ends.T).reshape(d, d), target)
    halves = 0.5 * (n - torch.arange(1, d + 1, dtype=torch.float64))
    bias = 0.5 * (d / n + d * math.log(0.5 * (n - 1)) - torch.digamma(halves).sum())
    return max(0.0, float(found) - float(bias))


def _gaussian_kl(mean: Tensor, covariance: Tensor, target: Gaussian) -> Tensor:
    """KL of N(mean, covariance) from ``target``, nats."""
    S = target.covariance
    solved = torch.linalg.solve(S, covariance)
    shift = target.mean.flatten() - mean
    quadratic = shift @ torch.linalg.solve(S, shift)
    _, log_det = torch.linalg.slogdet(solved)
    return 0.5 * (solved.trace() + quadratic - len(mean) - log_det)
