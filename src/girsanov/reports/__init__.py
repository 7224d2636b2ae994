"""What a run looks like: the result table, ``samples.png``, and a report of one HTML file without outside resources."""

__all__ = [
    "Attempts",
    "Contents",
    "ResultTable",
    "ScoreTests",
    "composition",
    "conclusions",
    "differences",
    "render_report",
    "result_tables",
    "samples_png",
]

from girsanov.reports.findings import ScoreTests, composition, conclusions
from girsanov.reports.page import Attempts
from girsanov.reports.report import Contents, render_report, samples_png
from girsanov.reports.tables import ResultTable, differences, result_tables
