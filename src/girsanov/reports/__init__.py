"""What a run looks like: the result table, ``samples.png``, and a report of one HTML file without outside resources."""

__all__ = [
    "Attempts",
    "Contents",
    "ScoreTests",
    "Section",
    "advice",
    "differences",
    "render",
    "samples_png",
    "sections",
]

from girsanov.reports.attempts import Attempts
from girsanov.reports.report import Contents, render, samples_png
from girsanov.reports.score_tests import ScoreTests
from girsanov.reports.tables import Section, advice, differences, sections
