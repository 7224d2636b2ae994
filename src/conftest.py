"""Fixtures of the doctests: one thread and fixed seeds, so that the printed values are real."""

__all__ = []

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed the global generators before every example; the package itself never draws from them."""
    torch.manual_seed(0)
    np.random.seed(0)
