r"""Seeds, streams and keyed noise: where every random number of the package comes from.

A seed becomes independent generators by :func:`stream` and :func:`mix`. Keyed noise makes a row's draws a function of
(seed, purpose, content of the row) alone: neither the batch it arrives in, nor its order, nor the chunking can change
them. A digest of the content, to the digits that a file keeps, keys a counter-based cipher, which is evaluated for all
rows of a batch at once. It is for evaluating rows: equal rows get equal noise, so that whatever is fitted to rows or
chosen by them draws from a :func:`stream` instead, afresh for every copy.
"""

__all__ = [
    "KeyedStreams",
    "SharedGenerator",
    "apart",
    "drawn_rows",
    "keyed_generators",
    "keyed_normal",
    "keyed_rademacher",
    "keyed_uniform",
    "mix",
    "normal_blocks",
    "normal_like",
    "seed_of",
    "source_of",
    "stream",
    "uniform_like",
    "whole_batch",
]

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from girsanov.types import State, require_generator
from girsanov.workers import workers

MASK = (1 << 64) - 1
DIGITS, ALL_DIGITS = 23, 32  # binary, of a row's numbers that key its noise: of small ones, and at most of large ones
SLAB = 2**14  # blocks of random words computed together: what stays in a processor's cache


def mix(seed: int, *counters: int) -> int:
    """A 64-bit hash of a seed and counters (the finaliser of SplitMix64, applied once per counter).

    Args:
        seed: any whole number.
        counters: whole numbers, such as a purpose and a step.

    Returns:
        A whole number in [0, 2**64).

    Example:
        >>> mix(0, 1) == mix(0, 1), mix(0, 1) == mix(1, 0)
        (True, False)
    """
    value = seed & MASK
    for counter in counters:
        value = (value + 0x9E3779B97F4A7C15 * (2 * counter + 1)) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        value ^= value >> 31
    return value


@final
class SharedGenerator(torch.Generator):
    """A generator on the CPU, for one of several processes that share the rows of a batch.

    Attributes:
        first: the process, which has the rows ``first``, ``first + every``, ... of the batch.
        every: number of processes.
        count: rows of the whole batch, or ``None`` where nothing is shared.

    Example:
        >>> generator = SharedGenerator()
        >>> generator.first, generator.every, generator.count = 1, 2, 5
        >>> drawn_rows(torch.arange, 2, generator)
        tensor([1, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.every = 0, 1
        self.count: int | None = None


def drawn_rows(draw: Callable[[int], Tensor], rows: int, generator: torch.Generator | None, *, dim: int = 0) -> Tensor:
    """What is drawn for rows: where processes share a batch, the draws of this one's rows among those of all.

    A batch then has the same noise, however many processes there are.

    Args:
        draw: from a number of rows to the draws of them.
        rows: how many rows there are in this process.
        generator: that ``draw`` uses.
        dim: the axis of the draws along which rows are.
    """
    if not isinstance(generator, SharedGenerator) or generator.count is None:
        return draw(rows)
    every = torch.arange(generator.first, generator.count, generator.every)
    return draw(generator.count).index_select(dim, every)


def normal_like(x: State, generator: torch.Generator | None, *, blocks: Sequence[int] = ()) -> State:
    """Standard normal draws for rows ``b *d``, made on the CPU, shape ``*blocks b *d``.

    Without a generator PyTorch's own is used.

    Example:
        >>> normal_like(torch.zeros(5, 3), torch.Generator().manual_seed(0), blocks=(2,)).shape
        torch.Size([2, 5, 3])
    """

    def draw(rows: int) -> Tensor:
        return torch.randn(*blocks, rows, *x.shape[1:], generator=generator, dtype=x.dtype)

    return drawn_rows(draw, len(x), generator, dim=len(blocks)).to(x.device)


def uniform_like(x: State, generator: torch.Generator) -> State:
    """Uniform draws on [0, 1) for rows ``b *d``, made on the CPU."""

    def draw(rows: int) -> Tensor:
        return torch.rand(rows, *x.shape[1:], generator=generator, dtype=x.dtype)

    return drawn_rows(draw, len(x), generator).to(x.device)


def whole_batch(part: Tensor, generator: torch.Generator) -> Tensor:
    """A value of every row of a batch, of which this process has a part; the part itself where nothing is shared."""
    if not isinstance(generator, SharedGenerator) or generator.count is None:
        return part
    return workers().whole(part, generator.count)


def normal_blocks(x: State, generator: torch.Generator) -> Callable[[int], Tensor]:
    """A source of standard normal blocks like rows ``x``, drawn on the CPU: ``count -> count b *d``.

    Example:
        >>> normal_blocks(torch.zeros(5, 3), torch.Generator().manual_seed(0))(2).shape
        torch.Size([2, 5, 3])
    """

    def noise(count: int) -> Tensor:
        return normal_like(x, generator, blocks=(count,))

    return noise


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
    """Read a generator once for a 63-bit seed; ``None`` means a generator with seed 0, as ``--seed 0`` does.

    Example:
        >>> seed_of(None) == seed_of(torch.Generator().manual_seed(0))
        True
        >>> seed_of(torch.Generator().manual_seed(1)) == seed_of(torch.Generator().manual_seed(1))
        True
    """
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
        rows: shape ``n *d``; rows that are equal up to the last digits get equal streams, whatever their dtype or
            position, so that a row which was written to a file and read again keeps its noise.
        round_: successive rounds are independent; used to draw more replicates later.
    """
    content = _rounded(np.ascontiguousarray(rows.detach().double().cpu().numpy().reshape(len(rows), -1)))
    salted = hashlib.blake2b(f"{seed}|{purpose}|{round_}".encode(), digest_size=16)
    digests = []
    for row in content:
        digest = salted.copy()
        digest.update(row)
        digests.append(digest.digest())
    return KeyedStreams(np.frombuffer(b"".join(digests), dtype="<u4").reshape(-1, 4).astype(np.uint64))


def _rounded(content: np.ndarray) -> np.ndarray:
    """Numbers to seven digits, those above 1 to as many after the point, but to no more than ten in all.

    An offset then ties no rows together that differ by more than 2e-10 of it.
    """
    _, exponent = np.frexp(content)
    finest = np.where(exponent <= 0, exponent - DIGITS, np.maximum(-DIGITS, exponent - ALL_DIGITS))
    return np.ldexp(np.rint(np.ldexp(content, -finest)), finest) + 0.0  # without the sign of zeros


def apart(rows: State) -> State:
    """Keys of rows under which copies have noise of their own: the content, and how many equal rows stand before.

    What is tested or averaged over rows takes them for independent, which copies with one noise are not.

    Args:
        rows: shape ``n *d``.

    Returns:
        Shape ``n d+1``, float64.

    Example:
        >>> apart(torch.tensor([[5.0], [7.0], [5.0]])).tolist()
        [[5.0, 0.0], [7.0, 0.0], [5.0, 1.0]]
    """
    flat = rows.detach().double().flatten(1)
    seen: dict[bytes, int] = {}
    counts = []
    for row in flat.cpu().numpy() + 0.0:  # without the sign of zeros
        key = row.tobytes()
        counts.append(seen.get(key, 0))
        seen[key] = counts[-1] + 1
    return torch.cat([flat, torch.tensor(counts, dtype=torch.float64, device=flat.device)[:, None]], 1)


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
