r"""Estimators that draw times and noise, each written from its formula, at the settings of the code it is known by.

All return one value per row. Scores stand for networks: a draw of noise at one level is one evaluation, and a
vector-Jacobian product costs two more.
"""

__all__ = ["ddpm", "implicit", "information", "score_flow", "vdm"]

import math

import torch
from torch import Tensor

from benchmarks.audit._problem import PROCESS, Problem

BLOCK = 4096  # evaluations at once
LOG_2PI = math.log(2.0 * math.pi)


def normal(x: Tensor) -> Tensor:
    """Log-density of N(0, I)."""
    return -0.5 * (x.square() + LOG_2PI).sum(-1)


def squared_errors(problem: Problem, x: Tensor, levels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squared errors of the noise prediction and of zero, at one draw per level: both ``n k`` for levels ``n k``."""
    n, k = levels.shape
    parts = []
    for index in torch.arange(n * k).split(BLOCK):
        level = levels.flatten()[index]
        eps = torch.randn(len(index), problem.d, generator=rng)
        alpha, sigma = torch.sigmoid(level).sqrt()[:, None], torch.sigmoid(-level).sqrt()[:, None]
        predicted = problem.noise(level, alpha * x[index // k] + sigma * eps)
        parts.append(torch.stack([(eps - predicted).square().sum(1), eps.square().sum(1)]))
    errors, zeros = torch.cat(parts, 1).detach().reshape(2, n, k)
    return errors, zeros


def implicit(problem: Problem, x: Tensor, seed: int) -> tuple[Tensor, float]:
    r"""sdeflow: :math:`\log\pi(Y_T) - T [\tfrac12 g^2\|s\|^2 + g^2 v^\top \nabla s v - \mathrm{div} f]`, one time."""
    rng = torch.Generator().manual_seed(seed)
    first, last = problem.times
    t = first + (last - first) * torch.rand(len(x), generator=rng)
    (rate, squared), (alpha, sigma) = PROCESS.rates(t), PROCESS.marginal(t)
    y = (alpha[:, None] * x + sigma[:, None] * torch.randn(x.shape, generator=rng)).requires_grad_()
    probe = 2.0 * torch.randint(0, 2, x.shape, generator=rng) - 1.0
    score = problem.score(t, y)
    (product,) = torch.autograd.grad(score, y, probe)
    inner = squared * (0.5 * score.square().sum(1) + (product * probe).sum(1)) - problem.d * rate
    alpha, sigma = PROCESS.marginal(torch.full((1,), last))
    end = alpha * x + sigma * torch.randn(x.shape, generator=rng)
    return (normal(end) - (last - first) * inner).detach(), 3.0


def score_flow(
    problem: Problem, x: Tensor, seed: int, draws: int = 1000, nearest: float = 1e-5
) -> tuple[Tensor, float]:
    r"""ScoreFlow: times drawn as :math:`g^2/\sigma^2` on [1e-5, 1], denoising form, residual at 1e-5 from one draw."""
    rng, d = torch.Generator().manual_seed(seed), problem.d
    first, last = max(problem.times[0], nearest), problem.times[1]
    high, low = PROCESS.log_snr(torch.tensor([first, last])).tolist()
    levels = low + (high - low) * torch.rand(len(x), draws, generator=rng)  # that law, by its inverse
    errors, zeros = squared_errors(problem, x, levels, rng)
    integral = (high - low) * (errors - zeros + d * torch.sigmoid(-levels)).mean(1)
    (alpha, sigma) = PROCESS.marginal(torch.tensor([first, last]))
    end = alpha[1] * x + sigma[1] * torch.randn(x.shape, generator=rng)
    start, _ = squared_errors(problem, x, torch.full((len(x), 1), high), rng)
    residual = d * alpha[0].log() + 0.5 * (d - start[:, 0])
    return normal(end) - 0.5 * integral + residual, draws + 1.0


def vdm(
    problem: Problem, x: Tensor, seed: int, steps: int = 0, ends: tuple[float, float] = (-5.0, 13.3)
) -> tuple[Tensor, float]:
    r"""VDM's loss: times spread over the batch, levels linear in time, one draw a row; ``steps`` of 0 is continuous.

    Its decoder is of pixels; here it is the Gaussian about the noised row that the same formula gives continuous rows.
    """
    rng = torch.Generator().manual_seed(seed)
    low, high = max(ends[0], problem.log_snr_range[0]), min(ends[1], problem.log_snr_range[1])
    t = (torch.rand(1, generator=rng) + torch.arange(len(x)) / len(x)) % 1.0
    if steps:
        t = torch.ceil(t * steps) / steps
    levels = high - (high - low) * t
    errors, _ = squared_errors(problem, x, levels[:, None], rng)
    weight = steps * math.expm1((high - low) / steps) if steps else high - low
    alpha2, sigma2 = 1.0 / (1.0 + math.exp(-low)), 1.0 / (1.0 + math.exp(low))
    prior = 0.5 * (alpha2 * x.square() + sigma2 - math.log(sigma2) - 1.0).sum(1)
    eps = torch.randn(x.shape, generator=rng)
    decoder = -0.5 * (eps.square() + LOG_2PI - high).sum(1)
    return decoder - prior - 0.5 * weight * errors[:, 0], 1.0


def information(problem: Problem, x: Tensor, seed: int, points: int = 100, clip: float = 4.0) -> tuple[Tensor, float]:
    r"""Kong et al.: :math:`-h_g - \tfrac12 \int (\mathrm{mse} - d\, \mathrm{sigmoid}(l))\, dl`, logistic levels."""
    rng, d = torch.Generator().manual_seed(seed), problem.d
    logs = problem.spectrum.log()
    centre = -float(logs.mean())
    scale = math.sqrt(1.0 + 3.0 / math.pi * (float(logs.var()) if d > 1 else 0.0))
    low, high = centre - clip * scale, centre + clip * scale
    low, high = max(low, problem.log_snr_range[0]), min(high, problem.log_snr_range[1])
    edges = torch.sigmoid((torch.tensor([low, high]) - centre) / scale)
    u = edges[0] + (edges[1] - edges[0]) * torch.rand(len(x), points, generator=rng)
    levels = centre + scale * torch.logit(u)
    weight = scale * (edges[1] - edges[0]) / (u * (1.0 - u))
    errors, _ = squared_errors(problem, x, levels, rng)
    gap = (weight * (errors - d * torch.sigmoid(levels))).mean(1)
    return -0.5 * (d * (LOG_2PI + 1.0) + gap), float(points)


def ddpm(problem: Problem, x: Tensor, seed: int, steps: int = 1000) -> tuple[Tensor, float]:
    """DDPM's sum over all steps, linear betas, posterior variances; the decoder has the first step's variance."""
    rng, d = torch.Generator().manual_seed(seed), problem.d
    betas = torch.linspace(1e-4, 0.02, steps)
    log_bar = torch.log1p(-betas).cumsum(0)
    levels = log_bar - torch.log(-torch.expm1(log_bar))
    inside = (levels >= problem.log_snr_range[0]) & (levels <= problem.log_snr_range[1])
    levels, log_bar, betas = levels[inside], log_bar[inside], betas[inside]
    errors, _ = squared_errors(problem, x, levels.expand(len(x), -1), rng)
    terms = 0.5 * torch.expm1(-levels.diff()) * errors[:, 1:]
    variance = math.exp(-float(levels[0]))  # of the decoder, at scale alpha_1 of the data: beta_1 / (1 - beta_1)
    first = 0.5 * d * (LOG_2PI + math.log(variance)) + 0.5 * errors[:, 0]
    bar = float(log_bar[-1].exp())
    prior = 0.5 * (bar * x.square() - bar - math.log1p(-bar)).sum(1)
    return -(first + terms.sum(1) + prior), float(len(levels))
