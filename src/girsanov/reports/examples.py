"""Rows shown as what they are: images as pixels, tables as pair plots and standardised deviations."""

__all__ = ["columns", "extremes", "samples_beside_data"]

import math
from typing import Any

import numpy as np
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.datasets.columns import OneHot
from girsanov.reports import figures
from girsanov.reports.numbers import number, sensible
from girsanov.reports.page import render
from girsanov.reports.png import image_uri

SHOWN = 8  # rows at each end
DRAWN, ACROSS = 5, 12  # samples of a table that are printed, and columns of each
IMAGES = 36  # images in a grid
DEVIATIONS = 4  # columns named per row of a table


def samples_beside_data(samples: Tensor, data: Tensor | None, schema: Schema) -> str:
    """Samples of the model beside held-out rows, as HTML.

    Args:
        samples: rows in data units.
        data: encoded held-out rows, or ``None`` where the data are gone.
        schema: of both.
    """
    if schema.kind == "images":
        if samples.ndim != 4:
            return render("sentence", text="These rows are not drawn.")
        beside = ([] if data is None else [(data, "held-out data")]) + [(samples, "samples of the model")]
        pictures = [(image_uri(images[:IMAGES], beside[0][0]), caption) for images, caption in beside]
        return render("samples", pictures=pictures, frame=None, pairs="")
    numbers = _numbers(schema)
    values = {"paired": min(figures.MAX_PAIRS, len(numbers)), "columns": len(numbers)}
    values |= {"numeric": " of numbers" if schema.blocks else "", "pairs": ""}
    if data is not None and len(numbers) > 1:
        beside = [x.flatten(1).double().cpu().numpy()[:, numbers] for x in (data, samples)]
        names = [schema.columns[j] for j in numbers] if schema.columns else ()
        values["pairs"] = figures.pairs(beside[0], beside[1][: max(len(data), 2)], names)
    return render("samples", pictures=(), frame=_frame(samples, schema), **values)


def _frame(samples: Tensor, schema: Schema) -> dict[str, Any] | None:
    """A few samples in the user's columns, as text."""
    if samples.ndim != 2:
        return None
    frame = schema.decode(samples[:DRAWN]).to_pandas()
    cells = [
        [number(cell, ".5g") if isinstance(cell, float) else str(cell) for cell in row] for row in frame.values.tolist()
    ]
    header, rows = [str(name) for name in frame.columns[:ACROSS]], [row[:ACROSS] for row in cells]
    return {"header": header, "rows": rows, "all": frame.shape[1]}


def columns(samples: Tensor, data: Tensor, schema: Schema) -> str:
    """How each column, and each level of text, is distributed in samples and in held-out rows, as HTML.

    The distance is Kolmogorov's; chance is what it stays below in all columns together 19 times of 20, for rows that
    are independent, and more often where values repeat.

    Args:
        samples: encoded rows of the model.
        data: encoded held-out rows.
        schema: of both.
    """
    theirs, ours = (x.flatten(1).double().cpu().numpy() for x in (data, samples))
    names, d = schema.columns or _positions(theirs.shape[1]), theirs.shape[1]
    found = sorted((-_distance(theirs[:, j], ours[:, j]), j) for j in range(d))
    chance = math.sqrt(-0.5 * math.log(0.025 / d) * (1.0 / len(theirs) + 1.0 / len(ours)))
    rows = [
        [
            names[j],
            *(sensible(z.mean(), z.std()) for z in pair),
            *(sensible(z.std(), z.std()) for z in pair),
            f"{-far:.3f}",
        ]
        for far, j in found[: figures.MAX_MARGINALS]
        for pair in [(theirs[:, j], ours[:, j])]
    ]
    differ = [names[j] for far, j in found if -far > chance]
    shown = [j for _, j in found[: figures.MAX_MARGINALS]]
    drawn = figures.marginals(theirs[:, shown], ours[:, shown], [names[j] for j in shown])
    what = "columns and levels" if schema.blocks else "columns"
    return render("columns", rows=rows, chance=chance, differ=differ, svg=drawn, dimensions=d, what=what)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two empirical distribution functions."""
    places = np.concatenate([a, b])
    below = (np.searchsorted(np.sort(rows), places, side="right") / len(rows) for rows in (a, b))
    return float(np.abs(next(below) - next(below)).max())


def _positions(d: int) -> tuple[str, ...]:
    return tuple(f"x{i + 1}" for i in range(d))


def _numbers(schema: Schema) -> list[int]:
    """Dimensions that are columns of numbers: pairs of one-hot dimensions show nothing."""
    levels = {j for block in schema.blocks for j in range(block.start, block.stop)}
    return [j for j in range(schema.bin_width.numel()) if j not in levels]


def extremes(test: Tensor, values: Tensor, rows: Tensor, schema: Schema) -> str:
    """The most and the least likely held-out rows, as HTML.

    Args:
        test: encoded rows, shape ``n *event_shape``.
        values: nats of each, shape ``n``.
        rows: which rows of the data they are, from 0, shape ``n``; shown from 1, as all rows to people.
        schema: of the rows.
    """
    order = values.argsort(descending=True, stable=True)
    count = min(SHOWN, (len(order) + 1) // 2)
    ends = {"Most likely": order[:count], "Least likely": order[len(order) - count :].flip(0)}
    gallery = schema.kind == "images" and test.ndim == 4
    z = _standardised(test)

    def shown(i: int) -> str:
        return image_uri(test[i : i + 1], test) if gallery else _deviations(test[i].flatten().double(), z[i], schema)

    found = {end: [(int(rows[i]) + 1, float(values[i]), shown(i)) for i in some.tolist()] for end, some in ends.items()}
    return render("extremes", ends=found, gallery=gallery)


def _standardised(test: Tensor) -> Tensor:
    flat = test.flatten(1).double()
    return (flat - flat.mean(0)) / flat.std(0, correction=min(1, len(flat) - 1)).clamp_min(1e-12)


def _deviations(row: Tensor, z: Tensor, schema: Schema) -> str:
    """The columns of a row that lie furthest from their mean, and how far; of text, its level."""
    names = schema.columns or _positions(len(z))
    cells = [(j, f"{names[j]} = {number(float(row[j]), '.5g')}") for j in _numbers(schema)]
    texts = (rule for rule in schema.rules if isinstance(rule, OneHot))
    for rule, block in zip(texts, schema.blocks, strict=True):
        level = int(row[block].argmax())
        cells.append((block.start + level, f"{rule.name} = {rule.levels[level]}"))
    largest = sorted(cells, key=lambda cell: -abs(float(z[cell[0]])))[:DEVIATIONS]
    return ", ".join(f"{text} ({number(float(z[j]), '+.1f')})" for j, text in largest)
