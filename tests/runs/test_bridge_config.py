"""Settings that the data of a bridge decide."""

import numpy as np
import pytest

from girsanov.bridges import BridgeNetwork, NetworkConfig
from girsanov.networks import ConvNetwork, takes_convolutions
from girsanov.runs import BridgeConfig, EndSource, LawBridgeConfig, read_ends
from girsanov.types import InputError
from tests.seeds import rng

SHAPES = [(1, 8, 8), (3, 4, 6), (1, 7, 7), (1, 8, 7), (1, 2, 2), (12,), (8, 8)]


@pytest.fixture
def ends(tmp_path):
    """Both ends of random images of a shape, or one to a normal law."""

    def make(shape, target=None):
        paths = []
        for seed in range(2):
            paths.append(str(tmp_path / f"{seed}.npy"))
            np.save(paths[-1], rng(seed).integers(0, 17, (40, *shape)))
        return read_ends(EndSource(paths[0]), EndSource(target or paths[1]))

    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_the_predicate_is_what_a_network_does(shape):
    network = BridgeNetwork(shape, NetworkConfig(width=4, blocks=1))
    assert isinstance(network.residual, ConvNetwork) == takes_convolutions(shape)


@pytest.mark.parametrize(
    ("shape", "network", "width"), [((1, 8, 8), "conv", 16), ((1, 7, 7), "mlp", 128), ((1, 2, 2), "mlp", 128)]
)
def test_the_network_is_the_one_that_is_built(shape, network, width, ends):
    config = BridgeConfig()
    completed = config.completed(ends(shape))
    assert (completed.network, completed.width) == (network, width)
    assert len(config.notes(ends(shape))) == (network == "mlp")
    assert BridgeConfig(network="mlp").notes(ends(shape)) == []


def test_convolutions_of_odd_sides_are_refused(ends):
    with pytest.raises(InputError, match=r"these rows have shape \(1, 7, 7\): use mlp"):
        BridgeConfig(network="conv").completed(ends((1, 7, 7)))


def test_warm_starts_are_for_convolutions(ends):
    """After one, a single alternation; the pairs of a warm start may use a row several times."""
    made = BridgeConfig().completed(ends((1, 4, 4)))
    assert (made.warm_start, made.rounds, made.paths) == ("minibatch", 1, 4000)
    made = BridgeConfig(warm_start="none").completed(ends((1, 4, 4)))
    assert (made.warm_start, made.rounds) == ("none", 3)
    made = BridgeConfig().completed(ends((1, 7, 7)))
    assert (made.warm_start, made.rounds, made.paths) == ("none", 3, 34)
    with pytest.raises(InputError, match="warm_start must be minibatch or none; got 'pairs'"):
        BridgeConfig(warm_start="pairs")


def test_rounds_and_paths_belong_to_bridges_between_rows(ends):
    between, to_law = ends((1, 7, 7)), ends((1, 7, 7), "normal")
    completed = BridgeConfig().completed(between)
    assert (completed.warm_start, completed.rounds, completed.paths) == ("none", 3, 34)
    assert BridgeConfig(rounds=2, paths=60).completed(between).rounds == 2
    assert LawBridgeConfig().completed(to_law).width == 128
    with pytest.raises(InputError, match="to a normal law is fitted jointly, without alternations"):
        BridgeConfig().completed(to_law)
    for settings in ({"rounds": 3}, {"paths": 60}, {"warm_start": "minibatch"}):
        with pytest.raises(TypeError, match=next(iter(settings))):
            LawBridgeConfig(**settings)
