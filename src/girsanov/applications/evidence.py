r"""Evidence for classes: gains of a class-conditional score under levels and noise that all classes share.

The unit is the antithetic pair of :mod:`girsanov.likelihoods.common_noise`. The pairs of one look are a systematic
grid in log-SNR, each with a dequantisation draw of its own; all is keyed by the row's content, so that a row's
evidence does not depend on the other rows.
"""

__all__ = ["ClassConditional", "Evidence", "Levels"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from girsanov.applications.level_weights import LevelWeights
from girsanov.calculus import Noised, gain, sum_event
from girsanov.encoding import Encoding
from girsanov.inputs import as_rows
from girsanov.likelihoods.common_noise import deviations, draw
from girsanov.pairs import ScorePair
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, State

EVALUATIONS = 1024  # network evaluations per call
CALL_ELEMENTS = 2**21  # at most so many numbers per call, for large events
HELD_ELEMENTS = 2**24  # at most so many numbers of predictions are held at once


@dataclass(frozen=True)
class Levels:
    """Which levels count and from which density they are drawn."""

    weights: LevelWeights
    proposal: LogSNRDensity


class Evidence(NamedTuple):
    """What one look found; entries of classes that were not asked for are 0.

    Attributes:
        values: evidence of every pair, ``w(l) g / q(l)``, whose mean over pairs is unbiased; shape ``n C P``, float64.
        spread: mean over pairs of ``w / q`` times the squared distance to the leader's prediction, shape ``n C``.
        levels: the pairs' log-SNR, shape ``n P``.
        density: q there, shape ``n P``.
    """

    values: Tensor
    spread: Tensor
    levels: Tensor
    density: Tensor

    @classmethod
    def joined(cls, parts: Iterable["Evidence"]) -> "Evidence":
        """Of all rows."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class ClassConditional:
    """What classification asks of a model.

    Attributes:
        pair: the model, with a score ``(t, x, condition) -> grad log p_t(x | condition)``.
        conditions: the classes as the score knows them, shape ``C *c``.
        encoding: from rows as the user has them to the score's space, or ``None`` where rows are there already.
    """

    pair: ScorePair
    conditions: Tensor
    encoding: Encoding | None = None

    @classmethod
    def of(cls, model: Any, conditions: Tensor) -> "ClassConditional":
        """From a pair; else from a fitted density model, recognised by its ``pair`` and ``encoding``.

        Raises:
            InputError: for anything else.
        """
        if isinstance(model, ScorePair):
            return cls(model, conditions)
        if not all(hasattr(model, name) for name in ("pair", "encoding")):
            raise InputError(
                f"A classifier is made of a fitted model or a ScorePair(score, process); got {type(model).__name__}"
            )
        return cls(model.pair, conditions, model.encoding)

    def encode(self, x: Any) -> State:
        """Rows as the user has them to a tensor ``n *e``, or an :class:`InputError`."""
        return as_rows(x) if self.encoding is None else self.encoding.encode(x).rows

    @torch.no_grad()
    def look(
        self,
        rows: State,
        alive: Tensor,
        start: Tensor,
        levels: Levels,
        *,
        pairs: int,
        seed: int,
        round_: int,
        keys: Tensor | None = None,
    ) -> Evidence:
        """Evaluate ``pairs`` antithetic pairs for every row and class in ``alive``.

        Args:
            rows: shape ``n *e``.
            alive: shape ``n C``.
            start: what is added to the sum of a class's pairs to find the leader, shape ``n C``.
            levels: which levels count.
            pairs: number P of new pairs.
            seed: keys the draws together with each row.
            round_: looks are independent.
            keys: what keys the draws of each row, ``n k``; default its content.
        """
        keys = rows if keys is None else keys
        size = max(1, HELD_ELEMENTS // max(1, alive.shape[1] * 2 * pairs * rows[0].numel()))
        parts = []
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            at, weights = self._draw(rows[part], keys[part], levels.proposal, pairs, seed, round_)
            parts.append(self._compare(at, weights, alive[part], start[part], levels.weights))
        return Evidence.joined(parts)

    def _draw(
        self, rows: State, keys: Tensor, proposal: LogSNRDensity, pairs: int, seed: int, round_: int
    ) -> tuple[Noised, Tensor]:
        """Evaluation points, flattened from ``n P 2``; every pair has a dequantisation draw of its own."""
        x = rows[:, None].expand(-1, pairs, *rows.shape[1:])
        if self.encoding is not None:
            x = self.encoding.view(rows, pairs, seed, round_, purpose="dequantise pairs", keys=keys).x
        return draw(keys, x[:, None], proposal, seed=seed, round_=round_, dtype=self.pair.dtype(x))

    def _compare(self, at: Noised, weights: Tensor, alive: Tensor, start: Tensor, counted: LevelWeights) -> Evidence:
        pairs = len(weights) // (2 * len(alive))
        row, label = alive.nonzero(as_tuple=True)
        each = torch.arange(2 * pairs, device=row.device)
        points = 2 * pairs * row[:, None] + each
        levels, reciprocal = (part.reshape(-1, pairs, 2)[..., 0] for part in (at.log_snr, 2 * pairs * weights))
        scale = counted(levels) * reciprocal
        error, delta = self._predict(at, points, label)
        values = alive.new_zeros((*alive.shape, pairs), dtype=torch.float64)
        values[row, label] = scale[row] * gain(error, delta).reshape(-1, pairs, 2).mean(2)
        leader = torch.where(alive, values.sum(2) + start, -torch.inf).argmax(1)
        position = torch.zeros_like(alive, dtype=torch.int64)
        position[row, label] = torch.arange(len(row), device=row.device)
        delta = delta.unflatten(0, points.shape)
        apart = delta - delta[position[row, leader[row]]]
        distance = sum_event(apart.flatten(0, 1).square()).reshape(-1, pairs, 2).mean(2)
        spread = torch.zeros_like(start)
        spread[row, label] = (scale[row] * distance).mean(1)
        return Evidence(values, spread, levels, 1.0 / reciprocal)

    def _predict(self, at: Noised, points: Tensor, label: Tensor) -> tuple[State, State]:
        """Errors of the reference and deviations at points ``k m`` for classes ``k``, both ``k*m *d``."""
        size = max(1, min(EVALUATIONS, CALL_ELEMENTS // max(at.z[0].numel(), 1)) // points.shape[1])
        parts = []
        for first in range(0, len(points), size):
            part = slice(first, first + size)
            condition = self.conditions.to(points.device)[label[part]].repeat_interleave(points.shape[1], 0)
            parts.append(deviations(self.pair, at.take(points[part].flatten()), condition))
        errors, deltas = zip(*parts, strict=True)
        return torch.cat(errors), torch.cat(deltas)
