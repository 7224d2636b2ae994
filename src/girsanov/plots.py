r"""Plots of results, each on the axes that it is given or on new ones, which it returns.

Everything that is drawn can be changed afterwards, as with any :class:`matplotlib.axes.Axes`. matplotlib is loaded by
the first plot. Bands and bars are two standard errors to each side where they are not said to be something else.

Example:
    >>> import girsanov as gv
    >>> law = gv.Gaussian(torch.zeros(1), 1.0)
    >>> axes = gv.plots.density(law, torch.linspace(-3.0, 3.0, 20)[:, None])
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('x1', 'density')
"""

__all__ = [
    "certificate", "coverage", "denoising_curve", "density", "differences", "learning_curve", "score_test", "values",
]  # fmt: skip

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from girsanov.files import parse_json, read_file
from girsanov.inputs import as_rows, require_names
from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.certificate import Certificate
from girsanov.types import Estimate, InputError, State, require_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHER, QUIET = "C0", "C1", "0.5"  # of matplotlib's own colours, and a grey for light and dark
LEVELS = tuple(np.linspace(0.05, 0.95, 19))
MARGIN = 0.15  # of the rows' range, beside them
SHADE: dict[str, Any] = {"alpha": 0.25, "linewidth": 0}


def learning_curve(history: Any, *, ax: "Axes | None" = None) -> "Axes":
    """The bound on validation rows over the steps of a training.

    Args:
        history: the folder of a run or of ``gv.fit(..., out=...)``, a :class:`girsanov.training.TrainingResult`, or its
            ``history``.
        ax: where to draw.

    Raises:
        InputError: where no validation was recorded.
    """
    records = [line for line in _records(history) if line.get("validation") is not None]
    if not records:
        raise InputError("No validation was recorded there: give the folder of a fit, or a training's result")
    steps, found = (np.array([line[name] for line in records], dtype=float) for name in ("step", "validation"))
    errors = np.array([line.get("validation_stderr") or 0.0 for line in records])
    axes = _axes(ax)
    axes.plot(steps, found, color=OURS, marker="o", markersize=3)
    axes.fill_between(steps, found - 2 * errors, found + 2 * errors, color=OURS, **SHADE)
    axes.set(xlabel="step", ylabel="nats per row", title="Bound on validation rows")
    return axes


def score_test(test: ScoreTest, *, ax: "Axes | None" = None) -> "Axes":
    """Effects of a score test over noise levels; what so many rows can hardly tell from 0 is shaded.

    Filled points are levels whose p-value, corrected for the number of levels, is below 0.05.

    Args:
        test: as :func:`girsanov.score_test` returns it.
        ax: where to draw.
    """
    table, axes = test.to_pandas().sort_values("log_snr"), _axes(ax)
    axes.plot(table["log_snr"], table["effect"], color=OURS)
    seen = table["corrected"] < 0.05
    for part, face in ((table[seen], OURS), (table[~seen], "none")):
        axes.plot(part["log_snr"], part["effect"], "o", color=OURS, markerfacecolor=face)
    axes.axhspan(0.0, 5.0 / test.n, color=QUIET, label=f"hard to see in {test.n:,} rows", **SHADE)
    axes.axhline(0.0, color=QUIET, linestyle="--", linewidth=1.0)
    axes.legend()
    axes.set(xlabel="log-SNR", ylabel="effect", title=f"Score test, p = {test.pvalue:.2g}")
    return axes


def certificate(found: Certificate, *, ax: "Axes | None" = None) -> "Axes":
    """The terms L_1 ... L_(K-1) of a DDPM bound over log-SNR.

    Args:
        found: as :func:`girsanov.certify` returns it.
        ax: where to draw.
    """
    axes, levels = _axes(ax), found.schedule.log_snr[1:].numpy()
    _band(axes, levels, found.curve.numpy(), found.curve_stderr.numpy(), None)
    title = f"Certificate of {found.schedule.name}, gap {found.gap.value:.3g} nats"
    axes.set(xlabel="log-SNR", ylabel="L_t, nats per row", title=title)
    return axes


def denoising_curve(curve: Any, *, ax: "Axes | None" = None) -> "Axes":
    """How much better than its Gaussian reference a model predicts noise, over log-SNR.

    Args:
        curve: as :func:`girsanov.evaluation.denoising_curve` returns it.
        ax: where to draw.
    """
    axes, levels = _axes(ax), curve.levels.numpy()
    _band(axes, levels, curve.gain.numpy(), curve.gain_stderr.numpy(), None)
    axes.axhline(0.0, color=QUIET, linestyle="--", linewidth=1.0)
    axes.set(xlabel="log-SNR", ylabel="gain per dimension", title="Gain over the Gaussian reference")
    return axes


def differences(found: Mapping[str, Any], *, ax: "Axes | None" = None) -> "Axes":
    """Paired differences with their 95 % intervals, one below the other.

    Args:
        found: by name, as :func:`girsanov.evaluation.difference` returns each.
        ax: where to draw.
    """
    axes = _axes(ax)
    for height, value in enumerate(found.values()):
        axes.plot([value.low, value.high], [height, height], color=OURS, linewidth=3)
        axes.plot([value.nats], [height], "o", color=OURS)
    axes.axvline(0.0, color=QUIET, linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set(xlabel="nats per row")
    return axes


def values(estimates: Estimate | Mapping[str, Estimate], *, bins: int = 40, ax: "Axes | None" = None) -> "Axes":
    """Histogram of the values of rows; of several models, one for each.

    Args:
        estimates: one, or several by name.
        bins: number of bins.
        ax: where to draw.
    """
    named = {"": estimates} if isinstance(estimates, Estimate) else dict(estimates)
    arrays = {name: found.value.detach().cpu().numpy() for name, found in named.items()}
    edges, axes = np.histogram_bin_edges(np.concatenate(list(arrays.values())), require_count("bins", bins)), _axes(ax)
    for i, (name, array) in enumerate(arrays.items()):
        kind = "stepfilled" if i == 0 else "step"
        axes.hist(array, edges.tolist(), histtype=kind, alpha=0.6 if i == 0 else 1.0, color=f"C{i}", label=name or None)
    if len(named) > 1:
        axes.legend()
    axes.set(xlabel="nats per row", ylabel="rows")
    return axes


def coverage(
    estimate: Estimate, truth: Tensor, *, levels: Sequence[float] = LEVELS, ax: "Axes | None" = None
) -> "Axes":
    """How many rows' intervals hold the truth, beside how many they promise; shaded is what chance allows.

    The band has two standard errors of a share of independent rows: rows that share noise spread more.

    Args:
        estimate: of rows whose value is known.
        truth: their values, shape ``n``.
        levels: of the intervals, each between 0 and 1.
        ax: where to draw.

    Raises:
        InputError: for another number of values.
    """
    truth = torch.as_tensor(truth).double().cpu()
    if truth.shape != estimate.value.shape:
        raise InputError(f"truth must be one value for each of {len(estimate.value)} rows; got {tuple(truth.shape)}")
    promised, held, axes = np.asarray(levels, dtype=float), [], _axes(ax)
    for level in promised:
        low, high = (end.detach().cpu() for end in estimate.interval(float(level)))
        held.append(float(((low <= truth) & (truth <= high)).double().mean()))
    chance = np.sqrt(promised * (1.0 - promised) / len(truth))
    axes.fill_between(promised, promised - 2 * chance, promised + 2 * chance, color=QUIET, **SHADE)
    axes.plot(promised, promised, color=QUIET, linestyle="--", linewidth=1.0)
    axes.plot(promised, held, color=OURS, marker="o", markersize=3)
    axes.set(xlabel="level of the interval", ylabel="share of rows inside", xlim=(0, 1), ylim=(0, 1))
    return axes


def density(law: Any, x: Any, *, points: int = 60, ax: "Axes | None" = None, **options: Any) -> "Axes":
    """The density of a model, or of a law in closed form, of one or two dimensions, and rows beside it.

    Args:
        law: a fitted model, whose bound is drawn (the exponential of its ``elbo``), or what has a ``log_prob``.
        x: rows ``n 1`` or ``n 2``: ticks or points, and what decides the range.
        points: of the grid, to each side.
        ax: where to draw.
        **options: of the model's ``elbo``: ``samples``, ``condition`` and ``generator``.

    Raises:
        InputError: for rows of more than two dimensions, or another option.
    """
    rows = as_rows(x).detach().cpu().double().flatten(1)
    d, points, axes = rows.shape[1], require_count("points", points, 2), _axes(ax)
    if d > 2:
        raise InputError(f"A density of {d} dimensions has no picture: give a model of one or two")
    require_names(options, ["samples", "condition", "generator"], "density")
    sides = [_side(column, points) for column in rows.T]
    grid = torch.cartesian_prod(*sides).reshape(-1, d)
    height = np.exp(_log_density(law, grid, options)).reshape([points] * d)
    if d == 1:
        axes.plot(sides[0].numpy(), height, color=OURS)
        axes.plot(rows[:, 0].numpy(), np.zeros(len(rows)), "|", color=OTHER)
        axes.set(xlabel="x1", ylabel="density")
    else:
        axes.contourf(sides[0].numpy(), sides[1].numpy(), height.T, levels=12, cmap="Blues")
        axes.plot(rows[:, 0].numpy(), rows[:, 1].numpy(), ".", color=OTHER, markersize=3)
        axes.set(xlabel="x1", ylabel="x2")
    return axes


def _axes(ax: "Axes | None") -> "Axes":
    """Those that were given, or the only ones of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def _band(axes: "Axes", x: np.ndarray, y: np.ndarray, stderr: np.ndarray, label: str | None) -> None:
    axes.plot(x, y, color=OURS, label=label)
    axes.fill_between(x, y - 2 * stderr, y + 2 * stderr, color=OURS, **SHADE)


def _records(history: Any) -> Sequence[Mapping[str, Any]]:
    """The lines of a training's log."""
    if isinstance(history, str | Path):
        path = Path(history) / "train.jsonl"
        return [parse_json(line, str(path)) for line in read_file(path).splitlines()]
    return getattr(history, "history", history)


def _side(column: Tensor, points: int) -> Tensor:
    low, high = float(column.min()), float(column.max())
    margin = MARGIN * (high - low) or 1.0
    return torch.linspace(low - margin, high + margin, points, dtype=torch.float64)


def _log_density(law: Any, grid: State, options: Mapping[str, Any]) -> np.ndarray:
    bound = getattr(law, "elbo", None)
    found = law.log_prob(grid) if bound is None else bound(grid, **options)
    return getattr(found, "value", found).detach().cpu().double().numpy()
