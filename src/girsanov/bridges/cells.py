"""Trajectories of cells from snapshots: an annotated matrix in, a bridge through its times out."""

__all__ = ["fit_trajectories"]

import math
from pathlib import Path
from typing import Any

import torch

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.annotated import AnnotatedCells
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import fixed_size
from girsanov.bridges.starts import Start, start_of
from girsanov.bridges.trajectories import Trajectories
from girsanov.inputs import as_device, checked
from girsanov.training import Progress
from girsanov.types import InputError


@checked
def fit_trajectories(
    adata: Any,
    *,
    time_key: str,
    rep: str = "X_pca",
    columns: int | None = None,
    growth: str | None = None,
    sigma: float | None = None,
    start: Start | None = None,
    steps: int = 40,
    network: NetworkConfig | None = None,
    alternating: AlternatingConfig | None = None,
    time_budget: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    run: str | Path | None = None,
    progress: Progress | bool = True,
) -> Trajectories:
    """Fit a bridge through the snapshots of an annotated matrix.

    Args:
        adata: AnnData, or anything with ``.obs[time_key]``, ``.obsm[rep]`` (``n d``, dense, sparse or a frame) and
            ``.n_obs``. Times are numbers, durations (counted in days), or categories and labels with one number each,
            such as ``day 3`` or ``E8.5``.
        time_key: of the time of each cell.
        rep: of the representation in which paths run: a key of ``.obsm``; else ``X``, or a key of ``.layers``.
        columns: keep so many of its first ones.
        growth: key in ``.obs`` of weights of the cells, such as growth factors over the next interval: sections start
            in weighted cells and end in unweighted ones. Those of the last time are not used, and may be ``nan``.
        sigma: of the reference over the whole time, in spreads of the representation (the root mean variance within
            the snapshots): how much a path may stray. When left out it is chosen by leaving each inner time out, see
            :class:`~girsanov.bridges.ReferenceSize`; two times leave none, and get half of the spread.
            ``fitted.size`` and its ``repr`` tell what was chosen, and by what.
        start: where training starts, see :class:`SchrodingerBridge`.
        steps: of a path between two times.
        network: size of the networks.
        alternating: settings of the fit; upper limits where there is a time budget.
        time_budget: seconds of the fit. What does not fit into it is left out: training steps, paths, rounds.
        seed: decides everything random.
        device: where to fit and to move cells; results come back to the CPU.
        run: folder for checkpoints, also of the fits without a time; an interrupted fit goes on from there.
        progress: ``True`` shows the fit by section and round, with a bar in a terminal or a notebook and a line every
            15 seconds elsewhere; ``False`` shows nothing; or what is to show it.

    Returns:
        The bridge with the faces that single-cell work needs.

    Raises:
        InputError: if a key is missing, there are fewer than two times, a time has few cells, or entries are not
            finite.
        girsanov.training.Interrupted: on SIGINT or SIGTERM during training, after a checkpoint was saved.

    Example:
        >>> from types import SimpleNamespace
        >>> g = torch.Generator().manual_seed(0)
        >>> day = torch.tensor([2.0, 3.0, 7.0]).repeat_interleave(100)
        >>> pcs = torch.randn(300, 3, generator=g) + day[:, None] * torch.tensor([1.0, 0.0, 0.0])
        >>> cells = SimpleNamespace(obs={"day": day.numpy()}, obsm={"X_pca": pcs.numpy()}, n_obs=300)  # or an AnnData
        >>> settings = AlternatingConfig(rounds=1, steps=20, paths=100)
        >>> fitted = fit_trajectories(cells, time_key="day", sigma=0.5, steps=5, alternating=settings)
        >>> fitted.times, fitted.trajectories(cells, start=2.0, end=5.5).shape
        ([2.0, 3.0, 7.0], torch.Size([100, 3]))
        >>> error = fitted.held_out_error(3.0, seeds=1)
        >>> error.before, error.mean < error.untouched
        (2.0, True)
    """
    if time_budget is not None and not 0.0 < time_budget < math.inf:
        raise InputError(f"time_budget must be a positive number of seconds; got {time_budget}")
    keys = AnnotatedCells(time_key, rep, columns, growth)
    snapshots = keys.snapshots(adata)
    recipe = Recipe(
        None if sigma is None else fixed_size(snapshots, sigma), start_of(start), steps, network,
        alternating or AlternatingConfig(), seed, as_device(device), None if run is None else Path(run), time_budget,
    )  # fmt: skip
    bridge, size = recipe.fit(snapshots, progress=progress)
    return Trajectories(bridge, size, snapshots, recipe, keys)
