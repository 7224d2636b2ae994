r"""Short samplers with true bounds: levels and covariances of N steps, chosen by their own bound on rows.

The bound of a chain of noise levels is a sum over its steps, so that the best levels are a shortest path. With C the
covariance of the denoised point's error at level l, c its variances and h those of held-out rows in its axes, a step
from l to l' costs

.. math::
    \tfrac12 \sum_i \Big[ \log(1 + \kappa c_i) + \frac{\kappa (h_i - c_i)}{1 + \kappa c_i} \Big],
    \qquad \kappa = e^{l'} - e^{l},

the last step to the data :math:`\tfrac12 \sum_i [\log 2 \pi c_i + h_i / c_i]`, and the beginning the divergence of the
noised row from the prior. All of that is known from one evaluation of each row at each level of a grid, for any number
of steps (Watson et al. 2021, arXiv 2106.03802, for DDPM's variances).
"""

__all__ = ["short_chain"]

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from girsanov.calculus import noised
from girsanov.densities import Gaussian
from girsanov.inputs import checked
from girsanov.likelihoods.estimator import RandomisedRows
from girsanov.pairs import ScorePair, ShortChain
from girsanov.randomness import normal_blocks, seed_of
from girsanov.rows import by_blocks, condition_at, conditions_for
from girsanov.types import InputError, State, require_count

FEWEST_ROWS = 20
HELD_OUT = 3  # of so many rows one is held out, to choose levels and kinds of covariance by
GRID = 64  # levels that are tried
FULL_DIMENSIONS = 512  # above, covariances are of low rank
RANK = 32
CHUNK_ELEMENTS = 2**21
NARROWEST = 1e-2  # least variance of an error, in units of the noise at the range's data end
TINY = torch.finfo(torch.float64).tiny


@checked
@torch.no_grad()
def short_chain(
    pair: ScorePair,
    steps: int,
    rows: State | RandomisedRows,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ShortChain:
    """The sampler of a score in a given number of network evaluations, with the best bound on rows.

    Draw from it with ``chain.sample(n)``, or keep the steps with ``chain.sample_path(n)``; :func:`girsanov.chain_elbo`
    is its bound and :func:`girsanov.chain_bracket` has its log-density between two: of the draws themselves, at every
    number of steps. Costs 64 network evaluations a row. The rows are not to be those that are judged by it.

    Args:
        pair: the model.
        steps: network evaluations of a draw.
        rows: ``n *d``, or a fitted model's, ``model.encode(x)``; twenty or more. Some hundred, and more than
            dimensions, let covariances be full.
        condition: of the rows, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for fewer than twenty rows.

    Example:
        >>> import girsanov as gv
        >>> process, law = gv.VariancePreserving(), Gaussian(torch.ones(2), torch.tensor([0.01, 2.0]))
        >>> chain = short_chain(gv.ScorePair(law.score(process)), 2, law.sample(500))
        >>> x = law.sample(200, generator=torch.Generator().manual_seed(1))
        >>> bound = gv.chain_elbo(chain, x)
        >>> bool((law.log_prob(x) - bound.value).mean().abs() < 0.05), chain.length  # Gaussian data: exact, but for C
        (True, 2)
    """
    require_count("steps", steps)
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"A short chain is fitted to {FEWEST_ROWS} rows or more; got {len(rows)}")
    seed = seed_of(generator)
    rows = RandomisedRows.of(rows).view(1, seed).x[:, 0]
    rows = rows.to(pair.dtype(rows))
    # the same noise at every level: what differs between paths is levels, not luck
    eps = normal_blocks(rows, torch.Generator().manual_seed(seed))(1)[0]
    errors = partial(_errors, pair, rows, conditions_for(condition, len(rows)), eps)
    grid, held = torch.linspace(*pair.log_snr_range, max(GRID, 2 * steps), dtype=torch.float64), _held(len(rows))
    spectra = [_spectra(pair, errors(level), held) for level in grid]
    prior = pair.reference or _fitted(rows)
    costs = [_cheapest(spectrum, grid[g + 1 :].exp() - grid[g].exp()) for g, spectrum in enumerate(spectra)]
    path = _shortest(_prior_costs(prior, rows[held], grid), [cost for cost, _ in costs], steps)
    laws = []
    for g, following in zip(path, [*path[1:], len(grid)], strict=True):
        kind = costs[g][1][following - g - 1]
        laws.append(_without_mean(KINDS[kind](pair, errors(grid[g])), pair))
    return ShortChain(pair, grid[path].flip(0), laws[::-1], prior)


def _held(n: int) -> Tensor:
    """Which rows choose levels and kinds of covariance."""
    return torch.arange(n) % HELD_OUT == 0


def _errors(pair: ScorePair, rows: State, condition: Tensor | None, eps: State, level: Tensor) -> State:
    """Rows less their denoised points at one level, ``n *d``."""

    def evaluate(index: Tensor) -> Tensor:
        levels, noise = level.expand(len(index)), eps[index]
        z = noised(levels, rows[index], noise)
        found = pair.noise(levels.to(rows.device), z, condition_at(condition, index))
        return torch.exp(-0.5 * level).to(found.dtype) * (found - noise)

    size = max(1, CHUNK_ELEMENTS // rows[0].numel())
    return by_blocks(evaluate, len(rows), min(size, len(rows)), rows.device, dim=0).double()


def _fitted(errors: State) -> Gaussian:
    """The covariance of rows: all of it, or of high dimension the directions that matter."""
    return Gaussian.fit(errors, rank=None if errors[0].numel() <= FULL_DIMENSIONS else RANK, floor=1e-12)


def _in_axes(pair: ScorePair, errors: State) -> Gaussian | None:
    """Variances in the axes of the pair's reference, where it has d of them."""
    law = pair.reference
    if law is None or law.basis is None or law.basis.shape[1] < errors[0].numel():
        return None
    variances = (errors.flatten(1) @ law.basis).square().mean(0)
    return Gaussian.from_spectrum(torch.zeros(errors.shape[1:]), law.basis, variances.clamp_min(TINY))


#: kinds of covariance by name: a Gaussian of errors ``n *d``, or None where a pair has none
KINDS: dict[str, Callable[[ScorePair, State], Gaussian | None]] = {
    "isotropic": lambda pair, errors: Gaussian(torch.zeros(errors.shape[1:]), errors.square().mean().clamp_min(TINY)),
    "diagonal": lambda pair, errors: Gaussian(torch.zeros(errors.shape[1:]), errors.square().mean(0).clamp_min(TINY)),
    "axes of the reference": _in_axes,
    "full": lambda pair, errors: _fitted(errors),
}


def _spectra(pair: ScorePair, errors: State, held: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By kind: variances of fits to some rows, and those of the held-out rows in the same axes, ``d`` each."""
    found, rest = {}, errors[held].flatten(1)
    for name, fit in KINDS.items():
        law = fit(pair, errors[~held])
        if law is not None:
            found[name] = _floored(law.spectrum(), pair), _along(law, rest)
    return found


def _along(law: Gaussian, rows: Tensor) -> Tensor:
    """Mean squares of rows ``n d`` in the axes of a Gaussian, in the order of its spectrum, ``d``."""
    if law.basis is None:
        return rows.square().mean(0)
    inside = (rows @ law.basis).square().mean(0)
    others = rows.shape[1] - len(inside)
    rest = (rows.square().mean(0).sum() - inside.sum()) / max(others, 1)
    return torch.cat([inside, rest.expand(others)])


def _cheapest(spectra: dict[str, tuple[Tensor, Tensor]], kappa: Tensor) -> tuple[Tensor, list[str]]:
    """Of steps with gains ``k`` in precision, and of one to the data: least costs ``k + 1``, and their kinds."""
    each = []
    for c, h in spectra.values():
        spread = kappa[:, None] * c
        step = torch.log1p(spread) + kappa[:, None] * (h - c) / (1.0 + spread)
        data = (2.0 * math.pi * c).log() + h / c
        each.append(0.5 * torch.cat([step, data[None]]).sum(1))
    least = torch.stack(each).min(0)
    names = list(spectra)
    return least.values, [names[index] for index in least.indices]


def _prior_costs(prior: Gaussian, rows: State, grid: Tensor) -> Tensor:
    """Divergence of noised rows from the noised prior at every level, mean over rows, ``g``."""
    c, h = prior.spectrum(), _along(prior, (rows.double() - prior.mean).flatten(1))
    v = torch.exp(-grid)[:, None]
    return 0.5 * (torch.log1p(c / v) + (h - c) / (c + v)).sum(1)


def _shortest(begin: Tensor, costs: list[Tensor], steps: int) -> list[int]:
    """Levels, from noise to data, of the cheapest path with so many.

    Args:
        begin: cost of the prior at each level, ``g``.
        costs: of each level, those of steps to each following level and last to the data.
        steps: number of levels on the path.
    """
    count = len(begin)
    step = begin.new_full((count, count), math.inf)
    for g, cost in enumerate(costs):
        step[g, g + 1 :] = cost[:-1]
    reached, came = begin, []
    for _ in range(steps - 1):
        least = (reached[:, None] + step).min(0)
        came.append(least.indices)
        reached = least.values
    path = [int((reached + torch.stack([cost[-1] for cost in costs])).argmin())]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    return path[::-1]


def _floored(variances: Tensor, pair: ScorePair) -> Tensor:
    """No error is told to be smaller than a share of the noise at the data end: atoms have no density."""
    return variances.clamp_min(NARROWEST * math.exp(-pair.log_snr_range[1]))


def _without_mean(law: Gaussian | None, pair: ScorePair) -> Gaussian:
    """The covariance alone."""
    assert law is not None
    values, rest = _floored(law.eigenvalues, pair), _floored(law.remainder, pair)
    return Gaussian.from_spectrum(torch.zeros_like(law.mean), law.basis, values, rest)
