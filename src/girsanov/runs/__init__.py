"""Runs: a folder that holds a fitted model, what it is worth, and how it came about."""

__all__ = [
    "EvaluationConfig",
    "Rows",
    "RunFolder",
    "Selection",
    "Source",
    "all_rows",
    "condition_of",
    "fit_run",
    "rows_of",
    "select",
    "tested_rows",
    "write_report",
]

from girsanov.runs.conditions import condition_of
from girsanov.runs.experiment import EvaluationConfig, fit_run, write_report
from girsanov.runs.folder import RunFolder, Source
from girsanov.runs.rows import Rows, Selection, all_rows, rows_of, select, tested_rows
