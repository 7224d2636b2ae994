"""What is read of annotated cells: every form of times and representations, and sentences for what cannot be read."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sparse
import torch

import girsanov as gv
from girsanov.bridges.annotated import AnnotatedCells
from girsanov.bridges.cell_times import as_time, as_times
from tests.seeds import rng

DAY = np.repeat([0.0, 3.0, 7.0], 20)
X = rng(0).normal(size=(60, 4))


def cells(day=DAY, x=X, **more):
    return SimpleNamespace(obs={"day": day} | more.pop("obs", {}), obsm={"X_pca": x}, n_obs=60, **more)


def read(adata, rep="X_pca", columns=None, growth=None):
    return AnnotatedCells("day", rep, columns, growth).snapshots(adata)


def days(form):
    """The days 0, 3 and 7 in another form."""
    return np.array([form(int(t)) for t in DAY])


TIMES = {
    "integers": DAY.astype(int),
    "list": DAY.tolist(),
    "text": days(str),
    "labels": days("day {}".format),
    "labels without blanks": days("Day_{}".format),
    "hyphens": days("day-{}".format),
    "units": days("{} days".format),
    "bytes": days("d{}".format).astype("S"),
    "objects": np.array([float(t) if i % 2 else str(t) for i, t in enumerate(DAY)], dtype=object),
    "categories": pd.Categorical(DAY),
    "categories of labels": pd.Series(pd.Categorical(days("D{}".format), categories=["D7", "D0", "D3", "D9"])),
    "frame's index": pd.Series(DAY, index=[f"cell {i}" for i in range(60)]),
    "nullable": pd.array(DAY.astype(int), dtype="Int64"),
    "string type": pd.array(days("day {}".format), dtype="string"),
    "durations": pd.to_timedelta(DAY, unit="D"),
    "hours": (24 * DAY).astype("timedelta64[h]"),
    "categories of durations": pd.Categorical(pd.to_timedelta(DAY, unit="D")),
    "masked": np.ma.array(DAY, mask=False),
    "tensor": torch.as_tensor(DAY),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_come_in_many_forms(name):
    found = read(cells(TIMES[name]))
    assert found.times == [0.0, 3.0, 7.0]
    assert torch.equal(found.rows[3.0], torch.as_tensor(X[20:40]).float())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["E8.5", "E10"], [8.5, 10.0]),
        (["day -1", "day 0"], [-1.0, 0.0]),
        (["day .5", "day 1."], [0.5, 1.0]),
        (["1e3", "-2"], [1000.0, -2.0]),
        (["1 day", "2 days"], [1.0, 2.0]),
    ],
)
def test_the_number_of_a_label(labels, expected):
    assert as_times(labels, "day", len(labels)).tolist() == expected
    assert [as_time(label) for label in labels] == expected


MISSING = r"misses 1 of them: leave these out, adata\[adata.obs\['day'\].notna\(\)\]"
BAD_TIMES = {
    "nan": (np.where(np.arange(60) == 1, np.nan, DAY), MISSING),
    "masked": (np.ma.array(DAY, mask=np.arange(60) == 1), MISSING),
    "category missing": (pd.Categorical(np.where(np.arange(60) == 1, np.nan, DAY)), MISSING),
    "nullable missing": (pd.array([None, *DAY[1:].astype(int)], dtype="Int64"), MISSING),
    "duration missing": (pd.to_timedelta(np.where(np.arange(60) == 1, np.nan, DAY), unit="D"), MISSING),
    "infinite": (np.where(DAY == 7.0, np.inf, DAY), "one finite number for each of 60 cells; got inf"),
    "dates": (pd.Timestamp("2024-01-01") + pd.to_timedelta(DAY, unit="D"), "holds dates: give the time since"),
    "words": (np.where(DAY == 0.0, "control", "d3"), "one number each, such as 'day 3'; got 'control'"),
    "two numbers": (days("day {} rep 1".format), "one number each"),
    "two units": (np.where(DAY == 3.0, "6h", "1d"), "several kinds, '1d' and '6h': give numbers of one unit"),
    "complex": (DAY * 1j, "must hold numbers"),
    "short": (DAY[1:], r"each of 60 cells; got the shape \(59,\)"),
    "square": (DAY[:, None], r"got the shape \(60, 1\)"),
    "one time": (np.zeros(60), "has 1 time; trajectories need cells at two or more"),
    "one cell": (
        np.where(np.arange(60) == 0, 1.0, DAY),
        r"Time 1 has 1 cell and .* at least 10 at each: leave the time",
    ),
    "one cell of a label": (np.where(np.arange(60) == 0, "d1", days("d{}".format)), r"adata.obs\['day'\] != 'd1'\]"),
    "a time each": (np.arange(60.0), r"60 of 60 times in obs\['day'\] have fewer than 10 cells \(0, 1, 2, 3, 4, ...\)"),
}


@pytest.mark.parametrize("name", BAD_TIMES)
def test_times_that_cannot_be_read(name):
    column, message = BAD_TIMES[name]
    with pytest.raises(gv.InputError, match=message):
        read(cells(column))


def test_the_first_time_of_few_cells_is_left_out_by_the_sentences_code():
    column = np.where(np.arange(60) == 0, "d1", days("d{}".format))
    adata = cells(column)
    with pytest.raises(gv.InputError) as raised:
        read(adata)
    kept = eval(str(raised.value).split("adata[")[1].split("],")[0], {"adata": adata})
    assert kept.sum() == 59


ROWS = {
    "csr": sparse.csr_matrix(X),
    "csc array": sparse.csc_array(X),
    "coo": sparse.coo_matrix(X),
    "frame": pd.DataFrame(X, index=[f"cell {i}" for i in range(60)], columns=list("abcd")),
    "nullable frame": pd.DataFrame(X).convert_dtypes(),
    "tensor": torch.as_tensor(X),
    "list": X.tolist(),
    "fortran": np.asfortranarray(X),
    "objects": X.astype(object),
    "masked": np.ma.array(X, mask=False),
}


@pytest.mark.parametrize("name", ROWS)
def test_representations_come_in_many_forms(name):
    for columns in (None, 2, np.int64(2)):
        found = read(cells(x=ROWS[name]), columns=columns)
        assert torch.equal(found.rows[7.0], torch.as_tensor(X[40:, :columns]).float())


def test_genes_stand_in_for_a_representation():
    counts = sparse.csr_matrix(np.abs(X))
    adata = cells(X=X, layers={"counts": counts})
    assert torch.equal(read(adata, rep="X").rows[0.0], torch.as_tensor(X[:20]).float())
    assert torch.equal(read(adata, rep="counts").rows[0.0], torch.as_tensor(np.abs(X[:20])).float())
    with pytest.raises(gv.InputError, match="give rep= X or one of X_pca, counts"):
        read(adata, rep="X_umap")
    wide = cells(X=sparse.csr_matrix((60, 20_000)), layers=None)
    with pytest.raises(gv.InputError, match="X has 20000 columns, too many for paths"):
        read(wide, rep="X")
    assert read(wide, rep="X", columns=3).rows[0.0].shape == (20, 3)


def spoiled(value):
    x = X.copy()
    x[17, 1] = value
    return x


ODD = r"in 1 of 60 cells, first in .*\[17\]: drop those cells"
BAD_ROWS = {
    "nan": (spoiled(np.nan), ODD),
    "infinite": (spoiled(np.inf), ODD),
    "masked": (np.ma.array(X, mask=spoiled(99.0) == 99.0), ODD),
    "sparse nan": (sparse.csr_matrix(spoiled(np.nan)), ODD),
    "frame nan": (pd.DataFrame(spoiled(np.nan)), ODD),
    "words": (np.full((60, 2), "a"), "must hold numbers"),
    "complex": (X * 1j, "must hold numbers"),
    "short": (X[:59], r"one row for each of 60 cells; got \(59, 4\)"),
    "flat": (X[:, 0], r"one row for each of 60 cells; got \(60,\)"),
    "empty": (X[:, :0], r"one row for each of 60 cells; got \(60, 0\)"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_representations_that_cannot_be_read(name):
    x, message = BAD_ROWS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(gv.InputError, match=message):
            read(cells(x=x))


@pytest.mark.parametrize("columns", [0, -1, 2.5, True, "3"])
def test_columns_are_counted(columns):
    with pytest.raises(gv.InputError, match="columns must be a whole number, 1 or more"):
        read(cells(), columns=columns)


def test_more_columns_than_there_are():
    with pytest.raises(gv.InputError, match="has 4 columns and columns=5 asks for more"):
        read(cells(), columns=5)
    assert read(cells(), columns=4).rows[0.0].shape == (20, 4)


def test_growth_that_cannot_be_used():
    for growth, message in (
        (np.where(np.arange(60) == 3, np.nan, 1.0), "finite number, not negative"),
        (np.where(np.arange(60) == 3, -1.0, 1.0), "finite number, not negative"),
        (np.where(np.arange(60) < 18, 0.0, 1.0), "positive for 2 cells at time 0"),
        (np.full(60, "much"), "must hold numbers; got 'much'"),
    ):
        with pytest.raises(gv.InputError, match=message):
            read(cells(obs={"g": growth}), growth="g")
    assert set(read(cells(obs={"g": np.where(DAY == 7.0, np.nan, 1.0)}), growth="g").weights) == {0.0, 3.0}


@pytest.mark.parametrize("thing", [pd.DataFrame({"day": DAY}), X, "cells.h5ad", None])
def test_what_is_no_annotated_matrix(thing):
    with pytest.raises(gv.InputError, match="Cells come as an AnnData"):
        gv.fit_trajectories(thing, time_key="day")


def test_real_annotated_matrices(tmp_path):
    """Views and files on disk too, with the genes dense or sparse."""
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"day": pd.Categorical(days("day {}".format))}, index=[f"cell {i}" for i in range(60)])
    for genes in (X.astype(np.float32), sparse.csr_matrix(X.astype(np.float32))):
        adata = anndata.AnnData(genes, obs=obs, obsm={"X_pca": X, "X_sparse": sparse.csr_matrix(X)})
        view = adata[adata.obs["day"] != "day 3"]
        adata.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        for rep in ("X_pca", "X_sparse", "X"):
            expected = torch.as_tensor(X).float()
            assert read(view, rep=rep).times == [0.0, 7.0]
            assert torch.equal(read(view, rep=rep).rows[7.0], expected[40:])
            assert torch.equal(read(backed, rep=rep, columns=3).rows[3.0], expected[20:40, :3])
        backed.file.close()
