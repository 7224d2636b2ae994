import numpy as np
import pytest
import torch

from girsanov.runs import Source, select
from tests.seeds import rng


def test_a_limit_keeps_rows_in_order():
    whole, part = select(Source("iris")), select(Source("iris", limit=40, seed=3))
    assert torch.equal(part.data.x, whole.data.x[part.index])
    assert bool((part.index.diff() > 0).all())
    assert torch.equal(part.index, select(Source("iris", limit=40, seed=3)).index)
    assert not torch.equal(part.index, select(Source("iris", limit=40, seed=4)).index)
    assert len(select(Source("iris", limit=1000)).data.x) == 150


def test_a_limit_keeps_labels_with_their_rows():
    whole, part = select(Source("digits")), select(Source("digits", limit=50))
    assert part.data.labels.tolist() == whole.data.labels[part.index].tolist()


def write_idx(path, images):
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in images.shape)
    path.write_bytes(header + images.tobytes())


@pytest.mark.parametrize("limit", [30, 2])
def test_a_limit_keeps_the_border_of_the_source(limit, tmp_path):
    images = rng(0).integers(0, 256, (60, 4, 4)).astype(np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images[:40])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[40:])
    whole = select(Source(str(tmp_path)))
    assert whole.data.n_train == 40
    part = select(Source(str(tmp_path), limit=limit, seed=1))
    kept = int((part.index < 40).sum())
    assert part.data.n_train == (kept if 0 < kept < limit else None)
