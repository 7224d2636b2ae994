"""Anyone's network behind one calling convention: ``(log_snr, x_t, condition) -> noise prediction``."""

__all__ = ["AdaptedNetwork", "arguments_of"]

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from girsanov.adapters.conventions import Convention
from girsanov.calculus import expand_as_rows
from girsanov.inputs import asked
from girsanov.processes import LinearProcess
from girsanov.types import InputError, State

NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
#: how networks call what they are told beside their input
TIMES = frozenset(
    (
        *("t", "ts", "time", "times", "timestep", "timesteps", "time_steps", "time_cond", "tau", "sigma", "sigmas"),
        *("std", "noise_level", "noise_levels", "noise_labels", "noise_cond", "log_snr", "logsnr", "vec_t", "c_noise"),
    )
)
ORDERS = {"x, t": False, "t, x": True}  # whether time comes first


class AdaptedNetwork(nn.Module):
    """Calls a network by a convention and returns a noise prediction.

    Args:
        net: called as ``net(x, t)`` or ``net(t, x)``, with a condition as its third argument where one is given.
        process: in whose coordinates the rows come.
        convention: what it is told, shown and returns.
        arguments: names of its two arguments, in order; the input's is ``x``.
        whole: whether it is told whole numbers only.

    Attributes:
        notes: sentences about what is approximate or undecided in how the network is used.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        process: LinearProcess,
        convention: Convention,
        arguments: tuple[str, str],
        *,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.process, self.convention, self.arguments, self.whole = net, process, convention, arguments, whole
        self.notes: tuple[str, ...] = ()

    def forward(self, log_snr: Tensor, x_t: State, condition: Tensor | None = None) -> State:
        """Noise prediction at levels ``b`` and rows ``b *d`` in the process's coordinates."""
        alpha, sigma = self.process.marginal_at(log_snr.double())
        z = x_t / expand_as_rows((alpha.square() + sigma.square()).sqrt(), x_t)
        return self.convention.noise(log_snr, z, self.output(log_snr, z, condition))

    def output(
        self, log_snr: Tensor, z: State, condition: Tensor | None = None, convention: Convention | None = None
    ) -> State:
        """What the network itself returns at variance-preserving ``z`` ``b *d``, by this convention or another."""
        convention = convention or self.convention
        shown, told = convention.inputs(log_snr, z, whole=self.whole)
        given = {name: shown if name == "x" else told for name in self.arguments}
        if condition is not None:
            given["condition"] = condition.expand(len(z), *condition.shape[1:])
        return asked(self.net, shown, given, "network")


def arguments_of(net: Callable[..., Any], order: str | None, time: str) -> tuple[str, str]:
    """The names of a network's two arguments, in its own order, with ``x`` for the input.

    Args:
        net: a module or a function.
        order: ``"x, t"`` or ``"t, x"`` where it is stated.
        time: what the other argument is called in sentences.

    Raises:
        InputError: where neither the names of the arguments nor ``order`` tell.

    Example:
        >>> arguments_of(lambda t, x: x, None, "t"), arguments_of(lambda x_t, sigma: x_t, None, "sigma")
        (('t', 'x'), ('x', 'sigma'))
    """
    if not callable(net):
        raise InputError(f"The network must be callable as net(x, {time}) or net({time}, x); got {type(net).__name__}")
    if order is not None and order not in ORDERS:
        raise InputError(f'order must be "x, t" or "t, x"; got {order!r}')
    first = ORDERS[order] if order is not None else _time_first(net, time)
    return (time, "x") if first else ("x", time)


def _time_first(net: Callable[..., Any], time: str) -> bool:
    """Whether time comes first, by the names in the signature."""
    try:
        found = inspect.signature(net.forward if isinstance(net, nn.Module) else net).parameters.values()
    except (TypeError, ValueError):  # compiled code
        found = ()
    names = [p.name.lower() for p in found if p.kind in NAMED][:2]
    times = [name in TIMES for name in names]
    if sum(times) == 1 and len(times) == 2:
        return times[0]
    named = f"({', '.join(names)}) " if names else ""
    raise InputError(
        f"The arguments {named}of this network do not tell the input from the time: pass order='x, t' for "
        f"net(x, {time}), or order='t, x' for net({time}, x)"
    )
