r"""Counter-based randomness: what a step draws is a function of (seed, step) alone.

Rows come in a new permutation every epoch, keyed by (seed, epoch), and batch s takes the positions
:math:`sB, \dots, (s + 1)B - 1` of the concatenated permutations, so every batch is full and a
resumed run needs no generator state. (torch's CPU generator keeps 32 bits of its seed; two steps of
a long run may thus share noise, on different rows.)
"""

__all__ = ["ShuffledBatches", "StepRandomness"]

import contextlib
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from girsanov.randomness import SharedGenerator, mix
from girsanov.types import InputError
from girsanov.workers import Workers

EPOCH, NOISE, GLOBAL = 1, 2, 3  # purposes, so that streams of one seed differ


@final
class ShuffledBatches:
    """Indices of the rows of each step: every row once per epoch, every batch full.

    Calling it with a step gives a tensor of ``batch_size`` indices in [0, rows). Use it for any
    data as ``lambda step: x[batches(step)]``.

    Args:
        rows: number of rows.
        batch_size: rows per batch; it may exceed ``rows``.
        seed: keys the permutations.

    Raises:
        InputError: if there are no rows.

    Example:
        >>> batches = ShuffledBatches(4, batch_size=2, seed=0)
        >>> torch.cat([batches(0), batches(1)]).sort().values
        tensor([0, 1, 2, 3])
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        if rows < 1 or batch_size < 1:
            raise InputError(f"{rows} rows in batches of {batch_size}: give at least one row and one per batch")
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor:
        """Indices of step 0, 1, ..., shape ``batch_size``."""
        start, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while start < end:
            epoch, offset = divmod(start, self.rows)
            part = self._permutation(epoch)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, EPOCH, epoch))
            self._order = torch.randperm(self.rows, generator=generator)
            self._epoch = epoch
        return self._order


@final
class StepRandomness:
    """The generator of a step, and the global ones (dropout), all keyed by (seed, step).

    The step's generator draws on the CPU whatever the device of the module, so that its noise is the same everywhere:
    a loss moves what it draws. Where processes share a step, it draws the same in all of them, and each takes its rows
    (:func:`girsanov.randomness.drawn_rows`); dropout is each process's own. Seeding costs two microseconds; copying
    generator states every step would cost as much again, and ``torch.manual_seed``, which asks for every backend,
    sixty times more.

    Args:
        seed: keys the streams.
        device: of the module, where dropout draws.
        company: the processes that share the steps.
    """

    def __init__(self, seed: int, device: torch.device, company: Workers | None = None) -> None:
        self._seed = seed
        company = company or Workers()
        self._rank = company.rank
        self.generator = SharedGenerator()
        self.generator.first, self.generator.every = company.rank, company.size
        self._globals = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._globals.append(torch.cuda.default_generators[index])

    def start(self, step: int, rows: int | None = None) -> torch.Generator:
        """Seed every stream for a step and return the step's generator; of a shared batch there are ``rows`` in all."""
        key = mix(self._seed, GLOBAL, step, self._rank)
        for generator in self._globals:
            generator.manual_seed(key)
        self.generator.count = rows
        return self.generator.manual_seed(mix(self._seed, NOISE, step, 0))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Give the caller's global generators back as they were."""
        states = [generator.get_state() for generator in self._globals]
        try:
            yield
        finally:
            for generator, state in zip(self._globals, states, strict=True):
                generator.set_state(state)
