"""From settings to networks: what the settings of the U-Net build, and that it is saved with them."""

import pytest
import torch

import girsanov as gv
from girsanov.density_model.networks import Architecture
from tests.seeds import seeded


@pytest.mark.slow
def test_the_unet_of_the_settings_is_built_saved_and_read(tmp_path):
    pytest.importorskip("diffusers")
    x = torch.randint(0, 4, (40, 1, 10, 10), generator=seeded(0))
    network = gv.networks.UNetConfig(width=8, multipliers=(1, 2, 2), blocks=2)
    config = gv.Config(network=network, steps=2, batch_size=8, gaussianise=False)
    model = gv.fit(x, config=config)
    channels = [block.resnets[0].conv2.out_channels for block in model.score.network.net.down_blocks]
    layers = [len(block.resnets) for block in model.score.network.net.down_blocks]
    assert (channels, layers) == ([8, 16, 16], [2, 2, 2])
    model.save_pretrained(tmp_path / "model")
    again = gv.DensityModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again.elbo(x[:2], samples=4).value, model.elbo(x[:2], samples=4).value)
    assert model.record["config"] == again.record["config"] == config.to_json()


def test_settings_of_the_unet_are_checked():
    built = Architecture.chosen(gv.Config(network="unet"), (1, 28, 28), 100)
    assert built.network["config"] == {"width": 32, "layers": 1, "dropout": 0.0}
    for bad in ((), (1, 0), (1.5,)):
        with pytest.raises(gv.InputError, match="multipliers must be positive whole numbers"):
            gv.Config(network=gv.networks.UNetConfig(multipliers=bad))
