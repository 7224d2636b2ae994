"""Draws become rows that the data could hold: one level per category in the law's own proportions, values in range."""

import math

import numpy as np
import pytest
import torch

from girsanov.datasets import Schema
from girsanov.datasets.raw import Raw
from girsanov.density_model.drawing import draw_rows
from tests.seeds import seeded

LEVELS = ("aa_rare", "b", "c")
SHARES = torch.tensor([0.02, 0.3, 0.38, 0.3])  # the last is of blocks without a level


def schema():
    kind = np.array(LEVELS * 20, dtype=object)
    return Schema.infer(Raw("rows", "table", ("kind", "on"), True, (kind, np.arange(60) % 2)), categorical=True)


def draws(shares):
    """A model's draws: indicators of one level or of none, each spread over its cell, and a binary column beyond."""

    def draw(n, condition, generator):
        level = torch.multinomial(shares, n, replacement=True, generator=generator)
        block = torch.nn.functional.one_hot(level, 4)[:, :3].double()
        on = torch.randint(-1, 3, (n, 1), generator=generator).double()
        return torch.cat([block, on], 1) + 0.9 * (torch.rand(n, 4, generator=generator).double() - 0.5)

    return draw


def test_levels_come_in_the_proportions_of_valid_draws():
    found = schema()
    x = draw_rows(draws(SHARES), found, 4000, condition=None, generator=seeded())
    kind, on = found.decode(x).columns
    for level, share in zip(LEVELS, (SHARES[:3] / SHARES[:3].sum()).tolist(), strict=True):
        assert abs((kind == level).mean() - share) < 5.0 * math.sqrt(share * (1.0 - share) / 4000)
    assert set(on.tolist()) == {0.0, 1.0}


def test_indicators_that_sum_to_one_are_drawn_so():
    """Columns of a frame whose categories were made indicators by its owner: the last is one less the others."""

    def draw(n, condition, generator):
        return torch.bernoulli(torch.full((n, 2), 0.4, dtype=torch.float64), generator=generator)

    table = np.eye(3)[np.arange(90) % 3]
    found = Schema.infer(Raw("rows", "table", ("a", "b", "c"), True, tuple(table.T)))
    x = draw_rows(draw, found, 1000, condition=None, generator=seeded())
    drawn = np.stack(found.decode(x).columns, 1)
    assert (np.sort(drawn, axis=1) == [0.0, 0.0, 1.0]).all()
    valid = np.array([0.24, 0.24, 0.36]) / 0.84
    assert (np.abs(drawn.mean(0) - valid) < 5.0 * np.sqrt(valid * (1.0 - valid) / 1000)).all()
    assert Schema.from_json(found.to_json()) == found


def test_what_is_never_valid_takes_the_nearest_level_and_says_so():
    found = schema()
    with pytest.warns(UserWarning, match="20 of 20 draws had a category without a level"):
        x = draw_rows(draws(torch.tensor([0.0, 0.0, 0.0, 1.0])), found, 20, condition=None, generator=seeded())
    kind = found.decode(x).columns[0]
    assert kind.tolist() == [LEVELS[k] for k in x[:, :3].argmax(1).tolist()]
