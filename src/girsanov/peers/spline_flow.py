"""zuko's neural spline flow, autoregressive: two sizes, trained by our own loop as our models are.

AdamW with warm-up and a cosine, averaged weights, early stopping on the validation rows: what a peer lacks in tuning
would otherwise be counted for us.
"""

__all__ = ["fit_spline_flow"]

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from girsanov.peers.data import LogProb, Peer, PeerData
from girsanov.randomness import mix
from girsanov.training import ShuffledBatches, TrainingConfig, train
from girsanov.transforms import SplineFlow
from girsanov.types import State


@dataclass(frozen=True)
class Setting:
    """One architecture and how it is trained."""

    transforms: int
    width: int
    bins: int
    learning_rate: float
    weight_decay: float


SETTINGS = {
    "small": Setting(transforms=3, width=64, bins=8, learning_rate=4e-3, weight_decay=0.1),
    "large": Setting(transforms=5, width=128, bins=8, learning_rate=2e-3, weight_decay=0.01),
}
STEPS = 20_000
BATCH = 256
PATIENCE = 8


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(data.seed, 6))
        flow = SplineFlow(data.dim, transforms=setting.transforms, width=setting.width, bins=setting.bins)
    config = TrainingConfig(
        steps=STEPS,
        batch_size=min(BATCH, len(rows)),
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        clip_norm=5.0,
        ema_decay=0.995,
        patience=PATIENCE,
        time_budget=max(seconds, 1e-3),
        seed=data.seed,
    )
    shuffled = ShuffledBatches(len(rows), config.batch_size, mix(data.seed, 7))

    def loss(module: nn.Module, batch: State, generator: torch.Generator, step: int) -> Tensor:
        assert isinstance(module, SplineFlow)
        return -module.log_prob(data.spread(batch, generator)) / data.dim

    def validate(module: nn.Module, step: int) -> float:
        return data.validation(_log_prob(module))

    result = train(flow, loss, lambda step: rows[shuffled(step)], config=config, validate=validate)
    assert result.best_value is not None
    assert result.best_step is not None
    return result.best_value, result.best_step, _log_prob(result.module)


def _log_prob(module: nn.Module) -> LogProb:
    assert isinstance(module, SplineFlow)

    def log_prob(y: Tensor) -> Tensor:
        with torch.no_grad():
            return module.log_prob(y).double()

    return log_prob
