"""What a learned bridge is made of before it is trained: its closed-form start, its halves, its inputs in one form."""

__all__ = [
    "Start",
    "blank_halves",
    "by_time",
    "described",
    "end_rows",
    "event_rows",
    "in_section",
    "known_time",
    "rows_by_time",
    "section_reference",
    "shaped",
    "start_from_json",
    "start_of",
    "starting_potentials",
]

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from girsanov.bridges.couplings import EndRows
from girsanov.bridges.gaussian import GaussianBridge, least_deviation
from girsanov.bridges.halves import BridgeNetwork, Ends, Half, NetworkConfig, moment_match
from girsanov.bridges.potentials import (
    FlatPotentials,
    MixtureStart,
    Potentials,
    QuadraticPotentials,
    fit_mixture_potentials,
    moment_potentials,
)
from girsanov.bridges.reference import Clock
from girsanov.datasets import fingerprint
from girsanov.densities import Density, Gaussian, StandardNormal
from girsanov.inputs import as_condition, as_rows
from girsanov.processes import LinearProcess, Section
from girsanov.training import Within
from girsanov.types import InputError, State

Start = Literal["reference", "gaussian", "mixture"] | MixtureStart
ROUNDING = 1e-6  # of the whole time: closer times are one
DRAWS = 10_000  # from a prior, where a mixture potential is fitted to it


def start_of(start: Start | None) -> Start | None:
    """Where training starts, the mixtures of that name as a value.

    Raises:
        InputError: for an unknown name.
    """
    if start not in (None, "reference", "gaussian", "mixture") and not isinstance(start, MixtureStart):
        raise InputError(f"start must be reference, gaussian, mixture or a MixtureStart; got {start!r}")
    return MixtureStart() if start == "mixture" else start


def start_from_json(plain: Any) -> Start | None:
    """Where training starts, of its plain values."""
    return MixtureStart(**plain) if isinstance(plain, dict) else plain


def starting_potentials(
    start: Start,
    process: LinearProcess,
    first: State,
    second: State | Density,
    *,
    seed: int,
    **training: Any,
) -> Potentials:
    """The closed-form pulls that training starts from.

    Args:
        start: which of them.
        process: the reference between both ends.
        first: rows of the start.
        second: rows or law of the end.
        seed: keys everything random.
        **training: of a mixture: its time budget, folder, progress and identity.
    """
    if start == "reference":
        return FlatPotentials()
    if start == "gaussian":
        if isinstance(second, Density):
            return QuadraticPotentials(
                GaussianBridge(process, Gaussian.fit(first, floor=least_deviation(first)), moment_match(second))
            )
        return moment_potentials(process, first, second)
    if isinstance(second, Density):
        second = second.sample(DRAWS, generator=torch.Generator().manual_seed(seed)).to(first.dtype)
    assert isinstance(start, MixtureStart)
    return fit_mixture_potentials(process, first, second, start, seed=seed, **training)


def blank_halves(
    process: LinearProcess,
    potentials: Potentials,
    ends: Ends,
    event_shape: Sequence[int],
    network: NetworkConfig,
    seed: int,
) -> tuple[Half, Half]:
    """Forward and backward half with untrained networks, whose outputs are zero."""
    clock = Clock(process)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = (BridgeNetwork(tuple(event_shape), network) for _ in range(2))
    forward = Half("forward", clock, potentials, ends, first)
    return forward, Half("backward", clock, potentials, ends, second)


def by_time(value: Any, times: list[float]) -> dict[float, Any]:
    """Conditions or weights in any of their forms, by time.

    Raises:
        InputError: if a tuple has not one entry for each time, or a time has no rows.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        unknown = [float(t) for t in value if float(t) not in times]
        if unknown:
            raise InputError(f"condition= or weights= has an entry for time {unknown[0]:g}, which has no rows")
        return {float(t): v for t, v in value.items() if v is not None}
    if isinstance(value, tuple):
        if len(value) != len(times):
            raise InputError(f"condition= and weights= need one entry for each of {len(times)} times; got {len(value)}")
        return {t: v for t, v in zip(times, value, strict=True) if v is not None}
    return {times[0]: value}


def rows_by_time(x0: Any, x1: Any, prior: Density | None, horizon: float) -> dict[float, Any]:
    """The rows of a fit by their time.

    Raises:
        InputError: if it is not one of the three kinds of fits.
    """
    if (x1 is not None) + (prior is not None) + isinstance(x0, Mapping) != 1:
        raise InputError("A bridge is fitted to x0 and x1, to x0 and prior=, or to {time: rows}")
    if isinstance(x0, Mapping):
        if len(x0) < 2:
            raise InputError("A bridge needs rows at two times or more")
        return {float(t): x for t, x in x0.items()}
    return {0.0: x0} if x1 is None else {0.0: x0, horizon: x1}


def event_rows(x: Any, event_shape: torch.Size) -> State:
    """Rows of the bridge's shape, in the dtype of its networks.

    Raises:
        InputError: if they have another shape.
    """
    x = as_rows(x)
    if x.shape[1:] != event_shape:
        raise InputError(
            f"This bridge is of rows of shape {tuple(event_shape)}; got rows of shape {tuple(x.shape[1:])}"
        )
    return x.to(torch.get_default_dtype())


def end_rows(x: State, condition: Tensor | None, weights: Any) -> EndRows:
    """Rows of one end with their conditions (or one for all) and weights in an array of any kind, where they are.

    Raises:
        InputError: see :class:`~girsanov.bridges.couplings.EndRows`.
    """
    if condition is not None:
        condition = condition.expand(len(x), *condition.shape[1:])
    return EndRows(x, condition, None if weights is None else as_condition(weights, x, "weights"))


def described(reference: LinearProcess, start: Start | None, ends: Sequence[EndRows], prior: Density | None) -> str:
    """What a fit that goes on must share with the one that was stopped: its rows, reference, start and prior."""
    grid = torch.linspace(0.0, reference.horizon, 9, dtype=torch.float64)
    parts = [*reference.marginal(grid)]
    for rows in ends:
        parts += [part for part in (rows.x, rows.condition, rows.weights) if part is not None]
    if prior is not None:
        parts.append(prior.log_prob(ends[0].x[:100].to(next(prior.buffers(), ends[0].x).device)))
    return f"{start} " + " ".join(fingerprint(part)[:16] for part in parts)


def section_reference(reference: LinearProcess, times: list[float], i: int) -> LinearProcess:
    """The reference between neighbouring times i and i + 1, on its own clock."""
    if len(times) <= 2:
        return reference
    first, last = times[0], times[-1]
    return Section(reference, *(reference.horizon * ((t - first) / (last - first)) for t in times[i : i + 2]))


def in_section(training: Mapping[str, Any], times: list[float], i: int) -> dict[str, Any]:
    """Folder, progress and identity of a training, for one section: of several, the progress says which."""
    run, progress, span = training["run"], training["progress"], f"{times[i]:g} to {times[i + 1]:g}"
    shown = progress if progress is None or len(times) == 2 else Within(progress, span)
    return {**training, "run": None if run is None else run / f"section-{i}", "progress": shown}


def known_time(known: list[float], time: float) -> float:
    """The time, or the fitted one from which it differs by rounding."""
    close = ROUNDING * (known[-1] - known[0])
    time = next((t for t in known if abs(t - time) <= close), float(time))
    if not known[0] <= time <= known[-1]:
        raise InputError(f"Time {time:g} is outside this fit, which knows the times from {known[0]:g} to {known[-1]:g}")
    return time


def shaped(prior: Density, event_shape: torch.Size) -> Density:
    """A prior of the bridge's shape: a standard normal takes it, any other law must have it.

    Raises:
        InputError: if it has another.
    """
    if isinstance(prior, StandardNormal):
        return Gaussian(torch.zeros(event_shape, dtype=torch.float64), 1.0)
    if prior.event_shape != event_shape:
        raise InputError(
            f"The prior is of rows of shape {tuple(prior.event_shape)}, the bridge of {tuple(event_shape)}"
        )
    return prior
