"""A moved row depends on itself alone: not on the rows beside it, their number or their order."""

import pandas as pd
import pytest
import torch

from girsanov.bridge_model import BridgeModel
from girsanov.runs import BridgeConfig, BridgeRun, EndSource, fit_run, read_ends
from girsanov.types import InputError
from tests.seeds import rng, seeded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    ends = read_ends(EndSource("digits", ("0", "1")), EndSource("digits", ("7",)), limit=80)
    settings = {"steps": 2, "width": 8, "blocks": 1, "network": "mlp", "paths": 60, "chain_steps": 3, "rounds": 1}
    folder = tmp_path_factory.mktemp("runs") / "bridge"
    fit_run(BridgeRun(ends, BridgeConfig(**settings)), folder)
    return BridgeModel.load(folder), ends.part(0, "train")


def test_rows_in_the_bridges_units_come_back_as_they_were(run):
    model, x = run
    y = model.placed(model.encode(x))
    assert torch.equal(model.data(model.left(y)).x, x.x)
    width = 1.0 / float(model.encoding.transforms.members[-1].scale.flatten()[0])
    assert float((y.reshape(x.x.shape) - model.scaled(x)).abs().max()) <= 0.5 * width + 1e-6


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
    copies = x[torch.zeros(400, dtype=torch.int64)]
    assert len(model.placed(model.encode(copies)).unique(dim=0)) == 400
    end = model.paths(copies)[-1].flatten(1)
    spread = end.std(0)[end.std(0) > 0.1]
    single = model.paths(x[:1])[-1].flatten(1)
    assert torch.equal(end[:1], single)
    assert len(spread) > 20  # pixels that are never inked have hardly any


def test_paths_end_where_rows_are_moved_to(run):
    model, x = run
    assert torch.equal(model.data(model.paths(x[:5])[-1]).x, model.translate(x[:5]))


def test_rows_come_in_as_they_are_and_go_out_in_the_form_that_the_ends_had(tmp_path):
    generator = rng(0)
    for name, shift in (("before", 0.0), ("after", 2.0)):
        frame = pd.DataFrame({"size": generator.normal(size=60) + shift, "kind": list("ab") * 30, "fixed": 1})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    sources = [EndSource(str(tmp_path / f"{name}.csv")) for name in ("before", "after")]
    config = BridgeConfig(steps=2, width=8, blocks=1, paths=40, chain_steps=3, rounds=1)
    fit_run(BridgeRun(read_ends(*sources, categorical=True), config), tmp_path / "run")
    model = BridgeModel.load(tmp_path / "run")
    rows = pd.read_csv(tmp_path / "before.csv")
    moved = model.translate(rows)
    assert list(moved) == ["size", "kind", "fixed"]
    assert set(moved["kind"]) <= {"a", "b"}
    pd.testing.assert_frame_equal(model.translate(moved[:5]), model.translate(moved)[:5])  # what goes out comes in
    assert list(model.translate(rows[:3].set_axis(list("xyz"))).index) == list("xyz")
    with pytest.raises(InputError, match="seed must be a whole number"):
        model.translate(rows, seed=1.5)
    with pytest.raises(InputError, match="'c' was not in the data"):
        model.translate(rows.assign(kind="c"))
