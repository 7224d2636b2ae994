"""Images of many levels, end to end: a decoder of cells and the head that knows them."""

import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array, split
from girsanov.density_model import prepare
from girsanov.networks import ImageConfig, LevelHead
from tests.seeds import seed, seeded

LEVELS = 61
TINY = gv.Config(
    network=ImageConfig(width=8, blocks=1), dequantise="categorical", steps=3, batch_size=32, test=0.2, conditional=True
)


def blots(n: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one channel: mostly 0, saturated in a blot whose side and strength are the row's own; and its side."""
    generator = seeded(number)
    side = torch.randint(2, (n,), generator=generator)
    column = torch.arange(6) >= 3
    strength = 70.0 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = 4.0 * torch.randn(n, 1, 4, 6, generator=generator)
    inside = (column == side.bool()[:, None])[:, None, None].expand(n, 1, 4, 6)
    return torch.where(inside, (strength + noise).round().clamp(0, LEVELS - 1), 0.0), side


@pytest.fixture(scope="module")
def fitted():
    images, side = blots(300, 0)
    return gv.fit(images, labels=side, config=TINY)


def test_many_levels_and_a_decoder_of_cells_get_the_head_of_levels(fitted):
    assert isinstance(fitted.score.head, LevelHead)
    assert fitted.lattice.count == LEVELS
    assert fitted.score.log_snr_range[1] <= fitted.lattice.level_for(4.0)
    without = gv.Config(network=TINY.network, dequantise="categorical", lattice_head=False)
    data = from_array(blots(300, 0)[0])
    assert not isinstance(prepare(data, split(300, seed=0), without).score.head, LevelHead)


def test_it_beats_the_histogram_of_each_pixel_from_its_start(fitted):
    images, _ = blots(300, 0)
    held, side = blots(200, 1)
    counts = torch.nn.functional.one_hot(images.long().flatten(1), LEVELS).sum(0).double() + 1.0 / LEVELS
    log_masses = (counts / counts.sum(1, keepdim=True)).log()
    histogram = log_masses.gather(1, held.long().flatten(1).T).sum(0)
    found = fitted.elbo(held, condition=side)
    gain = found.value - histogram
    assert float(gain.mean()) > 4.0 * float(gain.std()) / len(gain) ** 0.5
    assert found.measure == "mass"


def test_it_is_saved_read_and_drawn_from(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again = gv.DensityModel.from_pretrained(tmp_path / "model")
    held, side = blots(6, 2)
    assert torch.equal(again.elbo(held, condition=side).value, fitted.elbo(held, condition=side).value)
    drawn = again.sample(4, condition=side[:4], steps=8, generator=torch.Generator().manual_seed(seed(3)))
    assert drawn.shape == (4, 1, 4, 6)
    assert torch.equal(drawn, drawn.round())


def test_the_network_of_images_takes_sides_that_halve_to_odd_ones_and_no_odd_ones():
    network = ImageConfig(width=8).network((3, 10, 14), width=8, deep_width=8)
    assert network(torch.zeros(2), torch.zeros(2, 1, 3, 10, 14)).shape == (2, 1, 3, 10, 14)
    with pytest.raises(gv.InputError, match=r"image network needs images .* even sides"):
        gv.fit(torch.rand(50, 1, 7, 7), config=gv.Config(network="image"))


def test_images_that_are_smooth_or_rough_as_a_whole_have_a_mixture_of_scales_and_keep_it(tmp_path):
    rough = torch.rand(120, generator=seeded(1)) < 0.5
    x = torch.randn(120, 1, 8, 8, generator=seeded(0)).cumsum(3) * torch.where(rough, 20.0, 0.5)[:, None, None, None]
    x = (x + 120.0).clamp(0.0, 255.0).round()
    model = gv.fit(x, config=gv.Config(steps=3, network=ImageConfig(width=8, blocks=1)))
    assert not model.score.head.others.is_plain
    model.save_pretrained(tmp_path / "model")
    again = gv.DensityModel.from_pretrained(tmp_path / "model")
    assert torch.equal(model.elbo(x[:5], samples=16).value, again.elbo(x[:5], samples=16).value)
