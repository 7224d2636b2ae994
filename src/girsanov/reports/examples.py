"""Rows shown as what they are: images as pixels, tables as pair plots and standardised deviations."""

__all__ = ["extremes", "samples_beside_data"]

from torch import Tensor

from girsanov.datasets import Schema
from girsanov.datasets.columns import OneHot
from girsanov.reports import figures
from girsanov.reports.page import number, render
from girsanov.reports.png import image_uri

SHOWN = 8  # rows at each end
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
        return render("samples", pictures=pictures, pairs="", marginals="")
    shown = samples if data is None else data
    rows, drawn = shown.flatten(1).double().cpu().numpy(), samples.flatten(1).double().cpu().numpy()
    names, numbers = schema.columns or (), _numbers(schema)
    d, n = rows.shape[1], len(numbers)
    paired = drawn[: max(len(rows), 2), numbers], [names[j] for j in numbers] if names else ()
    beside = d == 1 or d > min(figures.MAX_PAIRS, n)
    values = {
        "pairs": figures.pairs(rows[:, numbers], *paired) if n > 1 else "",
        "paired": min(figures.MAX_PAIRS, n),
        "columns": n,
        "numeric": " of numbers" if schema.blocks else "",
        "marginals": figures.marginals(rows, drawn, names) if beside else "",
        "shown": min(figures.MAX_MARGINALS, d),
        "dimensions": d,
    }
    return render("samples", pictures=(), **values)


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
    names = schema.columns or tuple(f"x{i + 1}" for i in range(len(z)))
    cells = [(j, f"{names[j]} = {number(float(row[j]), '.5g')}") for j in _numbers(schema)]
    texts = (rule for rule in schema.rules if isinstance(rule, OneHot))
    for rule, block in zip(texts, schema.blocks, strict=True):
        level = int(row[block].argmax())
        cells.append((block.start + level, f"{rule.name} = {rule.levels[level]}"))
    largest = sorted(cells, key=lambda cell: -abs(float(z[cell[0]])))[:DEVIATIONS]
    return ", ".join(f"{text} ({number(float(z[j]), '+.1f')})" for j, text in largest)
