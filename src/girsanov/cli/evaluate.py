"""``girsanov evaluate`` and ``girsanov score``: one number for many rows, or one for each row.

The model is a run of ours, or a folder of diffusers with the scale of the data said explicitly.
"""

__all__ = ["register"]

import csv
import io
from dataclasses import dataclass
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
from girsanov.cli.output import UsageError, as_json, emit, print_result, stderr_note

COLUMNS = ("row", "value", "stderr", "kind", "model")
BLOCK = 4096  # rows that are evaluated before they are printed

DataRangeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="For a diffusers folder: where its network saw black and white, such as --data-range=-1,1.",
    ),
]
LevelsOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Grey levels 0 to N - 1 of the images; 0: continuous values inside --data-range."
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check/--no-check", help="Test a diffusers network on 16 rows: is it what it claims?")
]
SchedulerOption = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Scheduler of a diffusers network that is saved without one.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "evaluate",
        epilog="Example: girsanov evaluate runs/digits --likelihood density, "
        "or girsanov evaluate ddpm-cifar10-32 images --data-range=-1,1",
    )(evaluate)
    app.command("score", epilog="Example: girsanov score runs/data new.csv --out scores.csv")(score)


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Other rows; the run's own held-out ones if left out.")
    ] = None,
    likelihood: LikelihoodOption = Likelihoods.elbo,
    samples: SamplesOption = 32,
    data_range: DataRangeOption = None,
    levels: LevelsOption = 256,
    scheduler: SchedulerOption = None,
    check: CheckOption = True,
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

    model, place = _model(run, device, _Pretrained(data_range, levels, scheduler))
    rows = (tested_rows(model) if data is None else rows_of(model, data)).first(limit)
    _check(model, rows, check, quiet)
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
    data_range: DataRangeOption = None,
    levels: LevelsOption = 256,
    scheduler: SchedulerOption = None,
    check: CheckOption = True,
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

    model, place = _model(run, device, _Pretrained(data_range, levels, scheduler))
    rows = all_rows(model, data).first(limit)
    _check(model, rows, check, quiet)
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


@dataclass(frozen=True)
class _Pretrained:
    """What must be said of a folder of diffusers."""

    data_range: str | None
    levels: int
    scheduler: str | None

    def limits(self) -> tuple[float, float]:
        """The data's range as numbers."""
        try:
            low, high = (float(end) for end in (self.data_range or "").split(","))
        except ValueError:
            example = "give the scale of its training, such as --data-range=-1,1"
            raise UsageError(f"A diffusers model does not say where its data lay: {example}") from None
        return low, high


def _model(run: str, device: Devices, pretrained: _Pretrained) -> tuple[Any, Any]:
    from girsanov.models.diffusers import is_diffusers_folder

    place = choose_device(device)
    if is_diffusers_folder(run):
        from girsanov.density_model.diffusers import density_from_diffusers

        model = density_from_diffusers(
            run, pretrained.scheduler, data_range=pretrained.limits(), levels=pretrained.levels or None
        )
        return model.to(place), place
    if pretrained.data_range is not None or pretrained.scheduler is not None:
        raise UsageError("--data-range and --scheduler are for folders of diffusers: a run knows its own data")
    from girsanov.density_model import DensityModel

    return DensityModel.from_pretrained(run).to(place), place


def _check(model: Any, rows: Any, wanted: bool, quiet: bool) -> None:
    """The self-test of a network of diffusers on the rows at hand, and what else is to be known of it."""
    from girsanov.models.diffusers import DiffusersNetwork

    if not isinstance(model.score.network, DiffusersNetwork):
        return
    if wanted and len(rows.x) > 1:
        from girsanov.density_model.diffusers import check_density

        stderr_note(quiet)("testing the network on the first rows")
        check_density(model, rows.x)
    for note in model.score.network.notes:
        stderr_note(quiet)(note)


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
