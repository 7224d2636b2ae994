"""Rows shown as what they are: images as pixels, tables as pair plots and standardised deviations."""

__all__ = ["extremes", "samples_beside_data"]

import torch
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.reports import figures
from girsanov.reports.page import figure, minus, paragraph, picture, table
from girsanov.reports.png import data_uri, image_grid, png_bytes

SHOWN = 8  # rows at each end
IMAGES = 36  # images in a grid
DEVIATIONS = 4  # columns named per row of a table


def samples_beside_data(samples: Tensor, data: Tensor | None, schema: Schema) -> list[str]:
    """Samples of the model beside held-out rows, as HTML.

    Args:
        samples: rows in data units.
        data: encoded held-out rows, or ``None`` where the data are gone.
        schema: of both.
    """
    if schema.kind == "images":
        return [_grids(samples, data)] if samples.ndim == 4 else [paragraph("These rows are not drawn.")]
    if not figures.available():
        return [_moments(samples, data, schema)] if data is not None else []
    shown = samples if data is None else data
    names = schema.columns or ()
    rows, drawn = shown.flatten(1).double().cpu().numpy(), samples.flatten(1).double().cpu().numpy()
    parts = []
    if rows.shape[1] > 1:
        count = min(figures.MAX_PAIRS, rows.shape[1])
        caption = f"{'All' if count == rows.shape[1] else 'The first'} {count} columns. Below the diagonal, in orange, "
        caption += "held-out data; above it, in blue, as many samples. On the diagonal, both."
        parts.append(figure(figures.pairs(rows, drawn[: max(len(rows), 2)], names), caption))
    count = min(figures.MAX_MARGINALS, rows.shape[1])
    if rows.shape[1] == 1 or rows.shape[1] > figures.MAX_PAIRS:
        caption = f"Marginals of {'all' if count == rows.shape[1] else 'the first'} {count} columns: "
        parts.append(figure(figures.marginals(rows, drawn, names), caption + "filled, held-out data; line, samples."))
    return parts


def extremes(test: Tensor, values: Tensor, rows: Tensor, schema: Schema) -> list[str]:
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
    if schema.kind == "images" and test.ndim == 4:
        return [_gallery(title, test, values, rows, index) for title, index in ends.items()]
    text = paragraph("In brackets, how many standard deviations of the held-out rows a value lies from their mean.")
    return [text, *(_deviations(title, test, values, rows, index, schema) for title, index in ends.items())]


def _grids(samples: Tensor, data: Tensor | None) -> str:
    shown = data[:IMAGES] if data is not None else samples[:0]
    low, high = _limits(samples if data is None else data)
    parts = []
    for images, caption in ((shown, "held-out data"), (samples[:IMAGES], "samples of the model")):
        if len(images):
            pixels = image_grid(images.double().cpu().numpy(), low=low, high=high)
            parts.append(picture(data_uri(png_bytes(pixels)), caption, caption))
    return '<div class="beside">' + "\n".join(parts) + "</div>"


def _gallery(title: str, test: Tensor, values: Tensor, rows: Tensor, index: Tensor) -> str:
    low, high = _limits(test)
    parts = []
    for i in index.tolist():
        pixels = image_grid(test[i : i + 1].double().cpu().numpy(), low=low, high=high)
        caption = minus(f"{values[i]:.1f} nats, row {int(rows[i]) + 1}")
        parts.append(picture(data_uri(png_bytes(pixels)), caption, f"row {int(rows[i]) + 1} of the data"))
    return f'<h3>{title}</h3>\n<div class="gallery">' + "\n".join(parts) + "</div>"


def _deviations(title: str, test: Tensor, values: Tensor, rows: Tensor, index: Tensor, schema: Schema) -> str:
    flat = test.flatten(1).double()
    names = schema.columns or tuple(f"x{i + 1}" for i in range(flat.shape[1]))
    z = (flat - flat.mean(0)) / flat.std(0, correction=min(1, len(flat) - 1)).clamp_min(1e-12)
    lines = []
    for i in index.tolist():
        largest = z[i].abs().argsort(descending=True)[:DEVIATIONS].tolist()
        cells = [f"{names[j]} = " + minus(f"{flat[i, j]:.5g} ({z[i, j]:+.1f})") for j in largest]
        lines.append((str(int(rows[i]) + 1), minus(f"{values[i]:.2f}"), ", ".join(cells)))
    return table(("row", "nats", "columns that lie furthest from their mean"), lines, caption=title, text=True)


def _moments(samples: Tensor, data: Tensor, schema: Schema) -> str:
    """Where nothing can be drawn: means and standard deviations."""
    names = schema.columns or ()
    columns = zip(names, data.flatten(1).double().T, samples.flatten(1).double().T, strict=True)
    rows = [(name, *(f"{value:.5g}" for value in (x.mean(), y.mean(), x.std(), y.std()))) for name, x, y in columns]
    return table(("column", "mean of data", "of samples", "std of data", "of samples"), rows)


def _limits(images: Tensor) -> tuple[float, float]:
    """Black and white: almost the whole range of the data."""
    flat = images.double().flatten()
    if len(flat) > 1_000_000:
        flat = flat[torch.linspace(0, len(flat) - 1, 1_000_000).long()]
    return float(flat.min()), float(flat.max())
