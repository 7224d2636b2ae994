"""``girsanov sample``: rows that a model draws, as CSV, an array or a picture."""

__all__ = ["register"]

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from girsanov.cli.options import (
    DeviceOption,
    Devices,
    JsonOption,
    QuietOption,
    RunArgument,
    SeedOption,
    ThreadsOption,
    choose_device,
    prepare_threads,
)
from girsanov.cli.output import UsageError, as_json, emit, stderr_note

SUFFIXES = (".csv", ".npy", ".png")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sample", epilog="Example: girsanov sample runs/digits -n 36 --out samples.png")(sample)


def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of rows.")] = 64,
    out: Annotated[Path | None, typer.Option(help="A .csv, .npy or .png file; CSV is printed if left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 128,
    lmbd: Annotated[
        float | None,
        typer.Option(
            max=1.0, help="0 is the reverse SDE, 1 the ODE, below 0 more noise.", show_default="0; 1 of a flow"
        ),
    ] = None,
    label: Annotated[str | None, typer.Option("--class", help="Draw one class of a conditional model.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = Devices.auto,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw rows from a model, in the units and columns of its data."""
    _check(out, lmbd)
    prepare_threads(threads)
    import torch

    from girsanov.density_model import DensityModel

    place = choose_device(device)
    model = DensityModel.from_pretrained(run).to(place)
    if model.schema.kind == "images" and out is None and not json:
        raise UsageError("these rows are images: give --out samples.png or --out samples.npy")
    generator = torch.Generator().manual_seed(seed)
    rows = model.sample(n, steps=steps, lmbd=lmbd, condition=_condition(model, label, place), generator=generator)
    if out is not None:
        _save(out, rows, model.schema)
        stderr_note(quiet)(f"wrote {n} rows to {out}")
    else:
        emit(_json_lines(rows, model.schema) if json else _csv(rows, model.schema), end="")


def _check(out: Path | None, lmbd: float | None) -> None:
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: has none of the suffixes {', '.join(SUFFIXES)}")
    if lmbd is not None and (lmbd != lmbd or lmbd == float("-inf")):
        raise UsageError("--lmbd must be a finite number, at most 1")


def _condition(model: Any, label: str | None, place: Any) -> Any:
    import torch

    classes = model.record.get("classes") or []
    if label is None:
        return None
    if not model.record.get("config", {}).get("conditional"):
        raise UsageError("this model was fitted without --conditional: leave --class out")
    if label not in classes:
        raise UsageError(f"unknown class {label!r}; the classes are {', '.join(classes)}")
    return torch.tensor([classes.index(label)], device=place)


def _save(out: Path, rows: Any, schema: Any) -> None:
    from girsanov.cli.files import write_file

    suffix = out.suffix.lower()
    if suffix == ".csv":
        write_file(out, _csv(rows, schema).encode())
    elif suffix == ".npy":
        write_file(out, _npy(rows, schema))
    else:
        write_file(out, _png(rows, schema))


def _png(rows: Any, schema: Any) -> bytes:
    from girsanov.reports import samples_png

    picture = samples_png(rows, schema)
    if picture is None:
        raise UsageError(f"rows of shape {schema.event_shape} have no picture: use .npy")
    return picture


def _npy(rows: Any, schema: Any) -> bytes:
    import numpy as np

    raw = schema.decode(rows)
    if raw.kind == "images":
        values = raw.stack
    elif any(column.dtype.kind not in "buif" for column in raw.columns):
        raise UsageError("some columns hold text, which .npy cannot: use .csv")
    else:
        values = np.stack(raw.columns, axis=1)
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _table(rows: Any, schema: Any) -> tuple[list[str], list[list[Any]]]:
    """Names and lines of cells, as the source would hold them; an image is one line of its pixels."""
    from girsanov.datasets.raw import positional_names

    raw = schema.decode(rows)
    if raw.kind == "images":
        flat = raw.stack.reshape(len(raw), -1)
        names, columns = positional_names(flat.shape[1]), tuple(flat.T)
    else:
        names, columns = raw.names or (), raw.columns
    return list(names), [list(line) for line in zip(*(column.tolist() for column in columns), strict=True)]


def _csv(rows: Any, schema: Any) -> str:
    names, lines = _table(rows, schema)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        # twelve digits: networks compute with seven, and 0.30000000000000004 is 0.3
        writer.writerow([f"{cell:.12g}" if isinstance(cell, float) else cell for cell in line])
    return text.getvalue()


def _json_lines(rows: Any, schema: Any) -> str:
    names, lines = _table(rows, schema)
    return "".join(as_json(dict(zip(names, line, strict=True))) + "\n" for line in lines)
