r"""Fitting a density model to data: transforms, Gaussian reference, network, training with early stopping on the bound.

The training split fits everything; the validation split stops training and chooses; the test split is not looked
at here. Every random choice follows from the seed.
"""

__all__ = ["fit", "prepare"]

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.datasets import Data, Splits, fingerprint, from_array, load, split
from girsanov.densities import Gaussian
from girsanov.densities.stationary import fit_image_gaussian
from girsanov.density_model.conditions import Conditioning, class_names, continuous_conditions, training_labels
from girsanov.density_model.config import LEARNED, Config, FitConfig
from girsanov.density_model.coordinates import Coordinates, fit_coordinates
from girsanov.density_model.effort import allowance, within_budget
from girsanov.density_model.heads import calibrate, choose_head
from girsanov.density_model.lattice import lattice_points, require_dequantisation
from girsanov.density_model.learned_noise import fit_dequantiser, network_share
from girsanov.density_model.learning import settle, train_score
from girsanov.density_model.mixing import companions_of, mixed_with
from girsanov.density_model.model import DensityModel
from girsanov.density_model.networks import Architecture, build_network, build_process, suited
from girsanov.encoding import COPIES
from girsanov.inputs import as_device, checked, require_names
from girsanov.likelihoods import fit_proposal
from girsanov.networks import ConditionMap
from girsanov.pairs import ScoreModel
from girsanov.randomness import mix, seed_of, stream
from girsanov.training import Progress, TrainingResult, as_progress
from girsanov.transforms import Dequantise, OnLattice
from girsanov.types import InputError, State

PROPOSAL_ROWS, FEWEST_ROWS = 512, 24
PROPOSAL_NUMBERS = 2**15  # in the rows that a proposal is fitted to
HELD_ROWS = 256  # that the reference of images is chosen by
SCALED_ROWS = 2048  # that a mixture of its scales is fitted to
LEVELS, FEWER_LEVELS = 40, 20  # where it is measured, of short rows and of long ones
ARGUMENTS = ("config", "generator", "labels", "out", "progress", "device")  # of fit, beside its settings
MOST_NUMBERS = 2**24  # in the rows, or their dequantised copies, that the reference is fitted to


@checked
def fit(
    data: Any,
    *,
    config: FitConfig | None = None,
    generator: torch.Generator | None = None,
    labels: Any | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> DensityModel:
    """Fit a density model: a diffusion model, or what ``config`` is the settings of.

    Args:
        data: a name, path or Hugging Face id (see :func:`girsanov.datasets.load`), a :class:`girsanov.datasets.Data`,
            or rows as a tensor, array or data frame of shape ``n *d``.
        config: settings; by default those of :class:`girsanov.Config`, which suit real tables and small images. A
            :class:`girsanov.density_model.ContinuousFlowConfig` makes a continuous flow.
        generator: read once for a seed that replaces ``config.seed``; ``None`` keeps that.
        labels: what rows are conditioned on under ``config.conditional``, for arrays: an integer class of each row,
            or continuous conditions (``n c``, or ``n`` numbers that are not all whole).
        out: folder for checkpoints and the log; a fit that was interrupted goes on from there.
        progress: ``None`` shows a bar in a terminal or a notebook and nothing elsewhere, ``True`` lines elsewhere,
            ``False`` nothing; or what is to show it.
        device: where the networks are trained; noise is drawn on the CPU, so that it is the same everywhere.
        **settings: fields of ``config`` by name, such as ``time_budget=60``, ``conditional=True`` or ``network="mlp"``;
            they take the place of those in ``config``.

    Returns:
        The fitted model, in evaluation mode. ``model.record["splits"]`` tells which rows were held out.

    Raises:
        InputError: one sentence, for data or settings that cannot work.

    Example:
        >>> import girsanov as gv
        >>> from girsanov.networks import MLPConfig
        >>> model = gv.fit(torch.randn(200, 2), steps=20, network=MLPConfig(width=16))
        >>> model.elbo(torch.zeros(3, 2)).value.shape
        torch.Size([3])
    """
    config, shown = _settled(config or Config(), settings, generator), as_progress(progress)
    if labels is not None and not config.conditional:
        raise InputError("labels= is what a conditional model is about: give conditional=True, or leave it out")
    place, folder = as_device(device), None if out is None else Path(out)
    data = _as_data(data, labels).of_present_classes()
    splits = split(len(data.x), seed=config.seed, test=config.test, validation=config.validation, n_train=data.n_train)
    given = training_labels(data, splits) if config.conditional else None
    suited(config, data.schema.event_shape)
    require_dequantisation(data, config)
    begun, asked = time.monotonic(), config
    config, told = within_budget(config, data.schema.event_shape, len(splits.train), folder, place)
    if told:
        shown.say(told)
    coordinates = fit_coordinates(data, splits, config, out=folder, progress=shown)
    start = prepare(data, splits, config, coordinates).to(place)
    start.record |= {"config": asked.to_json(), "effort": told}
    data = dataclasses.replace(data, x=data.x.to(place))
    companions = companions_of(start, data, splits, config)
    _begin(start, data.x[splits.validation], config.seed)
    left = network_share(config) * (config.time_budget or 0.0) - (time.monotonic() - begun)
    seconds = allowance(config.time_budget, left, folder)
    result = train_score(start, data, given, splits, config, seconds=seconds, out=folder, progress=shown)
    assert isinstance(result.module, ScoreModel)
    fitted = start.replace(score=result.module)
    fitted.record["training"] = _told(result)
    settle(fitted, data.x, given, splits, config)
    fit_dequantiser(fitted.eval(), data, splits, config, out=folder, progress=shown)
    fitted.proposal = _proposal(fitted, data.x[splits.validation])
    return mixed_with(fitted.eval(), companions, data, splits, config).eval()


def _settled(config: FitConfig, settings: dict[str, Any], generator: torch.Generator | None) -> FitConfig:
    """The settings, those that were given by name in the place of the others."""
    require_names(settings, [field.name for field in dataclasses.fields(config)], "fit", also=ARGUMENTS)
    seed = {} if generator is None else {"seed": seed_of(generator)}
    return dataclasses.replace(config, **settings | seed)


def _begin(start: DensityModel, held: State, seed: int) -> None:
    """What held-out rows say of a start: an expert's share, and how its bound is best measured in validations."""
    calibrate(start, held, seed)
    if start.score.head is not None and not start.score.head.beside_reference:
        start.proposal = _proposal(start, held)  # else their noise would be that of a bad baseline


def _told(result: TrainingResult) -> dict[str, Any]:
    """What the record keeps of a training."""
    before = next((line for line in result.history if line["validation"] is not None), {})
    return {
        "steps": result.step,
        "planned_steps": result.planned_steps,
        "seconds": round(result.seconds, 1),
        "stopped": result.stopped,
        "validation": result.best_value,
        "validation_before": before.get("validation"),
        "validation_before_stderr": before.get("validation_stderr"),
        "validation_stderr": result.best_stderr,
        "best_step": result.best_step,
    }


def prepare(data: Data, splits: Splits, config: FitConfig, coordinates: Coordinates | None = None) -> DensityModel:
    """The untrained model: transforms and reference fitted to the training split, a network that returns zero."""
    rows, shape = data.x[splits.train], data.schema.event_shape
    if coordinates is None:
        quick = dataclasses.replace(config, flow=False) if isinstance(config, Config) else config
        coordinates = fit_coordinates(data, splits, quick)
    encoding = smooth = coordinates.encoding
    if isinstance(points := encoding.dequantiser, OnLattice):  # spread there, so that the reference is a density
        smooth = encoding.with_dequantiser(Dequantise(points.event_shape, points.step, points.offset))
    some = rows[:: math.ceil(rows.numel() / MOST_NUMBERS)]
    copies = max(1, min(COPIES, MOST_NUMBERS // some.numel()))
    y, _ = smooth.spread(some, stream(config.seed, "reference"), copies)
    held, _ = smooth.spread(data.x[splits.validation][:HELD_ROWS], stream(config.seed, "held-out reference"), copies=1)
    stationary = data.schema.kind == "images" and config.rank is None
    reference = fit_image_gaussian(y, held) if stationary else Gaussian.fit(y, rank=config.rank)
    head = choose_head(rows, coordinates, reference, config, (y[:SCALED_ROWS], held))
    conditioning = Conditioning.of(data) if config.conditional else Conditioning()
    built = Architecture.chosen(config, shape, len(rows), len(conditioning.classes), conditioning.width or 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, 1))
        network = build_network(built.network, shape, head, given=config.network)
    if conditioning.numbers and data.codes is not None:
        _standardise_conditions(network, data.codes[splits.train])
    process, lattice = config.forward_process(), lattice_points(encoding)
    low, high = process.log_snr_range
    span = (low, high if lattice is None else min(high, lattice.level_for(head.deviations_at_end)))
    if built.process["name"] == LEARNED:
        process = build_process(built, span)
    options = {"log_snr_range": span, "broad_share": built.model != "cnf"}
    score = ScoreModel(network, process, config.predicts, reference=reference, head=head, **options)
    described = _described(data, splits, config, coordinates, built)
    return DensityModel(encoding, score, conditioning=conditioning, architecture=built, record=described)


def _described(
    data: Data, splits: Splits, config: FitConfig, coordinates: Coordinates, built: Architecture
) -> dict[str, Any]:
    """The record of a model before its training."""
    source = {"name": str(data.name), "rows": len(data.x), "fingerprint": fingerprint(data.x)}
    return {
        "config": config.to_json(),
        "network": built.network,
        "data": source | {"cells": data.schema.cells},
        "classes": list(class_names(data)),
        "splits": splits.to_json(),
        "starting_points": coordinates.held_out,
    }


def _standardise_conditions(network: nn.Module, conditions: Tensor) -> None:
    for module in network.modules():
        if isinstance(module, ConditionMap):
            module.standardise(conditions)


def _as_data(data: Any, labels: Any | None) -> Data:
    if labels is not None and isinstance(data, Data | str | Path):
        raise InputError("labels= goes with an array or a frame; these data bring their own: leave it out")
    if isinstance(data, Data):
        return data
    if isinstance(data, str | Path):
        return load(data)
    conditions = continuous_conditions(labels)
    if conditions is None:
        return from_array(data, labels=labels)
    found = from_array(data)
    if len(conditions) != len(found.x) or not bool(conditions.isfinite().all()):
        raise InputError(f"labels must be {len(found.x)} rows of finite numbers; got shape {tuple(conditions.shape)}")
    return dataclasses.replace(found, codes=conditions)


@torch.no_grad()
def _proposal(model: DensityModel, rows: State) -> Any:
    """Fit the log-SNR density of later evaluations on validation rows."""
    count = PROPOSAL_NUMBERS // rows[0].numel()
    levels = LEVELS if count >= PROPOSAL_ROWS else FEWER_LEVELS
    y, _ = model.encoding.spread(rows[: max(FEWEST_ROWS, min(PROPOSAL_ROWS, count))], stream(0, "proposal"), copies=1)
    return fit_proposal(model.replace(proposal=None).pair, y.float(), levels=levels)
