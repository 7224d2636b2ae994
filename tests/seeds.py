"""The one place where tests get their seeds, so that the whole suite can be run with others.

``GIRSANOV_TEST_SEED_OFFSET=3 make test-fast`` moves every seed by 3. A test whose outcome depends on which numbers
were drawn takes its seed from here; pinned bits and doctests keep theirs.
"""

__all__ = ["OFFSET", "rng", "seed", "seeded"]

import os

import numpy as np
import torch

STRIDE = 1_000_003  # offsets do not move one test's seed onto another's
OFFSET = STRIDE * int(os.environ.get("GIRSANOV_TEST_SEED_OFFSET", "0"))


def seed(number: int = 0) -> int:
    """This seed, moved by the offset."""
    return number + OFFSET


def seeded(number: int = 0) -> torch.Generator:
    """A PyTorch generator with this seed, moved by the offset."""
    return torch.Generator().manual_seed(seed(number))


def rng(number: int = 0) -> np.random.Generator:
    """A NumPy generator with this seed, moved by the offset."""
    return np.random.default_rng(seed(number))
