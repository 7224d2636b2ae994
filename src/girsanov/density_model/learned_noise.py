r"""Learned dequantisation noise.

It is trained after the network, by the bound itself with the network held fixed: with :math:`y = T_\phi(x, u)` it
maximises :math:`E[\log|\det| + \log\mathcal{N}(y; m, S) + \mathrm{gain}(y)]`, whose gradient passes through y, and is
kept where held-out rows gain by it. It starts as the uniform noise.
"""

__all__ = ["fit_dequantiser", "network_share"]

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from girsanov.calculus import noised, sum_event
from girsanov.datasets import Data, Splits
from girsanov.density_model.config import FitConfig
from girsanov.density_model.fresh import fresh_elbo
from girsanov.density_model.model import DensityModel
from girsanov.encoding import Encoding
from girsanov.objectives import low_discrepancy
from girsanov.randomness import mix, normal_like, stream, uniform_like
from girsanov.solvers import LogSNRDensity
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, train
from girsanov.transforms import VariationalDequantise
from girsanov.types import MeanEstimate, State

STEPS, BATCH, SAMPLES = 400, 256, 16
HELD_ROWS = 512
SHARE = 0.15  # of a time budget


def network_share(config: FitConfig) -> float:
    """Share of a time budget that is the network's."""
    return 1.0 - SHARE if config.dequantise == "variational" else 1.0


def fit_dequantiser(
    model: DensityModel,
    data: Data,
    splits: Splits,
    config: FitConfig,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the learned noise of a fitted model in place; other models are left alone.

    Args:
        model: a fitted model.
        data: all rows, where the model is.
        splits: training rows are learned from; validation rows decide when to stop, and whether the start was best.
        config: of the fit, whose steps this one does not exceed.
        out: folder for checkpoints.
        progress: what shows the progress.
    """
    start = model.encoding.dequantiser
    if not isinstance(start, VariationalDequantise):
        return
    if progress is not None:
        progress.stage("dequantisation noise")
    rows, held = data.x[splits.train], data[splits.validation[:HELD_ROWS]]
    settings = TrainingConfig(
        steps=min(STEPS, config.steps or STEPS),
        batch_size=min(BATCH, len(rows)),
        learning_rate=3e-3,
        ema_decay=0.99,
        time_budget=None if config.time_budget is None else SHARE * config.time_budget,
        seed=config.seed,
    )
    shuffled = ShuffledBatches(len(rows), settings.batch_size, mix(config.seed, 7))
    model.score.requires_grad_(False)
    result = train(
        start,
        _loss(model),
        lambda step: rows[shuffled(step)],
        config=settings,
        validate=_validation(model, held, config.seed),
        run=None if out is None else out / "dequantiser",
        progress=progress,
    )
    model.score.requires_grad_(True)
    assert isinstance(result.module, VariationalDequantise)
    model.encoding = model.encoding.with_dequantiser(result.module)


def _loss(model: DensityModel) -> Callable[[nn.Module, State, torch.Generator, int], Tensor]:
    low, high = model.score.log_snr_range
    levels = LogSNRDensity.from_spectrum(low, high, model.reference.spectrum())

    def loss(module: nn.Module, batch: State, generator: torch.Generator, step: int) -> Tensor:
        assert isinstance(module, VariationalDequantise)
        del step
        return -_value(model, model.encoding.with_dequantiser(module), batch, levels, generator) / batch[0].numel()

    return loss


def _validation(model: DensityModel, held: Data, seed: int) -> Callable[[nn.Module, int], MeanEstimate]:
    def validate(module: nn.Module, step: int) -> MeanEstimate:
        assert isinstance(module, VariationalDequantise)
        del step
        candidate = model.replace(encoding=model.encoding.with_dequantiser(module), proposal=None)
        return fresh_elbo(candidate, held, stream(seed, "dequantiser"), samples=SAMPLES).mean()

    return validate


def _value(
    model: DensityModel, encoding: Encoding, rows: State, levels: LogSNRDensity, generator: torch.Generator
) -> Tensor:
    """One-draw estimate of the density formula at dequantised rows, differentiable in the noise, shape ``b``."""
    uniform = uniform_like(rows, generator)
    y, log_det = encoding.transforms(rows, uniform)
    level, weight, _ = (part.to(y.device) for part in levels.quantile(low_discrepancy(len(rows), generator)))
    eps = normal_like(y.to(torch.get_default_dtype()), generator)
    z = noised(level, y, eps)
    remainder = eps - model.reference.noise(level, z)
    delta = model.score.deviation(level, z)
    gain = 0.5 * sum_event(delta * (2.0 * remainder - delta))
    return log_det + model.reference.log_prob(y) + weight * gain
