"""Maps of class labels in networks: one each, one for "no label", none without classes."""

import pytest
import torch

from girsanov.models import ConvNetwork, ResidualMLP
from girsanov.models.networks import LabelMaps

NETWORKS = {
    "ConvNetwork": (lambda **options: ConvNetwork((1, 4, 4), width=4, deep_width=8, **options), (1, 4, 4)),
    "ResidualMLP": (lambda **options: ResidualMLP((2, 2), width=8, blocks=1, **options), (2, 2)),
}
each_network = pytest.mark.parametrize(("make_network", "shape"), NETWORKS.values(), ids=NETWORKS)


@each_network
def test_a_class_has_an_output_map_of_its_own(make_network, shape):
    """The output starts at zero; a change of one class's map is seen by its rows alone, at every level."""
    torch.manual_seed(0)
    network = make_network(classes=3)
    maps = getattr(network, "label_bias", None) or network.leave_label
    with torch.no_grad():
        maps.maps[2] += 1.0  # the first row is "no label": label 1
    label = torch.tensor([0, 1, 2, -1, 1])
    out = network(torch.linspace(-5.0, 5.0, 5), torch.randn(5, 1, *shape), label)
    assert torch.equal(out.flatten(1).detach(), (label == 1).float()[:, None].expand(5, out[0].numel()))


@each_network
def test_no_condition_is_the_label_minus_one(make_network, shape):
    torch.manual_seed(1)
    network = make_network(classes=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    level, features = torch.zeros(2), torch.randn(2, 1, *shape)
    torch.testing.assert_close(network(level, features, None), network(level, features, torch.full((2,), -1)))


@each_network
def test_without_classes_there_are_no_maps(make_network, shape):
    assert not [name for name, _ in make_network().named_parameters() if "label" in name]
    assert LabelMaps(0, shape, scale=1.0)(torch.zeros(2), None) == 0.0
