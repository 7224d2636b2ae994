"""Rows of the data in a report: what stands out in each."""

import torch

from girsanov.datasets import continuous_table
from girsanov.reports.examples import extremes

SCHEMA = continuous_table(torch.zeros(3, 2)).schema


def test_one_row_deviates_by_nothing():
    html = extremes(torch.ones(1, 2), torch.zeros(1), torch.zeros(1), SCHEMA)
    assert "x1 = 1 (+0.0)" in html


def test_rows_are_counted_from_one():
    html = extremes(torch.eye(2), torch.tensor([-1.0, 0.0]), torch.tensor([0, 6]), SCHEMA)
    most, least = html.split("Least likely")
    assert "<td>7</td>" in most
    assert "<td>1</td>" in least
