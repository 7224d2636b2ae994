r"""Score matching with a diffusion matrix, in the tractable form that needs no normalising constant.

With b and m as in :mod:`girsanov.stein.matrices`, s the model's score and q the law of the rows,

.. math::
    \tfrac12 E_q\|m^\top (s - \nabla\log q)\|^2
        = E_q\big[\tfrac12 \|m^\top s\|^2 + \mathrm{div}(m m^\top s)\big] + \tfrac12 E_q\|m^\top \nabla\log q\|^2,

and the last term is free of the model (note of paper 4, section 2.2, whose losses are twice ours). The derivative is
taken along directions w = m e:

.. math::
    \mathrm{div}(m m^\top s) = \mathrm{div}(m m^\top) \cdot s + \sum_e w^\top \nabla (w \cdot s),

e running over a basis (exact) or over random signs (its mean: Hutchinson). The matrix enters as numbers. If it moved
with the trained parameters, so would the dropped term, and the minimum would be elsewhere: this is refused.
"""

__all__ = [
    "ScoreMatching",
    "Sliced",
    "SquaredMatrix",
    "fisher_divergence",
    "gradient_of",
    "pointwise_loss",
    "riemannian_score_matching",
    "score_matching",
    "squared_matrix",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from girsanov.calculus import Exact, Hutchinson
from girsanov.display import Shown
from girsanov.inputs import checked
from girsanov.linear import ValueMap
from girsanov.linear.fields import Map
from girsanov.randomness import keyed_generators, keyed_rademacher, seed_of
from girsanov.stein.matrices import DiffusionLike, as_diffusion, require_nonzero, score_rows
from girsanov.types import InputError, State, require_counts


@final
@dataclass(frozen=True)
class Sliced:
    r"""Slices of both terms: :math:`\tfrac12 (w \cdot s)^2 + w^\top \nabla (w \cdot s)`, w = m e with random signs e.

    One network call and one backward pass per probe. Hutchinson's estimator, whose squared norm is exact, has less
    variance at the same cost: take this one to compare with sliced score matching as it was published.

    Args:
        probes: number of random vectors per row.

    Example:
        >>> Sliced(4).probes
        4
    """

    probes: int = 1

    def __post_init__(self) -> None:
        require_counts(self, "probes")


Directions: TypeAlias = Exact | Hutchinson | Sliced


@final
@dataclass(frozen=True)
class SquaredMatrix:
    """What the loss needs of a matrix at given rows: numbers, computed once for a data set.

    Attributes:
        matrix: m.
        drift: div(m m'), shape ``n d``.
    """

    matrix: ValueMap
    drift: Tensor

    @property
    def columns(self) -> int:
        """Number r of columns of m."""
        return self.matrix.columns(self.drift)

    def rows(self, index: Tensor | slice) -> "SquaredMatrix":
        """The same for some of the rows: a batch."""
        return SquaredMatrix(self.matrix.rows(index), self.drift[index])


@final
@dataclass(frozen=True, repr=False)
class ScoreMatching(Shown):
    """A loss with its standard error; ``value.backward()`` trains.

    Attributes:
        rows: the loss of every row, ``n``, float64, with the gradients of the score.
    """

    rows: Tensor

    @property
    def value(self) -> Tensor:
        """Mean over rows, a scalar; its zero point depends on the data: only differences mean something."""
        return self.rows.mean()

    @property
    def stderr(self) -> float:
        """Standard error of the mean, from rows and probes together."""
        return float(self.rows.detach().std()) / math.sqrt(len(self.rows)) if len(self.rows) > 1 else math.nan


@checked
def score_matching(
    x: State,
    score: Map,
    *,
    diffusion: DiffusionLike = None,
    divergence: Directions = Exact(),  # noqa: B008  (a frozen value)
    generator: torch.Generator | None = None,
) -> ScoreMatching:
    r"""Hyvarinen's loss with a diffusion matrix: how far a score is from that of the rows' law, up to a constant.

    Args:
        x: rows ``n *d``.
        score: ``State -> State``, the gradient of the model's log-density in x, each row from its own.
        diffusion: a matrix, see :func:`girsanov.stein.as_diffusion`: ``None`` for the identity, a name such as
            ``"robust"``, a function of rows, a flow, whose inverse Jacobian is meant.
        divergence: ``Exact()``, ``Hutchinson(probes)`` or ``Sliced(probes)``.
        generator: keys the random signs of the last two, row by row; ``None`` means seed 0.

    Returns:
        The loss, in the score's units squared; with gradients for the score's parameters.

    Raises:
        InputError: if the matrix carries gradients of parameters, or shapes do not fit.

    Example:
        >>> x = torch.distributions.Normal(0.0, 1.0).sample((2000, 1))
        >>> precision = torch.tensor(0.5, requires_grad=True)
        >>> loss = score_matching(x, lambda x: -precision * x)
        >>> loss.value.backward()
        >>> bool(precision.grad < 0), loss.stderr < 0.01
        (True, True)
    """
    values = squared_matrix(x, diffusion)
    probes = None
    if not isinstance(divergence, Exact):
        shape = (divergence.probes, values.columns)
        probes = keyed_rademacher(keyed_generators(seed_of(generator), "score matching", x), shape, x).transpose(0, 1)
    return ScoreMatching(pointwise_loss(x, score, values, divergence=divergence, probes=probes))


def squared_matrix(x: State, diffusion: DiffusionLike = None) -> SquaredMatrix:
    """Evaluate a diffusion matrix at rows, once; the guard of the loss.

    Args:
        x: rows ``n *d``.
        diffusion: see :func:`girsanov.stein.as_diffusion`.

    Raises:
        InputError: if the matrix carries gradients of parameters.

    Example:
        >>> squared_matrix(torch.tensor([[1.0, 2.0]]), lambda x: x).drift
        tensor([[2., 4.]])
    """
    with torch.enable_grad():
        matrix, drift = as_diffusion(diffusion, x).drift(x.detach())
    if torch.is_grad_enabled() and (matrix.value.requires_grad or drift.requires_grad):
        raise InputError(
            "The diffusion matrix depends on parameters with gradients. The loss drops a term that moves with them, so "
            "its minimum would not be the truth: detach the matrix (flow.requires_grad_(False), or .detach() in the "
            "function), fit it beforehand, or minimise the kernel Stein discrepancy, which has an absolute zero"
        )
    require_nonzero(matrix.value)
    return SquaredMatrix(matrix.detach(), drift.detach())


def pointwise_loss(
    x: State,
    score: Map,
    values: SquaredMatrix,
    *,
    divergence: Directions = Exact(),  # noqa: B008
    probes: Tensor | None = None,
) -> Tensor:
    """The loss of every row, shape ``n``, float64: the form for training loops.

    Args:
        x: rows ``n *d``.
        score: ``State -> State``.
        values: the matrix at these rows.
        divergence: how the derivative is taken.
        probes: random signs ``k n r`` for ``Hutchinson`` and ``Sliced``.

    Raises:
        InputError: if probes are missing.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        s = score_rows(point, score)
        squares, traces = _along(s, point, values, _basis(values, divergence, probes), keep)
    if not bool(traces.detach().any()) and bool((s.detach() != s.detach()[:1]).any()):
        raise InputError(
            "The score varies from row to row, but has no derivative at any: it jumps, as that of a piecewise linear "
            "energy (ReLU) does, and the loss has no minimum to find; take a smooth activation such as Tanh or SiLU"
        )
    share = 1.0 if isinstance(divergence, Exact) else 1.0 / max(1, divergence.probes)
    norm = share * squares
    if isinstance(divergence, Hutchinson):
        norm = values.matrix.transpose().times(s).double().square().sum(1)
    loss = 0.5 * norm + share * traces + (values.drift.double() * s.double()).sum(1)
    return loss if keep else loss.detach()


def gradient_of(potential: Callable[[State], Tensor]) -> Map:
    """The gradient of a scalar per row, differentiable; 0 where it is constant."""

    def slope(x: State) -> State:
        point = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            value = potential(point).sum()
            if not value.requires_grad:
                return torch.zeros_like(x)
            return torch.autograd.grad(value, point, create_graph=True, materialize_grads=True)[0]

    return slope


def _basis(values: SquaredMatrix, divergence: Directions, probes: Tensor | None) -> Tensor:
    """Vectors e, shape ``k n r``."""
    if isinstance(divergence, Exact):
        eye = torch.eye(values.columns, dtype=values.drift.dtype, device=values.drift.device)
        return eye[:, None, :].expand(-1, len(values.drift), -1)
    if probes is None or len(probes) != divergence.probes:
        raise InputError(f"A random divergence needs its probes, shape ({divergence.probes}, n, {values.columns})")
    return probes


def _along(s: Tensor, point: State, values: SquaredMatrix, basis: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Sums over e of (w . s)^2 and of w' grad(w . s), each ``n``, float64."""
    squares = traces = torch.zeros(len(s), dtype=torch.float64, device=s.device)
    for e in basis:
        w = values.matrix.times(e)
        slope = (w * s).sum(1)
        squares = squares + slope.double().square()
        if s.requires_grad:
            (row,) = torch.autograd.grad(
                slope.sum(), point, retain_graph=True, create_graph=keep, materialize_grads=True
            )
            traces = traces + (w * row.flatten(1)).double().sum(1)
    return squares, traces


@checked
def fisher_divergence(x: State, score: Map | Tensor, other: Map | Tensor, diffusion: DiffusionLike = None) -> Tensor:
    r"""The loss with nothing dropped: :math:`\tfrac12 \|m^\top (s - s')\|^2` of every row, shape ``n``, float64.

    Its mean over rows of the law q whose score is ``other`` is the diffusion Fisher divergence of q from the model;
    with m the diffusion coefficient of an SDE that both laws obey it is :math:`-\frac{d}{dt} \mathrm{KL}(q_t \| p_t)`
    (note of paper 4, sections 2.2 and 2.6).

    Args:
        x: rows ``n *d``.
        score: of the model, a function or its values at ``x``.
        other: of the law of the rows, likewise.
        diffusion: see :func:`girsanov.stein.as_diffusion`.

    Example:
        >>> fisher_divergence(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([12.5000], dtype=torch.float64)
    """
    difference = score_rows(x, score) - score_rows(x, other)
    matrix = as_diffusion(diffusion, x).at(x)
    return 0.5 * matrix.transpose().times(difference).double().square().sum(1)


@checked
def riemannian_score_matching(x: State, score: Map, diffusion: DiffusionLike = None) -> ScoreMatching:
    r"""Score matching on the manifold with metric :math:`M = (m m^\top)^{-1}`, for square m.

    With the density :math:`\tilde p = p / \sqrt{\det M}` with respect to the Riemannian volume the loss is
    :math:`\tfrac12 \|\nabla_M \log\tilde p\|_M^2 + \Delta_M \log\tilde p`. It differs from diffusion score matching
    by a term free of the model, and for the matrix of a flow it is, row by row, the plain loss at the flow's image
    (note of paper 4, section 2.4).

    Args:
        x: rows ``n *d``.
        score: ``State -> State``.
        diffusion: see :func:`girsanov.stein.as_diffusion`; square, and twice differentiable.

    Example:
        >>> riemannian_score_matching(torch.zeros(1, 1), lambda x: -x, torch.tensor(2.0)).value.item()
        -4.0
    """
    strategy, values = as_diffusion(diffusion, x), squared_matrix(x, diffusion)
    if values.columns != values.drift.shape[1]:
        raise InputError("A Riemannian metric needs a square diffusion matrix")

    log_volume_slope = gradient_of(lambda point: strategy.at(point).log_det(point))  # of log|det m| = -1/2 log det M

    def intrinsic(point: State) -> State:
        return score(point) + log_volume_slope(point)

    rows = pointwise_loss(x, intrinsic, values)
    slope = log_volume_slope(x).detach().flatten(1)
    # Lap_M f = div(m m' grad f) - grad log|det m| . m m' grad f
    raised = values.matrix.times(values.matrix.transpose().times(slope))
    return ScoreMatching(rows - (raised.double() * score_rows(x, intrinsic).double()).sum(1))
