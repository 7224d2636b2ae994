r"""Flows as matrices: :math:`m = J^{-1}`, the inverse Jacobian, with its divergence by Piola's identity.

For y = F(x) with Jacobian J, :math:`\mathrm{div}\, J^{-1} = -J^{-\top} \nabla \log|\det J|` (note of paper 4, section
2.3). Derivatives are taken in reverse mode: nested forward mode through determinants and solves is silently wrong in
PyTorch (section 5 of the note).
"""

__all__ = ["ContinuousFlow", "FlowMatrix", "Velocity", "flow_map", "integrate", "jacobian_of"]

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from girsanov.linear.fields import DiffusionMatrix, Map, carries_gradient, leaf, weighted_gradient
from girsanov.linear.maps import Full
from girsanov.solvers import FixedGrid
from girsanov.types import State, Time

Velocity: TypeAlias = Callable[[Time, State], State]  #: ``(t, x) -> w``, one time per row


def flow_map(flow: Any) -> Map:
    """The map of rows to rows behind a transform: ours (value and log-determinant), zuko's, torch's, or a function.

    Example:
        >>> from girsanov.transforms import Logit
        >>> flow_map(Logit())(torch.tensor([[0.5]]))
        tensor([[0.]])
    """
    inner = getattr(flow, "transform", flow)  # zuko's flows and its distributions carry theirs
    lazy = sys.modules.get("zuko.lazy")

    def apply(x: State) -> State:
        transform = inner() if lazy is not None and isinstance(inner, lazy.LazyTransform) else inner
        image = transform(x)
        return image[0] if isinstance(image, tuple) else image

    return apply


@final
@dataclass(frozen=True)
class FlowMatrix(DiffusionMatrix):
    r"""The inverse Jacobian of a flow: :math:`m = (\nabla F)^{-1}` (note of paper 4, section 2.3).

    Diffusion score matching and flow-induced Stein discrepancies are then the plain ones at the flow's image. The
    Jacobian is taken by d backward passes, so any differentiable map will do.

    Args:
        flow: one of our transforms, a zuko flow or transform, a transform of torch, or any map of rows
            ``n *d`` to rows; it must be injective, and twice differentiable almost everywhere.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> matrix, divergence = FlowMatrix(ExpTransform())(torch.zeros(1, 1))
        >>> matrix, divergence
        (tensor([[[1.]]]), tensor([[-1.]]))
    """

    flow: Any

    def map(self, x: State) -> State:
        """The flow's image of rows ``n *d``."""
        return flow_map(self.flow)(x)

    def matrix(self, x: State) -> Tensor:
        """The inverse Jacobian ``n d d``, differentiable in ``x`` where gradients are on."""
        return torch.linalg.inv(_jacobian(self.map, x))

    def divergence(self, x: State) -> tuple[Full, Tensor]:
        """By Piola's identity: one backward pass more than the Jacobian."""
        attached = carries_gradient(self.map, x)
        with torch.enable_grad():
            point = leaf(x, attached)
            jacobian = _jacobian(self.map, point)
            matrix = Full(torch.linalg.inv(jacobian))
            # grad log|det J|_i = sum_ab (J^{-1})_ba d_i J_ab; with J^{-1} held fixed this has the right value, and with
            # gradients on the right gradient too, since the product is linear in what is held
            transposed = matrix.transpose() if attached else matrix.transpose().detach()
            divergence = -transposed.times(weighted_gradient(jacobian, transposed.value, point, attached))
        return (matrix, divergence) if attached else (matrix.detach(), divergence.detach())


@final
@dataclass(frozen=True)
class ContinuousFlow:
    r"""The map of a velocity field from time 0 to ``horizon``, by classical Runge-Kutta steps of equal length.

    The discretised map is itself smooth, and its Jacobian is taken by differentiating the steps: the identities of the
    flow's matrix then hold to rounding, whatever the number of steps.

    Args:
        velocity: w, ``(t, x) -> n d``, differentiable.
        steps: number of steps.
        horizon: end time.

    Example:
        >>> flow = ContinuousFlow(lambda t, x: -x, steps=20)
        >>> flow(torch.ones(1, 1, dtype=torch.float64)).item()
        0.3678...
    """

    velocity: Velocity
    steps: int = 16
    horizon: float = 1.0

    def __call__(self, x: State) -> State:
        """The image of rows ``n d``."""
        return integrate(self.velocity, x, self.steps, self.horizon)


def _jacobian(field: Map, x: State) -> Tensor:
    """J_ij = d_j F_i at rows, ``n d d``, by reverse mode; with gradients only where F or x carries them."""
    attached = carries_gradient(field, x)
    with torch.enable_grad():
        point = leaf(x, attached)
        return jacobian_of(field(point).flatten(1), point, attached)


def jacobian_of(value: Tensor, point: State, create_graph: bool) -> Tensor:
    """Derivatives d_j of the components i of ``value``, ``n i j``; 0 where nothing depends on ``point``."""
    rows = [weighted_gradient(y, torch.ones_like(y), point, create_graph) for y in value.unbind(1)]
    return torch.stack(rows, 1)


def integrate(field: Callable[[Tensor, State], Tensor], state: Tensor, steps: int, horizon: float) -> Tensor:
    """Fourth-order Runge-Kutta from 0 to the horizon, differentiable; ``field`` takes one time per row."""
    grid = torch.linspace(0.0, horizon, steps + 1, dtype=torch.float64, device=state.device)
    nothing = state.new_zeros(1, len(state))
    return FixedGrid(steps).solve(lambda t, y, rows: (field(t.to(y.dtype), y), nothing), state, grid).state
