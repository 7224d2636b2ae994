"""``girsanov sample``: rows that a model draws, as CSV, an array or a picture."""

__all__ = ["register"]

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
from girsanov.cli.output import UsageError, stderr_note
from girsanov.cli.tables import check_suffix, write_rows


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
    rows = model.sample(n, steps=steps, lmbd=lmbd, condition=_condition(model, label), generator=generator)
    write_rows(out, model.encode(rows).rows, model.schema, json=json, note=stderr_note(quiet))


def _check(out: Path | None, lmbd: float | None) -> None:
    check_suffix(out)
    if lmbd is not None and (lmbd != lmbd or lmbd == float("-inf")):
        raise UsageError("--lmbd must be a finite number, at most 1")


def _condition(model: Any, label: str | None) -> Any:
    if label is None:
        return None
    if not model.classes:
        raise UsageError("this model was fitted without --conditional: leave --class out")
    if label not in model.classes:
        raise UsageError(f"unknown class {label!r}; the classes are {', '.join(model.classes)}")
    return [label]
