"""What benchmarks of images measure with: crops, mixtures of patches, precision and recall, commands given again."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from benchmarks import summary
from benchmarks.images import _command, photographs, samples
from girsanov.datasets import read
from tests.seeds import rng, seeded


def test_crops_of_the_right_hand_fifth_are_test_images(tmp_path):
    picture = np.zeros((40, 100, 3), dtype=np.uint8)
    picture[:, 80:] = 255
    raw = read(photographs.write_crops(tmp_path / "all", [picture], 8))
    assert (raw.values.shape, raw.n_train) == ((60, 3, 8, 8), 50)  # 5 x 12, of which 2 columns at the right
    left, right = photographs.cut(picture, 8)
    assert left.shape == (50, 8, 8, 3)
    assert (int(left.max()), int(right.min())) == (0, 255)
    few = read(photographs.write_crops(tmp_path / "few", [picture, picture], 8, (7, 3)))
    assert (len(few), few.n_train) == (20, 14)


def test_small_patches_are_where_they_were():
    x = torch.arange(2 * 3 * 32 * 32, dtype=torch.float64).reshape(2, 3, 32, 32)
    patches = photographs.small_patches(x, 8)
    assert patches.shape == (2, 16, 192)
    assert torch.equal(patches[1, 6].reshape(3, 8, 8), x[1, :, 8:16, 16:24])
    assert photographs.small_patches(x, 3).shape == (2, 81, 192)


def test_log_mass_of_a_mixture_is_that_of_independent_patches():
    """A Gaussian of independent pixels: an image's log-density is the sum over its pixels, under every draw."""
    y = rng(0).normal(0.0, 50.0, (400, 192))
    mixture = GaussianMixture(1, covariance_type="diag").fit(y)
    x = torch.randint(0, 20, (3, 3, 16, 16), generator=seeded(1)).double()
    values = photographs.log_mass(mixture, x, torch.Generator().manual_seed(0))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    mean, variance = (torch.from_numpy(part[0]).reshape(3, 8, 8).repeat(1, 2, 2) for part in (
        mixture.means_, mixture.covariances_))  # fmt: skip
    expected = -0.5 * ((x + noise - mean).square() / variance + (2 * math.pi * variance).log()).sum((1, 2, 3))
    torch.testing.assert_close(values[0], expected)


def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong():
    """Two far clusters: samples of one alone are precise and recall half, samples elsewhere are neither."""
    real = torch.randn(200, 4, generator=seeded(0))
    real[100:] += 100.0
    one = torch.randn(200, 4, generator=seeded(1))
    found = samples.precision_and_recall(one, real)
    # of a normal in 4 dimensions, some of 200 draws lie beyond the third neighbours of 100 others: 0.93 +- 0.02
    assert found["precision"] > 0.8
    assert 0.4 < found["recall"] <= 0.5
    assert samples.precision_and_recall(real + 1000.0, real) == {"precision": 0.0, "recall": 0.0}
    assert samples.precision_and_recall(real, real) == {"precision": 1.0, "recall": 1.0}


def test_noise_keeps_every_pixel_and_no_image():
    x = torch.arange(50.0)[:, None, None, None] + 100.0 * torch.arange(64.0).reshape(1, 1, 8, 8)
    drawn = samples.noise(x, 30, seed=0)
    assert drawn.shape == (30, 1, 8, 8)
    assert bool(((drawn // 100.0) == torch.arange(64.0).reshape(1, 8, 8)).all())
    assert min(len(image.unique() % 100) for image in drawn) > 1


def test_a_stopped_command_is_given_again_and_all_its_seconds_count(tmp_path, monkeypatch):
    codes = iter([143, -15, 0])
    given = []

    def fake(arguments, piece):
        given.append((arguments, piece))
        return {"code": next(codes), "seconds": 2.0, "peak_memory_mib": len(given)}

    monkeypatch.setattr(_command, "_given", fake)
    monkeypatch.setattr(_command, "described", lambda run: {})
    for _ in range(2):  # the second time it is complete
        row = _command.fitted("digits", tmp_path / "runs" / "a", "--no-peers", seconds=60.0, piece=1.5)
        assert (row["commands"], row["seconds"], row["peak_memory_mib"]) == (3, 6.0, 3)
    assert len(given) == 3
    assert given[0] == given[2]
    assert given[0][0][-2:] == ["--time-budget", "60"]
    codes = iter([2])
    with pytest.raises(SystemExit, match="ended with code 2"):
        _command.fitted("nothing", tmp_path / "runs" / "b")


def test_kept_rows_are_not_made_again(tmp_path):
    path, made = tmp_path / "new" / "rows.jsonl", []
    for _ in range(2):
        row = _command.kept(path, "x", lambda: made.append(1) or {"a": 1})
    assert (row, len(made)) == ({"what": "x", "a": 1}, 1)


def test_bits_of_an_entry_keep_both_errors_apart():
    entry = {"nats": -8.0, "stderr": 0.5, "rows_stderr": None, "rows": 3, "kind": "exact", "event_dim": 4}
    found = _command.bits(entry)
    assert found["bits_per_dim"] == pytest.approx(2.0 / math.log(2))
    assert found["stderr_estimator"] == pytest.approx(0.125 / math.log(2))
    assert found["stderr_rows"] is None


def test_the_section_of_the_readme_names_the_best_peer_and_both_errors(monkeypatch):
    row = {"bits_per_dim": 1.25, "stderr_estimator": 0.001, "stderr_rows": 0.02, "seconds": 1234.5, "minutes": 20.0}
    row |= {
        "peers": {"a": {"bits_per_dim": 2.0}, "b_c": {"bits_per_dim": 1.5}},
        "codecs": {"png": {"bits_per_dim": 3.0}},
    }
    row |= {"step_over_network": 1.1, "peak_memory_mib": 1500, "rows": 1000}
    mixture = {"what": "mixture of patches", "components": 100, **row}
    found = {"rows": [{"what": "crops", **row, "peers": {}}, mixture]}
    monkeypatch.setattr(summary, "load", lambda name: found if name == "images-photographs" else None)
    lines = summary.images({"rows": [row]})
    cells = "**1.250** ± 0.001 ± 0.020 | {} | 3.000 | - | 1.10 | 1,500 MiB |"
    assert f"| MNIST, 28 × 28, 20 min | 1,234 | 1,000 | {cells.format('1.500 (b c)')}" in lines
    assert f"| 200 crops of them, 3 × 16 × 16, 20 min | 1,234 | 1,000 | {cells.format('-')}" in lines
    assert "A mixture of 100 Gaussians of 8 × 8 patches has 1.250 ± 0.001 ± 0.020" in lines[-1]
