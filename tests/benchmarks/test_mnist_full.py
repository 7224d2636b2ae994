"""Benchmarks of paper 1 that a machine may have to stop: the same command again ends with the same numbers."""

import gzip
import json
import os
import signal
import struct
import sys

import numpy as np
import pytest

from benchmarks import _record
from benchmarks.paper1 import mnist_full
from girsanov.networks import ConvConfig
from tests.seeds import rng


def write_idx(folder):
    """Thirty training and twelve test images of a bar, in the format of MNIST, 8 x 8 pixels to be quick."""
    folder.mkdir()
    generator = rng(0)
    for part, count in (("train", 30), ("t10k", 12)):
        images = np.zeros((count, 8, 8), dtype=np.uint8)
        for image in images:
            column = generator.integers(1, 6)
            image[1:7, column : column + 2] = generator.integers(120, 256, (6, 2))
        content = struct.pack(">4BIII", 0, 0, 8, 3, *images.shape) + images.tobytes()
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(content)
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % 10 for i in range(count))
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(labels)
    return folder


@pytest.mark.slow
def test_a_stopped_command_goes_on_to_the_same_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_record, "calibration_seconds", lambda: 0.0)
    data, results = write_idx(tmp_path / "data"), []
    monkeypatch.setattr(mnist_full, "BLOCK", 6)
    monkeypatch.setattr(mnist_full, "SMALL", mnist_full.SMALL | {"network": ConvConfig(width=4, blocks=1, dropout=0.0)})
    stopping = []

    def stop_after_the_first_block(line, **options):
        print(line)
        if stopping and "6 of 12" in line:
            stopping.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(mnist_full, "print", stop_after_the_first_block, raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    for run, stops in (("whole", [False]), ("stopped", [True, False])):
        for stop in stops:
            stopping[:] = [stop] * stop
            options = ["--out", str(tmp_path / run), "--steps", "4", "--samples", "8", "--decoders", "uniform"]
            monkeypatch.setattr(sys, "argv", ["mnist_full", str(data), *options, "--device", "cpu"])
            mnist_full.main()
            lines = capsys.readouterr().out
            assert ("stopped after" in lines) == stop
            assert ("6 of 12" in lines) == (run == "whole" or stop)  # what is on disk is not evaluated again
            assert signal.getsignal(signal.SIGTERM) == handler
        document = json.loads((tmp_path / "results" / "paper1-mnist-full.json").read_text())
        assert (document["device"], document["small"]) == ("cpu", True)
        results.append(document["rows"][0])
    for key in ("bits_per_dim", "stderr_estimator", "stderr_rows", "test_rows", "nfe"):
        assert results[0][key] == results[1][key]
    assert results[0]["test_rows"] == 12
    assert results[0]["goal_met"] is False  # a small run never claims the goal
