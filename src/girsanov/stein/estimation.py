r"""Minimum Stein discrepancy estimation of a few parameters, with standard errors.

Score matching with a diffusion matrix and the kernel Stein discrepancy are both averages, over rows or over pairs,
whose minimisers are asymptotically normal: with :math:`\psi_i` the gradient of row i's loss (for pairs, of its mean
with the others) and H the Hessian of the mean,

.. math:: \mathrm{Cov}(\hat\theta) \approx \tfrac{k^2}{n} H^{-1} \mathrm{Cov}(\psi) H^{-1}, \qquad k = 1
    \text{ (rows)}, \; 2 \text{ (pairs)}.

Natural-gradient descent uses the metric that the discrepancy itself induces on the parameters (Barp et al. 2019; note
of paper 4, section 1): for score matching :math:`G = E[U^\top U]` with :math:`U = \partial_\theta (m^\top s_\theta)`,
for the kernel discrepancy :math:`G = E[U(X)^\top k(X, X') U(X')]`; both make the step independent of the
parametrisation.
"""

__all__ = ["BFGS", "MinimumFit", "NaturalGradient", "minimum_score_matching", "minimum_stein_discrepancy"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from girsanov.display import Shown
from girsanov.linear import ValueMap
from girsanov.stein.discrepancy import kernel_stein_discrepancy
from girsanov.stein.gram import gram_sums
from girsanov.stein.kernels import RadialKernel, resolve_kernel
from girsanov.stein.matrices import DiffusionLike, as_diffusion, score_rows
from girsanov.stein.points import SteinPoints
from girsanov.stein.score_matching import pointwise_loss, squared_matrix
from girsanov.types import InputError, State

#: ``(theta, x) -> s_theta(x)``: parameters of shape ``p``, rows ``n *d``
ParametricScore: TypeAlias = Callable[[Tensor, State], State]

STEP = 1e-5  # of central differences in float64
METRIC_ROWS = 1024  # rows whose pairs make the kernel metric


@final
@dataclass(frozen=True, repr=False)
class MinimumFit(Shown):
    """Estimated parameters.

    Attributes:
        parameters: shape ``p``.
        covariance: of the estimate over samples, ``p p``, robust to a wrong model.
        loss: at the minimum.
        steps: iterations of the optimiser.
    """

    parameters: Tensor
    covariance: Tensor
    loss: float
    steps: int

    @property
    def stderr(self) -> Tensor:
        """Standard errors, shape ``p``."""
        return self.covariance.diagonal().sqrt()


class Criterion(ABC):
    """A discrepancy as a function of parameters; rows whose mean it is; and its metric."""

    degree: int  #: 1 for averages over rows, 2 over pairs

    @abstractmethod
    def value(self, theta: Tensor) -> Tensor:
        """The discrepancy, a differentiable scalar."""

    @abstractmethod
    def rows(self, theta: Tensor) -> Tensor:
        """What every row contributes, ``n``, without gradients."""

    @abstractmethod
    def metric(self, theta: Tensor) -> Tensor:
        """The information metric, ``p p``."""

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient."""
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient


class Optimiser(Protocol):
    """A strategy that minimises a criterion."""

    def minimise(self, criterion: Criterion, start: Tensor) -> tuple[Tensor, int]:
        """Return the minimiser and the number of iterations."""
        ...


@final
@dataclass(frozen=True)
class BFGS(Optimiser):
    """Quasi-Newton, of SciPy.

    Args:
        max_steps: iterations after which to give up.
        tolerance: largest component of the gradient at the minimum, relative to ``1 + |loss|``.
    """

    max_steps: int = 500
    tolerance: float = 1e-7

    def minimise(self, criterion: Criterion, start: Tensor) -> tuple[Tensor, int]:
        from scipy.optimize import minimize

        def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = criterion.gradient(torch.from_numpy(theta).to(start.device))
            return value, gradient.cpu().numpy()

        options = {"maxiter": self.max_steps, "gtol": self.tolerance}
        result = minimize(evaluate, start.double().cpu().numpy(), jac=True, method="BFGS", options=options)
        # a line search that runs out of digits at the minimum is no failure
        if not np.isfinite(result.fun) or np.abs(result.jac).max() > 1e3 * self.tolerance * (1.0 + abs(result.fun)):
            raise InputError(
                f"The minimum was not found ({result.message}): start closer to it, or scale the parameters"
            )
        return torch.from_numpy(result.x).to(start.device), int(result.nit)


@final
@dataclass(frozen=True)
class NaturalGradient(Optimiser):
    """Descent along the metric's own gradient, with halved steps where a full one does not descend.

    Args:
        max_steps: iterations after which to give up.
        tolerance: squared length of the gradient in the metric at the minimum.
        damping: added to the metric's diagonal, relative to it.
    """

    max_steps: int = 100
    tolerance: float = 1e-14
    damping: float = 1e-8

    def minimise(self, criterion: Criterion, start: Tensor) -> tuple[Tensor, int]:
        theta = start.double()
        for step in range(self.max_steps):
            value, gradient = criterion.gradient(theta)
            metric = criterion.metric(theta)
            metric = metric + self.damping * torch.diag(metric.diagonal())
            direction = torch.linalg.solve(metric, gradient)
            length = float(gradient @ direction)
            if length < self.tolerance * (1.0 + abs(value)):
                return theta, step
            shorter = self._descend(criterion, theta, direction, value, length)
            if shorter is None:
                return theta, step
            theta = shorter
        raise InputError(f"The minimum was not found in {self.max_steps} natural-gradient steps: start closer to it")

    @staticmethod
    def _descend(criterion: Criterion, theta: Tensor, direction: Tensor, value: float, length: float) -> Tensor | None:
        """The first of the halved steps that descends enough; ``None`` where the digits are used up.

        A Newton step gains half of ``length``: asking for 0.3 of it halves steps that would go to and fro.
        """
        for share in 0.5 ** torch.arange(30.0, dtype=torch.float64):
            candidate = theta - share * direction
            with torch.no_grad():
                if float(criterion.value(candidate)) <= value - 0.3 * float(share) * length:
                    return candidate
        return None


def minimum_score_matching(
    x: State,
    score: ParametricScore,
    start: Tensor,
    *,
    diffusion: DiffusionLike = None,
    optimiser: Optimiser = BFGS(),
) -> MinimumFit:
    """Estimate parameters by score matching with a diffusion matrix; no normalising constant is needed.

    Args:
        x: rows ``n *d``; they are computed with in float64.
        score: ``(theta, x) -> n *d``, differentiable in both; use log-scales where a parameter is positive.
        start: initial parameters, shape ``p``.
        diffusion: see :func:`girsanov.stein.as_diffusion`; it must not depend on the parameters.
        optimiser: ``BFGS()`` or ``NaturalGradient()``.

    Raises:
        InputError: if no minimum is found.

    Example:
        >>> x = 3.0 + torch.randn(2000, 1)
        >>> fit = minimum_score_matching(x, lambda theta, x: theta[0] - x, torch.zeros(1))
        >>> bool((fit.parameters - x.mean()).abs() < 1e-5), round(fit.stderr.item(), 2)
        (True, 0.02)
    """
    return _estimate(_ScoreMatchingCriterion(x.double(), score, diffusion), start, optimiser)


def minimum_stein_discrepancy(
    x: State,
    score: ParametricScore,
    start: Tensor,
    *,
    kernel: str | RadialKernel | None = None,
    diffusion_at: Callable[[Tensor], DiffusionLike] = lambda theta: None,
    optimiser: Optimiser = BFGS(),
) -> MinimumFit:
    """Estimate parameters by the least kernel Stein discrepancy (its U-statistic).

    The discrepancy has an absolute zero, so that the matrix may move with the parameters, which score matching forbids.

    Args:
        x: rows ``n *d``; they are computed with in float64.
        score: ``(theta, x) -> n *d``, differentiable in theta.
        start: initial parameters, shape ``p``.
        kernel: as in :func:`girsanov.stein.kernel_stein_discrepancy`; a bandwidth is taken from the rows once.
        diffusion_at: the matrix for given parameters.
        optimiser: ``BFGS()`` or ``NaturalGradient()``.

    Raises:
        InputError: if no minimum is found.

    Example:
        >>> x = 3.0 + torch.randn(300, 1)
        >>> fit = minimum_stein_discrepancy(x, lambda theta, x: theta[0] - x, torch.zeros(1))
        >>> bool((fit.parameters - 3.0).abs() < 4.0 * fit.stderr)
        True
    """
    rows = x.double()
    resolved = resolve_kernel(kernel, rows.flatten(1), "Parameters are estimated")
    return _estimate(_DiscrepancyCriterion(rows, score, resolved, diffusion_at), start, optimiser)


class _ScoreMatchingCriterion(Criterion):
    degree = 1

    def __init__(self, x: State, score: ParametricScore, diffusion: DiffusionLike) -> None:
        self.x, self.score = x, score
        self.matrix = squared_matrix(x, diffusion)

    def value(self, theta: Tensor) -> Tensor:
        return pointwise_loss(self.x, lambda x: self.score(theta, x), self.matrix).mean()

    def rows(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return pointwise_loss(self.x, lambda x: self.score(theta, x), self.matrix)

    def metric(self, theta: Tensor) -> Tensor:
        slopes = _parameter_slopes(self.x, self.score, theta, self.matrix.matrix).flatten(1)
        return slopes @ slopes.T / len(self.x)


class _DiscrepancyCriterion(Criterion):
    degree = 2

    def __init__(
        self,
        x: State,
        score: ParametricScore,
        kernel: RadialKernel,
        diffusion_at: Callable[[Tensor], DiffusionLike],
    ) -> None:
        self.x, self.score, self.kernel, self.diffusion_at = x, score, kernel, diffusion_at

    def value(self, theta: Tensor) -> Tensor:
        s = self.score(theta, self.x)
        return kernel_stein_discrepancy(self.x, s, kernel=self.kernel, diffusion=self.diffusion_at(theta))

    def rows(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            points = SteinPoints.at(self.x, self.score(theta, self.x), self.diffusion_at(theta))
            sums = gram_sums(points, [self.kernel], rows=True)
        assert sums.rows is not None
        return sums.rows[0] / (len(self.x) - 1)

    def metric(self, theta: Tensor) -> Tensor:
        x = self.x[:METRIC_ROWS]
        matrix = as_diffusion(self.diffusion_at(theta), x).at(x).detach()
        slopes = _parameter_slopes(x, self.score, theta, matrix)
        kernel = self.kernel.profile(torch.cdist(x.flatten(1), x.flatten(1)).square())[0]
        return torch.einsum("knr,nm,lmr->kl", slopes, kernel, slopes) / len(x) ** 2


def _parameter_slopes(x: State, score: ParametricScore, theta: Tensor, matrix: ValueMap) -> Tensor:
    """Derivatives of m's in each parameter, ``p n r``: reverse mode twice, since rows are many and parameters few."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = matrix.transpose().times(score_rows(x, lambda x: score(leaf, x)))
        dummy = torch.zeros_like(value).requires_grad_()
        (gradient,) = torch.autograd.grad(value, leaf, dummy, create_graph=True)
        slopes = [torch.autograd.grad(g, dummy, retain_graph=True, materialize_grads=True)[0] for g in gradient]
    return torch.stack(slopes)


def _estimate(criterion: Criterion, start: Tensor, optimiser: Optimiser) -> MinimumFit:
    theta, steps = optimiser.minimise(criterion, start.detach().double())
    units = STEP * torch.diag(1.0 + theta.abs())
    psi, hessian = [], []
    for unit in units:
        width = 2.0 * unit.sum()
        psi.append((criterion.rows(theta + unit) - criterion.rows(theta - unit)) / width)
        hessian.append((criterion.gradient(theta + unit)[1] - criterion.gradient(theta - unit)[1]) / width)
    inverse = torch.linalg.pinv(torch.stack(hessian), hermitian=True)
    rows = torch.stack(psi)
    noise = torch.cov(rows).reshape(len(theta), len(theta)) * criterion.degree**2 / rows.shape[1]
    return MinimumFit(theta, inverse @ noise @ inverse, float(criterion.rows(theta).mean()), steps)
