"""What a learned bridge is before it is trained: closed-form pulls, halves whose networks are zero, a fitting prior."""

__all__ = ["Start", "blank_halves", "shaped", "start_from_json", "start_of", "starting_potentials"]

from collections.abc import Sequence
from typing import Any, Literal

import torch

from girsanov.bridges.gaussian import GaussianBridge, least_deviation
from girsanov.bridges.halves import BridgeNetwork, EndMoments, Half, NetworkConfig, moment_match
from girsanov.bridges.potentials import (
    FlatPotentials,
    MixtureStart,
    Potentials,
    QuadraticPotentials,
    fit_mixture_potentials,
)
from girsanov.bridges.reference import Clock
from girsanov.densities import Density, Gaussian, StandardNormal
from girsanov.processes import LinearProcess
from girsanov.types import InputError, State

Start = Literal["reference", "gaussian", "mixture"] | MixtureStart
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
        known = isinstance(second, Density)
        floor = least_deviation(first) if known else least_deviation(first, second)
        end = moment_match(second) if known else Gaussian.fit(second, floor=floor)
        return QuadraticPotentials(GaussianBridge(process, Gaussian.fit(first, floor=floor), end))
    if isinstance(second, Density):
        second = second.sample(DRAWS, generator=torch.Generator().manual_seed(seed)).to(first.dtype)
    assert isinstance(start, MixtureStart)
    return fit_mixture_potentials(process, first, second, start, seed=seed, **training)


def blank_halves(
    process: LinearProcess,
    potentials: Potentials,
    ends: EndMoments,
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
