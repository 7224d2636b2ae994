"""The result table, for terminals and pages alike: sections whose numbers may be compared, rows, formatted cells.

Two kinds of likelihood, or two models of one network (its SDE and its ODE), never share a section.
"""

__all__ = ["KINDS", "NAMES", "Section", "differences", "sections"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from girsanov.evaluation import Difference

Record = Mapping[str, Any]

NAMES: dict[str, str] = {
    "elbo": "girsanov, SDE",
    "elbo_given_class": "girsanov, SDE, given its class",
    "density": "girsanov, density formula",
    "ode": "girsanov, ODE",
    "gaussian": "Gaussian, full covariance",
    "mixture": "Gaussian mixture",
    "spline_flow": "neural spline flow",
}
KINDS = {
    "exact": "exact",
    "unbiased": "unbiased",
    "lower_bound": "lower bound",
    "upper_bound": "upper bound",
    "estimate": "estimate",
}
TITLES = {
    "exact": "Exact {measure}",
    "unbiased": "Unbiased estimates of the {measure}",
    "lower_bound": "Lower bounds on the {measure}",
    "upper_bound": "Upper bounds on the {measure}",
    "estimate": "Estimates of the {measure}",
}
MEASURES = {
    "density": "log-density",
    "mass": "log-probability",
    "mixed": "log-density (log-probability where discrete)",
}


@dataclass(frozen=True)
class Section:
    """Numbers that may be compared with each other.

    Attributes:
        title: what they are.
        header: names of the columns.
        rows: one per model, as many cells as the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sections(metrics: Record) -> list[Section]:
    """The sections of ``metrics.json``: our bound with what has its kind, the other kinds, the ODE by itself."""
    groups: dict[tuple[str, bool, str, str], list[tuple[str, Record]]] = {}
    entries = [*metrics["test"].items(), *metrics.get("peers", {}).items()]
    for name, entry in entries:
        given = entry.get("given") or ("the class" if name == "elbo_given_class" else "")
        key = (given, entry["model"] == "ode", entry["kind"], entry["measure"])
        groups.setdefault(key, []).append((name, entry))
    ordered = sorted(groups.items(), key=lambda group: group[0][:2])
    return [_section(key, group) for key, group in ordered]


def differences(metrics: Record) -> dict[str, Difference]:
    """Paired differences to the peers, by the names of :data:`NAMES`."""
    peers: Record = metrics.get("peers", {})
    return {
        NAMES.get(name, name): Difference(**entry["difference"])
        for name, entry in peers.items()
        if entry.get("difference") is not None
    }


def _section(key: tuple[str, bool, str, str], entries: list[tuple[str, Record]]) -> Section:
    given, ode, kind, measure = key
    what = MEASURES[measure] + (f" given {given}" if given else "")
    title = TITLES[kind].format(measure=what) + (", probability-flow ODE (another model)" if ode else "")
    rows = {entry["rows"] for _, entry in entries}
    title += f", {max(rows):,} held-out rows"
    bits = any(entry["bits_per_dim"] is not None for _, entry in entries)
    header = (
        "model",
        "kind",
        *(("bits/dim",) if bits else ()),
        "nats/row",
        "± estimator",
        "± rows",
        "nfe",
        "fit s",
        "eval s",
    )
    best = sorted(entries, key=lambda item: -item[1]["nats"])
    return Section(title, header, tuple(_row(name, entry, bits) for name, entry in best))


def _row(name: str, entry: Record, bits: bool) -> tuple[str, ...]:
    per_dim = (_number(entry["bits_per_dim"], 4),) if bits else ()
    return (
        NAMES.get(name, name),
        KINDS[entry["kind"]],
        *per_dim,
        _number(entry["nats"], 3),
        _number(entry["stderr"], 3),
        _number(entry["rows_stderr"], 3),
        f"{entry['nfe']:,}" if entry["nfe"] else "–",
        _number(entry.get("fit_seconds"), 1),
        _number(entry.get("seconds"), 1),
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")
