"""``girsanov anomalies``: which rows are odd, at a false discovery rate, and in which columns."""

__all__ = ["anomalies"]

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.lines import Cells, RowLines
from girsanov.cli.options import Common, OnError, OnErrorOption, RunArgument, out_option
from girsanov.cli.output import UsageError, check_place, note_refused, stderr_note

COLUMNS = ("score", "p_value", "q_value", "odd", "columns")
BLOCK = 1024  # rows that are scored at a time
KNOWN = 2048  # training rows at most whose values are tried in odd rows


@dataclass(frozen=True)
class Judging:
    """When a row is odd."""

    panel: ClassVar[str] = "Evaluation"
    fdr: Annotated[
        float, typer.Option(metavar="Q", help="False discovery rate: the share of flagged rows that may be usual ones.")
    ] = 0.1
    together: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="K",
            help="Odd rows that must be found if there are so many; fewer may go unseen. A larger K allows for fewer "
            "calibration rows.",
        ),
    ] = 1
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Usual rows that the fit has not seen, to calibrate on beside the run's held-out ones.",
            rich_help_panel="Data",
        ),
    ] = None
    samples: Annotated[int, typer.Option(min=8, help="Network evaluations per row.")] = 64
    name_columns: Annotated[
        bool, typer.Option("--columns/--no-columns", help="Name the columns that make each row odd.")
    ] = True


def anomalies(
    run: RunArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows to judge: a name, file or folder.")],
    out: Annotated[Path | None, out_option("CSV file to write instead of standard output.")] = None,
    on_error: OnErrorOption = OnError.nan,
    *,
    how: Judging,
    common: Common,
) -> None:
    """Odd rows of DATA, a line for every row: row, score, p_value, q_value, odd, columns, error.

    The p-value is the share of usual rows that are as odd; they are the run's held-out test rows, which neither
    training nor selection saw. Of the rows flagged as odd, a share of --fdr at most is usual, in the mean.

    The columns are those whose values would have to be others for the row to be usual, the most important first; with
    --json beside these other values. Where either of two columns would explain a row, one is named.
    """
    check_place(out)
    device = common.prepare()
    from girsanov.density_model import DensityModel
    from girsanov.runs import other_rows, parts_of
    from girsanov.training import default_progress

    model = DensityModel.from_pretrained(run).to(device)
    each, note = on_error is OnError.nan, stderr_note(common.quiet)
    rows = other_rows(model, data, each=each).first(common.limit)
    parts = parts_of(model, "bring them back, or fit again")
    held_out = _calibration(model, data, parts["test"], how)
    search = _Search(model, rows, how, default_progress(quiet=common.quiet))
    search.check(len(held_out))
    note(f"calibrating on {len(held_out):,} held-out rows")
    search.calibrate(held_out, parts["validation"].data, common.generator())
    note(f"judging {rows.described}: {len(rows):,}")
    note_refused(rows.refused, note)
    found = search.frame(parts["train"].data[:KNOWN])
    note(f"{int(found['odd'].sum()):,} of {len(found):,} rows are odd at a false discovery rate of {how.fdr:g}")
    columns = COLUMNS if search.names_columns else COLUMNS[:-1]
    lines = RowLines(columns, "p_value", errors=each, shown=_shown)
    lines.write(rows, lambda block: found.iloc[block], size=BLOCK, out=out, json=common.json)


def _calibration(model: Any, data: str, held_out: Any, how: Judging) -> Any:
    """The run's held-out rows, and those given."""
    import torch

    from girsanov.runs import other_rows

    if how.calibration is None:
        return held_out.data
    if Path(how.calibration).absolute() == Path(data).absolute():
        raise UsageError("--calibration holds the rows to judge, which cannot vouch for themselves: give others")
    more = other_rows(model, how.calibration)
    return dataclasses.replace(held_out.data, x=torch.cat([held_out.x, more.x]), codes=None)


@dataclass
class _Search:
    """Odd rows of a model, phase by phase."""

    model: Any
    rows: Any
    how: Judging
    progress: Any

    def check(self, calibration: int) -> None:
        """Refuse too few calibration rows before anything is computed."""
        from girsanov.applications.anomalies import require_reach

        require_reach(calibration, len(self.rows), self.how.fdr, self.how.together)

    @property
    def names_columns(self) -> bool:
        """Whether columns are looked for: images have none."""
        return self.how.name_columns and self.model.schema.kind == "table"

    def calibrate(self, held_out: Any, validation: Any, generator: Any) -> None:
        """p-values from held-out rows; usual errors from the rows that chose the fit."""
        from girsanov.applications import Novelty

        novelty = Novelty(samples=self.how.samples, generator=generator)
        self.novelty = novelty.fit(self.model, held_out, moments=validation)

    def frame(self, known: Any) -> Any:
        """What is found of each row, by its number."""
        import pandas as pd

        from girsanov.applications.anomalies import judge

        found = judge(self.novelty, self._scores(), self.how.fdr)
        named = dict(zip(COLUMNS[:-1], (found.score, found.pvalue, found.qvalue, found.odd), strict=True))
        frame = pd.DataFrame({name: values.numpy() for name, values in named.items()}, index=self.rows.index.numpy())
        if self.names_columns:
            frame["columns"] = self._columns(found.odd, known)
        return frame

    def _scores(self) -> Any:
        import torch

        blocks = [slice(start, start + BLOCK) for start in range(0, len(self.rows), BLOCK)]
        found = [self.novelty.score(self.rows.data[block]).cpu() for block in self._shown("scoring blocks", blocks)]
        return torch.cat([torch.empty(0, dtype=torch.float64), *found])

    def _columns(self, odd: Any, known: Any) -> list[list[Cells]]:
        from girsanov.applications import odd_columns

        changes = odd_columns(self.novelty, self.rows.data[odd], known, level=self.how.fdr) if odd.any() else iter(())
        told = self._shown("columns of odd rows", range(int(odd.sum())))
        named = iter([[vars(change) for change in next(changes)] for _ in told])
        return [next(named) if flag else [] for flag in odd.tolist()]

    def _shown(self, phase: str, items: Any) -> Iterator[Any]:
        """The items, as they are worked off, on the bar."""
        self.progress.stage(phase)
        self.progress.start(0, len(items))
        try:
            for done, item in enumerate(items, start=1):
                yield item
                self.progress.advance(done, len(items))
        finally:
            self.progress.stop()


def _shown(cells: Cells) -> Cells:
    """Names of columns alone, in one cell."""
    return cells | {"columns": "; ".join(change["column"] for change in cells.get("columns") or ())}
