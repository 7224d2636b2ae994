"""Rows of the data in a report: what stands out in each."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import ks_2samp

from girsanov.datasets import continuous_table, from_array
from girsanov.reports.examples import columns, extremes, samples_beside_data
from girsanov.reports.report import described
from tests.seeds import rng

SCHEMA = continuous_table(torch.zeros(3, 2)).schema


def test_one_row_deviates_by_nothing():
    html = extremes(torch.ones(1, 2), torch.zeros(1), torch.zeros(1), SCHEMA)
    assert "x1 = 1 (+0.0)" in html


def test_rows_are_counted_from_one():
    html = extremes(torch.eye(2), torch.tensor([-1.0, 0.0]), torch.tensor([0, 6]), SCHEMA)
    most, least = html.split("Least likely")
    assert "<td>7</td>" in most
    assert "<td>1</td>" in least


def with_text(n=60):
    """Encoded rows of one column of text and one of numbers, and their schema."""
    frame = pd.DataFrame({"team": np.array(["red", "blue", "green"])[np.arange(n) % 3], "pay": rng(0).normal(size=n)})
    data = from_array(frame, categorical=True)
    return data.x, data.schema


def test_text_is_shown_as_its_levels():
    x, schema = with_text()
    page = extremes(x, torch.arange(float(len(x))), torch.arange(len(x)), schema)
    assert "team = red" in page
    assert "team=" not in page
    assert described(schema) == "tables of 2 columns (4 dimensions)"


def test_pairs_are_of_columns_of_numbers():
    x, schema = with_text()
    page = samples_beside_data(x, x, schema)
    assert "Below the diagonal" not in page  # one column of numbers has no pairs
    assert "red" in page
    page = columns(x, x, schema)
    assert "In none of 4 columns and levels" in page
    assert "All 4 columns and levels" in page
    wide = pd.DataFrame({"team": ["red", "blue"] * 20} | {f"n{i}": rng(i).normal(size=40) for i in range(3)})
    data = from_array(wide, categorical=True)
    page = samples_beside_data(data.x, data.x, data.schema)
    assert "All 3 columns of numbers" in " ".join(page.split())


def test_columns_that_are_drawn_wrong_are_named():
    data = from_array(pd.DataFrame(rng(0).normal(size=(400, 3)), columns=["right", "shifted", "wide"]))
    wrong = data.x + torch.tensor([0.0, 1.0, 0.0])
    wrong[:, 2] *= 3.0
    page = " ".join(columns(wrong, data.x, data.schema).split())
    assert "In 2 of 3 columns samples and held-out rows differ" in page
    assert "all together): shifted, wide." in page
    distance = ks_2samp(data.x[:, 1].numpy(), wrong[:, 1].numpy()).statistic
    assert f"<td>{distance:.3f}</td>" in page


def test_without_data_samples_stand_alone():
    x, schema = with_text()
    page = samples_beside_data(x, None, schema)
    assert "Rows that the model drew" in page
    assert "<svg" not in page
