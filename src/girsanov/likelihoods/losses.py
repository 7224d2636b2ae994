"""The bound that a training loss is, as a number to report."""

__all__ = ["loss_bound"]

from typing import Any

import torch
from torch import Tensor

from girsanov.inputs import checked
from girsanov.likelihoods.defaults import REPLICATES
from girsanov.likelihoods.estimator import Replicates
from girsanov.objectives.bound_loss import BoundLoss, LossDraws
from girsanov.randomness import keyed_generators, keyed_normal, keyed_rademacher, keyed_uniform, seed_of
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.types import Estimate, State

CHUNK = 512  # evaluations per call, fixed so that a row's value does not depend on the number of rows


@checked
def loss_bound(
    loss: BoundLoss,
    model: Any,
    x: State,
    *,
    samples: int = 32,
    method: Replicates | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The bound that a loss is, per row, by randomised systematic grids of its law of times.

    Args:
        loss: such as :class:`girsanov.objectives.ScoreMatchingObjective` or
            :class:`girsanov.objectives.PathObjective`.
        model: what the loss is a function of: a pair for the one, a generative drift for the other.
        x: rows ``n *d``.
        samples: evaluations of the loss per row, rounded down to a multiple of the replicates.
        method: how they are divided into replicates, 8 by default.
        condition: passed on to the model, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of model ``sde`` and of the loss's kind, with the loss's terms.

    Raises:
        InputError: if the loss is reweighted: a reported number may not be.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.objectives import ScoreMatchingObjective
        >>> from girsanov.pairs import ScorePair
        >>> from girsanov.processes import VariancePreserving
        >>> pair = ScorePair(Gaussian(torch.zeros(2), 1.0).score(VariancePreserving()))
        >>> estimate = loss_bound(ScoreMatchingObjective(), pair, torch.zeros(5, 2))
        >>> estimate.kind, list(estimate.terms), estimate.value.shape
        ('lower_bound', ['prior', 'matching'], torch.Size([5]))
    """
    method, seed = method or Replicates(), seed_of(generator)
    replicates = min(method.count or REPLICATES, samples)
    points = samples // replicates
    each = replicates * points

    def evaluate(index: Tensor) -> dict[str, Tensor]:
        rows, given = x[index], conditions_for(condition_at(condition, index), len(index), each)
        draws = _draws(loss, rows, loss.dtype(model, rows), (replicates, points), seed)
        terms = loss.terms(model, rows.repeat_interleave(each, 0), draws, given)
        return {name: value.reshape(len(rows), replicates, points).mean(2).T for name, value in terms.items()}

    with torch.set_grad_enabled(torch.is_grad_enabled() and method.differentiable):
        terms = by_blocks(evaluate, len(x), max(1, CHUNK // each), x.device)
    return Estimate.from_replicates(
        torch.stack(list(terms.values())).sum(0),
        kind=loss.kind,
        model="sde",
        nfe=each * loss.cost(x[0].numel()),
        event_dim=x[0].numel(),
        log_snr_range=loss.log_snr_range(model),
        terms={name: value.mean(0) for name, value in terms.items()},
    )


def _draws(loss: BoundLoss, rows: State, dtype: torch.dtype, grid: tuple[int, int], seed: int) -> LossDraws:
    """For replicates and points of a grid, keyed by the rows."""
    generators, like = keyed_generators(seed, "loss", rows), rows.new_empty(0, dtype=dtype)
    replicates, points = grid
    offset = keyed_uniform(generators, (replicates, 1), rows)
    positions = ((torch.arange(points, device=rows.device) + offset) / points).flatten()
    shape = (replicates * points, loss.blocks, *rows.shape[1:])
    noise = keyed_normal(generators, shape, like).flatten(0, 1).transpose(0, 1)
    if not loss.probes:
        return LossDraws(positions, noise)
    shape = (replicates * points, loss.probes, *rows.shape[1:])
    return LossDraws(positions, noise, keyed_rademacher(generators, shape, like).flatten(0, 1).transpose(0, 1))
