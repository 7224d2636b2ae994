r"""Pure functions of tensors that every layer shares: sums, broadcasting, divergences.

Divergences are taken by reverse mode, which is faster than forward mode in eager PyTorch and works
through attention. The exact divergence of a field :math:`f: \mathbb{R}^d \to \mathbb{R}^d` is the sum of d
vector-Jacobian products; Hutchinson's estimator is :math:`\mathrm{div} f \approx \frac1m \sum_j v_j^\top
\partial_x f\, v_j` with Rademacher probes :math:`v_j`, whose variance is lower than with Gaussian ones.
"""

__all__ = [
    "Exact",
    "Field",
    "Hutchinson",
    "Noised",
    "expand_as_rows",
    "gain",
    "noised",
    "sum_event",
    "where_rows",
]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from girsanov.rows import Calls
from girsanov.types import Nats, State, require_counts

Field = Callable[[State], State]  #: a vector field


def expand_as_rows(t: Tensor, x: State) -> Tensor:
    """Reshape one value per row, shape ``b``, so that it broadcasts over rows ``b *d``; dtype and device of ``x``.

    Example:
        >>> expand_as_rows(torch.ones(5), torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 1, 1])
    """
    return t.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def where_rows(mask: Tensor, x: State, other: State) -> State:
    """The rows of ``x`` where ``mask``, shape ``b``, those of ``other`` elsewhere.

    Example:
        >>> where_rows(torch.tensor([True, False]), torch.ones(2, 3), torch.zeros(2, 3)).sum(1)
        tensor([3., 0.])
    """
    return torch.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, other)


def sum_event(x: State) -> Nats:
    """Sum over all but the first axis, accumulated in float64.

    Example:
        >>> sum_event(torch.ones(2, 3, 4))
        tensor([12., 12.], dtype=torch.float64)
    """
    return x.flatten(1).sum(1, dtype=torch.float64)


def noised(log_snr: Tensor, x: State, eps: State) -> State:
    r"""Variance-preserving states :math:`\sqrt{\mathrm{sigmoid}(l)}\, x + \sqrt{\mathrm{sigmoid}(-l)}\, \varepsilon`.

    Args:
        log_snr: levels l, ``b`` or one for all rows.
        x: rows ``b *d``, or one for all noise.
        eps: noise ``b *d``, whose dtype the states have.

    Example:
        >>> noised(torch.zeros(1), torch.ones(1, 2), torch.zeros(1, 2)).square()
        tensor([[0.5000, 0.5000]])
    """
    alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
    return expand_as_rows(alpha, eps) * x.to(eps.dtype) + expand_as_rows(sigma, eps) * eps


def gain(error: State, delta: State) -> Nats:
    r"""What a correction gains, half of :math:`\|e\|^2 - \|e - \delta\|^2` per row, without cancellation.

    Args:
        error: of a noise prediction, ``b *d``.
        delta: what another prediction adds to it.

    Example:
        >>> gain(torch.ones(1, 2), torch.ones(1, 2))
        tensor([1.], dtype=torch.float64)
    """
    return 0.5 * sum_event(delta * (2.0 * error - delta))


@dataclass(frozen=True)
class Noised:
    """Noised rows and how they came about: what a noise prediction is evaluated at and compared with.

    Attributes:
        log_snr: levels ``b``, float64.
        z: variance-preserving states ``b *d``.
        eps: the noise in them, ``b *d``.
        condition: conditions ``b ...``, or ``None``.
        signs: Rademacher vectors ``m b *d`` for a divergence, or ``None`` where none are drawn.
        calls: how a network sees them; ``None`` for all at once.
    """

    log_snr: Tensor
    z: State
    eps: State
    condition: Tensor | None = None
    signs: Tensor | None = None
    calls: Calls | None = None

    @classmethod
    def of(
        cls, log_snr: Tensor, x: State, eps: State, condition: Tensor | None = None, signs: Tensor | None = None
    ) -> "Noised":
        """Clean rows ``b *d`` under given noise; see :func:`noised`."""
        return cls(log_snr, noised(log_snr, x, eps), eps, condition, signs)

    def take(self, index: Tensor) -> "Noised":
        """Those of an index ``k``, to which conditions and signs are given anew."""
        return Noised(self.log_snr[index], self.z[index], self.eps[index])


@runtime_checkable
class Divergence(Protocol):
    """A strategy that evaluates a field and its divergence together."""

    def __call__(self, field: Field, x: State, probes: Tensor | None) -> tuple[State, Tensor]:
        """Return ``f(x)`` of shape ``b *d`` and divergences of shape ``m b``, one row per probe."""
        ...

    @property
    def probes(self) -> int:
        """Number of random probes per row; 0 where nothing is random."""
        ...

    def cost(self, event_dim: int) -> int:
        """Network evaluations that one call costs, one backward pass counting as two."""
        ...


@final
@dataclass(frozen=True)
class Exact:
    r"""Exact divergence in any event shape: one vector-Jacobian product per dimension.

    Example:
        >>> field = lambda x: x * torch.tensor([1.0, 2.0, 3.0])
        >>> Exact()(field, torch.ones(2, 3))[1]
        tensor([[6., 6.]], dtype=torch.float64)
    """

    probes: int = 0

    def __call__(self, field: Field, x: State, probes: Tensor | None = None) -> tuple[State, Tensor]:
        """Evaluate ``field`` and its divergence, shapes ``b *d`` and ``1 b``."""
        closed_form = getattr(field, "with_divergence", None)
        if closed_form is not None:
            value, divergence = closed_form(x)
            return value, divergence.double()[None]
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            value = field(point)
            if not value.requires_grad:  # a constant field has no graph
                return value, x.new_zeros(1, len(x), dtype=torch.float64)
            columns = value.flatten(1)
            total = x.new_zeros(len(x), dtype=torch.float64)
            for i in range(columns.shape[1]):
                (row,) = torch.autograd.grad(columns[:, i].sum(), point, retain_graph=True, create_graph=keep)
                total = total + row.flatten(1)[:, i].double()
        return (value, total[None]) if keep else (value.detach(), total.detach()[None])

    def cost(self, event_dim: int) -> int:
        """One forward pass and d backward passes."""
        return 1 + 2 * event_dim


@final
@dataclass(frozen=True)
class Hutchinson:
    r"""Unbiased divergence from ``probes`` Rademacher vectors per row.

    Args:
        probes: number m of probes; two or more give the standard error of the trace.

    Example:
        >>> field = lambda x: x * torch.tensor([1.0, 2.0, 3.0])
        >>> signs = torch.tensor([1.0, -1.0, 1.0]).expand(4, 2, 3)
        >>> Hutchinson(probes=4)(field, torch.ones(2, 3), signs)[1].shape
        torch.Size([4, 2])
    """

    probes: int = 8

    def __post_init__(self) -> None:
        require_counts(self, "probes")

    def __call__(self, field: Field, x: State, probes: Tensor | None) -> tuple[State, Tensor]:
        """Evaluate ``field`` and one divergence per probe, shapes ``b *d`` and ``m b``."""
        if probes is None:
            raise ValueError("Hutchinson's estimator needs its probes, shape (m, b, *d)")
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            value = field(point)
            if not value.requires_grad:
                return value, x.new_zeros(len(probes), len(x), dtype=torch.float64)
            terms = []
            for probe in probes:
                (product,) = torch.autograd.grad(value, point, probe, retain_graph=True, create_graph=keep)
                terms.append(sum_event(product * probe))
        stacked = torch.stack(terms)
        return (value, stacked) if keep else (value.detach(), stacked.detach())

    def cost(self, event_dim: int) -> int:
        """One forward pass and one backward pass per probe."""
        return 1 + 2 * self.probes
