r"""What a Schroedinger bridge in closed form offers: two drifts, marginals, draws, and the pair that they make.

The bridge from mu to nu over a linear reference :math:`dX = a X\, dt + g\, dW` is the law of least KL to the
reference among those with the two ends. With Hopf and Cole's potentials, :math:`q_t = \psi_t \hat\psi_t`,

.. math::
    u = a x + g^2 \nabla \log \psi_t, \qquad v = a x - g^2 \nabla \log \hat\psi_t = u - g^2 \nabla \log q_t,

both written forward in t (note of paper 3, section 2.5): u moves draws of mu to nu, and v, run from the horizon down,
moves draws of nu to mu along the same paths. Every bound is tight for this pair.
"""

__all__ = ["Bridge", "ClosedBridge", "ForwardProcess", "require_one_shape"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.bridges.reference import Clock, pinned_path
from girsanov.densities import Density
from girsanov.inputs import checked
from girsanov.pairs import Pair
from girsanov.processes import LinearProcess, Process
from girsanov.randomness import source_of
from girsanov.types import InputError, State, Time


class Bridge(nn.Module, ABC):
    """A Schroedinger bridge whose plan and forward drift are closed forms.

    To implement one, define ``forward_drift`` and ``sample_coupling``.

    Args:
        reference: the linear process that the bridge stays close to.
        start: law at t = 0.
    """

    def __init__(self, reference: LinearProcess, start: Density) -> None:
        super().__init__()
        self.reference, self.start = reference, start
        self.clock = Clock(reference)

    @property
    def horizon(self) -> float:
        """Time of the end."""
        return self.reference.horizon

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row."""
        return self.start.event_shape

    @abstractmethod
    def forward_drift(self, t: float | Time, x: State) -> State:
        """Drift u of the process from start to end, shape ``b *d``; one time for all rows or one for each."""

    @abstractmethod
    def sample_coupling(self, n: int, *, generator: torch.Generator | None = None) -> tuple[State, State]:
        """Draw both ends of ``n`` paths, float64, each ``n *d``."""

    @checked
    def sample_path(self, times: Tensor, n: int, *, generator: torch.Generator | None = None) -> State:
        """Draw ``n`` paths at increasing times, exactly whatever the grid, shape ``m n *d``, float64."""
        generator = source_of(generator)
        x0, x1 = self.sample_coupling(n, generator=generator)
        return pinned_path(self.reference, times, x0, x1, generator=generator)

    def _rows(self, t: float | Time, x: State) -> tuple[Tensor, State]:
        """One float64 time for each float64 row."""
        return torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x)), x.double()


class ClosedBridge(Bridge):
    """A Schroedinger bridge whose two drifts and marginals are closed forms.

    To implement one, define ``backward_drift`` and ``marginal`` too.

    Args:
        reference: the linear process that the bridge stays close to.
        start: law at t = 0.
        end: law at the horizon.
    """

    def __init__(self, reference: LinearProcess, start: Density, end: Density) -> None:
        super().__init__(reference, start)
        self.end = end

    @abstractmethod
    def backward_drift(self, t: float | Time, x: State) -> State:
        """Drift v of the process from end to start, written forward in t, shape ``b *d``."""

    @abstractmethod
    def marginal(self, t: float | Tensor) -> Density:
        """Law of the bridge at one time."""

    def pair(self) -> Pair:
        """The two processes with the end as the prior: its bounds on the log-density of the start are tight."""
        return Pair(ForwardProcess(self), self.backward_drift, self.end)


@final
class ForwardProcess(Process):
    """A bridge, learned or in closed form, as a process from its start to its end."""

    def __init__(self, bridge: Any) -> None:
        super().__init__()
        self.bridge, self.horizon = bridge, bridge.reference.horizon

    def drift(self, t: Time, x: State, *condition: Tensor) -> State:
        return self.bridge.forward_drift(t, x, *condition)

    def diffusion(self, t: Time, x: State) -> Tensor:
        return self.bridge.reference.diffusion(t, x)


def require_one_shape(what: str, first: Sequence[int], second: Sequence[int]) -> None:
    """Refuse two event shapes that differ.

    Raises:
        InputError: naming both.
    """
    if tuple(first) != tuple(second):
        raise InputError(f"{what} need one event shape; got {tuple(first)} and {tuple(second)}")
