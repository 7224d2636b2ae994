r"""Schroedinger bridges learned from rows: between two or more sets of rows, or from rows to a known prior.

Between rows at two times the bridge is fitted by alternating projections (:mod:`girsanov.bridges.alternating`) and has
no bound, since the density of neither end is known. To a prior whose density is known both halves are fitted by one
objective (:mod:`girsanov.bridges.joint`), and the bridge is a density model. Rows at several times are joined by one
bridge for each pair of neighbouring times: for a Markov reference that *is* the bridge through all of them.
"""

__all__ = ["SchrodingerBridge"]

import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.bridges.alternating import AlternatingConfig, project
from girsanov.bridges.building import (
    Start,
    blank_halves,
    by_time,
    described,
    end_rows,
    event_rows,
    rows_by_time,
    section_progress,
    section_reference,
    sections_between,
    shaped,
    starting_potentials,
)
from girsanov.bridges.chain import BridgeChain, StepVariances, cosine_times, joined, uniform_times
from girsanov.bridges.couplings import EndRows
from girsanov.bridges.flow import ForwardProcess, flow_log_prob
from girsanov.bridges.halves import Ends, NetworkConfig, bridge_condition
from girsanov.bridges.joint import JointConfig, fit_joint
from girsanov.bridges.potentials import Potentials
from girsanov.bridges.reference import Clock
from girsanov.bridges.storage import BRIDGE, blank_prior, blank_sections, bridge_tensors, describe, settings
from girsanov.densities import Density
from girsanov.likelihoods import chain_elbo, importance_bound
from girsanov.pairs import Direction, Noise, Pair
from girsanov.processes import LinearProcess
from girsanov.randomness import seed_of, source_of
from girsanov.rows import condition_at, conditions_for
from girsanov.saved import fill
from girsanov.training import Progress
from girsanov.types import Estimate, InputError, State, Time, require_count

Rows = Tensor | Mapping[float, Tensor]


@final
class SchrodingerBridge(nn.Module):
    """A bridge over a linear reference, with learned drifts in both directions.

    Args:
        reference: linear process that remembers its start, such as ``BrownianMotion(sigma)``: sigma says how much a
            path may stray, in units of the data per square root of the whole time.
        dim: number of dimensions of a row; or
        event_shape: its shape; images ``(c, h, w)`` get convolutional networks.
        start: where training starts: ``reference``; ``gaussian``, the closed-form bridge between the rows' moments; or
            ``mixture``, two Gaussian mixtures fitted to both ends without simulation. Default ``gaussian``, and
            ``reference`` for a bridge to a prior.
        components: Gaussians of each mixture.
        steps: steps of the simulated chain between two neighbouring times.
        network: size of the networks.
        alternating: settings of fits between rows.
        joint: settings of fits to a prior.

    Attributes:
        history: what training has reached, as plain values: projections, or validations of a joint fit.

    Raises:
        InputError: if settings cannot work.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> g = torch.Generator().manual_seed(0)
        >>> x0, x1 = torch.randn(2, 500, 2, generator=g)
        >>> settings = AlternatingConfig(rounds=1, steps=20, paths=200)
        >>> bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=10, alternating=settings).fit(x0, x1 + 2.0)
        >>> bridge.sample(x0).shape, bool((bridge.sample(x0).mean(0) - 2.0).abs().max() < 0.3)
        (torch.Size([500, 2]), True)
    """

    def __init__(
        self,
        reference: LinearProcess,
        *,
        dim: int | None = None,
        event_shape: Sequence[int] | None = None,
        start: Start | None = None,
        components: int = 50,
        steps: int = 40,
        network: NetworkConfig | None = None,
        alternating: AlternatingConfig | None = None,
        joint: JointConfig | None = None,
    ) -> None:
        super().__init__()
        if (dim is None) == (event_shape is None):
            raise InputError("Give a bridge either dim= (the number of columns) or event_shape=")
        if start not in (None, "reference", "gaussian", "mixture"):
            raise InputError(f"start must be reference, gaussian or mixture; got {start!r}")
        if steps < 1 or components < 1:
            raise InputError(f"steps and components must be at least 1; got {steps} and {components}")
        Clock(reference)  # refuses a reference that forgets its start
        self.reference = reference
        self.event_shape = torch.Size(event_shape if event_shape is not None else (require_count("dim", dim),))
        self.start: Start | None = start
        self.components, self.steps = components, steps
        self.network = network or NetworkConfig()
        self.alternating, self.joint = alternating or AlternatingConfig(), joint or JointConfig()
        self.chains = nn.ModuleList()
        self.times: list[float] = []
        self.prior: Density | None = None
        self.history: list[dict[str, Any]] = []

    @property
    def device(self) -> torch.device:
        """Where the networks are: that of the rows of the last fit, or of the last :meth:`to`."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    # Fitting.

    def fit(
        self,
        x0: Rows,
        x1: Tensor | None = None,
        *,
        prior: Density | None = None,
        condition: Any = None,
        weights: Any = None,
        generator: torch.Generator | None = None,
        run: str | Path | None = None,
        progress: Progress | None = None,
        after_round: Callable[["SchrodingerBridge", int], None] | None = None,
    ) -> "SchrodingerBridge":
        """Fit the drifts, where the rows are: rows on an accelerator are fitted there.

        Args:
            x0: rows of the start ``n *d``; or ``{time: rows}`` for two or more times.
            x1: rows of the end, for a bridge between rows.
            prior: law of the end, for a bridge to a known density.
            condition: of the rows, an array of ``n`` classes or ``n c`` numbers, or 1 for all: for x0 alone,
                ``(c0, c1)`` for both ends, or ``{time: condition}``.
            weights: of the rows (growth and death), in the same form. With three times or more they say how much each
                row counts as a *start*: sections end at the rows as they were observed.
            generator: read once for a seed; ``None`` means seed 0.
            run: folder for checkpoints; an interrupted fit goes on from there.
            progress: what shows the progress.
            after_round: called with the bridge and the number of each alternation, for a look on the way.

        Returns:
            Itself, fitted.

        Raises:
            InputError: if the rows do not fit each other or the bridge.
        """
        rows = rows_by_time(x0, x1, prior, self.reference.horizon)
        self.times, self.prior, self.history = sorted(rows), prior, []
        given, masses = (by_time(value, self.times) for value in (condition, weights))
        ends = {t: self._end(rows[t], given.get(t), masses.get(t)) for t in rows}
        seed, folder = seed_of(generator) % 2**31, None if run is None else Path(run)
        identity = "" if run is None else described(self.reference, self.start, list(ends.values()), prior)
        if prior is not None:
            return self._fit_to_prior(ends[self.times[0]], prior, seed, folder, progress, identity)
        self.chains, pairs = nn.ModuleList(), self._pairs(ends)
        places = [None if folder is None else folder / f"section-{i}" for i in range(len(pairs))]
        shown = [section_progress(progress, self.times, i) for i in range(len(pairs))]
        for i, (first, second) in enumerate(pairs):
            a, b = (end.unweighted(seed).x for end in (first, second))
            self.chains.append(self._blank(i, a, b, seed, run=places[i], progress=shown[i], identity=identity))
        for i, (chain, pair) in enumerate(zip(self.chains, pairs, strict=True)):
            assert isinstance(chain, BridgeChain)
            config = dataclasses.replace(self.alternating, seed=self.alternating.seed + seed + 1000 * i)
            look = None if after_round is None else (lambda number: after_round(self, number))
            done = project(
                chain.train(), *pair, config, run=places[i], progress=shown[i], after_round=look, identity=identity
            )
            self.history += [{"section": i, **projection.to_json()} for projection in done]
        return self.eval()

    def _pairs(self, ends: dict[float, EndRows]) -> list[tuple[EndRows, EndRows]]:
        """Rows of both ends of each section; with three times or more, weights are those of starts."""
        found = [(ends[first], ends[second]) for first, second in itertools.pairwise(self.times)]
        return found[:1] if len(found) == 1 else [(a, dataclasses.replace(b, weights=None)) for a, b in found]

    def _fit_to_prior(
        self, rows: EndRows, prior: Density, seed: int, run: Path | None, progress: Progress | None, identity: str
    ) -> "SchrodingerBridge":
        self.times = [0.0, self.reference.horizon]
        target = shaped(copy.deepcopy(prior), self.event_shape)
        self.prior = target
        chain = self._blank(0, rows.unweighted(seed).x, target, seed, run=run, progress=progress, identity=identity)
        self.chains = nn.ModuleList([chain])
        config = dataclasses.replace(self.joint, seed=self.joint.seed + seed)
        done = fit_joint(chain.train(), rows, config, run=run, progress=progress, identity=identity)
        self.history = [entry.to_json() for entry in done]
        return self.eval()

    def _blank(self, i: int, first: State, second: State | Density, seed: int, **training: Any) -> BridgeChain:
        """The chain of a section before it is trained, where its rows are; closed forms are fitted on the CPU."""
        process, place = section_reference(self.reference, self.times, i), first.device
        default: Start = "reference" if isinstance(second, Density) else "gaussian"
        first, second = first.cpu(), second.cpu()
        potentials = starting_potentials(
            self.start or default, process, first, second, components=self.components, seed=seed,
            covariances=self.alternating.potential_covariances, steps=self.alternating.potential_steps,
            time_budget=self.alternating.time_budget, **training,
        )  # fmt: skip
        return self._chain(process, potentials, Ends.of(first, second), seed).to(place)

    def _chain(self, process: LinearProcess, potentials: Potentials, ends: Ends, seed: int) -> BridgeChain:
        known = self.prior is not None
        learned: StepVariances = "diagonal" if self.alternating.loss == "trajectory" else "fixed"
        variances = self.joint.step_variances if known else learned
        grid = (uniform_times if known else cosine_times)(self.steps, process.horizon)
        halves = blank_halves(process, potentials, ends, self.event_shape, self.network, seed)
        return BridgeChain(*halves, grid, prior=self.prior, variances=variances)

    # What a fitted bridge does.

    @torch.no_grad()
    def sample(
        self,
        x: State | int,
        direction: Direction = "forward",
        *,
        return_path: bool = False,
        times: tuple[float, float] | None = None,
        condition: Any = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
    ) -> State:
        """Move rows along the bridge.

        Args:
            x: rows at the start (``forward``) or the end (``backward``), ``n *d``; or, for a bridge to a prior run
                backwards, how many rows to draw.
            direction: of time.
            return_path: whether to return every state on the way.
            times: earlier and later time, anywhere between the first and the last, which are the default.
            condition: of the rows, ``n`` classes or ``n c`` numbers, or 1 for all.
            generator: source of the noise; ``None`` means seed 0.
            noise: blocks of standard normal noise in its place, ``count -> count n *d``.

        Returns:
            Rows at the other end ``n *d``; or whole paths ``m n *d`` in the order of time (see :meth:`path_times`).

        Raises:
            InputError: if the bridge is not fitted, or rows do not fit it.
        """
        if direction not in ("forward", "backward"):
            raise InputError(f"direction must be forward or backward; got {direction!r}")
        generator = source_of(generator)
        parts = self._parts(times)
        if isinstance(x, int) and parts[-1][1][-1] != self.times[-1]:
            raise InputError("A number of rows is drawn from the prior, at the last time: pass rows to start earlier")
        state = self._rows_from(x, direction, generator)
        given = bridge_condition(condition, self.network, state)
        given = conditions_for(given, len(state))
        order, walked = 1 if direction == "forward" else -1, []
        for chain, _ in parts[::order]:
            path = chain.simulate(state, direction, condition=given, generator=generator, noise=noise)
            state = path[-1] if direction == "forward" else path[0]
            walked += [path] if return_path else []
        return joined(walked[::order]) if return_path else state

    def path_times(self, times: tuple[float, float] | None = None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        return joined([grid for _, grid in self._parts(times)])

    def forward_drift(self, t: float | Time, x: State, condition: Any = None) -> State:
        """Drift u of the process from the first time to the last, per unit of time, shape ``b *d``.

        Args:
            t: one time for all rows or one for each, within the fitted ones.
            x: rows ``b *d``.
            condition: of the rows.
        """
        return self._drift(t, x, condition, "forward")

    def backward_drift(self, t: float | Time, x: State, condition: Any = None) -> State:
        """Drift v of the process run from the last time to the first, written forward in t, shape ``b *d``."""
        return self._drift(t, x, condition, "backward")

    def section_drift(self, i: int, t: Time, x: State, condition: Tensor | None, direction: Direction) -> State:
        """A drift within the section between times i and i + 1, at times ``b``: both ends belong to it."""
        chain, horizon = self._section_chain(i), self.reference.horizon
        speed = horizon / (self.times[i + 1] - self.times[i])
        local = (speed * (t - self.times[i])).clamp(0.0, horizon)
        given = conditions_for(condition, len(x))
        half = chain.forward_half if direction == "forward" else chain.backward_half
        rate, squared = (v.reshape(-1, *(1,) * (x.ndim - 1)).to(x) for v in half.clock.reference.rates(local))
        sign = 1.0 if direction == "forward" else -1.0
        return speed * (rate * x + sign * squared * half(local, x, given))

    def pair(self) -> Pair:
        """Both processes with the prior: the pair whose bounds are those of this bridge.

        Raises:
            InputError: if the bridge has no prior.
        """
        if self.prior is None:
            raise InputError(_NO_DENSITY)
        return Pair(ForwardProcess(self), self.backward_drift, self.prior, event_shape=self.event_shape)

    def elbo(
        self, x: State, *, paths: int = 8, condition: Any = None, generator: torch.Generator | None = None
    ) -> Estimate:
        """Evidence lower bound of the chain per row, nats: a true bound of what :meth:`sample` draws backwards.

        Raises:
            InputError: if the bridge joins rows to rows: neither density is known, so there is no bound.
        """
        chain, x, condition = self._bounded(x, condition)
        return chain_elbo(chain, x, paths=paths, condition=condition, generator=generator)

    def importance_bound(
        self, x: State, *, paths: int = 16, condition: Any = None, generator: torch.Generator | None = None
    ) -> Estimate:
        """Importance-weighted bound with ``paths`` paths, tighter than :meth:`elbo`; see there."""
        chain, x, condition = self._bounded(x, condition)
        return importance_bound(chain, x, paths=paths, condition=condition, generator=generator)

    def log_prob(
        self,
        x: State,
        *,
        end: Density | None = None,
        tolerance: float = 0.05,
        condition: Any = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Log-density of the start by the probability flow (u + v)/2, with the pair's measured inconsistency beside it.

        The flow has the density of the start only if v reverses u, which two networks do nearly. How nearly is
        measured as half the variance of the log-weight over paths from each row: the gap of the bound that an exact
        reversal closes. It stands in ``terms["inconsistency"]`` (nats per row).

        Args:
            x: rows of the start ``n *d``.
            end: density of the end; default the prior that the bridge was fitted to.
            tolerance: largest mean inconsistency that is accepted, nats per dimension.
            condition: of the rows.
            generator: read once for a seed; ``None`` means seed 0.

        Returns:
            Estimate of kind ``estimate`` and model ``ode``.

        Raises:
            InputError: if no density of the end is known, or the inconsistency is above the tolerance.
        """
        law = end or self.prior
        if law is None:
            raise InputError("The probability flow ends at rows only: pass end=, a density of the last time")
        x = event_rows(x, self.event_shape)
        condition = bridge_condition(condition, self.network, x)
        self._require_fitted()
        with torch.no_grad():
            return flow_log_prob(self, x, law, tolerance=tolerance, condition=condition, seed=seed_of(generator))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and a manifest of checksums."""
        BRIDGE.write(Path(folder), describe(self), bridge_tensors(self))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SchrodingerBridge":
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            InputError: if the folder is damaged or of another version.
        """
        place = Path(folder)
        description, tensors = BRIDGE.read(place)
        with BRIDGE.described(place):
            bridge = cls(**settings(description))
            bridge.times, bridge.history = list(description["times"]), description["history"]
            bridge.prior = blank_prior(description, bridge.event_shape)
            for parts in blank_sections(description, bridge.reference, bridge.event_shape):
                bridge.chains.append(bridge._chain(*parts, seed=0))
            fill(bridge_tensors(bridge), tensors)
        return bridge.eval()

    # Parts.

    def _end(self, x: Any, condition: Any, weights: Any) -> EndRows:
        x = event_rows(x, self.event_shape)
        return end_rows(x, bridge_condition(condition, self.network, x), weights)

    def _section_chain(self, i: int) -> BridgeChain:
        chain = self.chains[i]
        assert isinstance(chain, BridgeChain)
        return chain

    def _parts(self, times: tuple[float, float] | None) -> list[tuple[BridgeChain, Tensor]]:
        """The chains between two times, in their order, and the times of their states."""
        self._require_fitted()
        return [
            self._section_chain(i).on(self.times[i], self.times[i + 1], low, high)
            for i, low, high in sections_between(self.times, times)
        ]

    def _require_fitted(self) -> None:
        if not len(self.chains):
            raise InputError("This bridge is not fitted: call fit first")

    def _rows_from(self, x: State | int, direction: Direction, generator: torch.Generator) -> State:
        if not hasattr(x, "__len__"):
            if direction == "forward" or self.prior is None:
                raise InputError("A number of rows can be drawn only backwards from a prior: pass rows to move")
            return self._section_chain(0).sample_prior(require_count("x without rows", x), generator)
        return event_rows(x, self.event_shape)

    def _drift(self, t: float | Time, x: State, condition: Any, direction: Direction) -> State:
        self._require_fitted()
        x = event_rows(x, self.event_shape)
        condition = bridge_condition(condition, self.network, x)
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x)).contiguous()
        edges = torch.tensor(self.times[1:-1], dtype=torch.float64, device=x.device)
        section = torch.bucketize(times, edges, right=direction == "forward")
        out = torch.zeros_like(x)
        for i in range(len(self.chains)):
            rows = (section == i).nonzero()[:, 0]
            if len(rows):
                given = condition_at(condition, rows)
                out = out.index_add(0, rows, self.section_drift(i, times[rows], x[rows], given, direction))
        return out

    def _bounded(self, x: State, condition: Any) -> tuple[BridgeChain, State, Tensor | None]:
        if self.prior is None:
            raise InputError(_NO_DENSITY)
        self._require_fitted()
        x = event_rows(x, self.event_shape)
        return self._section_chain(0), x, bridge_condition(condition, self.network, x)


_NO_DENSITY = (
    "This bridge joins rows to rows: the density of neither end is known, so it has no bound on a log-density; "
    "fit it with prior= for one, or ask log_prob with end="
)
