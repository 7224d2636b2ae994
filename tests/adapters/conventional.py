"""One law's exact network in everybody's convention, from textbook formulas and never with the code under test."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.densities import GaussianMixture
from tests.seeds import seeded

__all__ = ["SIGMAS", "TABLE", "denoiser", "law", "noise_of_steps", "noise_of_time", "score_of_time", "velocity"]

SIGMAS = (0.002, 80.0)
TABLE = torch.cumprod(1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def law(d: int) -> GaussianMixture:
    """Two clusters of unlike weight and spread, off the origin."""
    generator = seeded(50 + d)
    factors = torch.randn(2, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    means = torch.stack([torch.full((d,), 1.2), torch.full((d,), -0.6)]).double()
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, 0.2 * factors @ factors.mT + 0.1 * torch.eye(d).double())


def rows_like(level: Tensor, x: Tensor) -> Tensor:
    return level.double().expand(len(x)).reshape(-1, *(1,) * (x.ndim - 1))


def parts(density, alpha: Tensor, sigma: Tensor, x_t: Tensor) -> dict[str, Tensor]:
    """What a network could return at x_t = alpha x + sigma eps."""
    x_t = x_t.double()
    a, s = rows_like(alpha, x_t), rows_like(sigma, x_t)
    score = density.diffused_score(alpha.double().expand(len(x_t)), sigma.double().expand(len(x_t)), x_t)
    eps = -s * score
    x = (x_t - s * eps) / a
    return {"noise": eps, "denoised": x, "v": a * eps - s * x, "flow": eps - x, "score": score}


def at_step(k: Tensor) -> tuple[Tensor, Tensor]:
    """Scales at a step, between steps by its log-SNR."""
    k = k.double().clamp(0.0, len(TABLE) - 1.0)
    logits = torch.logit(TABLE)
    below = k.floor().long().clamp_max(len(TABLE) - 2)
    level = torch.lerp(logits[below], logits[below + 1], k - below)
    return torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()


def at_time(t: Tensor) -> tuple[Tensor, Tensor]:
    """DDPM's limit with rates from 0.1 to 20."""
    clock = 0.1 * t.double() + 0.5 * 19.9 * t.double().square()
    return torch.exp(-0.5 * clock), (-torch.expm1(-clock)).clamp_min(1e-30).sqrt()


def noise_of_steps(density, kind: str = "noise") -> Callable[..., Tensor]:
    return lambda x, t: parts(density, *at_step(t), x)[kind].to(x)


def noise_of_time(density, kind: str = "noise") -> Callable[..., Tensor]:
    return lambda x, t: parts(density, *at_time(t), x)[kind].to(x)


def score_of_time(density, kind: str = "score") -> Callable[..., Tensor]:
    return noise_of_time(density, kind)


def denoiser(density, kind: str = "denoised") -> Callable[..., Tensor]:
    return lambda x, sigma: parts(density, torch.ones_like(sigma), sigma, x)[kind].to(x)


def velocity(density, data_at: int = 1, kind: str = "flow") -> Callable[..., Tensor]:
    def net(t: Tensor, x: Tensor) -> Tensor:
        share = t if data_at else 1.0 - t
        found = parts(density, share, 1.0 - share, x)[kind].to(x)
        return -found if data_at and kind == "flow" else found

    return net
