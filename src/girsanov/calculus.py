r"""Pure functions of tensors that every layer shares: sums, broadcasting, divergences, keyed noise.

Divergences are taken by reverse mode, which is faster than forward mode in eager PyTorch and works
through attention. The exact divergence of a field :math:`f: \mathbb{R}^d \to \mathbb{R}^d` is the sum of d
vector-Jacobian products; Hutchinson's estimator is :math:`\mathrm{div} f \approx \frac1m \sum_j v_j^\top
\partial_x f\, v_j` with Rademacher probes :math:`v_j`, whose variance is lower than with Gaussian ones.

Keyed noise makes a row's draws a function of (seed, purpose, content of the row) alone: neither the batch
it arrives in, nor its order, nor the chunking can change them. A digest of the content keys a counter-based
cipher, which is evaluated for all rows of a batch at once. It is for evaluating rows: equal rows get equal noise, so
that whatever is fitted to rows or chosen by them draws from a :func:`stream` instead, afresh for every copy.
"""

__all__ = [
    "LANES",
    "Exact",
    "Hutchinson",
    "KeyedStreams",
    "expand_as_rows",
    "keyed_generators",
    "keyed_normal",
    "keyed_rademacher",
    "keyed_uniform",
    "normal_blocks",
    "row_blocks",
    "seed_of",
    "source_of",
    "stream",
    "sum_event",
]

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from girsanov.types import Nats, State, require_counts, require_generator

Field = Callable[[State], State]

LANES = 32  # vectorised functions round what is left over from so many otherwise, on some kernels
SLAB = 2**14  # blocks of random words computed together: what stays in a processor's cache


def expand_as_rows(t: Tensor, x: State) -> Tensor:
    """Reshape one value per row, shape ``b``, so that it broadcasts over rows ``b *d``; dtype and device of ``x``.

    Example:
        >>> expand_as_rows(torch.ones(5), torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 1, 1])
    """
    return t.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def row_blocks(n: int, rows: int, device: torch.device | None = None) -> Iterator[tuple[Tensor, int]]:
    """Indices of ``n`` rows in blocks of one size, the last filled up with its last row, and how many are new in each.

    A row evaluated in such blocks does not depend on the number of rows: products of matrices of another shape
    round otherwise. From 32 rows on, the size is rounded down to a multiple of 32, so that vectorised functions leave
    no rest, which some round otherwise too.

    Example:
        >>> [(index.tolist(), count) for index, count in row_blocks(5, 3)]
        [([0, 1, 2], 3), ([3, 4, 4], 2)]
        >>> [len(index) for index, count in row_blocks(5, 40)]
        [32]
    """
    rows = max(1, rows if rows < LANES else rows // LANES * LANES)
    for start in range(0, n, rows):
        yield torch.arange(start, start + rows, device=device).clamp_max(n - 1), min(rows, n - start)


def normal_blocks(x: State, generator: torch.Generator) -> Callable[[int], Tensor]:
    """A source of standard normal blocks like rows ``x``, drawn on the CPU: ``count -> count b *d``.

    Example:
        >>> normal_blocks(torch.zeros(5, 3), torch.Generator().manual_seed(0))(2).shape
        torch.Size([2, 5, 3])
    """

    def noise(count: int) -> Tensor:
        return torch.randn(count, *x.shape, generator=generator, dtype=x.dtype).to(x.device)

    return noise


def sum_event(x: State) -> Nats:
    """Sum over all but the first axis, accumulated in float64.

    Example:
        >>> sum_event(torch.ones(2, 3, 4))
        tensor([12., 12.], dtype=torch.float64)
    """
    return x.flatten(1).sum(1, dtype=torch.float64)


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


def source_of(generator: torch.Generator | None) -> torch.Generator:
    """The generator itself; ``None`` means a fresh one with seed 0, as everywhere in the package.

    Raises:
        InputError: for anything else.

    Example:
        >>> torch.equal(torch.rand(2, generator=source_of(None)), torch.rand(2, generator=source_of(None)))
        True
    """
    require_generator(generator)
    return torch.Generator().manual_seed(0) if generator is None else generator


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
    generator = source_of(generator)
    high = torch.iinfo(torch.int64).max
    return int(torch.randint(high, (), generator=generator, device=generator.device))


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator for one use of a seed; streams of different purposes are independent.

    Example:
        >>> a, b = stream(0, "training rows"), stream(0, "held-out rows")
        >>> bool(torch.rand((), generator=a) == torch.rand((), generator=b))
        False
    """
    digest = hashlib.blake2b(f"{seed}|{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@final
@dataclass
class KeyedStreams:
    """One counter-based random stream per row; each draw advances all of them by the same number of blocks.

    Attributes:
        keys: shape ``n 4``, 32-bit words in uint64: the cipher's key and the upper half of its counter.
        position: blocks drawn so far.
    """

    keys: np.ndarray
    position: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> "KeyedStreams":
        return KeyedStreams(self.keys[rows], self.position)

    def words(self, count: int) -> np.ndarray:
        """The next ``count`` words of every stream, uint32 ``n count``."""
        blocks = -(-count // 4)
        counters = np.arange(self.position, self.position + blocks, dtype=np.uint64)
        self.position += blocks
        out = np.empty((len(self), 4 * blocks), dtype=np.uint32)
        rows = max(1, SLAB // max(blocks, 1))
        for start in range(0, len(self), rows):
            out[start : start + rows] = _philox(self.keys[start : start + rows], counters)
        return out[:, :count]

    def uniforms(self, count: int) -> np.ndarray:
        """Uniform draws on [0, 1) with 53 bits, float64 ``n count``."""
        words = self.words(2 * count).reshape(len(self), count, 2)
        return ((words[..., 0] >> 5) * 2.0**26 + (words[..., 1] >> 6)) * 2.0**-53

    def normals(self, count: int, dtype: type) -> np.ndarray:
        """Standard normal draws by the Box-Muller transform, ``n count``."""
        half = (count + 1) // 2
        if dtype == np.float64:
            uniforms = 1.0 - self.uniforms(2 * half)
        else:
            uniforms = (self.words(2 * half).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
        radius = np.sqrt(-2.0 * np.log(uniforms[:, :half]))
        angle = uniforms[:, half:] * dtype(2.0 * np.pi)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :count]


def _philox(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011) over rows and counters, uint32 ``n 4m``."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    shape = (len(keys), len(counters))
    x0, x1 = np.broadcast_to(counters & low, shape), np.broadcast_to(counters >> half, shape)
    x2, x3 = (np.broadcast_to(keys[:, j, None], shape) for j in (2, 3))
    k0, k1 = keys[:, 0, None], keys[:, 1, None]
    for _ in range(10):
        left, right = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x2 = (right >> half) ^ x1 ^ k0, (left >> half) ^ x3 ^ k1
        x1, x3 = right & low, left & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    out = np.empty((*shape, 4), dtype=np.uint32)
    for j, words in enumerate((x0, x1, x2, x3)):
        out[..., j] = words
    return out.reshape(len(keys), -1)


def keyed_generators(seed: int, purpose: str, rows: State, round_: int = 0) -> KeyedStreams:
    """One counter-based stream per row, keyed by (seed, purpose, content of the row, round).

    Args:
        seed: any integer.
        purpose: a word that separates the streams of different uses.
        rows: shape ``n *d``; equal rows get equal streams, whatever their dtype or position.
        round_: successive rounds are independent; used to draw more replicates later.
    """
    content = np.ascontiguousarray(rows.detach().double().cpu().numpy().reshape(len(rows), -1)) + 0.0
    salted = hashlib.blake2b(f"{seed}|{purpose}|{round_}".encode(), digest_size=16)
    digests = []
    for row in content:
        digest = salted.copy()
        digest.update(row)
        digests.append(digest.digest())
    return KeyedStreams(np.frombuffer(b"".join(digests), dtype="<u4").reshape(-1, 4).astype(np.uint64))


def _drawn(values: np.ndarray, shape: Sequence[int], like: Tensor) -> Tensor:
    # cloned, since products of matrices round differently at addresses that only PyTorch's own memory aligns
    return torch.from_numpy(np.ascontiguousarray(values)).clone().reshape(len(values), *shape).to(like.device)


def keyed_normal(generators: KeyedStreams, shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal draws, shape ``n *shape``, with dtype and device of ``like``.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0]])
        >>> alone = keyed_normal(keyed_generators(0, "demo", rows[1:]), (3,), rows)
        >>> both = keyed_normal(keyed_generators(0, "demo", rows), (3,), rows)
        >>> torch.equal(alone[0], both[1])
        True
    """
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    return _drawn(generators.normals(math.prod(shape), dtype), shape, like).to(like.dtype)


def keyed_uniform(generators: KeyedStreams, shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform draws on [0, 1) in float64, shape ``n *shape``, on the device of ``like``."""
    return _drawn(generators.uniforms(math.prod(shape)), shape, like)


def keyed_rademacher(generators: KeyedStreams, shape: Sequence[int], like: Tensor) -> Tensor:
    """Random signs, shape ``n *shape``, with dtype and device of ``like``."""
    signs = (generators.words(math.prod(shape)) >> 31).astype(np.float32) * 2.0 - 1.0
    return _drawn(signs, shape, like).to(like.dtype)
