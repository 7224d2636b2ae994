r"""What a half of a bridge minimises, given paths that the other half has made.

*Matching* needs only the ends of those paths. Every iterate of the alternating projections has the reference's own
bridges, so a state between two ends is a draw of the pinned reference, and the pull is the mean of the one to the end:

.. math::
    p(t, x) = E\Big[ \rho \frac{X_T - \rho X_t}{V} \,\Big|\, X_t = x \Big], \qquad
    \hat p(t, x) = E\Big[ \frac{\alpha_t X_0 - X_t}{\alpha_t^2 \tau_t} \,\Big|\, X_t = x \Big],

denoising score matching backwards. Times have the density that makes the squared error, in units of the half's scale k,
the drift's share of the path KL.

*Trajectory likelihood* is the projection of a chain: the negative log-density of the steps of simulated paths, taken in
the other direction; no closed bridge is needed, and step variances are learned with the drift (note of paper 3, section
2.9 A: Chen, Liu and Theodorou's alternating losses without their divergence).
"""

__all__ = ["MatchingObjective", "Paths", "TrajectoryObjective"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from girsanov.bridges.chain import BridgeChain
from girsanov.bridges.ends import Pairs
from girsanov.bridges.halves import Half
from girsanov.calculus import sum_event
from girsanov.objectives.times import low_discrepancy
from girsanov.pairs import Direction
from girsanov.randomness import normal_like
from girsanov.types import State

NODES = 513  # of the table of the law of times


@final
class MatchingObjective:
    """Squared error of a half's pull against that of the pinned reference, ``loss(half, pairs, generator, step) -> b``.

    Args:
        half: whose law of times is taken; it, or a copy of it, is what is trained.
    """

    def __init__(self, half: Half) -> None:
        horizon = half.clock.horizon
        self.times = horizon * torch.linspace(0.0, 1.0, NODES, dtype=torch.float64)
        remaining, variance = half.remaining(self.times), float(half.variance().mean())
        density = variance / ((remaining + half.softening()) * (remaining + variance))
        shares = 0.5 * (density[1:] + density[:-1]) * remaining.diff().abs()
        shares = shares + 0.05 * shares.sum() / len(shares)  # no time is forgotten
        self.cumulative = torch.cat([shares.new_zeros(1), shares.cumsum(0) / shares.sum()])

    def __call__(self, half: nn.Module, pairs: Pairs, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every pair, shape ``b``."""
        assert isinstance(half, Half)
        positions = low_discrepancy(len(pairs), generator)
        eps = normal_like(pairs.start, generator)
        return self.errors(half, pairs, positions, eps)

    def errors(self, half: Half, pairs: Pairs, positions: Tensor, eps: State) -> Tensor:
        """Loss at cumulative ``positions`` in [0, 1) of the law of times and given noise, shape ``b``."""
        t = self.quantile(positions)
        x = half.clock.pinned(t).state(pairs.start, pairs.end, eps).to(pairs.start.dtype)
        target = self._target(half, t, x, pairs)
        scale = half.scale(t, x)
        error = (target - half.base(t, x)) / scale - half.correction(t, x, pairs.condition)
        remaining = half.remaining(t)
        weight = remaining / (remaining + half.softening())  # the variance of the target stays bounded at the end
        return weight.to(x.device) * sum_event(error.square()) / x[0].numel()

    def quantile(self, positions: Tensor) -> Tensor:
        """Times at cumulative positions, float64."""
        cell = torch.searchsorted(self.cumulative, positions, right=True).clamp(1, len(self.cumulative) - 1) - 1
        low, high = self.cumulative[cell], self.cumulative[cell + 1]
        share = (positions - low) / (high - low)
        return self.times[cell] + share * (self.times[cell + 1] - self.times[cell])

    @staticmethod
    def _target(half: Half, t: Tensor, x: State, pairs: Pairs) -> State:
        clock = half.clock
        alpha, tau = clock(t)
        wide = [-1, *(1,) * (x.ndim - 1)]
        if half.direction == "forward":
            rho, variance = clock.scale / alpha, clock.scale.square() * half.remaining(t)
            rho, variance = (v.reshape(wide).to(x.device) for v in (rho, variance.clamp_min(1e-300)))
            return (rho * (pairs.end - rho * x) / variance).to(x.dtype)
        alpha, tau = (v.reshape(wide).to(x.device) for v in (alpha, tau.clamp_min(1e-300)))
        return ((alpha * pairs.start - x) / (alpha.square() * tau)).to(x.dtype)


@dataclass(frozen=True)
class Paths:
    """Whole paths, ``N+1 n *d``, their conditions, and numbers of the rows that they begin with."""

    states: Tensor
    condition: Tensor | None = None
    row: Tensor | None = None

    def __getitem__(self, index: Tensor) -> "Paths":
        return Paths(self.states[:, index], None if self.condition is None else self.condition[index])

    def __len__(self) -> int:
        return self.states.shape[1]

    def ends(self) -> Pairs:
        """First and last state of each path."""
        return Pairs(self.states[0], self.states[-1], self.condition, self.row)


@final
class TrajectoryObjective:
    """Negative log-density per dimension of one random step of each path, times the number of steps.

    Args:
        direction: of the steps whose density is taken; the paths come from the other half.
    """

    def __init__(self, direction: Direction) -> None:
        self.direction: Direction = direction

    def __call__(self, chain: nn.Module, paths: Paths, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every path, shape ``b``: unbiased for that of all steps."""
        assert isinstance(chain, BridgeChain)
        k = (low_discrepancy(len(paths), generator) * chain.length).long().clamp_max(chain.length - 1)
        return self.errors(chain, paths, k)

    def errors(self, chain: BridgeChain, paths: Paths, k: Tensor) -> Tensor:
        """Loss at given step numbers, shape ``b``."""
        row = torch.arange(len(paths), device=paths.states.device)
        x, following = paths.states[k, row], paths.states[k + 1, row]
        if self.direction == "forward":
            log_density = chain.encode(k, x, paths.condition).log_prob(following - x)
        else:
            log_density = chain.decode(k, following, paths.condition).log_prob(x - following)
        return -chain.length * log_density / x[0].numel()
