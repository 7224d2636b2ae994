r"""In which coordinates, and around which closed-form density, the diffusion of a table is learned.

Three steps, the last two kept only where held-out rows gain by them: the columns are Gaussianised; a spline flow is
trained on the result by maximum likelihood; a mixture is fitted to what the flow makes of the rows. That is the
diffusion's starting point: the flow as the last transform, the mixture as the expert of its head. Images are only
scaled.
"""

__all__ = ["Coordinates", "fit_coordinates", "train_flow"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.datasets import Data, Schema, Splits, fingerprint
from girsanov.densities import GaussianMixture
from girsanov.densities.fitting import fit_gaussians, joined
from girsanov.density_model.config import Config, FitConfig
from girsanov.density_model.lattice import MAX_CELLS, make_dequantiser
from girsanov.encoding import Encoding, copies_for
from girsanov.randomness import mix, stream
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, train
from girsanov.transforms import Gaussianise, Logit, OnLattice, SplineFlow, Standardise
from girsanov.types import State

COMPONENTS = (5, 20, 60)
RIDGES = (1e-5, 1e-2)
MIXTURE_ROWS = 20_000
ROWS_PER_COMPONENT = 15
FLOW_SHARE, MIXTURE_SHARE = 0.55, 0.15  # of the time budget
ITERATIONS = 60
SPEED = 1e9  # multiplications of a mixture's fit per second, at least: a clock would choose another one after a stop
FLOW_COLUMNS = 64  # wider tables do without a flow
LARGE = 20_000  # rows from which on a wider flow pays
HELD_OUT_ROWS = 2000


@dataclass(frozen=True)
class Coordinates:
    """Transforms from data to the model's space, and the mixture fitted there, if one pays.

    Attributes:
        encoding: from the user's rows to the model's space.
        mixture: a closed-form density in that space for the head to correct, or ``None``.
        held_out: mean log-density of held-out rows under the starting points that were tried, in nats, data units.
    """

    encoding: Encoding
    mixture: GaussianMixture | None
    held_out: dict[str, float]


def fit_coordinates(
    data: Data,
    splits: Splits,
    config: FitConfig,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Coordinates:
    """Fit transforms on the training split, choosing by the validation split."""
    rows, held = data.x[splits.train], data.x[splits.validation][:HELD_OUT_ROWS]
    columns = _columns(data, rows, held, config)
    # a continuous flow is one flow, and nothing of another kind before it
    if data.schema.kind == "images" or not config.gaussianise or not isinstance(config, Config):
        return Coordinates(columns, None, {})
    found: dict[str, float] = {}
    if config.flow and rows.shape[1] <= FLOW_COLUMNS:
        flow, found["flow"] = _fit_flow(columns, rows, held, config, out, progress)
        columns = columns.then(flow)
    mixture, value = _fit_mixture(columns, rows, held, config)
    if math.isfinite(value):  # a handful of rows bears none
        found["mixture"] = value
    if "flow" in found and value <= found["flow"]:
        mixture = None
    return Coordinates(columns, mixture, found)


def _columns(data: Data, rows: State, held: State, config: FitConfig) -> Encoding:
    """Dequantise where columns are discrete; Gaussianise the columns of tables, or bring data to unit scale."""
    schema, found = data.schema, Encoding(data.schema)
    if schema.discrete:
        found = found.then(make_dequantiser(schema, data.x, config))
    if config.logit:
        found = found.then(_logit(data))
        rows = found.spread(rows, stream(config.seed, "logit"), copies=1)[0]
    if schema.kind == "images" or not config.gaussianise:
        affine = Standardise.fit(rows, shared=schema.kind == "images")
        # what decodes cells or bounds its rows has no place for tails
        bounded = config.logit or isinstance(found.dequantiser, OnLattice)
        return found.then(affine if bounded else _with_tails(affine, schema, rows))
    y, _ = found.spread(rows, stream(config.seed, "columns"))
    other, _ = found.spread(held, stream(config.seed, "held-out columns"))
    return found.then(Gaussianise.fit(y, other, schema.bin_width, schema.offset - 0.5 * schema.bin_width))


def _with_tails(affine: Standardise, schema: Schema, rows: State) -> Standardise:
    """Tails beyond the rows of each dimension, and beyond the lattice that a lattice head would have in common."""
    step, low, high = schema.bin_width, rows.amin(0), rows.amax(0)
    if bool((step > 0).all()):
        index = ((rows - schema.offset) / step).round()
        if float(index.amax() - index.amin()) < MAX_CELLS:
            low, high = schema.offset + step * index.amin(), schema.offset + step * index.amax()
    return affine.with_tails(low, high, torch.maximum(rows.std(0), step))


def _logit(data: Data) -> Logit:
    """Logit of what lies between the outer edges of the lowest and the highest cell that occurs."""
    step = data.schema.bin_width
    return Logit(float((data.x - 0.5 * step).min()), float((data.x + 0.5 * step).max()))


def _fit_mixture(
    columns: Encoding, rows: State, held: State, config: FitConfig
) -> tuple[GaussianMixture | None, float]:
    """The best mixture on held-out rows, more components as long as they pay; ``None`` if one is best."""
    seed, affordable = config.seed, math.inf if config.time_budget is None else MIXTURE_SHARE * config.time_budget
    y = columns.spread(rows[:MIXTURE_ROWS], stream(seed, "mixture"), copies=1)[0].numpy()
    other, log_det = columns.spread(held, stream(seed, "held-out mixture"), copies_for(len(held), HELD_OUT_ROWS))
    best, score = None, -float("inf")
    for count in (1, *COMPONENTS):
        seconds = len(RIDGES) * ITERATIONS * count * len(y) * (y.shape[1] ** 2 + 20) / SPEED
        if count * ROWS_PER_COMPONENT > len(y) or (count > 1 and seconds > affordable):
            break
        before = score
        for ridge in RIDGES:
            fitted = fit_gaussians(y, count, ridge, seed=seed % 2**31, iterations=ITERATIONS)
            value = -math.inf if fitted is None else float(fitted.score(other.numpy()))
            if value > score:
                best, score = fitted, value
        if score == before:
            break
    value = score + float(log_det.mean())
    if best is None or best.n_components == 1:
        return None, value
    return joined([best]), value


def _fit_flow(
    columns: Encoding,
    rows: State,
    held: State,
    config: FitConfig,
    out: Path | None,
    progress: Progress | None,
) -> tuple[SplineFlow, float]:
    """A spline flow by maximum likelihood, stopped early on held-out rows."""
    if progress is not None:
        progress.stage("spline flow")
    small = len(rows) < LARGE
    steps = 2000 if small else 6000
    settings = {
        "steps": steps if config.steps is None else min(steps, config.steps),
        "learning_rate": 4e-3 if small else 3e-3,
        "weight_decay": 0.1 if small else 0.01,
        "time_budget": None if config.time_budget is None else FLOW_SHARE * config.time_budget,
        "seed": config.seed,
    }
    other, log_det = columns.spread(held, stream(config.seed, "held-out flow"), copies_for(len(held), HELD_OUT_ROWS))

    def validate(flow: SplineFlow) -> float:
        with torch.no_grad():
            return float(flow.log_prob(other).double().mean() + log_det.mean())

    run, identity = None if out is None else out / "flow", f"flow {fingerprint(rows)} {columns.schema.cells}"
    options = {"run": run, "progress": progress, "identity": identity}
    size = {"width": 64 if small else 128}
    return train_flow(columns, rows, validate, size, settings, purposes=(4, 5), **options)[:2]


def train_flow(
    encoding: Encoding,
    rows: State,
    validate: Callable[[SplineFlow], float],
    size: Mapping[str, int],
    settings: Mapping[str, Any],
    *,
    purposes: tuple[int, int],
    **options: Any,
) -> tuple[SplineFlow, float, int]:
    """A spline flow by maximum likelihood of rows with fresh noise in every step, stopped early.

    AdamW with warm-up and a cosine, averaged weights: the one loop that trains our own models.

    Args:
        encoding: to the coordinates of the flow, which are flattened.
        rows: encoded training rows ``n *event_shape``.
        validate: the value of a flow on held-out rows, to be maximised.
        size: options of the flow.
        settings: of the training: steps, rates, time budget and seed.
        purposes: key the initial weights and the batches, beside the seed.
        **options: of :func:`girsanov.training.train`.

    Returns:
        The flow of the best validation, that value, and its step.
    """
    seed = settings["seed"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, purposes[0]))
        flow = SplineFlow(rows[0].numel(), **size)
    config = TrainingConfig(batch_size=min(256, len(rows)), clip_norm=5.0, ema_decay=0.995, patience=8, **settings)
    shuffled = ShuffledBatches(len(rows), config.batch_size, mix(seed, purposes[1]))

    def loss(module: nn.Module, batch: State, generator: torch.Generator, step: int) -> Tensor:
        assert isinstance(module, SplineFlow)
        y = encoding.spread(batch, generator, copies=1)[0].flatten(1)
        return -module.log_prob(y) / y.shape[1]

    def value(module: nn.Module, step: int) -> float:
        assert isinstance(module, SplineFlow)
        return validate(module)

    result = train(flow, loss, lambda step: rows[shuffled(step)], config=config, validate=value, **options)
    assert isinstance(result.module, SplineFlow)
    assert result.best_value is not None
    assert result.best_step is not None
    return result.module, result.best_value, result.best_step
