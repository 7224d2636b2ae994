r"""Trajectories of cells from snapshots: an annotated matrix in, a bridge through its times out.

Every cell is measured once, so what is known are the laws at a few times. The bridge joins them by the paths that stray
least from Brownian motion (note of paper 3, section 7); cells that grow or die have weights. Whether the paths between
two times mean anything is measured by leaving a time out: train on the others, push the cells of the time before, and
compare with the cells that were left out, by exact transport.

Only ``.obs[key]``, ``.obsm[key]`` and ``.n_obs`` of the matrix are used, so AnnData is not a dependency.
"""

__all__ = ["HeldOutError", "Trajectories", "fit_trajectories"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.metrics import wasserstein
from girsanov.bridges.schrodinger import SchrodingerBridge, Start
from girsanov.processes import BrownianMotion
from girsanov.training import Progress, mix
from girsanov.types import InputError, State

SIGMA = 0.5  # default of the reference, in spreads of the representation
COMPARED = 2000  # cells on each side of an exact distance


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
    """

    time: float
    before: float
    values: tuple[float, ...]
    mean: float
    stderr: float
    untouched: float
    after: float
    cells: tuple[int, int]


@final
class Trajectories:
    """A bridge through the times of an annotated matrix.

    Attributes:
        bridge: fitted, in units of the representation.
        times: of the snapshots, increasing.
        sigma: of the reference over the whole time, in units of the representation.
    """

    def __init__(self, bridge: SchrodingerBridge, snapshots: dict[float, Tensor], fit: "_Fit", keys: "_Keys") -> None:
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

        Args:
            cells: rows ``n d`` of the representation; or an annotated matrix, whose cells at ``start`` are moved.
            start: time of the cells; default the first.
            end: time they are moved to; default the last.
            return_path: whether to return whole paths, see :meth:`path_times`.
            seed: of the noise.

        Returns:
            Rows ``n d`` at the end, or paths ``m n d`` in the order of time.

        Raises:
            InputError: if a time is not of the fit, or the cells have another width.
        """
        start, end = self._span(start, end)
        rows = cells if isinstance(cells, Tensor | np.ndarray) else self._keys.at(cells, start)
        return self.bridge.sample(
            torch.as_tensor(rows).to(torch.get_default_dtype()),
            "forward" if start < end else "backward",
            times=(min(start, end), max(start, end)),
            return_path=return_path,
            generator=torch.Generator().manual_seed(seed),
        )

    def path_times(self, start: float | None = None, end: float | None = None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        start, end = self._span(start, end)
        return self.bridge.path_times((min(start, end), max(start, end)))

    def push(self, adata: Any, *, end: float | None = None, key: str | None = None, seed: int = 0) -> np.ndarray:
        """Move every cell from its own time to ``end``.

        Args:
            adata: an annotated matrix with the keys of the fit.
            end: a fitted time; default the last.
            key: where in ``.obsm`` to write the result; ``None`` writes nothing.
            seed: of the noise.

        Returns:
            Rows ``n_obs d``; cells of time ``end`` stay as they are.
        """
        times = self._keys.times(adata)
        rows, end = self._keys.rows(adata), self._span(None, end)[1]
        moved = rows.clone()
        for t in np.unique(times).tolist():
            here = torch.as_tensor(times == t)
            if t != end:
                moved[here] = self.trajectories(rows[here], start=t, end=end, seed=seed)
        if key is not None:
            adata.obsm[key] = moved.numpy()
        return moved.numpy()

    def held_out_error(
        self,
        time: float,
        *,
        seeds: int = 5,
        cells: int = COMPARED,
        refit: bool = True,
        progress: Progress | None = None,
    ) -> HeldOutError:
        """Leave a time out: fit to the others, push all cells of the time before it, and compare, by exact W1.

        Args:
            time: one of the fitted ones, neither the first nor the last.
            seeds: fits and draws that are made.
            cells: compared on each side at most.
            refit: fit anew for every seed; otherwise one fit, and seeds draw paths and cells.
            progress: what shows the fits.

        Raises:
            InputError: if the time cannot be left out, or POT is not installed.
        """
        if time not in self.times[1:-1]:
            inner = ", ".join(f"{t:g}" for t in self.times[1:-1]) or "none here"
            raise InputError(f"Only a time between two others can be left out ({inner}); got {time:g}")
        i = self.times.index(time)
        before, after = self.times[i - 1], self.times[i + 1]
        kept = {t: x for t, x in self._snapshots.items() if t != time}
        values, untouched, later, bridge = [], [], [], None
        for seed in range(seeds):
            if bridge is None or refit:
                bridge = self._fit(kept, seed, progress)
            generator = torch.Generator().manual_seed(mix(seed, 1) % 2**31)
            pushed = _state_at(bridge, self._snapshots[before], (before, after), time, self.sigma, generator)
            compared = [_some(x, cells, generator) for x in (pushed, self._snapshots[before], self._snapshots[after])]
            truth = _some(self._snapshots[time], cells, generator)
            for found, x in zip((values, untouched, later), compared, strict=True):
                found.append(wasserstein(x, truth))
        counts = min(cells, len(self._snapshots[before])), min(cells, len(self._snapshots[time]))
        mean, stderr = float(np.mean(values)), float(np.std(values, ddof=1) / seeds**0.5) if seeds > 1 else math.nan
        beside = float(np.mean(untouched)), float(np.mean(later))
        return HeldOutError(time, before, tuple(values), mean, stderr, *beside, counts)

    def _span(self, start: float | None, end: float | None) -> tuple[float, float]:
        start, end = self.times[0] if start is None else start, self.times[-1] if end is None else end
        for t in (start, end):
            if t not in self.times:
                raise InputError(f"Time {t:g} is not of this fit: its times are {_listed(self.times)}")
        if start == end:
            raise InputError(f"The cells are at time {start:g} already: give another end")
        return float(start), float(end)


def fit_trajectories(
    adata: Any,
    *,
    time_key: str,
    rep: str = "X_pca",
    components: int | None = None,
    growth: str | None = None,
    sigma: float = SIGMA,
    start: Start | None = None,
    steps: int = 40,
    network: NetworkConfig | None = None,
    alternating: AlternatingConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trajectories:
    """Fit a bridge through the snapshots of an annotated matrix.

    Args:
        adata: AnnData, or anything with ``.obs[time_key]`` (numbers, or categories that are), ``.obsm[rep]`` (``n d``)
            and ``.n_obs``.
        time_key: of the time of each cell.
        rep: of the representation in which paths run.
        components: keep so many of its first columns.
        growth: key in ``.obs`` of weights of the cells, such as growth rates over the next interval.
        sigma: of the reference over the whole time, in spreads of the representation (the root mean variance within
            the snapshots): how much a path may stray.
        start: where training starts, see :class:`SchrodingerBridge`.
        steps: of a path between two times.
        network: size of the networks.
        alternating: settings of the fit.
        seed: decides everything random.
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
    keys = _Keys(time_key, rep, components, growth)
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
            BrownianMotion(sigma=sigma * spread), dim=rows.shape[1], start=start, steps=steps, network=network,
            alternating=alternating,
        )  # fmt: skip

    masses = {} if weights is None else {t: weights[mask] for t, mask in masks.items()}
    fit = _Fit(build, sigma * spread, masses, present, seed)
    return Trajectories(fit(snapshots, 0, progress), snapshots, fit, keys)


@dataclass(frozen=True)
class _Fit:
    """The settings of a fit, to be made again without a time: the reference's size per unit of time stays."""

    build: Callable[[], SchrodingerBridge]
    sigma: float
    weights: dict[float, Tensor]
    times: list[float]
    seed: int

    def __call__(self, snapshots: dict[float, Tensor], seed: int, progress: Progress | None) -> SchrodingerBridge:
        weights = {t: w for t, w in self.weights.items() if t in snapshots} or None
        generator = torch.Generator().manual_seed(mix(self.seed, seed) % 2**31)
        return self.build().fit(snapshots, weights=weights, generator=generator, progress=progress)


@dataclass(frozen=True)
class _Keys:
    """Where the times, the representation and the weights of cells stand."""

    time: str
    rep: str
    components: int | None
    growth: str | None

    def times(self, adata: Any) -> np.ndarray:
        """Time of each cell, float64."""
        return self._column(adata, self.time)

    def weights(self, adata: Any) -> Tensor | None:
        """Weight of each cell, float64."""
        return None if self.growth is None else torch.as_tensor(self._column(adata, self.growth))

    def rows(self, adata: Any) -> Tensor:
        """The representation, float32."""
        if self.rep not in adata.obsm:
            known = ", ".join(adata.obsm) or "none"
            raise InputError(f"obsm has no {self.rep!r}: compute it (scanpy.pp.pca), or give rep= one of {known}")
        values = np.asarray(adata.obsm[self.rep], dtype=np.float64)
        if values.ndim != 2 or len(values) != adata.n_obs:
            raise InputError(
                f"obsm[{self.rep!r}] must have one row for each of {adata.n_obs} cells; got {values.shape}"
            )
        if self.components is not None:
            values = values[:, : self.components]
        if not np.isfinite(values).all():
            raise InputError(f"obsm[{self.rep!r}] has entries that are not finite: drop those cells")
        return torch.as_tensor(values).to(torch.get_default_dtype())

    def at(self, adata: Any, time: float) -> Tensor:
        """The representation of the cells of one time."""
        here = torch.as_tensor(self.times(adata) == time)
        if not bool(here.any()):
            raise InputError(f"There is no cell at time {time:g}")
        return self.rows(adata)[here]

    def _column(self, adata: Any, key: str) -> np.ndarray:
        if key not in adata.obs:
            raise InputError(f"obs has no column {key!r}")
        column = np.asarray(adata.obs[key])
        try:
            values = column.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"obs[{key!r}] must hold numbers, or categories that are numbers; got {column[0]!r}"
            ) from error
        if values.shape != (adata.n_obs,) or not np.isfinite(values).all():
            raise InputError(f"obs[{key!r}] must hold one finite number for each of {adata.n_obs} cells")
        return values


def _state_at(
    bridge: SchrodingerBridge,
    x: State,
    span: tuple[float, float],
    time: float,
    sigma: float,
    generator: torch.Generator,
) -> State:
    """States at a time between two fitted ones: between two states of a path, the reference pinned at both."""
    path, times = bridge.sample(x, times=span, return_path=True, generator=generator), bridge.path_times(span)
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
