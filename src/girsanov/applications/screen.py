r"""Screens: scores of all classes that cost no network evaluation, and how much they may be trusted.

A screen ranks the classes of a row before the diffusion model is asked: any function of the rows will do, such as the
logits of another classifier (text-to-image models are usually screened by one, note of paper 2, section 6.2), or one
Gaussian per class, :class:`GaussianScreen`. What makes it safe is a conformal threshold. Of held-out rows, the *lag* is
the screen's best score minus its score of the class that the diffusion model chooses; with the
:math:`\lceil (n + 1)(1 - a) \rceil`-th smallest of n lags as threshold, the class that the model would choose for a new
row of the same law is kept with probability at least :math:`1 - a`, however bad the screen: a bad one keeps more.
The model's choice is that of calibration's own evaluations; where weights were fitted to the same rows, the promise is
as good as those weights are on new ones. The screen proposes and never decides: its two best classes are always kept,
and the diffusion model chooses.
"""

__all__ = ["GaussianScreen", "Screen", "Screened", "largest_lag"]

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.applications.level_weights import fit_temperature
from girsanov.display import Shown
from girsanov.types import InputError, State

#: ``rows n *e -> log-scores n C``, of encoded rows in data units
Screen = Callable[[State], Tensor]

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)  # variances added to every class, in units of the mean variance
FOLDS = 5
COMPONENTS = 128  # principal components of larger events


def largest_lag(lags: Tensor, error: float) -> float:
    """The conformal threshold: how far a class may lag behind the screen's best one and still be kept.

    Args:
        lags: of held-out rows, shape ``n``.
        error: probability with which the model's own class may be lost.

    Returns:
        The threshold; infinite, so that every class is kept, where ``n + 1 < 1 / error``.

    Example:
        >>> largest_lag(torch.arange(19.0), 0.1), largest_lag(torch.arange(5.0), 0.1)
        (17.0, inf)
    """
    rank = math.ceil((len(lags) + 1) * (1.0 - error))
    return float(lags.sort().values[rank - 1]) if rank <= len(lags) else math.inf


@final
@dataclass(frozen=True, repr=False)
class Screened(Shown):
    """What held-out rows say about a screen.

    Attributes:
        lags: how far the model's own class lagged behind the screen's best one, shape ``n``.
        factor: makes calibrated log-odds of the screen's scores.
    """

    lags: Tensor
    factor: float

    @classmethod
    def of(cls, scores: Tensor, winner: Tensor, label: Tensor, log_prior: Tensor) -> "Screened":
        """From scores ``n C`` of held-out rows, the classes that the model chooses and the right ones, both ``n``."""
        lags = scores.amax(1) - scores.gather(1, winner[:, None])[:, 0]
        return cls(lags, fit_temperature(scores, label, log_prior))

    def kept(self, scores: Tensor, error: float) -> Tensor:
        """Mask of classes, ``n C``, that loses the model's own with at most this probability; two at least."""
        least = scores.topk(2, 1).values[:, 1:]
        return scores >= torch.minimum(least, scores.amax(1, keepdim=True) - largest_lag(self.lags, error))


@final
@dataclass(frozen=True, repr=False)
class GaussianScreen(Shown):
    """Log-densities of one Gaussian per class, noised as much as serves them best.

    Attributes:
        project: from flattened rows to coordinates, shape ``k d``.
        means: shape ``C k``.
        factors: triangular roots of the covariances, shape ``C k k``.
    """

    project: Tensor
    means: Tensor
    factors: Tensor

    def __call__(self, rows: State) -> Tensor:
        """Log-densities up to a constant, float64 ``n C``."""
        y = rows.double().flatten(1) @ self.project.T.to(rows.device)
        gap = y[None] - self.means.to(y)[:, None]
        white = torch.linalg.solve_triangular(self.factors.to(y), gap.mT, upper=False)
        log_det = self.factors.to(y).diagonal(dim1=1, dim2=2).log().sum(1)
        return -(0.5 * white.square().sum(1) + log_det[:, None]).T

    @classmethod
    def fit(cls, rows: State, label: Tensor) -> "GaussianScreen":
        """Fit to training rows, noise and scaling by cross-validation.

        Args:
            rows: encoded, in data units, ``n *e``: of what a model's ``encode`` returns the ``rows``.
            label: their classes 0 ... C - 1, shape ``n``.

        Raises:
            InputError: if a class has fewer rows than there are folds.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> label = torch.arange(200) % 2
            >>> x = torch.randn(200, 3, generator=generator) + 3.0 * label[:, None]
            >>> GaussianScreen.fit(x, label)(torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])).argmax(1)
            tensor([0, 1])
        """
        counts = torch.bincount(label)
        if int(counts.min()) < FOLDS or len(counts) < 2:
            raise InputError(f"A screen needs {FOLDS} or more rows of every class, and two classes; got {counts.min()}")
        flat = rows.detach().double().flatten(1).cpu()
        order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
        flat, label = flat[order], label.cpu()[order]
        # every class is spread over all folds
        fold = torch.empty_like(label)
        fold[label.argsort(stable=True)] = torch.arange(len(label)) % FOLDS
        return max(_candidates(flat, label, fold), key=lambda pair: pair[0])[1]


def _candidates(flat: Tensor, label: Tensor, fold: Tensor) -> Iterator[tuple[float, GaussianScreen]]:
    """Screens of every scaling and noise with their cross-validated log-probability of the right class."""
    classes = int(label.max()) + 1
    for per_column in (False, True):
        project = _coordinates(flat, per_column)
        for noise in NOISES:
            scores = torch.zeros(len(flat), classes, dtype=torch.float64)
            for k in range(FOLDS):
                screen = _fit(flat[fold != k], label[fold != k], classes, project, noise)
                scores[fold == k] = screen(flat[fold == k])
            yield _log_probability(scores, label), _fit(flat, label, classes, project, noise)


def _coordinates(flat: Tensor, per_column: bool) -> Tensor:
    """Scaled principal components, at most so many: a matrix ``k d``."""
    scale = flat.std(0)
    scale = torch.where(scale > 0.0, scale, 1.0) if per_column else torch.ones_like(scale)
    if flat.shape[1] <= COMPONENTS:
        return torch.diag(1.0 / scale)
    centred = (flat - flat.mean(0)) / scale
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS]
    return directions / scale


def _fit(flat: Tensor, label: Tensor, classes: int, project: Tensor, noise: float) -> GaussianScreen:
    y = flat @ project.T
    added = noise * y.var(0).mean() * torch.eye(y.shape[1], dtype=y.dtype)
    groups = [y[label == c] for c in range(classes)]
    covariances = torch.stack([torch.cov(group.T, correction=0).reshape(added.shape) + added for group in groups])
    return GaussianScreen(project, torch.stack([group.mean(0) for group in groups]), torch.linalg.cholesky(covariances))


def _log_probability(scores: Tensor, label: Tensor) -> float:
    """Mean log-probability of the right class at the best temperature."""
    flat = torch.zeros(scores.shape[1], dtype=torch.float64)
    factor = fit_temperature(scores, label, flat)
    return float(torch.log_softmax(factor * scores, 1).gather(1, label[:, None]).mean())
