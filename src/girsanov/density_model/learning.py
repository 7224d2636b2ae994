r"""Training the score of a prepared model: batches, the loss, validation by the bound, and how long it may take."""

__all__ = ["settle", "train_score"]

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from girsanov.datasets import Data, Splits, fingerprint
from girsanov.density_model.config import Config, FitConfig
from girsanov.density_model.effort import batch_size
from girsanov.density_model.flow import FlowObjective
from girsanov.density_model.fresh import fresh_elbo, fresh_log_prob
from girsanov.density_model.model import DensityModel
from girsanov.density_model.networks import habits, suited
from girsanov.networks import Ensemble, ImageConfig
from girsanov.networks.configs import FEW_ROWS, LARGE_ROW
from girsanov.objectives import Batch, DenoisingObjective, ScheduledObjective
from girsanov.pairs import ScoreModel
from girsanov.randomness import mix, stream
from girsanov.solvers import FixedGrid
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, TrainingResult, train
from girsanov.types import MeanEstimate, State

LARGE_STEPS, NO_LIMIT = 12_000, 10**7
VALIDATION_ROWS, VALIDATION_SAMPLES = 512, 16
LARGE_EVALUATIONS = 1024  # of a validation of long rows
SETTLING_STEPS = 150  # of a learned schedule, after the network's training
PLACES = ((0, 1), (2, 1), (1, 0), (1, 2))  # of an image in one with a border, moved by a pixel
MOVES = 12  # purpose of the draws that move images
FLOW_STEPS, FLOW_ROWS = 8, 128  # of a continuous flow's validation: Runge-Kutta steps, and rows


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
    if progress is not None:
        progress.stage("training")
    settings = _settings(config, model.schema.event_shape, len(splits.train), members, seconds)
    moved = _moved(config, splits, data.x)
    identity = f"{fingerprint(data.x.cpu())} {model.schema.cells} {config.to_json() | {'time_budget': None}}"
    return train(
        model.score,
        _objective(model, config).to(data.x.device),
        _batches(data.x, labels, splits.train, settings.batch_size, mix(config.seed, 3), moved),
        config=settings,
        validate=_validation(model, data, labels, splits, config),
        run=out,
        progress=progress,
        identity=identity,
    )


def _settings(
    config: FitConfig, event_shape: Sequence[int], rows: int, members: int, seconds: float | None
) -> TrainingConfig:
    kind = suited(config, event_shape)
    steps = config.steps or (habits(kind).few_steps if rows < FEW_ROWS else LARGE_STEPS)
    if isinstance(kind, ImageConfig) and config.steps is None and seconds is not None:
        steps = NO_LIMIT  # as many as there is time for; held-out rows say which are the best
    return TrainingConfig(
        steps=steps,
        batch_size=min(members * batch_size(config, event_shape), rows),
        learning_rate=habits(kind).learning_rate if config.learning_rate is None else config.learning_rate,
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


def _moved(config: FitConfig, splits: Splits, x: State) -> float:
    """Share of the rows of a step that are moved."""
    if x.ndim != 4:
        return 0.0
    few = len(splits.train) < FEW_ROWS
    return (habits(suited(config, x.shape[1:])).moved if few else 0.0) if config.moved is None else config.moved


def _batches(
    x: State, labels: Tensor | None, train: Tensor, size: int, seed: int, moved: float = 0.0
) -> Callable[[int], Batch]:
    """The batch of each step, of the training rows; a share of them, images, moved by a pixel."""
    given = None if labels is None else labels[train].to(x.device)
    shuffled = ShuffledBatches(len(train), min(size, len(train)), seed)

    def batch(step: int) -> Batch:
        index = shuffled(step)
        found = x[train[index]]  # all training rows again would be as much memory as the data
        if moved:
            found = moved_images(found, moved, torch.Generator().manual_seed(mix(seed, MOVES, step)))
        return Batch(found, None if given is None else given[index])

    return batch


def moved_images(x: State, share: float, generator: torch.Generator) -> State:
    """Images ``b c h w`` of which a share is moved up, down, left or right by one pixel, their border repeated.

    Example:
        >>> x = torch.arange(6.0).reshape(1, 1, 2, 3).expand(64, 1, 2, 3)
        >>> moved = moved_images(x, 0.5, torch.Generator().manual_seed(0))
        >>> moved.flatten(1).unique(dim=0).long().tolist()
        [[0, 0, 1, 3, 3, 4], [0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5], [1, 2, 2, 4, 5, 5], [3, 4, 5, 3, 4, 5]]
    """
    height, breadth = x.shape[2:]
    padded, found = pad(x, (1, 1, 1, 1), mode="replicate"), x.clone()
    chosen = torch.rand(len(x), generator=generator) < share
    directions = torch.randint(len(PLACES), (len(x),), generator=generator)
    for direction, (down, right) in enumerate(PLACES):
        rows = (chosen & (directions == direction)).to(x.device)
        found[rows] = padded[rows, :, down : down + height, right : right + breadth]
    return found


def _validation(
    model: DensityModel, data: Data, labels: Tensor | None, splits: Splits, config: FitConfig
) -> Callable[[nn.Module, int], MeanEstimate]:
    """The bound of the first validation rows, a continuous flow's log-density, with noise that all steps share."""
    flow = model.is_flow
    most, samples = _validated(data.x[0].numel(), len(splits.validation))
    held = splits.validation[: FLOW_ROWS if flow else most]
    rows, condition = data[held], None if labels is None else labels[held].to(data.x.device)

    def validate(module: nn.Module, step: int) -> MeanEstimate:
        del step
        assert isinstance(module, ScoreModel)
        candidate, noise = model.replace(score=module), stream(config.seed, "validation")
        if flow:
            return fresh_log_prob(candidate, rows, noise, condition=condition, solver=FixedGrid(FLOW_STEPS)).mean()
        return fresh_elbo(candidate, rows, noise, samples=samples, condition=condition).mean()

    return validate


def _validated(numbers: int, rows: int) -> tuple[int, int]:
    """How many rows a validation has, and evaluations of each: fewer of long rows, whose sums vary less."""
    if numbers <= LARGE_ROW:
        return VALIDATION_ROWS, VALIDATION_SAMPLES
    count = min(rows, VALIDATION_ROWS // 2)
    return count, min(VALIDATION_SAMPLES, LARGE_EVALUATIONS // count)


def settle(model: DensityModel, x: State, labels: Tensor | None, splits: Splits, config: FitConfig) -> None:
    """The last steps of a learned schedule, with the network that was chosen; other schedules are left alone."""
    if not (isinstance(config, Config) and config.learns_schedule):
        return
    batch = _batches(x, labels, splits.train, batch_size(config, x.shape[1:]), mix(config.seed, 8))
    objective = ScheduledObjective(model.score, model.encoding.transforms)
    generator = torch.Generator().manual_seed(mix(config.seed, 9))
    objective.settle(model.score, batch, steps=min(SETTLING_STEPS, config.steps or SETTLING_STEPS), generator=generator)
