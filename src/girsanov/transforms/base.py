r"""Invertible maps of data space with their log-determinants, so that densities stay in data units.

A transform maps rows x to y with :math:`\log p_X(x) = \log p_Y(y) + \log|\det \partial y / \partial x|`.
Dequantisation is the one that draws: it spreads a lattice point uniformly over its cell of volume h, and
:math:`\log P(x) \ge E_u[\log p_Y(y)] + \log h`, so its "log-determinant" is log h (note of paper 1, section 2.10).
"""

__all__ = ["Compose", "Transform"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.types import State


class Transform(nn.Module, ABC):
    """An invertible map with a log-determinant.

    To implement one, define ``forward``, ``inverse`` and ``config`` (the constructor's arguments, as JSON), and
    register tensors as buffers.
    """

    @abstractmethod
    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """Map rows ``n *d`` to model space.

        Args:
            x: rows in data units.
            uniform: draws on [0, 1) of the shape of ``x`` for transforms that dequantise; others ignore it.

        Returns:
            Rows in model space, and log-determinants ``n`` in float64.
        """

    @abstractmethod
    def inverse(self, y: State) -> State:
        """Map model space back to data units."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild the transform, before its buffers are loaded."""


class Compose(Transform):
    """Transforms applied in order.

    Args:
        transforms: the transforms.
    """

    def __init__(self, transforms: Sequence[Transform] = ()) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    @property
    def members(self) -> list[Transform]:
        """The transforms in order."""
        return [member for member in self.transforms if isinstance(member, Transform)]

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """Apply all, adding up the log-determinants."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for transform in self.members:
            x, log_det = transform(x, uniform)
            total = total + log_det
        return x, total

    def inverse(self, y: State) -> State:
        """Undo all, last first."""
        for transform in reversed(self.members):
            y = transform.inverse(y)
        return y

    def config(self) -> dict[str, Any]:
        """Not used: a chain is saved member by member."""
        return {}
