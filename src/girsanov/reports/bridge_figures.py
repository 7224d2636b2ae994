"""What a bridge looks like: both ends and moved rows in two principal components, paths over time, errors, training."""

__all__ = ["alternations", "clouds", "joint_training", "paths_over_time", "principal_axes"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from girsanov.reports.figures import DATA, OTHER, OURS, POINTS, axis_limits, canvas

MAX_POINTS = 600
MAX_PATHS = 25


def principal_axes(ends: Sequence[np.ndarray], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Centre, two axes and their names: of both ends' standardised rows; the columns themselves where there are two.

    Args:
        ends: rows of each end, ``n d``.
        names: of the columns.

    Returns:
        Centre ``d``, matrix ``d 2`` (``d 1`` padded by zeros), and labels; project by ``(x - centre) @ matrix``.

    Example:
        >>> centre, axes, labels = principal_axes([np.zeros((3, 2)), np.ones((3, 2))], ("a", "b"))
        >>> centre, axes, labels
        (array([0., 0.]), array([[1., 0.],
               [0., 1.]]), ('a', 'b'))
    """
    rows = np.concatenate(ends)
    d = rows.shape[1]
    if d == 1:
        return np.zeros(1), np.array([[1.0, 0.0]]), (names[0], "")
    if d == 2:
        return np.zeros(2), np.eye(2), (names[0], names[1])
    spread = rows.std(0) + 1e-12
    centre = rows.mean(0)
    _, _, axes = np.linalg.svd((rows - centre) / spread, full_matrices=False)
    return centre, (axes[:2] / spread).T, ("first principal component", "second principal component")


def clouds(panels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], labels: tuple[str, str]) -> str:
    """For each direction where rows stood, where they were moved to, and the rows of that end.

    Args:
        panels: title, projected start (or no rows), projected truth and projected moved rows, each ``n 2``.
        labels: of the axes.
    """
    everything = np.concatenate([rows for _, *parts in panels for rows in parts])
    limits = [axis_limits(everything[:, i]) for i in (0, 1)]
    flat = not everything[:, 1].any()
    with canvas("clouds", 1, len(panels), width=9.0, height=2.6 if flat else 4.4) as drawn:
        for axis, (title, start, truth, moved) in zip(drawn.axes[0], panels, strict=True):
            if flat:
                _histograms(axis, start[:, 0], truth[:, 0], moved[:, 0], np.linspace(*limits[0], 33))
            else:
                for rows, colour, name in ((start, OTHER, "before"), (truth, DATA, "true"), (moved, OURS, "moved")):
                    rows, size = rows[:MAX_POINTS], 7 if len(rows) > 150 else 14
                    axis.scatter(*rows.T, s=size, color=colour, label=name, **POINTS)
                axis.set(ylim=limits[1], ylabel=labels[1])
            axis.set(xlim=limits[0], xlabel=labels[0], title=title)
            axis.legend(loc="best", fontsize=8, markerscale=1.6)
            axis.tick_params(labelsize=8)
    return drawn.svg


def _histograms(axis: Any, start: np.ndarray, truth: np.ndarray, moved: np.ndarray, bins: np.ndarray) -> None:
    if len(start):
        axis.hist(start, bins=bins, density=True, histtype="step", color=OTHER, label="before")
    axis.hist(truth, bins=bins, density=True, color=DATA, alpha=0.4, label="true")
    axis.hist(moved, bins=bins, density=True, histtype="step", color=OURS, linewidth=1.6, label="moved")
    axis.set_yticks([])


def paths_over_time(times: np.ndarray, paths: np.ndarray, labels: tuple[str, str]) -> str:
    """A few paths: their projection over time on the left, in the plane on the right.

    Args:
        times: shape ``m``.
        paths: projected states, ``m n 2``.
        labels: of the axes.
    """
    shown = paths[:, :MAX_PATHS]
    flat = not shown[..., 1].any()
    with canvas("paths", 1, 1 if flat else 2, width=9.0, height=3.6) as drawn:
        left, *rest = drawn.axes[0]
        left.plot(times, shown[..., 0], color=OURS, alpha=0.5, linewidth=0.9)
        left.set(xlabel="time", ylabel=labels[0], xlim=(times[0], times[-1]))
        for axis in rest:
            axis.plot(shown[..., 0], shown[..., 1], color=OURS, alpha=0.4, linewidth=0.8)
            axis.plot(*shown[0].T, "o", color=OTHER, markersize=3.5, label="start")
            axis.plot(*shown[-1].T, "o", color=DATA, markersize=3.5, label="end")
            axis.set(xlabel=labels[0], ylabel=labels[1])
            axis.legend(fontsize=8)
    return drawn.svg


def alternations(
    rounds: Sequence[Mapping[str, Any]], floors: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> str:
    """Energy distances of both directions after each alternation, and the held-out loss of each projection.

    Args:
        rounds: number of the alternation and the entries of both directions.
        floors: distance of true rows, by direction.
        history: projections, with their loss before and after.
    """
    with canvas("alternations", 1, 2, width=9.0, height=3.2) as drawn:
        left, right = drawn.axes[0]
        for direction, colour in (("forward", OURS), ("backward", DATA)):
            numbers, errors = [e["round"] for e in rounds], [e[direction]["energy"] for e in rounds]
            left.plot(numbers, errors, color=colour, marker="o", markersize=4, label=direction)
            if direction in floors:
                left.axhline(floors[direction], color=colour, linestyle=":", linewidth=1.0)
            done = [entry for entry in history if entry["direction"] == direction]
            for entry in done:
                right.plot([entry["round"]] * 2, [entry["before"], entry["after"]], color=colour, linewidth=1.0)
            numbers, losses = [entry["round"] for entry in done], [entry["after"] for entry in done]
            right.plot(numbers, losses, "v", color=colour, markersize=5, label=f"{direction} half")
        left.set(xlabel="alternation", ylabel="energy distance", title="Held-out errors (dotted: true rows)")
        right.set(xlabel="alternation", ylabel="loss per dimension", title="Held-out loss of each projection")
        right.set_xlim(-0.5, max((entry["round"] for entry in history), default=1) + 0.5)
        for axis in (left, right):
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend(fontsize=8)
    return drawn.svg


def joint_training(history: Sequence[Mapping[str, Any]]) -> str:
    """Bound, prior loss and cost of the encoder over the steps of a joint fit."""
    steps = [entry["step"] for entry in history]
    panels = (
        ("elbo", "Bound on validation rows", "nats per row"),
        ("prior_lower", "Prior loss, at least", "nats per row"),
        ("reference", "KL of encoder from reference", "nats per row"),
    )
    with canvas("joint", 1, 3, width=9.0, height=2.9) as drawn:
        for axis, (name, title, label) in zip(drawn.axes[0], panels, strict=True):
            axis.plot(steps, [entry[name] for entry in history], color=OURS, marker="o", markersize=3)
            axis.set_title(title, fontsize=10)
            axis.set(xlabel="step", ylabel=label)
            axis.tick_params(labelsize=8)
    return drawn.svg
