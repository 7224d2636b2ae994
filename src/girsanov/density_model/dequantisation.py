r"""How a fitted model treats discrete data: its dequantiser, learned noise, importance weighting, the cell decoder.

The learned noise is trained after the network, by the bound itself with the network held fixed: with
:math:`y = T_\phi(x, u)` it maximises :math:`E[\log|\det| + \log\mathcal{N}(y; m, S) + \mathrm{gain}(y)]`, whose
gradient passes through y, and is kept where held-out rows gain by it. It starts as the uniform noise.
"""

__all__ = [
    "fit_dequantiser",
    "lattice_points",
    "make_dequantiser",
    "reference_transforms",
    "require_dequantisation",
    "weighted_elbo",
    "weighted_log_prob",
]

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.datasets import Data, Schema
from girsanov.density_model.config import Config
from girsanov.density_model.noise import fresh_elbo
from girsanov.likelihoods import elbo
from girsanov.likelihoods.discrete import LatticePoints, importance_weighted, log_mean_exp
from girsanov.objectives import low_discrepancy
from girsanov.randomness import mix, seed_of, stream
from girsanov.solvers import LogSNRDensity
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, train
from girsanov.transforms import (
    Compose,
    Dequantise,
    OnLattice,
    Transform,
    TruncatedNormalDequantise,
    VariationalDequantise,
)
from girsanov.types import Estimate, InputError, MeanEstimate, State

if TYPE_CHECKING:
    from girsanov.density_model.model import DensityModel

STEPS, BATCH, SAMPLES = 400, 256, 16
BEYOND = 0.005  # share of levels that no training row has, under a decoder of cells


def require_dequantisation(data: Data, config: Config) -> None:
    """Refuse a dequantiser that cannot serve these data, before anything is fitted.

    Raises:
        InputError: for columns that are Gaussianised, which spread cells uniformly, or a categorical decoder or logit
            space for continuous dimensions.
    """
    discrete, table = bool((data.schema.bin_width > 0).all()), data.schema.kind != "images" and config.gaussianise
    if config.logit and (table or not discrete):
        raise InputError(f"{data.name}: logit needs images of whole levels, or a discrete table with gaussianise=False")
    if config.dequantise == "uniform":
        return
    if table:
        raise InputError(f"dequantise={config.dequantise!r} needs images, or a table with gaussianise=False")
    if config.dequantise == "categorical" and not discrete:
        raise InputError(f"{data.name}: has continuous dimensions, which no categorical decoder can end in")


def make_dequantiser(schema: Schema, rows: State, config: Config) -> Dequantise:
    """The dequantiser that ``config`` names, for encoded rows."""
    shape, step, offset = schema.event_shape, schema.bin_width, schema.offset
    if config.dequantise == "truncated-normal":
        return TruncatedNormalDequantise(shape, step, offset)
    if config.dequantise == "variational":
        spread = rows.std(0).mean().clamp_min(float(step.max())).expand_as(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, 6))
            return VariationalDequantise(shape, step, offset, centre=rows.mean(0), spread=spread)
    if config.dequantise == "categorical":
        return OnLattice(shape, step, *_support(schema, rows))
    return Dequantise(shape, step, offset)


def _support(schema: Schema, rows: State) -> tuple[Tensor, int]:
    """The lowest lattice point of each dimension that occurs (of all, for images), and the number of points."""
    index = ((rows - schema.offset) / schema.bin_width).round()
    low, high = index.amin(0), index.amax(0)
    if schema.kind == "images":
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    return schema.offset + schema.bin_width * low, int((high - low).max()) + 1


def reference_transforms(transforms: Compose) -> Compose:
    """The transforms under which a reference is fitted: lattice points are spread there, so that it is a density."""
    return Compose(
        [
            Dequantise(member.event_shape, member.step, member.offset) if isinstance(member, OnLattice) else member
            for member in transforms.transforms
            if isinstance(member, Transform)
        ]
    )


def lattice_points(transforms: Compose) -> LatticePoints | None:
    """Where the lattice of a categorical model lies in its coordinates; ``None`` for other models."""
    for member in transforms.transforms:
        if isinstance(member, OnLattice):
            first, _ = transforms(member.offset[None])
            second, _ = transforms((member.offset + member.step)[None])
            return LatticePoints(first[0], (second - first)[0], member.count, beyond=BEYOND)
    return None


def fit_dequantiser(
    model: "DensityModel",
    rows: State,
    held: Data,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the learned noise of a fitted model in place; other models are left alone.

    Args:
        model: a fitted model.
        rows: encoded training rows ``n *event_shape``.
        held: rows that decide when to stop, and whether the start was best.
        out: folder for checkpoints.
        progress: what shows the progress.
    """
    found = [m for m in model.transforms.transforms if isinstance(m, VariationalDequantise)]
    if not found:
        return
    seed = int(model.record["config"]["seed"])
    settings = TrainingConfig(
        steps=min(STEPS, model.record["config"]["steps"] or STEPS),
        batch_size=min(BATCH, len(rows)),
        learning_rate=3e-3,
        ema_decay=0.99,
        seed=seed,
    )
    shuffled = ShuffledBatches(len(rows), settings.batch_size, mix(seed, 7))
    low, high = model.score.log_snr_range
    levels = LogSNRDensity.from_spectrum(low, high, model.reference.spectrum())

    def loss(module: nn.Module, batch: State, generator: torch.Generator, step: int) -> Tensor:
        assert isinstance(module, VariationalDequantise)
        del step
        return -_value(model, _replaced(model.transforms, module), batch, levels, generator) / batch[0].numel()

    def validate(module: nn.Module, step: int) -> MeanEstimate:
        assert isinstance(module, VariationalDequantise)
        del step
        candidate = type(model)(_replaced(model.transforms, module), model.score, model.schema, record=model.record)
        return fresh_elbo(candidate, held, stream(seed, "dequantiser"), samples=SAMPLES).mean()

    model.score.requires_grad_(False)
    result = train(
        found[0],
        loss,
        lambda step: rows[shuffled(step)],
        config=settings,
        validate=validate,
        run=None if out is None else out / "dequantiser",
        progress=progress,
    )
    model.score.requires_grad_(True)
    assert isinstance(result.module, VariationalDequantise)
    model.transforms = _replaced(model.transforms, result.module)


def _replaced(transforms: Compose, dequantiser: VariationalDequantise) -> Compose:
    members = [m for m in transforms.transforms if isinstance(m, Transform)]
    return Compose([dequantiser if isinstance(m, VariationalDequantise) else m for m in members])


def _value(
    model: "DensityModel", transforms: Compose, rows: State, levels: LogSNRDensity, generator: torch.Generator
) -> Tensor:
    """One-draw estimate of the density formula at dequantised rows, differentiable in the noise, shape ``b``."""
    uniform = torch.rand(rows.shape, generator=generator, dtype=rows.dtype).to(rows.device)
    y, log_det = transforms(rows, uniform)
    level, weight, _ = (part.to(y.device) for part in levels.quantile(low_discrepancy(len(rows), generator)))
    eps = torch.randn(y.shape, generator=generator, dtype=torch.get_default_dtype()).to(y.device)
    alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
    z = expand_as_rows(alpha, eps) * y.to(eps.dtype) + expand_as_rows(sigma, eps) * eps
    remainder = eps - model.reference.noise(level, z)
    delta = model.score.deviation(level, z)
    gain = 0.5 * sum_event(delta * (2.0 * remainder - delta))
    return log_det + model.reference.log_prob(y) + weight * gain


def weighted_elbo(
    model: "DensityModel",
    x: Any,
    *,
    draws: int = 8,
    points: int = 2,
    replicates: int = 4,
    condition: Any = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The bound of a model of discrete data, importance-weighted over dequantisation draws: tighter, still a bound.

    Args:
        model: a fitted model whose discrete dimensions are dequantised.
        x: rows in data units.
        draws: dequantisation draws that are weighted against each other.
        points: network evaluations per draw and fold; ``2 * draws * replicates * points`` are spent per row.
        replicates: independent repetitions, whose spread is the standard error.
        condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for a model without dequantised dimensions, or one that decodes cells.
    """
    if model.measure == "density" or lattice_points(model.transforms) is not None:
        raise InputError("This model draws no dequantisation noise: use its elbo")
    rows, seed = model.encode(x), seed_of(generator)
    condition = model.encode_condition(condition, len(rows))

    def evaluate(views: Any, count: int) -> Estimate:
        return elbo(
            model.score,
            model.score.process,
            rows,
            prior=model.prior,
            reference=model.reference,
            decoder=model.reference,
            proposal=model.proposal,
            samples=points * count,
            replicates=count,
            views=views,
            measure=model.measure,
            condition=condition,
            generator=torch.Generator().manual_seed(seed),
        )

    return importance_weighted(evaluate, model._views, draws=draws, replicates=replicates)


def weighted_log_prob(
    model: "DensityModel", x: Any, *, draws: int = 8, replicates: int = 2, **options: Any
) -> Estimate:
    """The ODE's log-mass, importance-weighted over dequantisation draws with exact divergences.

    Args:
        model: a fitted model whose discrete dimensions are dequantised.
        x: rows in data units.
        draws: dequantisation draws that are weighted against each other.
        replicates: independent repetitions, whose spread is the standard error.
        options: passed on to :meth:`DensityModel.log_prob`.

    Raises:
        InputError: for random divergences: a draw's value must be exact to be exponentiated.
    """
    if "divergence" in options and options["divergence"] is not None and options["divergence"].probes:
        raise InputError("Importance weighting exponentiates a draw's value, which must be exact: leave probes out")
    inner = model.log_prob(x, draws=draws * replicates, **options)
    if inner.replicates is None or len(inner.replicates) != draws * replicates:
        raise InputError("This model draws no dequantisation noise: use its log_prob")
    values = log_mean_exp(inner.replicates.reshape(replicates, draws, -1))
    described = {f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)}
    for name in ("value", "stderr", "replicates", "terms"):
        del described[name]
    return Estimate.from_replicates(values, **described)
