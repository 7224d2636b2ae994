"""``girsanov classify``: the class of every row, its probability, and what finding out has cost."""

__all__ = ["register"]

import csv
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from girsanov.cli.options import (
    Common,
    Devices,
    OnError,
    OnErrorOption,
    RunArgument,
    choose_device,
    prepare_threads,
    spread,
)
from girsanov.cli.output import UsageError, as_json, emit, note_refused, stderr_note

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
    on_error: OnErrorOption = OnError.nan,
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
    """Class of every row of DATA by a --conditional model: row, class, probability, evaluations, decided, error.

    Rows count from 1. Probabilities are calibrated on the run's validation rows. A row that the model cannot have gets
    nan and a sentence, unless --on-error fail.
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
    each, note = on_error is OnError.nan, stderr_note(common.quiet)
    rows = all_rows(model, data, each=each).first(common.limit)
    classifier = _classifier(model, chosen.value, samples, max_samples, common.seed)
    if screen:
        classifier.screen = _screen(model)
    if calibrate:
        held_out = _part(model, "validation")
        note(f"calibrating on {len(held_out[0]):,} validation rows")
        classifier.calibrate(*held_out)
    note(f"classifying {rows.described}: {len(rows):,}")
    note_refused(rows.refused, note)
    header = (*COLUMNS, *(["error"] if each else []))
    parts = [] if common.json else [",".join(header) + "\n"]
    if out is None and parts:
        emit(parts[0], end="")
    for block, span in rows.blocks(BLOCK):
        found = classifier.classify(rows.data[block], confidence=confidence) if len(rows) else None
        position = {row: i for i, row in enumerate(rows.index[block].tolist())}
        lines = [_line(found, position.get(row), classifier.classes_.tolist()) for row in span]
        parts.append(_text(header, span, lines, rows.refused, common.json))
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
    if found.data.codes is None or fingerprint(found.x[index]) != model.record["data"]["fingerprint"]:
        raise UsageError(f"{source.name} has changed since the fit: give --no-calibrate, or bring it back")
    chosen = index[getattr(Splits.from_json(model.record["splits"]), part)]
    names = found.data.classes or ()
    return found.data[chosen], [names[k] for k in found.data.codes[chosen].tolist()]


def _line(found: Any, i: int | None, classes: list[Any]) -> dict[str, Any]:
    """What was found of the row at position ``i``, with the probabilities of all classes; nothing of a refused one."""
    if i is None:
        return {"class": None, "probability": None, "evaluations": None, "decided": None, "probabilities": None}
    index, probabilities = int(found.index[i]), found.probabilities[i].tolist()
    return {
        "class": classes[index],
        "probability": probabilities[index],
        "evaluations": int(found.nfe[i]),
        "decided": bool(found.decided[i]),
        "probabilities": dict(zip(map(str, classes), probabilities, strict=True)),
    }


def _text(header: Sequence[str], span: range, lines: list[dict[str, Any]], refused: Any, json: bool) -> str:
    """CSV lines or JSON lines of a span of rows; with JSON the probabilities of all classes too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row, line in zip(span, lines, strict=True):
        cells = {"row": row + 1, **line} | ({"error": refused.get(row)} if "error" in header else {})
        if json:
            text.write(as_json(cells) + "\n")
            continue
        if row not in refused:
            cells |= {"probability": f"{line['probability']:.6g}", "decided": str(line["decided"]).lower()}
        else:
            cells["probability"] = "nan"
        writer.writerow([cells[name] for name in header])
    return text.getvalue()
