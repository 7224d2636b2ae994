r"""Log-likelihoods from simulated paths: Euler weights of the continuum, and the bounds of chains.

For any pair of processes (note of paper 1, sections 2.2 to 2.5; note of paper 3, section 2.6):

- :func:`path_log_weight` and :func:`feynman_kac` estimate the bound and the density of the SDE by Euler paths. They
  have a discretisation error of either sign: kind ``estimate``.
- :func:`chain_elbo` is a true bound on the log-density of the N-step sampler, at every N; :func:`importance_bound`
  with K paths is a tighter one, increasing in K and consistent.
- :func:`chain_bracket` certifies a chain from both sides. On data x that the chain itself made, the path that made x
  is a draw from its posterior, so that with K - 1 fresh encoder paths beside it

.. math::
    E \log \tfrac1K \sum_k w_k(\text{encoder}) \;\le\; E \log p(x) \;\le\;
    E \log \tfrac1K \Big( w_1(\text{posterior}) + \sum_{k \ge 2} w_k(\text{encoder}) \Big),

and, the mean weight having the mean p(x) under encoder paths and 1/p(x) as the mean of its inverse with the posterior
one, Markov's inequality bounds every single row.
"""

__all__ = ["Bracket", "chain_bracket", "chain_elbo", "feynman_kac", "importance_bound", "path_log_weight"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from girsanov.calculus import Divergence, Exact
from girsanov.display import Shown, Summary
from girsanov.inputs import checked
from girsanov.likelihoods.estimator import RandomisedRows, keeps_graph
from girsanov.pairs import Chain, EulerChain, MidpointChain, Pair, euler_log_weights
from girsanov.randomness import keyed_generators, keyed_normal, seed_of, source_of
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.types import Estimate, InputError, MeanEstimate, Nats, State, interval_of_mean

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 2048  # paths simulated together, fixed so that results do not depend on the number of rows
CHUNK_ELEMENTS = 2**21  # at most so many numbers together, for large events
GROUPS = 4  # independent groups behind the standard error of an importance-weighted bound

Weigh = Callable[..., Nats]  #: ``(rows, noise, condition=) -> log-weights``, one path per row


@checked
def path_log_weight(
    pair: Pair,
    x: State,
    *,
    steps: int,
    paths: int = 8,
    divergence: Divergence | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Mean Girsanov log-weight of Euler paths: the continuous-time bound of any pair, up to discretisation.

    Args:
        pair: the two processes.
        x: rows ``n *d``.
        steps: Euler steps.
        paths: paths per row, whose spread is the standard error.
        divergence: of the generative drift; default :class:`girsanov.calculus.Exact`.
        condition: passed on to conditional drifts, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of kind ``estimate`` and model ``sde``; ``replicates`` are the log-weights W of single paths, whose
        exponentials estimate the density itself.

    Example:
        >>> from girsanov.densities import StandardNormal
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> process = OrnsteinUhlenbeck(2.0)
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> estimate = path_log_weight(pair, torch.zeros(1, 2), steps=200)
        >>> bool((estimate.value + math.log(2.0 * math.pi)).abs() < 4 * estimate.stderr), estimate.kind
        (True, 'estimate')
    """
    rule = divergence or Exact()
    weigh = partial(euler_log_weights, pair, steps=steps, divergence=rule)
    weights = _simulate(weigh, x, paths, condition, generator)
    cost = steps * rule.cost(x[0].numel()) * paths
    return Estimate.from_replicates(weights, kind="estimate", model="sde", nfe=cost, event_dim=x[0].numel())


@checked
def feynman_kac(
    pair: Pair,
    x: State,
    *,
    steps: int,
    paths: int = 256,
    divergence: Divergence | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Logarithm of the Feynman-Kac density :math:`E[\pi(Y_T) \exp \int (\mathrm{div}\, v + \tfrac12 \mathrm{ddD})]`.

    The paths follow the generative drift itself, so the variance is large in many dimensions; it needs no inference
    process and is the yardstick of the others in few. Arguments as for :func:`path_log_weight`.

    Returns:
        Estimate of kind ``estimate``: the logarithm of a mean, with its standard error by the delta method over
        groups of paths.
    """
    rule = divergence or Exact()
    weigh = partial(euler_log_weights, pair, steps=steps, controlled=False, divergence=rule)
    groups = _log_mean_groups(_simulate(weigh, x, paths, condition, generator), _groups(paths))
    cost = steps * rule.cost(x[0].numel()) * paths
    return Estimate.from_replicates(groups, kind="estimate", model="sde", nfe=cost, event_dim=x[0].numel())


@checked
def chain_elbo(
    pair: Pair | Chain,
    x: State | RandomisedRows,
    *,
    steps: int | None = None,
    paths: int = 8,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Evidence lower bound of the N-step sampler: a true bound at every N.

    Args:
        pair: two processes, taken by Euler steps, or by midpoint steps (:class:`girsanov.pairs.MidpointChain`) where
            their noise depends on the state, of which Euler's would lose some nats at any number; or a chain, of which
            ``steps`` is already decided.
        x: rows ``n *d``; or a fitted model's, in data units: ``model.encode(x)``.
        steps: number of steps of a pair.
        paths: paths per row, whose spread is the standard error.
        condition: leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of kind ``lower_bound`` and model ``chain``.

    Raises:
        InputError: for a pair without ``steps``, or a chain with another number of them.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.pairs import AncestralChain, ScorePair
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), torch.tensor([0.5, 2.0]))
        >>> chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 16)
        >>> estimate = chain_elbo(chain, torch.zeros(3, 2))
        >>> torch.allclose(estimate.value, law.log_prob(torch.zeros(3, 2)), atol=1e-4), estimate.model
        (True, 'chain')
    """
    chain = _chain(pair, steps, x)
    weights = _simulate(chain.log_weights, x, paths, condition, generator)
    return Estimate.from_replicates(weights, nfe=chain.length * paths, **_bound_of(x))


@checked
def importance_bound(
    pair: Pair | Chain,
    x: State | RandomisedRows,
    *,
    paths: int,
    steps: int | None = None,
    groups: int = GROUPS,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Importance-weighted bound :math:`E \log \frac1K \sum_k w_k` of the N-step sampler with K paths.

    Args:
        pair: as for :func:`chain_elbo`.
        x: rows ``n *d``; or a fitted model's, in data units: ``model.encode(x)``.
        paths: K, the paths in each mean; the bound increases with it to the log-density of the chain.
        steps: number of steps of a pair.
        groups: independent means, whose spread is the standard error.
        condition: leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of kind ``lower_bound`` and model ``chain``.

    Raises:
        InputError: as for :func:`chain_elbo`.
    """
    chain = _chain(pair, steps, x)
    weights = _simulate(chain.log_weights, x, groups * paths, condition, generator)
    return Estimate.from_replicates(
        _log_mean_groups(weights, groups), nfe=chain.length * groups * paths, **_bound_of(x)
    )


def _bound_of(x: State | RandomisedRows) -> dict[str, Any]:
    """What a chain's bound of rows is."""
    seen = RandomisedRows.of(x)
    return {"kind": "lower_bound", "model": "chain", "event_dim": seen.event_dim, "measure": seen.measure}


@dataclass(frozen=True, repr=False)
class Bracket(Shown):
    """What a chain's log-density is between, on rows that the chain made.

    Attributes:
        x: the rows, ``n *d``.
        lower: importance-weighted bounds from encoder paths.
        upper: bounds that hold the posterior path of each row; kind ``upper_bound``.
    """

    x: State
    lower: Estimate
    upper: Estimate

    def _summary(self) -> Summary:
        facts = {"lower": repr(self.lower), "upper": repr(self.upper), "width": repr(self.width)}
        return Summary(f"Bracket of a chain's log-density at {len(self.x):,} of its own rows", facts)

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each row: both bounds in nats, each with its standard error."""
        import pandas as pd

        both = (bound.to_pandas()[["value", "stderr"]] for bound in (self.lower, self.upper))
        return pd.concat(list(both), axis=1).set_axis(["lower", "lower_stderr", "upper", "upper_stderr"], axis=1)

    @property
    def width(self) -> MeanEstimate:
        """Mean of upper minus lower over the rows; its standard error is that of independent rows."""
        gap = self.upper.value - self.lower.value
        stderr = float(gap.std()) / math.sqrt(len(gap))
        return MeanEstimate(float(gap.mean()), stderr, stderr, len(gap), len(gap) - 1)

    def mean_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval that holds the mean log-density of the chain's own data with at least this probability.

        Args:
            level: coverage, between 0 and 1; the two sides share what is left.

        Raises:
            InputError: for fewer than ten rows, of whose mean no interval keeps its promise.
        """
        return interval_of_mean(self.lower.value, level)[0], interval_of_mean(self.upper.value, level)[1]

    def interval(self, level: float = 0.95) -> tuple[Nats, Nats]:
        """Interval of each row's log-density by Markov's inequality: valid for any chain, wide by ``2 log(2/alpha)``.

        Args:
            level: coverage of each row, between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"level must lie between 0 and 1; got {level}")
        slack = math.log(2.0 / (1.0 - level))
        return self.lower.value - slack, self.upper.value + slack


@checked
@torch.no_grad()
def chain_bracket(
    pair: Pair | Chain,
    n: int,
    *,
    paths: int,
    steps: int | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Bracket:
    """Simulate ``n`` rows from a chain and bound its log-density at them from both sides.

    Args:
        pair: as for :func:`chain_elbo`.
        n: number of rows.
        paths: K, paths in each mean.
        steps: number of steps of a pair.
        condition: leading dimension ``n`` or 1.
        generator: source of the rows; read once more for the seed of the encoder paths; ``None`` means seed 0.

    Raises:
        InputError: as for :func:`chain_elbo`.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.pairs import AncestralChain, ScorePair
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), torch.tensor([0.5, 2.0]))
        >>> chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 16)
        >>> abs(chain_bracket(chain, 50, paths=2).width.value) < 1e-4  # the model is its reference
        True
    """
    chain = _chain(pair, steps)
    generator = source_of(generator)
    given = conditions_for(condition, n)
    x, own = chain.sample(n, generator=generator, condition=given)
    weights = _simulate(chain.log_weights, x, 2 * paths - 1, condition, generator)
    lower, others = weights[:paths], torch.cat([own.double()[None], weights[paths:]])
    fields = {"model": "chain", "nfe": chain.length * paths, "event_dim": x[0].numel()}
    return Bracket(
        x,
        Estimate(_log_mean(lower), torch.full_like(own, math.nan), kind="lower_bound", **fields),
        Estimate(_log_mean(others), torch.full_like(own, math.nan), kind="upper_bound", **fields),
    )


def _chain(pair: Pair | Chain, steps: int | None, x: State | RandomisedRows | None = None) -> Chain:
    """The chain of a pair: midpoint steps where the noise depends on the state, for which Euler's lose some nats."""
    if isinstance(pair, Chain):
        if steps is not None and steps != pair.length:
            raise InputError(f"This chain has {pair.length} steps: leave steps out, or pass the pair")
        return pair
    if steps is None:
        raise InputError("steps= is needed: the bound of a pair is that of its sampler with so many steps")
    if x is None:
        rows = pair.sample_prior(1, torch.Generator().manual_seed(0))
    else:
        seen = RandomisedRows.of(x)
        rows = seen.views(seen.rows[:1], 1, 0, 0).x[:, 0]
    return (MidpointChain if pair.noise_depends_on(rows) else EulerChain)(pair, steps)


def _simulate(
    weigh: Weigh,
    x: State | RandomisedRows,
    paths: int,
    condition: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Log-weights of ``paths`` paths of every row, shape ``paths n``; noise and views are keyed by the row."""
    seed, seen = seed_of(generator), RandomisedRows.of(x)
    size = max(1, min(CHUNK, CHUNK_ELEMENTS // seen.rows[0].numel()) // paths)

    def evaluate(index: Tensor) -> Tensor:
        rows, given = seen.rows[index], condition_at(condition, index)
        generators, view = keyed_generators(seed, "paths", rows), seen.views(rows, paths, seed, 0)
        start = view.x.flatten(0, 1)

        def noise(count: int) -> Tensor:
            block = keyed_normal(generators, (paths, count, *start.shape[1:]), start)  # n paths count *d
            return block.flatten(0, 1).movedim(1, 0)

        given = given if given is None or len(given) == 1 else given.repeat_interleave(paths, 0)
        weights = weigh(start, noise, condition=given).reshape(len(rows), paths)
        return (weights + view.log_det).T

    with torch.set_grad_enabled(keeps_graph(seen.rows)):
        return by_blocks(evaluate, len(seen), size, seen.rows.device)


def _groups(paths: int) -> int:
    """Groups of a logarithm of a mean: at least 16 paths each, for the logarithm's own bias."""
    return max(2, min(16, paths // 16))


def _log_mean_groups(weights: Tensor, groups: int) -> Tensor:
    """Log of the mean weight in each of ``groups`` groups, shape ``groups n``."""
    usable = len(weights) // groups * groups
    return _log_mean(weights[:usable].reshape(groups, -1, weights.shape[1]), 1)


def _log_mean(weights: Tensor, dim: int = 0) -> Tensor:
    """Log of the mean weight along an axis, reduced along contiguous memory: a row's bits are its own."""
    rows = weights.double().movedim(dim, -1).contiguous()
    return torch.logsumexp(rows, -1) - math.log(rows.shape[-1])
