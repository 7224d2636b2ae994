"""Runs: a folder that holds a fitted model, what it is worth, and how it came about."""

__all__ = [
    "BridgeConfig",
    "EndSource",
    "Ends",
    "EvaluationConfig",
    "Rows",
    "RunFolder",
    "Selection",
    "Source",
    "all_rows",
    "condition_of",
    "fit_bridge_run",
    "fit_run",
    "read_ends",
    "rows_of",
    "select",
    "tested_rows",
    "write_bridge_report",
    "write_report",
]

from girsanov.runs.bridge import fit_bridge_run, write_bridge_report
from girsanov.runs.bridge_config import BridgeConfig
from girsanov.runs.conditions import condition_of
from girsanov.runs.ends import Ends, EndSource, read_ends
from girsanov.runs.experiment import EvaluationConfig, fit_run, write_report
from girsanov.runs.folder import RunFolder, Source
from girsanov.runs.rows import Rows, Selection, all_rows, rows_of, select, tested_rows
