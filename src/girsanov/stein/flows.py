r"""Scores through flows: diffusion score matching is plain score matching at a flow's image, and the ODE of the change.

For a flow y = F(x) with Jacobian J (note of paper 4, section 2.3)

.. math::
    s_y(F(x)) = J^{-\top} \big(s(x) - \nabla \log|\det J(x)|\big),

which is the generalised score b of the matrix :math:`m = J^{-1}`. For a continuous flow :math:`\dot x = w(t, x)` with
:math:`A = \nabla w` everything moves along trajectories (section 2.6):

.. math::
    \dot m = -m A, \qquad \dot s = -A^\top s - \nabla \mathrm{div}\, w, \qquad
    \dot H = -A^\top H - H A - \sum_k s_k \nabla^2 w_k - \nabla^2 \mathrm{div}\, w,

H being the Hessian of the log-density. The losses here carry a half, the note's do not.
"""

__all__ = [
    "Transported",
    "divergence_change",
    "flow_score_matching",
    "induced_metric",
    "loss_change",
    "push_forward",
    "transport",
]

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from girsanov.display import Shown
from girsanov.linear.fields import Map
from girsanov.linear.inverse_jacobian import FlowMatrix, Velocity, integrate, jacobian_of
from girsanov.stein.matrices import DiffusionLike, as_diffusion, generalised_score
from girsanov.stein.score_matching import ScoreMatching
from girsanov.types import InputError, State, Time


def push_forward(x: State, score: Map | Tensor, flow: Any) -> tuple[State, Tensor]:
    """Rows and scores at a flow's image: plain Stein discrepancies of these are the flow's diffusion discrepancies.

    Args:
        x: rows ``n *d``.
        score: ``State -> State``, or the scores at ``x``.
        flow: any map that :class:`girsanov.stein.FlowMatrix` takes.

    Returns:
        The image of the rows, and the scores of the pushed-forward model there, ``n d``.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> y, score = push_forward(torch.zeros(1, 1), lambda x: -x, ExpTransform())  # log-normal at 1: -1/y
        >>> y, score
        (tensor([[1.]]), tensor([[-1.]]))
    """
    matrix = FlowMatrix(flow)
    b, _ = generalised_score(x, score, matrix)
    return matrix.map(x), b


def flow_score_matching(x: State, score: Map, flow: Any) -> ScoreMatching:
    r"""Plain score matching of the pushed-forward model at the flow's image, without inverting the flow.

    :math:`\tfrac12 \|s_y\|^2 + \mathrm{div}_y s_y = \tfrac12 \|b\|^2 + m : \nabla b` at every row. It equals
    ``score_matching(x, score, diffusion=flow)`` plus a term free of the model, so both have the same gradients, row by
    row (note of paper 4, section 2.3).

    Args:
        x: rows ``n *d``.
        score: ``State -> State``.
        flow: any map that :class:`girsanov.stein.FlowMatrix` takes, without trainable parameters.

    Raises:
        InputError: if the flow carries gradients of parameters.

    Example:
        >>> flow_score_matching(torch.ones(3, 2), lambda x: -x, lambda x: 2.0 * x).value.item()
        -0.25
    """
    matrix = FlowMatrix(flow)
    if torch.is_grad_enabled() and matrix.map(x.detach()).requires_grad:
        raise InputError(
            "The flow has trainable parameters: call flow.requires_grad_(False), and train it by likelihood"
        )
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        b, m = generalised_score(point, score, matrix)
        divergence = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for c in range(b.shape[1]):
            (row,) = torch.autograd.grad(b[:, c].sum(), point, retain_graph=True, create_graph=keep)
            divergence = divergence + (m[:, :, c] * row.flatten(1)).double().sum(1)
        rows = 0.5 * b.double().square().sum(1) + divergence
    return ScoreMatching(rows if keep else rows.detach())


def induced_metric(x: State, diffusion: DiffusionLike) -> Tensor:
    r"""The Riemannian metric :math:`M = (m m^\top)^{-1}`, shape ``n d d``; for a flow the pull-back metric J'J.

    Args:
        x: rows ``n *d``.
        diffusion: see :func:`girsanov.stein.as_diffusion`; of full row rank.

    Example:
        >>> induced_metric(torch.zeros(1, 1), torch.tensor(2.0))
        tensor([[[0.2500]]])
    """
    return torch.linalg.inv(as_diffusion(diffusion, x).at(x).squared().dense(x))


@final
@dataclass(frozen=True, repr=False)
class Transported(Shown):
    """Where a continuous flow has carried rows, the model's score and its Hessian, and the flow's matrix.

    Attributes:
        x: rows ``n d``.
        matrix: m = J^{-1} of the flow so far, ``n d d``.
        score: ``n d``, of the transported model.
        hessian: of its log-density, ``n d d``.
    """

    x: State
    matrix: Tensor
    score: Tensor
    hessian: Tensor

    @property
    def loss(self) -> Tensor:
        """The plain loss of the transported model, ``1/2 |s|^2 + tr H``, shape ``n``, float64."""
        return 0.5 * self.score.double().square().sum(1) + self.hessian.diagonal(dim1=1, dim2=2).double().sum(1)


def transport(velocity: Velocity, x: State, score: Map, *, steps: int = 32, horizon: float = 1.0) -> Transported:
    """Carry a model along a continuous flow by the joint ODE of rows, matrix, score and Hessian.

    Args:
        velocity: w, ``(t, x) -> n d``, three times differentiable.
        x: rows ``n d`` at time 0.
        score: of the model at time 0, ``State -> State``, differentiable.
        steps: Runge-Kutta steps of equal length.
        horizon: end time.

    Example:
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> end = transport(lambda t, x: -x, x, lambda x: -x)
        >>> end.x[0, 0].item(), end.score[0, 0].item()  # x shrinks and its score grows by e
        (0.3678..., -2.718...)
    """
    d = x.shape[1]
    sizes = [d, d * d, d, d * d]

    def unpack(state: Tensor) -> list[Tensor]:
        parts = state.split(sizes, 1)
        return [part.reshape(len(x), d, d) if k % 2 else part for k, part in enumerate(parts)]

    def change(t: Time, state: Tensor) -> Tensor:
        point, matrix, s, hessian = unpack(state)
        parts = _derivatives(velocity, t, point)
        a = parts.jacobian
        curvature = torch.einsum("nk,nkij->nij", s, parts.second)
        moved = [
            parts.value,
            -matrix @ a,
            -torch.einsum("nki,nk->ni", a, s) - parts.slope,
            -a.mT @ hessian - hessian @ a - curvature - parts.slope_jacobian,
        ]
        return torch.cat([part.flatten(1) for part in moved], 1)

    with torch.enable_grad():
        point = x.detach().requires_grad_()
        s = score(point)
        hessian = jacobian_of(s, point, True)
    eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    start = torch.cat([part.detach().flatten(1) for part in (x, eye, s, hessian)], 1)
    return Transported(*unpack(integrate(change, start, steps, horizon)))


def divergence_change(velocity: Velocity, t: Time, x: State, difference: Tensor) -> Tensor:
    r"""Change of :math:`\tfrac12 \|\Delta\|^2` of a difference of two scores along a flow: -D'AD, shape ``n``.

    Its mean over rows of q_t is the change in time of the Fisher divergence of the two transported laws; their
    Kullback-Leibler divergence does not move (note of paper 4, section 2.6, equation 8).

    Args:
        velocity: w, ``(t, x) -> n d``.
        t: time, ``n``.
        x: rows ``n d``.
        difference: of the two scores at the rows, ``n d``.

    Example:
        >>> divergence_change(lambda t, x: -0.5 * x, torch.zeros(1), torch.ones(1, 2), torch.ones(1, 2))
        tensor([1.], dtype=torch.float64)
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        jacobian = jacobian_of(velocity(t, point), point, False).detach()
    return -torch.einsum("ni,nij,nj->n", difference, jacobian, difference).double()


def loss_change(velocity: Velocity, t: Time, state: Transported) -> Tensor:
    r"""Change of the tractable loss along a trajectory, shape ``n``, float64.

    .. math::
        \tfrac{d}{dt} (\tfrac12 \|s\|^2 + \mathrm{tr} H) = -s^\top A s - s \cdot \nabla\mathrm{div}\, w
            - 2\, \mathrm{tr}(H A) - s \cdot \Delta w - \Delta\, \mathrm{div}\, w

    Args:
        velocity: w, ``(t, x) -> n d``.
        t: time, ``n``.
        state: rows, scores and Hessians there.
    """
    parts, s = _derivatives(velocity, t, state.x), state.score
    laplacian = parts.second.diagonal(dim1=2, dim2=3).sum(-1)
    change = (
        -torch.einsum("ni,nij,nj->n", s, parts.jacobian, s)
        - (s * (parts.slope + laplacian)).sum(1)
        - 2.0 * torch.einsum("nij,nji->n", state.hessian, parts.jacobian)
        - parts.slope_jacobian.diagonal(dim1=1, dim2=2).sum(1)
    )
    return change.double()


@dataclass(frozen=True)
class _Derivatives:
    """Of a velocity at rows: w, A_ij = d_j w_i, its derivatives ``n k i j``, the gradient of div w and its Jacobian."""

    value: Tensor
    jacobian: Tensor
    second: Tensor
    slope: Tensor
    slope_jacobian: Tensor


def _derivatives(velocity: Velocity, t: Time, x: State) -> _Derivatives:
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = velocity(t, point)
        jacobian = jacobian_of(value, point, True)
        second = torch.stack([jacobian_of(row, point, True) for row in jacobian.unbind(1)], 1)
        slope = second.diagonal(dim1=1, dim2=2).sum(-1)  # sum_k d_j d_k w_k: entry (n, k, k, j) over k
        slope_jacobian = jacobian_of(slope, point, True)
    parts = (value, jacobian, second, slope, slope_jacobian)
    return _Derivatives(*(part.detach() for part in parts))
