"""Tables whose columns are not the model's: some are dropped, some become several dimensions."""

import numpy as np
import pandas as pd

from tests.seeds import rng

ROWS = 120


def _base(generator):
    return {"a": generator.normal(size=ROWS), "b": generator.normal(size=ROWS) ** 3}


def constant_last(generator):
    return {**_base(generator), "version": np.ones(ROWS)}


def constant_first(generator):
    return {"version": np.full(ROWS, "v1.2", dtype=object), **_base(generator)}


def one_column_left(generator):
    return {"zero": np.zeros(ROWS), "a": generator.normal(size=ROWS), "one": np.ones(ROWS)}


def copies(generator):
    found = _base(generator)
    return {"cm": found["a"], "inch": found["a"] / 2.54, **found, "again": found["b"], "minus": 3.0 - found["a"]}


def text(generator):
    return {"kind": generator.choice(np.array(["oak", "ash", "elm"], dtype=object), ROWS), **_base(generator)}


def two_texts(generator):
    found = {"kind": generator.choice(np.array(["b", "a"], dtype=object), ROWS), **_base(generator)}
    return {**found, "copied": found["kind"], "size": generator.choice(np.array(["10", "9", "x"], dtype=object), ROWS)}


def text_alone(generator):
    return {"kind": generator.choice(np.array(["oak", "ash", "elm"], dtype=object), ROWS)}


def boolean(generator):
    return {"on": generator.integers(0, 2, ROWS), **_base(generator), "count": generator.poisson(2.0, ROWS)}


def copied_counts(generator):
    count = generator.poisson(4.0, ROWS)
    return {"count": count, "twice": 2.0 * count + 1.0, **_base(generator)}


def everything(generator):
    return {**constant_first(generator), **text(generator), **copied_counts(generator), "on": np.arange(ROWS) % 2}


TABLES = {
    make.__name__: make
    for make in (
        constant_last,
        constant_first,
        one_column_left,
        copies,
        text,
        two_texts,
        text_alone,
        boolean,
        copied_counts,
        everything,
    )
}


def frame(name):
    """A table of the registry as a data frame."""
    return pd.DataFrame(TABLES[name](rng(7)))


def write(name, folder):
    """The same as a CSV file."""
    path = folder / f"{name}.csv"
    frame(name).to_csv(path, index=False)
    return path
