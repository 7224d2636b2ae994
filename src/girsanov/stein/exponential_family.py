r"""Exponential families by score matching with a diffusion matrix: a closed form, and a conjugate posterior.

For :math:`\log p = \eta \cdot r(x) + b_0(x)` the loss is quadratic in the natural parameters (note of paper 4, section
2.7; half of the note's loss),

.. math::
    \tfrac12 \eta^\top L \eta + \eta^\top v + \mathrm{const}, \qquad L = E[\nabla r\, m m^\top \nabla r^\top], \quad
    v = E[\nabla r\, m m^\top \nabla b_0 + \mathrm{div}(m m^\top \nabla r^\top)],

so :math:`\hat\eta = -L^{-1} v` needs one pass over the rows and no partition function. Taking n times the loss for a
negative log-likelihood, tempered by a rate omega, a normal prior N(mu_0, S_0) gives the normal generalised posterior
with :math:`S^{-1} = S_0^{-1} + \omega n L` and :math:`\mu = S (S_0^{-1} \mu_0 - \omega n v)`.
"""

__all__ = ["ExponentialFamilyFit", "GeneralisedPosterior", "fit_exponential_family"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.display import Shown
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.score_matching import gradient_of, pointwise_loss, squared_matrix
from girsanov.types import InputError, State


@final
@dataclass(frozen=True, repr=False)
class GeneralisedPosterior(Shown):
    """A normal law of natural parameters.

    Attributes:
        mean: shape ``k``.
        covariance: ``k k``.
    """

    mean: Tensor
    covariance: Tensor


@final
@dataclass(frozen=True, repr=False)
class ExponentialFamilyFit(Shown):
    """Natural parameters that minimise the loss, and the quadratic itself.

    Attributes:
        parameters: the minimiser, shape ``k``.
        covariance: of the minimiser over samples, ``k k``, robust to a wrong model.
        curvature: L, ``k k``.
        slope: v, shape ``k``.
        rows: number n of rows.
    """

    parameters: Tensor
    covariance: Tensor
    curvature: Tensor
    slope: Tensor
    rows: int

    @property
    def stderr(self) -> Tensor:
        """Standard errors, shape ``k``."""
        return self.covariance.diagonal().sqrt()

    def posterior(self, mean: Tensor, covariance: Tensor, *, rate: float = 1.0) -> GeneralisedPosterior:
        """The generalised Bayesian posterior for a normal prior.

        Args:
            mean: of the prior, shape ``k``.
            covariance: of the prior, ``k k``.
            rate: learning rate omega; 2 gives the note's posterior with rate 1.
        """
        precision = torch.linalg.inv(covariance.double())
        spread = torch.linalg.inv(precision + rate * self.rows * self.curvature)
        return GeneralisedPosterior(spread @ (precision @ mean.double() - rate * self.rows * self.slope), spread)


def fit_exponential_family(
    statistics: Callable[[State], Tensor],
    x: State,
    *,
    base: Callable[[State], Tensor] | None = None,
    diffusion: DiffusionLike = None,
) -> ExponentialFamilyFit:
    """Fit natural parameters in closed form.

    Args:
        statistics: r, rows ``n *d`` to ``n k``, twice differentiable.
        x: rows; they are computed with in float64.
        base: logarithm b_0 of the base measure, rows to ``n``; 0 when omitted.
        diffusion: see :func:`girsanov.stein.as_diffusion`; ``"robust"`` bounds the influence of outliers.

    Raises:
        InputError: if the statistics' gradients are linearly dependent at the rows.

    Example:
        >>> x = 2.0 + 0.5 * torch.randn(4000, 1, dtype=torch.float64)
        >>> fit = fit_exponential_family(lambda x: torch.cat([x, -0.5 * x**2], 1), x)
        >>> precision = fit.parameters[1]  # a normal: eta = (mean / variance, 1 / variance)
        >>> torch.allclose(fit.parameters[0] / precision, x.mean()), torch.allclose(1 / precision, x.var(correction=0))
        (True, True)
    """
    rows = x.detach().double()
    values = squared_matrix(rows, diffusion)
    with torch.enable_grad():
        k = statistics(rows[:1]).shape[1]
    slopes = [gradient_of(lambda x, j=j: statistics(x)[:, j]) for j in range(k)]
    transposed = values.matrix.transpose()
    raised = torch.stack([transposed.times(slope(rows).detach().flatten(1)) for slope in slopes], 1)
    with torch.no_grad():
        # div(m m' grad r) = loss of the score grad r, less its square
        linear = [pointwise_loss(rows, slope, values) for slope in slopes]
    v = torch.stack(linear, 1) - 0.5 * raised.square().sum(2)
    if base is not None:
        v = v + torch.einsum("nkr,nr->nk", raised, transposed.times(gradient_of(base)(rows).detach().flatten(1)))
    curvature, slope = torch.einsum("nkr,nlr->kl", raised, raised) / len(rows), v.mean(0)
    if float(torch.linalg.cond(curvature)) > 1e14:
        raise InputError("The gradients of the statistics are linearly dependent at these rows: drop one of them")
    inverse = torch.linalg.inv(curvature)
    parameters = -inverse @ slope
    psi = torch.einsum("nkr,nlr,l->kn", raised, raised, parameters) + v.T
    noise = torch.cov(psi).reshape(k, k) / len(rows)
    return ExponentialFamilyFit(parameters, inverse @ noise @ inverse, curvature, slope, len(rows))
