r"""Trajectories of cells: a bridge through snapshots, asked for any time between the first and the last.

Every cell is measured once, so what is known are the laws at a few times. The bridge joins them by the paths that stray
least from Brownian motion (note of paper 3, section 7). Between two fitted times a cell follows the same bridge, whose
steps are cut at the time that is asked for. Cells that grow or die have weights over the next interval: the section
after their time starts in weighted cells, and the section before ends in the cells as they were observed.

Whether the paths between two times mean anything is measured by leaving a time out: train on the others, push the cells
of the time before, and compare with the cells that were left out, by exact transport.

A moved cell is one draw of its path, or, as ``way="mean"``, the average of many, its expected place. That is no draw of
the law: its spread is too small, as the noise of the paths is averaged out, and it lies nearer in W1 where the noise of
sampling dominates, as it does between small samples in many dimensions.
"""

__all__ = ["HeldOutError", "Trajectories"]

import dataclasses
import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack, final

import numpy as np
import torch
from torch import Tensor

from girsanov.bridges.annotated import AnnotatedCells, Snapshots, is_annotated, matrix
from girsanov.bridges.cell_times import as_time
from girsanov.bridges.metrics import wasserstein
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import ReferenceSize
from girsanov.bridges.schrodinger import SchrodingerBridge
from girsanov.bridges.sections import known_time
from girsanov.display import Shown, Summary
from girsanov.files import MANIFEST
from girsanov.hub import Card, Download, Pretrained, saved_folder
from girsanov.inputs import as_device
from girsanov.randomness import mix
from girsanov.saved import FILES, ModelFolder
from girsanov.training import Progress
from girsanov.types import InputError, State, require_count

TRAJECTORIES = ModelFolder("set of trajectories")
COMPARED = 2000  # cells on each side of an exact distance
PATHS = 64  # that an expected place is the average of
BRIDGE_FILES = [f"bridge/{name}" for name in (*FILES, MANIFEST)]
CELLS = "The cells of the snapshots lie in it, row by row: who gets this folder gets them."
Way = Literal["sample", "mean"]


@dataclass(frozen=True, repr=False)
class HeldOutError(Shown):
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
        sigma: of the reference, chosen without the time where it was not given.
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
    sigma: float = math.nan


@final
class Trajectories(Shown, Pretrained):
    """A bridge through the times of an annotated matrix; copied and pickled with its cells.

    Attributes:
        bridge: fitted, in units of the representation; its ``device`` is where cells are moved.
        times: of the snapshots, increasing.
        size: of the reference, and where it comes from.
    """

    def __init__(
        self, bridge: SchrodingerBridge, size: ReferenceSize, snapshots: Snapshots, recipe: Recipe, keys: AnnotatedCells
    ) -> None:
        self.bridge, self.times, self.size = bridge, snapshots.times, size
        self._snapshots, self._recipe, self._keys = snapshots, recipe, keys

    def _summary(self) -> Summary:
        counts = {t: len(self._snapshots.rows[t]) for t in self.times}
        facts = {
            "cells": ", ".join(f"{n:,} at {t:g}" for t, n in counts.items()),
            "columns": f"{self.bridge.event_shape[0]} of {self._keys.rep}",
            "reference": str(self.size),
        }
        hint = (
            "fitted.push(adata, end=...) moves cells; fitted.held_out_error(time) says whether the paths mean anything"
        )
        return Summary(f"Trajectories of {sum(counts.values()):,} cells", facts, hint=hint)

    @property
    def sigma(self) -> float:
        """Of the reference over the whole time, in units of the representation."""
        return self.size.sigma

    def trajectories(
        self,
        cells: Any,
        *,
        start: Any = None,
        end: Any = None,
        return_path: bool = False,
        seed: int = 0,
    ) -> State:
        """Move cells from one time to another, against time where the end is earlier.

        Every cell that is given moves once: growth decides how the bridge was fitted, not which cells go on from a time
        between both.

        Args:
            cells: rows ``n d`` of the representation, on any device; or an annotated matrix, whose cells at ``start``
                are moved.
            start: time of the cells, anywhere from the first to the last fitted one; default the first. Times are
                numbers, or as the column of the fit has them, such as ``"day 3"``.
            end: time they are moved to; default the last.
            return_path: whether to return whole paths, see :meth:`path_times`.
            seed: of the noise, with the way: cells that are moved on meet new noise.

        Returns:
            Rows ``n d`` at the end, or paths ``m n d`` in the order of time, on the CPU.

        Raises:
            InputError: if a time is outside the fit, or the cells have another width.
        """
        begin, stop = self._span(start, end)
        rows = self._keys.at(cells, begin) if is_annotated(cells) else matrix(cells, "The array of cells")
        return _move(self.bridge, rows, begin, stop, _noise(seed, begin, stop), return_path=return_path)

    def path_times(self, start: Any = None, end: Any = None) -> Tensor:
        """Times of the states of a path, float64, increasing."""
        begin, stop = self._span(start, end)
        return self.bridge.path_times((min(begin, stop), max(begin, stop)))

    def push(
        self,
        adata: Any,
        *,
        end: Any = None,
        key: str | None = None,
        way: Way = "sample",
        paths: int = PATHS,
        seed: int = 0,
    ) -> np.ndarray:
        """Move every cell from its own time to ``end``.

        Args:
            adata: an annotated matrix with the keys of the fit; its times may be others, from the first to the last
                fitted one.
            end: a time in this range; default the last.
            key: where in ``.obsm`` to write the result; ``None`` writes nothing.
            way: ``sample``, one draw for each cell; ``mean``, its expected place, which is no draw of the law and has
                too small a spread.
            paths: of each cell that a mean is the average of.
            seed: of the noise.

        Returns:
            Rows ``n_obs d``; cells of time ``end`` stay as they are.

        Raises:
            InputError: if a time is outside the fit, there is no such way, or the key is that of the representation.
        """
        if key is not None and key == self._keys.rep:
            raise InputError(f"key={key!r} holds the representation that cells are moved in: choose another key")
        times, rows = self._keys.times(adata), self._keys.rows(adata)
        stop = self._known(self.times[-1] if end is None else end)
        places = {t: self._known(t) for t in np.unique(times).tolist()}
        moved = rows.clone()
        for t, begin in places.items():
            here = torch.as_tensor(times == t)
            if begin != stop:
                draw = functools.partial(_move, self.bridge, rows[here], begin, stop, _noise(seed, begin, stop))
                moved[here] = _placed(draw, way, paths)
        if key is not None:
            adata.obsm[key] = moved.numpy()
        return moved.numpy()

    def held_out_error(
        self,
        time: Any,
        *,
        seeds: int = 5,
        cells: int = COMPARED,
        way: Way = "sample",
        paths: int = PATHS,
        refit: bool = True,
        progress: Progress | bool = True,
    ) -> HeldOutError:
        """Leave a time out: fit to the others, push cells of the time before it, and compare, by exact W1.

        The pushed cells are drawn by a generator that the seed keys: each at most once where cells have no growth, by
        weight and with repetition where they have, so that they stand for the cells that were to come. Those of the
        left-out time, as those of both neighbours, are compared as they were observed. A sigma that was not given is
        chosen again, without the time.

        Args:
            time: one of the fitted ones, neither the first nor the last.
            seeds: fits and draws that are made.
            cells: compared on each side at most.
            way: ``sample``, one draw for each cell; ``mean``, its expected place. A mean is no draw of the law: it is
                nearer where the noise of sampling dominates, and has too small a spread.
            paths: of each cell that a mean is the average of.
            refit: fit anew for every seed, each within the time budget of the fit; otherwise one fit, and seeds draw
                paths and cells.
            progress: whether to show the fits, or what shows them.

        Raises:
            InputError: if the time cannot be left out, there is no such way, or POT is not installed.
        """
        time = as_time(time)
        if time not in self.times[1:-1]:
            inner = ", ".join(f"{t:g}" for t in self.times[1:-1]) or "none here"
            raise InputError(f"Only a time between two others can be left out ({inner}); got {time:g}")
        seeds, cells = require_count("seeds", seeds), require_count("cells", cells)
        found, bridge, size = [], None, self.size
        for seed in range(seeds):
            if bridge is None or refit:
                kept, folder = self._snapshots.without(time), f"without-{time}/seed-{seed}"
                bridge, size = self._recipe.fit(kept, seed, progress=progress, folder=folder)
            generator = torch.Generator().manual_seed(mix(seed, 1) % 2**31)
            found.append(self._distances(bridge, time, cells, way, paths, generator))
        values, untouched, later = zip(*found, strict=True)
        before = self._snapshots.around(time)[0]
        counts = min(cells, len(self._snapshots.rows[before])), min(cells, len(self._snapshots.rows[time]))
        mean, stderr = float(np.mean(values)), float(np.std(values, ddof=1) / seeds**0.5) if seeds > 1 else math.nan
        beside = float(np.mean(untouched)), float(np.mean(later))
        return HeldOutError(time, before, values, mean, stderr, *beside, counts, way, size.sigma)

    def _write(self, folder: Path, card: str) -> None:
        description = {"times": self.times, "size": self.size.to_json()}
        description |= {"keys": dataclasses.asdict(self._keys), "recipe": self._recipe.to_json()}
        beside = lambda place: self.bridge._write(place / "bridge", "")  # noqa: E731
        TRAJECTORIES.write(folder, description, self._snapshots.tensors(), card=card, beside=beside)

    def _card(self) -> Card:
        usage = (
            "import torch\nfrom girsanov.bridges import Trajectories\n\n"
            "fitted = Trajectories.from_pretrained({source!r})\n"
            f"print(fitted.trajectories(torch.zeros(8, {self.bridge.event_shape[0]})).shape)"
        )
        lead = "A bridge through snapshots of cells, asked for any time between the first and the last."
        facts = self._summary().facts
        return Card("Trajectories of cells", lead, usage, facts=facts, notes=[CELLS], tags=["single-cell"])

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, *, device: str | torch.device = "cpu", **download: Unpack[Download]
    ) -> "Trajectories":
        """Read what :meth:`save_pretrained` wrote, or a Hugging Face repository that holds it.

        Args:
            folder_or_hub_id: where; a folder of that name goes before a repository.
            device: where to move cells, and to fit those of :meth:`held_out_error`.
            **download: ``revision``, ``token`` and more of :class:`girsanov.hub.Download`.

        Raises:
            InputError: if the folder is missing, damaged or of another version.
        """
        where = as_device(device)
        place = saved_folder(folder_or_hub_id, TRAJECTORIES.kind, BRIDGE_FILES, **download)
        description, tensors = TRAJECTORIES.read(place)
        bridge = SchrodingerBridge.from_pretrained(place / "bridge").to(where)
        with TRAJECTORIES.described(place):
            size, keys = ReferenceSize.from_json(description["size"]), AnnotatedCells(**description["keys"])
            snapshots = Snapshots.of_tensors([float(t) for t in description["times"]], tensors)
            return cls(bridge, size, snapshots, Recipe.from_json(description["recipe"], where), keys)

    def _distances(
        self, bridge: SchrodingerBridge, time: float, cells: int, way: Way, paths: int, generator: torch.Generator
    ) -> tuple[float, float, float]:
        """W1 to the cells of a time: of pushed ones, of those of the time before, of those of the time after."""
        before, after = self._snapshots.around(time)
        drawn = self._snapshots.starts(before, cells, generator)
        # all cells before the first path, so that every way is compared on the same ones
        truth, *beside = [self._snapshots.observed(t, cells, generator) for t in (time, before, after)]
        draw = functools.partial(_move, bridge, drawn, before, time, generator)
        first, second, third = (wasserstein(x, truth) for x in (_placed(draw, way, paths), *beside))
        return first, second, third

    def _span(self, start: Any, end: Any) -> tuple[float, float]:
        begin = self._known(self.times[0] if start is None else start)
        stop = self._known(self.times[-1] if end is None else end)
        if begin == stop:
            raise InputError(f"The cells are at time {begin:g} already: give another end")
        return begin, stop

    def _known(self, time: Any) -> float:
        return known_time(self.times, as_time(time))


def _noise(seed: int, start: float, end: float) -> torch.Generator:
    """Keyed by the way too: cells that are moved on with the same seed meet noise that is new to them."""
    return torch.Generator().manual_seed(mix(seed, *struct.unpack("<2Q", struct.pack("<2d", start, end))) % 2**31)


def _move(
    bridge: SchrodingerBridge,
    x: State,
    start: float,
    end: float,
    generator: torch.Generator,
    *,
    return_path: bool = False,
) -> State:
    """Rows moved between two times, where the bridge is; back on the CPU."""
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
