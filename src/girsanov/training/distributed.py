"""The processes of one run, if there are several: plain ``torchrun``, nothing more.

Gradients are averaged after the backward pass, so a loss may call any method of the module and
take gradients of gradients; rank 0 writes. All decisions rest on numbers that the ranks have agreed
on: rank 0's clock, and the largest signal number that any of them has received.
"""

__all__ = ["World"]

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from girsanov.types import InputError


@final
class World:
    """The process group of a run; a single process when torch.distributed is not initialised.

    Args:
        device: the device of the module, on which tensors are exchanged.

    Example:
        >>> World(torch.device("cpu")).size
        1
    """

    def __init__(self, device: torch.device) -> None:
        active = dist.is_available() and dist.is_initialized()
        self._device = device
        self.rank = dist.get_rank() if active else 0
        self.size = dist.get_world_size() if active else 1

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared evenly.

        Raises:
            InputError: if the number of processes does not divide the batch size.
        """
        if batch_size % self.size:
            raise InputError(f"{self.size} processes cannot share batch_size {batch_size}: choose a multiple")

    def share(self, batch: Any) -> Any:
        """This rank's rows of a batch: of a tensor, or of each in tuples, lists and mappings."""
        if self.size == 1:
            return batch
        if isinstance(batch, Tensor):
            return batch[self.rank :: self.size]
        if isinstance(batch, Mapping):
            return {key: self.share(value) for key, value in batch.items()}
        if isinstance(batch, Sequence) and not isinstance(batch, str):
            return tuple(self.share(value) for value in batch)
        return batch

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the ranks, in one exchange."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def agree(self, flag: int, *values: float) -> tuple[int, tuple[float, ...]]:
        """The largest flag of all ranks, and rank 0's values."""
        if self.size == 1:
            return flag, values
        mine = values if self.rank == 0 else [-float("inf")] * len(values)
        shared = torch.tensor([float(flag), *mine], dtype=torch.float64, device=self._device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        first, *rest = shared.tolist()
        return int(first), tuple(rest)

    def start_equal(self, module: nn.Module) -> None:
        """Give every rank the weights and buffers of rank 0; also waits for all of them."""
        if self.size == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        dist.barrier()  # a broadcast alone does not hold rank 0 back
