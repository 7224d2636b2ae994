"""Array files and idx folders."""

import gzip
import pickle

import numpy as np
import pytest

from girsanov.datasets import load, read
from girsanov.types import InputError
from tests.seeds import rng

RNG = rng(0)


def npy(tmp_path, values, **options):
    path = tmp_path / "data.npy"
    np.save(path, values, **options)
    return path


@pytest.mark.parametrize(
    ("shape", "event"),
    [((9, 3), None), ((9, 4, 5), (1, 4, 5)), ((9, 2, 4, 5), (2, 4, 5)), ((9, 4, 5, 3), (3, 4, 5))],
)
def test_axes(tmp_path, shape, event):
    values = RNG.normal(size=shape)
    raw = read(npy(tmp_path, values))
    if event is None:
        np.testing.assert_array_equal(np.stack(raw.columns, 1), values)
    else:
        assert raw.stack.shape[1:] == event
        assert raw.notes == (() if len(shape) < 4 or shape[1] == 2 else raw.notes)
        assert bool(raw.notes) == (event[0] == 3)


def test_channels_last_keeps_pixels_in_place(tmp_path):
    values = RNG.integers(0, 256, (4, 6, 5, 3)).astype(np.uint8)
    stack = read(npy(tmp_path, values)).stack
    np.testing.assert_array_equal(stack[:, 1], values[..., 1])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array(3.0), r"shape \(\).*reshape it"),
        (np.arange(5.0), r"shape \(5,\).*reshape it to \(n, 1\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\), which holds no values"),
        (np.ones((1, 3)), "holds one row"),
        (np.ones((4, 2)) * 1j, "complex128"),
        (np.array([["a", "b"]]), "only real numbers"),
        (np.zeros(3, dtype=[("a", "f8")]), "every column is constant"),
        (np.zeros((2, 2, 2, 2, 2)), r"give \(n, d\)"),
        (np.array([[1.0, 2.0], [np.nan, 3.0]]), "row 2, column 'x1' is missing"),
        (np.array([[1.0, 2.0], [3.0, np.inf]]), "row 2, column 'x2' is infinite"),
        (np.full((5, 2), 7.0), "every column is constant"),
        (np.full((5, 4, 4), 7), "every pixel has the same value"),
        (np.where(np.arange(48).reshape(3, 4, 4) == 17, np.nan, 1.5), r"row 2, pixel \(0, 0, 1\) is nan"),
        (np.float64(1e200) * RNG.normal(size=(3, 4, 4)), "too large to square"),
    ],
)
def test_bad_npy(tmp_path, values, sentence):
    with pytest.raises(InputError, match=sentence):
        load(npy(tmp_path, values))


class Bomb:
    """Would raise if it were ever unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


def test_pickles_are_never_loaded(tmp_path):
    objects = np.array([Bomb(), 1], dtype=object)
    with pytest.raises(InputError, match="holds Python objects"):
        load(npy(tmp_path, objects))
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"cannot be read as a \.npy file"):
        load(tmp_path / "plain.npy")
    np.savez(tmp_path / "data.npz", x=objects)
    with pytest.raises(InputError, match="'x' holds Python objects"):
        load(tmp_path / "data.npz")


def test_truncated_npy_is_noticed_before_memory_is_asked_for(tmp_path):
    path = npy(tmp_path, np.zeros((1000, 10)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="ends early"):
        load(path)


@pytest.mark.parametrize("x", ["x", "data", "images"])
@pytest.mark.parametrize("y", ["y", "labels"])
def test_npz_names(tmp_path, x, y):
    values, labels = RNG.integers(0, 9, (6, 4, 4)), np.arange(6) % 3
    np.savez(tmp_path / "data.npz", **{x: values, y: labels, "other": np.zeros(2)})
    data = load(tmp_path / "data.npz")
    np.testing.assert_array_equal(data.x[:, 0].numpy(), values)
    assert data.labels is not None
    assert data.labels.tolist() == labels.tolist()


def test_npz_with_one_array_of_any_name(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", whatever=RNG.normal(size=(6, 2)))
    assert load(tmp_path / "data.npz").x.shape == (6, 2)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "holds the arrays a, b; name the data x"),
        ({}, r"holds the arrays \(none\)"),
        ({"y": np.zeros(3)}, "holds the arrays y"),
        ({"x": np.eye(3), "y": np.zeros(2)}, "one for each of the 3 rows"),
        ({"x": np.eye(3), "y": np.array([0.5, 1, 2])}, "numbers must be whole"),
        ({"x": np.eye(3), "y": np.array([np.nan, 1, 2])}, "label of row 1 is missing"),
    ],
)
def test_bad_npz(tmp_path, arrays, sentence):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path / "data.npz")


def test_truncated_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((100, 10)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="ends early"):
        load(path)


# ---------------------------------------------------------------------------------------- idx


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def idx_folder(tmp_path, *, parts=("train", "t10k"), gz=True, labels=True):
    stacks = {}
    for part, n in zip(parts, (6, 4), strict=False):
        stacks[part] = RNG.integers(0, 256, (n, 5, 4))
        for what, values in (("images-idx3", stacks[part]), ("labels-idx1", np.arange(n) % 3)):
            if what.startswith("images") or labels:
                path = tmp_path / f"{part}-{what}-ubyte{'.gz' if gz else ''}"
                path.write_bytes(gzip.compress(idx(values), mtime=0) if gz else idx(values))
    return stacks


@pytest.mark.parametrize("gz", [True, False])
def test_idx_folder_keeps_its_test_set(tmp_path, gz):
    stacks = idx_folder(tmp_path, gz=gz)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), np.concatenate(list(stacks.values())))
    assert data.n_train == 6
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert data.classes == ("0", "1", "2")
    assert data.schema.bin_width.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["letters-train-images-idx3", "digits-train-images-idx3"], "several sets.*digits-.*letters-.*of its own"),
        (["t10k-images-idx3", "test-images-idx3"], "several sets.*t10k-images.*test-images"),
        (["letters-train-images-idx3", "digits-train-labels-idx1"], "digits-.* are labels of another set"),
    ],
)
def test_idx_folders_of_several_sets(tmp_path, files, sentence):
    for file in files:
        values = np.ones((3, 4, 4)) if "images" in file else np.ones(3)
        (tmp_path / f"{file}-ubyte").write_bytes(idx(values))
    with pytest.raises(InputError, match=sentence):
        read(tmp_path)


def test_labels_are_those_of_the_same_set(tmp_path):
    for file, values in (
        ("letters-train-images-idx3", np.arange(48).reshape(3, 4, 4)),
        ("letters-train-labels-idx1", np.array([0, 1, 2])),
        ("digits-train-labels-idx1", np.array([2, 1, 0])),
    ):
        (tmp_path / f"{file}-ubyte").write_bytes(idx(values))
    assert read(tmp_path).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("parts", [("train",), ("t10k",)])
def test_idx_folder_of_one_part_without_labels(tmp_path, parts):
    idx_folder(tmp_path, parts=parts, labels=False)
    data = load(tmp_path)
    assert (len(data.x), data.n_train, data.labels, data.classes) == (6, None, None, None)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("train-images-idx3-ubyte", idx(np.ones((3, 4, 4)))[:-1], r"promises shape \(3, 4, 4\), 48 bytes"),
        ("train-images-idx3-ubyte", b"\0\0", "is not an idx file"),
        ("train-images-idx3-ubyte", idx(np.ones((3, 4))), "is not an idx file"),
        ("train-images-idx3-ubyte", idx(np.ones((0, 4, 4))), "holds no values"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(idx(np.ones((3, 4, 4))), mtime=0)[:-12],
            "cannot be read as an idx",
        ),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx(np.ones(3)), mtime=0), "one for each of the 6 rows"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx(np.ones((4, 9, 9))), mtime=0), "one size per folder"),
    ],
)
def test_bad_idx(tmp_path, name, data, sentence):
    idx_folder(tmp_path)
    for old in tmp_path.glob(f"{name.removesuffix('.gz')}*"):
        old.unlink()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path)
