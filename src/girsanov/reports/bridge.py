"""The report of a bridge: both ends beside the moved rows, paths, errors of both directions, and its training."""

__all__ = ["BridgeContents", "BridgeView", "render_bridge"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from girsanov.bridges.halves import DIRECTIONS
from girsanov.datasets import Schema
from girsanov.reports import bridge_figures as drawings, figures
from girsanov.reports.bridge_findings import bridge_findings
from girsanov.reports.findings import advice, headline
from girsanov.reports.numbers import number, sensible
from girsanov.reports.page import Attempts, render
from girsanov.reports.png import image_uri
from girsanov.reports.report import described
from girsanov.reports.tables import bits_error

GRID, COLUMNS = 30, 10  # images of a grid
STRIPS, TIMES = 6, 10  # paths of images, and states of each


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
    details = {"What the numbers mean": _meaning, "Training": _training, "Data, settings, versions": _facts}
    builders = {"Result": _result, "Both ends": _ends, "Paths": _paths, "All numbers": _numbers, **details}
    version = contents.metrics["versions"]["girsanov"]
    subtitle = f"A bridge between {described(contents.schema)} by girsanov {version}, learned without pairs"
    return attempts.page(_title(contents, "forward"), subtitle, builders, contents, folded=frozenset(details))


def _result(contents: BridgeContents) -> str:
    found = bridge_findings(contents.metrics, dict(zip(DIRECTIONS, _titles(contents), strict=True)))
    elbo = contents.metrics["test"].get("elbo")
    said = {"headline": headline(found), "findings": found, "advice": advice(found)}
    return render("bridge_result", **said, elbo=elbo, bits_error=elbo and bits_error(elbo))


def _numbers(contents: BridgeContents) -> str:
    test = contents.metrics["test"]
    return render("bridge_numbers", rows=[_row(direction, test[direction]) for direction in DIRECTIONS])


def _row(direction: str, entry: Mapping[str, Any]) -> list[str]:
    """Distances of moved rows, each beside those of true rows and of rows left in place."""
    places = (entry, entry.get("floor", {}), entry.get("untouched", {}))
    distances = [number(at.get(k), ".3f") for k in ("energy", "wasserstein") for at in places]
    moves = (number(entry.get("change"), ".2f"), sensible(entry.get("path_kl"), None))
    return [direction, f"{entry['rows']:,}", *distances, *moves]


def _meaning(contents: BridgeContents) -> str:
    metrics, images = contents.metrics, contents.schema.kind == "images"
    known = "elbo" in metrics["test"]
    return render("bridge_meaning", names=contents.names, images=images, known_end=known, sigma=metrics["sigma"])


def _ends(contents: BridgeContents) -> str:
    if not contents.views:
        return render("sentence", text=contents.missing) if contents.missing else ""
    if contents.schema.kind == "images":
        if len(contents.schema.event_shape) != 3:
            return ""
        grids = [(_title(contents, view.direction), _grids(view)) for view in contents.views]
        return render("bridge_ends", grids=grids, clouds=[], marginals=())
    project, labels = _projection(contents)
    panels, marginals = [], []
    for view in contents.views:
        title, names = _title(contents, view.direction), contents.schema.columns or ()
        start = np.zeros((0, 2)) if view.start is None else project(view.start)
        panels.append((title, start, project(view.truth), project(view.moved)))
        if len(names) > 2:
            drawn = figures.marginals(_flat(view.truth), _flat(view.moved), names, key=f"marginals-{view.direction}")
            marginals.append((title, drawn))
    return render("bridge_ends", grids=(), clouds=drawings.clouds(panels, labels), marginals=marginals)


def _grids(view: BridgeView) -> list[tuple[str, str]]:
    """Images before and after, at the same places, and true ones, each with its caption."""
    shown = [] if view.start is None else [(view.start, "held-out images")]
    shown += [(view.moved, "moved" if shown else "draws"), (view.truth, "held-out images of the other end")]
    return [(image_uri(images[:GRID], view.truth, COLUMNS), caption) for images, caption in shown]


def _paths(contents: BridgeContents) -> str:
    shown = [(view, view.paths) for view in contents.views if view.paths is not None]
    if not shown:
        return ""
    if contents.schema.kind == "images":
        if len(contents.schema.event_shape) != 3:
            return ""
        strips = [(_title(contents, view.direction), view.direction, _strip(view, paths)) for view, paths in shown]
        return render("bridge_paths", strips=strips, charts=[])
    (project, labels), (view, paths) = _projection(contents), shown[0]
    charts = drawings.paths_over_time(_times(view), np.stack([project(state) for state in paths]), labels)
    return render("bridge_paths", strips=(), charts=charts, title=_title(contents, view.direction))


def _strip(view: BridgeView, paths: Tensor) -> str:
    """One line for each of a few images: its states at equally spaced times."""
    times = _times(view)
    at = [int(np.abs(times - t).argmin()) for t in np.linspace(0.0, 1.0, TIMES)]
    return image_uri(paths[at][:, :STRIPS].transpose(0, 1).flatten(0, 1), view.truth, TIMES)


def _times(view: BridgeView) -> np.ndarray:
    assert view.times is not None
    return view.times.double().cpu().numpy()


def _training(contents: BridgeContents) -> str:
    test, history, rounds = (contents.metrics[name] for name in ("test", "history", "rounds"))
    if not history:
        return ""
    if "elbo" in test:
        return render("bridge_joint", charts=drawings.joint_training(history))
    floors = {way: test[way]["floor"]["energy"] for way in DIRECTIONS}
    charts = drawings.alternations(rounds, floors, history) if rounds else []
    return render("bridge_training", charts=charts, history=history)


def _facts(contents: BridgeContents) -> str:
    metrics = contents.metrics
    rows = {end: f"{n['train']:,} training, {n['test']:,} held out" for end, n in metrics["rows"].items()}
    tables = {
        "Rows": {**dict(zip(("from", "to"), contents.names, strict=False)), **rows},
        "Seconds": metrics["timing"],
        **({"Shortened to the time budget": metrics["shortened"]} if metrics.get("shortened") else {}),
        "Settings": {**metrics["settings"], "steps of a projection": metrics["steps"]},
        "Versions": metrics["versions"],
    }
    return render("facts", notes=contents.schema.notes, tables=tables)


def _projection(contents: BridgeContents) -> tuple[Callable[[Tensor], np.ndarray], tuple[str, str]]:
    """A function from rows to the plane, and the names of its axes."""
    names = contents.schema.columns or tuple(f"x{i + 1}" for i in range(_flat(contents.views[0].truth).shape[1]))
    centre, axes, labels = drawings.principal_axes([_flat(view.truth) for view in contents.views], names)
    return (lambda x: (_flat(x) - centre) @ axes), labels


def _flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).double().cpu().numpy()


def _title(contents: BridgeContents, direction: str) -> str:
    return _titles(contents)[DIRECTIONS.index(direction)]


def _titles(contents: BridgeContents) -> tuple[str, str]:
    """Of both directions, by the short names of the ends."""
    short = [PurePath(name).name or name for name in contents.names]
    return " to ".join(short), " to ".join(short[::-1])
