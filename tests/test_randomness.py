"""Keyed noise: laws of a row's own stream, and the published cipher."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from girsanov.randomness import KeyedStreams, keyed_generators, keyed_normal, keyed_rademacher, keyed_uniform, seed_of
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (2, 2, 3)
DRAWS = {"normal": keyed_normal, "uniform": keyed_uniform, "rademacher": keyed_rademacher}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
def test_keyed_noise_depends_on_the_row_alone(draw):
    rows = torch.randn(6, *SHAPE)
    together = draw(keyed_generators(3, "demo", rows), (4, 2), rows)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert torch.equal(draw(keyed_generators(3, "demo", rows[order]), (4, 2), rows), together[order])
    alone = torch.cat([draw(keyed_generators(3, "demo", row[None]), (4, 2), rows) for row in rows])
    assert torch.equal(alone, together)
    repeated = draw(keyed_generators(3, "demo", rows[[2, 2]]), (4, 2), rows)
    assert torch.equal(repeated[0], repeated[1])


@each_draw
def test_keyed_noise_depends_on_seed_purpose_round_and_content(draw):
    rows = torch.randn(2, 3)
    base = draw(keyed_generators(0, "a", rows), (64,), rows)
    assert not torch.equal(base[0], base[1])
    for seed, purpose, round_ in ((1, "a", 0), (0, "b", 0), (0, "a", 1)):
        assert not torch.equal(draw(keyed_generators(seed, purpose, rows, round_), (64,), rows), base)


def test_keyed_streams_ignore_dtype_memory_and_the_sign_of_zero():
    rows = torch.tensor([[0.5, -2.0], [0.0, 3.0]])
    base = keyed_uniform(keyed_generators(0, "demo", rows), (8,), rows)
    strided = torch.stack([rows, rows], 2)[:, :, 0]
    for same in (rows.float(), strided, torch.tensor([[0.5, -2.0], [-0.0, 3.0]])):
        assert torch.equal(keyed_uniform(keyed_generators(0, "demo", same), (8,), rows), base)


def test_keyed_noise_has_its_law_within_and_across_rows():
    rows = torch.arange(2000.0)[:, None]
    normal = keyed_normal(keyed_generators(0, "normal", rows), (2,), rows)
    uniform = keyed_uniform(keyed_generators(0, "uniform", rows), (2,), rows)
    signs = keyed_rademacher(keyed_generators(0, "signs", rows), (2,), rows)
    assert kstest(normal.flatten().numpy(), "norm").pvalue > 1e-4
    assert kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-4
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4.0 / 4000**0.5
    assert abs(float((normal[:, 0] * normal[:, 1]).mean())) < 4.0 / 2000**0.5
    narrow = keyed_normal(keyed_generators(0, "normal", rows), (2,), rows.float())
    assert narrow.dtype == torch.float32


def test_seed_of_reads_a_generator_once():
    first, second = seeded(5), seeded(5)
    seed = seed_of(first)
    assert seed == seed_of(second) != seed_of(second)
    assert 0 <= seed < 2**63
    assert seed_of(None) == seed_of(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_words_are_those_of_the_published_cipher(counter, key, answer):
    """The known answers of Philox4x32-10 (Salmon et al., SC 2011)."""
    keys = np.array([[*key, *counter[2:]]], dtype=np.uint64)
    streams = KeyedStreams(keys, position=counter[0] + (counter[1] << 32))
    assert " ".join(f"{word:08x}" for word in streams.words(4)[0]) == answer


def test_successive_draws_of_a_stream_are_different_and_do_not_depend_on_how_many_rows_share_a_slab():
    rows = torch.randn(40, 3)
    streams = keyed_generators(0, "demo", rows)
    first, second = streams.words(4001), streams.words(4001)
    assert float((first == second).mean()) < 1e-3
    alone = keyed_generators(0, "demo", rows[17:18])
    assert (alone.words(4001)[0] == first[17]).all()
    assert (alone.words(4001)[0] == second[17]).all()


def test_a_row_that_was_written_and_read_again_keeps_its_noise():
    """Last digits, as a file or another machine rounds them, key nothing; what tells rows apart does."""
    rows = torch.randn(500, 4, generator=seeded(0), dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e6):
        keys = keyed_generators(0, "demo", scale * rows).keys
        for changed in (torch.nextafter(scale * rows, torch.tensor(torch.inf).double()), scale * rows * (1.0 + 1e-13)):
            same = (keyed_generators(0, "demo", changed).keys == keys).all(1)
            assert same.mean() > 0.98  # some number stands at the edge of two
        assert len({tuple(key) for key in keys}) == len(rows)
    offset = 1.6e9 + torch.arange(500.0, dtype=torch.float64)[:, None]  # seconds since 1970
    assert len({tuple(key) for key in keyed_generators(0, "demo", offset).keys}) == 500
