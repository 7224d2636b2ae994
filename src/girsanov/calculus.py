r"""Pure functions of tensors that every layer shares: sums, broadcasting, divergences, keyed noise.

Divergences are taken by reverse mode, which is faster than forward mode in eager PyTorch and works
through attention. The exact divergence of a field :math:`f: \mathbb{R}^d \to \mathbb{R}^d` is the sum of d
vector-Jacobian products; Hutchinson's estimator is :math:`\mathrm{div} f \approx \frac1m \sum_j v_j^\top
\partial_x f\, v_j` with Rademacher probes :math:`v_j`, whose variance is lower than with Gaussian ones.

Keyed noise makes a row's draws a function of (seed, purpose, content of the row) alone: neither the batch
it arrives in, nor its order, nor the chunking can change them.
"""

__all__ = [
    "Exact",
    "Hutchinson",
    "expand_as_rows",
    "keyed_generators",
    "keyed_normal",
    "keyed_rademacher",
    "keyed_uniform",
    "seed_of",
    "sum_event",
]

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from girsanov.types import Nats, State

Field = Callable[[State], State]


def expand_as_rows(t: Tensor, x: State) -> Tensor:
    """Reshape one value per row, shape ``b``, so that it broadcasts over rows ``b *d``; dtype of ``x``.

    Example:
        >>> expand_as_rows(torch.ones(5), torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 1, 1])
    """
    return t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def sum_event(x: State) -> Nats:
    """Sum over all but the first axis, accumulated in float64.

    Example:
        >>> sum_event(torch.ones(2, 3, 4))
        tensor([12., 12.], dtype=torch.float64)
    """
    return x.flatten(1).sum(1, dtype=torch.float64)


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


def seed_of(generator: torch.Generator | None) -> int:
    """Read a generator once for a 63-bit seed; ``None`` means seed 0.

    Example:
        >>> seed_of(None)
        0
        >>> seed_of(torch.Generator().manual_seed(1)) == seed_of(torch.Generator().manual_seed(1))
        True
    """
    if generator is None:
        return 0
    high = torch.iinfo(torch.int64).max
    return int(torch.randint(high, (), generator=generator, device=generator.device))


def keyed_generators(seed: int, purpose: str, rows: State, round_: int = 0) -> list[np.random.Generator]:
    """One counter-based generator per row, keyed by (seed, purpose, content of the row, round).

    Args:
        seed: any integer.
        purpose: a word that separates the streams of different uses.
        rows: shape ``n *d``; equal rows get equal streams, whatever their dtype or position.
        round_: successive rounds are independent; used to draw more replicates later.
    """
    content = np.ascontiguousarray(rows.detach().double().cpu().numpy().reshape(len(rows), -1)) + 0.0
    salt = hashlib.blake2b(f"{seed}|{purpose}|{round_}".encode(), digest_size=32).digest()
    generators = []
    for row in content:
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, key=salt).digest()
        key = np.frombuffer(digest, dtype=np.uint64)
        generators.append(np.random.Generator(np.random.Philox(key=key)))
    return generators


def _numpy_dtype(dtype: torch.dtype) -> type:
    return np.float64 if dtype == torch.float64 else np.float32


def keyed_normal(generators: Sequence[np.random.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal draws, shape ``n *shape``, with dtype and device of ``like``.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0]])
        >>> alone = keyed_normal(keyed_generators(0, "demo", rows[1:]), (3,), rows)
        >>> both = keyed_normal(keyed_generators(0, "demo", rows), (3,), rows)
        >>> torch.equal(alone[0], both[1])
        True
    """
    out = np.empty((len(generators), *shape), dtype=_numpy_dtype(like.dtype))
    for generator, row in zip(generators, out, strict=True):
        generator.standard_normal(out=row, dtype=out.dtype.type)
    return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)


def keyed_uniform(generators: Sequence[np.random.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform draws on [0, 1) in float64, shape ``n *shape``, on the device of ``like``."""
    out = np.empty((len(generators), *shape))
    for generator, row in zip(generators, out, strict=True):
        generator.random(out=row)
    return torch.from_numpy(out).to(like.device)


def keyed_rademacher(generators: Sequence[np.random.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Random signs, shape ``n *shape``, with dtype and device of ``like``."""
    uniform = keyed_uniform(generators, shape, like)
    return (2.0 * (uniform < 0.5).to(like.dtype)) - 1.0
