"""``girsanov sample``: rows that a model draws, as CSV, an array or a picture."""

__all__ = ["sample"]

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.options import Computing, RunArgument, out_option
from girsanov.cli.output import UsageError, stderr_note
from girsanov.cli.tables import check_suffix, write_rows


@dataclass(frozen=True)
class Drawing(Computing):
    """How rows are drawn."""

    panel: ClassVar[str] = "Evaluation"
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 128
    order: Annotated[
        int, typer.Option(min=1, max=3, help="Order of a step: 2, or 3 where steps are many; 1 has a density.")
    ] = 2
    lmbd: Annotated[
        float | None,
        typer.Option(
            max=1.0, help="0 is the reverse SDE, 1 the ODE, below 0 more noise.", show_default="0; 1 of a flow"
        ),
    ] = None
    label: Annotated[str | None, typer.Option("--class", help="Draw one class of a conditional model.")] = None


def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of rows.", rich_help_panel="Output")] = 64,
    out: Annotated[Path | None, out_option("A .csv, .npy or .png file; CSV is printed if left out.")] = None,
    *,
    how: Drawing,
) -> None:
    """Draw rows from a model, in the units and columns of its data."""
    _check(out, how.lmbd)
    device = how.prepare()
    from girsanov.density_model import DensityModel

    model = DensityModel.from_pretrained(run).to(device)
    if model.schema.kind == "images" and out is None and not how.json:
        raise UsageError("these rows are images: give --out samples.png or --out samples.npy")
    condition = _condition(model, how.label)
    how_far = {"steps": how.steps, "order": how.order, "lmbd": how.lmbd}
    rows = model.sample(n, **how_far, condition=condition, generator=how.generator())
    write_rows(out, model.encode(rows).rows, model.schema, json=how.json, note=stderr_note(how.quiet))


def _check(out: Path | None, lmbd: float | None) -> None:
    check_suffix(out)
    if lmbd is not None and (lmbd != lmbd or lmbd == float("-inf")):
        raise UsageError("--lmbd is no finite number: give one of at most 1")


def _condition(model: Any, label: str | None) -> Any:
    if label is None:
        return None
    if not model.classes:
        raise UsageError("this model was fitted without --conditional: leave --class out")
    if label not in model.classes:
        raise UsageError(f"unknown class {label!r}: give one of {', '.join(model.classes)}")
    return [label]
