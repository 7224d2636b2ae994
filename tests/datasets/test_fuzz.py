"""Malformed bytes: whatever a file holds, loading it works or is one sentence."""

import gzip
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from girsanov.datasets import load
from girsanov.types import InputError
from tests.seeds import rng

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RNG = rng(0)


def load_or_sentence(path):
    """Load, or give one sentence; every other exception fails the test."""
    try:
        data = load(path, categorical=True)
    except InputError as error:
        sentence = str(error)
    else:
        assert data.x.isfinite().all()
        assert data.schema.bin_width.ge(0).all()
        return
    assert "\n" not in sentence
    assert len(sentence) < 1000 + len(str(path))


def saved(save, *arguments, **arrays):
    buffer = io.BytesIO()
    save(buffer, *arguments, **arrays)
    return buffer.getvalue()


def mutations(seed):
    """Bytes with some of them overwritten, then cut somewhere."""
    edits = st.lists(st.tuples(st.integers(0, len(seed) - 1), st.integers(0, 255)), max_size=6)
    cuts = st.one_of(st.just(len(seed)), st.integers(1, len(seed)))
    return st.builds(mutate, st.just(seed), edits, cuts)


def mutate(seed, edits, cut):
    data = bytearray(seed)
    for position, value in edits:
        data[position] = value
    return bytes(data[:cut])


VALUES = RNG.integers(0, 9, (6, 3)).astype(float)
CELLS = st.sampled_from(
    ["1", "2.5", "-3e4", "1e308", "nan", "inf", "", "a", "b", '"', '"x,y"', "é", "\0", "0x1", "1_0", " 7 "]
)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8)


@FUZZ
@given(rows=ROWS, separator=st.sampled_from([",", ";", "\t"]), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_csv_cells(tmp_path, rows, separator, end):
    path = tmp_path / "data.csv"
    path.write_bytes(end.join(separator.join(row) for row in rows).encode())
    load_or_sentence(path)


@FUZZ
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.npy", "a.npz"])
def test_any_bytes(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    load_or_sentence(tmp_path / name)


@FUZZ
@given(data=mutations(saved(np.save, VALUES)))
def test_damaged_npy(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    load_or_sentence(tmp_path / "a.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path, save):
    @FUZZ
    @given(data=mutations(saved(save, x=VALUES, y=np.arange(6))))
    def check(data):
        (tmp_path / "a.npz").write_bytes(data)
        load_or_sentence(tmp_path / "a.npz")

    check()


@FUZZ
@given(data=mutations(gzip.compress(b"a,b\n" + b"1,2\n3,4\n" * 40, mtime=0)))
def test_damaged_gzip(tmp_path, data):
    (tmp_path / "a.csv.gz").write_bytes(data)
    load_or_sentence(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_damaged_images(tmp_path, kind):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(RNG.integers(0, 256, (6, 6)).astype(np.uint8))
    picture.save(tmp_path / "0.png")

    @FUZZ
    @given(data=mutations(saved(picture.save, format=kind)))
    def check(data):
        (tmp_path / "1.png").write_bytes(data)
        load_or_sentence(tmp_path)

    check()


@FUZZ
@given(data=mutations(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, *range(18)])))
def test_damaged_idx(tmp_path, data):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    load_or_sentence(tmp_path)


def test_damaged_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": VALUES[:, 0], "s": ["u", "v"] * 3}), buffer)

    @FUZZ
    @given(data=mutations(buffer.getvalue()))
    def check(data):
        (tmp_path / "a.parquet").write_bytes(data)
        load_or_sentence(tmp_path / "a.parquet")

    check()
