r"""Likelihoods of a model under fresh noise, for what is chosen by them: see :mod:`girsanov.encoding`."""

__all__ = ["fresh_elbo", "fresh_log_prob"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from girsanov.datasets import Data
from girsanov.density_model.model import DensityModel
from girsanov.encoding import MOST_COPIES
from girsanov.likelihoods import Replicates, elbo, ode_log_prob
from girsanov.types import Estimate, State


def fresh_elbo(
    model: DensityModel, rows: Data, generator: torch.Generator, *, samples: int, condition: Tensor | None = None
) -> Estimate:
    """The bound of rows with noise of their own for every copy; dequantisation draws are its replicates.

    Args:
        model: whose bound is asked for.
        rows: as the model's schema encodes them.
        generator: source of the dequantisation draws.
        samples: network evaluations of each row.
        condition: leading dimension ``n`` or 1.
    """
    if not model.encoding.draws:
        return model.elbo(rows, samples=samples, condition=_named(model, condition))
    copies = min(MOST_COPIES, samples)

    def evaluate(y: State, given: Tensor | None) -> Estimate:
        return elbo(model.pair, y, samples=samples // copies, method=Replicates(1), condition=given)

    return _merged(model, rows.x, generator, copies, condition, evaluate)


def fresh_log_prob(
    model: DensityModel, rows: Data, generator: torch.Generator, *, condition: Tensor | None = None, **options: Any
) -> Estimate:
    """The ODE's log-density of rows, one dequantisation draw for every copy.

    Args:
        model: whose log-density is asked for.
        rows: as the model's schema encodes them.
        generator: source of the dequantisation draws.
        condition: leading dimension ``n`` or 1.
        options: ``divergence`` and ``solver`` of :func:`girsanov.ode_log_prob`.
    """
    if not model.encoding.draws:
        return model.log_prob(rows, condition=_named(model, condition), **options)

    def evaluate(y: State, given: Tensor | None) -> Estimate:
        return ode_log_prob(model.pair, y, condition=given, **options)

    return _merged(model, rows.x, generator, 1, condition, evaluate)


def _named(model: DensityModel, condition: Tensor | None) -> Any:
    """Positions of classes as their names, which is what the model's own methods take."""
    if condition is None or not model.classes:
        return condition
    return [model.classes[k] for k in condition.tolist()]


def _merged(
    model: DensityModel,
    rows: State,
    generator: torch.Generator,
    copies: int,
    condition: Tensor | None,
    evaluate: Callable[[State, Tensor | None], Estimate],
) -> Estimate:
    """What ``evaluate`` says of rows in the model's space and their conditions, in data units."""
    y, log_det = model.encoding.spread(rows, generator, copies)
    if condition is not None and len(condition) > 1:
        condition = condition.repeat_interleave(copies, 0)
    found = evaluate(y, condition)
    return Estimate.from_replicates(
        (found.value + log_det).unflatten(0, (len(rows), copies)).T,
        kind="lower_bound",
        model=found.model,
        nfe=copies * found.nfe,
        event_dim=found.event_dim,
        log_snr_range=found.log_snr_range,
        measure=model.encoding.measure,
    )
