"""Steps of a training, alone or shared with other processes through PyTorch's own data-parallel engine.

The engine wraps a module whose ``forward`` is the loss: its hooks see every parameter once a step, and the loss may
call any method of what is trained and take gradients of gradients. The first process tells the others the step, its
learning rate and their rows; all else of a training, from the clock to the checkpoints, is its own.
"""

__all__ = ["Steps"]

import gc
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from girsanov.training.batches import StepRandomness
from girsanov.training.config import TrainingConfig
from girsanov.training.optimizer import Optimizer
from girsanov.workers import WorkerLostError, Workers, is_gone, of_each, workers

BUFFERS = "forward_sync_buffers"  # the option's name, new in PyTorch 2.12 or so
if BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    BUFFERS = "broadcast_buffers"


@final
class Steps:
    """The loss of a batch, its gradient, and the optimiser's step.

    Args:
        module: what is trained.
        loss: ``loss(module, batch, generator, step)``.
        optimizer: of the module.
        config: ``seed`` and ``batch_size``.

    Attributes:
        randomness: the streams of a step.
    """

    def __init__(
        self, module: nn.Module, loss: Callable[..., Tensor], optimizer: Optimizer, config: TrainingConfig
    ) -> None:
        self._whole, self._config, self._optimizer = _Loss(module, loss), config, optimizer
        self._device = optimizer.parameters[0].device
        self._company, self._engine = Workers(), self._whole
        self.randomness = StepRandomness(config.seed, self._device)

    def invite(self) -> None:
        """Share the steps from now on with all processes of the command, where there are others and rows for each.

        A loss that cannot be sent, such as a function within a function, is computed by this process alone.
        """
        company = workers()
        if self._config.batch_size < company.size:
            return
        whole = self._whole
        if company.call(_Help(whole.module, whole.loss[0], self._config, self._optimizer.tensors())):
            self.share(company)

    def share(self, company: Workers) -> None:
        """Take part in shared steps."""
        self._company = company
        self.randomness = StepRandomness(self._config.seed, self._device, company)
        on = [self._device.index or 0] if self._device.type == "cuda" else None
        # of a parameter with one channel, in a network whose channels come last: both layouts are the same memory
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # what a loss leaves out in one step must not be waited for; buffers are the first process's
        options = {"device_ids": on, "find_unused_parameters": True, BUFFERS: False}
        self._engine = DistributedDataParallel(self._whole, **options)

    def __call__(self, step: int, rate: float, batch: Any) -> tuple[Tensor, Tensor]:
        """Loss and gradient norm of a step, after which the weights have moved.

        Raises:
            WorkerLostError: if another process is gone; weights and loss are then as before the step.
        """
        if self._company.size == 1:
            return self._take(step, rate, batch)
        rows, kept = _rows(batch), _tensors(self._whole.loss[0])
        try:
            parts = [self._company.part(batch, rank) for rank in range(self._company.size)]
            return self.together(self._company.scatter([(step, rate, rows, part) for part in parts]))
        except RuntimeError as error:
            _put_back(self._whole.loss[0], kept)
            raise (WorkerLostError() if is_gone(error) else error) from error

    def together(self, task: tuple[int, float, int, Any]) -> tuple[Tensor, Tensor]:
        """This process's part of a shared step."""
        step, rate, rows, part = task
        loss, norm = self._take(step, rate, of_each(part, lambda x: x.to(self._device)), rows)
        return self._company.mean(loss), norm

    def end(self) -> None:
        """Let the others go back to wait for another job."""
        if self._company.size > 1:
            self._company.scatter([None] * self._company.size)
            self._company.free = True
            assert isinstance(self._engine, DistributedDataParallel)
            self._engine._remove_autograd_hooks()  # by which the weights would hold the connections beyond their end
            self._company, self._engine = Workers(), self._whole
            gc.collect()  # the engine holds itself

    def _take(self, step: int, rate: float, batch: Any, rows: int | None = None) -> tuple[Tensor, Tensor]:
        generator = self.randomness.start(step, rows)
        value = self._engine(batch, generator, step)
        if rows is not None:  # the mean over processes is then the mean over rows, however many each has
            value = value * (_rows(batch) * self._company.size / rows)
        value.backward()
        return value.detach(), self._optimizer.step(rate)


@final
class _Loss(nn.Module):
    """A module whose ``forward`` is the mean loss of another one."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.loss = [loss]  # not a submodule: its own parameters are not trained

    def forward(self, batch: Any, generator: torch.Generator, step: int) -> Tensor:
        value = self.loss[0](self.module, batch, generator, step)
        return value.mean() if value.ndim else value


@dataclass(frozen=True)
class _Help:
    """What another process needs to share the steps of a training."""

    module: nn.Module
    loss: Callable[..., Tensor]
    config: TrainingConfig
    memory: Mapping[str, Tensor]

    def __call__(self, company: Workers) -> None:
        optimizer = Optimizer(self.module.train(), self.config)
        optimizer.load(self.memory)
        steps = Steps(self.module, self.loss, optimizer, self.config)
        steps.share(company)
        while (task := company.scatter()) is not None:
            steps.together(task)


def _rows(batch: Any) -> int:
    """Rows of a batch: those of its first tensor."""
    counts: list[int] = []

    def count(rows: Tensor) -> Tensor:
        counts.append(len(rows))
        return rows

    of_each(batch, count)
    return counts[0]


def _tensors(loss: Any) -> dict[str, Tensor]:
    """What a loss remembers, as it is now."""
    if not hasattr(loss, "state_dict"):
        return {}
    return {name: tensor.clone() for name, tensor in loss.state_dict().items()}


def _put_back(loss: Any, kept: Mapping[str, Tensor]) -> None:
    if kept:
        loss.load_state_dict(kept)
