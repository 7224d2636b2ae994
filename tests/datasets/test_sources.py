"""Names, and paths that are nothing that can be read."""

import os
import socket

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from girsanov.datasets import load, names, read
from girsanov.types import InputError


@pytest.mark.parametrize(("name", "description", "rows", "event_shape"), names())
def test_named_data_are_as_listed(name, description, rows, event_shape):
    data = load(name)
    assert data.x.shape == (rows, *event_shape)
    assert data.name == name
    assert len(description) > 10
    assert (data.labels is not None) == (name in ("digits", "photographs"))


def test_digits_are_images_of_seventeen_grey_levels():
    data = load("digits")
    assert data.x.unique().tolist() == list(range(17))
    assert data.schema.bin_width.shape == (1, 8, 8)
    assert data.schema.bin_width.unique().tolist() == [1.0]
    assert data.classes == tuple("0123456789")
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_photographs_are_split_by_region():
    """The patches put together again are the pictures, test patches at the right; the rest below and beside is cut."""
    data, pictures = load("photographs"), load_sample_images().images
    assert (data.n_train, data.classes) == (416, ("china", "flower"))
    assert data.schema.discrete
    for code, picture in enumerate(pictures):
        whole = []
        for part, columns in ((slice(0, 416), 16), (slice(416, 520), 4)):
            patches = data[part].x[data[part].codes == code]
            whole.append(patches.unflatten(0, (13, columns)).permute(0, 3, 1, 4, 2).reshape(416, 32 * columns, 3))
        np.testing.assert_array_equal(np.concatenate(whole, 1), picture[:416])


def test_a_name_wins_over_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").mkdir()
    assert len(read("iris")) == 150
    with pytest.raises(InputError, match="holds neither images"):
        read("./iris")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("digit", r"neither a file nor a known name; the names are digits, .*Did you mean digits\?"),
        ("", "neither a file nor a known name"),
        ("missing.csv", "missing.csv: there is no such file"),
        ("no/such/folder", "there is no such file"),
        ("./missing", "there is no such file"),
        ("nul\0byte", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
    ],
)
def test_absent_sources(source, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        read(source)


def test_folder_with_nothing_usable(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="holds neither images, nor idx files"):
        read(tmp_path)


def test_unknown_suffix_and_empty_file(tmp_path):
    (tmp_path / "a.xlsx").write_text("text")
    with pytest.raises(InputError, match=r"no suffix that can be read \(\.csv"):
        read(tmp_path / "a.xlsx")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read(tmp_path / "a.npz")


def test_a_file_used_as_a_folder(tmp_path):
    (tmp_path / "a.csv").write_text("1\n2\n")
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "a.csv" / "b.csv")


def test_a_link_to_itself(tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be opened"):
        read(tmp_path / "a.csv")


def test_devices_pipes_and_sockets_are_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.npy")
        for source in (os.devnull, "pipe.csv", "socket.npy"):
            with pytest.raises(InputError, match="neither a regular file nor a folder"):
                read(source)


def test_a_folder_named_like_a_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="holds neither images"):
        read(tmp_path / "a.csv")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", np.eye(3))
    assert len(read("~/a.npy")) == 3
