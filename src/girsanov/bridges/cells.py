r"""Trajectories of cells from snapshots: an annotated matrix in, a bridge through its times out.

Every cell is measured once, so what is known are the laws at a few times. The bridge joins them by the paths that stray
least from Brownian motion (note of paper 3, section 7). Cells that grow or die have weights over the next interval: the
section after their time starts in weighted cells, and the section before ends in the cells as they were observed.

Whether the paths between two times mean anything is measured by leaving a time out: train on the others, push the cells
of the time before, and compare with the cells that were left out, by exact transport.

A moved cell is one draw of its path, or, as ``way="mean"``, the average of many, its expected place. That is no draw of
the law: its spread is too small, as the noise of the paths is averaged out, and it lies nearer in W1 where the noise of
sampling dominates, as it does between small samples in many dimensions.
"""

__all__ = ["HeldOutError", "Trajectories", "fit_trajectories"]

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.annotated import AnnotatedCells
from girsanov.bridges.couplings import EndRows
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.metrics import wasserstein
from girsanov.bridges.schrodinger import SchrodingerBridge, Start
from girsanov.processes import BrownianMotion
from girsanov.training import Progress, mix
from girsanov.types import InputError, State

SIGMA = 0.5  # default of the reference, in spreads of the representation
COMPARED = 2000  # cells on each side of an exact distance
PATHS = 64  # that an expected place is the average of
Way = Literal["sample", "mean"]


@dataclass(frozen=True)
class HeldOutError:
    """How far pushed cells are from those of a time that took no part in the fit, in units of the representation.

    Attributes:
        time: that was left out.
        before: time whose cells were pushed.
        values: exact W1, one for each seed.
        mean: of the values.
        stderr: over seeds, of their mean; ``nan`` for one.
        untouched: W1 of the cells of the time before, left where they are; a mean over the same seeds.
        after: W1 of the cells of the time after it; likewise.
        cells: that were compared on each side.
        way: of moving a cell, one draw (``sample``) or its expected place (``mean``).
    """

    time: float
    before: float
    values: tuple[float, ...]
    mean: float
    stderr: float
    untouched: float
    after: float
    cells: tuple[int, int]
    way: Way = "sample"


@final
class Trajectories:
    """A bridge through the times of an annotated matrix.

    Attributes:
        bridge: fitted, in units of the representation; its ``device`` is where cells are moved.
        times: of the snapshots, increasing.
        sigma: of the reference over the whole time, in units of the representation.
    """

    def __init__(
        self, bridge: SchrodingerBridge, snapshots: dict[float, Tensor], fit: "_Fit", keys: AnnotatedCells
    ) -> None:
        self.bridge, self.times, self.sigma = bridge, sorted(snapshots), fit.sigma
        self._snapshots, self._fit, self._keys = snapshots, fit, keys

    def trajectories(
        self,
        cells: Any,
        *,
        start: float | None = None,
        end: float | None = None,
        return_path: bool = False,
        seed: int = 0,
    ) -> State:
        """Move cells from one fitted time to another, against time where the end is earlier.

        Every cell that is given moves once: growth decides how the bridge was fitted, not which cells go on from a time
        between both.

        Args:
            cells: rows ``n d`` of the representation, on any device; or an annotated matrix, whose cells at ``start``
                are moved.
            start: time of the cells; default the first.
            end: time they are moved to; default the last.
            return_path: whether to return whole paths, see :meth:`path_times`.
            seed: of the noise.

        Returns:
            Rows ``n d`` at the end, or paths ``m n d`` in the order of time, on the CPU.

        Raises:
            InputError: if a time is not of the fit, or the cells have another width.
        """
        start, end = self._span(start, end)
        rows = cells if isinstance(cells, Tensor | np.ndarray) else self._keys.at(cells, start)
        rows = torch.as_tensor(rows).to(torch.get_default_dtype())
        return _move(self.bridge, rows, start, end, torch.Generator().manual_seed(seed), return_path=return_path)

    def path_times(self, start: float | None = None, end: float | None = None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        start, end = self._span(start, end)
        return self.bridge.path_times((min(start, end), max(start, end))).cpu()

    def push(
        self,
        adata: Any,
        *,
        end: float | None = None,
        key: str | None = None,
        way: Way = "sample",
        paths: int = PATHS,
        seed: int = 0,
    ) -> np.ndarray:
        """Move every cell from its own time to ``end``.

        Args:
            adata: an annotated matrix with the keys of the fit.
            end: a fitted time; default the last.
            key: where in ``.obsm`` to write the result; ``None`` writes nothing.
            way: ``sample``, one draw for each cell; ``mean``, its expected place, which is no draw of the law and has
                too small a spread.
            paths: of each cell that a mean is the average of.
            seed: of the noise.

        Returns:
            Rows ``n_obs d``; cells of time ``end`` stay as they are.

        Raises:
            InputError: if the time is not of the fit, or there is no such way.
        """
        times = self._keys.times(adata)
        rows, end = self._keys.rows(adata), self._known(self.times[-1] if end is None else end)
        moved = rows.clone()
        for t in np.unique(times).tolist():
            here = torch.as_tensor(times == t)
            if t != end:
                generator = torch.Generator().manual_seed(seed)
                draw = functools.partial(_move, self.bridge, rows[here], *self._span(t, end), generator)
                moved[here] = _placed(draw, way, paths)
        if key is not None:
            adata.obsm[key] = moved.numpy()
        return moved.numpy()

    def held_out_error(
        self,
        time: float,
        *,
        seeds: int = 5,
        cells: int = COMPARED,
        way: Way = "sample",
        paths: int = PATHS,
        refit: bool = True,
        progress: Progress | None = None,
    ) -> HeldOutError:
        """Leave a time out: fit to the others, push cells of the time before it, and compare, by exact W1.

        The pushed cells are drawn by a generator that the seed keys: each at most once where cells have no growth, by
        weight and with repetition where they have, so that they stand for the cells that were to come. Those of the
        left-out time, as those of both neighbours, are compared as they were observed.

        Args:
            time: one of the fitted ones, neither the first nor the last.
            seeds: fits and draws that are made.
            cells: compared on each side at most.
            way: ``sample``, one draw for each cell; ``mean``, its expected place. A mean is no draw of the law: it is
                nearer where the noise of sampling dominates, and has too small a spread.
            paths: of each cell that a mean is the average of.
            refit: fit anew for every seed; otherwise one fit, and seeds draw paths and cells.
            progress: what shows the fits.

        Raises:
            InputError: if the time cannot be left out, there is no such way, or POT is not installed.
        """
        if time not in self.times[1:-1]:
            inner = ", ".join(f"{t:g}" for t in self.times[1:-1]) or "none here"
            raise InputError(f"Only a time between two others can be left out ({inner}); got {time:g}")
        kept = {t: x for t, x in self._snapshots.items() if t != time}
        found, bridge = [], None
        for seed in range(seeds):
            if bridge is None or refit:
                bridge = self._fit(kept, seed, progress, f"without-{time}/seed-{seed}")
            generator = torch.Generator().manual_seed(mix(seed, 1) % 2**31)
            found.append(self._distances(bridge, time, cells, way, paths, generator))
        values, untouched, later = zip(*found, strict=True)
        before = self._around(time)[0]
        counts = min(cells, len(self._snapshots[before])), min(cells, len(self._snapshots[time]))
        mean, stderr = float(np.mean(values)), float(np.std(values, ddof=1) / seeds**0.5) if seeds > 1 else math.nan
        beside = float(np.mean(untouched)), float(np.mean(later))
        return HeldOutError(time, before, values, mean, stderr, *beside, counts, way)

    def _distances(
        self, bridge: SchrodingerBridge, time: float, cells: int, way: Way, paths: int, generator: torch.Generator
    ) -> tuple[float, float, float]:
        """W1 to the cells of a time: of pushed ones, of those of the time before, of those of the time after."""
        before, after = self._around(time)
        here = EndRows(self._snapshots[before], weights=self._fit.weights.get(before))
        drawn = here.draw(min(cells, len(here.x)), generator).x
        # all cells before the first path, so that every way is compared on the same ones
        truth, *beside = [_some(self._snapshots[t], cells, generator) for t in (time, before, after)]
        draw = functools.partial(_state_at, bridge, drawn, (before, after), time, self.sigma, generator)
        first, second, third = (wasserstein(x, truth) for x in (_placed(draw, way, paths), *beside))
        return first, second, third

    def _around(self, time: float) -> tuple[float, float]:
        i = self.times.index(time)
        return self.times[i - 1], self.times[i + 1]

    def _span(self, start: float | None, end: float | None) -> tuple[float, float]:
        start = self._known(self.times[0] if start is None else start)
        end = self._known(self.times[-1] if end is None else end)
        if start == end:
            raise InputError(f"The cells are at time {start:g} already: give another end")
        return start, end

    def _known(self, time: float) -> float:
        if time not in self.times:
            raise InputError(f"Time {time:g} is not of this fit: its times are {_listed(self.times)}")
        return float(time)


def fit_trajectories(
    adata: Any,
    *,
    time_key: str,
    rep: str = "X_pca",
    columns: int | None = None,
    growth: str | None = None,
    sigma: float = SIGMA,
    start: Start | None = None,
    mixture_components: int = 50,
    steps: int = 40,
    network: NetworkConfig | None = None,
    alternating: AlternatingConfig | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    run: str | Path | None = None,
    progress: Progress | None = None,
) -> Trajectories:
    """Fit a bridge through the snapshots of an annotated matrix.

    Args:
        adata: AnnData, or anything with ``.obs[time_key]`` (numbers, or categories that are), ``.obsm[rep]`` (``n d``)
            and ``.n_obs``.
        time_key: of the time of each cell.
        rep: of the representation in which paths run.
        columns: keep so many of its first ones.
        growth: key in ``.obs`` of weights of the cells, such as growth factors over the next interval: sections start
            in weighted cells and end in unweighted ones. Those of the last time are not used, and may be ``nan``.
        sigma: of the reference over the whole time, in spreads of the representation (the root mean variance within
            the snapshots): how much a path may stray.
        start: where training starts, see :class:`SchrodingerBridge`.
        mixture_components: Gaussians of each mixture, where it starts from mixtures.
        steps: of a path between two times.
        network: size of the networks.
        alternating: settings of the fit.
        seed: decides everything random.
        device: where to fit and to move cells; results come back to the CPU.
        run: folder for checkpoints, also of the fits without a time; an interrupted fit goes on from there.
        progress: what shows the fit.

    Returns:
        The bridge with the faces that single-cell work needs.

    Raises:
        InputError: if a key is missing, there are fewer than two times, or entries are not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> g = torch.Generator().manual_seed(0)
        >>> day = np.repeat([2.0, 3.0, 7.0], 100)
        >>> pcs = torch.randn(300, 3, generator=g).numpy() + day[:, None] * np.array([1.0, 0.0, 0.0])
        >>> cells = SimpleNamespace(obs={"day": day}, obsm={"X_pca": pcs}, n_obs=300)  # or a real AnnData
        >>> settings = AlternatingConfig(rounds=1, steps=20, paths=100)
        >>> fitted = fit_trajectories(cells, time_key="day", steps=5, alternating=settings)
        >>> fitted.times, fitted.trajectories(cells, start=2.0, end=7.0).shape
        ([2.0, 3.0, 7.0], torch.Size([100, 3]))
        >>> error = fitted.held_out_error(3.0, seeds=1)
        >>> error.before, error.mean < error.untouched
        (2.0, True)
    """
    keys = AnnotatedCells(time_key, rep, columns, growth)
    times, rows, weights = keys.times(adata), keys.rows(adata), keys.weights(adata)
    present = np.unique(times).tolist()
    if len(present) < 2:
        raise InputError(f"obs[{time_key!r}] has {len(present)} time; trajectories need cells at two or more")
    masks = {t: torch.as_tensor(times == t) for t in present}
    snapshots = {t: rows[mask] for t, mask in masks.items()}
    spread = float(torch.stack([x.double().var(0).mean() for x in snapshots.values()]).mean().sqrt())
    if not 0.0 < sigma < math.inf:
        raise InputError(f"sigma must be positive; got {sigma}")

    def build() -> SchrodingerBridge:
        return SchrodingerBridge(
            BrownianMotion(sigma=sigma * spread), dim=rows.shape[1], start=start, components=mixture_components,
            steps=steps, network=network, alternating=alternating,
        )  # fmt: skip

    masses = {} if weights is None else {t: weights[masks[t]] for t in present[:-1]}  # no interval after the last
    fit = _Fit(build, sigma * spread, masses, seed, torch.device(device), None if run is None else Path(run))
    return Trajectories(fit(snapshots, 0, progress), snapshots, fit, keys)


@dataclass(frozen=True)
class _Fit:
    """The settings of a fit, to be made again without a time: the reference's size per unit of time stays."""

    build: Callable[[], SchrodingerBridge]
    sigma: float
    weights: dict[float, Tensor]
    seed: int
    device: torch.device
    run: Path | None

    def __call__(
        self, snapshots: dict[float, Tensor], seed: int, progress: Progress | None, folder: str = ""
    ) -> SchrodingerBridge:
        rows = {t: x.to(self.device) for t, x in snapshots.items()}
        weights = {t: w.to(self.device) for t, w in self.weights.items() if t in snapshots} or None
        generator = torch.Generator().manual_seed(mix(self.seed, seed) % 2**31)
        run = None if self.run is None else self.run / folder
        return self.build().fit(rows, weights=weights, generator=generator, run=run, progress=progress)


def _move(
    bridge: SchrodingerBridge,
    x: State,
    start: float,
    end: float,
    generator: torch.Generator,
    *,
    return_path: bool = False,
) -> State:
    """Rows moved between two fitted times, where the bridge is; back on the CPU."""
    direction = "forward" if start < end else "backward"
    span = min(start, end), max(start, end)
    x = x.to(bridge.device)
    return bridge.sample(x, direction, times=span, return_path=return_path, generator=generator).cpu()


def _placed(draw: Callable[[], State], way: Way, paths: int) -> State:
    """One draw, or the average of several; these are added up, since all paths at once may not fit the memory."""
    if way not in ("sample", "mean") or paths < 1:
        raise InputError(f"way must be sample, or mean of at least one of paths; got {way!r} and {paths}")
    total = draw()
    if way == "sample":
        return total
    for _ in range(paths - 1):
        total = total + draw()
    return total / paths


def _state_at(
    bridge: SchrodingerBridge,
    x: State,
    span: tuple[float, float],
    time: float,
    sigma: float,
    generator: torch.Generator,
) -> State:
    """States at a time between two fitted ones: between two states of a path, the reference pinned at both."""
    path, times = _move(bridge, x, *span, generator, return_path=True), bridge.path_times(span)
    k = int((times <= time).sum()) - 1
    low, high = float(times[k]), float(times[k + 1])
    share = (time - low) / (high - low)
    whole = bridge.times[-1] - bridge.times[0]
    spread = sigma * math.sqrt(share * (1.0 - share) * (high - low) / whole)
    eps = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (1.0 - share) * path[k] + share * path[k + 1] + spread * eps


def _some(x: State, n: int, generator: torch.Generator) -> State:
    """At most ``n`` rows, at random."""
    return x if len(x) <= n else x[torch.randperm(len(x), generator=generator)[:n]]


def _listed(times: list[float]) -> str:
    return ", ".join(f"{t:g}" for t in times)
