r"""Annealed importance sampling of a normalising constant.

Particles start from a Gaussian and move through densities :math:`f_\beta = r^{1-\beta} e^{-\beta E}`, by Hamiltonian
moves that leave each invariant; the weights :math:`w = \prod_k f_{\beta_k}(x_k) / f_{\beta_{k-1}}(x_k)` have mean
:math:`Z = \int e^{-E}` whatever the moves (Neal 2001). Step sizes are chosen by a pilot run with particles of its
own, so that the estimate of Z is unbiased; that of log Z is not, and its bias is removed to first order by the
jackknife.
"""

__all__ = ["Annealing", "LogNormaliser", "log_normaliser"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.calculus import sum_event, where_rows
from girsanov.densities import Gaussian
from girsanov.display import Shown, Summary
from girsanov.randomness import seed_of
from girsanov.types import InputError, State, require_counts, with_errors

TARGET = 0.75  # acceptance rate
GROUPS = 16  # jackknife groups
LOG_2PI = math.log(2.0 * math.pi)


@final
@dataclass(frozen=True)
class Annealing:
    """How long and how widely to anneal.

    Attributes:
        particles: independent particles; a multiple of 16.
        levels: densities between the Gaussian and the model.
        leapfrogs: leapfrog steps of each move; one move per level.
    """

    particles: int = 512
    levels: int = 200
    leapfrogs: int = 4

    def __post_init__(self) -> None:
        require_counts(self, "particles", "levels", "leapfrogs")
        if self.particles % GROUPS:
            raise InputError(f"Annealing needs a multiple of {GROUPS} particles; got {self.particles}")


@final
@dataclass(frozen=True, repr=False)
class LogNormaliser(Shown):
    """An estimate of log Z in nats.

    Attributes:
        value: jackknifed.
        stderr: its standard error; believe it only while ``effective_particles`` is a good share of the particles.
        replicates: the jackknife's pseudo-values, whose mean is ``value``, shape ``16``.
        effective_particles: (sum w)^2 / sum w^2.
        acceptance: mean acceptance rate of the moves.
        evaluations: energies and gradients evaluated, pilot included, per particle.
    """

    value: float
    stderr: float
    replicates: Tensor
    effective_particles: float
    acceptance: float
    evaluations: int

    def _summary(self) -> Summary:
        facts = {
            "particles": f"worth {self.effective_particles:.3g} independent ones",
            "moves": f"{self.acceptance:.0%} accepted",
            "evaluations": f"{self.evaluations:,} per particle",
        }
        return Summary(f"log Z = {with_errors(self.value, {'': self.stderr})} nats", facts)


def log_normaliser(
    energy: Callable[[State], Tensor],
    reference: Gaussian,
    *,
    annealing: Annealing = Annealing(),
    generator: torch.Generator | None = None,
) -> LogNormaliser:
    """Estimate log of the integral of exp(-energy).

    Args:
        energy: rows ``n *d`` to ``n``, differentiable; exp(-energy) must be integrable.
        reference: where to start: about the model's mean and covariance, rather too wide than too narrow.
        annealing: effort.
        generator: decides all draws; ``None`` means seed 0.

    Raises:
        InputError: if the energy is not finite where the particles go.

    Example:
        >>> found = log_normaliser(lambda x: 2.0 * x.square().sum(1), Gaussian(torch.zeros(2), 1.0))
        >>> abs(found.value - math.log(math.pi / 2.0)) < 4.0 * found.stderr + 1e-3
        True
    """
    source = torch.Generator().manual_seed(seed_of(generator))
    path = _Path(energy, reference, annealing, source)
    sizes, _, _ = path.run(max(GROUPS, annealing.particles // 4), None)
    _, log_weights, acceptance = path.run(annealing.particles, sizes)
    pooled = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
    groups = log_weights.reshape(GROUPS, -1)
    rest = torch.stack([torch.logsumexp(groups[torch.arange(GROUPS) != g].flatten(), 0) for g in range(GROUPS)])
    without = rest - math.log(len(log_weights) - groups.shape[1])
    replicates = GROUPS * pooled - (GROUPS - 1) * without
    effective = (2.0 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2.0 * log_weights, 0)).exp()
    evaluations = 2 * (1 + annealing.levels * annealing.leapfrogs)
    stderr = float(replicates.std()) / math.sqrt(GROUPS)
    return LogNormaliser(float(replicates.mean()), stderr, replicates, float(effective), acceptance, evaluations)


class _Path:
    """Annealing in the reference's own coordinates, where it is N(0, I)."""

    def __init__(
        self, energy: Callable[[State], Tensor], reference: Gaussian, annealing: Annealing, source: torch.Generator
    ) -> None:
        self.energy, self.reference, self.annealing, self.source = energy, reference, annealing, source
        self.log_volume = 0.5 * float(reference.spectrum().log().sum())

    def run(self, particles: int, sizes: list[float] | None) -> tuple[list[float], Tensor, float]:
        """Step sizes of every level (chosen on the way where not given), log-weights ``particles``, acceptance."""
        z = self._normal(particles)
        betas = torch.linspace(0.0, 1.0, self.annealing.levels + 1, dtype=torch.float64) ** 2  # finer near the start
        log_weights, size, chosen, accepted = z.new_zeros(particles), 0.5, [], 0.0
        gap, gradient = self._gap(z)
        for k in range(self.annealing.levels):
            beta, after = float(betas[k]), float(betas[k + 1])
            log_weights += (after - beta) * gap
            size = size if sizes is None else sizes[k]
            chosen.append(size)
            z, gap, gradient, rate = self._move(z, gap, gradient, after, size)
            accepted += rate / self.annealing.levels
            size *= math.exp(0.5 * (rate - TARGET))
        return chosen, log_weights, accepted

    def _gap(self, z: State) -> tuple[Tensor, State]:
        """Log of model over reference, unnormalised model, at z; and its gradient."""
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            x = self.reference.mean + self.reference.spectral(point, torch.sqrt)
            d = z[0].numel()
            values = -self.energy(x).double() + self.log_volume + 0.5 * (sum_event(point.square()) + d * LOG_2PI)
            (gradient,) = torch.autograd.grad(values.sum(), point)
        if not bool(values.isfinite().all() and gradient.isfinite().all()):
            raise InputError("The energy is not finite at annealed particles: is exp(-energy) integrable?")
        return values.detach(), gradient

    def _move(
        self, z: State, gap: Tensor, gradient: State, beta: float, size: float
    ) -> tuple[State, Tensor, State, float]:
        """One Hamiltonian move that leaves N(0, I) exp(beta gap) invariant; the acceptance rate last."""
        velocity = self._normal(len(z))
        before = beta * gap - 0.5 * sum_event(z.square()) - 0.5 * sum_event(velocity.square())
        point, slope, value = z, beta * gradient - z, gap
        new_gradient = gradient
        for _ in range(self.annealing.leapfrogs):
            velocity = velocity + 0.5 * size * slope
            point = point + size * velocity
            value, new_gradient = self._gap(point)
            slope = beta * new_gradient - point
            velocity = velocity + 0.5 * size * slope
        after = beta * value - 0.5 * sum_event(point.square()) - 0.5 * sum_event(velocity.square())
        chance = (after - before).clamp_max(0.0).exp()
        uniform = torch.rand(len(z), dtype=torch.float64, generator=self.source).to(z.device)
        take = uniform < chance
        kept = where_rows(take, point, z), torch.where(take, value, gap), where_rows(take, new_gradient, gradient)
        return *kept, float(chance.mean())

    def _normal(self, particles: int) -> State:
        draws = torch.randn(particles, *self.reference.event_shape, dtype=torch.float64, generator=self.source)
        return draws.to(self.reference.mean.device)
