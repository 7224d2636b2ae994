r"""scikit-learn's face: a density estimator that fits, scores and samples like ``KernelDensity`` does.

Scores are the lower bound of the reverse-SDE model, in nats and in the units of X. A row's score is a function of
the row, the model and the seed alone, so it does not change with the rows that it is scored with.
"""

__all__ = ["DensityEstimator"]

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from girsanov.datasets import continuous_table
from girsanov.datasets.infer import require_density
from girsanov.density_model import Config, DensityModel, fit
from girsanov.networks import MLPConfig
from girsanov.randomness import seed_of

SEEDS = 2**31 - 1


class DensityEstimator(DensityMixin, BaseEstimator):
    """A diffusion density model of real-valued tables.

    Columns are treated as continuous: the score is a log-density, for discrete columns too (whose log-mass
    :func:`girsanov.fit` bounds instead).

    Args:
        random_state: seed, generator or ``None`` (seed 0) of splits, weights and noise.
        max_time: seconds for training; default none.
        max_steps: largest number of training steps; default chosen from the number of rows.
        width: width of the network; default 128.
        blocks: residual blocks of the network; default 3.
        learning_rate: peak of the schedule.
        samples: network evaluations per scored row.

    Attributes:
        model_: the fitted :class:`girsanov.DensityModel`.
        n_features_in_: number of columns.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> estimator = DensityEstimator(random_state=0, max_steps=20, width=16).fit(X)
        >>> estimator.score_samples(X[:3]).shape, estimator.sample(2).shape
        ((3,), (2, 2))
    """

    def __init__(
        self,
        random_state: Any = None,
        max_time: float | None = None,
        *,
        max_steps: int | None = None,
        width: int | None = None,
        blocks: int | None = None,
        learning_rate: float | None = None,
        samples: int = 32,
    ) -> None:
        self.random_state = random_state
        self.max_time = max_time
        self.max_steps = max_steps
        self.width = width
        self.blocks = blocks
        self.learning_rate = learning_rate
        self.samples = samples

    def fit(self, X: Any, y: Any = None) -> "DensityEstimator":
        """Fit to rows ``(n, d)``; ``y`` is ignored.

        Raises:
            ValueError: for fewer than four rows, missing or infinite values, and columns that have no density: constant
                ones, and ones whose digits an offset has eaten.
        """
        del y
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=4)
        names = getattr(self, "feature_names_in_", [f"x{i + 1}" for i in range(X.shape[1])])
        require_density(dict(zip(map(str, names), X.T, strict=True)), "X")
        config = Config(
            seed=_seed(self.random_state),
            time_budget=self.max_time,
            steps=self.max_steps,
            network=MLPConfig(self.width, self.blocks),
            learning_rate=self.learning_rate,
            test=0.0,
        )
        self.model_: DensityModel = fit(continuous_table(X), config=config, progress=False)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Lower bound on the log-density of each row, nats in the units of X, shape ``(n,)``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        estimate = self.model_.elbo(np.array(X), samples=self.samples)
        return estimate.value.numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of :meth:`score_samples` (``KernelDensity`` returns the sum, which folds cannot compare)."""
        del y
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw rows, shape ``(n_samples, d)``: an array, as scikit-learn's own densities return, of frames too."""
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        return self.model_.sample(n_samples, generator=torch.Generator().manual_seed(seed)).numpy()


def _seed(random_state: Any) -> int:
    """A 31-bit seed from whatever scikit-learn accepts."""
    if random_state is None:
        return 0
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    if isinstance(random_state, torch.Generator):
        return seed_of(random_state) % SEEDS
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(SEEDS))
    return int(random_state.randint(SEEDS))
