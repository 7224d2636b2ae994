r"""Fitting a density model to data: transforms, Gaussian reference, network, training with early stopping on the bound.

The training split fits everything; the validation split stops training and chooses; the test split is not looked
at here. Every random choice follows from the seed.
"""

__all__ = ["fit", "prepare"]

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from girsanov.calculus import keyed_generators, keyed_uniform, seed_of
from girsanov.datasets import Data, Splits, fingerprint, from_array, load, split
from girsanov.densities import Gaussian
from girsanov.density_model.config import PROCESSES, Config
from girsanov.density_model.coordinates import Coordinates, fit_coordinates, spread
from girsanov.density_model.model import DensityModel
from girsanov.density_model.networks import build_network, choose_network, require_network
from girsanov.likelihoods import fit_proposal
from girsanov.models import ExpertHead, Head, Lattice, LatticeHead, MixtureHead, ResidualHead, ScoreModel
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, TrainingResult, mix, train, write_text_atomic
from girsanov.transforms import Dequantise, Standardise
from girsanov.types import InputError, MeanEstimate, State

MAX_CELLS = 32  # more cells per dimension than this do without the lattice head
SMALL_STEPS, LARGE_STEPS = 1250, 12_000
VALIDATION_ROWS = 512
VALIDATION_SAMPLES = 16
PROPOSAL_ROWS = 512
CALIBRATION_ROWS = 1024


def fit(
    data: Any,
    *,
    config: Config | None = None,
    generator: torch.Generator | None = None,
    labels: Any | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
) -> DensityModel:
    """Fit a diffusion density model.

    Args:
        data: a name, path or Hugging Face id (see :func:`girsanov.datasets.load`), a :class:`girsanov.datasets.Data`,
            or rows as a tensor, array or data frame of shape ``n *d``.
        config: settings; every default suits real tables and small images.
        generator: read once for a seed that replaces ``config.seed``.
        labels: integer class of each row, for arrays and ``config.conditional``.
        out: folder for checkpoints and the log; a fit that was interrupted goes on from there.
        progress: what shows the progress.
        device: where the networks are trained; noise is drawn on the CPU, so that it is the same everywhere.

    Returns:
        The fitted model, in evaluation mode. ``model.record["splits"]`` tells which rows were held out.

    Raises:
        InputError: one sentence, for data or settings that cannot work.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(200, 2), config=gv.Config(steps=20, network="mlp", width=16, blocks=1))
        >>> model.elbo(torch.zeros(3, 2)).value.shape
        torch.Size([3])
    """
    config = config or Config()
    if generator is not None:
        config = dataclasses.replace(config, seed=seed_of(generator))
    data = _as_data(data, labels)
    splits = split(len(data.x), seed=config.seed, test=config.test, validation=config.validation, n_train=data.n_train)
    classes = _labels(data, config)
    require_network(config, data.schema.event_shape)
    begun = time.monotonic()
    coordinates = fit_coordinates(data, splits, config, out=None if out is None else Path(out), progress=progress)
    model = prepare(data, splits, config, coordinates)
    data = dataclasses.replace(data, x=data.x.to(device))
    model = model.to(device)
    _calibrate(model, data.x[splits.validation], config.seed)
    allowance = _allowance(config.time_budget, time.monotonic() - begun, out)
    result = _train(model, data.x, classes, splits, dataclasses.replace(config, time_budget=allowance), out, progress)
    assert isinstance(result.module, ScoreModel)
    fitted = DensityModel(model.transforms, result.module, data.schema, record=model.record)
    fitted.record["training"] = {
        "steps": result.step,
        "planned_steps": result.planned_steps,
        "seconds": round(result.seconds, 1),
        "stopped": result.stopped,
        "validation": result.best_value,
        "validation_before": next((r["validation"] for r in result.history if r["validation"] is not None), None),
        "validation_stderr": result.best_stderr,
        "best_step": result.best_step,
    }
    fitted.proposal = _proposal(fitted, data.x[splits.validation])
    return fitted.eval()


def _allowance(time_budget: float | None, spent: float, out: str | Path | None) -> float | None:
    """Seconds that are left for the network, decided once: a resumed run loads what the first one had to compute."""
    if time_budget is None:
        return None
    left = max(time_budget - spent, 0.1 * time_budget)
    if out is None:
        return left
    path = Path(out) / "allowance.json"
    if path.exists():
        record = json.loads(path.read_text())
        if record.get("time_budget") == time_budget:
            return float(record["network"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps({"time_budget": time_budget, "network": left}) + "\n")
    return left


def prepare(data: Data, splits: Splits, config: Config, coordinates: Coordinates | None = None) -> DensityModel:
    """The untrained model: transforms and reference fitted to the training split, a network that returns zero."""
    rows = data.x[splits.train]
    coordinates = coordinates or fit_coordinates(data, splits, dataclasses.replace(config, flow=False))
    transforms = coordinates.transforms
    y, _ = spread(transforms, rows, config.seed)
    reference = Gaussian.fit(y, rank=config.rank)
    shape = data.schema.event_shape
    classes = len(data.classes or ()) if config.conditional else 0
    head = _choose_head(data, rows, coordinates, reference, config)
    record = choose_network(config, shape, len(rows), classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, 1))
        network = build_network(record, shape, head)
    process = PROCESSES[config.process]()
    score = ScoreModel(network, process, config.predicts, reference=reference, head=head)
    described = {
        "config": config.to_json(),
        "network": record,
        "data": {"name": data.name, "rows": len(data.x), "fingerprint": fingerprint(data.x)},
        "classes": list(data.classes or ()),
        "splits": splits.to_json(),
        "starting_points": coordinates.held_out,
    }
    return DensityModel(transforms, score, data.schema, record=described)


def _as_data(data: Any, labels: Any | None) -> Data:
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        return load(data)
    return from_array(data, labels=labels)


def _labels(data: Data, config: Config) -> Tensor | None:
    if not config.conditional:
        return None
    if data.labels is None:
        raise InputError(f"{data.name}: has no labels to condition on; leave conditional out")
    return data.labels


def _choose_head(data: Data, rows: State, coordinates: Coordinates, reference: Gaussian, config: Config) -> Head:
    """The lattice head for discrete data with few cells, the mixture's where one was fitted, else the residual."""
    transforms = coordinates.transforms
    if config.network == "two-layer":
        return ResidualHead(reference, config.predicts)
    if coordinates.mixture is not None:
        return MixtureHead(reference, config.predicts, coordinates.mixture)
    step = data.schema.bin_width
    affine = all(isinstance(member, (Dequantise, Standardise)) for member in transforms.transforms)
    if not (config.lattice and affine and bool((step > 0).all())):
        return ResidualHead(reference, config.predicts)
    index = ((rows - data.schema.offset) / step).round().long()
    first = index.amin()
    cells = int(index.amax() - first) + 1
    if cells > MAX_CELLS:
        return ResidualHead(reference, config.predicts)
    (standardise,) = (member for member in transforms.transforms if isinstance(member, Standardise))
    corner = data.schema.offset + step * (float(first) - 0.5)
    lattice = Lattice(
        lower=(corner - standardise.mean) / standardise.scale,
        step=step / standardise.scale,
        histogram=_histogram(index - first, cells),
    )
    return LatticeHead(reference, config.predicts, lattice)


def _calibrate(model: DensityModel, rows: State, seed: int) -> None:
    """Let an expert start from its best share; until here the model is the Gaussian."""
    head = model.score.head
    if isinstance(head, ExpertHead):
        rows = rows[:CALIBRATION_ROWS]
        generators = keyed_generators(seed, "calibrate", rows)
        y, _ = model.transforms(rows, keyed_uniform(generators, rows.shape[1:], rows))
        head.calibrate(y.float(), torch.Generator().manual_seed(mix(seed, 2)))


def _histogram(index: Tensor, cells: int) -> Tensor:
    """Log-frequencies per dimension, smoothed towards the pooled and the uniform histogram, ``*d cells``."""
    counts = torch.nn.functional.one_hot(index, cells).sum(0).double()
    pooled = counts.flatten(0, -2).sum(0) + 1.0
    smooth = 0.5 * pooled / pooled.sum() + 0.5 / cells
    strength = 8.0
    return ((counts + strength * smooth) / (len(index) + strength)).log()


def _training_config(config: Config, rows: int, members: int) -> TrainingConfig:
    small = rows < 20_000
    steps = config.steps or (SMALL_STEPS if small else LARGE_STEPS)
    return TrainingConfig(
        steps=steps,
        batch_size=min(members * config.batch_size, rows),
        learning_rate=config.learning_rate or 1.5e-3,
        warmup=min(100, max(1, steps // 10)),
        weight_decay=config.weight_decay if config.weight_decay is not None else 0.1,
        ema_decay=config.ema_decay,
        time_budget=config.time_budget,
        patience=config.patience,
        seed=config.seed,
    )


def _train(
    model: DensityModel,
    x: State,
    labels: Tensor | None,
    splits: Splits,
    config: Config,
    out: str | Path | None,
    progress: Progress | None,
) -> TrainingResult:
    rows = x[splits.train]
    given = None if labels is None else labels[splits.train].to(x.device)
    settings = _training_config(config, len(rows), model.record["network"]["members"])
    shuffled = ShuffledBatches(len(rows), settings.batch_size, mix(config.seed, 3))

    def batch(step: int) -> Batch:
        index = shuffled(step)
        return Batch(rows[index], None if given is None else given[index])

    held = splits.validation[:VALIDATION_ROWS]

    def validate(module: torch.nn.Module, step: int) -> MeanEstimate:
        del step
        assert isinstance(module, ScoreModel)
        candidate = DensityModel(model.transforms, module, model.schema, record=model.record)
        condition = None if labels is None else labels[held].to(x.device)
        return candidate.encoded_elbo(x[held], samples=VALIDATION_SAMPLES, condition=condition).mean()

    hidden = 0.1 if config.conditional else 0.0
    objective = DenoisingObjective(model.score, model.transforms, drop_condition=hidden).to(x.device)
    identity = f"{model.record['data']['fingerprint']} {config.to_json() | {'time_budget': None}}"
    return train(
        model.score,
        objective,
        batch,
        config=settings,
        validate=validate,
        run=out,
        progress=progress,
        identity=identity,
    )


@torch.no_grad()
def _proposal(model: DensityModel, rows: State) -> Any:
    """Fit the log-SNR density of later evaluations on validation rows."""
    rows = rows[:PROPOSAL_ROWS]
    uniform = keyed_uniform(keyed_generators(0, "proposal", rows), rows.shape[1:], rows)
    y, _ = model.transforms(rows, uniform)
    return fit_proposal(model.score, model.score.process, y.float(), reference=model.reference, decoder=model.reference)
