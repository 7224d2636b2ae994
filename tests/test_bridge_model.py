"""A moved row depends on itself alone: not on the rows beside it, their number or their order."""

import pytest
import torch

from girsanov.bridge_model import BridgeModel
from girsanov.runs import BridgeConfig, BridgeRun, EndSource, fit_run, read_ends
from tests.seeds import seeded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    ends = read_ends(EndSource("digits", ("0", "1")), EndSource("digits", ("7",)), limit=80)
    settings = {"steps": 2, "width": 8, "blocks": 1, "network": "mlp", "paths": 60, "chain_steps": 3, "rounds": 1}
    folder = tmp_path_factory.mktemp("runs") / "bridge"
    fit_run(BridgeRun(ends, BridgeConfig(**settings)), folder)
    return BridgeModel.load(folder), ends.part(0, "train")


def test_rows_in_the_bridges_units_come_back_as_they_were(run):
    model, x = run
    y = model.encode(x)
    assert torch.equal(model.rounded(model.decode(y)), x)
    width = 1.0 / float(model.encoding.transforms.members[-1].scale.flatten()[0])
    assert float((y.reshape(x.shape) - model.scaled(x)).abs().max()) <= 0.5 * width + 1e-6


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_row_moves_to_the_same_place_in_any_company(run, direction):
    model, x = run
    moved = model.translate(x, direction)
    assert torch.equal(model.translate(x[:7], direction), moved[:7])
    order = torch.randperm(len(x), generator=seeded(0))
    assert torch.equal(model.translate(x[order], direction), moved[order])
    assert not torch.equal(model.translate(x, direction, seed=1), moved)


def test_copies_of_a_row_move_independently(run):
    """Else a table of few values would move to few values."""
    model, x = run
    y = model.encode(x[:1].expand(400, *x.shape[1:]))
    assert len(y.unique(dim=0)) == 400
    end = model.paths(x[:1].expand(400, *x.shape[1:]))[-1].flatten(1)
    spread = end.std(0)[end.std(0) > 0.1]
    single = model.paths(x[:1])[-1].flatten(1)
    assert torch.equal(end[:1], single)
    assert len(spread) > 20  # pixels that are never inked have hardly any


def test_paths_end_where_rows_are_moved_to(run):
    model, x = run
    assert torch.equal(model.rounded(model.paths(x[:5])[-1]), model.translate(x[:5]))
