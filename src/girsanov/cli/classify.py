"""``girsanov classify``: the class of every row, its probability, and what finding out has cost."""

__all__ = ["classify"]

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.lines import Cells, RowLines
from girsanov.cli.options import Common, OnError, OnErrorOption, RunArgument, out_option
from girsanov.cli.output import UsageError, check_place, note_refused, stderr_note

COLUMNS = ("class", "probability", "evaluations", "decided", "probabilities")
BLOCK = 1024  # rows that are classified before they are printed


class Weightings(StrEnum):
    """Which log-SNR levels count."""

    likelihood = "likelihood"
    uniform = "uniform"
    fitted = "fitted"


@dataclass(frozen=True)
class Classifying:
    """How rows are classified."""

    panel: ClassVar[str] = "Evaluation"
    confidence: Annotated[
        float | None, typer.Option(metavar="P", help="Eliminate classes with this confidence; all classes if left out.")
    ] = None
    weights: Annotated[
        Weightings | None, typer.Option(help="Which levels count.", show_default="fitted; likelihood if uncalibrated")
    ] = None
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Learn from the run's own validation rows first.")
    ] = True
    samples: Annotated[int, typer.Option(min=2, help="Network evaluations per class without elimination.")] = 32
    max_samples: Annotated[int, typer.Option(min=2, help="The same at most with elimination.")] = 128
    screen: Annotated[
        bool, typer.Option("--screen", help="Let one Gaussian per class leave out classes before the network is asked.")
    ] = False

    def check(self) -> None:
        """Refuse options that cannot work together."""
        if self.weights is Weightings.fitted and not self.calibrate:
            raise UsageError("fitted weights are learned by calibration: leave --no-calibrate out")
        if self.screen and (self.confidence is None or not self.calibrate):
            raise UsageError("a screen serves elimination and needs calibration: give --confidence, not --no-calibrate")

    def classifier(self, model: Any, generator: Any, note: Any) -> Any:
        """The classifier, calibrated where that is asked for."""
        from girsanov.applications import DiffusionClassifier

        weights = self.weights or (Weightings.fitted if self.calibrate else Weightings.likelihood)
        options = {"samples": self.samples, "max_samples": self.max_samples, "generator": generator}
        found = DiffusionClassifier(model, weights=weights.value, **options)
        if self.screen:
            found.screen = _screen(model)
        if self.calibrate:
            held_out = _part(model, "validation")
            note(f"calibrating on {len(held_out[0]):,} validation rows")
            found.calibrate(*held_out)
        return found


def classify(
    run: RunArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows to classify: a name, file or folder.")],
    out: Annotated[Path | None, out_option("CSV file to write instead of standard output.")] = None,
    on_error: OnErrorOption = OnError.nan,
    *,
    how: Classifying,
    common: Common,
) -> None:
    """Class of every row of DATA by a --conditional model: row, class, probability, evaluations, decided, error.

    Rows count from 1. Probabilities are calibrated on the run's validation rows. A row that the model cannot have gets
    nan and a sentence, unless --on-error fail.
    """
    how.check()
    check_place(out)
    device = common.prepare()
    from girsanov.runs import all_rows

    model = _model(run, device)
    each, note = on_error is OnError.nan, stderr_note(common.quiet)
    rows = all_rows(model, data, each=each).first(common.limit)
    classifier = how.classifier(model, common.generator(), note)
    note(f"classifying {rows.described}: {len(rows):,}")
    note_refused(rows.refused, note)

    def compute(block: slice) -> Any:
        found = classifier.classify(rows.data[block], confidence=how.confidence)
        return _frame(found, rows.index[block].numpy(), classifier.classes_.tolist())

    lines = RowLines(COLUMNS, "probability", errors=each, only_json=("probabilities",), shown=_shown)
    lines.write(rows, compute, size=BLOCK, out=out, json=common.json)


def _model(run: str, device: Any) -> Any:
    from girsanov.density_model import DensityModel

    model = DensityModel.from_pretrained(run).to(device)
    if len(model.classes) < 2:
        raise UsageError(f"{run} was fitted without --conditional, so it knows no classes: fit again with it")
    return model


def _screen(model: Any) -> Any:
    import torch

    from girsanov.applications import GaussianScreen

    rows, names = _part(model, "train")
    return GaussianScreen.fit(rows.x, torch.tensor([model.classes.index(name) for name in names]))


def _part(model: Any, part: str) -> tuple[Any, list[str]]:
    """Rows of a part of the run's data, and the names of their classes."""
    from girsanov.runs import parts_of

    found = parts_of(model, "give --no-calibrate, or bring it back")[part].data
    if found.codes is None or found.classes is None:
        raise UsageError(f"{found.name} has lost its classes since the fit: give --no-calibrate, or bring them back")
    return found, [found.classes[k] for k in found.codes.tolist()]


def _frame(found: Any, numbers: Any, classes: list[Any]) -> Any:
    """What was found of each row, by its number, with the probabilities of all classes."""
    import pandas as pd

    index, probabilities = found.index.tolist(), found.probabilities.tolist()
    named = [dict(zip(map(str, classes), row, strict=True)) for row in probabilities]
    values = (
        [classes[k] for k in index],
        [row[k] for row, k in zip(probabilities, index, strict=True)],
        found.nfe.long().tolist(),
        found.decided.tolist(),
        named,
    )
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)), index=numbers)


def _shown(cells: Cells) -> Cells:
    return cells | {"probability": f"{cells['probability']:.6g}", "decided": str(cells["decided"]).lower()}
