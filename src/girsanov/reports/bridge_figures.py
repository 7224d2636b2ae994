"""What a bridge looks like: both ends and moved rows in two principal components, paths over time, errors, training."""

__all__ = ["alternations", "clouds", "joint_training", "paths_over_time", "principal_axes"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from girsanov.bridges.halves import DIRECTIONS
from girsanov.reports.figures import DATA, DATA_POINTS, LOOKS, OTHER, OUR_POINTS, OURS, axis_limits, canvas
from girsanov.reports.numbers import number

MAX_POINTS = 600
MAX_PATHS = 25
OTHER_POINTS: dict[str, Any] = {**DATA_POINTS, "color": OTHER, "marker": "x", "linewidths": 0.8}


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


def clouds(panels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], labels: tuple[str, str]) -> list[str]:
    """For each direction where rows stood, where they were moved to, and the rows of that end.

    Args:
        panels: title, projected start (or no rows), projected truth and projected moved rows, each ``n 2``.
        labels: of the axes.
    """
    everything = np.concatenate([rows for _, *parts in panels for rows in parts])
    limits = [axis_limits(everything[:, i]) for i in (0, 1)]
    flat, found = not everything[:, 1].any(), []
    for position, (title, start, truth, moved) in enumerate(panels):
        with canvas(
            f"clouds-{position}", f"{title}: rows before, moved and true", height=2.6 if flat else 4.4
        ) as drawn:
            axis = drawn.axes[0][0]
            if flat:
                _histograms(axis, start[:, 0], truth[:, 0], moved[:, 0], np.linspace(*limits[0], 33))
            else:
                _scatter(axis, start, truth, moved)
                axis.set(ylim=limits[1], ylabel=labels[1])
            axis.set(xlim=limits[0], xlabel=labels[0], title=title)
            axis.legend(loc="best", fontsize=8, markerscale=1.4)
            axis.tick_params(labelsize=8)
            middles = zip(("before", "true", "moved"), (start, truth, moved), strict=True)
            said = (f"{name} {number(float(rows[:, 0].mean()), '.3g')}" for name, rows in middles if len(rows))
            drawn.told = f"Means along {labels[0]}: {', '.join(said)}"
        found.append(drawn.svg)
    return found


def _scatter(axis: Any, start: np.ndarray, truth: np.ndarray, moved: np.ndarray) -> None:
    looks = (OTHER_POINTS, DATA_POINTS, OUR_POINTS)
    for rows, look, name in zip((start, truth, moved), looks, ("before", "true", "moved"), strict=True):
        rows, size = rows[:MAX_POINTS], 9 if len(rows) > 150 else 18
        axis.scatter(*rows.T, s=size, label=name, **look)


def _histograms(axis: Any, start: np.ndarray, truth: np.ndarray, moved: np.ndarray, bins: np.ndarray) -> None:
    if len(start):
        axis.hist(start, bins=bins, density=True, histtype="step", color=OTHER, linestyle=":", label="before")
    axis.hist(truth, bins=bins, density=True, color=DATA, alpha=0.4, label="true")
    axis.hist(moved, bins=bins, density=True, histtype="step", color=OURS, linewidth=1.6, label="moved")
    axis.set_yticks([])


def paths_over_time(times: np.ndarray, paths: np.ndarray, labels: tuple[str, str]) -> list[str]:
    """A few paths: their projection over time, and in the plane.

    Args:
        times: shape ``m``.
        paths: projected states, ``m n 2``.
        labels: of the axes.
    """
    shown = paths[:, :MAX_PATHS]
    told = f"{shown.shape[1]} paths"
    with canvas("paths", "Paths over time", height=3.6) as left:
        axis = left.axes[0][0]
        axis.plot(times, shown[..., 0], color=OURS, alpha=0.5, linewidth=0.9)
        axis.set(xlabel="time", ylabel=labels[0], xlim=(times[0], times[-1]))
        left.told = told
    if not shown[..., 1].any():
        return [left.svg]
    with canvas("paths-plane", "Paths in the plane", height=3.6) as right:
        axis = right.axes[0][0]
        axis.plot(shown[..., 0], shown[..., 1], color=OURS, alpha=0.4, linewidth=0.8)
        axis.plot(*shown[0].T, "x", color=OTHER, markersize=4.5, label="start")
        axis.plot(*shown[-1].T, "o", color=DATA, markersize=3.5, label="end")
        axis.set(xlabel=labels[0], ylabel=labels[1])
        axis.legend(fontsize=8)
        right.told = told
    return [left.svg, right.svg]


def alternations(
    rounds: Sequence[Mapping[str, Any]], floors: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Energy distances of both directions after each alternation, and the held-out loss of each projection.

    Nothing where no projection was kept: both would be flat.

    Args:
        rounds: number of the alternation and the entries of both directions.
        floors: distance of true rows, by direction.
        history: projections, with their loss before and after.
    """
    if all(entry["before"] == entry["after"] for entry in history):
        return []
    return [_errors(rounds, floors), _losses(history)]


def _errors(rounds: Sequence[Mapping[str, Any]], floors: Mapping[str, float]) -> str:
    with canvas("alternations-errors", "Held-out errors by alternation", height=3.2) as drawn:
        axis, said = drawn.axes[0][0], []
        for direction, look in zip(DIRECTIONS, LOOKS, strict=True):
            numbers, errors = [e["round"] for e in rounds], [e[direction]["energy"] for e in rounds]
            axis.plot(numbers, errors, **look, markersize=4, label=direction)
            axis.axhline(floors[direction], color=look["color"], linestyle=":", linewidth=1.0)
            said.append(f"{direction} from {number(errors[0], '.3g')} to {number(errors[-1], '.3g')}")
        axis.set(xlabel="alternation", ylabel="energy distance", title="Held-out errors (dotted: true rows)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
        drawn.told = ", ".join(said)
    return drawn.svg


def _losses(history: Sequence[Mapping[str, Any]]) -> str:
    with canvas("alternations-losses", "Held-out loss of each projection", height=3.2) as drawn:
        axis, said = drawn.axes[0][0], []
        for direction, look in zip(DIRECTIONS, LOOKS, strict=True):
            done = [entry for entry in history if entry["direction"] == direction]
            for entry in done:
                axis.plot([entry["round"]] * 2, [entry["before"], entry["after"]], color=look["color"], linewidth=1.0)
            numbers, losses = [entry["round"] for entry in done], [entry["after"] for entry in done]
            axis.plot(numbers, losses, **look | {"linestyle": ""}, markersize=5, label=f"{direction} half")
            said += [f"{direction} half {number(losses[-1], '.3g')} at last"] if losses else []
        axis.set(xlabel="alternation", ylabel="loss per dimension", title="Held-out loss of each projection")
        axis.set_xlim(-0.5, max(entry["round"] for entry in history) + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
        drawn.told = ", ".join(said)
    return drawn.svg


def joint_training(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bound, prior loss and cost of the encoder over the steps of a joint fit; nothing of a bound that stays."""
    steps, found = [entry["step"] for entry in history], []
    if len({entry["elbo"] for entry in history}) < 2:
        return []
    panels = (
        ("elbo", "Bound on validation rows", "nats per row"),
        ("prior_lower", "Prior loss, at least", "nats per row"),
        ("reference", "KL of encoder from reference", "nats per row"),
    )
    for name, title, label in panels:
        values = [entry[name] for entry in history]
        with canvas(f"joint-{name}", title, width=3.6, height=2.9) as drawn:
            axis = drawn.axes[0][0]
            axis.plot(steps, values, color=OURS, marker="o", markersize=3)
            axis.set_title(title, fontsize=10)
            axis.set(xlabel="step", ylabel=label)
            axis.tick_params(labelsize=8)
            drawn.told = f"From {number(values[0], '.4g')} to {number(values[-1], '.4g')} nats per row"
        found.append(drawn.svg)
    return found
