"""The figures of docs/audit.md, written from the committed results and by nobody's hand.

python -m benchmarks.audit.summary            # print
python -m benchmarks.audit.summary --write    # put between the page's markers, and draw
"""

__all__ = ["PAGE"]

from collections.abc import Sequence
from typing import Any

from benchmarks._page import FIGURES, ROOT, Page, figure, source, table

MAIN = "mixture, d = 16"
CHAINS = ("gv.chain_elbo", "gv.short_chain")  # whose intervals are of another number, the bound of their sampler
TRUTHS = {"data": "log p of the data", "bound": "bound of the plug-in SDE", "sde": "reverse SDE", "ode": "ODE"}
TRUTHS |= {"path": "ODE of the straight path"}


def signed(value: float, error: float | None = None) -> str:
    """A number with its sign, and its error where it has one."""
    return f"{value:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def count(value: float | None) -> str:
    """Evaluations, or that no number of them suffices."""
    return "never" if value is None else f"{value:,.0f}" if value < 1e5 else f"{value:.1e}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "none" if value is None else f"{100.0 * value:.1f} %"


def difference(value: float) -> str:
    """A difference between two values that should be one."""
    return "0" if value == 0.0 else f"{value:.0e}"


def by_contender(rows: Sequence[dict[str, Any]], key: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by contender, then by ``key``, both in the order in which they stand."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["contender"], {})[row[key]] = row
    return found


def published(found: dict[str, Any]) -> list[str]:
    """What was reproduced first."""
    rows = [
        [
            row["what"],
            f"{row['published']:.3g}",
            f"{row['closed_form']:.3g}" if "closed_form" in row else "",
            f"{row['reached']:.3g}",
        ]
        for row in found["rows"]
    ]
    header = ("what", "stated or allowed", "closed form", "here")
    board = next((row for row in found["rows"] if "closed_form" in row), None)
    words = "DDPM's is an order of magnitude, for other images."
    if board is not None:
        own, stated = (f"1/{1.0 / board[key]:.1f}" for key in ("closed_form", "published"))
        words += (
            f" The notebook's generator divides eight unit cells by 0.45: a density of {own}, not the {stated} that its"
            " colours are scaled to. Its own solver, given the exact velocity, agrees with the former."
        )
    return [
        "## Reproduced first",
        "",
        *table(header, rows),
        "",
        words,
        "",
        source("audit-published", "--site FOLDER"),
        "",
    ]


def exact(found: dict[str, Any]) -> list[str]:
    """The table with exact scores: settings, one law in full, and all laws in short."""
    rows = by_contender(found["rows"], "law")
    laws = list(dict.fromkeys(row["law"] for row in found["rows"]))
    intervals = by_contender(
        [row for row in found["rows"] if row["coverage"] is not None and not row["contender"].startswith(CHAINS)], "law"
    )
    about = [[name, found["about"][name]["source"], found["about"][name]["settings"]] for name in rows]
    full = [
        [
            name,
            signed(row["bias"], row["bias_stderr"]),
            f"{row['spread']:.3f}" if row["bias_stderr"] is not None else "0",
            f"{100.0 * row['above']:.0f} %",
            "its own" if name.startswith(CHAINS) else share(row["coverage"]),
            count(row["evaluations"]),
            count(row["evaluations_needed"]),
            difference(row["alone"]),
        ]
        for name, mine in rows.items()
        if (row := mine.get(MAIN)) is not None
    ]
    header = ("estimator", "bias", "noise of one run", "rows above", "bar covers", "evaluations", "to 0.01", "alone")
    return [
        "## The estimators",
        "",
        *table(("estimator", "from", "settings"), about),
        "",
        "## Exact scores",
        "",
        f"A mixture in 16 dimensions, {found['rows'][0]['rows']} rows, nats per dimension:",
        "",
        *table(header, full),
        "",
        *short(rows, laws, "Bias, nats per dimension", lambda row: signed(row["bias"])),
        *short(rows, laws, "Rows above the truth", lambda row: f"{100.0 * row['above']:.0f} %"),
        *short(
            rows,
            laws,
            "Evaluations per row to a true error of 0.01 nats per dimension",
            lambda r: count(r["evaluations_needed"]),
        ),
        *short(
            intervals, laws, "How often the 95 % intervals of rows hold the truth", lambda row: share(row["coverage"])
        ),
        *figure("audit-exact", "Bias and noise of one run"),
        source("audit-exact", "--site FOLDER --lines LINES"),
        "",
    ]


def short(rows: dict[str, dict[str, dict[str, Any]]], laws: Sequence[str], title: str, cell: Any) -> list[str]:
    """One figure of every contender on every law."""
    lines = [[name, *(cell(mine[law]) if law in mine else "" for law in laws)] for name, mine in rows.items()]
    return [f"{title}:", "", *table(("", *laws), lines), ""]


def wrong(found: dict[str, Any]) -> list[str]:
    """The table with scores that are wrong."""
    scores = list(found["truths"])
    truths = [[words, *(signed(found["truths"][s][key]) for s in scores)] for key, words in TRUTHS.items()]
    lines = []
    for name, mine in by_contender(found["rows"], "law").items():
        cells = [
            f"{signed(row['bias'], row['bias_stderr'])}, {signed(row['from_the_data'])}" if (row := mine.get(s)) else ""
            for s in scores
        ]
        lines.append([name, TRUTHS[found["held_to"][name]], *cells])
    return [
        "## Wrong scores",
        "",
        "The truths of each wrong score, means over rows in nats per dimension:",
        "",
        *table(("", *scores), truths),
        "",
        "Each estimator's distance from the truth that it is held to, and from log p of the data:",
        "",
        *table(("estimator", "held to", *scores), lines),
        "",
        source("audit-wrong", "--site FOLDER --lines LINES"),
        "",
    ]


def cost(found: dict[str, Any]) -> list[str]:
    """Evaluations and seconds to a standard error, and how many times ours."""
    lines = []
    for row in found["rows"]:
        times = [row.get(f"times {ours}") for ours in ("gv.elbo", "gv.elbo, tuned")]
        ratios = [
            "" if t is None else f"{t['evaluations']:,.0f} × ({t['median_row']:,.0f} ×), {t['seconds']:,.1f} ×"
            for t in times
        ]
        seconds = row["seconds_needed"]
        lines.append(
            [
                row["score"],
                row["estimator"],
                count(row["evaluations_needed"]),
                "never" if seconds is None else f"{seconds:,.2g}" if seconds < 100 else f"{seconds:,.0f}",
                *ratios,
            ]
        )
    header = ("score", "estimator", "evaluations", "seconds", "times gv.elbo", "times gv.elbo, tuned")
    return [
        "## Evaluations and seconds",
        "",
        f"Per row, to a standard error of {found['bits']:g} bits per dimension, of ODEs to a true error of "
        f"{found['tolerance']:g} nats per dimension; beside it how many times ours that is: evaluations (of the median "
        "row), seconds.",
        "",
        *table(header, lines),
        "",
        source("networks-evaluations", "FOLDER --site FOLDER --lines LINES"),
        "",
    ]


def draw(found: dict[str, Any]) -> None:
    """Bias of every contender with the noise of one run, on the mixture in 16 dimensions."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in found["rows"] if row["law"] == MAIN][::-1]
    picture, axis = pyplot.subplots(figsize=(7.0, 5.0), layout="constrained")
    bias, noise = [row["bias"] for row in rows], [row["spread"] for row in rows]
    colours = ["C0" if row["contender"].startswith("gv.") else "C1" for row in rows]
    axis.barh(
        range(len(rows)),
        [2.0 * s for s in noise],
        left=[b - s for b, s in zip(bias, noise, strict=True)],
        color=colours,
        alpha=0.4,
    )
    axis.scatter(bias, range(len(rows)), c=colours, s=12, zorder=3)
    axis.axvline(0.0, color="grey", linewidth=0.8)
    axis.set_xscale("symlog", linthresh=0.01)
    axis.set_yticks(range(len(rows)), [row["contender"] for row in rows], fontsize=8)
    axis.set_xlabel("nats per dimension from log p: bias (dot) and noise of one run (bar)")
    FIGURES.mkdir(exist_ok=True)
    picture.savefig(FIGURES / "audit-exact.png", dpi=110)


PAGE = Page(
    ROOT / "docs" / "audit.md",
    {"audit-published": published, "audit-exact": exact, "audit-wrong": wrong, "networks-evaluations": cost},
    {"audit-exact": draw},
)

if __name__ == "__main__":
    PAGE.main(__doc__)
