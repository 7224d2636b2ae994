"""``girsanov evaluate`` and ``girsanov score``: one number for many rows, or one for each row."""

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
    LikelihoodOption,
    Likelihoods,
    LimitOption,
    QuietOption,
    RunArgument,
    SamplesOption,
    SeedOption,
    ThreadsOption,
    choose_device,
    prepare_threads,
)
from girsanov.cli.output import as_json, emit, print_result, stderr_note

COLUMNS = ("row", "value", "stderr", "kind", "model")
BLOCK = 4096  # rows that are evaluated before they are printed


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate", epilog="Example: girsanov evaluate runs/digits --likelihood density")(evaluate)
    app.command("score", epilog="Example: girsanov score runs/data new.csv --out scores.csv")(score)


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Other rows; the run's own held-out ones if left out.")
    ] = None,
    likelihood: LikelihoodOption = Likelihoods.elbo,
    samples: SamplesOption = 32,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = Devices.auto,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Mean log-likelihood of held-out rows, or of the rows of DATA.

    Where DATA are what the model was fitted to, only their held-out rows count.
    """
    prepare_threads(threads)
    from girsanov.runs import rows_of, tested_rows

    model, place = _model(run, device)
    rows = (tested_rows(model) if data is None else rows_of(model, data)).first(limit)
    stderr_note(quiet)(f"evaluating {rows.described}: {len(rows.x):,}")
    entry = _measure(model, rows.x.to(place), likelihood.value, samples, seed)
    metrics = {"test": {likelihood.value: entry}}
    if json:
        emit(as_json(metrics))
    else:
        print_result(metrics)


def score(
    run: RunArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows to score: a name, file or folder.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write instead of standard output.")] = None,
    likelihood: LikelihoodOption = Likelihoods.elbo,
    samples: SamplesOption = 32,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = Devices.auto,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Log-likelihood of every row of DATA, in nats: row, value, stderr, kind, model."""
    prepare_threads(threads)
    from girsanov.runs import all_rows

    model, place = _model(run, device)
    rows = all_rows(model, data).first(limit)
    stderr_note(quiet)(f"scoring {rows.described}: {len(rows.x):,}")
    parts = [] if json else [",".join(COLUMNS) + "\n"]
    if out is None and parts:
        emit(parts[0], end="")
    for start in range(0, len(rows.x), BLOCK):
        estimate = _estimate(model, rows.x[start : start + BLOCK].to(place), likelihood.value, samples, seed)
        text = _lines(estimate, start, json)
        parts.append(text)
        if out is None:
            emit(text, end="")
    if out is not None:
        _write(out, "".join(parts))


def _model(run: str, device: Devices) -> tuple[Any, Any]:
    from girsanov.density_model import DensityModel

    place = choose_device(device)
    return DensityModel.from_pretrained(run).to(place), place


def _estimate(model: Any, x: Any, likelihood: str, samples: int, seed: int) -> Any:
    import torch

    from girsanov.evaluation import evaluate as evaluate_rows

    generator = torch.Generator().manual_seed(seed)
    return evaluate_rows(model, x, likelihood, samples=samples, generator=generator)


def _measure(model: Any, x: Any, likelihood: str, samples: int, seed: int) -> dict[str, Any]:
    import time

    from girsanov.evaluation import summary

    begun = time.monotonic()
    entry = summary(_estimate(model, x, likelihood, samples, seed))
    return entry | {"seconds": round(time.monotonic() - begun, 2)}


def _lines(estimate: Any, start: int, json: bool) -> str:
    """CSV lines or JSON lines; a standard error that is unknown is empty or null."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row, (value, stderr) in enumerate(zip(estimate.value.tolist(), estimate.stderr.tolist(), strict=True), start):
        error = stderr if stderr == stderr else None  # NaN is the only number that is not itself
        cells = (row, value, error, estimate.kind, estimate.model)
        if json:
            text.write(as_json(dict(zip(COLUMNS, cells, strict=True))) + "\n")
        else:
            writer.writerow(cells)
    return text.getvalue()


def _write(out: Path, text: str) -> None:
    from girsanov.cli.files import write_file

    write_file(out, text.encode())
