"""Parts of sources and two sources as one."""

import numpy as np
import pytest

from girsanov import InputError
from girsanov.datasets import array_raw, joined, keep_classes, read, take
from girsanov.datasets.raw import Raw


def table(name, **columns):
    arrays = {key: np.asarray(values, dtype=float) for key, values in columns.items()}
    return Raw(name, "table", names=tuple(arrays), named=True, columns=tuple(arrays.values()))


def test_classes_choose_rows():
    digits = read("digits")
    index = keep_classes(digits, ("3", "7"))
    part = take(digits, index)
    assert set(part.labels.tolist()) == {3, 7}
    assert len(part) == int(np.isin(digits.labels, [3, 7]).sum())
    assert np.array_equal(part.stack, digits.stack[index])


def test_labels_without_names_are_their_own_names():
    raw = array_raw(np.zeros((4, 2)), labels=np.array([2, 5, 5, 2]))
    assert keep_classes(raw, ("5",)).tolist() == [1, 2]
    with pytest.raises(InputError, match="no class '0'; its classes are 2, 5"):
        keep_classes(raw, ("0",))


def test_sources_without_classes_or_rows_of_them():
    with pytest.raises(InputError, match="no classes to choose from"):
        keep_classes(read("iris"), ("setosa",))
    raw = array_raw(np.zeros((2, 2)), labels=np.array([0, 0]), classes=("a", "b"))
    with pytest.raises(InputError, match="no row of the classes b"):
        keep_classes(raw, ("b",))


@pytest.mark.parametrize(("index", "border"), [([0, 1, 4], 2), ([0, 1], None), ([4, 5], None)])
def test_the_border_of_a_test_set_moves_along(index, border):
    raw = Raw("x", "images", values=np.zeros((6, 1, 2, 2)), n_train=3)
    assert take(raw, np.array(index)).n_train == border


def test_named_columns_are_matched_by_name():
    both = joined(table("a", x=[1, 2], y=[3, 4]), table("b", y=[7], x=[5]))
    assert both.names == ("x", "y")
    assert [column.tolist() for column in both.columns] == [[1, 2, 5], [3, 4, 7]]
    assert both.name == "a and b"


def test_columns_without_names_are_matched_by_position():
    both = joined(table("a", x=[1.0], y=[2.0]), array_raw(np.array([[3.0, 4.0]]), name="b"))
    assert [column.tolist() for column in both.columns] == [[1, 3], [2, 4]]


def test_images_are_stacked():
    first, second = (array_raw(np.full((n, 1, 2, 2), n), name=str(n)) for n in (2, 3))
    assert joined(first, second).stack[:, 0, 0, 0].tolist() == [2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (table("a", x=[1]), table("b", z=[1]), "b: lacks column 'x' of a"),
        (table("a", x=[1]), table("b", x=[1], z=[1]), "a: lacks column 'z' of b"),
        (table("a", x=[1]), array_raw(np.zeros((1, 2)), name="b"), "b: has 2 columns, but a has 1"),
        (table("a", x=[1]), array_raw(np.zeros((1, 1, 2, 2)), name="b"), "b: holds images, but a holds table"),
        (array_raw(np.zeros((1, 1, 2, 2)), name="a"), array_raw(np.zeros((1, 1, 4, 4)), name="b"), "one shape"),
    ],
)
def test_sources_that_do_not_fit_each_other(first, second, message):
    with pytest.raises(InputError, match=message):
        joined(first, second)
