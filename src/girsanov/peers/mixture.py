"""scikit-learn's Gaussian mixture with full covariances; components and regularisation chosen on validation rows."""

__all__ = ["fit_mixture"]

import time

import torch
from torch import Tensor

from girsanov.densities.fitting import fit_gaussians
from girsanov.peers.data import LogProb, Peer, PeerData
from girsanov.types import InputError

COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
REGULARISERS = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
PATIENCE = 3  # numbers of components without improvement before the search ends
MAX_ITERATIONS = 200


def fit_mixture(data: PeerData, seconds: float) -> Peer:
    """Fit mixtures with more and more components until the validation rows stop gaining.

    Args:
        data: the rows.
        seconds: the search stops to try more once so many have passed, or would with the next one.

    Raises:
        InputError: if not a single mixture can be fitted.
    """
    begun = time.monotonic()
    rows = data.training()
    best: tuple[float, int, int, LogProb] | None = None
    stale, each = 0, 0.0  # seconds of a component
    for components in COMPONENTS:
        if components > len(data.splits.train) // 2 or stale >= PATIENCE:
            break
        found = None
        for index in _neighbours(None if best is None else best[2]):
            tried = time.monotonic()
            if (best is not None or found is not None) and tried - begun + each * components > seconds:
                break
            fitted = _fit(rows, components, REGULARISERS[index], data.seed)
            each = (time.monotonic() - tried) / components
            if fitted is None:
                continue
            value = data.validation(fitted)
            if found is None or value > found[0]:
                found = (value, components, index, fitted)
        stale = 0 if found is not None and (best is None or found[0] > best[0]) else stale + 1
        best = found if found is not None and stale == 0 else best
    if best is None:
        raise InputError("no Gaussian mixture could be fitted to these rows: leave the peers out")
    settings = {"components": best[1], "reg_covar": REGULARISERS[best[2]]}
    return Peer("mixture", settings, best[3], best[0], time.monotonic() - begun)


def _neighbours(best: int | None) -> list[int]:
    """Regularisers to try: all at first, then those around the best so far (more components want more)."""
    if best is None:
        return list(range(len(REGULARISERS)))
    return [index for index in (best, best + 1, best - 1) if 0 <= index < len(REGULARISERS)]


def _fit(rows: Tensor, components: int, regulariser: float, seed: int) -> LogProb | None:
    """Log-density of one mixture, or ``None`` where a covariance collapses."""
    mixture = fit_gaussians(rows.numpy(), components, regulariser, seed=seed % 2**32, iterations=MAX_ITERATIONS)
    if mixture is None:
        return None
    return lambda y: torch.from_numpy(mixture.score_samples(y.double().numpy()))
