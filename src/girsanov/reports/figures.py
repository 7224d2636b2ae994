"""The figures of a report, by matplotlib, as SVG whose text and axes take the colour of the page around them."""

__all__ = [
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from girsanov.evaluation import Curve, Difference
from girsanov.likelihoods import ScoreTest
from girsanov.reports.page import number

INK = "#010203"  # of the style's file: the page's own colour takes its place
OURS, DATA, OTHER = "#2f81c7", "#d9822b", "#8a8f98"
PEER_COLOURS = ("#d9822b", "#5aa469", "#a06cc4", "#8a8f98", "#c2577a", "#4fa3a5")
MAX_PAIRS, MAX_POINTS, MAX_MARGINALS = 5, 500, 12

STYLE = Path(__file__).with_name("templates") / "figures.mplstyle"
POINTS: dict[str, Any] = {"alpha": 0.55, "linewidths": 0, "rasterized": True}
BESIDE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}  # of a text at a point


@contextmanager
def canvas(name: str, rows: int = 1, columns: int = 1, *, width: float, height: float) -> Iterator[SimpleNamespace]:
    """A figure in our style that belongs to no window: its ``axes`` while it is drawn, its ``svg`` afterwards.

    ``name`` keys its element ids.
    """
    import matplotlib
    from matplotlib.figure import Figure

    salt: Any = {"svg.hashsalt": name}
    with matplotlib.rc_context(salt, fname=STYLE):
        figure, buffer = Figure(figsize=(width, height), layout="constrained"), io.StringIO()
        drawn = SimpleNamespace(axes=figure.subplots(rows, columns, squeeze=False), svg="")
        yield drawn
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    drawn.svg = _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Without the XML header, with the page's colour, and with ids that no other figure has."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    # the width of the page decides; the view box keeps the proportions
    return re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="([\d.]+)pt"', r'<svg \1\2data-width="\3"', svg, count=1)


def learning(history: Sequence[Mapping[str, float | None]], best_step: int | None) -> str:
    """Training loss and validation bound over steps."""
    with canvas("learning", 1, 2, width=9.0, height=3.0) as drawn:
        left, right = drawn.axes[0]
        steps, losses = _series(history, "loss")
        left.plot(steps, losses, color=OURS)
        _level(left, 0.0, "Gaussian reference")
        left.set(xlabel="step", ylabel="nats per dimension", title="Training loss")
        steps, values = _series(history, "validation")
        errors = [record.get("validation_stderr") or 0.0 for record in history if record.get("validation") is not None]
        right.plot(steps, values, color=OURS, marker="o", markersize=3)
        right.fill_between(steps, values - np.array(errors), values + np.array(errors), color=OURS, alpha=0.25, lw=0)
        if len(steps) and steps[0] == 0:
            _level(right, values[0], "before training")
        if best_step is not None:
            late = best_step > max(steps, default=0) / 2
            shift, side = (-4, "right") if late else (4, "left")
            right.axvline(best_step, color=DATA, linewidth=1.0)
            place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (shift, 0)}
            right.annotate(f"best, step {best_step}", (best_step, 0.2), **place, ha=side, color=DATA)
        right.set(xlabel="step", ylabel="nats per row", title="Bound on validation rows")
    return drawn.svg


def curve(values: Curve) -> str:
    """Error of the noise prediction and gain on the Gaussian over log-SNR."""
    levels = values.levels.numpy()
    with canvas("curve", 1, 2, width=9.0, height=3.4) as drawn:
        left, right = drawn.axes[0]
        left.plot(levels, values.standard.numpy(), color=OTHER, linestyle=":", label="N(0, I) on its own data")
        reference = "Gaussian reference on its own data"
        left.plot(levels, values.gaussian.numpy(), color=DATA, linestyle="--", label=reference)
        _band(left, levels, values.model.numpy(), values.stderr.numpy(), "this model on held-out rows")
        left.set(xlabel="log-SNR", ylabel="squared error per dimension", title="Error of the noise prediction")
        left.legend(loc="lower right", fontsize=8)
        _band(right, levels, values.gain.numpy(), values.gain_stderr.numpy(), None)
        right.fill_between(levels, 0.0, values.gain.numpy(), color=OURS, alpha=0.12, lw=0)
        right.axhline(0.0, color=OTHER, linestyle="--", linewidth=1.0)
        right.set(xlabel="log-SNR", ylabel="gain per dimension", title="Gain over the Gaussian reference")
    return drawn.svg


def effects(tests: Mapping[str, ScoreTest]) -> str:
    """Effect sizes of score tests over log-SNR, with what so many rows can hardly tell from 0."""
    with canvas("effects", width=9.0, height=3.0) as drawn:
        (axis,) = drawn.axes[0]
        for colour, (name, test) in zip((OURS, DATA), tests.items(), strict=False):
            levels = sorted(test.levels, key=lambda level: level.log_snr)
            x, y = [level.log_snr for level in levels], [level.result.effect_size for level in levels]
            axis.plot(x, y, color=colour, marker="o", markersize=4, label=f"{name}, n = {test.n:,}")
            axis.fill_between(x, 0.0, 5.0 / test.n, color=colour, alpha=0.12, lw=0)
        axis.axhline(0.0, color=OTHER, linestyle="--", linewidth=1.0)
        axis.set(xlabel="log-SNR", ylabel="effect")
        axis.legend(fontsize=8)
    return drawn.svg


def histogram(ours: np.ndarray, peers: Mapping[str, np.ndarray]) -> str:
    """Distribution of the values of single rows."""
    everything = np.concatenate([ours, *peers.values()])
    low, high = np.quantile(everything, [0.005, 1.0])
    bins = np.linspace(min(low, ours.min()) if len(ours) < 200 else low, high, 41) if high > low else 10
    with canvas("histogram", width=9.0, height=3.0) as drawn:
        (axis,) = drawn.axes[0]
        axis.hist(np.clip(ours, low, None), bins=bins, color=OURS, alpha=0.45, label="this model")
        for colour, (name, values) in zip(PEER_COLOURS, peers.items(), strict=False):
            axis.hist(np.clip(values, low, None), bins=bins, histtype="step", color=colour, label=name, linewidth=1.4)
        axis.set(xlabel="nats per row (rows below the axis are counted in the first bin)", ylabel="rows")
        axis.legend(loc="upper left")
    return drawn.svg


def intervals(differences: Mapping[str, Difference]) -> str:
    """Paired differences with their intervals."""
    names, values = list(differences)[::-1], list(differences.values())[::-1]  # the first at the top
    with canvas("intervals", width=9.0, height=0.9 + 0.42 * len(differences)) as drawn:
        (axis,) = drawn.axes[0]
        for height, value in enumerate(values):
            axis.plot([value.low, value.high], [height, height], color=OURS, linewidth=3, solid_capstyle="round")
            axis.plot([value.nats], [height], "o", color=OURS)
            axis.annotate(number(value.nats, "+.2f"), (value.nats, height), xytext=(0, 7), **BESIDE)
        axis.axvline(0.0, color=OTHER, linestyle="--", linewidth=1.0)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.6, len(differences) - 0.2)
        axis.set(xlabel="nats per row by which this model is ahead")
    return drawn.svg


def pairs(data: np.ndarray, samples: np.ndarray, names: Sequence[str]) -> str:
    """Every two of the first columns against each other: data below the diagonal, samples above it."""
    count = min(MAX_PAIRS, data.shape[1])
    data, samples = data[:, :count], samples[:, :count]
    limits = [axis_limits(data[:, i]) for i in range(count)]
    with canvas("pairs", count, count, width=9.0, height=9.0 if count > 2 else 4.5 * count) as drawn:
        for i in range(count):
            for j in range(count):
                axis = drawn.axes[i][j]
                if i == j:
                    _marginal(axis, data[:, i], samples[:, i], limits[i])
                else:
                    rows, colour = (data, DATA) if i > j else (samples, OURS)
                    rows, size = rows[:MAX_POINTS], 5 if len(rows) > 150 else 16
                    axis.scatter(rows[:, j], rows[:, i], s=size, color=colour, **POINTS)
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
        if count == 1:
            drawn.axes[0][0].set_yticks([])
    return drawn.svg


def marginals(data: np.ndarray, samples: np.ndarray, names: Sequence[str], key: str = "marginals") -> str:
    """Histograms of single columns, data and samples; ``key`` keeps the ids of several apart."""
    count = min(MAX_MARGINALS, data.shape[1])
    columns = min(4, count)
    lines = -(-count // columns)
    with canvas(key, lines, columns, width=9.0, height=1.7 * lines + 0.2) as drawn:
        for index, axis in enumerate(drawn.axes.flat):
            if index >= count:
                axis.set_axis_off()
                continue
            _marginal(axis, data[:, index], samples[:, index], axis_limits(data[:, index]))
            axis.set_title(_short(names[index]), fontsize=9)
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
            axis.locator_params(axis="x", nbins=4)
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
