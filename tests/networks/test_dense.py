"""Networks: silent at first, conditioned when asked, and the closed-form trace equal to the exact one."""

import pytest
import torch

from girsanov.calculus import Exact
from girsanov.networks import ConvNetwork, Signature, TwoLayerNetwork
from tests.laws import each_network
from tests.seeds import seeded


def awaken(network):
    """Give every parameter a value, so that nothing is zero by initialisation."""
    generator = seeded(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


@each_network
def test_networks_start_at_zero_and_keep_shapes(make_network, shape):
    network = make_network()
    features = torch.randn(3, 1, *shape)
    out = network(torch.linspace(-10.0, 10.0, 3), features, None)
    assert out.shape == features.shape
    assert not out.any()
    assert out.requires_grad  # zero, but not dead
    assert awaken(network)(torch.zeros(3), features, None).any()


@each_network
def test_the_first_gradient_is_not_zero(make_network, shape):
    network = make_network()
    features = torch.randn(3, 1, *shape)
    (network(torch.zeros(3), features, None) - torch.randn(features.shape)).square().sum().backward()
    assert any(bool(p.grad.any()) for p in network.parameters() if p.grad is not None)


@each_network
def test_rows_are_independent_and_the_level_matters(make_network, shape):
    network = awaken(make_network()).double()
    features, levels = torch.randn(4, 1, *shape).double(), torch.tensor([-9.0, -1.0, 2.0, 9.0]).double()
    together = network(levels, features, None)
    for i in range(4):
        alone = network(levels[i : i + 1], features[i : i + 1], None)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(network(levels.flip(0), features, None), together)


@each_network
def test_labels_condition_the_output_and_none_means_no_label(make_network, shape):
    network = awaken(make_network(classes=3))
    features, levels = torch.randn(1, 1, *shape).expand(4, 1, *shape), torch.zeros(4)
    out = network(levels, features, torch.tensor([-1, 0, 1, 2]))
    for i in range(1, 4):
        assert not torch.allclose(out[i], out[0])
    torch.testing.assert_close(network(levels, features, None), out[:1].expand_as(out))


@each_network
def test_continuous_conditions_change_the_output(make_network, shape):
    network = awaken(make_network(condition_dim=2))
    features, levels = torch.randn(1, 1, *shape).expand(2, 1, *shape), torch.zeros(2)
    out = network(levels, features, torch.tensor([[0.0, 1.0], [2.0, -1.0]]))
    assert not torch.allclose(out[0], out[1])
    absent = network(levels, features, None)
    torch.testing.assert_close(absent[0], absent[1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(5,), (2, 3, 1)])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_closed_form_trace_is_the_exact_divergence(shape, classes):
    network = awaken(TwoLayerNetwork(shape, Signature(classes=classes), width=12))
    d = torch.Size(shape).numel()
    matrix = torch.randn(d, d)
    matrix = matrix + matrix.T
    x, levels = torch.randn(4, *shape), torch.linspace(-8.0, 8.0, 4)
    condition = torch.tensor([0, 1, 2, -1]) if classes else None
    value, trace = network.with_trace(levels, x[:, None], condition, matrix)

    def field(state):
        return (network(levels, state[:, None], condition).flatten(1) @ matrix).reshape(state.shape)

    _, exact = Exact()(field, x)
    torch.testing.assert_close(trace, exact[0])
    torch.testing.assert_close(value, network(levels, x[:, None], condition))


def test_several_maps_in_and_out():
    network = awaken(ConvNetwork((2, 4, 4), Signature(3, 5), width=4, deep_width=8))
    out = network(torch.zeros(2), torch.randn(2, 3, 2, 4, 4), None)
    assert out.shape == (2, 5, 2, 4, 4)


def test_dropout_acts_in_training_only():
    network = awaken(ConvNetwork((1, 4, 4), width=8, deep_width=8, dropout=0.5))
    features = torch.randn(2, 1, 1, 4, 4)
    assert not torch.equal(network(torch.zeros(2), features, None), network(torch.zeros(2), features, None))
    network.eval()
    assert torch.equal(network(torch.zeros(2), features, None), network(torch.zeros(2), features, None))
