"""Mixtures of Gaussians by expectation maximisation, which scikit-learn does."""

__all__ = ["broad_gaussian", "fit_gaussians", "joined"]

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from girsanov.densities.mixture import GaussianMixture


def fit_gaussians(
    y: np.ndarray, count: int, ridge: float, *, seed: int, iterations: int, kind: str = "full"
) -> Any | None:
    """scikit-learn's mixture, converged or not; ``None`` where a covariance collapses.

    Args:
        y: rows ``n d``.
        count: number of components.
        ridge: added to variances.
        seed: below 2**32.
        iterations: at most.
        kind: of covariances, as scikit-learn names them.
    """
    from sklearn.mixture import GaussianMixture as Mixture

    mixture = Mixture(count, covariance_type=kind, reg_covar=ridge, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unconverged fits are judged all the same
        try:
            return mixture.fit(y)
        except ValueError:
            return None


def broad_gaussian(y: np.ndarray, scale: float, ridge: float) -> Any:
    """A Gaussian with the covariance of rows ``n d``, ``scale`` times as wide in every direction: scikit-learn's."""
    found = fit_gaussians(y, 1, ridge, seed=0, iterations=1)
    assert found is not None  # a single covariance with a ridge does not collapse
    found.covariances_ = scale**2 * found.covariances_
    found.precisions_cholesky_ = found.precisions_cholesky_ / scale
    return found


def joined(fits: Sequence[Any], shares: Sequence[float] | None = None) -> GaussianMixture:
    """The average of several of scikit-learn's mixtures, which is one.

    Args:
        fits: with full covariances.
        shares: of each of them; default equal ones.

    Example:
        >>> y = np.random.default_rng(0).normal(size=(50, 2))
        >>> joined([fit_gaussians(y, count, 1e-3, seed=0, iterations=10) for count in (1, 2)]).weights.shape
        torch.Size([3])
    """
    means, covariances = (
        torch.from_numpy(np.concatenate([getattr(fit, name) for fit in fits])) for name in ("means_", "covariances_")
    )
    shares = [1.0] * len(fits) if shares is None else shares
    weights = np.concatenate([share * fit.weights_ for share, fit in zip(shares, fits, strict=True)])
    return GaussianMixture(torch.from_numpy(weights).clamp_min(1e-12), means, covariances)
