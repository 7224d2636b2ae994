"""Seeded splits into training, validation and test rows, and fingerprints of data.

A split is a function of the number of rows, the seed and the sizes alone, so a run stores those and
a hash instead of the indices; reading them back recomputes the indices and compares the hash.
"""

__all__ = ["Splits", "fingerprint", "split"]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.types import InputError


@dataclass(frozen=True)
class Splits:
    """Row indices of the three parts.

    Attributes:
        train: rows to fit, int64, shuffled.
        validation: rows to stop and choose by, int64.
        test: rows to report, int64, increasing where the source has its own test set.
        seed: what shuffled them.
        n_train: the source's own border between training and test rows, if it has one.

    Example:
        >>> parts = split(10, seed=0)
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (7, 1, 2)
        >>> Splits.from_json(parts.to_json()).test.equal(parts.test)
        True
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    seed: int
    n_train: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Seed, sizes and the SHA-256 of the indices, as plain JSON values."""
        return {
            "seed": self.seed,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "n_train": self.n_train,
            "sha256": fingerprint(torch.cat([self.train, self.validation, self.test])),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Splits":
        """The splits that :meth:`to_json` described.

        Raises:
            InputError: for a damaged record, or where this version of PyTorch shuffles differently.
        """
        try:
            sizes = tuple(int(record[key]) for key in ("train", "validation", "test"))
            splits = _cut(sizes, int(record["seed"]), record["n_train"])
            agrees = splits.to_json() == dict(record)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the record of the split is damaged ({error!r}); fit again.") from error
        if not agrees:
            raise InputError(
                "the split cannot be reproduced: its record was changed, or this version of PyTorch "
                "shuffles differently; use the version that the run was made with, or fit again."
            )
        return splits


def split(n: int, *, seed: int, test: float = 0.2, validation: float = 0.1, n_train: int | None = None) -> Splits:
    """Split n rows at random, or along the source's own test set.

    Args:
        n: number of rows.
        seed: decides the shuffle; the same seed gives the same split.
        test: share of the rows to report, from 0 to below 1; not used with ``n_train``.
        validation: share of the rest to choose by, from 0 to below 1.
        n_train: rows from this one on are the test set.

    Returns:
        Disjoint parts that cover all rows. A share above 0 gives at least one row.

    Raises:
        InputError: for shares out of range, a border out of range, or fewer than two training rows.
    """
    for name, share in (("test", test), ("validation", validation)):
        if not 0.0 <= share < 1.0:
            raise InputError(f"the {name} share must be at least 0 and below 1, not {share}.")
    if n_train is not None and not 0 < n_train < n:
        raise InputError(f"the training set cannot end at row {n_train} of {n}; give n_train in between.")
    tested = n - n_train if n_train is not None else _share(n, test)
    validated = _share(n - tested, validation)
    trained = n - tested - validated
    if trained < 2:
        raise InputError(
            f"{n} rows are too few: {max(trained, 0)} would be left to fit beside {validated} validation "
            f"and {tested} test rows; give more rows or smaller shares."
        )
    return _cut((trained, validated, tested), seed, n_train)


def _share(n: int, share: float) -> int:
    return max(1, round(n * share)) if share > 0.0 else 0


def _cut(sizes: tuple[int, ...], seed: int, n_train: int | None) -> Splits:
    trained, validated, tested = sizes
    generator = torch.Generator().manual_seed(seed)
    if n_train is not None:
        order = torch.randperm(trained + validated, generator=generator)
        test = torch.arange(n_train, n_train + tested)
    else:
        order = torch.randperm(sum(sizes), generator=generator)
        test, order = order[:tested], order[tested:]
    return Splits(order[validated:], order[:validated], test, seed, n_train)


def fingerprint(x: Tensor) -> str:
    """SHA-256 of a tensor's shape, type and values, so that a resumed run notices changed data.

    Example:
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
        True
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2, 1))
        False
    """
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for block in x.detach().cpu().contiguous().flatten().split(2**22):
        digest.update(block.numpy().tobytes())
    return digest.hexdigest()
