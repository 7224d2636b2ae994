"""The result table, for terminals and pages alike: numbers that may be compared stand together, in formatted cells.

Two kinds of likelihood, or two models of one network (its SDE and its ODE), never share a table.
"""

__all__ = ["NAMES", "ResultTable", "advice", "as_lossless_code", "composition", "differences", "result_tables"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from girsanov.evaluation import Difference
from girsanov.reports.page import number

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
PARTS = {
    "diffusion": "its diffusion",
    "start": "the closed form that its training started from",
    "mixture": "a mixture of Gaussians",
}

FEW = 2000  # rows below which a network has little to learn from


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


def differences(metrics: Record) -> dict[str, Difference]:
    """Paired differences to the peers, by the names of :data:`NAMES`."""
    peers: Record = metrics.get("peers", {})
    return {
        NAMES.get(name, name): Difference(**entry["difference"])
        for name, entry in peers.items()
        if entry.get("difference") is not None
    }


def as_lossless_code(metrics: Record) -> str:
    """Of images, how much smaller the model makes them than codecs that everybody knows, in a sentence; else nothing.

    Example:
        >>> entry = {"bits_per_dim": 1.25, "nats": -100.0, "rows_stderr": 1.0, "kind": "lower_bound", "rows": 500}
        >>> metrics = {"test": {"elbo": entry}, "codecs": {"png": {"bits_per_dim": 1.5, "rows": 500}}}
        >>> as_lossless_code(metrics).partition(". (")[0]
        'As a lossless code these images take 1.25 ± 0.013 bits per dimension: 1.2 times smaller than PNG'
    """
    entry, codecs = next(iter(metrics["test"].values()), {}), metrics.get("codecs") or {}
    bits = entry.get("bits_per_dim")
    if not codecs or not bits or bits <= 0.0:
        return ""
    error = entry["rows_stderr"]
    margin = "" if error is None else f" ± {abs(error * bits / entry['nats']):.2g}"
    compared = ", ".join(_compared(CODECS[name], codec["bits_per_dim"], bits) for name, codec in codecs.items())
    sure = "at most so many bits, " if entry["kind"] == "lower_bound" else ""
    of = f"{entry['rows']:,} held-out images" + (", ± their standard error" if margin else "")
    return (
        f"As a lossless code these images take {bits:.3g}{margin} bits per dimension: {compared}. "
        f"({of}; {sure}with an ideal entropy coder; the model itself is not counted.)"
    )


def _compared(name: str, theirs: float, ours: float) -> str:
    ratio = max(theirs / ours, ours / theirs)
    if f"{ratio:.3g}" == "1":
        return f"as large as {name}"
    return f"{ratio:.3g} times {'smaller' if theirs > ours else 'larger'} than {name}"


def composition(metrics: Record) -> str:
    """Of a mixture of a diffusion with closed forms, the weights in a sentence; else nothing.

    Example:
        >>> composition({"mixed": {"diffusion": 0.7, "mixture": 0.3}})
        'The model is a mixture, as validation rows weigh it: 70 % its diffusion and 30 % a mixture of Gaussians.'
    """
    parts = [f"{share:.0%} {PARTS[name]}".replace("%", " %") for name, share in (metrics.get("mixed") or {}).items()]
    if not parts:
        return ""
    return f"The model is a mixture, as validation rows weigh it: {', '.join(parts[:-1])} and {parts[-1]}."


def advice(metrics: Record) -> list[str]:
    """What to try where a fit ended behind a peer or where it began; nothing where it did not."""
    behind = {name: gap for name, gap in differences(metrics).items() if gap.high < 0.0}
    found = []
    if behind:
        name, gap = min(behind.items(), key=lambda item: item[1].nats)
        others = [other for other in behind if other != name]
        also = f" (and behind: {', '.join(others)})" if others else ""
        found.append(
            f"This fit ended {-gap.nats:.3g} nats per row behind the {name.removesuffix(', full covariance')} fitted "
            f"to the same rows{also}: {_try(metrics)}; until it is ahead, trust that model more."
        )
    training: Record = metrics.get("training", {})
    before, after = training.get("validation_before"), training.get("validation")
    if before is not None and after is not None and after <= before:
        found.append(
            f"Training ended no better than its start ({before:.4g} nats per row on validation rows): {_try(metrics)}."
        )
    return found


def _try(metrics: Record) -> str:
    """What helps a fit that ended behind, by how its training stopped."""
    training: Record = metrics.get("training", {})
    stopped, rows = str(training.get("stopped", "")), metrics.get("rows", {}).get("train", 0)
    if stopped != "patience" and training.get("steps"):
        return "train longer (more --time-budget or --steps)"
    if rows and rows < FEW:
        return "its rows are few, so give more, or leave columns out (--drop), or take a smaller network (--width)"
    return "try a larger network (--width, --blocks), and look at the notes on how its columns were read"


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
        (f"{CODECS[name]}, lossless", "file", number(entry["bits_per_dim"], ",.4f")) for name, entry in ordered
    )
    count = max(entry["rows"] for entry in codecs.values())
    title = f"Lossless files, all images in one, {count:,} held-out rows"
    return [ResultTable(title, ("codec", "kind", "bits/dim"), rows)]


def _row(name: str, entry: Record, bits: bool) -> tuple[str, ...]:
    per_dim = (number(entry["bits_per_dim"], ",.4f"),) if bits else ()
    nats = (number(entry[key], ",.3f") for key in ("nats", "stderr", "rows_stderr"))
    seconds = (number(entry.get(key), ",.1f") for key in ("fit_seconds", "seconds"))
    calls = f"{entry['nfe']:,}" if entry["nfe"] else "–"
    return (NAMES.get(name, name), entry["kind"].replace("_", " "), *per_dim, *nats, calls, *seconds)
