r"""A learned bridge as a flow, and how far its two halves are from reversing each other.

If v reverses u, their mean is the velocity of an ordinary differential equation with the bridge's marginals, and

.. math::
    \log p_0(x) = \log p_T(x_T) + \int_0^T \mathrm{div}\, \tfrac12 (u + v)(t, x_t)\, dt

on *its own* path (on a stochastic one the same integral is no bound and may fall below the entropy: note of paper 3,
section 5). Along encoder paths from x the log-weight is then constant, so half of its variance, the gap of the bound to
second order, tells how much the two learned halves disagree (test T10 there).
"""

__all__ = ["flow_log_prob"]

from functools import partial

import torch
from torch import Tensor

from girsanov.bridges.halves import DIRECTIONS
from girsanov.bridges.sections import Sections
from girsanov.calculus import Exact
from girsanov.densities import Density
from girsanov.randomness import normal_blocks
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.solvers.ode import Adaptive
from girsanov.types import Estimate, InputError, Nats, State, Time

TOLERANCE = 1e-4
PATHS = 16
CHUNK = 64  # rows solved together, fixed so that results do not depend on their number


def flow_log_prob(
    bridge: Sections, x: State, end: Density, *, tolerance: float, condition: Tensor | None, seed: int
) -> Estimate:
    """See :meth:`girsanov.bridges.SchrodingerBridge.log_prob`."""
    gap = inconsistency(bridge, x, end, condition, seed)
    mean, d = float(gap.mean()), x[0].numel()
    if not mean <= tolerance * d:
        raise InputError(
            f"The two halves of this bridge disagree by {mean / d:.3g} nats per dimension, above the tolerance of "
            f"{tolerance:g}: train longer or with more steps, use elbo if it has a prior, or raise tolerance="
        )
    values, evaluations = _integrate(bridge, x, end, condition)
    return Estimate(
        values, torch.zeros_like(values), kind="estimate", model="ode", nfe=evaluations, event_dim=d,
        terms={"inconsistency": gap},
    )  # fmt: skip


@torch.no_grad()
def inconsistency(
    bridge: Sections, x: State, end: Density, condition: Tensor | None, seed: int, paths: int = PATHS
) -> Nats:
    """Half the variance of the log-weight over paths from each row, nats, shape ``n``."""
    total, state = 0.0, x.repeat_interleave(paths, 0)
    given = conditions_for(condition, len(x), paths)
    noise = normal_blocks(state, torch.Generator().manual_seed(seed))
    for i in range(len(bridge)):
        weighed = bridge[i].weigh(state, noise, condition=given)
        total, state = total + weighed.steps, weighed.end
    return 0.5 * (total + end.log_prob(state)).reshape(len(x), paths).var(1)


def _integrate(bridge: Sections, x: State, end: Density, condition: Tensor | None) -> tuple[Nats, int]:
    """Log-densities and evaluations: each section by itself, since drifts jump from one to the next."""

    def evaluate(index: Tensor) -> dict[str, Tensor]:
        state, given = x[index].double(), condition_at(condition, index)
        total = cost = state.new_zeros(len(state))
        for i in range(len(bridge)):
            grid = torch.tensor(bridge.times[i : i + 2], dtype=torch.float64, device=x.device)
            solution = Adaptive(rtol=TOLERANCE, atol=TOLERANCE).solve(partial(_velocity, bridge, i, given), state, grid)
            state, total = solution.state, total + solution.integrals[0]
            cost = cost + solution.evaluations.max()
        return {"value": end.log_prob(state) + total, "cost": cost}

    found = by_blocks(evaluate, len(x), CHUNK, x.device)
    return found["value"], 2 * int(found["cost"].max())


def _velocity(
    bridge: Sections, i: int, condition: Tensor | None, t: Time, x: State, index: Tensor
) -> tuple[State, Tensor]:
    """Half of the sum of both drifts in one section, and its divergence: what a solver integrates."""
    given = condition_at(condition, index)

    def at(point: State) -> State:
        y, times = point.to(torch.get_default_dtype()), t.expand(len(point))
        u, v = (bridge.section_drift(i, times, y, given, way) for way in DIRECTIONS)
        return (0.5 * (u + v)).to(point.dtype)

    return Exact()(at, x, None)
