r"""Tuning a pair to rows that one holds: where it is evaluated, and what is subtracted, for the least variance.

Nothing that defines the model changes. Three ways of estimating the same numbers are tried, and the one whose
replicates vary least about held-out rows is kept:

- the default: levels from the reference's spectrum, and a Gaussian about each row;
- levels and the slope of the reference's control variate fitted to the rows (:func:`fit_proposal`);
- the denoiser of a Gaussian mixture fitted to the rows as control variate, with levels fitted to what it leaves.
"""

__all__ = ["tune"]

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girsanov.densities import GaussianMixture
from girsanov.densities.fitting import fit_gaussians
from girsanov.inputs import checked
from girsanov.likelihoods.bounds import elbo
from girsanov.likelihoods.estimator import RandomisedRows
from girsanov.likelihoods.proposals import fit_proposal
from girsanov.pairs import ScorePair
from girsanov.randomness import seed_of
from girsanov.rows import condition_at
from girsanov.types import InputError, State

FEWEST_ROWS = 20
HELD_OUT, COMPARED = 0.25, 100  # share of the rows on which ways are compared, and at most so many
SAMPLES = 32
COMPONENTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)
KINDS = ("spherical", "diag", "full")
FULL_DIMENSIONS = 128  # above, covariances are diagonal
PATIENCE = 3  # numbers of components without improvement before the search ends
ITERATIONS = 100
RIDGE = 1e-3  # of a column's variance
BROAD_SHARE, BROAD_SCALE = 1e-3, 10.0  # of a component whose denoiser stays small far from all rows


@checked
@torch.no_grad()
def tune(
    pair: ScorePair,
    rows: State | RandomisedRows,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ScorePair:
    """The same model, whose bounds and densities vary less: fitted to rows that will not be evaluated with it.

    Costs some 200 network evaluations a row. What is fitted is told by the result's ``proposal``, and its ``control``.

    Args:
        pair: the model, with its prior.
        rows: of the kind that will be evaluated, ``n *d``, or a fitted model's, ``model.encode(x)``; some hundred
            suffice.
        condition: see :func:`girsanov.elbo`.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        The pair with another proposal, or with none where the default is best.

    Raises:
        InputError: for fewer than twenty rows, or a pair without prior and reference.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> law = GaussianMixture(torch.ones(2), torch.tensor([[-2.0] * 8, [2.0] * 8]), 0.1 * torch.ones(2, 8))
        >>> score = law.score(VariancePreserving())
        >>> pair = ScorePair(lambda t, x: score(t, x), VariancePreserving())
        >>> x = law.sample(300)
        >>> tuned = tune(pair, x[:200])
        >>> before, after = elbo(pair, x[200:]), elbo(tuned, x[200:])
        >>> bool(before.stderr.square().mean() > 10 * after.stderr.square().mean())
        True
        >>> bool((after.value - law.log_prob(x[200:])).mean().abs() < 0.05)
        True
    """
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"A pair is tuned to {FEWEST_ROWS} rows or more; got {len(rows)}: give more rows")
    seed, plain = seed_of(generator), pair.replace(proposal=None)
    rows = RandomisedRows.of(rows).view(1, seed).x[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    held = max(2, min(COMPARED, round(HELD_OUT * len(rows))))
    test, train = order[:held], order[held:]
    given, source = condition_at(condition, train), torch.Generator().manual_seed(seed)
    proposal = fit_proposal(plain, rows[train], condition=given, generator=source)
    candidates = [plain, plain.replace(proposal=proposal)]
    law = _law(rows[train], seed)
    if law is not None:
        start = plain.replace(proposal=replace(proposal, slope=None, control=law.to(rows.device)))
        left = fit_proposal(start, rows[train], condition=given, generator=source)
        candidates.append(plain.replace(proposal=replace(left, slope=None, control=law)))
    variances = [_variance(each, rows[test], condition_at(condition, test), seed) for each in candidates]
    return candidates[int(np.argmin(variances))]


def _variance(pair: ScorePair, rows: State, condition: Tensor | None, seed: int) -> float:
    """Mean variance of the bounds of rows."""
    estimate = elbo(pair, rows, samples=SAMPLES, condition=condition, generator=torch.Generator().manual_seed(seed))
    return float(estimate.stderr.square().mean())


def _law(rows: State, seed: int) -> GaussianMixture | None:
    """A mixture near the law of the rows, with a broad component; ``None`` where not a single one can be fitted."""
    flat = rows.double().flatten(1).cpu().numpy()
    centre, scale = flat.mean(0), flat.std(0)
    scale[scale == 0.0] = 1.0
    unit = (flat - centre) / scale
    found = _best(unit, seed)
    if found is None:
        return None
    size = torch.from_numpy(scale)
    weights, means, spread = (torch.from_numpy(found[name]) for name in ("weights", "means", "covariances"))
    weights = torch.cat([(1.0 - BROAD_SHARE) * weights, weights.new_tensor([BROAD_SHARE])])
    means = torch.from_numpy(centre) + size * torch.cat([means, means.new_zeros(1, len(size))])
    if spread.ndim == 3:
        spread = (
            size[:, None] * torch.cat([spread, BROAD_SCALE**2 * torch.eye(len(size), dtype=size.dtype)[None]]) * size
        )
    else:
        spread = size.square() * torch.cat([spread, BROAD_SCALE**2 * torch.ones_like(means[:1])])
    means = means.reshape(-1, *rows.shape[1:])
    return GaussianMixture(weights, means, spread if spread.ndim == 3 else spread.reshape(means.shape))


def _best(unit: np.ndarray, seed: int) -> dict[str, np.ndarray] | None:
    """The kind and number of components that do best on a quarter of the rows, fitted to all of them."""
    cut, d = len(unit) - max(2, len(unit) // 4), unit.shape[1]
    options: dict[str, Any] = {"seed": seed % 2**32, "iterations": ITERATIONS}
    best: tuple[float, int, str] | None = None
    for kind in KINDS if d <= FULL_DIMENSIONS else KINDS[:2]:
        stale, top = 0, -np.inf
        for count in COMPONENTS:
            if count > cut // 2 or stale >= PATIENCE:
                break
            fit = fit_gaussians(unit[:cut], count, RIDGE, kind=kind, **options)
            value = -np.inf if fit is None else float(fit.score(unit[cut:]))
            stale, top = (0 if value > top else stale + 1), max(top, value)
            if best is None or value > best[0]:
                best = value, count, kind
    if best is None or (fit := fit_gaussians(unit, best[1], RIDGE, kind=best[2], **options)) is None:
        return None
    covariances = fit.covariances_ if fit.covariances_.ndim > 1 else np.repeat(fit.covariances_[:, None], d, 1)
    return {"weights": fit.weights_, "means": fit.means_, "covariances": covariances}
