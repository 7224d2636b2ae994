r"""Replicated randomised systematic grids: the one Monte-Carlo estimator behind every log-SNR integral.

Per row, R independent replicates of a K-point systematic grid in log-SNR. Neighbouring points of a grid take
antithetic noise :math:`(\varepsilon, -\varepsilon)`, which cancels the odd part of the integrand. Replicates are
unbiased and independent, so their spread is an honest standard error and Student's t covers.

Every draw is keyed by the content of its row, chunks have a fixed padded size, and sums are float64: a row's
value does not depend on the rows that it is evaluated with.
"""

__all__ = ["View", "Views", "identity_view", "replicate"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, keyed_generators, keyed_normal, keyed_uniform
from girsanov.likelihoods.baselines import Baseline
from girsanov.models import require_rows, working_dtype
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, State

CHUNK = 512  # network evaluations per call, fixed so that results do not depend on the number of rows
CHUNK_ELEMENTS = 2**21  # at most so many numbers per call, for large events
DRAWS = 16  # noise draws per replicate for a prior whose expected log-density is not closed form


@dataclass(frozen=True)
class View:
    """One randomised version of each row per replicate (a dequantisation draw), with its log|det|.

    Attributes:
        x: shape ``b r *d``.
        log_det: shape ``b r``.
    """

    x: State
    log_det: Tensor


#: ``(rows b *e, replicates, seed, round) -> View``: how raw rows become model space, afresh in every replicate
Views = Callable[[State, int, int, int], View]


def identity_view(rows: State, replicates: int, seed: int, round_: int) -> View:
    """Every replicate sees the row itself."""
    del seed, round_
    return View(rows[:, None].expand(-1, replicates, *rows.shape[1:]), rows.new_zeros(len(rows), replicates).double())


def replicate(
    baseline: Baseline,
    x: State,
    proposal: LogSNRDensity,
    closed_form: Callable[[State], dict[str, Nats]],
    *,
    samples: int,
    replicates: int,
    seed: int,
    condition: Tensor | None,
    views: Views = identity_view,
    sampled_prior: Callable[[State, State], Nats] | None = None,
    round_: int = 0,
) -> dict[str, Tensor]:
    """Independent replicates of every term, each of shape ``r n``, float64.

    Args:
        baseline: what is sampled.
        x: raw rows ``n *e``.
        proposal: density in log-SNR; its atom, if any, is the residual term.
        closed_form: the terms known exactly given model-space rows; sampled parts are added to its
            ``diffusion`` and ``residual``.
        samples: network evaluations per row.
        replicates: number R of replicates; ``samples // R`` evaluations each.
        seed: keys the noise together with each row.
        condition: leading dimension ``n`` or 1.
        views: how raw rows become model space.
        sampled_prior: the ``prior`` term from rows ``b *d`` and noise ``b m *d``, where it is not closed form.
        round_: successive rounds are independent.

    Raises:
        InputError: for fewer than one evaluation, or a condition of another length.
    """
    require_rows(x)
    if samples < 1:
        raise InputError(f"samples must be at least 1; got {samples}")
    if condition is not None and len(condition) not in (1, len(x)):
        raise InputError(f"condition must have leading dimension 1 or {len(x)}; got {len(condition)}")
    replicates = min(replicates, samples)
    points = samples // replicates
    budget = min(CHUNK, max(CHUNK_ELEMENTS // max(x[0].numel(), 1), points * replicates))
    rows = max(1, budget // (points * replicates))
    parts = []
    for start in range(0, len(x), rows):
        index = torch.arange(start, start + rows, device=x.device).clamp_max(len(x) - 1)
        given = condition if condition is None or len(condition) == 1 else condition[index]
        chunk = _Chunk(baseline, proposal, x[index], given, replicates, points, seed, round_)
        part = chunk.evaluate(views, closed_form, sampled_prior)
        parts.append({name: value[:, : len(x) - start] for name, value in part.items()})
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


@dataclass(frozen=True)
class _Chunk:
    """A fixed number of rows with all their replicates and grid points."""

    baseline: Baseline
    proposal: LogSNRDensity
    rows: State
    condition: Tensor | None
    replicates: int
    points: int
    seed: int
    round_: int

    def evaluate(
        self,
        views: Views,
        closed_form: Callable[[State], dict[str, Nats]],
        sampled_prior: Callable[[State, State], Nats] | None,
    ) -> dict[str, Tensor]:
        view = views(self.rows, self.replicates, self.seed, self.round_)
        count = len(self.rows) * self.replicates
        x = view.x.reshape(count, *view.x.shape[2:])
        # replicates of a row that is not randomised share its closed form
        same = view.x.stride(1) == 0
        terms = closed_form(view.x[:, 0] if same else x)
        shape = (len(self.rows), self.replicates)
        wide = {name: value[:, None].expand(shape) if same else value.reshape(shape) for name, value in terms.items()}
        diffusion, residual = self._sampled(x)
        wide["diffusion"] = wide["diffusion"] + diffusion.reshape(shape)
        if "residual" in wide:
            wide["residual"] = wide["residual"] + residual.reshape(shape)
        if sampled_prior is not None:
            wide["prior"] = sampled_prior(x.double(), self._prior_noise(x)).reshape(shape)
        wide["log_det"] = view.log_det
        return {name: value.T for name, value in wide.items()}

    def _sampled(self, x: State) -> tuple[Tensor, Tensor]:
        """Sampled parts of the integral and of the residual, one per row and replicate."""
        dtype = working_dtype(self.baseline.score, x)
        generators = keyed_generators(self.seed, "log-snr", self.rows, self.round_)
        offset = keyed_uniform(generators, (self.replicates,), x).flatten()
        pairs = (self.points + 1) // 2
        half = keyed_normal(generators, (self.replicates, pairs, *x.shape[1:]), x.new_empty(0, dtype=dtype))
        half = half.reshape(len(x), pairs, *x.shape[1:])
        eps = torch.stack([half, -half], 2).flatten(1, 2)[:, : self.points].flatten(0, 1)
        levels, weights, at_end = (grid.flatten() for grid in self.proposal.systematic(offset, self.points))
        alpha, sigma = torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt()
        clean = x.to(dtype)[:, None].expand(-1, self.points, *x.shape[1:]).flatten(0, 1)
        z = expand_as_rows(alpha, clean) * clean + expand_as_rows(sigma, clean) * eps
        values = weights * self.baseline.sampled(levels, z, eps, at_end, self._conditions(len(levels)))
        inside = torch.where(at_end, 0.0, values).reshape(-1, self.points).sum(1)
        end = torch.where(at_end, values, 0.0).reshape(-1, self.points).sum(1)
        return inside, end

    def _prior_noise(self, x: State) -> State:
        """Antithetic draws, shape ``b DRAWS *d``, float64."""
        generators = keyed_generators(self.seed, "prior", self.rows, self.round_)
        shape = (self.replicates, DRAWS // 2, *x.shape[1:])
        half = keyed_normal(generators, shape, x.new_empty(0, dtype=torch.float64)).flatten(0, 1)
        return torch.cat([half, -half], 1)

    def _conditions(self, count: int) -> Tensor | None:
        if self.condition is None:
            return None
        if len(self.condition) == 1:
            return self.condition.expand(count, *self.condition.shape[1:])
        return self.condition.repeat_interleave(count // len(self.condition), 0)
