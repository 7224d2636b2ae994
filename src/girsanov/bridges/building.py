"""What a learned bridge is made of before it is trained: its closed-form start, its halves, its inputs in one form."""

__all__ = ["Start", "blank_halves", "by_time", "shaped", "starting_potentials"]

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.halves import BridgeNetwork, Ends, Half, NetworkConfig, moment_match
from girsanov.bridges.potentials import (
    Covariances,
    FlatPotentials,
    Potentials,
    QuadraticPotentials,
    fit_mixture_potentials,
    moment_potentials,
)
from girsanov.bridges.reference import Clock
from girsanov.densities import Density, Gaussian, StandardNormal
from girsanov.processes import LinearProcess
from girsanov.training import Progress
from girsanov.types import InputError, State

Start = Literal["reference", "gaussian", "mixture"]
DRAWS = 10_000  # from a prior, where a mixture potential is fitted to it


def starting_potentials(
    start: Start,
    process: LinearProcess,
    first: State,
    second: State | Density,
    *,
    components: int,
    covariances: Covariances,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> Potentials:
    """The closed-form pulls that training starts from.

    Args:
        start: which of them.
        process: the reference between both ends.
        first: rows of the start.
        second: rows or law of the end.
        components: Gaussians of a mixture.
        covariances: of these, ``diagonal`` or ``full``.
        steps: training steps of each mixture.
        seed: keys everything random.
        progress: what shows the progress.
    """
    if start == "reference":
        return FlatPotentials()
    if start == "gaussian":
        if isinstance(second, Density):
            return QuadraticPotentials(GaussianBridge(process, Gaussian.fit(first), moment_match(second)))
        return moment_potentials(process, first, second)
    if isinstance(second, Density):
        second = second.sample(DRAWS, generator=torch.Generator().manual_seed(seed)).to(first.dtype)
    settings = {"components": components, "covariances": covariances, "steps": steps, "seed": seed}
    return fit_mixture_potentials(process, first, second, progress=progress, **settings)


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
        InputError: if a tuple has not one entry for each time.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {float(t): v for t, v in value.items()}
    if isinstance(value, tuple):
        if len(value) != len(times):
            raise InputError(f"condition= and weights= need one entry for each of {len(times)} times; got {len(value)}")
        return {t: v for t, v in zip(times, value, strict=True) if v is not None}
    return {times[0]: value}


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
