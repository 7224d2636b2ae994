"""What is read of an annotated matrix of cells: times, representation and weights.

Only ``.obs[key]``, ``.obsm[key]`` (or ``.X`` and ``.layers[key]``) and ``.n_obs`` are used, so AnnData is not a
dependency.
"""

__all__ = ["AnnotatedCells", "Snapshots", "is_annotated", "matrix"]

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from girsanov.bridges.cell_times import as_numbers, as_times
from girsanov.bridges.ends import EndRows
from girsanov.types import InputError, State

FEWEST = 10  # cells at a time: some are held out
MOST_COLUMNS = 5000  # whose covariances fit into memory
SHOWN = 5  # times that a sentence lists
RESOLVED = 1e-4  # of a column's range, that rounding may be
LARGEST = 1e15  # whose squares and products stay far from the largest number


@final
@dataclass(frozen=True)
class Snapshots:
    """Cells by the time at which they were measured.

    Attributes:
        rows: of each time, increasing, ``n d``.
        weights: of the cells of some times, ``n``.
    """

    rows: dict[float, Tensor]
    weights: dict[float, Tensor]

    @classmethod
    def of_tensors(cls, times: list[float], tensors: dict[str, Tensor]) -> "Snapshots":
        """From what :meth:`tensors` gave."""
        rows = {t: tensors[f"rows{i}"] for i, t in enumerate(times)}
        return cls(rows, {t: tensors[f"weights{i}"] for i, t in enumerate(times) if f"weights{i}" in tensors})

    def tensors(self) -> dict[str, Tensor]:
        """The cells of every time, and their weights where they have some, by names."""
        rows = {f"rows{i}": self.rows[t] for i, t in enumerate(self.times)}
        return rows | {f"weights{i}": self.weights[t] for i, t in enumerate(self.times) if t in self.weights}

    @property
    def times(self) -> list[float]:
        """Of the snapshots, increasing."""
        return sorted(self.rows)

    @property
    def spread(self) -> float:
        """Root mean variance within the snapshots, over columns and times."""
        return float(torch.stack([x.double().var(0).mean() for x in self.rows.values()]).mean().sqrt())

    def without(self, time: float) -> "Snapshots":
        """The other snapshots."""
        rows, weights = ({t: v for t, v in part.items() if t != time} for part in (self.rows, self.weights))
        return Snapshots(rows, weights)

    def around(self, time: float) -> tuple[float, float]:
        """The times before and after one of the inner ones."""
        i = self.times.index(time)
        return self.times[i - 1], self.times[i + 1]

    def starts(self, time: float, n: int, generator: torch.Generator) -> State:
        """At most ``n`` cells that stand for those to come: by weight and with repetition where there are weights."""
        here = EndRows(self.rows[time], weights=self.weights.get(time))
        return here.draw(min(n, len(here.x)), generator).x

    def observed(self, time: float, n: int, generator: torch.Generator) -> State:
        """At most ``n`` cells as they were measured, at random."""
        x = self.rows[time]
        return x if len(x) <= n else x[torch.randperm(len(x), generator=generator)[:n]]


@final
@dataclass(frozen=True)
class AnnotatedCells:
    """Where the times, the representation and the weights of cells stand in an annotated matrix.

    Attributes:
        time: key in ``.obs`` of the time of each cell.
        rep: key in ``.obsm`` of the representation, or ``X``, or a key in ``.layers``.
        columns: keep so many of its first ones.
        growth: key in ``.obs`` of weights.

    Raises:
        InputError: if ``columns`` is no number of columns.
    """

    time: str
    rep: str
    columns: int | None
    growth: str | None

    def __post_init__(self) -> None:
        count = self.columns
        if count is not None and (isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1):
            raise InputError(f"columns must be a whole number, 1 or more, or left out for all; got {count!r}")

    def times(self, adata: Any) -> np.ndarray:
        """Time of each cell, float64."""
        return as_times(self._column(adata, self.time), self.time, adata.n_obs)

    def rows(self, adata: Any) -> Tensor:
        """The representation, float32, on the CPU."""
        name, values = self._representation(adata)
        if len(np.shape(values)) != 2 or np.shape(values)[0] != adata.n_obs or not np.shape(values)[1]:
            raise InputError(f"{name} must have one row for each of {adata.n_obs} cells; got {np.shape(values)}")
        width = np.shape(values)[1]
        if self.columns is not None and self.columns > width:
            raise InputError(f"{name} has {width} columns and columns={self.columns} asks for more: leave columns out")
        if (self.columns or width) > MOST_COLUMNS:
            raise InputError(
                f"{name} has {width} columns, too many for paths: give rep= a reduced one (scanpy.pp.pca), or columns="
            )
        return matrix(values, name, self.columns)

    def snapshots(self, adata: Any) -> Snapshots:
        """The cells of each time, with their weights where there is a time after it.

        Raises:
            InputError: if there are fewer than two times, or a time has few cells.
        """
        if not is_annotated(adata):
            raise InputError(
                f"Cells come as an AnnData, or anything with .obs, .obsm and .n_obs; got {type(adata).__name__}"
            )
        times, rows = self.times(adata), self.rows(adata)
        present = np.unique(times).tolist()
        if len(present) < 2:
            raise InputError(f"obs[{self.time!r}] has {len(present)} time; trajectories need cells at two or more")
        self._require_cells(adata.obs[self.time], times)
        masks = {t: torch.as_tensor(times == t) for t in present}
        weights = self._weights(adata, times)
        masses = {} if weights is None else {t: weights[masks[t]] for t in present[:-1]}
        for t, mass in masses.items():
            if int((mass > 0).sum()) < FEWEST:
                raise InputError(
                    f"obs[{self.growth!r}] is positive for {int((mass > 0).sum())} cells at time {t:g}, of which a "
                    f"bridge needs at least {FEWEST}"
                )
        return Snapshots({t: rows[mask] for t, mask in masks.items()}, masses)

    def at(self, adata: Any, time: float) -> Tensor:
        """The representation of the cells of one time."""
        times = self.times(adata)
        here = torch.as_tensor(times == time)
        if not bool(here.any()):
            raise InputError(f"There is no cell at time {time:g}; these have {listed(np.unique(times))}")
        return self.rows(adata)[here]

    def _weights(self, adata: Any, times: np.ndarray) -> Tensor | None:
        """Weight of each cell, float64; those of the last time may be anything."""
        if self.growth is None:
            return None
        values = as_numbers(self._column(adata, self.growth), self.growth, adata.n_obs)
        used = values[times < times.max()]
        if not np.isfinite(used).all() or (used < 0).any():
            raise InputError(
                f"obs[{self.growth!r}] must hold one finite number, not negative, for each cell before the last time"
            )
        return torch.as_tensor(values)

    def _require_cells(self, column: Any, times: np.ndarray) -> None:
        values, counts = np.unique(times, return_counts=True)
        few = values[counts < FEWEST]
        if len(few) > SHOWN:
            raise InputError(
                f"{len(few)} of {len(values)} times in obs[{self.time!r}] have fewer than {FEWEST} cells "
                f"({listed(few)}): a bridge needs snapshots, so put the cells into fewer times"
            )
        if len(few):
            count, first = int(counts[values == few[0]][0]), np.flatnonzero(times == few[0])[0]
            label = np.asarray(column)[first]
            raise InputError(
                f"Time {few[0]:g} has {count} cell{'s'[: count > 1]} and a bridge needs at least {FEWEST} at each: "
                f"leave the time out, adata[adata.obs[{self.time!r}] != {getattr(label, 'item', lambda: label)()!r}], "
                f"or count its cells to a neighbouring time"
            )

    def _column(self, adata: Any, key: str) -> Any:
        if key not in adata.obs:
            raise InputError(f"obs has no column {key!r}; it has {', '.join(map(str, adata.obs)) or 'none'}")
        return adata.obs[key]

    def _representation(self, adata: Any) -> tuple[str, Any]:
        """The matrix and its name: of obsm, X or a layer."""
        layers = getattr(adata, "layers", None) or {}
        if self.rep in adata.obsm:
            return f"obsm[{self.rep!r}]", adata.obsm[self.rep]
        if self.rep == "X" and getattr(adata, "X", None) is not None:
            return "X", adata.X
        if self.rep in layers:
            return f"layers[{self.rep!r}]", layers[self.rep]
        known = ", ".join([*adata.obsm, *layers]) or "none"
        raise InputError(f"obsm has no {self.rep!r}: compute it (scanpy.pp.pca), or give rep= X or one of {known}")


def is_annotated(adata: Any) -> bool:
    """Whether this is an annotated matrix."""
    return all(hasattr(adata, name) for name in ("obs", "obsm", "n_obs"))


def matrix(values: Any, name: str, columns: int | None = None) -> Tensor:
    """Rows of numbers in any of their forms, dense: an array, masked, sparse or on disk, a frame, a tensor, a list.

    Raises:
        InputError: if they are no numbers, or not all finite.
    """
    values = values.to_memory() if hasattr(values, "to_memory") else values  # a sparse matrix on disk
    values = values.tocsr() if hasattr(values, "tocsr") else values
    if columns is not None and hasattr(values, "shape"):  # before a wide matrix is made dense
        values = values.iloc[:, :columns] if hasattr(values, "iloc") else values[:, :columns]
    values = values.toarray() if hasattr(values, "toarray") else values
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if np.iscomplexobj(values):
        raise InputError(f"{name} must hold numbers, not complex ones")
    try:
        if hasattr(values, "iloc"):
            found = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers ({error})") from error
    found = found if columns is None else found[:, :columns]
    if not found.size:
        raise InputError(f"{name} has no rows or no columns: give one or more cells")
    odd = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(1))
    if len(odd):
        raise InputError(
            f"{name} has missing entries, or some that are not finite, in {len(odd)} of {len(found)} cells, first in "
            f"{name}[{odd[0]}]: drop those cells"
        )
    _require_resolved(found, name)
    return torch.as_tensor(found).to(torch.get_default_dtype())


def _require_resolved(values: np.ndarray, name: str) -> None:
    """Networks compute in single precision, which tells no cells apart that are far off beside their spread."""
    flat = values.reshape(len(values), -1)
    largest, width = np.abs(flat).max(0), np.ptp(flat, 0)
    lost = np.flatnonzero(((width > 0) & (largest * np.finfo(np.float32).eps > RESOLVED * width)) | (largest > LARGEST))
    if len(lost):
        column = int(lost[0])
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise InputError(
            f"{name} has values as large as {largest[column]:.3g} over a range of {width[column]:.3g} in column "
            f"{column}{others}, which single precision does not resolve: subtract the mean of such columns, or rescale "
            "them"
        )


def listed(times: Any) -> str:
    """A few times for a sentence."""
    shown = ", ".join(f"{t:g}" for t in times[:SHOWN])
    return shown + (", ..." if len(times) > SHOWN else "")
