r"""Learning a noise schedule by the variance of the bound's own estimate.

With uniform t, the diffusion part of the bound is the mean of :math:`v(t) = -l'(t) J(l(t))` whatever the schedule; only
its second moment depends on it. The gradient of :math:`E[v^2]` in the schedule's parameters is the gradient of the
squared loss, which a training step has at hand (note of paper 1, section 2.9, after VDM).
"""

__all__ = ["fit_schedule", "schedule_values"]

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows
from girsanov.models import working_dtype
from girsanov.objectives.score_matching import DenoisingScoreMatching, Matching, Noised
from girsanov.objectives.times import low_discrepancy
from girsanov.processes import LearnedSchedule, LinearProcess
from girsanov.types import Nats, Score, State


def schedule_values(
    matching: Matching, score: Score, process: LinearProcess, x: State, t: Tensor, generator: torch.Generator | None
) -> Nats:
    """One-draw estimates of the diffusion part of the negative bound at times ``b``, differentiable in the schedule.

    Args:
        matching: the loss.
        score: the score; one that reads log-SNR, as a score model or an oracle of ``process`` does.
        process: the schedule.
        x: rows ``b *d``.
        t: times in (0, 1), float64.
        generator: source of the noise.
    """
    x = x.to(working_dtype(score, x))
    level = process.log_snr(t)
    _, g2 = process.rates(t)
    _, sigma = process.marginal(t)
    eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    alpha_z, sigma_z = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
    z = expand_as_rows(alpha_z, x) * x + expand_as_rows(sigma_z, x) * eps
    at = Noised(process, level, z, eps)
    return g2 / sigma.square() * (matching.loss(score, at) + matching.constant(at))


def fit_schedule(
    process: LearnedSchedule,
    score: Score,
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
        process: the schedule; its end points do not move.
        score: the score, held fixed: it may be any that reads log-SNR.
        x: rows ``n *d``.
        matching: whose estimate; default denoising score matching.
        steps: Adam steps.
        batch_size: rows per step.
        learning_rate: Adam's.
        generator: source of all draws.

    Returns:
        The mean square of the estimate at every step.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> process = LearnedSchedule((-5.0, 5.0), units=4)
        >>> law = Gaussian(torch.zeros(2), 1.0)
        >>> len(fit_schedule(process, law.score(process), law.sample(64), steps=3, batch_size=16))
        3
    """
    matching = matching or DenoisingScoreMatching()
    optimizer = torch.optim.Adam(process.parameters(), learning_rate)
    history = []
    for _ in range(steps):
        rows = x[torch.randint(len(x), (batch_size,), generator=generator)]
        times = low_discrepancy(batch_size, generator).to(x.device)
        loss = schedule_values(matching, score, process, rows, times, generator).square().mean()
        gradients = torch.autograd.grad(loss, list(process.parameters()))
        for parameter, gradient in zip(process.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        history.append(float(loss.detach()))
    return history
