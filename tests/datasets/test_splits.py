"""Splits and fingerprints."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st

from girsanov.datasets import Splits, fingerprint, split
from girsanov.types import InputError


def parts(splits):
    return splits.train, splits.validation, splits.test


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(5, 300),
    seed=st.integers(0, 2**63 - 1),
    test=st.floats(0, 0.5),
    validation=st.floats(0, 0.4),
)
def test_parts_are_disjoint_cover_all_rows_and_survive_json(n, seed, test, validation):
    splits = split(n, seed=seed, test=test, validation=validation)
    assert torch.cat(parts(splits)).sort().values.tolist() == list(range(n))
    assert all(part.dtype == torch.int64 for part in parts(splits))
    assert abs(len(splits.test) - test * n) <= 1
    assert abs(len(splits.validation) - validation * (n - len(splits.test))) <= 1
    again = Splits.from_json(json.loads(json.dumps(splits.to_json())))
    assert all(a.equal(b) for a, b in zip(parts(again), parts(splits), strict=True))


def test_the_seed_decides():
    first, second, other = split(100, seed=1), split(100, seed=1), split(100, seed=2)
    assert first.train.equal(second.train)
    assert not first.train.equal(other.train)
    assert not first.test.equal(other.test)


def test_global_generators_play_no_part():
    torch.manual_seed(1)
    first, state = split(50, seed=0), torch.get_rng_state()
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    assert split(50, seed=0).train.equal(first.train)


def test_a_canonical_test_set_is_kept():
    splits = split(100, seed=3, n_train=70)
    assert splits.test.tolist() == list(range(70, 100))
    assert len(splits.validation) == 7
    assert torch.cat([splits.train, splits.validation]).sort().values.tolist() == list(range(70))
    again = Splits.from_json(splits.to_json())
    assert again.train.equal(splits.train)
    assert again.n_train == 70


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 3}, "3 rows are too few: 1 would be left to fit beside 1 validation and 1 test"),
        ({"n": 0}, "0 rows are too few: 0 would be left"),
        ({"n": 9, "n_train": 2}, "too few"),
        ({"n": 9, "test": 1.0}, "test share must be at least 0 and below 1"),
        ({"n": 9, "validation": -0.1}, "validation share"),
        ({"n": 9, "test": float("nan")}, "test share"),
        ({"n": 9, "n_train": 9}, "cannot end at row 9 of 9"),
    ],
)
def test_impossible_splits(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        split(**{"seed": 0} | arguments)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"sha256": "0"}, "cannot be reproduced"),
        ({"seed": 5}, "cannot be reproduced"),
        ({"train": 60}, "cannot be reproduced"),
        ({"train": -60}, "damaged|cannot be reproduced"),
        ({"seed": "x"}, "damaged"),
    ],
)
def test_changed_records(damage, sentence):
    with pytest.raises(InputError, match=sentence):
        Splits.from_json(split(100, seed=0).to_json() | damage)
    with pytest.raises(InputError, match="damaged"):
        Splits.from_json({})


def test_fingerprint_sees_one_bit_shape_type_and_order():
    x = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    same = x.clone().t().contiguous().t()  # other strides
    assert fingerprint(same) == fingerprint(x)
    changed = x.clone()
    changed[2, 3] = torch.nextafter(changed[2, 3], torch.tensor(99.0).double())
    others = [changed, x.reshape(4, 3), x.float(), x.flip(0), x[:2]]
    assert len({fingerprint(other) for other in [x, *others]}) == 6
    assert len(fingerprint(x)) == 64
