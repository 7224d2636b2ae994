r"""Learning a noise schedule by the variance of the bound's own estimate.

With uniform t, the diffusion part of the bound is the mean of :math:`v(t) = -l'(t) J(l(t))` whatever the schedule; only
its second moment depends on it. The gradient of :math:`E[v^2]` in the schedule's parameters is the gradient of the
squared loss, which a training step has at hand: :math:`2 v\, \partial v` row by row, so that one backward pass serves
the network by :math:`\partial v` and the schedule by its rescaled share (note of paper 1, section 2.9, after VDM).
"""

__all__ = ["ScheduledObjective", "fit_schedule", "schedule_values"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.calculus import Noised
from girsanov.inputs import checked
from girsanov.objectives.denoising import Batch, GainObjective
from girsanov.objectives.score_matching import DenoisingScoreMatching, Matching
from girsanov.objectives.times import low_discrepancy
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import LearnedSchedule, LinearProcess
from girsanov.randomness import normal_like, source_of
from girsanov.types import InputError, Nats, State


class ScheduledObjective(GainObjective):
    """The negative gain over the reference per dimension at uniform times of the model's own learned schedule.

    The network gets the gradient of the bound; the schedule gets that of the logarithm of the batch's second moment,
    so that its steps do not depend on the scale of the loss and leave the network's clipping alone.

    Args:
        model: a score model with a reference, whose process is a :class:`girsanov.processes.LearnedSchedule` over its
            range.
        transform: see :class:`GainObjective`.
        drop_condition: see :class:`GainObjective`.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.transforms import Compose
        >>> process = LearnedSchedule((-5.0, 5.0), units=4)
        >>> network = lambda log_snr, features, condition: 0.1 * features
        >>> model = ScoreModel(network, process, reference=Gaussian(torch.zeros(2), 1.0))
        >>> objective, generator = ScheduledObjective(model, Compose()), torch.Generator().manual_seed(0)
        >>> objective(model, Batch(torch.ones(8, 2)), generator, 0).mean().backward()
        >>> process.heights.grad.shape
        torch.Size([4])
    """

    def forward(self, model: ScoreModel, batch: Batch, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every row of ``batch``, shape ``b``."""
        del step
        x, factor = self.rows(batch.x, generator).to(torch.get_default_dtype()), []
        t = low_discrepancy(len(x), generator).to(x.device)
        levels, speed = (_Rescaled.apply(part, factor) for part in _levels_and_speed(model.process, t))
        loss = -speed * self._gain(model, x, levels, batch.condition, generator) / x[0].numel()
        values = loss.detach()
        factor.append(2.0 * values / values.square().mean().clamp_min(torch.finfo(values.dtype).tiny))
        return loss

    def settle(
        self,
        model: ScoreModel,
        batches: Callable[[int], Batch],
        *,
        steps: int = 150,
        learning_rate: float = 0.03,
        generator: torch.Generator | None = None,
    ) -> None:
        """Train the schedule alone, with steps of its own size: those that suit a network leave it far behind.

        Args:
            model: as in training; its network is held fixed.
            batches: the batch of step 0, 1, ...
            steps: Adam steps.
            learning_rate: Adam's, of the first step; the last one's is a tenth.
            generator: source of the noise; ``None`` means seed 0.
        """
        generator, parameters = source_of(generator), list(model.process.parameters())
        trainable = [parameter.requires_grad for parameter in parameters]
        model.process.requires_grad_(True)

        def loss(step: int) -> Tensor:
            return self(model, batches(step), generator, step).mean()

        _descend(parameters, loss, steps, learning_rate, decay=0.1 ** (1.0 / max(steps, 1)))
        for parameter, before in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(before)


def _descend(
    parameters: list[nn.Parameter], loss: Callable[[int], Tensor], steps: int, learning_rate: float, decay: float = 1.0
) -> list[float]:
    """Adam steps that leave no gradients behind, and the loss at each."""
    optimizer, history = torch.optim.Adam(parameters, learning_rate), []
    rate = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    for step in range(steps):
        value = loss(step)
        for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        rate.step()
        history.append(float(value.detach()))
    optimizer.zero_grad()
    return history


class _Rescaled(torch.autograd.Function):
    """The identity, whose backward pass multiplies each row's gradient by a factor known only then."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: list[Tensor]) -> Tensor:
        """Remember where the factor will be."""
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Rescale."""
        return gradients[0] * ctx.factor[0], None


def _levels_and_speed(process: LinearProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """Log-SNR at times ``b``, and minus its derivative."""
    _, g2 = process.rates(t)
    _, sigma = process.marginal(t)
    return process.log_snr(t), g2 / sigma.square()


def schedule_values(
    matching: Matching, pair: ScorePair, x: State, t: Tensor, generator: torch.Generator | None
) -> Nats:
    """One-draw estimates of the diffusion part of the negative bound at times ``b``, differentiable in the schedule.

    Args:
        matching: the loss.
        pair: of the schedule and a score that reads log-SNR, as a score model or an oracle of the schedule does.
        x: rows ``b *d``.
        t: times in (0, 1), float64.
        generator: source of the noise; ``None`` means seed 0.
    """
    x = x.to(pair.dtype(x))
    level, speed = _levels_and_speed(pair.process, t)
    eps = normal_like(x, generator)
    at = Noised.of(level, x, eps)
    return speed * (matching.loss(pair, at) + matching.constant(at))


@checked
def fit_schedule(
    pair: ScorePair,
    x: State,
    *,
    matching: Matching | None = None,
    steps: int = 200,
    batch_size: int = 256,
    learning_rate: float = 0.03,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train a schedule in place so that the bound's one-draw estimate has the least variance; the bound is untouched.

    Args:
        pair: of a learned schedule, whose end points do not move, and a score, held fixed: any that reads log-SNR.
        x: rows ``n *d``.
        matching: whose estimate; default denoising score matching.
        steps: Adam steps.
        batch_size: rows per step.
        learning_rate: Adam's.
        generator: source of all draws; ``None`` means seed 0.

    Returns:
        The mean square of the estimate at every step.

    Raises:
        InputError: if the schedule's ends lie beyond the log-SNR range where the score is known.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> process = LearnedSchedule((-5.0, 5.0), units=4)
        >>> law = Gaussian(torch.zeros(2), 1.0)
        >>> len(fit_schedule(ScorePair(law.score(process)), law.sample(64), steps=3, batch_size=16))
        3
    """
    process, known = pair.process, pair.log_snr_range
    if not isinstance(process, LearnedSchedule):
        raise InputError("Only a LearnedSchedule is trained: make the pair of one")
    if known != process.log_snr_range:
        raise InputError(
            f"This score is known for log-SNR from {known[0]:.4g} to {known[1]:.4g}: give LearnedSchedule that range"
        )
    rule = matching or DenoisingScoreMatching()

    def loss(step: int) -> Tensor:
        del step
        rows = x[torch.randint(len(x), (batch_size,), generator=generator)]
        times = low_discrepancy(batch_size, generator).to(x.device)
        return schedule_values(rule, pair, rows, times, generator).square().mean()

    return _descend(list(process.parameters()), loss, steps, learning_rate)
