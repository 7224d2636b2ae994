r"""Draws of a fitted model as rows that its data could hold.

A diffusion of dequantised columns puts a little mass where no row is. Two rules bring it back:

- a whole number, or any value of a lattice, beyond the range that the fit has seen becomes the end of that range: the
  mass lies beyond the outer edge of the end's own cell and is a blur of that edge;
- a row one of whose categories has no level or several, or with a discrete sum of columns beyond the range that the
  fit has seen (two of the indicators that sum to one), is drawn again, so that rows come in the proportions that the
  model gives them among valid ones, :math:`P(x \mid x \text{ valid})`.

Both only move mass from rows that cannot be to rows that can: for these, the probability of being drawn is at least
the model's own, so that every lower bound on the model's log-probability of a row bounds that too. Where fewer than
one draw in ten is valid, as of a model that was hardly trained, what is left takes the largest level of each category,
with a warning.
"""

__all__ = ["Draw", "draw_rows"]

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.datasets.columns import Combination
from girsanov.randomness import mix, seed_of, source_of
from girsanov.rows import condition_at
from girsanov.types import State

ENOUGH, LEAST_SHARE = 100, 0.1  # draws that tell, and the share of valid ones below which drawing again ends


#: ``(n, condition, generator) -> rows``: draws in data units, not yet rounded to a lattice
Draw = Callable[[int, Tensor | None, torch.Generator], State]


@torch.no_grad()
def draw_rows(
    draw: Draw, schema: Schema, n: int, *, condition: Tensor | None, generator: torch.Generator | None
) -> State:
    """Encoded rows that the schema can decode, one level in each one-hot block, shape ``n *event_shape``.

    Args:
        draw: what draws from the model.
        schema: of its rows.
        n: number of rows.
        condition: leading dimension ``n`` or 1.
        generator: source of all draws; those of later rounds are keyed by one number that is read from it.
    """
    generator = source_of(generator)
    x = draw(n, condition, generator)
    if not schema.blocks and not _sums(schema):
        return x
    seed, drawn = seed_of(generator), n
    wrong = (~_valid(x, schema)).nonzero().flatten()
    # until all are valid, or so few that no more are to be had
    while len(wrong) and (drawn < ENOUGH or n - len(wrong) >= LEAST_SHARE * drawn):
        given = condition_at(condition, wrong)
        x[wrong] = draw(len(wrong), given, torch.Generator().manual_seed(mix(seed, drawn)))
        drawn += len(wrong)
        wrong = wrong[~_valid(x[wrong], schema)]
    if len(wrong):
        _warn(len(wrong), n)
    return x


def _warn(count: int, n: int) -> None:
    warnings.warn(
        f"{count} of {n} draws had a category without a level or with several, or a sum beyond its range, however "
        "often they were drawn again, and take the nearest level: the model was hardly trained",
        stacklevel=5,
    )


def _valid(x: State, schema: Schema) -> Tensor:
    """Which rows have one level in every category (one indicator nearest to 1) and every sum in its range."""
    valid = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for block in schema.blocks:
        valid &= (x[:, block] > 0.5).sum(1) == 1
    sums = _sums(schema)
    if sums:
        raw = schema.decode(x)
        columns = dict(zip(raw.names or (), raw.columns, strict=True))
        for name, low, high in sums:
            valid &= torch.from_numpy((columns[name] >= low) & (columns[name] <= high)).to(x.device)
    return valid


def _sums(schema: Schema) -> list[tuple[str, float, float]]:
    """Discrete columns that are sums of others, and the ends of their ranges to half a step."""
    found = [(rule, rule.seen) for rule in schema.rules if isinstance(rule, Combination) and rule.seen is not None]
    return [(rule.name, low - rule.lattice.step / 2, high + rule.lattice.step / 2) for rule, (low, high) in found]
