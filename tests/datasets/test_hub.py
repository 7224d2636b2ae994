"""Hugging Face datasets from local folders; ids are tried without a network."""

import numpy as np
import pytest

from girsanov.datasets import hub, load
from girsanov.types import InputError
from tests.seeds import rng

RNG = rng(0)


@pytest.fixture
def hf(tmp_path, monkeypatch):
    """The datasets package, with its cache in a folder of the test and no progress bars."""
    hf = pytest.importorskip("datasets")
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hf.disable_progress_bars()
    return hf


def pictures(hf, n):
    image = pytest.importorskip("PIL.Image")
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])})
    images = [image.fromarray(RNG.integers(0, 256, (4, 5)).astype(np.uint8)) for _ in range(n)]
    return hf.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(n)]}, features)


def test_saved_images_with_a_test_split(hf, tmp_path):
    hf.DatasetDict(train=pictures(hf, 6), test=pictures(hf, 3)).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved")
    assert data.x.shape == (9, 1, 4, 5)
    assert (data.n_train, data.classes) == (6, ("cat", "dog"))
    assert data.labels is not None
    assert data.labels.tolist() == ["cat", "dog"] * 4 + ["cat"]


def test_parquet_folder_as_a_table(hf, tmp_path):
    table = hf.Dataset.from_dict({"u": RNG.normal(size=20), "kind": [0, 1] * 10})
    table = table.cast_column("kind", hf.ClassLabel(names=["n", "y"]))
    (tmp_path / "files").mkdir()
    table.to_parquet(tmp_path / "files" / "train-00000-of-00001.parquet")
    data = load(tmp_path / "files")
    assert data.schema.columns == ("u",)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), table["u"][:])
    assert data.classes == ("n", "y")


def test_splits_without_train_or_test(hf, tmp_path):
    hf.DatasetDict(extra=pictures(hf, 2)).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="has the splits extra"):
        load(tmp_path / "saved")


def test_broken_folder(hf, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(InputError, match="cannot be read as a dataset folder"):
        load(tmp_path)


def test_an_id_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fake = type("Fake", (), {"load_dataset": staticmethod(lambda _: 1 / 0)})
    monkeypatch.setattr(hub, "import_module", lambda _: fake)
    with pytest.raises(InputError, match=r"some/thing: cannot be read as a Hugging Face dataset.*check the id"):
        load("some/thing")


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "import_module", absent)
    with pytest.raises(InputError, match=r"is no local path.*pip install 'girsanov\[data\]'"):
        load("some/thing")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"dataset folder needs the datasets package"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "is_id"),
    [("ylecun/mnist", True), ("mnist", False), ("a/b/c", False), ("../x", False), ("data/x.npz", False), ("/x", False)],
)
def test_ids_are_told_from_paths(source, is_id):
    assert hub.is_dataset_id(source) == is_id
