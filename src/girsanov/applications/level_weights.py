r"""Which log-SNR levels count in a comparison of classes, and where to evaluate for it.

A class's evidence is :math:`D_c = \int w(l)\, E[g_c(l, \varepsilon)]\, dl` with the gain g of
:mod:`girsanov.likelihoods.common_noise`. With :math:`w = 1`, differences of D are log-likelihood ratios: for the
exact score the softmax of D is Bayes' rule. For the argmax of a learned score other weights do better: high levels
carry most of the likelihood and hardly any class signal (note of paper 2, sections 2.7 and 6.2).

Levels are drawn from :math:`q \propto w(l)\, s(l)`, s the size of the differences between classes at l: then every
evaluation contributes equally. Fitted weights are piecewise constant and non-negative, and maximise the penalised
log-probability of the right class on held-out rows, a convex problem.
"""

__all__ = ["LevelWeights", "explored_sizes", "fit_on", "fit_temperature", "fit_weights", "spectral_sizes"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.display import Shown
from girsanov.processes import LinearProcess
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError

CELLS = 128
FITTED_CELLS = 16
FLOOR = 0.1  # share of evaluations that are spread over all levels that count, whatever the size there
ROUGHNESS = 1e-3  # penalty per row on differences between neighbouring fitted weights, relative to their scale


@dataclass(frozen=True, repr=False)
class LevelWeights(Shown):
    """Weights on the cells of a grid over log-SNR.

    Attributes:
        edges: shape ``m + 1``, increasing, float64.
        values: shape ``m``, non-negative, not all zero.
    """

    edges: Tensor
    values: Tensor

    @classmethod
    def of(
        cls, weights: str | Callable[[Tensor], Tensor], process: LinearProcess, low: float, high: float
    ) -> "LevelWeights":
        """Weights by name, or from a function of log-SNR (taken as constant on 128 cells).

        Args:
            weights: ``likelihood`` (1), ``uniform`` (uniform in the process's time, the usual training loss) or a
                function ``(levels k) -> weights k``.
            process: whose time ``uniform`` means.
            low: lower end of the levels.
            high: upper end.

        Raises:
            InputError: for another name, or weights that are negative, not finite or all zero.
        """
        edges = torch.linspace(low, high, CELLS + 1, dtype=torch.float64)
        middle = 0.5 * (edges[1:] + edges[:-1])
        if callable(weights):
            values = torch.as_tensor(weights(middle)).double().cpu().expand(CELLS)
        elif weights == "likelihood":
            values = torch.ones(CELLS, dtype=torch.float64)
        elif weights == "uniform":
            spent = -process.time(edges).diff().double().cpu()
            values = spent / spent.mean()
        else:
            raise InputError(f"Unknown weights {weights!r}: choose likelihood, uniform, fitted or a function")
        if not bool(values.isfinite().all() and (values >= 0.0).all() and values.any()):
            raise InputError("Weights must be finite, not negative and not all zero over the score's log-SNR range")
        return cls(edges, values)

    def __call__(self, levels: Tensor) -> Tensor:
        """Weights at ``levels``, of the same shape."""
        edges, values = self.edges.to(levels.device), self.values.to(levels.device)
        return values[_cell(edges, levels)]

    def proposal(self, levels: Tensor, sizes: Tensor) -> LogSNRDensity:
        """Density proportional to weight times size on the levels that count, ``sizes`` known at ``levels``."""
        edges = torch.linspace(float(self.edges[0]), float(self.edges[-1]), CELLS + 1, dtype=torch.float64)
        middle = 0.5 * (edges[1:] + edges[:-1])
        weight = self(middle)
        size = torch.from_numpy(np.interp(middle.numpy(), levels.numpy(), sizes.numpy()))
        masses = weight * size
        if not float(masses.sum()) > 0.0:
            masses = weight
        masses = (1.0 - FLOOR) * masses / masses.sum() + FLOOR * weight / weight.sum()
        counted = masses.nonzero().flatten()
        first, last = int(counted[0]), int(counted[-1]) + 1
        return LogSNRDensity(edges[first : last + 1], masses[first:last] / masses.sum())


def spectral_sizes(reference: Gaussian | None, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Levels, and the size that differences have there if nothing else is known: a Gaussian's own denoising noise."""
    spectrum = torch.ones(1) if reference is None else reference.spectrum()
    levels = torch.linspace(low, high, CELLS + 1, dtype=torch.float64)
    share = torch.sigmoid(levels[:, None] + spectrum.double().cpu().log())
    return levels, (share * (1.0 - share)).sum(1).sqrt()


def explored_sizes(values: Tensor, levels: Tensor, density: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Levels, and the root mean square of differences between classes near them, from likelihood-weighted pairs.

    Args:
        values: gains over density, shape ``n C P``.
        levels: shape ``n P``.
        density: shape ``n P``.
        low: lower end of the levels.
        high: upper end.
    """
    gains = values * density[:, None]
    squared = (gains - gains.mean(1, keepdim=True)).square().mean(1).flatten()
    edges = torch.linspace(low, high, FITTED_CELLS + 1, dtype=torch.float64)
    cell = _cell(edges, levels.flatten().cpu())
    count = torch.zeros(FITTED_CELLS, dtype=torch.float64).index_add_(0, cell, torch.ones_like(squared.cpu()))
    total = torch.zeros(FITTED_CELLS, dtype=torch.float64).index_add_(0, cell, squared.cpu())
    middle = 0.5 * (edges[1:] + edges[:-1])
    visited = count > 0
    return middle[visited], (total[visited] / count[visited]).sqrt()


def fit_on(values: Tensor, levels: Tensor, label: Tensor, log_prior: Tensor, low: float, high: float) -> LevelWeights:
    """Weights fitted to likelihood-weighted pairs of held-out rows; arguments as of the two functions it is made of."""
    edges = torch.linspace(low, high, FITTED_CELLS + 1, dtype=torch.float64)
    cell = _cell(edges, levels.cpu())
    features = torch.zeros(*values.shape[:2], FITTED_CELLS, dtype=torch.float64)
    features.scatter_add_(2, cell[:, None].expand(values.shape), values.cpu() / values.shape[2])
    return LevelWeights(edges, fit_weights(features, label, log_prior))


def _cell(edges: Tensor, levels: Tensor) -> Tensor:
    return (torch.searchsorted(edges, levels.contiguous()) - 1).clamp(0, len(edges) - 2)


def fit_weights(features: Tensor, label: Tensor, log_prior: Tensor) -> Tensor:
    """Non-negative weights that make the right class probable.

    Args:
        features: evidence per class and cell, shape ``n C j``.
        label: right class, shape ``n``.
        log_prior: shape ``C``.

    Returns:
        Shape ``j``. The scale is a temperature: ``softmax(features @ weights + log_prior)`` is calibrated.
    """
    from scipy.optimize import minimize

    x = features.double().cpu()
    scale = float((x - x.mean(1, keepdim=True)).square().sum(2).mean().sqrt().clamp_min(1e-30))
    x = x / scale

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(w).requires_grad_()
        log_prob = torch.log_softmax(x @ weights + log_prior, 1)
        value = _smoothed(log_prob, label) + ROUGHNESS * (weights.diff().square().sum() + 0.01 * weights.square().sum())
        value.backward()
        assert weights.grad is not None
        return float(value.detach()), weights.grad.numpy()

    found = minimize(loss, np.ones(x.shape[2]), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * x.shape[2])
    weights = torch.from_numpy(np.asarray(found.x)) / scale
    return weights if bool(weights.any()) else torch.ones_like(weights) / scale


def fit_temperature(evidence: Tensor, label: Tensor, log_prior: Tensor) -> float:
    """The factor that calibrates ``softmax(factor * evidence + log_prior)``, evidence ``n C``."""
    return float(fit_weights(evidence[:, :, None], label, log_prior)[0])


def _smoothed(log_prob: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy with a pseudo-count of one row spread over the classes, so that no fit is ever certain."""
    rows = len(label)
    right = log_prob.gather(1, label[:, None]).mean()
    return -(rows * right + log_prob.mean()) / (rows + 1)
