r"""A fitted bridge: a chain for each section, the span between two neighbouring times, over one linear reference.

Rows at several times are joined by one bridge for each pair of neighbouring times: for a Markov reference that *is* the
bridge through all of them. A section's chain has the clock of its part of the reference,
:class:`girsanov.processes.Section`.
"""

__all__ = ["Sections", "event_rows", "in_section", "known_time", "section_reference"]

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.bridges.chain import BridgeChain, joined
from girsanov.bridges.halves import BridgeNetwork, NetworkConfig, bridge_condition
from girsanov.densities import Density
from girsanov.inputs import as_rows
from girsanov.pairs import Direction, Noise
from girsanov.processes import LinearProcess, Section
from girsanov.rows import condition_at, conditions_for
from girsanov.training import PartProgress
from girsanov.types import InputError, State, Time

ROUNDING = 1e-6  # of the whole time: closer times are one


@final
class Sections(nn.Module):
    """What a bridge is once it is fitted.

    Args:
        reference: over the whole time.
        times: ends of the sections, increasing.
        chains: one for each section.
        prior: law of the last time, where its density is known.
    """

    def __init__(
        self, reference: LinearProcess, times: Sequence[float], chains: Sequence[BridgeChain], prior: Density | None
    ) -> None:
        super().__init__()
        self.reference, self.times, self.prior = reference, list(times), prior
        self.chains = nn.ModuleList(chains)

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, i: int) -> BridgeChain:
        chain = self.chains[i]
        assert isinstance(chain, BridgeChain)
        return chain

    @property
    def event_shape(self) -> torch.Size:
        """Of one row."""
        return self[0].forward_half.ends.start_mean.shape

    @property
    def network(self) -> NetworkConfig:
        """Size of the networks, which says what conditions they take."""
        network = self[0].forward_half.network
        assert isinstance(network, BridgeNetwork)
        return network.config

    def rows(self, x: Any, condition: Any) -> tuple[State, Tensor | None]:
        """Rows and conditions in arrays of any kind, as the networks take them.

        Raises:
            InputError: for rows or conditions that do not fit.
        """
        x = event_rows(x, self.event_shape)
        return x, bridge_condition(condition, self.network, x)

    def bounded(self) -> BridgeChain:
        """The chain whose bounds are those of the bridge.

        Raises:
            InputError: if the bridge joins rows to rows: neither density is known, so there is no bound.
        """
        if self.prior is None:
            raise InputError(
                "This bridge joins rows to rows: the density of neither end is known, so it has no bound on a "
                "log-density; fit it with prior= for one, or ask log_prob with end="
            )
        return self[0]

    def draw(self, n: int, direction: Direction, generator: torch.Generator) -> State:
        """Rows of the last time, drawn from the prior.

        Raises:
            InputError: if there is none, or they are to be moved forwards.
        """
        if direction == "forward" or self.prior is None:
            raise InputError("A number of rows can be drawn only backwards from a prior: pass rows to move")
        return self[0].sample_prior(n, generator)

    def between(self, times: tuple[float, float] | None) -> list[tuple[BridgeChain, Tensor]]:
        """The chains between two times, in their order, and the times of their states; all of them for ``None``.

        Raises:
            InputError: if a time lies outside the fitted ones, or they are in the wrong order.
        """
        known = self.times
        low, high = (known[0], known[-1]) if times is None else (known_time(known, t) for t in times)
        if low >= high:
            raise InputError(f"times= must be an earlier and a later time; got {low:g} and {high:g}")
        spans = enumerate(itertools.pairwise(known))
        return [self[i].on(a, b, max(low, a), min(high, b)) for i, (a, b) in spans if a < high and low < b]

    def path_times(self, times: tuple[float, float] | None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        return joined([grid for _, grid in self.between(times)])

    def paths(
        self,
        x: State,
        direction: Direction,
        times: tuple[float, float] | None,
        *,
        condition: Tensor | None,
        generator: torch.Generator,
        noise: Noise | None,
    ) -> list[State]:
        """Paths of rows ``n *d`` through each section between two times, ``m n *d``, in the order of time."""
        given, order, walked = conditions_for(condition, len(x)), 1 if direction == "forward" else -1, []
        for chain, _ in self.between(times)[::order]:
            walked.append(chain.simulate(x, direction, condition=given, generator=generator, noise=noise))
            x = walked[-1][-1 if direction == "forward" else 0]
        return walked[::order]

    def drift(self, t: float | Time, x: State, condition: Any = None, direction: Direction = "forward") -> State:
        """Drift u, or v of the process run backwards, written forward in t, per unit of time, shape ``b *d``."""
        x, condition = self.rows(x, condition)
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x)).contiguous()
        edges = torch.tensor(self.times[1:-1], dtype=torch.float64, device=x.device)
        section = torch.bucketize(times, edges, right=direction == "forward")
        out = torch.zeros_like(x)
        for i in range(len(self)):
            rows = (section == i).nonzero()[:, 0]
            if len(rows):
                given = condition_at(condition, rows)
                out = out.index_add(0, rows, self.section_drift(i, times[rows], x[rows], given, direction))
        return out

    def section_drift(self, i: int, t: Time, x: State, condition: Tensor | None, direction: Direction) -> State:
        """A drift within the section between times i and i + 1, at times ``b``: both ends belong to it."""
        chain, horizon = self[i], self.reference.horizon
        speed = horizon / (self.times[i + 1] - self.times[i])
        local = (speed * (t - self.times[i])).clamp(0.0, horizon)
        given = conditions_for(condition, len(x))
        half = chain.forward_half if direction == "forward" else chain.backward_half
        rate, squared = (v.reshape(-1, *(1,) * (x.ndim - 1)).to(x) for v in half.clock.reference.rates(local))
        sign = 1.0 if direction == "forward" else -1.0
        return speed * (rate * x + sign * squared * half(local, x, given))


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


def section_reference(reference: LinearProcess, times: list[float], i: int) -> LinearProcess:
    """The reference between neighbouring times i and i + 1, on its own clock."""
    if len(times) <= 2:
        return reference
    first, last = times[0], times[-1]
    return Section(reference, *(reference.horizon * ((t - first) / (last - first)) for t in times[i : i + 2]))


def in_section(training: Mapping[str, Any], times: list[float], i: int) -> dict[str, Any]:
    """Folder, progress and identity of a training, for one section: of several, the progress says which."""
    run, progress, span = training["run"], training["progress"], f"{times[i]:g} to {times[i + 1]:g}"
    shown = progress if progress is None or len(times) == 2 else PartProgress(progress, span)
    return {**training, "run": None if run is None else run / f"section-{i}", "progress": shown}


def known_time(known: list[float], time: float) -> float:
    """The time, or the fitted one from which it differs by rounding."""
    close = ROUNDING * (known[-1] - known[0])
    time = next((t for t in known if abs(t - time) <= close), float(time))
    if not known[0] <= time <= known[-1]:
        raise InputError(f"Time {time:g} is outside this fit, which knows the times from {known[0]:g} to {known[-1]:g}")
    return time
