"""``girsanov classify``: the class of every row, its probability, and what finding out has cost."""

__all__ = ["register"]

import csv
import io
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from girsanov.cli.options import Common, Devices, RunArgument, choose_device, prepare_threads, spread
from girsanov.cli.output import UsageError, as_json, emit, stderr_note

COLUMNS = ("row", "class", "probability", "evaluations", "decided")
BLOCK = 1024  # rows that are classified before they are printed


class Weightings(StrEnum):
    """Which log-SNR levels count."""

    likelihood = "likelihood"
    uniform = "uniform"
    fitted = "fitted"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("classify", epilog="Example: girsanov classify runs/digits digits --confidence 0.95 --screen")(
        spread(classify)
    )


def classify(
    run: RunArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows to classify: a name, file or folder.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write instead of standard output.")] = None,
    confidence: Annotated[
        float | None, typer.Option(metavar="P", help="Eliminate classes with this confidence; all classes if left out.")
    ] = None,
    weights: Annotated[
        Weightings | None, typer.Option(help="Which levels count.", show_default="fitted; likelihood if uncalibrated")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Learn from the run's own validation rows first.")
    ] = True,
    samples: Annotated[int, typer.Option(min=2, help="Network evaluations per class without elimination.")] = 32,
    max_samples: Annotated[int, typer.Option(min=2, help="The same at most with elimination.")] = 128,
    screen: Annotated[
        bool, typer.Option("--screen", help="Let one Gaussian per class leave out classes before the network is asked.")
    ] = False,
    *,
    common: Common,
) -> None:
    """Class of every row of DATA by a model fitted with --conditional: row, class, probability, evaluations, decided.

    Probabilities are calibrated on the run's validation rows.
    """
    if weights is Weightings.fitted and not calibrate:
        raise UsageError("fitted weights are learned by calibration: leave --no-calibrate out")
    if screen and (confidence is None or not calibrate):
        raise UsageError("a screen serves elimination and needs calibration: give --confidence, not --no-calibrate")
    chosen = weights or (Weightings.fitted if calibrate else Weightings.likelihood)
    from girsanov.cli.files import check_place

    check_place(out)
    prepare_threads(common.threads)
    from girsanov.runs import all_rows

    model = _model(run, common.device)
    rows, note = all_rows(model, data).first(common.limit), stderr_note(common.quiet)
    classifier = _classifier(model, chosen.value, samples, max_samples, common.seed)
    if screen:
        classifier.screen = _screen(model)
    if calibrate:
        held_out = _part(model, "validation")
        note(f"calibrating on {len(held_out[0]):,} validation rows")
        classifier.calibrate(*held_out)
    note(f"classifying {rows.described}: {len(rows):,}")
    parts = [] if common.json else [",".join(COLUMNS) + "\n"]
    if out is None and parts:
        emit(parts[0], end="")
    for start in range(0, len(rows), BLOCK):
        found = classifier.classify(rows.data[start : start + BLOCK], confidence=confidence)
        parts.append(_lines(found, classifier.classes_.tolist(), start, common.json))
        if out is None:
            emit(parts[-1], end="")
    if out is not None:
        from girsanov.cli.files import write_file

        write_file(out, "".join(parts).encode())


def _model(run: str, device: Devices) -> Any:
    from girsanov.density_model import DensityModel

    place = choose_device(device)
    model = DensityModel.from_pretrained(run).to(place)
    if len(model.classes) < 2:
        raise UsageError(f"{run} was fitted without --conditional: it knows no classes")
    return model


def _classifier(model: Any, weights: str, samples: int, max_samples: int, seed: int) -> Any:
    import torch

    from girsanov.applications import DiffusionClassifier

    generator = torch.Generator().manual_seed(seed)
    return DiffusionClassifier(model, weights=weights, samples=samples, max_samples=max_samples, generator=generator)


def _screen(model: Any) -> Any:
    import torch

    from girsanov.applications import GaussianScreen

    part, names = _part(model, "train")
    return GaussianScreen.fit(part.x, torch.tensor([model.classes.index(name) for name in names]))


def _part(model: Any, part: str) -> tuple[Any, Any]:
    """Rows of a part of the run's data, and the names of their classes."""
    from girsanov.datasets import Splits, fingerprint
    from girsanov.runs import Source, all_rows, select

    source = Source(**(model.record.get("source") or {"name": model.record["data"]["name"]}))
    found = all_rows(model, source.name)
    index = select(source).index
    if found.data.labels is None or fingerprint(found.x[index]) != model.record["data"]["fingerprint"]:
        raise UsageError(f"{source.name} has changed since the fit: give --no-calibrate, or bring it back")
    chosen = index[getattr(Splits.from_json(model.record["splits"]), part)]
    names = found.data.classes or ()
    return found.data[chosen], [names[k] for k in found.data.labels[chosen].tolist()]


def _lines(found: Any, classes: list[Any], start: int, json: bool) -> str:
    """CSV lines or JSON lines; with JSON the probabilities of all classes too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for i, probabilities in enumerate(found.probabilities.tolist()):
        index, nfe, decided = int(found.index[i]), int(found.nfe[i]), bool(found.decided[i])
        cells = (start + i, classes[index], probabilities[index], nfe, decided)
        if json:
            every = {"probabilities": dict(zip(map(str, classes), probabilities, strict=True))}
            text.write(as_json(dict(zip(COLUMNS, cells, strict=True)) | every) + "\n")
        else:
            writer.writerow([*cells[:2], f"{cells[2]:.6g}", nfe, str(decided).lower()])
    return text.getvalue()
