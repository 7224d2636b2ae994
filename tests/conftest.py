"""Fixtures of all tests: one thread, fixed seeds, float64 on request, a browser if there is one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported; subprocesses inherit it

import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.seeds import seed, seeded


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed the global generators before every test; of the package only PyTorch's face draws from them."""
    assert torch.get_default_dtype() is torch.float32, "an earlier test, or a fixture of a module, left its own dtype"
    torch.manual_seed(seed())
    np.random.seed(seed())


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default for new tensors during one test: the precision of closed forms."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with the seed 0 of ``tests.seeds``, for code that takes one."""
    return seeded()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that starts; without one the test is skipped and says why."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    pytest.skip("no Chromium that starts (on Debian: apt-get install chromium)")
