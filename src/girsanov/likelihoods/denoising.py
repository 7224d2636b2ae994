r"""Squared errors of noise predictions, row by row: what every bound of a diffusion model is an integral of.

At log-SNR l and for a row x, :math:`\mathrm{mse}(l; x) = E\|\varepsilon - \hat\varepsilon\|^2`, summed over the d
dimensions, with the mean over the noise alone. Two ways of taking that mean:

- :class:`MonteCarlo`, independent replicates of one draw per level, where neighbouring levels take antithetic noise;
- :class:`Quadrature`, the trapezoid rule on a product grid, spectrally accurate for smooth densities in d <= 2.

Integrated by the trapezoid rule in l as well, the density formula (note of paper 2, section 2.4) then is exact to
rounding: the oracle of every other estimator of it.
"""

__all__ = ["IntegrationRule", "MonteCarlo", "Quadrature", "density_by_quadrature", "squared_errors"]

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from girsanov.calculus import Noised, gain, sum_event
from girsanov.inputs import checked
from girsanov.likelihoods.common_noise import antithetic, deviations
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_normal, seed_of
from girsanov.rows import by_blocks, conditions_for
from girsanov.types import Estimate, InputError, Nats, State, require_counts

CHUNK = 2048  # evaluations per call, fixed so that results do not depend on the number of rows
MARGIN = 10.0  # log-SNR beyond a score's range that quadrature still visits: the integrand decays like e^-|l|


@runtime_checkable
class IntegrationRule(Protocol):
    """How the mean over the noise is taken: draws for one row, and their weights."""

    @property
    def replicates(self) -> int:
        """Number of independent replicates."""
        ...

    def draw(self, x: State, levels: int, seed: int) -> tuple[Tensor, Tensor]:
        """Noise ``r k m *d`` for the one row ``x`` ``1 *d`` at k levels, and weights ``m`` that sum to one."""
        ...


@final
@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo: ``replicates`` independent draws per level, keyed by the content of the row.

    Args:
        replicates: two or more give a standard error.
    """

    replicates: int = 4

    def __post_init__(self) -> None:
        require_counts(self, "replicates")

    def draw(self, x: State, levels: int, seed: int) -> tuple[Tensor, Tensor]:
        """See :class:`IntegrationRule`."""
        generators = keyed_generators(seed, "denoising", x)
        half = keyed_normal(generators, (self.replicates, (levels + 1) // 2, *x.shape[1:]), x)[0]
        return antithetic(half, levels)[:, :, None], x.new_ones(1)


@final
@dataclass(frozen=True)
class Quadrature:
    """The trapezoid rule in every dimension, for closed-form scores in one or two dimensions.

    Args:
        spacing: distance of neighbouring nodes, in standard deviations of the noise.
        reach: largest node.
    """

    spacing: float = 0.05
    reach: float = 8.5
    replicates: int = 1

    def draw(self, x: State, levels: int, seed: int) -> tuple[Tensor, Tensor]:
        """See :class:`IntegrationRule`."""
        del seed
        d = x[0].numel()
        if d > 2:
            raise InputError(f"Quadrature serves at most 2 dimensions; these rows have {d}: use MonteCarlo")
        count = round(self.reach / self.spacing)
        nodes = self.spacing * torch.arange(-count, count + 1, dtype=x.dtype, device=x.device)
        grid = torch.cartesian_prod(*[nodes] * d).reshape(-1, d)
        weights = torch.exp(-0.5 * grid.square().sum(1))
        eps = grid.reshape(-1, *x.shape[1:])
        return eps.expand(1, levels, *eps.shape), weights / weights.sum()


@checked
@torch.no_grad()
def squared_errors(
    pair: ScorePair,
    x: State,
    levels: Tensor,
    *,
    noise: IntegrationRule | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared errors of the noise prediction, shape ``r k n``: replicate, level, row; float64.

    Args:
        pair: the model; of its process only the log-SNR matters, and the squared error of its reference under the same
            noise is the control variate.
        x: rows ``n *d``.
        levels: log-SNR, shape ``k``.
        noise: how the mean over the noise is taken; default ``MonteCarlo()``.
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for rows with missing values, a condition of another length, or quadrature in d > 2.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> from girsanov.densities import Gaussian
        >>> pair = ScorePair(Gaussian(torch.zeros(1).double(), 1.0).score(VariancePreserving()))
        >>> levels = torch.tensor([-2.0, 2.0], dtype=torch.float64)
        >>> squared_errors(pair, torch.ones(1, 1).double(), levels, noise=Quadrature()).flatten()
        tensor([0.1192, 0.8808], dtype=torch.float64)
    """
    noise, seed = noise or MonteCarlo(), seed_of(generator)
    levels, rows = levels.double().to(x.device), x.to(pair.dtype(x))
    known = torch.zeros(len(levels), len(rows), dtype=torch.float64, device=x.device)
    if pair.reference is not None:
        known = torch.stack([pair.reference.squared_error(rows, float(level)) for level in levels])
    columns = []
    for i in range(len(rows)):
        eps, weights = noise.draw(rows[i : i + 1], len(levels), seed)
        given = None if condition is None else condition[min(i, len(condition) - 1)][None]
        flat = eps.flatten(0, 2)
        count = len(flat) // (noise.replicates * len(levels))
        repeated = levels.repeat_interleave(count).repeat(noise.replicates)
        error = _errors(pair, rows[i : i + 1], repeated, flat, given)
        columns.append(error.reshape(noise.replicates, len(levels), count) @ weights.double())
    return torch.stack(columns, 2) + known


def _errors(pair: ScorePair, x: State, levels: Tensor, eps: State, condition: Tensor | None) -> Tensor:
    """Squared errors of one row ``1 *d`` at levels ``m`` and noise ``m *d``, less the reference's, in blocks."""

    def evaluate(index: Tensor) -> Tensor:
        at = Noised.of(levels[index], x, eps[index])
        error, delta = deviations(pair, at, conditions_for(condition, len(index)))
        return sum_event((error - delta).square()) if pair.reference is None else -2.0 * gain(error, delta)

    return by_blocks(evaluate, len(eps), min(CHUNK, len(eps)), eps.device)


def density_by_quadrature(
    pair: ScorePair,
    x: State,
    *,
    spacing: float = 0.1,
    noise: Quadrature | None = None,
) -> Estimate:
    r"""The density formula without randomness, for exact scores in d <= 2.

    .. math::
        \log q_0(x) = \log \mathcal{N}(x; m, S) + \tfrac12 \int (\mathrm{mse}_G - \mathrm{mse})\, dl .

    Args:
        pair: of an exact score, known beyond its range too; its reference is the Gaussian N(m, S), whose ``mse_G`` is
            closed form.
        x: rows ``n *d``, float64.
        spacing: distance of neighbouring levels.
        noise: the grid over the noise.

    Returns:
        Estimate of kind ``exact`` (to the accuracy of the quadrature), model ``density``.

    Example:
        >>> from girsanov.densities import GaussianMixture
        >>> from girsanov.processes import VariancePreserving
        >>> law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [1.5]]), torch.ones(2, 1))
        >>> x, process = torch.zeros(1, 1, dtype=torch.float64), VariancePreserving()
        >>> estimate = density_by_quadrature(ScorePair(law.score(process)), x)
        >>> bool((estimate.value - law.log_prob(x)).abs() < 1e-8)
        True
    """
    noise = noise or Quadrature()
    low, high = pair.known_range
    low, high = low - MARGIN, high + MARGIN
    levels = torch.linspace(low, high, round((high - low) / spacing) + 1, dtype=torch.float64)
    law = pair.reference
    if law is None:
        raise InputError("The formula is about a Gaussian: give the pair a reference")
    errors = squared_errors(pair, x, levels, noise=noise)[0]
    gaussian = torch.stack([law.squared_error(x, float(level)) for level in levels])
    base = law.log_prob(x)
    rise: Nats = 0.5 * torch.trapezoid(gaussian - errors, levels, dim=0)
    weights = noise.draw(x[:1], 1, 0)[1]
    return Estimate(
        base + rise,
        torch.zeros_like(base),
        kind="exact",
        model="density",
        nfe=len(levels) * len(weights),
        event_dim=x[0].numel(),
        log_snr_range=(low, high),
        terms={"reference": base, "diffusion": rise},
    )
