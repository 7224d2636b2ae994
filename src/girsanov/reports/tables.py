"""The result table, for terminals and pages alike: numbers that may be compared stand together, in formatted cells.

Two kinds of likelihood, or two models of one network (its SDE and its ODE), never share a table.
"""

__all__ = ["CODECS", "NAMES", "Record", "ResultTable", "bits_error", "differences", "result_tables"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from girsanov.evaluation import Difference
from girsanov.reports.numbers import error_of, number, sensible

Record = Mapping[str, Any]

NAMES: dict[str, str] = {
    "elbo": "girsanov, SDE",
    "elbo_given_class": "girsanov, SDE, given its class",
    "density": "girsanov, density formula",
    "ode": "girsanov, ODE",
    "pixels": "per-pixel histogram",
    "neighbours": "neighbour table",
    "gaussian": "Gaussian, full covariance",
    "mixture": "Gaussian mixture",
    "spline_flow": "neural spline flow",
}
CODECS = {"png": "PNG", "webp": "WebP"}
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
class ResultTable:
    """Numbers that may be compared with each other.

    Attributes:
        title: what they are.
        header: names of the columns.
        rows: one per model, as many cells as the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def result_tables(metrics: Record) -> list[ResultTable]:
    """The tables of ``metrics.json``: our bound with what has its kind, the other kinds, the ODE by itself, files."""
    groups: dict[tuple[str, bool, str, str], list[tuple[str, Record]]] = {}
    entries = [*metrics["test"].items(), *metrics.get("peers", {}).items()]
    for name, entry in entries:
        given = entry.get("given") or ("the class" if name == "elbo_given_class" else "")
        key = (given, entry["model"] == "ode", entry["kind"], entry["measure"])
        groups.setdefault(key, []).append((name, entry))
    ordered = sorted(groups.items(), key=lambda group: group[0][:2])
    return [_table(key, group) for key, group in ordered] + _codecs(metrics)


def bits_error(entry: Record) -> float | None:
    """Standard error of bits per dimension over rows, which is that of the nats in other units."""
    if not entry["rows_stderr"] or not entry["nats"]:
        return None
    return abs(entry["rows_stderr"] * (entry["bits_per_dim"] or 0.0) / entry["nats"])


def differences(metrics: Record) -> dict[str, Difference]:
    """Paired differences to the peers, by the names of :data:`NAMES`."""
    peers: Record = metrics.get("peers", {})
    return {
        NAMES.get(name, name): Difference(**entry["difference"])
        for name, entry in peers.items()
        if entry.get("difference") is not None
    }


def _table(key: tuple[str, bool, str, str], entries: list[tuple[str, Record]]) -> ResultTable:
    given, ode, kind, measure = key
    what = MEASURES[measure] + (f" given {given}" if given else "")
    title = TITLES[kind].format(measure=what) + (", probability-flow ODE (another model)" if ode else "")
    rows = {entry["rows"] for _, entry in entries}
    title += f", {max(rows):,} held-out rows"
    bits = any(entry["bits_per_dim"] is not None for _, entry in entries)
    numbers = "nats/row", "± estimator", "± rows", "nfe", "fit s", "eval s"
    header = ("model", "kind", *(("bits/dim",) if bits else ()), *numbers)
    best = sorted(entries, key=lambda item: -item[1]["nats"])
    return ResultTable(title, header, tuple(_row(name, entry, bits) for name, entry in best))


def _codecs(metrics: Record) -> list[ResultTable]:
    """Whole files are no bounds of a mean over rows: a table of their own, the smallest first."""
    codecs: Record = metrics.get("codecs") or {}
    if not codecs:
        return []
    ordered = sorted(codecs.items(), key=lambda item: item[1]["bits_per_dim"])
    rows = tuple(
        (f"{CODECS[name]}, lossless", "file", number(entry["bits_per_dim"], ",.3f")) for name, entry in ordered
    )
    count = max(entry["rows"] for entry in codecs.values())
    title = f"Lossless files, all images in one, {count:,} held-out rows"
    return [ResultTable(title, ("codec", "kind", "bits/dim"), rows)]


def _row(name: str, entry: Record, bits: bool) -> tuple[str, ...]:
    """A line of a table: values to the second digit of their errors, and the errors to theirs."""
    errors = entry["stderr"], entry["rows_stderr"]
    shown = sensible(entry["nats"], math.hypot(*(error or 0.0 for error in errors))), *map(error_of, errors)
    per_dim = (sensible(entry["bits_per_dim"], bits_error(entry)),) if bits else ()
    seconds = (number(entry.get(key), ",.1f") for key in ("fit_seconds", "seconds"))
    calls = f"{entry['nfe']:,}" if entry["nfe"] else "–"
    return (NAMES.get(name, name), entry["kind"].replace("_", " "), *per_dim, *shown, calls, *seconds)
