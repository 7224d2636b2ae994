"""Peers of whole levels are laws of levels; codecs are pillow's files."""

import io
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, features

from girsanov.datasets import from_array, split
from girsanov.datasets.schema import Schema
from girsanov.peers import LEVEL_PEERS, PEERS, SEARCHES, PeerData, compressed, fit_neighbours, fit_pixels, peers_for
from girsanov.peers.levels import STRENGTHS
from tests.seeds import seeded

LEVELS = 4


def images(n, shape):
    """Each dimension is that before it, or with probability a half any level."""
    generator = seeded(0)
    first, *rest = torch.randint(0, LEVELS, (math.prod(shape), n), generator=generator)
    kept = torch.rand(len(rest), n, generator=generator) < 0.5
    columns = [first]
    for fresh, keep in zip(rest, kept, strict=True):
        columns.append(torch.where(keep, columns[-1], fresh))
    return torch.stack(columns, 1).reshape(n, *shape)


def peer_data(x):
    data, splits = from_array(x), split(len(x), seed=0)
    return PeerData(SimpleNamespace(schema=data.schema), data.x, splits, 0)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("name", LEVEL_PEERS)
def test_masses_of_all_levels_add_up_to_one(name, shape):
    data = peer_data(images(400, shape))
    cells = torch.tensor(list(itertools.product(range(LEVELS), repeat=math.prod(shape)))).double().reshape(-1, *shape)
    estimate = data.estimate(LEVEL_PEERS[name](data, 1.0), cells)
    assert (estimate.kind, estimate.measure) == ("exact", "mass")
    assert float(estimate.value.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_a_pixels_masses_are_counted():
    data = peer_data(images(400, (1, 1, 2)))
    peer, train = fit_pixels(data, 1.0), data.x[data.splits.train].flatten(1).long().tolist()
    strength, n, row = peer.settings["smoothing"], len(train), (1, 3)
    expected = 0.0
    for pixel, level in enumerate(row):
        own = sum(one[pixel] == level for one in train)
        pooled = (sum(one.count(level) for one in train) + 1.0 / LEVELS) / (2 * n + 1.0)
        expected += math.log((own + strength * pooled) / (n + strength))
    assert float(peer.log_prob(torch.tensor(row).double().reshape(1, 1, 1, 2))) == pytest.approx(expected, rel=1e-9)


def test_neighbours_and_earlier_channels_are_heard():
    """Given the one before, a level has mass 5/8 or 1/8: 0.306 nats less than alone; six standard errors aside."""
    for shape in ((1, 1, 2), (1, 2, 1), (2, 1, 1)):
        data = peer_data(images(4000, shape))
        gain = fit_neighbours(data, 5.0).validation - fit_pixels(data, 5.0).validation
        gained = math.log(LEVELS) + 0.625 * math.log(0.625) + 0.375 * math.log(0.125)
        spread = math.sqrt(0.625 * 0.375) * math.log(5.0)
        assert gain == pytest.approx(gained, abs=6.0 * spread / math.sqrt(len(data.splits.validation)) + 0.02), shape


def test_what_does_not_vary_leans_on_all_pixels():
    """Pixels of one law: the strongest smoothing is not refused, and its table is nearly that of all of them."""
    generator = seeded(1)
    data = peer_data(torch.randint(0, 16, (300, 1, 16, 16), generator=generator))
    assert fit_pixels(data, 1.0).settings["smoothing"] >= STRENGTHS[3]


def test_which_peers_images_have():
    def of(shape, step):
        return list(peers_for(Schema.infer(from_array_raw(shape, step))))

    assert of((1, 4, 4), 1) == [*LEVEL_PEERS, *PEERS]
    assert of((1, 4, 4), 0) == list(PEERS)
    assert of((3, 12, 12), 1) == [*LEVEL_PEERS, *(name for name in PEERS if name not in SEARCHES)]
    assert set(PEERS) >= SEARCHES
    assert peers_for(from_array(torch.rand(20, 300)).schema) is PEERS


def from_array_raw(shape, step):
    from girsanov.datasets.arrays import from_array as raw_of

    generator = seeded(2)
    whole = torch.randint(0, 256, (20, *shape), generator=generator)
    return raw_of(whole.numpy().astype("uint8") if step else torch.rand(20, *shape, generator=generator).numpy())


def written(picture, **options):
    file = io.BytesIO()
    picture.save(file, **options)
    return len(file.getvalue())


@pytest.mark.parametrize("channels", [1, 3])
def test_codecs_are_pillows_files_of_one_sheet(channels):
    n, height, breadth = 7, 5, 4
    x = torch.randint(0, 256, (n, channels, height, breadth), generator=seeded(3))
    across, down = 3, 3
    sheet = Image.new("RGB" if channels == 3 else "L", (across * breadth, down * height))
    for place in range(n):  # the rest is black
        rows = x[place].permute(1, 2, 0).numpy().astype("uint8")
        image = Image.fromarray(rows if channels == 3 else rows[..., 0])
        sheet.paste(image, (place % across * breadth, place // across * height))
    numbers, found = x.numel(), compressed(x)
    sizes = [written(sheet, format="PNG", optimize=True)]
    if channels == 1:
        indexed = sheet.copy()
        indexed.putpalette([value // 3 for value in range(768)])
        sizes.append(written(indexed, format="PNG", optimize=True))
    assert found["png"] == min(sizes) * 8 / numbers
    if features.check("webp"):
        size = written(sheet, format="WEBP", lossless=True, quality=100, method=4)
        assert found["webp"] == size * 8 / numbers


def test_headers_and_unused_bits_do_not_count():
    """Bits of coins cost one each, and of bytes eight, within what a file adds to thousands of them."""
    coins = torch.randint(0, 2, (1000, 1, 8, 8), generator=seeded(4))
    assert 1.0 <= compressed(coins)["png"] < 1.1
    assert 8.0 <= compressed(torch.randint(0, 256, (1000, 1, 8, 8), generator=seeded(5)))["png"] < 8.2


@pytest.mark.parametrize("x", [torch.full((2, 1, 2, 2), 256), torch.full((2, 1, 2, 2), -1), torch.zeros(2, 2, 2, 2)])
def test_what_is_no_picture_of_bytes_has_no_codec(x):
    assert compressed(x.long()) == {}
