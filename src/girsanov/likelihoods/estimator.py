r"""Replicated randomised grids: the one Monte-Carlo estimator behind every log-SNR integral.

Per row, R independent replicates of a K-point systematic grid in log-SNR, each point with its own noise. Replicates
are unbiased and independent, so their spread is an honest standard error and Student's t covers.

A score without a fitted proposal is mostly sharper than its reference. Where a row has evaluations enough, a Gaussian
about it is fitted to those of the other replicates and is the control variate in the reference's place
(:mod:`girsanov.likelihoods.local`).

Every draw is keyed by the content of its row, calls of the network have a fixed padded size, and sums are float64: a
row's value does not depend on the rows that it is evaluated with.
"""

__all__ = [
    "Grid",
    "RandomisedRows",
    "Replicates",
    "View",
    "Views",
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
from girsanov.display import Shown
from girsanov.likelihoods.baselines import Baseline, DensityBaseline
from girsanov.likelihoods.evaluation_noise import evaluation_noise
from girsanov.likelihoods.local import Evaluations, Local, Setting
from girsanov.randomness import keyed_generators, keyed_normal, keyed_uniform
from girsanov.rows import LANES, Calls, by_blocks, condition_at, conditions_for
from girsanov.solvers import LogSNRDensity
from girsanov.transforms import Transform
from girsanov.types import Measure, Nats, State, require_count

CHUNK = 512  # network evaluations per call, fixed so that results do not depend on the number of rows
CHUNK_ELEMENTS = 2**21  # at most so many numbers per call, for large events
BLOCK = 8  # calls whose rows share the drawing of noise and the closed forms
BLOCK_ELEMENTS = 2**22
VIEWED = 128  # rows that are transformed together
DRAWS = 16  # noise draws per replicate for an expected log-density that is not closed form


@dataclass(frozen=True, repr=False)
class View(Shown):
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


@dataclass(frozen=True, repr=False)
class RandomisedRows(Shown):
    """Rows in data units, and how a model's space sees them: every replicate afresh, where they are dequantised.

    Attributes:
        rows: shape ``n *e``; their content keys all noise.
        views: how they become model space.
        measure: what a value of them is: of a density, a mass or both.
        draws: whether a view draws noise, so that there must be views enough.
    """

    rows: State
    views: Views
    measure: Measure = "density"
    draws: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, x: "RandomisedRows | State") -> "RandomisedRows":
        """Rows of a model's space are seen as they are."""
        return x if isinstance(x, RandomisedRows) else cls(x, identity_view, draws=False)

    @property
    def event_dim(self) -> int:
        """Dimensions of a row in data units."""
        return math.prod(self.rows.shape[1:])

    def view(self, replicates: int, seed: int) -> View:
        """The view of all rows, made in blocks of one size."""

        def evaluate(index: Tensor) -> dict[str, Tensor]:
            view = self.views(self.rows[index], replicates, seed, 0)
            return {"x": view.x, "log_det": view.log_det}

        with torch.set_grad_enabled(keeps_graph(self.rows)):  # no graph of a transform's own parameters
            return View(**by_blocks(evaluate, len(self.rows), VIEWED, self.rows.device, dim=0))


@dataclass(frozen=True)
class Replicates:
    """How an estimate is made of independent replicates; what is rarely set.

    Args:
        count: independent replicates, each with its own dequantisation draw, among which the samples are divided.
            Default: eight, and of many samples one for every sixteen; four of rows of at most 16 dimensions that are
            not dequantised, and in up to four dimensions two of fewer than 32 samples, and of many one for every 32.
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
        local: whether a Gaussian about each row is fitted to its own evaluations.
    """

    proposal: LogSNRDensity
    samples: int
    replicates: int
    local: bool = False

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
            sampled = self.baseline.pair.expected_log_prior(x.double(), self._noise("prior", x))
            wide["prior"] = wide["prior"] + sampled.reshape(shape)
        if isinstance(self.baseline, DensityBaseline):
            more = self.baseline.sampled_integral(x.double(), self._noise("control", x), *self.grid.proposal.span)
            wide["diffusion"] = wide["diffusion"] - 0.5 * more.reshape(shape)
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
        (values, *errors), at_end = self._values(x, near, levels, eps, at_end), at_end[:asked]
        if self.grid.proposal.slope is not None:
            slope = torch.where(at_end, 0.0, self.grid.proposal.slope_at(levels)[:asked])
            index = torch.arange(len(x), device=x.device).clamp_max(asked - 1)  # products of matrices of one size
            values = (
                values
                - slope * self.baseline.excess((x if near is None else near)[index], levels[index], eps[index])[:asked]
            )
        weights = weights[:asked]
        end = torch.where(at_end, weights * values, 0.0).sum(1)
        weights = torch.where(at_end, 0.0, weights)
        inside = (weights * values).sum(1)
        if self.grid.local:
            inside = inside + self._local(x, near, inside, levels, weights, eps, *errors)
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

    def _values(
        self, x: State, near: State | None, levels: Tensor, eps: State, at_end: Tensor
    ) -> tuple[Tensor, State, State]:
        """Integrand, and errors of score and baseline, of the rows asked for: ``b k`` and ``b k *d``.

        The network is called in blocks of one size, all else is done at once.
        """
        points, each = self.grid.points, self.grid.replicates * self.grid.points
        calls = Calls(self.count * each, self.call)
        # a block of fixed size too, filled up with the last evaluation asked for
        index = torch.arange(len(x) * points, device=x.device).clamp_max(calls.asked - 1)
        row, given = index // points, conditions_for(condition_at(self.condition, index // each), len(index))
        level, noise, end = levels.flatten()[index], eps.flatten(0, 1)[index], at_end.flatten()[index]
        at = replace(Noised.of(level, x[row], noise, given), calls=calls)
        moved = None if near is None else noised(level, near[row], noise)
        found = self.baseline.compared(at, end, moved)
        values, error, baseline = (part[: calls.asked].unflatten(0, (-1, points)) for part in found)
        return values, error, baseline

    def _local(self, x: State, near: State | None, sums: Tensor, *evaluations: Tensor) -> Tensor:
        """What Gaussians about the rows add to their sums ``b`` inside the range.

        Args:
            x: rows ``b *d``, a row for each of its replicates.
            near: the rows that the baseline is about.
            sums: of half the baseline's minus the score's squared error.
            evaluations: levels and weights ``b k``, noise and errors of score and baseline ``b k *d``.
        """
        replicates, about = self.grid.replicates, x if near is None else near
        setting = Setting.of(self.baseline.law, x[0].numel(), self.grid.proposal.span, x.device)

        def evaluate(index: Tensor) -> Tensor:
            each = index[:, None] * replicates + torch.arange(replicates, device=index.device)
            levels, weights, *states = (part[each.flatten()] for part in evaluations)
            shape = (*each.shape, self.grid.points)
            states = [setting.coordinates(state.flatten(0, 1)).reshape(*shape, -1) for state in states]
            found = Evaluations(levels.reshape(shape), weights.reshape(shape), *states)
            mean = self.baseline.integral(about[each.flatten()], *setting.span).reshape(each.shape)
            local = Local.fit(setting, setting.shift(x[each[:, 0]]), found)
            return local.exchanged(found, sums[each], mean, setting.span)

        return by_blocks(evaluate, self.count, setting.rows_at_once(replicates), x.device, dim=0).flatten()

    def _noise(self, purpose: str, x: State) -> State:
        """Antithetic draws, shape ``b DRAWS *d``, float64."""
        generators = keyed_generators(self.seed, purpose, self.rows, self.round_)
        shape = (self.grid.replicates, DRAWS // 2, *x.shape[1:])
        half = keyed_normal(generators, shape, x.new_empty(0, dtype=torch.float64)).flatten(0, 1)
        return torch.cat([half, -half], 1)
