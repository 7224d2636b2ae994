"""The figures of a report, by matplotlib, as SVG whose text and axes take the colour of the page around them."""

__all__ = [
    "DATA_POINTS",
    "LOOKS",
    "OUR_POINTS",
    "axis_limits",
    "canvas",
    "curve",
    "effects",
    "histogram",
    "intervals",
    "learning",
    "marginals",
    "pairs",
]

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from girsanov.evaluation import Curve, Difference
from girsanov.likelihoods import ScoreTest
from girsanov.reports.numbers import number, sensible

INK = "#010203"  # of the style's file: the page's own colour takes its place
OURS, DATA, OTHER = "#2f81c7", "#d9822b", "#8a8f98"
PEER_COLOURS = ("#d9822b", "#5aa469", "#a06cc4", "#8a8f98", "#c2577a", "#4fa3a5")
PEER_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
MAX_PAIRS, MAX_POINTS, MAX_MARGINALS = 5, 500, 12

STYLE = Path(__file__).with_name("templates") / "figures.mplstyle"
DATA_POINTS: dict[str, Any] = {"color": DATA, "marker": "o", "alpha": 0.55, "linewidths": 0, "rasterized": True}
OUR_POINTS: dict[str, Any] = {"color": OURS, "marker": "^", "alpha": 0.55, "linewidths": 0, "rasterized": True}
#: of two series side by side, told apart without colour
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": OURS, "marker": "o", "linestyle": "-"},
    {"color": DATA, "marker": "s", "linestyle": "--"},
)
BESIDE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}  # of a text at a point


@contextmanager
def canvas(
    name: str, title: str, rows: int = 1, columns: int = 1, *, width: float = 4.5, height: float = 3.0
) -> Iterator[SimpleNamespace]:
    """A figure in our style that belongs to no window: its ``axes`` while it is drawn, its ``svg`` afterwards.

    ``name`` keys its element ids; the title, and what is ``told`` while it is drawn, are for those who do not see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    salt: Any = {"svg.hashsalt": name}
    with matplotlib.rc_context(salt, fname=STYLE):
        figure, buffer = Figure(figsize=(width, height), layout="constrained"), io.StringIO()
        drawn = SimpleNamespace(axes=figure.subplots(rows, columns, squeeze=False), svg="", told="")
        yield drawn
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    drawn.svg = _inline(buffer.getvalue(), name, title, drawn.told)


def _inline(svg: str, name: str, title: str, told: str) -> str:
    """Without the XML header, with the page's colour, ids that no other figure has, and words in its place."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    head, body = svg.split(">", 1)
    # the width of the page decides, between those at which the text is legible; the view box keeps the proportions
    wide = re.search(r'\bwidth="([\d.]+)pt"', head)
    assert wide is not None
    least, most = (round(factor * float(wide[1])) for factor in (0.89, 1.6))
    head = re.sub(r'\b(width|height)="[^"]*"', "", head)
    said = {"title": title, "desc": told}
    words = "".join(f'<{tag} id="{name}-{tag}">{escape(text)}</{tag}>' for tag, text in said.items())
    size, labels = f"min-width:{least}px;max-width:{most}px", f"{name}-title {name}-desc"
    return f'{head} role="img" aria-labelledby="{labels}" style="{size}">{words}{body}'


def learning(
    history: Sequence[Mapping[str, float | None]], best_step: int | None, *, reference: bool = True
) -> list[str]:
    """Training loss and validation bound over steps; nothing where the bound never left its start by its error.

    ``reference`` says whether a loss of 0 is that of the Gaussian reference.
    """
    steps, values = _series(history, "validation")
    errors = np.array([line.get("validation_stderr") or 0.0 for line in history if line.get("validation") is not None])
    if not len(values) or bool((np.abs(values - values[0]) <= 2.0 * errors).all()):
        return []
    return [_loss(history, reference), _bound(steps, values, errors, best_step)]


def _loss(history: Sequence[Mapping[str, float | None]], reference: bool) -> str:
    steps, losses = _series(history, "loss")
    with canvas("learning-loss", "Training loss") as drawn:
        axis = drawn.axes[0][0]
        axis.plot(steps, losses, color=OURS)
        if reference:
            _level(axis, 0.0, "Gaussian reference")
        axis.set(xlabel="step", ylabel="nats per dimension", title="Training loss")
        ends = [number(value, ".3g") for value in losses[[0, -1]]] if len(losses) else ["–", "–"]
        drawn.told = f"From {ends[0]} to {ends[1]} nats per dimension"
    return drawn.svg


def _bound(steps: np.ndarray, values: np.ndarray, errors: np.ndarray, best_step: int | None) -> str:
    with canvas("learning-bound", "Bound on validation rows") as drawn:
        axis = drawn.axes[0][0]
        axis.plot(steps, values, color=OURS, marker="o", markersize=3)
        axis.fill_between(steps, values - errors, values + errors, color=OURS, alpha=0.25, lw=0)
        if steps[0] == 0:
            _level(axis, values[0], "before training")
        if best_step is not None:
            late = best_step > steps.max() / 2
            shift, side = (-4, "right") if late else (4, "left")
            axis.axvline(best_step, color=DATA, linewidth=1.0, linestyle="-.")
            place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (shift, 0)}
            axis.annotate(f"best, step {best_step:,}", (best_step, 0.3), **place, ha=side)
        axis.set(xlabel="step", ylabel="nats per row", title="Bound on validation rows")
        ends = [sensible(value, error) for value, error in zip(values[[0, -1]], errors[[0, -1]], strict=True)]
        drawn.told = f"From {ends[0]} to {ends[1]} nats per row; best at step {best_step}"
    return drawn.svg


def curve(values: Curve) -> list[str]:
    """Error of the noise prediction and gain on the Gaussian over log-SNR; nothing where no gain exceeds its error."""
    levels, gain, error = (part.numpy() for part in (values.levels, values.gain, values.gain_stderr))
    if bool((np.abs(gain) <= 2.0 * error + 1e-9).all()):
        return []
    with canvas("curve-error", "Squared error of the noise prediction over log-SNR", height=3.9) as left:
        axis = left.axes[0][0]
        axis.plot(levels, values.standard.numpy(), color=OTHER, linestyle=":", label="N(0, I) on its own data")
        reference = "Gaussian reference on its own data"
        axis.plot(levels, values.gaussian.numpy(), color=DATA, linestyle="--", label=reference)
        _band(axis, levels, values.model.numpy(), values.stderr.numpy(), "this model on held-out rows")
        axis.set(xlabel="log-SNR", ylabel="squared error per dimension", title="Error of the noise prediction")
        axis.figure.legend(loc="outside lower left", fontsize=8)
        means = {"this model": values.model, "the Gaussian reference": values.gaussian, "N(0, I)": values.standard}
        left.told = f"Means: {', '.join(f'{name} {float(part.mean()):.3g}' for name, part in means.items())}"
    with canvas("curve-gain", "Gain over the Gaussian reference by log-SNR", height=3.4) as right:
        axis = right.axes[0][0]
        _band(axis, levels, gain, error, None)
        axis.fill_between(levels, 0.0, gain, color=OURS, alpha=0.12, lw=0)
        axis.axhline(0.0, color=OTHER, linestyle="--", linewidth=1.0)
        axis.set(xlabel="log-SNR", ylabel="gain per dimension", title="Gain over the Gaussian reference")
        right.told = (
            f"Largest, {number(gain.max(), '.2g')} per dimension, at log-SNR {number(levels[gain.argmax()], '.2g')}"
        )
    return [left.svg, right.svg]


def effects(tests: Mapping[str, ScoreTest]) -> str:
    """Effect sizes of score tests over log-SNR, with what so many rows can hardly tell from 0."""
    with canvas("effects", "Effects of the score tests over log-SNR", width=7.0) as drawn:
        (axis,) = drawn.axes[0]
        for look, (name, test) in zip(LOOKS, tests.items(), strict=False):
            levels = sorted(test.levels, key=lambda level: level.log_snr)
            x, y = [level.log_snr for level in levels], [level.result.effect_size for level in levels]
            axis.plot(x, y, **look, markersize=5, label=f"{name}, n = {test.n:,}")
            least = 5.0 / test.n
            axis.axhline(least, color=look["color"], linestyle=":", linewidth=1.0)
            place: Any = {"xycoords": ("axes fraction", "data"), "xytext": (4, -3), **BESIDE, "ha": "left"}
            axis.annotate(f"5/{test.n:,}", (1.0, least), **place)
        axis.axhline(0.0, color=OTHER, linewidth=0.8)
        axis.set(xlabel="log-SNR", ylabel="effect")
        axis.legend(fontsize=8)
        drawn.told = "; ".join(f"{name}: p = {test.pvalue:.2g} over all levels" for name, test in tests.items())
    return drawn.svg


def histogram(ours: np.ndarray, peers: Mapping[str, np.ndarray]) -> str:
    """Distribution of the values of single rows."""
    everything = np.concatenate([ours, *peers.values()])
    low, high = np.quantile(everything, [0.005, 1.0])
    bins = np.linspace(min(low, ours.min()) if len(ours) < 200 else low, high, 41) if high > low else 10
    with canvas("histogram", "Values of single held-out rows by model", width=8.0) as drawn:
        (axis,) = drawn.axes[0]
        axis.hist(np.clip(ours, low, None), bins=bins, color=OURS, alpha=0.45, label="this model")
        for colour, line, (name, values) in zip(PEER_COLOURS, PEER_LINES, peers.items(), strict=False):
            options = {"histtype": "step", "color": colour, "linestyle": line, "linewidth": 1.4}
            axis.hist(np.clip(values, low, None), bins=bins, label=name, **options)
        axis.set(xlabel="nats per row (rows below the axis are counted in the first bin)", ylabel="rows")
        axis.figure.legend(loc="outside right upper", fontsize=9)
        medians = {"this model": ours, **peers}
        said = ", ".join(f"{name} {number(float(np.median(values)), '.4g')}" for name, values in medians.items())
        drawn.told = f"Medians in nats: {said}"
    return drawn.svg


def intervals(differences: Mapping[str, Difference]) -> str:
    """Paired differences with their intervals."""
    names, values = list(differences)[::-1], list(differences.values())[::-1]  # the first at the top
    shown = [sensible(value.nats, 0.5 * (value.high - value.low), "+") for value in values]
    with canvas("intervals", "Paired differences to other models", width=7.0, height=0.9 + 0.5 * len(values)) as drawn:
        (axis,) = drawn.axes[0]
        for height, value in enumerate(values):
            axis.plot([value.low, value.high], [height, height], color=OURS, linewidth=3, solid_capstyle="round")
            axis.plot([value.nats], [height], "o", color=OURS)
            axis.annotate(shown[height], (value.nats, height), xytext=(0, 7), **BESIDE)
        axis.axvline(0.0, color=OTHER, linestyle="--", linewidth=1.0)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.6, len(differences) - 0.2)
        axis.set(xlabel="nats per row by which this model is ahead")
        drawn.told = ", ".join(f"{name} {nats}" for name, nats in zip(names[::-1], shown[::-1], strict=True))
    return drawn.svg


def pairs(data: np.ndarray, samples: np.ndarray, names: Sequence[str]) -> str:
    """Every two of the first columns against each other: data below the diagonal, samples above it."""
    count = min(MAX_PAIRS, data.shape[1])
    data, samples = data[:, :count], samples[:, :count]
    limits = [axis_limits(data[:, i]) for i in range(count)]
    size: dict[str, Any] = {"width": 9.0, "height": 9.0} if count > 2 else {"width": 6.0, "height": 6.0}
    with canvas("pairs", "Pairs of columns, data and samples", count, count, **size) as drawn:
        for i in range(count):
            for j in range(count):
                axis = drawn.axes[i][j]
                if i == j:
                    _marginal(axis, data[:, i], samples[:, i], limits[i])
                else:
                    rows, look = (data, DATA_POINTS) if i > j else (samples, OUR_POINTS)
                    rows, area = rows[:MAX_POINTS], 7 if len(rows) > 150 else 18
                    axis.scatter(rows[:, j], rows[:, i], s=area, **look)
                    axis.set(xlim=limits[j], ylim=limits[i])
                axis.tick_params(labelsize=7)
                axis.locator_params(nbins=3)
                if i == count - 1:
                    axis.set_xlabel(_short(names[j]), fontsize=9)
                else:
                    axis.set_xticklabels([])
                if j == 0 and i > 0:
                    axis.set_ylabel(_short(names[i]), fontsize=9)
                elif j > 0:
                    axis.set_yticklabels([])
        drawn.told = f"Of {', '.join(names[:count])}: data below the diagonal, samples above it"
    return drawn.svg


def marginals(data: np.ndarray, samples: np.ndarray, names: Sequence[str], key: str = "marginals") -> str:
    """Histograms of single columns, data filled and samples as a line; ``key`` keeps the ids of several apart."""
    count = min(MAX_MARGINALS, data.shape[1])
    columns = min(4, count)
    lines = -(-count // columns)
    size: dict[str, Any] = {"width": 2.25 * columns, "height": 1.7 * lines + 0.2}
    with canvas(key, "Marginals of columns", lines, columns, **size) as drawn:
        for index, axis in enumerate(drawn.axes.flat):
            if index >= count:
                axis.set_axis_off()
                continue
            _marginal(axis, data[:, index], samples[:, index], axis_limits(data[:, index]))
            axis.set_title(_short(names[index]), fontsize=9)
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
            axis.locator_params(axis="x", nbins=4)
        drawn.told = f"Of {', '.join(names[:count])}: held-out rows filled, the model's as a line"
    return drawn.svg


def _marginal(axis: Any, data: np.ndarray, samples: np.ndarray, limits: tuple[float, float]) -> None:
    bins = np.linspace(*limits, 25)
    axis.hist(data, bins=bins, density=True, color=DATA, alpha=0.4)
    axis.hist(samples, bins=bins, density=True, histtype="step", color=OURS, linewidth=1.4)
    axis.set(xlim=limits)
    axis.set_yticks([])


def _band(axis: Any, x: np.ndarray, y: np.ndarray, stderr: np.ndarray, label: str | None) -> None:
    axis.plot(x, y, color=OURS, label=label)
    axis.fill_between(x, y - 2 * stderr, y + 2 * stderr, color=OURS, alpha=0.25, lw=0)


def _level(axis: Any, value: float, text: str) -> None:
    """A dashed line."""
    axis.axhline(value, color=OTHER, linestyle="--", linewidth=1.0)
    axis.annotate(text, (0.75, value), xycoords=("axes fraction", "data"), xytext=(0, 3), **BESIDE)


def _series(history: Sequence[Mapping[str, float | None]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(record["step"], record[name]) for record in history if record.get(name) is not None]
    return np.array([step for step, _ in found], dtype=float), np.array([value for _, value in found], dtype=float)


def axis_limits(column: np.ndarray) -> tuple[float, float]:
    """Almost the whole range of a column, with a margin."""
    low, high = np.quantile(column, [0.002, 0.998])
    margin = 0.08 * (high - low) if high > low else 0.5
    return float(low - margin), float(high + margin)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
