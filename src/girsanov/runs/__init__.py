"""Runs: a folder that holds a fitted model, what it is worth, and how it came about."""

__all__ = [
    "BridgeConfig",
    "BridgeRun",
    "Budget",
    "DensityRun",
    "EndSource",
    "Ends",
    "EvaluationConfig",
    "LawBridgeConfig",
    "Rows",
    "RunFolder",
    "Selection",
    "Source",
    "all_rows",
    "condition_of",
    "fit_run",
    "other_rows",
    "parts_of",
    "read_ends",
    "rows_of",
    "select",
    "tested_rows",
    "write_report",
]

from girsanov.runs.bridge import BridgeRun
from girsanov.runs.bridge_config import BridgeConfig, LawBridgeConfig
from girsanov.runs.budget import Budget
from girsanov.runs.conditions import condition_of
from girsanov.runs.density import DensityRun
from girsanov.runs.density_measures import EvaluationConfig
from girsanov.runs.ends import Ends, EndSource, read_ends
from girsanov.runs.folder import RunFolder, Source
from girsanov.runs.report import write_report
from girsanov.runs.rows import Rows, Selection, all_rows, other_rows, parts_of, rows_of, select, tested_rows
from girsanov.runs.run import fit_run
