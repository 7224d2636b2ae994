"""Maps of class labels in networks: one each, one for "no label", none without classes."""

import pytest
import torch

from girsanov.networks.conditioning import LabelMaps
from tests.laws import NETWORKS

MAPPED = {name: NETWORKS[name] for name in ("ConvNetwork", "ResidualMLP")}
each_mapped = pytest.mark.parametrize(("make_network", "shape"), MAPPED.values(), ids=MAPPED)


@each_mapped
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


@each_mapped
def test_without_classes_there_are_no_maps(make_network, shape):
    assert not [name for name, _ in make_network().named_parameters() if "label" in name]
    assert LabelMaps(0, shape, scale=1.0)(torch.zeros(2), None) == 0.0
