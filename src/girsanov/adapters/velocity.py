"""``from_velocity``: flow matching and rectified flow as a pair."""

__all__ = ["from_velocity"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.assembly import Facts, pair_around
from girsanov.adapters.continuous import clocks, coordinates, velocities
from girsanov.adapters.conventions import SHOWN, Choice, Convention, reading, signs
from girsanov.adapters.packages import known
from girsanov.adapters.paths import Path, as_path
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import Cosine, LinearProcess, StraightPath, VariancePreserving
from girsanov.types import InputError

TIMES: dict[int, Callable[[Tensor], Tensor]] = {  # the network's own time, which is data_at at the data
    0: lambda level: torch.sigmoid(-0.5 * level),
    1: lambda level: torch.sigmoid(0.5 * level),
}


@checked
def from_velocity(
    net: Callable[..., Any],
    process: Any = None,
    *,
    data_at: int | None = None,
    order: str | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    r"""A network of flow matching or rectified flow as a pair, on the path between data and noise.

    The network was trained to predict the velocity :math:`dx/dt` of :math:`x_t = t\, x + (1 - t)\, \varepsilon` in its
    own time t (``data_at=1``: torchcfm, flow_matching), or of :math:`x_t = (1 - t)\, x + t\, \varepsilon`
    (``data_at=0``: rectified flow as in Stable Diffusion 3). Noise and data are drawn independently there, so that the
    velocity tells the score. The same holds on any Gaussian path :math:`x_t = \alpha_t x + \sigma_t \varepsilon`,
    stated as ``process``. Trained on optimal-transport pairs of both it does not: of such a network ``ode_log_prob``
    alone is meant, which is that of its own ODE.

    Args:
        net: ``(t, x)`` or ``(x, t)``, in order of the names of its arguments, with times ``b`` and rows ``b *d``; a
            condition, where one is given, is its third argument.
        process: what the straight path is replaced by: a process of girsanov, an ``AffineProbPath`` or a scheduler of
            flow_matching, a flow matcher of torchcfm (with its sigma), a schedule of azula, or any function of times
            in [0, 1] to ``(alpha_t, sigma_t)``.
        data_at: the network's time at the data, 0 or 1; default 1 on the straight path, else the path's own.
        order: ``"t, x"`` or ``"x, t"``, where the names do not tell.
        prior: law at the noise end, log-SNR -15 or where the path ends; default N(0, I), or the law there of a
            reference that it misstates.
        reference: Gaussian of the data; default fitted to the rows of ``check``.
        check: 64 rows of data or more, ``n *d``, in the network's scale, for the self-test: strongly recommended.
        condition: of these rows, leading dimension ``n`` or 1.

    Returns:
        The pair, whose process is :class:`girsanov.StraightPath` or the stated one. ``pair.score.network.notes``
        says what is undecided.

    Raises:
        InputError: for arguments in an order that nothing tells, another ``data_at``, a path that pairs noise and data
            or is none, data that are not forgotten at its end, or a self-test that another
            convention wins: the sentence names it.

    Example:
        >>> from girsanov.likelihoods import ode_log_prob
        >>> flow = lambda t, x: (2 * t - 1)[:, None] / (t**2 + (1 - t) ** 2)[:, None] * x  # of data N(0, I)
        >>> pair = from_velocity(flow, data_at=1)
        >>> ode_log_prob(pair, torch.zeros(1, 2)).value.round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
    """
    given = known(net, "from_velocity")
    path = _path(given.process if process is None else process, data_at)
    if isinstance(path.process, StraightPath):
        at = path.data_at
        conventions = [c for k in (at, 1 - at) for c in _at(k, "" if k == at else f"data_at={k}")]
        conventions += _on_curved_paths(at)
    else:
        own = coordinates(path.process)[0]
        conventions = [Convention(a, own, c) for a in clocks(path) for c in velocities(path)]
    facts = Facts(prior, reference, check, condition, given.notes)
    return pair_around(given.net, path.process, conventions, facts, order=given.order or order)


def _path(process: Any, data_at: int | None) -> Path:
    """The stated one."""
    if data_at is not None and (isinstance(data_at, bool) or data_at not in TIMES):
        raise InputError(f"data_at must be 0 or 1, the network's time at the data; got {data_at!r}")
    if process is None:
        return Path(StraightPath(), 1 if data_at is None else data_at)
    path = as_path(process)
    if data_at is None or data_at == path.data_at:
        return path
    if not isinstance(process, LinearProcess):
        raise InputError(f"This path has the data at time {path.data_at}: leave data_at= out, or turn the path around")
    return Path(process, data_at)


def _on_curved_paths(data_at: int) -> list[Convention]:
    """The velocity of common paths that are not straight."""
    found = []
    for process in (Cosine(), VariancePreserving()):
        path = Path(process, data_at)
        told = Choice(path.time, keyword=f"process=girsanov.processes.{type(process).__name__}() and data_at={data_at}")
        found.append(Convention(told, coordinates(process)[0], velocities(path)[0]))
    return found


def _at(data_at: int, keyword: str) -> list[Convention]:
    """Conventions of a time that is ``data_at`` at the data, the plain velocity first."""
    time, straight = TIMES[data_at], SHOWN["straight"]
    told = [Choice(time, "", keyword), Choice(lambda level: 1000.0 * time(level), "1000 * t", keyword)]
    shown = [
        Choice(straight),
        Choice(SHOWN["preserving"], "x / (t**2 + (1 - t)**2).sqrt()"),
        Choice(SHOWN["exploding"], "x / t" if data_at else "x / (1 - t)"),
    ]
    from_data, to_data = "(%s - x) / (1 - t)", "(x - %s) / t"
    texts = {"noise": to_data, "denoised": from_data} if data_at else {"noise": from_data, "denoised": to_data}
    square, turn = "(t**2 + (1 - t)**2)", "-" if data_at else "+"
    texts["v"] = f"((2 * t - 1) * x {turn} %s) / {square}"
    flow, opposite = signs([Choice(reading("flow", straight))])  # eps - x, and what it is towards the data
    first, second = (opposite, flow) if data_at else (flow, opposite)
    reads = [Choice(first.function), Choice(second.function, "-%s")]
    reads += signs(Choice(reading(name, straight), text) for name, text in texts.items())
    unscaled = f"((2 * t - 1) * x {turn} {square}.sqrt() * %s) / {square}"  # v of the rows of variance 1
    reads += signs([Choice(reading("v", SHOWN["preserving"]), unscaled)])
    return [Convention(a, b, c) for a in told for b in shown for c in reads]
