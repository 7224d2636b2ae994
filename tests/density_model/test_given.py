"""Networks and processes that are given as objects: fitted, saved, and read again."""

import functools

import pytest
import torch
from torch import nn

import girsanov as gv
from girsanov.networks import ResidualMLP
from girsanov.processes import OrnsteinUhlenbeck, SubVariancePreserving
from tests.seeds import seeded

TINY = {"steps": 3, "flow": False, "batch_size": 16}
SMALL = {**TINY, "network": gv.networks.MLPConfig(width=8, blocks=1)}


class Slow(OrnsteinUhlenbeck):
    """A process of a user's own."""


class Line(nn.Module):
    """A network of a user's own."""

    def __init__(self, d=2, maps=(1, 1)):
        super().__init__()
        self.maps, self.linear = maps, nn.Linear(maps[0] * d, maps[1] * d)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, log_snr, features, condition=None):
        return self.linear(features.flatten(1)).reshape(len(features), self.maps[1], *features.shape[2:])


def make_line(event_shape, signature):
    return Line(event_shape[0], (signature.inputs, signature.outputs))


@pytest.fixture(scope="module")
def x():
    rows = torch.randn(240, 2, generator=seeded(0), dtype=torch.float64)
    return torch.cat([rows[:80] + 6.0, rows[80:]])  # two clusters: a mixture is fitted, whose head has more maps


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "process", [OrnsteinUhlenbeck(3.0), SubVariancePreserving(0.2, 9.0, log_snr_range=(-5.0, 8.0))]
)
def test_a_process_of_the_package_is_saved_with_its_arguments(process, x, tmp_path):
    model = gv.fit(x, config=gv.Config(process=process, **SMALL))
    again = gv.DensityModel.from_pretrained(saved(model, tmp_path / "model"))
    assert type(again.score.process) is type(process)
    assert again.score.process is not process
    assert again.score.process.log_snr_range == process.log_snr_range
    assert torch.equal(again.elbo(x[:5], samples=8).value, model.elbo(x[:5], samples=8).value)
    other = gv.fit(x, config=gv.Config(process="ou", **SMALL))
    assert not torch.equal(other.elbo(x[:5], samples=8).value, model.elbo(x[:5], samples=8).value)


def test_the_process_of_a_name_is_the_object_of_that_class(x):
    named, given = (gv.fit(x, config=gv.Config(process=p, **SMALL)) for p in ("ou", OrnsteinUhlenbeck()))
    assert torch.equal(named.elbo(x[:5], samples=8).value, given.elbo(x[:5], samples=8).value)


def test_a_process_of_ones_own_is_asked_for_again(x, tmp_path):
    model = gv.fit(x, config=gv.Config(process=Slow(2.0), **SMALL))
    folder = saved(model, tmp_path / "model")
    with pytest.raises(gv.InputError, match=r"a process of your own, Slow: load it with from_pretrained\(.*process="):
        gv.DensityModel.from_pretrained(folder)
    again = gv.DensityModel.from_pretrained(folder, process=Slow(2.0))
    assert torch.equal(again.elbo(x[:5], samples=8).value, model.elbo(x[:5], samples=8).value)


@pytest.mark.parametrize(("network", "head"), [(Line(), "ResidualHead"), (make_line, "MixtureHead")])
def test_a_network_of_ones_own_is_asked_for_again(network, head, x, tmp_path):
    x = torch.cat([x - 6.0, x + 6.0])  # of two clusters, for which a mixture pays
    model = gv.fit(x, config=gv.Config(network=network, **TINY))
    assert type(model.score.head).__name__ == head
    assert isinstance(model.score.network, Line)
    assert model.score.network is not network
    assert model.record["training"]["steps"] == 3
    folder = saved(model, tmp_path / "model")
    with pytest.raises(gv.InputError, match=r"a network of your own, .*ine: load it with from_pretrained\(.*network="):
        gv.DensityModel.from_pretrained(folder)
    again = gv.DensityModel.from_pretrained(folder, network=network)
    assert torch.equal(again.elbo(x[:5], samples=8).value, model.elbo(x[:5], samples=8).value)


def test_a_given_network_is_left_as_it_was(x):
    line = Line()
    gv.fit(x, config=gv.Config(network=line, **TINY))
    assert not bool(line.linear.weight.any())


def test_a_class_of_the_package_with_arguments_is_saved_by_its_name(x, tmp_path):
    network = functools.partial(ResidualMLP, width=8, blocks=1, dropout=0.1)
    given = gv.fit(x, config=gv.Config(network=network, members=2, **TINY))
    named = gv.fit(x, config=gv.Config(**SMALL))
    assert torch.equal(given.elbo(x[:5], samples=8).value, named.elbo(x[:5], samples=8).value)
    again = gv.DensityModel.from_pretrained(saved(given, tmp_path / "model"))
    assert torch.equal(again.elbo(x[:5], samples=8).value, given.elbo(x[:5], samples=8).value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": Line(3)}, r"must map \('b', 1, 2\) to \('b', 1, 2\); of two rows it raises RuntimeError"),
        ({"network": Line(2, (1, 2))}, r"that of two rows is \(2, 2, 2\)"),
        ({"network": lambda shape, signature: nn.Flatten(2)}, "of two rows it raises TypeError"),
        ({"network": lambda shape, signature: "mlp"}, "as a torch.nn.Module; got str"),
        ({"network": 3}, "Unknown network 3: choose one of conv, image, mlp, two-layer, unet"),
        ({"process": 3}, "Unknown process 3"),
        ({"process": gv.processes.LearnedSchedule((-5.0, 5.0))}, "asked for by process='learned'"),
    ],
)
def test_what_cannot_be_a_network_or_a_process(settings, message, x):
    with pytest.raises(gv.InputError, match=message):
        gv.fit(x, config=gv.Config(**TINY, **settings))
