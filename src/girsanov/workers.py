"""The processes of one command, where ``torchrun`` or ``accelerate launch`` has started several.

The first process leads: it runs the command as if it were alone. The others wait for a job, do their part of it, and
wait again, so that whatever is chosen by the clock, fitted beside or written to a file is so once. Two kinds of job are
worth sharing: the steps of a training (:mod:`girsanov.training`) and the evaluation of many rows
(:func:`girsanov.evaluation.evaluate`). Of both, process r of n has rows r, r + n, r + 2n, ...

A process that dies closes its connections: the others stop waiting, and the first says so.
"""

__all__ = ["WorkerLostError", "Workers", "is_gone", "leading", "leave", "of_each", "started", "workers"]

import contextlib
import dataclasses
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, final

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=30)  # a process waits as long as the first one fits what is not shared
GONE = ("gloo", "nccl", "connection", "socket", "timed out")  # in what PyTorch says of a process that is not there


class WorkerLostError(RuntimeError):
    """A process of the run has died: nothing more can be shared with it."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__("A process of this run has died, so the run ends: give the same command to go on")


def started() -> bool:
    """Whether a launcher has started this process as one of several.

    Example:
        >>> started()
        False
    """
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def of_each(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor changed: of tuples, lists, mappings and dataclasses too, however deep.

    Example:
        >>> of_each((torch.arange(4), {"y": torch.arange(4), "name": "x"}), lambda part: part[1::2])
        (tensor([1, 3]), {'y': tensor([1, 3]), 'name': 'x'})
    """
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, Mapping):
        return {key: of_each(value, change) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return tuple(of_each(value, change) for value in content)
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        values = {field.name: getattr(content, field.name) for field in dataclasses.fields(content) if field.init}
        return dataclasses.replace(content, **{name: of_each(value, change) for name, value in values.items()})
    return content


@final
class Workers:
    """The processes of a command, as one of them sees them; of one process alone there is nobody to ask.

    Args:
        rank: of this process; the first, 0, leads.
        size: number of processes.

    Attributes:
        free: whether the others wait for a job.

    Example:
        >>> Workers().size, Workers(1, 2).part(torch.arange(5))
        (1, tensor([1, 3]))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.free = rank, size, True

    @property
    def device(self) -> torch.device:
        """Where this process computes what the first one has on an accelerator."""
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    def part(self, content: Any, rank: int | None = None) -> Any:
        """The rows of a process, this one by default, of every tensor in ``content``."""
        first = self.rank if rank is None else rank
        return of_each(content, lambda rows: rows[first :: self.size])

    def call(self, job: Callable[["Workers"], object]) -> bool:
        """Give all others a job, which they are called with; the first has to do its own part beside it.

        Returns:
            Whether they have it: there may be nobody, or a job that cannot be sent, such as a function in a function.
        """
        if self.size == 1:
            return False
        packed = io.BytesIO()
        try:
            torch.save((job, torch.get_default_dtype(), torch.get_num_threads()), packed)
        except (pickle.PicklingError, AttributeError, TypeError):
            return False
        self._broadcast(packed.getvalue())
        self.free = False
        return True

    def scatter(self, parts: Sequence[Any] | None = None) -> Any:
        """What the first process has for each; it alone gives ``parts``."""
        found: list[Any] = [None]
        sent = None if parts is None else [of_each(part, _compact) for part in parts]
        with _connected():
            dist.scatter_object_list(found, sent, src=0)
        return found[0]

    def gather(self, part: Any) -> list[Any]:
        """What all have, in their order; in the first process, elsewhere nothing."""
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with _connected():
            dist.gather_object(of_each(part, _compact), found, dst=0)
        return found or []

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, in all of them."""
        with _connected():
            dist.all_reduce(value)
        return value / self.size

    def whole(self, part: Tensor, count: int) -> Tensor:
        """All ``count`` rows in their order, of which each process has its :meth:`part`, in all of them."""
        if self.size == 1:
            return part
        most = -(-count // self.size)
        mine = part.new_zeros((most, *part.shape[1:]))
        mine[: len(part)] = part
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _connected():
            dist.all_gather(found, mine)
        return torch.stack(found, 1).flatten(0, 1)[:count]

    def each(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any] | None:
        """``function`` of the part of each process, in their order; ``None`` if nobody can help with it.

        Raises:
            Exception: whatever the function raises in any process.
        """
        share = _Share(function)
        if not self.call(share):
            return None
        found = share(self, parts)
        self.free = True
        for result in found:
            if isinstance(result, Exception):
                raise result
        return found

    def help(self) -> None:
        """Do the jobs of the first process until there are no more."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # the first process hears them too, and ends what is begun
        while packed := self._broadcast(b""):
            # of the first process of the same command, over its own connections
            job, dtype, threads = torch.load(io.BytesIO(packed), map_location=self.device, weights_only=False)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            job(self)

    def dismiss(self) -> None:
        """Let all others end, if they wait; those in the middle of a job end with the connection."""
        if self.size > 1 and self.free:
            self._broadcast(b"")

    def _broadcast(self, content: bytes) -> bytes:
        found = [content]
        with _connected():
            dist.broadcast_object_list(found, src=0)
        return found[0]


@dataclass(frozen=True)
class _Share:
    """The part of one process in the evaluation of many rows; an error is a result, so that nobody waits for one."""

    function: Callable[[Any], Any]

    def __call__(self, workers: Workers, parts: Sequence[Any] | None = None) -> list[Any]:
        try:
            found = self.function(workers.scatter(parts))
        except WorkerLostError:
            raise
        except Exception as error:
            found = error
        return workers.gather(found)


_active = Workers()


def workers() -> Workers:
    """The processes of this command.

    Example:
        >>> workers().size
        1
    """
    return _active


@contextlib.contextmanager
def leading() -> Iterator[Workers]:
    """Run a block in the first of the processes that a launcher has started; the others help it, and end with it.

    A script under ``torchrun`` or ``accelerate launch`` puts its work into one such block. Alone, a process just
    runs the block.

    Example:
        >>> with leading() as company:
        ...     company.size
        1
    """
    global _active
    if not started():
        yield _active
        return
    begun = not dist.is_initialized()
    if begun:
        _begin()
    _active = Workers(dist.get_rank(), dist.get_world_size())
    if _active.rank:
        _help(_active)  # an error here ends the process, and with it the run
    try:
        yield _active
    finally:
        company, _active = _active, Workers()
        with contextlib.suppress(WorkerLostError):
            company.dismiss()
        if begun:
            dist.destroy_process_group()


def _begin() -> None:
    """The processes' connections; each has an accelerator of its own where there are any."""
    present = torch.cuda.is_available()
    if present:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if present else "gloo", timeout=PATIENCE)


def _help(company: Workers) -> None:
    code = 0
    try:
        company.help()
    except WorkerLostError:
        code = WorkerLostError.exit_code  # the first says why, or is itself what has died
    leave(code)


def is_gone(error: RuntimeError) -> bool:
    """Whether an error says that another process is no longer there.

    Example:
        >>> is_gone(RuntimeError("Connection closed by peer")), is_gone(RuntimeError("shapes do not match"))
        (True, False)
    """
    known = isinstance(error, WorkerLostError | dist.DistError)
    return known or any(word in str(error).lower() for word in GONE)


def _compact(rows: Tensor) -> Tensor:
    """A tensor for sending: of a view the whole memory would go along."""
    return rows.detach().cpu().clone(memory_format=torch.contiguous_format)


def leave(code: int) -> NoReturn:
    """End this process at once: threads of PyTorch's connections now and then abort one that is taken down in order."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Exchange something, or say that somebody is no longer there."""
    try:
        yield
    except RuntimeError as error:
        if is_gone(error):
            raise WorkerLostError from error
        raise
