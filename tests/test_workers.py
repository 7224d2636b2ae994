"""The processes of a command, as far as one process can see them."""

import dataclasses

import pytest
import torch

from girsanov.objectives import Batch
from girsanov.randomness import SharedGenerator, drawn_rows, normal_like, uniform_like, whole_batch
from girsanov.workers import Workers, is_gone, leading, of_each, started, workers


def share(first, every, count, seed=0):
    generator = SharedGenerator()
    generator.first, generator.every, generator.count = first, every, count
    return generator.manual_seed(seed)


def woven(parts, dim=0):
    """Rows r, r + n, ... of n parts in their order."""
    count = sum(part.shape[dim] for part in parts)
    found = torch.cat(parts, dim)
    order = torch.cat([torch.arange(first, count, len(parts)) for first in range(len(parts))])
    return found.index_select(dim, order.argsort())


def test_a_process_alone_shares_nothing():
    assert not started()
    assert workers().size == 1
    with leading() as company:
        assert company.size == 1
        assert company.each(len, [[1]]) is None
        assert not company.call(print)


def test_parts_of_a_batch_are_every_so_many_th_row_of_all_it_holds():
    batch = (Batch(torch.arange(5.0), torch.arange(5)), {"y": torch.arange(4), "name": "x"})
    first, second = Workers(1, 2).part(batch)
    assert first.x.tolist() == first.condition.tolist() == [1, 3]
    assert second["y"].tolist() == [1, 3]
    assert second["name"] == "x"
    assert of_each([None, 3], lambda rows: rows) == (None, 3)
    assert dataclasses.is_dataclass(of_each(Batch(torch.ones(2)), torch.neg))


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("count", [7, 12])
def test_draws_of_shares_are_those_of_the_whole(every, count):
    draws = {
        "normal": lambda x, generator: normal_like(x, generator, blocks=(2,)).transpose(0, 1),
        "uniform": uniform_like,
        "integers": lambda x, g: drawn_rows(lambda n: torch.randint(9, (n,), generator=g), len(x), g),
    }
    x = torch.zeros(count, 3)
    for draw in draws.values():
        whole = draw(x, torch.Generator().manual_seed(0))
        parts = [draw(x[first::every], share(first, every, count)) for first in range(every)]
        assert torch.equal(woven(parts), whole)


def test_one_process_has_the_whole_batch():
    rows = torch.arange(3)
    assert whole_batch(rows, torch.Generator()) is rows


def test_only_what_says_so_is_a_lost_process():
    assert is_gone(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not is_gone(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
