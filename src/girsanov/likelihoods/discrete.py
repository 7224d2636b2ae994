r"""Log-masses of discrete data: importance-weighted dequantisation, and the categorical ("lossless") decoder.

**Importance weighting.** Over K dequantisation draws, :math:`\log P(x) \ge E[\log \tfrac1K \sum_k e^{L_k}]` with
:math:`L_k = \log p(y_k) - \log q(y_k \mid x)` is tighter than the mean of the :math:`L_k`. Where they are bounds known
only up to Monte-Carlo noise, the logarithm of a mean of exponentials is no bound. By the variational principle

.. math::
    \log \tfrac1K \sum_k e^{L_k} \ge \sum_k w_k L_k - \sum_k w_k \log(K w_k)

for any weights w, and with weights from *other* noise than the values' the right-hand side keeps its mean: draws are
evaluated twice, each fold weighs the other, and the value stays a lower bound.

**Categorical decoder.** In place of the Gaussian decoder's residual, the bound ends at log-SNR :math:`l_0` with
:math:`P(x = k \mid x_0) \propto \exp(-\tfrac12 e^{l_0} (x_0/\alpha_0 - \bar x_k)^2)`, and the data get no noise:

.. math::
    \log P(x) \ge E[\log \pi(x_T)] + H(q(x_T \mid x)) - \tfrac12 \int_{l_T}^{l_0} \mathrm{mse}(l; x)\, dl
      + E[\log P(x \mid x_0)] ,

whose last term is one smooth integral per dimension and cell: it is computed, not sampled (note of paper 1, section
2.10). A small share of the decoder's mass may be for the points that continue the lattice, so that none is impossible.
"""

__all__ = ["LatticePoints", "categorical_elbo", "importance_weighted", "log_mean_exp"]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.inputs import checked
from girsanov.likelihoods.baselines import baseline_of
from girsanov.likelihoods.defaults import REPLICATES, estimate_of, grid_for
from girsanov.likelihoods.estimator import (
    RandomisedRows,
    Replicates,
    View,
    Views,
    identity_view,
    keeps_graph,
    replicate,
)
from girsanov.pairs import ScorePair
from girsanov.randomness import seed_of
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Nats, State

REACH, NODES = 9.0, 401  # trapezoid rule over the decoder's noise: errors of e^-40 for cells up to 10 deviations wide
LEVELS = 32  # levels per table chunk
ENDLESS = 65  # points that stand for a lattice without end, seen from the middle one


def importance_weighted(
    evaluate: Callable[[RandomisedRows, int], Estimate], x: RandomisedRows, *, draws: int, replicates: int = 4
) -> Estimate:
    """Importance-weighted bound over several dequantisation draws, from any estimate of randomised rows.

    Args:
        evaluate: ``(x, count) -> Estimate`` with ``count`` replicates, one per view, such as
            ``lambda x, count: elbo(pair, x, method=Replicates(count), samples=4 * count)``.
        x: the rows and their dequantisation.
        draws: number K of draws that are weighted against each other.
        replicates: independent repetitions of the K draws, at least 2: their spread is the standard error.

    Returns:
        An estimate of the kind of ``evaluate``'s; with ``draws=1`` its mean is the unweighted bound's.

    Raises:
        InputError: for fewer than one draw or two replicates, or an ``evaluate`` that does not honour its count.
    """
    if draws < 1 or replicates < 2:
        raise InputError(f"importance weighting needs draws >= 1 and replicates >= 2; got {draws} and {replicates}")
    inner = evaluate(replace(x, views=_twice(x.views)), 2 * draws * replicates)
    if inner.replicates is None or len(inner.replicates) != 2 * draws * replicates:
        raise InputError("evaluate must return as many replicates as it is asked for: raise its samples")
    values = inner.replicates.reshape(replicates, draws, 2, -1)
    trust = _trust(values)
    folds = [_cross(values[:, :, a], values[:, :, 1 - a], trust) for a in (0, 1)]
    return Estimate.from_replicates(
        0.5 * (folds[0] + folds[1]),
        kind=inner.kind,
        model=inner.model,
        nfe=inner.nfe,
        event_dim=inner.event_dim,
        log_snr_range=inner.log_snr_range,
        measure=inner.measure,
    )


def log_mean_exp(values: Tensor) -> Tensor:
    """Log of the mean of exponentials over axis 1: the weighting of draws whose values are exact, ``r k n -> r n``."""
    return torch.logsumexp(values.double(), 1) - math.log(values.shape[1])


def _twice(views: Views) -> Views:
    """Every dequantisation draw, seen by two neighbouring replicates with noise of their own."""

    def doubled(rows: State, replicates: int, seed: int, round_: int) -> View:
        view = views(rows, replicates // 2, seed, round_)
        return View(view.x.repeat_interleave(2, 1), view.log_det.repeat_interleave(2, 1))

    return doubled


def _cross(values: Tensor, other: Tensor, trust: Tensor) -> Tensor:
    """The variational value of one fold under the other fold's weights, ``r k n -> r n``."""
    log_weights = torch.log_softmax(trust[:, None] * other, 1)
    weights = log_weights.exp()
    return (weights * (values - log_weights)).sum(1) - math.log(values.shape[1])


def _trust(values: Tensor) -> Tensor:
    """Share of the draws' spread that is not noise, from the other replicates: tempers the weights, ``r n``."""
    centred = values - values.mean(1, keepdim=True)
    shared = (centred[:, :, 0] * centred[:, :, 1]).mean(1)
    spread = centred.square().mean((1, 2))
    ratio = (shared.sum(0) - shared) / (spread.sum(0) - spread)
    return ratio.nan_to_num(0.0).clamp(0.0, 1.0)


@dataclass(frozen=True)
class LatticePoints:
    """Where discrete data lie in the model's coordinates: ``first + step * k``, k = 0 ... count - 1.

    Attributes:
        first: the lowest point of each dimension, shape ``*d``.
        step: the distance of neighbours, shape ``*d``, positive.
        count: number of points, the same in all dimensions.
        beyond: share of the decoder's mass, all dimensions together, for points that continue the lattice: with 0 they
            are refused.
    """

    first: Tensor
    step: Tensor
    count: int
    beyond: float = 0.0

    def level_for(self, deviations: float = 3.0) -> float:
        """The log-SNR at which half the smallest step is so many standard deviations of the decoder's noise."""
        return 2.0 * math.log(2.0 * deviations / float(self.step.min()))

    def index(self, x: State) -> Tensor:
        """Number of each point, int64; below 0 or from ``count`` on for points that continue the lattice.

        Raises:
            InputError: for values off the lattice.
        """
        position = (x.double() - self.first) / self.step
        index = position.round()
        off = (position - index).abs() > 1e-3
        if not self.beyond:
            off = off | (index < 0) | (index >= self.count)
        if bool(off.any()):
            raise InputError(f"These rows are not on the lattice of {self.count} points that the decoder knows")
        return index.long()

    def reconstruction(self, x: State, log_snr: float) -> Nats:
        """Expected log-mass of the rows under the decoder at a log-SNR, shape ``n``, exact.

        The share ``beyond`` is a decoder's that knows all points of the endless lattice.
        """
        index, ratio = self.index(x), self.step.double().expand(x.shape[1:]) * math.exp(0.5 * log_snr)
        share = self.beyond / x[0].numel()
        known = (index >= 0) & (index < self.count)
        values = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for scale in {float(f"{value:.12g}") for value in ratio.unique().tolist()}:  # equal but for rounding
            table = _table(scale, self.count).to(x.device) + math.log1p(-share)
            endless = float(_table(scale, ENDLESS)[ENDLESS // 2]) + math.log(share or 1.0)
            found = torch.where(known, table[index.clamp(0, self.count - 1)], endless)
            values = torch.where((ratio / scale - 1.0).abs() < 1e-11, found, values)
        return sum_event(values)


@lru_cache(maxsize=64)
def _table(ratio: float, count: int) -> Tensor:
    """E[log P(k | k + eps / ratio)] for every k, with cells ``ratio`` standard deviations wide, shape ``count``."""
    eps = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
    weights = torch.exp(-0.5 * eps.square())
    points, parts = torch.arange(count, dtype=torch.float64), []
    for levels in points.split(LEVELS):
        distance = ratio * (levels[:, None, None] - points) + eps[None, :, None]
        log_mass = -0.5 * eps.square() - torch.logsumexp(-0.5 * distance.square(), -1)
        parts.append(log_mass @ weights / weights.sum())
    return torch.cat(parts)


@checked
def categorical_elbo(
    pair: ScorePair,
    x: State,
    *,
    lattice: LatticePoints,
    samples: int = 32,
    method: Replicates | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Lower bound on the log-mass of lattice points under the reverse SDE with a categorical decoder at its end.

    The decoder stands at the data end of the log-SNR range, where cells should be some six standard deviations wide:
    set the range of process or score by :meth:`LatticePoints.level_for`.

    Args:
        pair: the model of the noised lattice points; the atom of its proposal, if it has one, is left out.
        x: lattice points in the model's coordinates, ``n *d``.
        lattice: all lattice points.
        samples: see :func:`girsanov.elbo`.
        method: see :func:`girsanov.elbo`; by default 8 replicates, of fewer than 16 samples half as many as these.
        condition: see :func:`girsanov.elbo`.
        generator: see :func:`girsanov.elbo`.

    Returns:
        Estimate of kind ``lower_bound``, model ``sde`` and measure ``mass``, with terms ``prior`` (minus the divergence
        of the kernel from the prior), ``diffusion`` and ``residual`` (the reconstruction).

    Raises:
        InputError: for rows off the lattice.
    """
    (low, high), rows = pair.log_snr_range, RandomisedRows(x, identity_view, "mass")
    method = method or Replicates(max(1, min(REPLICATES, samples // 2)))
    grid = grid_for(pair, rows, samples, method, atom=False)
    grid = replace(grid, proposal=_without_atom(grid.proposal), local=False)
    baseline = baseline_of(pair)
    _, sigma = pair.process.marginal_at(torch.tensor(low, dtype=torch.float64, device=x.device))
    entropy = 0.5 * x[0].numel() * (1.0 + math.log(2.0 * math.pi)) + x[0].numel() * float(sigma.log())

    def closed_form(rows: State, near: State | None) -> dict[str, Nats]:
        rows = rows.double()
        prior = rows.new_full((len(rows),), entropy)
        return {
            "prior": prior + pair.expected_log_prior(rows) if pair.prior_is_closed else prior,
            "diffusion": -0.5 * baseline.integral(rows if near is None else near, low, high),
        }

    with torch.set_grad_enabled(keeps_graph(x, method.differentiable)):
        terms = replicate(
            baseline,
            rows,
            grid,
            closed_form,
            seed=seed_of(generator),
            condition=condition,
        )
    terms["residual"] = lattice.reconstruction(x.detach(), high).expand_as(terms["prior"])
    return estimate_of(terms, rows, grid.samples, (low, high), kind="lower_bound")


def _without_atom(proposal: LogSNRDensity) -> LogSNRDensity:
    """The reconstruction is computed, so no draw is spent on it."""
    if proposal.atom == 0.0:
        return proposal
    return replace(proposal, masses=proposal.masses / proposal.masses.sum(), atom=0.0)
