"""What a run looks like: the result table, ``samples.png``, and a report of one HTML file without outside resources."""

__all__ = [
    "Attempts",
    "Contents",
    "ResultTable",
    "ScoreTests",
    "advice",
    "as_lossless_code",
    "composition",
    "differences",
    "render_report",
    "result_tables",
    "samples_png",
]

from girsanov.reports.page import Attempts
from girsanov.reports.report import Contents, ScoreTests, render_report, samples_png
from girsanov.reports.tables import ResultTable, advice, as_lossless_code, composition, differences, result_tables
