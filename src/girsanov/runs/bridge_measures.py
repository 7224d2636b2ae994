"""How well a bridge moves held-out rows: distances from the other end, beside those of true rows and of no move."""

__all__ = ["errors", "measured", "views"]

import dataclasses
from typing import Any

import torch

from girsanov.bridge_model import BridgeModel
from girsanov.bridges import energy_distance, wasserstein
from girsanov.bridges.halves import DIRECTIONS
from girsanov.datasets import Data
from girsanov.evaluation import summary
from girsanov.pairs import Direction
from girsanov.randomness import mix, normal_blocks
from girsanov.reports.bridge import BridgeView
from girsanov.runs.budget import Budget
from girsanov.runs.ends import Ends
from girsanov.types import Estimate

LEAST = 100  # rows that are timed first, where there is a time budget
ROWS = 1000  # of each sample that is compared: exact transport grows with the square of it
SHOWN_PATHS = 60
BOUND_PATHS = 16


def measured(model: BridgeModel, ends: Ends, budget: Budget) -> dict[str, Any]:
    """The held-out numbers of both directions, and the bound where the end's density is known."""
    found = budget.part(0.5).most(
        "rows that are compared", ROWS, lambda n: errors(model, ends, rows=n, full=True), least=LEAST, power=2.0
    )
    if model.known_end:
        held = ends.part(0, "test")[:ROWS]
        bound = budget.most("rows of the bound", len(held), lambda n: _bound(model, held[:n]), least=LEAST)
        found["elbo"] = summary(bound)
    return found


def errors(model: BridgeModel, ends: Ends, *, rows: int, full: bool = False) -> dict[str, Any]:
    """For each direction the distances of moved rows from held-out rows of the other end, in units of the spread.

    Args:
        model: the bridge.
        ends: the data.
        rows: held-out rows of each end at most.
        full: add what does not depend on the bridge: the *floor*, the distance that as many true rows have, and that
            of the rows left where they are; and how far rows move.
    """
    entries = {}
    for i, direction in enumerate(DIRECTIONS):
        start, truth, spare = _samples(model, ends, i, rows)
        moved = model.moved(start, direction) if start is not None else model.draw(len(truth))
        entry: dict[str, Any] = {"rows": len(moved), **_distances(model, moved, truth)}
        if full:
            entry["floor"] = _distances(model, spare, truth)
            if start is not None:
                entry["untouched"] = _distances(model, start, truth)
                entry |= _movement(model, start, moved, direction)
        entries[direction] = entry
    return entries


def views(model: BridgeModel, ends: Ends, budget: Budget) -> tuple[BridgeView, ...]:
    """What the report draws of each direction: rows of both ends in data units, moved rows, a few paths."""
    return budget.part(0.7).most("rows that are drawn", ROWS, lambda n: _views(model, ends, n), least=LEAST)


def _views(model: BridgeModel, ends: Ends, rows: int) -> tuple[BridgeView, ...]:
    found = []
    for i, direction in enumerate(DIRECTIONS):
        start, truth, _ = _samples(model, ends, i, rows)
        if start is None:
            found.append(BridgeView(direction, None, truth.x, model.draw(len(truth)).x, None))
            continue
        paths = model.paths(start[:SHOWN_PATHS], direction)
        moved = model.moved(start, direction).x
        found.append(BridgeView(direction, start.x, truth.x, moved, paths, model.bridge.path_times()))
    return tuple(found)


def _samples(model: BridgeModel, ends: Ends, i: int, rows: int) -> tuple[Data | None, Data, Data]:
    """Held-out rows of the start of direction i and of its end, and as many training rows of the end."""
    if len(ends.x) == 2:
        start, truth = ends.part(i, "test")[:rows], ends.part(1 - i, "test")[:rows]
        return start, truth, ends.part(1 - i, "train")[: len(start)]
    held = ends.part(0, "test")[:rows]
    if i == 1:
        return None, held, ends.part(0, "train")[: len(held)]
    return held, _normal(model, len(held), 1), _normal(model, len(held), 2)


def _normal(model: BridgeModel, n: int, purpose: int) -> Data:
    """Draws of the known end, in the units that data would have there."""
    generator = torch.Generator().manual_seed(mix(model.seed, 500, purpose) % 2**31)
    drawn = model.left(torch.randn(n, *model.bridge.event_shape, generator=generator))
    return Data(drawn, None, None, model.schema, "draws of the law", None)


def _distances(model: BridgeModel, x: Data, y: Data) -> dict[str, Any]:
    """Energy distance, and the exact Wasserstein distance of as many rows of each, in units of the spread."""
    a, b = (model.scaled(z).double() for z in (x, y))
    n = min(len(a), len(b))
    return {"energy": energy_distance(a, b), "wasserstein": wasserstein(a[:n], b[:n])}


def _movement(model: BridgeModel, start: Data, moved: Data, direction: Direction) -> dict[str, Any]:
    """Root mean squared change per column in spreads; forwards also the KL of the paths from the reference's, nats."""
    change = (model.scaled(moved) - model.scaled(start)).double()
    found: dict[str, Any] = {"change": float(change.square().mean().sqrt())}
    if direction == "forward":
        chain = model.bridge.sections[0]
        generator = torch.Generator().manual_seed(mix(model.seed, 600) % 2**31)
        x = model.placed(model.encode(start))
        with torch.no_grad():
            weighed = chain.weigh(x, normal_blocks(x, generator))
        found["path_kl"] = float(weighed.reference.mean())
    return found


def _bound(model: BridgeModel, x: Data) -> Estimate:
    """The chain's bound in data units: of a log-density, or of a log-probability where columns are discrete."""
    generator = torch.Generator().manual_seed(mix(model.seed, 700) % 2**31)
    rows = model.encode(x)
    estimate = model.bridge.elbo(model.placed(rows), paths=BOUND_PATHS, generator=generator)
    shift, measure = model.view(rows).log_det[:, 0].to(estimate.value.device), model.encoding.measure
    replicates = None if estimate.replicates is None else estimate.replicates + shift
    return dataclasses.replace(estimate, value=estimate.value + shift, terms={}, replicates=replicates, measure=measure)
