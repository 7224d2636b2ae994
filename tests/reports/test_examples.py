"""Rows of the data in a report: what stands out in each."""

import torch

from girsanov.datasets import continuous_table
from girsanov.reports.examples import _deviations


def test_one_row_deviates_by_nothing():
    schema, one = continuous_table(torch.zeros(3, 2)).schema, torch.ones(1, 2)
    text = _deviations("rows", one, torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), schema)
    assert "x1 = 1 (+0.0)" in text


def test_rows_are_counted_from_one():
    schema, rows = continuous_table(torch.zeros(3, 2)).schema, torch.eye(2)
    text = _deviations("rows", rows, torch.zeros(2), torch.tensor([0, 6]), torch.tensor([1]), schema)
    assert ">7<" in text
