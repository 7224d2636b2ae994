r"""Training the score of a prepared model: batches, the loss, validation by the bound, and how long it may take."""

__all__ = ["allowance", "settle", "train_score"]

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from girsanov.datasets import Data, Splits, fingerprint
from girsanov.density_model.config import Config, FitConfig
from girsanov.density_model.flow import FlowObjective
from girsanov.density_model.fresh import fresh_elbo, fresh_log_prob
from girsanov.density_model.model import DensityModel
from girsanov.files import read_json, write_json
from girsanov.networks import Ensemble
from girsanov.objectives import Batch, DenoisingObjective, ScheduledObjective
from girsanov.pairs import ScoreModel
from girsanov.randomness import mix, stream
from girsanov.solvers import FixedGrid
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, TrainingResult, train
from girsanov.types import MeanEstimate, State

SMALL_STEPS, LARGE_STEPS = 1250, 12_000
VALIDATION_ROWS = 512
VALIDATION_SAMPLES = 16
SETTLING_STEPS = 150  # of a learned schedule, after the network's training
FLOW_STEPS, FLOW_ROWS = 8, 128  # of a continuous flow's validation: Runge-Kutta steps, and rows


def allowance(time_budget: float | None, left: float, out: Path | None) -> float | None:
    """Seconds for the network, decided once: a resumed run loads what the first one had to compute before.

    Args:
        time_budget: of the fit.
        left: of it now.
        out: folder of the fit, where what was decided is kept.
    """
    if time_budget is None:
        return None
    left = max(left, 0.1 * time_budget)
    if out is None:
        return left
    path = out / "allowance.json"
    if path.exists():
        record = read_json(path)
        if record.get("time_budget") == time_budget:
            return float(record["network"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"time_budget": time_budget, "network": left})
    return left


def train_score(
    model: DensityModel,
    data: Data,
    labels: Tensor | None,
    splits: Splits,
    config: FitConfig,
    *,
    seconds: float | None,
    out: Path | None,
    progress: Progress | None,
) -> TrainingResult:
    """Train the score of a model in place.

    Args:
        model: as :func:`girsanov.density_model.prepare` returns it.
        data: all rows, where the model is.
        labels: classes or continuous conditions of all rows, or ``None``.
        splits: its training rows are learned from, its validation rows stop the training.
        config: of the fit.
        seconds: for the training, or ``None``.
        out: folder for checkpoints and the log.
        progress: what shows the progress.
    """
    members = len(model.score.network.members) if isinstance(model.score.network, Ensemble) else 1
    settings = _settings(config, len(splits.train), members, seconds)
    identity = f"{fingerprint(data.x.cpu())} {model.schema.cells} {config.to_json() | {'time_budget': None}}"
    return train(
        model.score,
        _objective(model, config).to(data.x.device),
        _batches(data.x, labels, splits.train, settings.batch_size, mix(config.seed, 3)),
        config=settings,
        validate=_validation(model, data, labels, splits, config),
        run=out,
        progress=progress,
        identity=identity,
    )


def _settings(config: FitConfig, rows: int, members: int, seconds: float | None) -> TrainingConfig:
    small = rows < 20_000
    steps = config.steps or (SMALL_STEPS if small else LARGE_STEPS)
    return TrainingConfig(
        steps=steps,
        batch_size=min(members * config.batch_size, rows),
        learning_rate=1.5e-3 if config.learning_rate is None else config.learning_rate,
        warmup=min(100, max(1, steps // 10)),
        weight_decay=config.weight_decay if config.weight_decay is not None else 0.1,
        ema_decay=config.ema_decay,
        time_budget=seconds,
        patience=config.patience,
        seed=config.seed,
    )


def _objective(model: DensityModel, config: FitConfig) -> nn.Module:
    if not isinstance(config, Config):
        return FlowObjective(model.score, model.encoding.transforms)
    hidden = 0.1 if config.conditional else 0.0
    kind = ScheduledObjective if config.learns_schedule else DenoisingObjective
    return kind(model.score, model.encoding.transforms, drop_condition=hidden)


def _batches(x: State, labels: Tensor | None, train: Tensor, size: int, seed: int) -> Callable[[int], Batch]:
    """The batch of each step, of the training rows."""
    rows, given = x[train], None if labels is None else labels[train].to(x.device)
    shuffled = ShuffledBatches(len(rows), min(size, len(rows)), seed)

    def batch(step: int) -> Batch:
        index = shuffled(step)
        return Batch(rows[index], None if given is None else given[index])

    return batch


def _validation(
    model: DensityModel, data: Data, labels: Tensor | None, splits: Splits, config: FitConfig
) -> Callable[[nn.Module, int], MeanEstimate]:
    """The bound of the first validation rows, a continuous flow's log-density, with noise that all steps share."""
    flow = model.is_flow
    held = splits.validation[: FLOW_ROWS if flow else VALIDATION_ROWS]
    rows, condition = data[held], None if labels is None else labels[held].to(data.x.device)

    def validate(module: nn.Module, step: int) -> MeanEstimate:
        del step
        assert isinstance(module, ScoreModel)
        candidate, noise = model.replace(score=module), stream(config.seed, "validation")
        if flow:
            return fresh_log_prob(candidate, rows, noise, condition=condition, solver=FixedGrid(FLOW_STEPS)).mean()
        return fresh_elbo(candidate, rows, noise, samples=VALIDATION_SAMPLES, condition=condition).mean()

    return validate


def settle(model: DensityModel, x: State, labels: Tensor | None, splits: Splits, config: FitConfig) -> None:
    """The last steps of a learned schedule, with the network that was chosen; other schedules are left alone."""
    if not (isinstance(config, Config) and config.learns_schedule):
        return
    batch = _batches(x, labels, splits.train, config.batch_size, mix(config.seed, 8))
    objective = ScheduledObjective(model.score, model.encoding.transforms)
    generator = torch.Generator().manual_seed(mix(config.seed, 9))
    objective.settle(model.score, batch, steps=min(SETTLING_STEPS, config.steps or SETTLING_STEPS), generator=generator)
