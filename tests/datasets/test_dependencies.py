"""Columns that are sums of others: found, said, checked in new rows, restored; columns whose digits an offset ate."""

import json
import re

import numpy as np
import pytest

from girsanov.datasets import Schema, array_raw, from_array
from girsanov.types import InputError
from tests.seeds import rng

N = 600


def normal(columns=3, rows=N):
    return rng().normal(size=(rows, columns))


def counts(rows=N):
    return rng().poisson(5.0, (rows, 3)).astype(float)


def parts(decimals):
    return np.round(100 * rng().dirichlet([2, 3, 4, 5], N), decimals)


def levels():
    return np.eye(3)[rng().integers(0, 3, N)]


x = normal()
SUMS = {
    "a double": (np.c_[x, 2 * x[:, 0]], {"x4": "2 * 'x1'"}),
    "a sum of three": (np.c_[x, x.sum(1)], {"x4": "'x1' + 'x2' + 'x3'"}),
    "of columns of all scales": (
        np.c_[x * [1e-6, 1.0, 1e7], 1e3 * x.sum(1) - 5],
        {"x4": "-5 + 1e+09 * 'x1' + 1000 * 'x2' + 0.0001 * 'x3'"},
    ),
    "two at once": (
        np.c_[x, x.sum(1), x[:, 0] - 0.5 * x[:, 1], rng(1).normal(size=N)],
        {"x4": "'x1' + 'x2' + 'x3'", "x5": "'x1' - 0.5 * 'x2'"},
    ),
    "the whole first": (np.c_[x.sum(1), x], {"x4": "'x1' - 'x2' - 'x3'"}),
    "counts": (np.c_[counts(), counts().sum(1)], {"x4": "'x1' + 'x2' + 'x3'"}),
    "parts of a whole": (rng().dirichlet([2, 3, 4, 5], N), {"x4": "1 - 'x1' - 'x2' - 'x3'"}),
    "rounded parts": (parts(3), {"x4": "100 - 'x1' - 'x2' - 'x3'"}),
    "a rounded sum of rounded columns": (np.c_[x.round(4), x.sum(1).round(4)], {"x4": "'x1' + 'x2' + 'x3'"}),
    "float32": (np.c_[x, x.sum(1)].astype(np.float32), {"x4": "'x1' + 'x2' + 'x3'"}),
    "levels that somebody has encoded": (np.c_[levels(), x], {"x3": "1 - 'x1' - 'x2'"}),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_dropped_and_said_in_the_owners_numbers(name):
    table, sums = SUMS[name]
    schema = from_array(table).schema
    dropped = [note for note in schema.notes if note.startswith("Dropped")]
    assert dropped == [f"Dropped {column!r}: it is {rule}." for column, rule in sums.items()]
    assert schema.event_shape == (table.shape[1] - len(sums),)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize("name", SUMS)
def test_new_rows_are_checked_and_samples_restored(name):
    table, sums = SUMS[name]
    schema = from_array(table).schema
    back = schema.decode(schema.encode(array_raw(table)))
    spread = table.std(0)
    np.testing.assert_allclose(np.stack(back.columns, 1) / spread, table / spread, rtol=1e-5, atol=0.005)
    wrong = table[:5].copy()
    column = int(next(iter(sums))[1:]) - 1
    wrong[3, column] += 0.5 * spread[column]
    with pytest.raises(InputError, match=rf"array: x\[3\], column 'x{column + 1}': .* is not .*, as in the data"):
        schema.encode(array_raw(wrong))


def test_dozens_of_sums_among_hundreds_of_columns():
    base = rng().normal(size=(1500, 150))
    sums = base @ rng(1).normal(size=(150, 20))
    order = rng(2).permutation(170)
    schema = from_array(np.c_[base, sums][:, order]).schema
    assert schema.event_shape == (150,)
    assert "Dropped as sums of others too: " in "\n".join(schema.notes)


def test_a_near_sum_is_kept_and_said():
    table = np.c_[x, x.sum(1) + 1e-4 * rng(1).normal(size=N)]
    schema = from_array(table).schema
    assert schema.event_shape == (4,)
    assert "'x4' is nearly 'x1' + 'x2' + 'x3' (but for " in "\n".join(schema.notes)
    percent = from_array(parts(1)).schema
    assert percent.event_shape == (4,)
    assert "'x4' is nearly 100 - 'x1' - 'x2' - 'x3'" in "\n".join(percent.notes)


def test_rows_that_miss_two_columns_make_them_no_copies():
    table = np.c_[20 + rng().normal(size=N), 60 + rng(1).normal(size=N)].round(3)
    table[::50] = -9999.0
    schema = from_array(table).schema
    assert schema.event_shape == (2,)
    assert "nearly" not in " ".join(schema.notes)


@pytest.mark.parametrize("name", ["a coin", "one off"])
def test_whole_numbers_that_others_leave_open_are_kept(name):
    """A dropped column counts for nothing in a log-mass, which would then be above minus the entropy."""
    a, b = 4 * rng(0).integers(500, size=N), rng(1).integers(3000, size=N)
    coin = a + rng(2).integers(2, size=N)
    table = np.c_[a, coin] if name == "a coin" else np.c_[a, b, a + b + rng(3).integers(-1, 2, size=N)]
    schema = from_array(table).schema
    assert schema.event_shape == (table.shape[1],)
    assert "is nearly" in " ".join(schema.notes)


def test_many_near_sums_are_counted():
    table = x @ rng(1).normal(size=(3, 20)) + 1e-4 * rng(2).normal(size=(N, 20))
    notes = from_array(table).schema.notes
    assert [("is nearly" in note) for note in notes] == [True] * 5 + [False]
    assert notes[-1] == "12 more columns are nearly sums of others too."


@pytest.mark.parametrize("seed", range(20))
def test_no_false_sums(seed):
    """Independent columns of every kind, few rows, rare flags: nothing is dropped, nothing said."""
    draw = rng(seed)
    rows = int(draw.integers(8, 200))
    flags = (draw.random((rows, 8)) < 3 / rows).astype(float)
    table = np.c_[draw.normal(size=(rows, 10)), draw.integers(0, 4, (rows, 4)), flags]
    table = table[:, np.ptp(table, axis=0) > 0]
    notes = from_array(table).schema.notes
    same = {"the same as", "1 - "}  # a flag that no other row tells from another
    found = [note for note in notes if "it is" in note and not any(mark in note for mark in same)]
    assert not found
    assert not any("nearly" in note for note in notes)


def test_few_rows_obey_some_relation_by_chance():
    assert from_array(rng().normal(size=(30, 40))).schema.event_shape == (40,)
    assert from_array(rng().normal(size=(60, 45))).schema.event_shape == (45,)


def test_fewer_rows_than_dimensions_are_said():
    assert "50 rows, of which about 36 are trained on, are fewer than the 64 dimensions" in "\n".join(
        from_array(rng().normal(size=(50, 64))).schema.notes
    )
    assert "fewer than the 64 dimensions" in "\n".join(from_array(rng().normal(size=(50, 1, 8, 8))).schema.notes)
    assert from_array(rng().normal(size=(200, 64))).schema.notes == ()


@pytest.mark.parametrize(
    ("column", "step"),
    [
        (rng().normal(size=200) + 1e15, "float64 keeps steps of 0.125"),
        (rng().normal(size=200) + 1e16, "float64 keeps steps of 2"),
        (rng().integers(0, 9, 200) + 10**18, "float64 keeps steps of 128"),
        ((1.7e9 + 500 * rng().random(200)).astype(np.float32), "float32 keeps steps of 128"),
    ],
)
def test_offsets_that_eat_the_digits_are_named(column, step):
    others = rng(1).normal(size=200)
    raw = array_raw(np.c_[others, column].astype(column.dtype) if column.dtype.kind == "f" else np.c_[column, column])
    name = "x2" if column.dtype.kind == "f" else "x1"
    with pytest.raises(InputError, match=f"column '{name}' varies by about .* where {step}.*subtract an offset"):
        Schema.infer(raw)


def test_an_offset_that_costs_some_digits_is_said():
    seconds = (1.7e9 + 86_400 * rng().random((200, 1))).astype(np.float32)
    notes = "\n".join(from_array(seconds).schema.notes)
    assert re.search(
        r"'x1' varies by about 2\.[3-7]e\+04 around 1\.70\d+e\+09, where float32 keeps steps of 128", notes
    )
    assert from_array(rng().normal(size=(200, 1)) + 1e6).schema.notes == ()
    assert from_array((1.7e18 + 1e13 * rng().random((200, 2))).astype(np.int64)).schema.event_shape == (2,)


def test_few_digits_without_an_offset_are_no_offset():
    half = rng().normal(size=(200, 2)).astype(np.float16)
    assert "subtract" not in " ".join(from_array(half).schema.notes)


def test_one_number_computed_in_two_ways_is_a_constant():
    table = np.c_[x, np.where(x[:, 0] > 0, 0.3, 0.1 + 0.2)]
    assert from_array(table).schema.notes[0].startswith("Dropped because constant: x4 (always 0.3")
