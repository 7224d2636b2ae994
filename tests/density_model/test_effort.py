"""What a budget buys, what an image model is by default, and how much of everything a fit does."""

import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array, split
from girsanov.density_model import prepare
from girsanov.density_model.effort import Effort, allowance, batch_size, within_budget
from girsanov.networks import ConvConfig, ImageConfig
from girsanov.transforms import OnLattice
from tests.seeds import seeded

SHAPE, HERE = (1, 28, 28), torch.device("cpu")


def chosen(config, costs, monkeypatch, out=None):
    """The width for a processor on which an image of each width costs so many seconds."""
    monkeypatch.setattr("girsanov.density_model.effort._seconds_per_image", lambda width, *_: costs[width])
    found, told = within_budget(config, SHAPE, 60_000, out, HERE)
    return found.network, told


def test_more_time_buys_a_wider_network_and_the_sentence_says_so(monkeypatch):
    costs = {32: 1e-3, 64: 3e-3, 96: 6e-3}
    widths = [chosen(gv.Config(time_budget=s), costs, monkeypatch)[0].width for s in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (32, 96)
    _, told = chosen(gv.Config(time_budget=60.0), costs, monkeypatch)
    assert "width 32" in told
    assert "Twice the time would buy width 64" in told


def test_a_resumed_fit_keeps_the_width_whatever_the_clock_says(monkeypatch, tmp_path):
    costs = {32: 1e-3, 64: 3e-3, 96: 6e-3}
    first, _ = chosen(gv.Config(time_budget=600.0), costs, monkeypatch, tmp_path)
    slow = {width: 1000.0 * cost for width, cost in costs.items()}
    again, told = chosen(gv.Config(time_budget=600.0), slow, monkeypatch, tmp_path)
    assert (again, told) == (first, "")
    assert allowance(600.0, 500.0, tmp_path) == allowance(600.0, 3.0, tmp_path) == 500.0
    assert allowance(1200.0, 900.0, tmp_path) == 900.0
    assert chosen(gv.Config(time_budget=600.0), slow, monkeypatch, tmp_path)[0] == first


@pytest.mark.parametrize(
    "config",
    [gv.Config(), gv.Config(time_budget=9.0, network=ImageConfig(width=24)), gv.Config(time_budget=9.0, network="mlp")],
    ids=["no budget", "width given", "another network"],
)
def test_what_is_given_stays(config):
    assert within_budget(config, SHAPE, 100, None, HERE) == (config, "")


def test_a_width_is_measured_where_nothing_is_known():
    config, told = within_budget(gv.Config(time_budget=2.0), (5,), 100, None, HERE)
    assert config.network is None  # tables have another network
    assert not told
    config, told = within_budget(gv.Config(time_budget=2.0), (1, 4, 4), 100, None, HERE)
    assert config.network.width in (32, 64, 96)
    assert told.startswith("In about 2 s")


def test_batches_are_the_networks_unless_given():
    assert batch_size(gv.Config(), SHAPE) == 64
    assert batch_size(gv.Config(), (1, 8, 8)) == 128
    assert batch_size(gv.Config(), (5,)) == 256
    assert batch_size(gv.Config(batch_size=7), SHAPE) == 7
    assert batch_size(gv.Config(network=torch.nn.Linear(1, 1)), (5,)) == 256


def levels(count):
    return torch.randint(count, (40, 1, 4, 4), generator=seeded(0)).double()


@pytest.mark.parametrize(
    ("count", "settings", "decoded"),
    [
        (200, {}, True), (8, {}, True), (200, {"lattice_head": False}, False), (200, {"logit": True}, False),
        (200, {"dequantise": "uniform"}, False), (8, {"dequantise": "categorical", "lattice_head": False}, True),
        (200, {"network": "two-layer"}, False),
    ],
)  # fmt: skip
def test_images_of_whole_levels_are_decoded_by_default(count, settings, decoded):
    small = {} if "network" in settings else {"network": ConvConfig(width=8, blocks=1)}
    data = from_array(levels(count))
    model = prepare(data, split(40, seed=0), gv.Config(**small, **settings))
    assert isinstance(model.encoding.dequantiser, OnLattice) is decoded


def test_steps_and_epochs_are_those_of_the_images():
    assert "some 1,000 steps (0.64 epochs)" in Effort(32, 64, 64_000, 100_000).sentence(9.0, Effort(32, 64, 1, 100_000))
