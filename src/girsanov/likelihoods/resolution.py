r"""Whether a range of log-SNR resolves a row: what ``exact`` and ``unbiased`` promise, checked at the range's ends.

Beyond a data end that resolves the row, the score is smooth on the scale of the noise, and what is left of the
log-density falls off like :math:`e^{-l}`: as much as its rate at the end, which a handful of evaluations shows. Where
half of the mass sits in a spike that the noise of the data end still covers, that rate is half a nat per dimension and
does not fall. Each row is judged by itself, whatever it is evaluated with; a value in which some row is not resolved
is of kind ``estimate``, and says how far the range would have to reach.
"""

__all__ = ["confirmed", "missing_at_ends", "needed_range"]

from dataclasses import replace

import torch
from torch import Tensor

from girsanov.calculus import Noised
from girsanov.likelihoods.baselines import Baseline
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_rademacher
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.types import Estimate, Nats, State

CHUNK = 128  # rows of a call, fixed so that results do not depend on their number
CHUNK_ELEMENTS = 2**19  # at most so many numbers per call, for large events
NATS, NATS_PER_DIMENSION = 0.02, 1e-4  # what may be missing of a row beyond an end
EVALUATIONS = 4  # of :func:`missing_at_ends`, per row


def needed_range(low: float, high: float, missing: Tensor, event_dim: int) -> Tensor:
    """The range that each row needs at least, shape ``n 2``, given the nats ``2 n`` missing beyond either end."""
    allowed = NATS + NATS_PER_DIMENSION * event_dim
    beyond = (missing.detach().abs().double() / allowed).log().nan_to_num(torch.inf, torch.inf, 0.0).clamp_min(0.0)
    return torch.stack([low - beyond[0], high + beyond[1]], 1)


def confirmed(estimate: Estimate, pair: ScorePair, needed: Tensor) -> Estimate:
    """The estimate with the range that its rows need, of kind ``estimate`` where its own would promise too much."""
    found = replace(estimate, needed=needed)
    return replace(found, kind="estimate") if pair.rounds or not bool(found.resolved.all()) else found


@torch.no_grad()
def missing_at_ends(
    baseline: Baseline, x: State, span: tuple[float, float], *, seed: int, condition: Tensor | None
) -> Tensor:
    """Nats that the formula leaves out beyond either end of a range, shape ``2 n``.

    Args:
        baseline: score and reference.
        x: rows ``n *d`` in the model's space.
        span: ``(low, high)``.
        seed: keys the signs together with each row: an antithetic pair of noise of unit size in every dimension.
        condition: leading dimension ``n`` or 1.
    """
    x = x.detach().to(baseline.pair.dtype(x))

    def evaluate(index: Tensor) -> Tensor:
        given = condition_at(condition, index)
        signs = keyed_rademacher(keyed_generators(seed, "ends", x[index]), x.shape[1:], x)
        return torch.stack([_gain(baseline, x[index], level, signs, given) for level in span])

    rows = max(1, min(CHUNK, CHUNK_ELEMENTS // x[0].numel()))
    return by_blocks(evaluate, len(x), rows, x.device)


def _gain(baseline: Baseline, x: State, level: float, signs: State, condition: Tensor | None) -> Nats:
    """Half of the baseline's minus the score's squared error at one level, the mean over noise of both signs."""
    levels = torch.full((len(x),), level, dtype=torch.float64, device=x.device)
    given = conditions_for(condition, len(x))
    first, second = (baseline.sampled(Noised.of(levels, x, eps, given)) for eps in (signs, -signs))
    return 0.5 * (first + second)
