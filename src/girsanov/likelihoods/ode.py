r"""Log-density of the probability-flow ODE, integrated in whitened coordinates along log-SNR.

With :math:`z = \alpha m + S_l^{1/2} w`, :math:`S_l = \alpha^2 S + \sigma^2 I`, the Gaussian part of the flow is
exactly w = const, and only the deviation :math:`\delta = \hat\varepsilon - \hat\varepsilon_G` moves w:

.. math::
    \frac{dw}{dl} = -\tfrac12 \sigma\, S_l^{-1/2} \delta(l, z), \qquad
    \log p_0(x) = \log p(w_T) - \int \mathrm{div}_w \frac{dw}{dl}\, dl - \tfrac12 \log\det S .

Coordinates have unit scale at every level and for every process, the drift's divergence at an end never
enters, and a model equal to its reference is integrated without error. Without a reference, N(0, I) whitens.
Beyond the data end of the range, w moves like :math:`e^{-l}`: that stretch is one Euler step in :math:`e^{-l}`,
so that the value is the density at x itself and not that of slightly noised data.

The value is exact up to the solver and, with Hutchinson's probes, their standard error. It is the likelihood
of the ODE model, another one than the reverse SDE's (note of paper 1, section 2.8): never put both in one column.
"""

__all__ = ["WhitenedFlow", "default_solver", "ode_log_prob", "whitening"]

import math

import torch
from torch import Tensor

from girsanov.calculus import Divergence, Exact, Hutchinson, where_rows
from girsanov.densities import Gaussian
from girsanov.inputs import checked, like_rows
from girsanov.likelihoods.estimator import keeps_graph
from girsanov.likelihoods.resolution import confirmed, needed_range
from girsanov.networks import ResidualHead
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.pairs.score_model import given_way
from girsanov.randomness import keyed_generators, keyed_rademacher, seed_of
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.solvers import Adaptive, FixedGrid, LogSNRDensity
from girsanov.types import Estimate, Nats, State

CHUNK = 64  # rows solved together, fixed so that results do not depend on their number


@checked
def ode_log_prob(
    pair: ScorePair,
    x: State,
    *,
    divergence: Divergence | None = None,
    solver: Adaptive | FixedGrid | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
) -> Estimate:
    """Log-density of the probability-flow ODE model, per row.

    Args:
        pair: the model; its reference, else N(0, I), whitens, which never changes the value.
        x: rows ``n *d``.
        divergence: ``Exact()`` (default) or ``Hutchinson(probes=...)``.
        solver: ``Adaptive(...)`` or ``FixedGrid(steps=...)``; default adaptive with tolerances 1e-6 where the score
            computes in float64, 1e-4 in float32.
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: read once for the seed of the probes; ``None`` means seed 0.
        differentiable: keep the graph of the score's parameters too; see
            :class:`girsanov.likelihoods.Replicates`. Take a :class:`FixedGrid` then.

    Returns:
        Estimate of model ``ode``: kind ``exact`` (up to the solver) with the exact divergence, ``unbiased`` with
        probes, and ``estimate`` where the last step at the data end is too long for some row, whose
        :attr:`Estimate.needed` is then beyond the range (:attr:`Estimate.caveat` says how far a score would have to be
        known), or where the score computes in half precision. Its terms are ``prior``, ``divergence`` and
        ``reference``; ``nfe`` counts a backward pass as two, and a trace in closed form as nothing beyond its
        evaluation.

    Raises:
        InputError: if the data are not forgotten at the noise end and neither prior nor reference is known, or if a
            row does not converge.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
        >>> law, x = law.double(), torch.ones(1, 2, dtype=torch.float64)
        >>> estimate = ode_log_prob(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), x)
        >>> torch.allclose(estimate.value, law.log_prob(x), atol=1e-4)
        True
    """
    divergence = divergence or Exact()
    solver = solver or default_solver(pair, x)
    law = pair.reference if pair.reference is not None else whitening(x)
    seed = seed_of(generator)

    def evaluate(index: Tensor) -> dict[str, Tensor]:
        given = condition_at(condition, index)
        flow = WhitenedFlow(pair, law, divergence, given, one_level=isinstance(solver, FixedGrid))
        return _solve(flow, x[index], solver, seed)

    with torch.set_grad_enabled(keeps_graph(x, differentiable)):
        terms = by_blocks(evaluate, len(x), CHUNK, x.device)
    estimate = _estimate(terms, x, divergence, pair.log_snr_range)
    missing = torch.stack([torch.zeros_like(terms["end"]), terms["end"]])
    return confirmed(estimate, pair, needed_range(*pair.log_snr_range, missing, estimate.event_dim))


class WhitenedFlow:
    """The probability-flow ODE in coordinates that whiten the noised reference.

    Args:
        pair: the model.
        law: the Gaussian that whitens.
        divergence: strategy for the divergence, or ``None`` where only states are wanted.
        condition: rows' conditions, or ``None``.
        one_level: whether all rows of a call share one level, so that a trace in closed form serves them all.
    """

    def __init__(
        self,
        pair: ScorePair,
        law: Gaussian,
        divergence: Divergence | None,
        condition: Tensor | None,
        *,
        one_level: bool,
    ) -> None:
        self.pair, self.law, self.one_level = pair, law, one_level
        self.divergence, self.condition = divergence, condition
        self.probes: Tensor | None = None
        self.rows = self.spent = 0  # evaluations of rows so far, and what they cost

    def velocity(self, log_snr: Tensor, w: State, rows: Tensor) -> State:
        """dw/dl at levels ``b`` and whitened states ``b *d``."""
        score, given = self.pair.score, self._given(rows)
        if isinstance(score, ScoreModel) and score.reference is self.law and isinstance(score.head, ResidualHead):
            delta = like_rows(score.whitened_deviation(log_snr, w, given), w, "score model")
        else:
            z = self.law.unwhiten(log_snr, w)
            _, delta = self.pair.deviation(log_snr, z, given, reference=self.law)
        return -0.5 * self.law.whitened_noise(log_snr, delta)

    def __call__(self, log_snr: Tensor, w: State, rows: Tensor) -> tuple[State, Tensor]:
        """Velocity and divergences ``m b``."""
        assert self.divergence is not None
        probes = None if self.probes is None else self.probes[:, rows]
        closed_form = self._closed_form(log_snr, w, rows)
        self.rows += len(w)
        self.spent += len(w) * (1 if closed_form is not None else self.divergence.cost(w[0].numel()))
        if closed_form is not None:
            return closed_form
        return self._general(log_snr, w, rows, probes)

    def _general(self, log_snr: Tensor, w: State, rows: Tensor, probes: Tensor | None) -> tuple[State, Tensor]:
        assert self.divergence is not None
        return self.divergence(lambda state: self.velocity(log_snr, state, rows), w, probes)

    def _closed_form(self, log_snr: Tensor, w: State, rows: Tensor) -> tuple[State, Tensor] | None:
        """Exact trace of a two-hidden-layer network, where all rows share one level."""
        score = self.pair.score
        if not isinstance(self.divergence, Exact) or not isinstance(score, ScoreModel):
            return None
        with_trace = getattr(score.network, "with_trace", None)
        head = score.head
        shared = score.reference is self.law and self.one_level
        if with_trace is None or not isinstance(head, ResidualHead) or not shared or torch.is_grad_enabled():
            return None
        if self.pair.rounds:
            return None
        one = log_snr[:1]

        def field(residual: State) -> State:
            level = one.expand(len(residual))
            return -0.5 * self.law.whitened_noise(level, head.colour(level, residual))

        identity = torch.eye(w[0].numel(), dtype=torch.float64, device=w.device)
        matrix = field(identity.reshape(-1, *w.shape[1:])).flatten(1)
        level = log_snr.to(w.dtype)
        residual, trace = with_trace(level, w[:, None], self._given(rows), matrix)
        velocity, rates = field(residual[:, 0]), trace.double()[None]
        noise = self.law.whitened_noise(log_snr, w) + head.colour(log_snr, residual[:, 0])
        far = (given_way(noise) > 0.0).flatten(1).any(1) & score.broad_share
        if not bool(far.any()):
            return velocity, rates
        general, other = self._general(log_snr, w, rows, None)
        return where_rows(far, general, velocity), torch.where(far, other, rates)

    def _given(self, rows: Tensor) -> Tensor | None:
        return conditions_for(condition_at(self.condition, rows), len(rows))

    def grid(self, points: int) -> Tensor:
        """Levels from the data end to the noise end, dense where the reference's denoiser is at work."""
        low, high = self.pair.log_snr_range
        density = LogSNRDensity.from_spectrum(low, high, self.law.spectrum())
        return density.nodes(points).flip(0).to(self.law.mean.device)


def _solve(flow: WhitenedFlow, x: State, solver: Adaptive | FixedGrid, seed: int) -> dict[str, Tensor]:
    """All terms for one chunk: ``prior``, ``reference`` ``b``, ``divergence`` ``m b``, ``evaluations``, ``error``."""
    law, (low, high) = flow.law, flow.pair.log_snr_range
    dtype = flow.pair.dtype(x)
    rows = torch.arange(len(x), device=x.device)
    if flow.divergence is not None and flow.divergence.probes:
        shape = (flow.divergence.probes, *x.shape[1:])
        generators = keyed_generators(seed, "probes", x)
        flow.probes = keyed_rademacher(generators, shape, x.new_empty(0, dtype=dtype)).transpose(0, 1)
    clean = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    w = law.whiten(clean, x.double()).to(dtype)
    start, first = _end_step(flow, w, clean.new_full((len(x),), high), rows, share=1.0)
    solution = solver.solve(flow, start, flow.grid(solver.points()))
    w_end, integral = solution.state, solution.integrals + first
    if flow.pair.endless:  # w moves like e^(l/2) from here on: one Euler step in that variable
        w_end, last = _end_step(flow, w_end, clean.new_full((len(x),), low), rows, share=2.0)
        integral = integral + last
        low = -math.inf
    return {
        "prior": _prior_log_prob(flow, w_end, low),
        "divergence": integral,
        "end": first.detach().mean(0),
        "reference": -0.5 * law.spectrum().log().sum().expand(len(x)),
        "evaluations": solution.evaluations.double(),
        "cost": solution.evaluations.new_full((len(x),), flow.spent / flow.rows, dtype=torch.float64),
        "error": solution.error,
    }


def _end_step(flow: WhitenedFlow, w: State, level: Tensor, rows: Tensor, *, share: float) -> tuple[State, Tensor]:
    """One Euler step over the infinite stretch beyond an end, where velocity decays exponentially with rate 1/share."""
    velocity, rates = flow(level, w, rows)
    return w - share * velocity, -share * rates.double()


def _prior_log_prob(flow: WhitenedFlow, w: State, low: float) -> Nats:
    """Log-density of w under the prior, which is given in the process's own coordinates."""
    level = torch.full((len(w),), low, dtype=torch.float64, device=w.device)
    z = flow.law.unwhiten(level, w.double())
    scale = torch.ones_like(level[:1])
    if math.isfinite(low):
        alpha, sigma = flow.pair.process.marginal_at(level[:1])
        scale = (alpha.square() + sigma.square()).sqrt()
    variances = torch.sigmoid(level[:1]) * flow.law.spectrum() + torch.sigmoid(-level[:1])
    log_det = 0.5 * variances.log().sum() + w[0].numel() * scale.log()
    return flow.pair.prior.log_prob(scale * z) + log_det


def default_solver(pair: ScorePair, x: State) -> Adaptive:
    """Adaptive steps, with tolerances for the precision in which the score computes at rows ``x``."""
    tolerance = 1e-6 if pair.dtype(x) == torch.float64 else 1e-4
    return Adaptive(rtol=tolerance, atol=tolerance)


def whitening(x: State) -> Gaussian:
    """N(0, I) in the shape of rows ``x``: what whitens where there is no reference."""
    return Gaussian(torch.zeros(x.shape[1:], dtype=torch.float64), 1.0).to(x.device)


def _estimate(
    terms: dict[str, Tensor], x: State, divergence: Divergence, log_snr_range: tuple[float, float]
) -> Estimate:
    values = terms["prior"] + terms["divergence"] + terms["reference"]
    evaluations = int(terms["evaluations"].double().mean().ceil()) + 1
    fields = {
        "model": "ode",
        "nfe": math.ceil(evaluations * float(terms["cost"].mean()) - 1e-9),
        "event_dim": x[0].numel(),
        "log_snr_range": log_snr_range,
        "terms": {
            "prior": terms["prior"],
            "divergence": terms["divergence"].mean(0),
            "reference": terms["reference"],
        },
    }
    if isinstance(divergence, Hutchinson):
        return Estimate.from_replicates(values, kind="unbiased", **fields)
    return Estimate(values[0], torch.zeros_like(values[0]), kind="exact", **fields)  # type: ignore[arg-type]
