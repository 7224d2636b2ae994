r"""Replicated randomised grids: the one Monte-Carlo estimator behind every log-SNR integral.

Per row, R independent replicates of a K-point systematic grid in log-SNR, each point with its own noise. Replicates
are unbiased and independent, so their spread is an honest standard error and Student's t covers.

In up to four dimensions a handful of independent points would leave the replicates as skewed as the squares of
their noise, and intervals short of their promise. There the noise of a replicate is a low-discrepancy sequence too,
:math:`v_k = (k\, a + V) \bmod 1` with one uniform shift V and :math:`a_j = \phi^{-j}`, :math:`\phi^{d+1} = \phi + 1`,
and is drawn wider than it must be, :math:`\varepsilon = s\, \Phi^{-1}(v)` with density ratio
:math:`s^d \exp(-\tfrac12 (s^2 - 1) \|\Phi^{-1}(v)\|^2)`: what is summed is then bounded and falls off to both ends.

Every draw is keyed by the content of its row, calls of the network have a fixed padded size, and sums are float64: a
row's value does not depend on the rows that it is evaluated with.
"""

__all__ = [
    "Grid",
    "RandomisedRows",
    "Replicates",
    "View",
    "Views",
    "evaluation_noise",
    "identity_view",
    "keeps_graph",
    "keyed_view",
    "replicate",
]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from girsanov.calculus import Noised, noised
from girsanov.likelihoods.baselines import Baseline
from girsanov.randomness import KeyedStreams, keyed_generators, keyed_normal, keyed_uniform
from girsanov.rows import LANES, Calls, by_blocks, condition_at, conditions_for
from girsanov.solvers import LogSNRDensity
from girsanov.transforms import Transform
from girsanov.types import Measure, Nats, State, require_count

CHUNK = 512  # network evaluations per call, fixed so that results do not depend on the number of rows
CHUNK_ELEMENTS = 2**21  # at most so many numbers per call, for large events
BLOCK = 8  # calls whose rows share the drawing of noise and the closed forms
BLOCK_ELEMENTS = 2**22
VIEWED = 128  # rows that are transformed together
DRAWS = 16  # noise draws per replicate for a prior whose expected log-density is not closed form
FEW_DIMENSIONS = 4  # up to so many, noise is a low-discrepancy sequence
WIDTH = 1.5  # s^2, the variance of that noise


@dataclass(frozen=True)
class View:
    """One randomised version of each row per replicate (a dequantisation draw), with its log|det|.

    Attributes:
        x: shape ``b r *d``.
        log_det: shape ``b r``.
    """

    x: State
    log_det: Tensor

    @classmethod
    def shared(cls, x: State, log_det: Tensor, replicates: int) -> "View":
        """One version of each row ``b *d`` for all replicates, which therefore share its closed forms."""
        return cls(x[:, None].expand(-1, replicates, *x.shape[1:]), log_det[:, None].expand(-1, replicates))


#: ``(rows b *e, replicates, seed, round) -> View``: how raw rows become model space, afresh in every replicate
Views = Callable[[State, int, int, int], View]

#: ``(rows, near) -> terms``, each ``b``: what is known of model-space rows exactly; see :meth:`Baseline.near`
ClosedForm = Callable[[State, State | None], dict[str, Nats]]


def identity_view(rows: State, replicates: int, seed: int, round_: int) -> View:
    """Every replicate sees the row itself."""
    del seed, round_
    return View.shared(rows, rows.new_zeros(len(rows), dtype=torch.float64), replicates)


@dataclass(frozen=True)
class RandomisedRows:
    """Rows in data units, and how a model's space sees them: every replicate afresh, where they are dequantised.

    Attributes:
        rows: shape ``n *e``; their content keys all noise.
        views: how they become model space.
        measure: what a value of them is: of a density, a mass or both.
    """

    rows: State
    views: Views
    measure: Measure = "density"

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, x: "RandomisedRows | State") -> "RandomisedRows":
        """Rows of a model's space are seen as they are."""
        return x if isinstance(x, RandomisedRows) else cls(x, identity_view)

    def view(self, replicates: int, seed: int) -> View:
        """The view of all rows, made in blocks of one size."""

        def evaluate(index: Tensor) -> dict[str, Tensor]:
            view = self.views(self.rows[index], replicates, seed, 0)
            return {"x": view.x, "log_det": view.log_det}

        return View(**by_blocks(evaluate, len(self.rows), VIEWED, self.rows.device, dim=0))


@dataclass(frozen=True)
class Replicates:
    """How an estimate is made of independent replicates; what is rarely set.

    Args:
        count: independent replicates, each with its own dequantisation draw, among which the samples are divided.
            Default: eight, and of many samples one for every sixteen.
        differentiable: keep the graph of everything that requires a gradient, the score's parameters included.
            Without it a graph is kept for the rows alone, where these require one; under ``no_grad``, never.
    """

    count: int | None = None
    differentiable: bool = False

    def __post_init__(self) -> None:
        if self.count is not None:
            require_count("Replicates(count)", self.count)


@dataclass(frozen=True)
class Grid:
    """Where in log-SNR a row is evaluated.

    Attributes:
        proposal: density in log-SNR; its atom, if any, is the residual term, and its slope the coefficient of the
            baseline's excess.
        samples: network evaluations per row.
        replicates: number R of replicates; ``samples // R`` evaluations each.
    """

    proposal: LogSNRDensity
    samples: int
    replicates: int

    @property
    def points(self) -> int:
        """Evaluations of one replicate."""
        return self.samples // self.replicates


def keyed_view(
    transform: Transform,
    rows: State,
    replicates: int,
    seed: int,
    round_: int = 0,
    *,
    purpose: str = "dequantise",
    keys: State | None = None,
) -> View:
    """Rows in the space of a transform that draws; arguments as of :meth:`girsanov.encoding.Encoding.view`."""
    generators = keyed_generators(seed, purpose, rows if keys is None else keys, round_)
    uniform = keyed_uniform(generators, (replicates, *rows.shape[1:]), rows).flatten(0, 1)
    y, log_det = transform(rows.repeat_interleave(replicates, 0), uniform)
    return View(y.unflatten(0, (len(rows), replicates)), log_det.reshape(len(rows), replicates))


def keeps_graph(x: State, differentiable: bool = False) -> bool:
    """Whether a likelihood records gradients: where they are on at all, and either asked for or wanted by the rows."""
    return torch.is_grad_enabled() and (differentiable or x.requires_grad)


def replicate(
    baseline: Baseline,
    x: RandomisedRows,
    grid: Grid,
    closed_form: ClosedForm,
    *,
    seed: int,
    condition: Tensor | None,
    round_: int = 0,
) -> dict[str, Tensor]:
    """Independent replicates of every term, each of shape ``r n``, float64.

    Args:
        baseline: what is sampled.
        x: rows ``n *e`` and how they are seen.
        grid: where they are evaluated.
        closed_form: the terms known exactly given model-space rows, and where the baseline is about others, these;
            sampled parts are added to its ``diffusion`` and ``residual``, and to its ``prior`` where the pair's is not
            closed form.
        seed: keys the noise together with each row.
        condition: leading dimension ``n`` or 1.
        round_: successive rounds are independent.
    """
    elements = max(x.rows[0].numel(), 1)
    call = max(1, min(CHUNK, CHUNK_ELEMENTS // elements))
    evaluations = max(call, min(BLOCK * call, BLOCK_ELEMENTS // elements))
    rows = max(1, evaluations // (grid.points * grid.replicates))

    def evaluate(index: Tensor) -> dict[str, Tensor]:
        count = min(len(index), len(x) - int(index[0]))  # what follows fills the block up
        block = _Block(baseline, grid, x.rows[index], count, condition_at(condition, index), call, seed, round_)
        return block.evaluate(x.views, closed_form)

    return by_blocks(evaluate, len(x), rows, x.rows.device)


def evaluation_noise(
    generators: KeyedStreams, replicates: int, points: int, like: State
) -> tuple[State, Tensor | None]:
    """Noise of every evaluation, and its density ratios where it is not drawn from N(0, I) itself.

    Args:
        generators: one stream per row.
        replicates: number R of replicates.
        points: number K of points in each.
        like: rows ``b *d``: event shape, dtype and device.

    Returns:
        Noise ``b r k *d``, and weights ``b r k`` in float64 or ``None`` for 1.
    """
    shape, d = like.shape[1:], like[0].numel()
    if d > FEW_DIMENSIONS:
        return keyed_normal(generators, (replicates, points, *shape), like), None
    shift = keyed_uniform(generators, (replicates, 1, d), like)
    k = torch.arange(points, dtype=torch.float64, device=like.device)[:, None]
    v = (k * _generalised_golden_ratio(d).to(like.device) + shift) % 1.0
    standard = torch.special.ndtri(v.clamp(1e-12, 1.0 - 1e-12))
    ratio = WIDTH ** (0.5 * d) * torch.exp(-0.5 * (WIDTH - 1.0) * standard.square().sum(-1))
    return (math.sqrt(WIDTH) * standard).to(like.dtype).unflatten(-1, shape), ratio


def _generalised_golden_ratio(d: int) -> Tensor:
    """Powers 1 ... d of 1/phi, where phi > 1 solves phi^(d + 1) = phi + 1."""
    phi = 2.0
    for _ in range(64):
        phi = (1.0 + phi) ** (1.0 / (d + 1))
    return torch.tensor([phi ** -(j + 1) for j in range(d)], dtype=torch.float64)


@dataclass(frozen=True)
class _Block:
    """A fixed number of rows, of which the first ``count`` are asked for, with all their replicates and grid points."""

    baseline: Baseline
    grid: Grid
    rows: State
    count: int
    condition: Tensor | None
    call: int
    seed: int
    round_: int

    def evaluate(self, views: Views, closed_form: ClosedForm) -> dict[str, Tensor]:
        view = views(self.rows, self.grid.replicates, self.seed, self.round_)
        count = len(self.rows) * self.grid.replicates
        x = view.x.reshape(count, *view.x.shape[2:])
        # replicates of a row that is not randomised share its closed form
        same = view.x.stride(1) == 0
        clean = view.x[:, 0] if same else x
        near = self.baseline.near(clean)
        terms = closed_form(clean, near)
        shape = (len(self.rows), self.grid.replicates)
        wide = {name: value[:, None].expand(shape) if same else value.reshape(shape) for name, value in terms.items()}
        if near is not None and same:
            near = near.repeat_interleave(self.grid.replicates, 0)
        diffusion, residual = self._sampled(x, near)
        wide["diffusion"] = wide["diffusion"] + diffusion.reshape(shape)
        if "residual" in wide:
            wide["residual"] = wide["residual"] + residual.reshape(shape)
        if "prior" in wide and not self.baseline.pair.prior_is_closed:
            sampled = self.baseline.pair.expected_log_prior(x.double(), self._prior_noise(x))
            wide["prior"] = wide["prior"] + sampled.reshape(shape)
        wide["log_det"] = view.log_det
        return {name: value.T for name, value in wide.items()}

    def _sampled(self, x: State, near: State | None) -> tuple[Tensor, Tensor]:
        """Sampled parts of the integral and of the residual, one per row and replicate; 0 for rows that only pad."""
        asked, drawn = self.count * self.grid.replicates, -(-self.count // LANES) * LANES
        x = x.to(self.baseline.pair.dtype(x))
        generators = keyed_generators(self.seed, "log-snr", self.rows[:drawn], self.round_)
        offset = keyed_uniform(generators, (self.grid.replicates,), x).flatten()
        noise, ratio = evaluation_noise(
            generators, self.grid.replicates, self.grid.points, x[:: self.grid.replicates][:drawn]
        )
        eps = noise.flatten(0, 1)
        near = None if near is None else near.to(x.dtype)
        levels, weights, at_end = self._levels(x, near, offset)
        if ratio is not None:
            weights = weights * ratio.flatten(0, 1)
        values, at_end = self._values(x, near, levels, eps, at_end), at_end[:asked]
        if self.grid.proposal.slope is not None:
            slope = torch.where(at_end, 0.0, self.grid.proposal.slope_at(levels)[:asked])
            index = torch.arange(len(x), device=x.device).clamp_max(asked - 1)  # products of matrices of one size
            values = (
                values
                - slope * self.baseline.excess((x if near is None else near)[index], levels[index], eps[index])[:asked]
            )
        values = weights[:asked] * values
        end = torch.where(at_end, values, 0.0).sum(1)
        inside = torch.where(at_end, 0.0, values).sum(1)
        padding = values.new_zeros(len(x) - asked)
        return torch.cat([inside, padding]), torch.cat([end, padding])

    def _levels(self, x: State, near: State | None, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, weights and ends of every row and replicate; uniform for rows that the baseline is not about."""
        grid = self.grid.proposal.systematic(offset, self.grid.points)
        if near is None:
            return grid
        far = (near != x).flatten(1).any(1)[: len(offset), None]
        levels, weights, at_end = (
            torch.where(far, wide, usual)
            for wide, usual in zip(self.grid.proposal.flat().systematic(offset, self.grid.points), grid, strict=True)
        )
        return levels, weights, at_end

    def _values(self, x: State, near: State | None, levels: Tensor, eps: State, at_end: Tensor) -> Tensor:
        """The sampled integrand of the rows asked for, ``b k``; the network in calls of one size, all else at once."""
        points, each = self.grid.points, self.grid.replicates * self.grid.points
        calls = Calls(self.count * each, self.call)
        # a block of fixed size too, filled up with the last evaluation asked for
        index = torch.arange(len(x) * points, device=x.device).clamp_max(calls.asked - 1)
        row, given = index // points, conditions_for(condition_at(self.condition, index // each), len(index))
        level, noise, end = levels.flatten()[index], eps.flatten(0, 1)[index], at_end.flatten()[index]
        at = replace(Noised.of(level, x[row], noise, given), calls=calls)
        moved = None if near is None else noised(level, near[row], noise)
        return self.baseline.sampled(at, end, moved)[: calls.asked].reshape(-1, points)

    def _prior_noise(self, x: State) -> State:
        """Antithetic draws, shape ``b DRAWS *d``, float64."""
        generators = keyed_generators(self.seed, "prior", self.rows, self.round_)
        shape = (self.grid.replicates, DRAWS // 2, *x.shape[1:])
        half = keyed_normal(generators, shape, x.new_empty(0, dtype=torch.float64)).flatten(0, 1)
        return torch.cat([half, -half], 1)
