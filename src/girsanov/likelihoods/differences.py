r"""Differences between conditions, and what a condition tells about a row: with shared noise, and without constants.

With the formula's draws shared by both conditions (note of paper 2, section 2.6, eq. (6)),

.. math::
    \log p(x \mid c_1) - \log p(x \mid c_2)
      = \tfrac12 \int E[\|\varepsilon - \hat\varepsilon(x_l, c_2)\|^2
                      - \|\varepsilon - \hat\varepsilon(x_l, c_1)\|^2]\, dl .

Prior, reference and log-determinants are the same for both and drop out. For a learned score each side is the lower
bound of its own hybrid model, and a difference of two bounds bounds nothing: the kind is ``estimate``. For the exact
score both gaps are zero and the kind is ``unbiased``.

With no condition for c_2 this is the pointwise mutual information i(x; c). It is a sum over dimensions, hence a map.
Averaged over the joint law of x and c, and for the exact denoiser only, it equals

.. math::
    \tfrac12 \int E\|\hat\varepsilon(x_l) - \hat\varepsilon(x_l, c)\|^2\, dl \ge 0,

which has the lower variance but is another number for every single row, and for a learned score in the mean too.
"""

__all__ = [
    "DifferenceCurve",
    "PointwiseInformation",
    "difference",
    "difference_curve",
    "pointwise_information",
]

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from girsanov.calculus import Noised, expand_as_rows, gain, noised, sum_event
from girsanov.densities import Gaussian
from girsanov.display import Shown
from girsanov.inputs import as_condition, checked
from girsanov.likelihoods.common_noise import deviations, draw, draw_net
from girsanov.likelihoods.defaults import proposal_for, replicates_for
from girsanov.likelihoods.estimator import RandomisedRows, Replicates
from girsanov.likelihoods.evaluation_noise import FEW_DIMENSIONS
from girsanov.likelihoods.resolution import EVALUATIONS, confirmed, needed_range
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_normal, keyed_rademacher, seed_of
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Kind, Nats, State

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 512  # evaluation points per call, fixed so that results do not depend on the number of rows
CHUNK_ELEMENTS = 2**21  # at most so many numbers per call, for large events
LEVELS = 49

Condition = Tensor | int | None  #: labels or vectors with leading dimension n or 1; a label for all; or "none"


@checked
@torch.no_grad()
def difference(
    pair: ScorePair,
    x: State | RandomisedRows,
    c1: Condition,
    c2: Condition,
    *,
    exact: bool = False,
    samples: int = 32,
    method: Replicates | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Estimate of ``log p(x | c1) - log p(x | c2)`` per row, with noise, levels and dequantisation shared.

    Args:
        pair: the model, whose score ``(t, x, condition)`` is called without condition for ``None``. Its reference
            says where in log-SNR to evaluate, and cancels in the value.
        x: rows ``n *d``.
        c1: condition, leading dimension ``n`` or 1, a label common to all rows, or ``None`` for no condition.
        c2: the other one.
        exact: declare the score exact: the kind is then ``unbiased``, where eight more evaluations per row show that
            nothing is missing beyond the range.
        samples: evaluation points per row, two or more, in antithetic pairs that are rounded down to a multiple of
            the replicates; both conditions are evaluated at each.
        method: how they are divided into replicates.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of kind ``unbiased`` where ``exact`` and the range resolves the difference in every row, see
        :attr:`Estimate.needed`, else ``estimate``; positive where ``c1`` explains the row better.

    Raises:
        InputError: for rows or conditions that do not fit.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> laws = [Gaussian(torch.full((2,), m), 1.0).score(VariancePreserving()) for m in (0.0, 1.0)]
        >>> def score(t, x, c):
        ...     return torch.where(c[:, None] == 0, laws[0](t, x), laws[1](t, x))
        >>> x = torch.zeros(1, 2, dtype=torch.float64)
        >>> estimate = difference(ScorePair(score, VariancePreserving()), x, 0, 1, exact=True, samples=256)
        >>> bool((estimate.value - 1.0).abs() < 4 * estimate.stderr), estimate.kind
        (True, 'unbiased')
    """
    contrast = _Contrast.of(pair, x, c1, c2, exact, samples, method, generator)

    def evidence(weights: Tensor, error: State, first: State, second: State) -> Tensor:
        return weights * (gain(error, first) - gain(error, second))

    return contrast.confirmed(contrast.estimate(contrast.integral(evidence)))


@dataclass(frozen=True, repr=False)
class PointwiseInformation(Shown):
    """Pointwise mutual information of rows and their conditions, in nats, and where in each row it sits.

    Attributes:
        value: i(x; c) per row by eq. (6), with its standard error.
        squared: the squared-difference form: equal in the mean over rows and conditions, for the exact denoiser only.
        map: the part of every dimension in ``value``, shape ``n *d`` in the model's coordinates; sums to it.
        map_stderr: standard errors of the parts.
        squared_map: the part of every dimension in ``squared``, never negative.
        squared_map_stderr: standard errors of the parts.
    """

    value: Estimate
    squared: Estimate
    map: State
    map_stderr: State
    squared_map: State
    squared_map_stderr: State

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each row: both forms in nats, each with its standard error."""
        import pandas as pd

        both = {"value": self.value, "squared": self.squared}
        parts = {name: found.to_pandas()[["value", "stderr"]] for name, found in both.items()}
        names = ["value", "stderr", "squared", "squared_stderr"]
        return pd.concat(list(parts.values()), axis=1).set_axis(names, axis=1)


@checked
@torch.no_grad()
def pointwise_information(
    pair: ScorePair,
    x: State | RandomisedRows,
    condition: Condition,
    *,
    exact: bool = False,
    samples: int = 32,
    method: Replicates | None = None,
    generator: torch.Generator | None = None,
) -> PointwiseInformation:
    """What ``condition`` tells about each row, ``log p(x | c) - log p(x)``, and about each of its dimensions.

    Args:
        pair: the model, whose score is called with and without condition: the unconditional score is its own when no
            condition is given.
        x: rows ``n *d``.
        condition: leading dimension ``n`` or 1, or a label common to all rows.
        exact: see :func:`difference`.
        samples: see :func:`difference`.
        method: see :func:`difference`.
        generator: see :func:`difference`.

    Raises:
        InputError: if no condition is given, or it does not fit.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> def score(t, x, c=None):  # a condition that tells nothing
        ...     return Gaussian(torch.zeros(2), 1.0).score(VariancePreserving())(t, x)
        >>> information = pointwise_information(ScorePair(score, VariancePreserving()), torch.ones(3, 2), 1)
        >>> information.value.value, information.squared_map.shape
        (tensor([0., 0., 0.], dtype=torch.float64), torch.Size([3, 2]))
    """
    if condition is None:
        raise InputError("Pointwise information is about a condition: give one")
    contrast = _Contrast.of(pair, x, condition, None, exact, samples, method, generator)

    def maps(weights: Tensor, error: State, first: State, second: State) -> Tensor:
        delta, error = (first - second).double(), error.double()
        plain = 0.5 * delta * (2.0 * error - first - second)
        both = torch.stack([plain, 0.5 * delta.square()], 1)
        return expand_as_rows(weights, both) * both

    values = contrast.integral(maps)
    map_, squared_map = (Estimate.from_replicates(part.flatten(1), **_MAP) for part in values.unbind(2))
    shape = values.shape[1:2] + values.shape[3:]
    return PointwiseInformation(
        contrast.confirmed(contrast.estimate(values[:, :, 0].flatten(2).sum(2))),
        replace(contrast.estimate(values[:, :, 1].flatten(2).sum(2)), kind="estimate"),
        *(part.reshape(shape) for part in (map_.value, map_.stderr, squared_map.value, squared_map.stderr)),
    )


_MAP = {"kind": "estimate", "model": "sde", "nfe": 0, "event_dim": 1}  # only value and stderr are read


@dataclass(frozen=True, repr=False)
class DifferenceCurve(Shown):
    """Where in log-SNR two conditions differ: integrands, whose integrals over the levels are the difference.

    Attributes:
        levels: log-SNR, shape ``k``.
        difference: integrand of :func:`difference` per row, shape ``k n``.
        squared: integrand of the squared-difference form per row, shape ``k n``.
    """

    levels: Tensor
    difference: Tensor
    squared: Tensor

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each level, a column for each row: the integrand of the difference."""
        import pandas as pd

        return pd.DataFrame(self.difference.cpu().numpy(), index=pd.Index(self.levels.tolist(), name="log_snr"))

    def nats(self) -> Nats:
        """Trapezoidal integral of the difference over the levels, shape ``n``."""
        return torch.trapezoid(self.difference, self.levels, dim=0)


@checked
@torch.no_grad()
def difference_curve(
    pair: ScorePair,
    x: State | RandomisedRows,
    c1: Condition,
    c2: Condition,
    *,
    levels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> DifferenceCurve:
    """Integrand of :func:`difference` at given levels, one antithetic pair of noise per row shared by all levels.

    Args:
        pair: see :func:`difference`.
        x: see :func:`difference`.
        c1: see :func:`difference`.
        c2: see :func:`difference`.
        levels: log-SNR, increasing, shape ``k``; default 49 levels over the score's range.
        generator: read once for a seed; ``None`` means seed 0.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> process = VariancePreserving()
        >>> laws = [Gaussian(torch.full((1,), m), 1.0).score(process) for m in (0.0, 1.0)]
        >>> def score(t, x, c):
        ...     return torch.where(c[:, None] == 0, laws[0](t, x), laws[1](t, x))
        >>> curve = difference_curve(ScorePair(score, process), torch.zeros(3, 1), 0, 1, levels=torch.zeros(1))
        >>> curve.squared  # half of sigmoid(l) sigmoid(-l) times the squared distance
        tensor([[0.1250, 0.1250, 0.1250]], dtype=torch.float64)
    """
    contrast = _Contrast.of(pair, x, c1, c2, False, 2, Replicates(1), generator)
    if levels is None:
        levels = torch.linspace(*contrast.log_snr_range, LEVELS, dtype=torch.float64)
    y = contrast.seen()
    levels = levels.double().to(y.device)
    half = keyed_normal(keyed_generators(contrast.seed, "curve", contrast.rows.rows), y.shape[1:], y.new_empty(0))
    found = [contrast.antithetic(level, y, half) for level in levels]
    gaps, squares = (0.5 * torch.stack([at[name] for at in found]).cpu() for name in ("gap", "square"))
    return DifferenceCurve(levels.cpu(), gaps, squares)


@dataclass(frozen=True)
class _Contrast:
    """Two conditions of the same rows, and how they are compared.

    Attributes:
        conditions: leading dimension ``n`` or 1, or ``None`` for no condition.
        points: evaluations of a replicate.
    """

    pair: ScorePair
    rows: RandomisedRows
    conditions: tuple[Tensor | None, Tensor | None]
    proposal: LogSNRDensity
    log_snr_range: tuple[float, float]
    points: int
    replicates: int
    seed: int
    kind: Kind

    @classmethod
    def of(
        cls,
        pair: ScorePair,
        x: State | RandomisedRows,
        c1: Condition,
        c2: Condition,
        exact: bool,
        samples: int,
        method: Replicates | None,
        generator: torch.Generator | None,
    ) -> "_Contrast":
        if samples < 2:
            raise InputError(f"samples must be at least 2, one antithetic pair; got {samples}")
        if method is not None and method.differentiable:
            raise InputError("A difference keeps no graph: leave differentiable out, or subtract two bounds")
        rows = RandomisedRows.of(x)
        first, second = (None if c is None else as_condition(c, rows.rows) for c in (c1, c2))
        span = pair.known_range if exact else pair.log_snr_range
        law = pair.reference or Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)
        own = min(replicates_for(rows, samples), max(2, samples // 4))  # of two pairs or more: one is too skewed
        replicates = min((method and method.count) or own, samples // 2)
        return cls(
            pair,
            rows,
            (first, second),
            proposal_for(pair, rows.event_dim, atom=False, reference=law, log_snr_range=span),
            span,
            points=2 * (samples // (2 * replicates)),
            replicates=replicates,
            seed=seed_of(generator),
            kind="unbiased" if exact else "estimate",
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.pair.dtype(self.rows.rows)

    @property
    def event_dim(self) -> int:
        return self.rows.event_dim

    def seen(self) -> State:
        """The first view of every row, as the score sees it."""
        return self.rows.view(1, self.seed).x[:, 0].to(self.dtype)

    def deviations(self, at: Noised, index: Tensor, repeats: int = 1) -> tuple[State, State, State]:
        """The reference's error, and either condition's deviation from it, at ``repeats`` points of each row."""
        (error, first), (_, second) = (
            deviations(self.pair, at, conditions_for(condition_at(c, index), len(index), repeats))
            for c in self.conditions
        )
        return error, first, second

    def integral(self, integrand: Callable[[Tensor, State, State, State], Tensor]) -> Tensor:
        """Replicates of a weighted integrand's integral, ``r n ...``: of weights, error and both deviations."""
        x, repeats = self.rows.rows, self.replicates * self.points

        def evaluate(index: Tensor) -> Tensor:
            view = self.rows.views(x[index], self.replicates, self.seed, 0).x[:, :, None]
            states = view.expand(*view.shape[:2], self.points // 2, *view.shape[3:])
            options = {"seed": self.seed, "dtype": self.dtype}
            few = self.event_dim <= FEW_DIMENSIONS
            at, weights = (draw_net if few else partial(draw, round_=0))(x[index], states, self.proposal, **options)
            values = integrand(weights, *self.deviations(at, index, repeats))
            return values.unflatten(0, (-1, self.replicates, self.points)).sum(2).transpose(0, 1)

        rows = min(CHUNK, CHUNK_ELEMENTS // max(self.event_dim, 1)) // repeats
        return by_blocks(evaluate, len(x), rows, x.device, dim=1)

    def antithetic(self, level: Tensor, y: State, eps: State) -> dict[str, Nats]:
        """Both integrands at one level, summed over noise of both signs: ``gap`` and ``square``, each ``n``."""

        def evaluate(index: Tensor, sign: float) -> dict[str, Tensor]:
            levels, noise = level.expand(len(index)), sign * eps[index]
            at = Noised(levels, noised(level, y[index], noise), noise)
            error, first, second = self.deviations(at, index)
            square = 0.5 * sum_event((first - second).square())
            return {"gap": gain(error, first) - gain(error, second), "square": square}

        up, down = (by_blocks(partial(evaluate, sign=s), len(y), CHUNK, y.device) for s in (1.0, -1.0))
        return {name: up[name] + down[name] for name in up}

    def estimate(self, replicates: Tensor) -> Estimate:
        return Estimate.from_replicates(
            replicates,
            kind=self.kind,
            model="sde",
            nfe=2 * self.points * self.replicates,
            event_dim=self.event_dim,
            log_snr_range=self.log_snr_range,
            measure=self.rows.measure,
        )

    def confirmed(self, estimate: Estimate) -> Estimate:
        """The estimate, of kind ``unbiased`` only where nothing is missing beyond the range's ends."""
        if self.kind != "unbiased":
            return estimate
        y = self.seen()
        signs = keyed_rademacher(keyed_generators(self.seed, "ends", y), y.shape[1:], y)
        ends = torch.tensor(self.log_snr_range, dtype=torch.float64, device=y.device)
        gaps = torch.stack([self.antithetic(end, y, signs)["gap"] for end in ends])
        needed = needed_range(*self.log_snr_range, 0.5 * gaps, self.event_dim)
        return confirmed(replace(estimate, nfe=estimate.nfe + 2 * EVALUATIONS), self.pair, needed)
