"""The report of a bridge: both ends beside the moved rows, paths, errors of both directions, and its training."""

__all__ = ["BridgeContents", "BridgeView", "render_bridge"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.reports import bridge_figures as drawings
from girsanov.reports import figures
from girsanov.reports.attempts import Attempts
from girsanov.reports.page import (
    details,
    figure,
    headline,
    minus,
    page,
    paragraph,
    picture,
    section,
    table,
)
from girsanov.reports.png import data_uri, image_grid, png_bytes
from girsanov.reports.tables import KINDS

GRID, COLUMNS = 30, 10  # images of a grid
STRIPS, TIMES = 6, 10  # paths of images, and states of each
NO_FIGURES = "There are no drawings here because matplotlib is missing: pip install 'girsanov[plot]'."


@dataclass(frozen=True)
class BridgeView:
    """What is drawn of one direction, in data units.

    Attributes:
        direction: ``forward`` or ``backward``.
        start: held-out rows that are moved, ``n *event_shape``; ``None`` where they are draws of a known law.
        truth: held-out rows of the other end.
        moved: the moved rows.
        paths: whole paths of the first rows, ``m n *event_shape``, in the order of time.
        times: of their states, shape ``m``.
    """

    direction: str
    start: Tensor | None
    truth: Tensor
    moved: Tensor
    paths: Tensor | None
    times: Tensor | None = None


@dataclass(frozen=True)
class BridgeContents:
    """Everything that a bridge's report shows.

    Attributes:
        names: what stands at the start and at the end.
        metrics: what ``metrics.json`` holds.
        schema: how the data were read.
        views: of both directions; empty where the data are gone, and ``missing`` says why.
        missing: why the data could not be read again.
    """

    names: tuple[str, ...]
    metrics: Mapping[str, Any]
    schema: Schema
    views: tuple[BridgeView, ...] = ()
    missing: str = ""


def render_bridge(contents: BridgeContents, attempts: Attempts | None = None) -> str:
    """The page as HTML text.

    Args:
        contents: what it shows.
        attempts: what failed before; one sentence stands in place of such sections and of those that fail here.
    """
    attempts = attempts or Attempts(lambda _: None)
    metrics = contents.metrics
    shape = " × ".join(map(str, contents.schema.event_shape))
    what = f"images of {shape}" if contents.schema.kind == "images" else f"tables of {shape} columns"
    short = [PurePath(name).name or name for name in contents.names]
    subtitle = f"A bridge between {what} by girsanov {metrics['versions']['girsanov']}, learned without pairs"
    builders = [("Result", _result), ("What the numbers mean", _meaning), ("Both ends", _ends), ("Paths", _paths)]
    builders += [("Training", _training), ("Data, settings, versions", _facts)]
    if not figures.available():
        builders.insert(2, ("Figures", _no_figures))
    made = attempts.sections([(title, partial(build, contents)) for title, build in builders])
    return page(f"{short[0]} to {short[1]}", subtitle, made)


def _no_figures(contents: BridgeContents) -> str:
    del contents
    return section("Figures", paragraph(NO_FIGURES))


def _result(contents: BridgeContents) -> str:
    test, parts = contents.metrics["test"], []
    if "elbo" in test:
        entry = test["elbo"]
        bits = "" if entry["bits_per_dim"] is None else f"{entry['bits_per_dim']:.3f} bits/dim, "
        parts.append(
            headline(minus(f"{entry['nats']:.2f}") + " nats per row", f"({bits}{KINDS[entry['kind']]}, chain)")
        )
    else:
        entry = test["forward"]
        rest = (
            f"is the energy distance of moved rows from held-out ones; left where they are, {_at(entry, 'untouched')}"
        )
        parts.append(headline(minus(f"{entry['energy']:.3f}"), rest))
    header = ("direction", "rows", "energy", "true rows", "in place", "W1", "true rows", "in place", "change", "KL")
    rows = [_row(contents, direction) for direction in ("forward", "backward")]
    return section("Result", *parts, table(header, rows))


def _row(contents: BridgeContents, direction: str) -> tuple[str, ...]:
    entry = contents.metrics["test"][direction]
    cells = [direction, f"{entry['rows']:,}"]
    for name, digits in (("energy", 4), ("wasserstein", 3)):
        cells += [_number(source.get(name), digits) for source in (entry, *(entry.get(k, {}) for k in BESIDE))]
    return (*cells, _number(entry.get("change"), 3), _number(entry.get("path_kl"), 2))


BESIDE = ("floor", "untouched")


def _at(entry: Mapping[str, Any], name: str) -> str:
    return _number(entry[name]["energy"], 3)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else minus(f"{value:.{digits}f}")


def _meaning(contents: BridgeContents) -> str:
    metrics = contents.metrics
    units = "the spread of the pixels" if contents.schema.kind == "images" else "each column's spread within the ends"
    text = [
        f"Forward is from {contents.names[0]} to {contents.names[1]}. "
        f"Energy and W1 (exact transport) are distances, in units of {units}, of moved held-out rows from the held-out "
        "rows of the other end; none of the rows took part in the fit. “True rows” is the distance of as many rows of "
        "that end's training part: a perfect bridge comes to about that value, and an energy distance may then be "
        "slightly negative. “In place” is the distance of the rows before they are moved. Change is the root mean "
        "squared change per column."
    ]
    if "elbo" not in metrics["test"]:
        text.append(
            f"The reference is Brownian motion with sigma {metrics['sigma']:g}: of all ways to lead one end to the "
            "other, the bridge's strays the least from it, and a smaller sigma keeps a row closer to what it was. KL "
            "is what that costs, in nats per row: the divergence of the bridge's paths from the reference's."
        )
        text.append("Neither end's density is known, so there is no bound on a likelihood and none is reported.")
    else:
        text.append(
            "The end is a standard normal law, so that the bridge has a bound on the log-density of the data, in their "
            "own units: an exact statement about the chain that draws rows backwards. Both drifts are learned by it, "
            f"starting from the closed form over a Brownian motion with sigma {metrics['sigma']:g}."
        )
    return section("What the numbers mean", *map(paragraph, text))


def _ends(contents: BridgeContents) -> str:
    if not contents.views:
        return section("Both ends", paragraph(contents.missing)) if contents.missing else ""
    if contents.schema.kind == "images":
        if len(contents.schema.event_shape) != 3:
            return ""
        return section("Both ends", *(_grids(contents, view) for view in contents.views))
    if not figures.available():
        return ""
    names = contents.schema.columns or ()
    project, labels = _projection(contents)
    panels = []
    for view in contents.views:
        start = np.zeros((0, 2)) if view.start is None else project(view.start)
        panels.append((_title(contents, view.direction), start, project(view.truth), project(view.moved)))
    caption = (
        "Grey, held-out rows before they are moved; blue, after; orange, the held-out rows of the other end, which the "
        "blue ones should resemble as a cloud, not one by one."
    )
    parts = [figure(drawings.clouds(panels, labels), caption)]
    if len(names) > 2:
        for view in contents.views:
            text = f"{_title(contents, view.direction)}, column by column: filled, held-out rows; line, moved rows."
            svg = figures.marginals(_flat(view.truth), _flat(view.moved), names)
            parts.append(figure(svg.replace("marginals-", f"marginals-{view.direction}-"), text))
    return section("Both ends", *parts)


def _grids(contents: BridgeContents, view: BridgeView) -> str:
    """Images before and after, at the same places, and true ones."""
    low, high = float(view.truth.min()), float(view.truth.max())
    shown = [] if view.start is None else [(view.start, "held-out images")]
    shown += [(view.moved, "moved" if shown else "draws"), (view.truth, "held-out images of the other end")]
    parts = []
    for images, caption in shown:
        pixels = image_grid(images[:GRID].double().cpu().numpy(), low=low, high=high, columns=COLUMNS)
        parts.append(picture(data_uri(png_bytes(pixels)), caption, caption))
    title = _title(contents, view.direction)
    return f'{_heading(title)}<div class="beside">' + "\n".join(parts) + "</div>"


def _paths(contents: BridgeContents) -> str:
    shown = [view for view in contents.views if view.paths is not None]
    if not shown:
        return ""
    if contents.schema.kind == "images":
        if len(contents.schema.event_shape) != 3:
            return ""
        return section("Paths", *(_strips(contents, view) for view in shown))
    if not figures.available():
        return ""
    project, labels = _projection(contents)
    view = shown[0]
    assert view.paths is not None
    states = np.stack([project(state) for state in view.paths])
    svg = drawings.paths_over_time(_times(view), states, labels)
    caption = f"Paths of held-out rows, {_title(contents, view.direction)}; time runs from 0 at the start to 1."
    return section("Paths", figure(svg, caption))


def _strips(contents: BridgeContents, view: BridgeView) -> str:
    """One line for each of a few images: its states at equally spaced times."""
    assert view.paths is not None
    times = _times(view)
    at = [int(np.abs(times - t).argmin()) for t in np.linspace(0.0, 1.0, TIMES)]
    states = view.paths[at][:, :STRIPS].transpose(0, 1).flatten(0, 1).double().cpu().numpy()
    pixels = image_grid(states, low=float(view.truth.min()), high=float(view.truth.max()), columns=TIMES)
    order = "left to right, as time runs" if view.direction == "forward" else "right to left, against time"
    caption = f"{_title(contents, view.direction)}: {order}; the same images as above."
    return picture(data_uri(png_bytes(pixels)), caption, "states of a few paths")


def _times(view: BridgeView) -> np.ndarray:
    assert view.times is not None
    return view.times.double().cpu().numpy()


def _training(contents: BridgeContents) -> str:
    metrics = contents.metrics
    history, rounds = metrics["history"], metrics["rounds"]
    if "elbo" in metrics["test"]:
        if not history or not figures.available():
            return ""
        caption = (
            "The negative bound is the entropy of the data plus the prior loss plus the drift matching. The prior loss "
            "is the KL of the encoder's end from the prior, bounded from below by that of its first two moments. "
            "Nothing pulls the encoder to its reference; how far it has gone is on the right. All are in units of the "
            "columns' spread, which shifts the bound by a constant from the one above."
        )
        return section("Training", figure(drawings.joint_training(history), caption))
    header = ("alternation", "half", "loss before", "after", "steps", "seconds")
    rows = [
        (str(e["round"]), e["direction"], *(_number(e[k], 4) for k in ("before", "after")), f"{e['steps']:,}",
         f"{e['seconds']:.1f}")
        for e in history
    ]  # fmt: skip
    parts = []
    if rounds and figures.available():
        floors = {way: metrics["test"][way]["floor"]["energy"] for way in ("forward", "backward")}
        caption = (
            "The errors of alternation 0 are those of the closed form that training starts from; a loss there, if any, "
            "is of the warm start, which fits both halves to pairs of rows. A projection fits one half to paths that "
            "the other one makes from rows of its own end; a correction that held-out paths do not confirm is not "
            "made, so the loss after it is at most that before."
        )
        parts.append(figure(drawings.alternations(rounds, floors, history), caption))
    return section("Training", *parts, table(header, rows))


def _facts(contents: BridgeContents) -> str:
    metrics = contents.metrics
    rows = {end: f"{n['train']:,} training, {n['test']:,} held out" for end, n in metrics["rows"].items()}
    pairs = {
        "Rows": {**dict(zip(("from", "to"), contents.names, strict=False)), **rows},
        "Seconds": metrics["timing"],
        "Settings": {**metrics["settings"], "steps of a projection": metrics["steps"]},
        "Versions": metrics["versions"],
    }
    notes = contents.schema.notes
    parts = [details("How the data were read", *map(paragraph, notes))] if notes else []
    parts += [
        details(
            title, table(("name", "value"), [(k, "–" if v is None else str(v)) for k, v in facts.items()], text=True)
        )
        for title, facts in pairs.items()
    ]
    return section("Data, settings, versions", *parts)


def _projection(contents: BridgeContents) -> tuple[Any, tuple[str, str]]:
    """A function from rows to the plane, and the names of its axes."""
    names = contents.schema.columns or tuple(f"x{i + 1}" for i in range(_flat(contents.views[0].truth).shape[1]))
    centre, axes, labels = drawings.principal_axes([_flat(view.truth) for view in contents.views], names)
    return (lambda x: (_flat(x) - centre) @ axes), labels


def _flat(x: Tensor) -> np.ndarray:
    return torch.as_tensor(x).flatten(1).double().cpu().numpy()


def _title(contents: BridgeContents, direction: str) -> str:
    short = [PurePath(name).name or name for name in contents.names]
    return " to ".join(short if direction == "forward" else short[::-1])


def _heading(text: str) -> str:
    from html import escape

    return f"<h3>{escape(text)}</h3>\n"
