"""The one entry: sources and arrays give the same data."""

import numpy as np
import pytest
import torch

from girsanov.datasets import Schema, from_array, load, read
from girsanov.types import InputError
from tests.seeds import rng

RNG = rng(0)


def test_the_same_table_from_every_format(tmp_path):
    values = np.stack([RNG.normal(size=80), RNG.integers(0, 5, 80)], 1)
    np.save(tmp_path / "t.npy", values)
    np.savez(tmp_path / "t.npz", x=values)
    text = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    (tmp_path / "t.csv").write_text(text)
    expected = from_array(values)
    for name in ("t.npy", "t.npz", "t.csv"):
        data = load(tmp_path / name)
        assert data.x.equal(expected.x)
        assert data.schema == expected.schema
        assert data.name.endswith(name)


def test_options_reach_the_schema(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join(f"{i * i},u{i % 2},{i % 3}" for i in range(30)))
    data = load(tmp_path / "t.csv", categorical=True, drop=["c"])
    assert data.schema.columns == ("a", "b=u0", "b=u1")
    with pytest.raises(InputError, match="no density: c"):
        load(tmp_path / "t.csv", discrete=False, drop=["b"])


def test_later_files_go_through_the_saved_schema(tmp_path):
    rows = RNG.normal(size=(40, 2)).tolist()
    for name, part in (("fit.csv", rows[:30]), ("score.csv", rows[30:])):
        (tmp_path / name).write_text("a,b\n" + "\n".join(",".join(map(repr, row)) for row in part))
    schema = Schema.from_json(load(tmp_path / "fit.csv").schema.to_json())
    assert schema.encode(read(tmp_path / "score.csv")).tolist() == rows[30:]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_tensors_of_any_real_type(dtype):
    x = (20 * torch.randn(300, 3)).round().to(dtype)
    data = from_array(x)
    assert data.x.equal(x.double())
    assert data.schema.bin_width.tolist() == [1.0, 1.0, 1.0]


def test_sparse_tensors():
    x = torch.randn(30, 2)
    assert from_array(x.to_sparse()).x.equal(x.double())


def test_gradients_and_strides_do_not_matter():
    x = torch.randn(3, 50, requires_grad=True).T
    data = from_array(x)
    assert data.x.equal(x.detach().double())
    assert not data.x.requires_grad


def test_encoded_data_do_not_share_memory_with_the_input():
    x = RNG.normal(size=(30, 2))
    data = from_array(x)
    before = data.x.clone()
    x[:] = 0
    assert data.x.equal(before)


@pytest.mark.parametrize("shape", [(10, 5, 4), (10, 2, 5, 4), (10, 2, 2, 5, 4)])
def test_event_shapes_are_kept(shape):
    data = from_array(RNG.normal(size=shape), labels=np.arange(10) % 2, classes=("a", "b"))
    assert data.x.shape == shape
    assert data.schema.event_shape == shape[1:]
    assert data.codes is not None
    assert data.codes.dtype == torch.int64
    assert data.labels[:3].tolist() == ["a", "b", "a"]
    assert data.classes == ("a", "b")


def test_data_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"u": RNG.normal(size=30), "v": RNG.normal(size=30)})
    assert from_array(frame).schema.columns == ("u", "v")


@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        (torch.randn(5), {}, "reshape it to"),
        (torch.randn(0, 3), {}, "holds no values"),
        (torch.randn(5, 0), {}, "holds no values"),
        (torch.randn(1, 3), {}, "holds one row"),
        (torch.randn(5, 3, dtype=torch.complex64), {}, "only real numbers"),
        ([["a", "b"]], {}, "only real numbers"),
        ([[1.0], [2.0, 3.0]], {}, "cannot be read as an array of numbers"),
        (torch.randn(5, 3), {"names": ("a", "b")}, "has 3 columns but 2 names"),
        (torch.randn(5, 2), {"names": ("a", "a")}, "has two columns named 'a'; rename one"),
        (torch.randn(2, 2), {"labels": np.array([1, 2**63], dtype=np.uint64)}, "a label is 9223372036854775808"),
        (torch.randn(5, 3), {"labels": torch.zeros(4)}, "for each of the 5 rows"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 3.0]]), {"name": "mine"}, r"mine: x\[1\], column 'x1' is missing"),
    ],
)
def test_bad_arrays(x, options, sentence):
    with pytest.raises(InputError, match=sentence):
        from_array(x, **options)
