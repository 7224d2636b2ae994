r"""Schroedinger bridges learned from rows: between two or more sets of rows, or from rows to a known prior.

Between rows at two times the bridge is fitted by alternating projections (:mod:`girsanov.bridges.alternating`) and has
no bound, since the density of neither end is known. To a prior whose density is known both halves are fitted by one
objective (:mod:`girsanov.bridges.joint`), and the bridge is a density model. Rows at several times are joined section
by section (:mod:`girsanov.bridges.sections`).
"""

__all__ = ["SchrodingerBridge"]

import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, final

import torch
from torch import Tensor, nn

from girsanov.bridges.alternating import AlternatingConfig, project
from girsanov.bridges.chain import BridgeChain, StepVariances, cosine_times, joined, uniform_times
from girsanov.bridges.closed import ForwardProcess
from girsanov.bridges.ends import EndRows, by_time, described, rows_by_time
from girsanov.bridges.flow import flow_log_prob
from girsanov.bridges.halves import EndMoments, NetworkConfig, bridge_condition
from girsanov.bridges.joint import JointConfig, fit_joint
from girsanov.bridges.potentials import MixtureStart, Potentials
from girsanov.bridges.reference import Clock
from girsanov.bridges.sections import Sections, event_rows, in_section, section_reference
from girsanov.bridges.starts import Start, blank_halves, shaped, start_from_json, start_of, starting_potentials
from girsanov.bridges.storage import (
    BRIDGE,
    blank_reference,
    blank_sections,
    bridge_card,
    bridge_facts,
    bridge_tensors,
    describe,
)
from girsanov.densities import Density
from girsanov.display import Shown, Summary
from girsanov.hub import Card, Download, Pretrained, saved_folder
from girsanov.inputs import as_condition
from girsanov.likelihoods import chain_elbo, importance_bound
from girsanov.pairs import Direction, Noise, Pair
from girsanov.processes import LinearProcess
from girsanov.randomness import seed_of, source_of
from girsanov.rows import conditions_for
from girsanov.saved import fill
from girsanov.training import Progress, as_progress
from girsanov.types import Estimate, InputError, State, Time, require_count

Look = Callable[["SchrodingerBridge", int], None]


@final
class SchrodingerBridge(Shown, Pretrained, nn.Module):
    """A bridge over a linear reference, with learned drifts in both directions.

    Args:
        reference: linear process that remembers its start, such as ``BrownianMotion(sigma)``: sigma says how much a
            path may stray, in units of the data per square root of the whole time.
        dim: number of dimensions of a row; or
        event_shape: its shape; images ``(c, h, w)`` get convolutional networks.
        start: where training starts: ``reference``; ``gaussian``, the closed-form bridge between the rows' moments; or
            ``mixture``, two Gaussian mixtures fitted to both ends without simulation, as a
            :class:`~girsanov.bridges.MixtureStart` where they are to have another size. Default ``gaussian``, and
            ``reference`` for a bridge to a prior.
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
        steps: int = 40,
        network: NetworkConfig | None = None,
        alternating: AlternatingConfig | None = None,
        joint: JointConfig | None = None,
    ) -> None:
        super().__init__()
        if (dim is None) == (event_shape is None):
            raise InputError("Give a bridge either dim= (the number of columns) or event_shape=")
        Clock(reference)  # refuses a reference that forgets its start
        self.reference = reference
        self.event_shape = torch.Size(event_shape if event_shape is not None else (require_count("dim", dim),))
        self.start: Start | None = start_of(start)
        self.steps = require_count("steps", steps)
        self.network = network or NetworkConfig()
        self.alternating, self.joint = alternating or AlternatingConfig(), joint or JointConfig()
        self.fitted: Sections | None = None
        self.history: list[dict[str, Any]] = []

    def _summary(self) -> Summary:
        hint = "not fitted yet: bridge.fit(x0, x1)" if self.fitted is None else "bridge.sample(x) moves rows"
        facts = bridge_facts(self.reference, self.event_shape, self.steps, self.fitted)
        return Summary("SchrodingerBridge", facts, hint=hint)

    @property
    def sections(self) -> Sections:
        """What was fitted.

        Raises:
            InputError: if nothing was.
        """
        if self.fitted is None:
            raise InputError("This bridge is not fitted: call fit first")
        return self.fitted

    @property
    def device(self) -> torch.device:
        """Where the networks are: that of the rows of the last fit, or of the last :meth:`to`."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def fit(
        self,
        x0: Tensor | Mapping[float, Tensor],
        x1: Tensor | None = None,
        *,
        prior: Density | None = None,
        condition: Any = None,
        weights: Any = None,
        generator: torch.Generator | None = None,
        run: str | Path | None = None,
        progress: Progress | bool | None = None,
        after_round: Look | None = None,
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
            progress: ``False`` for no bar; see :func:`girsanov.training.as_progress`.
            after_round: called with the bridge and the number of each alternation, for a look on the way.

        Returns:
            Itself, fitted.

        Raises:
            InputError: if the rows do not fit each other or the bridge.
        """
        rows = rows_by_time(x0, x1, prior, self.reference.horizon)
        times, self.history = sorted(rows), []
        given, masses = (by_time(value, times) for value in (condition, weights))
        ends = {t: self._end(rows[t], given.get(t), masses.get(t)) for t in rows}
        seed, folder = seed_of(generator) % 2**31, None if run is None else Path(run)
        identity = "" if run is None else described(self.reference, self.start, list(ends.values()), prior)
        training = {"run": folder, "progress": as_progress(progress), "identity": identity}
        if prior is not None:
            return self._fit_to_prior(ends[times[0]], prior, seed, training)
        return self._fit_between(ends, seed, after_round, training)

    def _fit_between(
        self, ends: dict[float, EndRows], seed: int, after_round: Look | None, training: dict[str, Any]
    ) -> "SchrodingerBridge":
        times, pairs = sorted(ends), _pairs(ends)
        kept = [in_section(training, times, i) for i in range(len(pairs))]
        parts = [(first.unweighted(seed).x, second.unweighted(seed).x) for first, second in pairs]
        chains = [self._blank(times, i, *part, seed, **kept[i]) for i, part in enumerate(parts)]
        self.fitted = Sections(self.reference, times, chains, None)
        look = None if after_round is None else (lambda number: after_round(self, number))
        for i, (chain, pair) in enumerate(zip(chains, pairs, strict=True)):
            config = dataclasses.replace(self.alternating, seed=self.alternating.seed + seed + 1000 * i)
            done = project(chain.train(), *pair, config, after_round=look, **kept[i])
            self.history += [{"section": i, **dataclasses.asdict(projection)} for projection in done]
        return self.eval()

    def _fit_to_prior(self, rows: EndRows, prior: Density, seed: int, training: dict[str, Any]) -> "SchrodingerBridge":
        times, target = [0.0, self.reference.horizon], shaped(copy.deepcopy(prior), self.event_shape)
        chain = self._blank(times, 0, rows.unweighted(seed).x, target, seed, **training)
        self.fitted = Sections(self.reference, times, [chain], target)
        config = dataclasses.replace(self.joint, seed=self.joint.seed + seed)
        self.history = [dataclasses.asdict(entry) for entry in fit_joint(chain.train(), rows, config, **training)]
        return self.eval()

    def _blank(
        self, times: list[float], i: int, first: State, second: State | Density, seed: int, **training: Any
    ) -> BridgeChain:
        """The chain of a section before it is trained, where its rows are; closed forms are fitted on the CPU."""
        process, place = section_reference(self.reference, times, i), first.device
        prior = second if isinstance(second, Density) else None
        first, second = first.cpu(), second.cpu()
        training |= {"time_budget": self.alternating.time_budget}
        default: Start = "gaussian" if prior is None else "reference"
        potentials = starting_potentials(self.start or default, process, first, second, seed=seed, **training)
        return self._chain(process, potentials, EndMoments.of(first, second), prior, seed).to(place)

    def _chain(
        self, process: LinearProcess, potentials: Potentials, ends: EndMoments, prior: Density | None, seed: int = 0
    ) -> BridgeChain:
        learned: StepVariances = "diagonal" if self.alternating.loss == "trajectory" else "fixed"
        variances = learned if prior is None else self.joint.step_variances
        grid = (cosine_times if prior is None else uniform_times)(self.steps, process.horizon)
        halves = blank_halves(process, potentials, ends, self.event_shape, self.network, seed)
        return BridgeChain(*halves, grid, prior=prior, variances=variances)

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
        generator, fitted = source_of(generator), self.sections
        if isinstance(x, int) and fitted.path_times(times)[-1] != fitted.times[-1]:
            raise InputError("A number of rows is drawn from the prior, at the last time: pass rows to start earlier")
        x = x if hasattr(x, "__len__") else fitted.draw(require_count("x without rows", x), direction, generator)
        state, given = fitted.rows(x, condition)
        paths = fitted.paths(state, direction, times, condition=given, generator=generator, noise=noise)
        if return_path:
            return joined(paths)
        return paths[-1][-1] if direction == "forward" else paths[0][0]

    def path_times(self, times: tuple[float, float] | None = None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        return self.sections.path_times(times)

    def forward_drift(self, t: float | Time, x: State, condition: Any = None) -> State:
        """Drift u of the process from the first time to the last, per unit of time, shape ``b *d``.

        Args:
            t: one time for all rows or one for each, within the fitted ones.
            x: rows ``b *d``.
            condition: of the rows.
        """
        return self.sections.drift(t, x, condition)

    def backward_drift(self, t: float | Time, x: State, condition: Any = None) -> State:
        """Drift v of the process run from the last time to the first, written forward in t, shape ``b *d``."""
        return self.sections.drift(t, x, condition, "backward")

    def pair(self) -> Pair:
        """Both processes with the prior: the pair whose bounds are those of this bridge.

        Raises:
            InputError: if the bridge has no prior.
        """
        prior = self.sections.bounded().prior
        assert prior is not None
        return Pair(ForwardProcess(self), self.backward_drift, prior, event_shape=self.event_shape)

    def elbo(
        self, x: State, *, paths: int = 8, condition: Any = None, generator: torch.Generator | None = None
    ) -> Estimate:
        """Evidence lower bound of the chain per row, nats: a true bound of what :meth:`sample` draws backwards.

        Raises:
            InputError: if the bridge joins rows to rows: neither density is known, so there is no bound.
        """
        x, condition = self.sections.rows(x, condition)
        return chain_elbo(self.sections.bounded(), x, paths=paths, condition=condition, generator=generator)

    def importance_bound(
        self, x: State, *, paths: int = 16, condition: Any = None, generator: torch.Generator | None = None
    ) -> Estimate:
        """Importance-weighted bound with ``paths`` paths, tighter than :meth:`elbo`; see there."""
        x, condition = self.sections.rows(x, condition)
        return importance_bound(self.sections.bounded(), x, paths=paths, condition=condition, generator=generator)

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
        fitted = self.sections
        law = end or fitted.prior
        if law is None:
            raise InputError("The probability flow ends at rows only: pass end=, a density of the last time")
        x, condition = fitted.rows(x, condition)
        with torch.no_grad():
            return flow_log_prob(fitted, x, law, tolerance=tolerance, condition=condition, seed=seed_of(generator))

    def _write(self, folder: Path, card: str) -> None:
        BRIDGE.write(folder, self.description(), bridge_tensors(self.sections), card=card)

    def _card(self) -> Card:
        return bridge_card(self._summary().facts, self.event_shape, self.sections.prior is not None)

    def description(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON."""
        own = {name: dataclasses.asdict(getattr(self, name)) for name in ("network", "alternating", "joint")}
        start = dataclasses.asdict(self.start) if isinstance(self.start, MixtureStart) else self.start
        own |= {"start": start, "steps": self.steps, "history": self.history}
        return describe(self.sections) | own

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **download: Unpack[Download]) -> "SchrodingerBridge":
        """Read what :meth:`save_pretrained` wrote, or a Hugging Face repository that holds it.

        Args:
            folder_or_hub_id: where; a folder of that name goes before a repository.
            **download: ``revision``, ``token`` and more of :class:`girsanov.hub.Download`.

        Raises:
            InputError: if the folder is missing, damaged or of another version.
        """
        place = saved_folder(folder_or_hub_id, BRIDGE.kind, **download)
        record, tensors = BRIDGE.read(place)
        with BRIDGE.described(place):
            joint = record["joint"] | {"reference_weight": tuple(record["joint"]["reference_weight"])}
            bridge = cls(
                blank_reference(record), event_shape=record["event_shape"], start=start_from_json(record["start"]),
                steps=record["steps"], network=NetworkConfig(**record["network"]),
                alternating=AlternatingConfig(**record["alternating"]), joint=JointConfig(**joint),
            )  # fmt: skip
            bridge.fitted, bridge.history = blank_sections(record, bridge.reference, bridge._chain), record["history"]
            fill(bridge_tensors(bridge.fitted), tensors)
        return bridge.eval()

    def _end(self, x: Any, condition: Any, weights: Any) -> EndRows:
        x = event_rows(x, self.event_shape)
        given = conditions_for(bridge_condition(condition, self.network, x), len(x))
        return EndRows(x, given, None if weights is None else as_condition(weights, x, "weights"))


def _pairs(ends: dict[float, EndRows]) -> list[tuple[EndRows, EndRows]]:
    """Rows of both ends of each section; with three times or more, weights are those of starts."""
    found = [(ends[first], ends[second]) for first, second in itertools.pairwise(sorted(ends))]
    return found[:1] if len(found) == 1 else [(a, dataclasses.replace(b, weights=None)) for a, b in found]
