r"""Tests of "this sample is nearly from this model": balls of the kernel Stein discrepancy about the model.

No model is right to the last digit, and a million rows show it. Liu and Briol (2025, "On the robustness of kernel
goodness-of-fit tests") test :math:`\mathrm{KSD}(q \| p) \le \theta` in the place of :math:`q = p`. The discrepancy is
the norm of a mean, :math:`\mathrm{KSD}(q \| p) = \| E_q\, \xi(X) \|` with :math:`\|\xi(x)\|^2 = k_0(x, x)` and
:math:`E_p\, \xi = 0`, so that two kinds of errors have a radius:

- a share :math:`\epsilon` of foreign rows, wherever they are:
  :math:`\theta = \epsilon \max_i \sqrt{k_0(x_i, x_i)}`, which foreign rows cannot widen where the Stein kernel is
  bounded, as it is with a diffusion matrix that falls as the score grows (``diffusion="robust"``);
- an error of the score: with a kernel of at most 1,
  :math:`\mathrm{KSD}(q \| p) \le E_q \| m^\top (\nabla \log p - \nabla \log q) \|`, whatever the bandwidth.

The null is the worst law in the ball: a mean :math:`\mu` of norm :math:`\theta` in the direction of the sample's mean
:math:`\bar\xi`. Replicates are :math:`\| \mu + \tfrac1n \sum_i \epsilon_i (\xi_i - \mu) \|^2` with random signs: those
of the plain test for :math:`\theta = 0`, and normal about :math:`\theta^2` where :math:`\theta` is far above the noise.
(The authors add the quantile of :math:`\| \tfrac1n \sum_i \epsilon_i \xi_i \|` to :math:`\theta`, which is cautious:
noise in all directions counts as if it were in the one direction that leads out of the ball.)
"""

__all__ = ["SteinBall"]

import math
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from girsanov.stein.gram import diagonal
from girsanov.stein.nulls import Method, Outcome, Problem, SignForms, WildBootstrap
from girsanov.types import InputError


@final
@dataclass(frozen=True)
class SteinBall(Method):
    r"""The null that rows are from a law within a stated distance of the model, both kinds of errors added up.

    Args:
        contamination: share of foreign rows that is tolerated, below 1. Take ``diffusion="robust"`` with it: without,
            a single row far away widens the ball, which then hides all else.
        radius: discrepancy that is tolerated, the root of a squared one, in units of a score: a score that is off by so
            much in the mean is within it, with every kernel and bandwidth.
        method: :class:`WildBootstrap`, :class:`MarkovBootstrap`, or :class:`IncompleteU` for many rows.

    Raises:
        InputError: for a share or a radius that cannot be; on :meth:`run`, for a method without signs of rows, and for
            slices.

    Example:
        >>> from girsanov.stein.goodness import goodness_of_fit
        >>> x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> mixed = torch.cat([x, torch.full((100, 1), 9.0)])
        >>> def pvalue(x, method=None):
        ...     return goodness_of_fit(x, lambda x: -x, kernel="imq", diffusion="robust", method=method).pvalue
        >>> ball = SteinBall(contamination=0.1)
        >>> pvalue(mixed), pvalue(mixed, ball) > 0.1, pvalue(x + 0.6, ball)
        (0.001, True, 0.001)
    """

    contamination: float = 0.0
    radius: float = 0.0
    method: Method = field(default_factory=WildBootstrap)

    def __post_init__(self) -> None:
        if not 0.0 <= self.contamination < 1.0:
            raise InputError(f"A share of foreign rows is 0 or more and below 1; got {self.contamination}")
        if not 0.0 <= self.radius < math.inf:
            raise InputError(f"A radius is a finite discrepancy, 0 or more; got {self.radius}")

    @property
    def resamples(self) -> int:
        """Number of replicates of the method."""
        return self.method.resamples

    def run(self, problem: Problem) -> Outcome:
        if problem.directions is not None:
            raise InputError("A ball is one of the whole discrepancy: leave slices out")
        outcome = self.method.run(problem)
        if outcome.forms is None:
            raise InputError(
                "A ball is tested with signs of rows: give method=WildBootstrap(), MarkovBootstrap() or IncompleteU()"
            )
        largest = torch.stack([diagonal(problem.points, kernel).max() for kernel in problem.radial]).sqrt()
        radii = self.contamination * largest + self.radius * problem.unit
        return replace(outcome, replicates=_about(radii, outcome.replicates, outcome.forms), radii=radii)


def _about(radii: Tensor, replicates: Tensor, forms: SignForms) -> Tensor:
    """Replicates q(e + a, e + a) about a mean of norm theta, c times the sample's: a = c (1 - mean of e)."""
    norm = torch.maximum(forms.whole, radii.square()).sqrt().clamp_min(torch.finfo(radii.dtype).tiny)
    moved = radii[:, None] * (1.0 - forms.balance)  # a norm
    return replicates + 2.0 * moved / norm[:, None] * forms.crossed + moved.square()
