r"""Log-masses of a fitted model of discrete data, importance-weighted over dequantisation draws."""

__all__ = ["weighted_elbo", "weighted_log_prob"]

import dataclasses
from typing import Any

import torch

from girsanov.density_model.mixed import twins
from girsanov.density_model.model import DensityModel
from girsanov.likelihoods import RandomisedRows, Replicates, elbo
from girsanov.likelihoods.discrete import importance_weighted, log_mean_exp
from girsanov.randomness import seed_of
from girsanov.types import Estimate, InputError


def weighted_elbo(
    model: DensityModel,
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
    if not model.encoding.draws:
        raise InputError("This model draws no dequantisation noise: use its elbo")
    seen = model.encode(x)
    condition = model.encode_condition(condition, len(seen))

    source, again = twins(generator)

    def evaluate(rows: RandomisedRows, count: int) -> Estimate:
        options = {"samples": points * count, "method": Replicates(count), "condition": condition}
        return elbo(model.pair, rows, generator=source, **options)

    found = importance_weighted(evaluate, seen, draws=draws, replicates=replicates)
    if model.mixed is None:
        return found
    return model.mixed.bound(found, seen, model.encoding, seed_of(again), draws=draws)


def weighted_log_prob(model: DensityModel, x: Any, *, draws: int = 8, replicates: int = 2, **options: Any) -> Estimate:
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
