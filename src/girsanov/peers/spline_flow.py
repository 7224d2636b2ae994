"""zuko's neural spline flow, autoregressive; two sizes, Adam with a cosine, early stopping on the validation rows."""

__all__ = ["fit_spline_flow"]

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.peers.data import LogProb, Peer, PeerData


@dataclass(frozen=True)
class Setting:
    """One architecture and how it is trained."""

    transforms: int
    hidden: int
    bins: int
    learning_rate: float
    weight_decay: float


SETTINGS = {
    "small": Setting(transforms=3, hidden=64, bins=8, learning_rate=2e-3, weight_decay=1e-2),
    "large": Setting(transforms=5, hidden=256, bins=8, learning_rate=5e-4, weight_decay=1e-2),
}
STEPS = 20_000
BATCH = 256
EVERY = 100  # steps between validations
PATIENCE = 10


def fit_spline_flow(data: PeerData, seconds: float) -> Peer:
    """Fit a small and a large flow and keep the one that the validation rows prefer.

    Args:
        data: the rows.
        seconds: time for both together.
    """
    begun = time.monotonic()
    fits = {name: _train(data, setting, seconds / len(SETTINGS)) for name, setting in SETTINGS.items()}
    best = max(fits, key=lambda name: fits[name][0])
    value, steps, log_prob = fits[best]
    settings = {"size": best, "steps": steps, **asdict(SETTINGS[best])}
    return Peer("spline_flow", settings, log_prob, value, time.monotonic() - begun)


def _train(data: PeerData, setting: Setting, seconds: float) -> tuple[float, int, LogProb]:
    """Best validation value, its step and the log-density."""
    rows = data.x[data.splits.train]
    generator = torch.Generator().manual_seed(data.seed)
    flow, affine = _build(data, setting)
    optimizer = torch.optim.AdamW(flow.parameters(), setting.learning_rate, weight_decay=setting.weight_decay)
    best, best_step, kept, stale = -math.inf, 0, copy.deepcopy(flow.state_dict()), 0
    begun, step = time.monotonic(), 0
    while stale < PATIENCE:
        share = max(step / STEPS, (time.monotonic() - begun) / max(seconds, 1e-9))
        if step % EVERY == 0 or share >= 1.0:
            value = data.validation(_log_prob(flow, affine))
            stale = 0 if value > best else stale + 1
            if value > best:
                best, best_step, kept = value, step, copy.deepcopy(flow.state_dict())
        if share >= 1.0:
            break
        _step(
            flow,
            affine,
            optimizer,
            data,
            rows,
            generator,
            0.5 * (1 + math.cos(math.pi * share)) * setting.learning_rate,
        )
        step += 1
    flow.load_state_dict(kept)
    return best, best_step, _log_prob(flow, affine)


def _build(data: PeerData, setting: Setting) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The flow, and the mean and scale of each column, so that every column meets the splines at unit scale."""
    import zuko

    y = data.training()
    affine = y.mean(0), y.std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        flow = zuko.flows.NSF(
            data.dim, transforms=setting.transforms, bins=setting.bins, hidden_features=(setting.hidden, setting.hidden)
        )
    return flow, affine


def _log_prob(flow: Any, affine: tuple[Tensor, Tensor]) -> LogProb:
    mean, scale = affine

    def log_prob(y: Tensor) -> Tensor:
        unit = ((y - mean) / scale).float()
        return flow().log_prob(unit).double() - scale.log().sum()

    return log_prob


def _step(
    flow: Any,
    affine: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    data: PeerData,
    rows: Tensor,
    generator: torch.Generator,
    rate: float,
) -> None:
    index = torch.randint(len(rows), (min(BATCH, len(rows)),), generator=generator)
    y = data.spread(rows[index], generator)
    loss = -_log_prob(flow, affine)(y).mean() / data.dim
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
    if bool(torch.isfinite(norm)):
        optimizer.step()
