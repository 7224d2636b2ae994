"""What is read of an annotated matrix of cells: times, representation and weights.

Only ``.obs[key]``, ``.obsm[key]`` and ``.n_obs`` are used, so AnnData is not a dependency.
"""

__all__ = ["AnnotatedCells"]

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from girsanov.types import InputError


@final
@dataclass(frozen=True)
class AnnotatedCells:
    """Where the times, the representation and the weights of cells stand in an annotated matrix.

    Attributes:
        time: key in ``.obs`` of the time of each cell.
        rep: key in ``.obsm`` of the representation.
        columns: keep so many of its first ones.
        growth: key in ``.obs`` of weights.
    """

    time: str
    rep: str
    columns: int | None
    growth: str | None

    def times(self, adata: Any) -> np.ndarray:
        """Time of each cell, float64."""
        return self._column(adata, self.time)

    def weights(self, adata: Any) -> Tensor | None:
        """Weight of each cell, float64; those of the last time may be anything."""
        if self.growth is None:
            return None
        times = self.times(adata)
        return torch.as_tensor(self._column(adata, self.growth, times < times.max(initial=-math.inf)))

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
        if self.columns is not None:
            values = values[:, : self.columns]
        if not np.isfinite(values).all():
            raise InputError(f"obsm[{self.rep!r}] has entries that are not finite: drop those cells")
        return torch.as_tensor(values).to(torch.get_default_dtype())

    def at(self, adata: Any, time: float) -> Tensor:
        """The representation of the cells of one time."""
        here = torch.as_tensor(self.times(adata) == time)
        if not bool(here.any()):
            raise InputError(f"There is no cell at time {time:g}")
        return self.rows(adata)[here]

    def _column(self, adata: Any, key: str, used: np.ndarray | None = None) -> np.ndarray:
        if key not in adata.obs:
            raise InputError(f"obs has no column {key!r}")
        column = np.asarray(adata.obs[key])
        try:
            values = column.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"obs[{key!r}] must hold numbers, or categories that are numbers; got {column[0]!r}"
            ) from error
        if values.shape != (adata.n_obs,) or not np.isfinite(values if used is None else values[used]).all():
            raise InputError(f"obs[{key!r}] must hold one finite number for each of {adata.n_obs} cells")
        return values
