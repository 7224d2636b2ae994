"""What the measures of a bridge say: how near moved rows come to the other end, and what training has added."""

__all__ = ["BRIDGE_FINDERS", "bridge_findings"]

from collections.abc import Callable, Mapping
from functools import partial

from girsanov.bridges.halves import DIRECTIONS
from girsanov.reports.findings import Finding, shortened
from girsanov.reports.numbers import number, sensible
from girsanov.reports.tables import Record

NEAR, HALFWAY = 0.9, 0.5  # of the way from rows left in place to true rows: what is good, and what is not yet bad
FEW = 100  # held-out rows below which a distance is rough

Titles = Mapping[str, str]


def bridge_findings(metrics: Record, titles: Titles) -> list[Finding]:
    """Everything that a bridge's numbers say.

    Args:
        metrics: what ``metrics.json`` holds.
        titles: of both directions.

    Example:
        >>> way = {"rows": 500, "energy": 0.02, "floor": {"energy": 0.01}, "untouched": {"energy": 1.01}}
        >>> titles = {"forward": "a to b", "backward": "b to a"}
        >>> found = bridge_findings({"test": {"forward": way, "backward": way}}, titles)
        >>> found[0].text
        'a to b: moving rows closes 99 % of the energy distance from the other end, 1.010 in place and 0.020 after; as \
many true rows have 0.010.'
    """
    found = (find(metrics, titles) for find in BRIDGE_FINDERS.values())
    return [finding for finding in found if finding is not None]


def _moved(direction: str, metrics: Record, titles: Titles) -> Finding:
    """How near rows come to the other end, beside as many true rows and rows left in place."""
    entry, title = metrics["test"][direction], titles[direction]
    after, true, before = entry["energy"], entry["floor"]["energy"], entry.get("untouched", {}).get("energy")
    shown = f"{number(after, '.3f')}; as many true rows have {number(true, '.3f')}"
    if after <= abs(true):  # two samples of one law differ by as much
        few = f", as far as {entry['rows']} rows tell" if entry["rows"] < FEW else ""
        text = f"{title}: rows come as near to the other end as true rows are{few} (energy distance {shown})."
        return Finding(text, "open" if few else "good", f"From {title}: as near as true rows{few}")
    if before is None:
        text = f"{title}: draws are farther from held-out rows than true rows are (energy distance {shown})."
        return Finding(text, "open", advice="bridge longer")
    if before <= abs(true):
        text = f"{title}: rows left in place are as near as true rows, and moving them leads away ({shown})."
        return Finding(text, "bad", advice="bridge longer")
    return _closed(title, (before, after, true))


def _closed(title: str, distances: tuple[float, float, float]) -> Finding:
    """Which share of the way from rows left in place to true rows is gone."""
    before, after, true = distances
    share = (before - after) / (before - true)
    percent = "none" if share <= 0.0 else f"{100.0 * share:.2g} %"
    text = (
        f"{title}: moving rows closes {percent} of the energy distance from the other end, {number(before, '.3f')} in "
        f"place and {number(after, '.3f')} after; as many true rows have {number(true, '.3f')}."
    )
    verdict = "good" if share >= NEAR else "open" if share >= HALFWAY else "bad"
    headline = f"From {title}: {percent} of the distance closed"
    return Finding(text, verdict, headline, "" if verdict == "good" else "bridge longer")


def _bound(metrics: Record, _: Titles) -> Finding | None:
    """Whether the bound rose in training."""
    history = metrics.get("history") or []
    if "elbo" not in metrics["test"] or len(history) < 2:
        return None
    gain = max(line["elbo"] for line in history) - history[0]["elbo"]
    if gain <= 0.0:
        text = "Training did not raise the bound above that of the closed form that it started from."
        return Finding(text, "bad", advice="bridge longer")
    error = metrics["test"]["elbo"].get("rows_stderr") or 0.0
    text = f"Training raised the bound on validation rows by {sensible(gain, error)} nats per row."
    return Finding(text, "good") if gain > error else Finding(text, "open", advice="bridge longer")


def _kept(metrics: Record, _: Titles) -> Finding | None:
    """Which corrections to the start were confirmed by held-out paths."""
    history = metrics.get("history") or []
    if not history or "before" not in history[0]:
        return None
    kept = sum(entry["after"] < entry["before"] for entry in history)
    if kept:
        return Finding(f"Held-out paths confirmed {kept} of {len(history)} corrections to the start.", "good")
    text = f"Held-out paths confirmed none of {len(history)} corrections: the bridge is the start of its training."
    return Finding(text, "open", advice="bridge start")


def _few(metrics: Record, _: Titles) -> Finding | None:
    rows = min(metrics["test"][direction]["rows"] for direction in DIRECTIONS)
    text = f"Distances are between {rows} held-out rows: of so few they are rough."
    return None if rows >= FEW else Finding(text, "open", advice="bridge rows")


#: every finding about a bridge, in the order of a report; each is ``None`` where there is nothing to say
BRIDGE_FINDERS: dict[str, Callable[[Record, Titles], Finding | None]] = {
    **{direction: partial(_moved, direction) for direction in DIRECTIONS},
    "bound": _bound,
    "kept": _kept,
    "few": _few,
    "shortened": lambda metrics, _: shortened(metrics),
}
