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

import numpy as np
import torch
from torch import Tensor, nn

from girsanov.datasets import Data, Splits, fingerprint, from_array, load, split
from girsanov.datasets.labels import label_name
from girsanov.densities import Gaussian
from girsanov.density_model.conditions import Conditioning, require_trained_classes
from girsanov.density_model.config import PROCESSES, Config, make_process
from girsanov.density_model.coordinates import MAX_CELLS, Coordinates, fit_coordinates
from girsanov.density_model.flow import FlowObjective
from girsanov.density_model.fresh import fresh_elbo, fresh_log_prob
from girsanov.density_model.lattice import lattice_points, require_dequantisation
from girsanov.density_model.learned_noise import fit_dequantiser
from girsanov.density_model.model import DensityModel
from girsanov.density_model.networks import Architecture, build_network, choose_network, require_network
from girsanov.encoding import COPIES
from girsanov.files import write_text_atomic
from girsanov.likelihoods import fit_proposal
from girsanov.models import (
    ConditionMap,
    Ensemble,
    ExpertHead,
    Head,
    Lattice,
    LatticeHead,
    MixtureHead,
    ResidualHead,
    ScoreModel,
)
from girsanov.objectives import Batch, DenoisingObjective, ScheduledObjective
from girsanov.randomness import mix, seed_of, stream
from girsanov.solvers import FixedGrid
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, TrainingResult, train
from girsanov.transforms import Dequantise, OnLattice, Standardise
from girsanov.types import InputError, MeanEstimate, State

SMALL_STEPS, LARGE_STEPS = 1250, 12_000
VALIDATION_ROWS = 512
VALIDATION_SAMPLES = 16
PROPOSAL_ROWS = 512
CALIBRATION_ROWS = 1024
MOST_NUMBERS = 2**26  # in the dequantised copies of the rows that the reference is fitted to
SETTLING_STEPS = 150  # of a learned schedule, after the network's training
FLOW_STEPS, FLOW_ROWS = 8, 128  # of a continuous flow's validation: Runge-Kutta steps, and rows


def fit(
    data: Any,
    *,
    config: Config | None = None,
    generator: torch.Generator | None = None,
    model: str | None = None,
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
        generator: read once for a seed that replaces ``config.seed``; ``None`` keeps that.
        model: ``diffusion`` or ``cnf``, in place of ``config.model``.
        labels: what rows are conditioned on under ``config.conditional``, for arrays: an integer class of each row,
            or continuous conditions (``n c``, or ``n`` numbers that are not all whole).
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
    if model is not None:
        config = dataclasses.replace(config, model=model)
    place = _place(device)
    data = _as_data(data, labels).of_present_classes()
    splits = split(len(data.x), seed=config.seed, test=config.test, validation=config.validation, n_train=data.n_train)
    classes = _labels(data, config)
    if config.conditional:
        require_trained_classes(data, splits)
    require_network(config, data.schema.event_shape)
    require_dequantisation(data, config)
    begun = time.monotonic()
    coordinates = fit_coordinates(data, splits, config, out=None if out is None else Path(out), progress=progress)
    start = prepare(data, splits, config, coordinates)
    data = dataclasses.replace(data, x=data.x.to(place))
    start = start.to(place)
    _calibrate(start, data.x[splits.validation], config.seed)
    allowance = _allowance(config.time_budget, time.monotonic() - begun, out)
    result = _train(start, data, classes, splits, dataclasses.replace(config, time_budget=allowance), out, progress)
    assert isinstance(result.module, ScoreModel)
    fitted = start.replace(score=result.module)
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
    _settle(fitted, data.x, classes, splits, config)
    rows, held = data.x[splits.train], data[splits.validation[:VALIDATION_ROWS]]
    noise = {"steps": config.steps, "seed": config.seed, "out": None if out is None else Path(out)}
    fit_dequantiser(fitted.eval(), rows, held, progress=progress, **noise)
    fitted.proposal = _proposal(fitted, data.x[splits.validation])
    return fitted.eval()


def _place(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Unknown device {device!r}: give cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError("PyTorch finds no CUDA device here: leave device out, or give device='cpu'")
    return place


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
    encoding = smooth = coordinates.encoding
    if isinstance(points := encoding.dequantiser, OnLattice):  # spread there, so that the reference is a density
        smooth = encoding.with_dequantiser(Dequantise(points.event_shape, points.step, points.offset))
    copies = max(1, min(COPIES, MOST_NUMBERS // rows.numel()))
    y, _ = smooth.spread(rows, stream(config.seed, "reference"), copies)
    reference = Gaussian.fit(y, rank=config.rank)
    shape = data.schema.event_shape
    classes = len(_class_names(data)) if config.conditional else 0
    head = _choose_head(data, rows, coordinates, reference, config)
    conditions = _conditions(data, config)
    record = choose_network(config, shape, len(rows), classes, 0 if conditions is None else conditions.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, 1))
        network = build_network(record, shape, head)
    for module in network.modules():
        if isinstance(module, ConditionMap) and conditions is not None:
            module.standardise(conditions[splits.train])
    lattice = lattice_points(encoding)
    low, high = PROCESSES[config.process]().log_snr_range
    span = (low, high if lattice is None else min(high, lattice.level_for()))
    process = make_process(config.process, config.schedule, span)
    options = {"log_snr_range": span, "broad_share": config.model != "cnf"}
    score = ScoreModel(network, process, config.predicts, reference=reference, head=head, **options)
    described = {
        "config": config.to_json(),
        "network": record,
        "data": {
            "name": str(data.name),
            "rows": len(data.x),
            "fingerprint": fingerprint(data.x),
            "cells": data.schema.cells,
        },
        "classes": list(_class_names(data)),
        "splits": splits.to_json(),
        "starting_points": coordinates.held_out,
    }
    built = Architecture(record, config.process, config.schedule, config.model)
    given = _conditioning(data, config, conditions)
    return DensityModel(encoding, score, conditioning=given, architecture=built, record=described)


def _conditioning(data: Data, config: Config, conditions: Tensor | None) -> Conditioning:
    """Classes by name, and as the labels gave them where the names say no more; or numbers."""
    if not config.conditional:
        return Conditioning()
    if conditions is not None:
        return Conditioning(numbers=True, width=conditions.shape[1])
    names, values = _class_names(data), tuple(data.values or ())
    return Conditioning(names, values if tuple(map(label_name, values)) == names else ())


def _as_data(data: Any, labels: Any | None) -> Data:
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        return load(data)
    conditions = continuous_conditions(labels)
    if conditions is None:
        return from_array(data, labels=labels)
    found = from_array(data)
    if len(conditions) != len(found.x) or not bool(conditions.isfinite().all()):
        raise InputError(f"labels must be {len(found.x)} rows of finite numbers; got shape {tuple(conditions.shape)}")
    return dataclasses.replace(found, codes=conditions)


def continuous_conditions(labels: Any | None) -> Tensor | None:
    """Labels as continuous conditions, float64 ``n c``; ``None`` where they are classes, or missing."""
    if labels is None:
        return None
    values = np.asarray(
        labels.detach().cpu().double() if isinstance(labels, Tensor) and labels.is_floating_point() else labels
    )
    if values.dtype.kind not in "iuf" or (values.dtype.kind != "f" and values.shape[1:] in ((), (1,))):
        return None
    if values.ndim == 2:
        return torch.from_numpy(values.astype(np.float64))
    fractional = values.ndim == 1 and bool((np.isfinite(values) & (values != np.rint(values))).any())
    return torch.from_numpy(values.astype(np.float64))[:, None] if fractional else None


def _labels(data: Data, config: Config) -> Tensor | None:
    if not config.conditional:
        return None
    if data.codes is None:
        raise InputError(f"{data.name}: has no labels to condition on; leave conditional out")
    return data.codes


def _class_names(data: Data) -> tuple[str, ...]:
    """Names of the classes."""
    if data.codes is None or data.codes.is_floating_point():
        return ()
    return data.of_present_classes().classes or ()


def _conditions(data: Data, config: Config) -> Tensor | None:
    """Continuous conditions, where the model is to have them."""
    continuous = config.conditional and data.codes is not None and data.codes.dtype.is_floating_point
    return data.codes if continuous else None


def _choose_head(data: Data, rows: State, coordinates: Coordinates, reference: Gaussian, config: Config) -> Head:
    """The lattice head for discrete data with few cells, the mixture's where one was fitted, else the residual."""
    members = coordinates.encoding.transforms.members
    if config.network == "two-layer" or config.model == "cnf":
        return ResidualHead(reference, config.predicts)
    if coordinates.mixture is not None:
        return MixtureHead(reference, config.predicts, coordinates.mixture)
    step = data.schema.bin_width
    affine = all(isinstance(member, (Dequantise, Standardise)) for member in members)
    uniform = config.dequantise == "uniform"  # the head's exact moments are those of uniform cells
    if not (config.lattice and uniform and affine and bool((step > 0).all())):
        return ResidualHead(reference, config.predicts)
    index = ((rows - data.schema.offset) / step).round().long()
    first = index.amin()
    cells = int(index.amax() - first) + 1
    if cells > MAX_CELLS:
        return ResidualHead(reference, config.predicts)
    (standardise,) = (member for member in members if isinstance(member, Standardise))
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
        y, _ = model.encoding.spread(rows[:CALIBRATION_ROWS], stream(seed, "calibration"), copies=1)
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
    data: Data,
    labels: Tensor | None,
    splits: Splits,
    config: Config,
    out: str | Path | None,
    progress: Progress | None,
) -> TrainingResult:
    x, rows = data.x, data.x[splits.train]
    given = None if labels is None else labels[splits.train].to(x.device)
    members = len(model.score.network.members) if isinstance(model.score.network, Ensemble) else 1
    settings = _training_config(config, len(rows), members)
    shuffled = ShuffledBatches(len(rows), settings.batch_size, mix(config.seed, 3))

    def batch(step: int) -> Batch:
        index = shuffled(step)
        return Batch(rows[index], None if given is None else given[index])

    held = splits.validation[:VALIDATION_ROWS]

    def noise() -> torch.Generator:
        return stream(config.seed, "validation")  # the same for all steps that are compared

    def validate(module: torch.nn.Module, step: int) -> MeanEstimate:
        del step
        assert isinstance(module, ScoreModel)
        candidate = model.replace(score=module)
        condition = None if labels is None else labels[held].to(x.device)
        if config.model == "cnf":
            few, given = data[held[:FLOW_ROWS]], None if condition is None else condition[:FLOW_ROWS]
            return fresh_log_prob(candidate, few, noise(), condition=given, solver=FixedGrid(FLOW_STEPS)).mean()
        return fresh_elbo(candidate, data[held], noise(), samples=VALIDATION_SAMPLES, condition=condition).mean()

    objective = _objective(model, config).to(x.device)
    identity = f"{fingerprint(x.cpu())} {model.schema.cells} {config.to_json() | {'time_budget': None}}"
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


def _objective(model: DensityModel, config: Config) -> nn.Module:
    if config.model == "cnf":
        return FlowObjective(model.score, model.encoding.transforms)
    hidden = 0.1 if config.conditional else 0.0
    kind = ScheduledObjective if config.schedule == "learned" else DenoisingObjective
    return kind(model.score, model.encoding.transforms, drop_condition=hidden)


def _settle(model: DensityModel, x: State, labels: Tensor | None, splits: Splits, config: Config) -> None:
    """The last steps of a learned schedule, with the network that was chosen."""
    if config.schedule != "learned":
        return
    shuffled = ShuffledBatches(len(splits.train), min(config.batch_size, len(splits.train)), mix(config.seed, 8))

    def batch(step: int) -> Batch:
        index = splits.train[shuffled(step)]
        return Batch(x[index], None if labels is None else labels[index].to(x.device))

    objective = ScheduledObjective(model.score, model.encoding.transforms)
    generator = torch.Generator().manual_seed(mix(config.seed, 9))
    objective.settle(model.score, batch, steps=min(SETTLING_STEPS, config.steps or SETTLING_STEPS), generator=generator)


@torch.no_grad()
def _proposal(model: DensityModel, rows: State) -> Any:
    """Fit the log-SNR density of later evaluations on validation rows."""
    y, _ = model.encoding.spread(rows[:PROPOSAL_ROWS], stream(0, "proposal"), copies=1)
    return fit_proposal(model.pair, y.float())
