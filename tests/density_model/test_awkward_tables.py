"""Every public method takes rows with the user's columns, and draws such rows."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import girsanov as gv
from girsanov.datasets import load
from girsanov.density_model.weighted import weighted_elbo
from girsanov.evaluation import denoising_curve, evaluate
from girsanov.likelihoods.ddpm import SCHEDULES
from tests import awkward
from tests.seeds import rng, seed, seeded

TINY = gv.Config(steps=3, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False, seed=seed())
each_table = pytest.mark.parametrize("name", awkward.TABLES)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("awkward")

    @cache
    def fit(name):
        data = load(awkward.write(name, folder), categorical=True)
        return data, gv.fit(data, config=TINY)

    return fit


@each_table
def test_draws_have_the_users_columns_and_are_rows_again(fitted, name):
    _, model = fitted(name)
    given = awkward.frame(name)
    drawn = model.sample(6, steps=8, generator=seeded())
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.shape == (6, given.shape[1])
    assert list(drawn.columns) == list(given.columns)
    for column in given.columns:
        if given[column].dtype == object:
            assert set(drawn[column]) <= set(given[column])
        elif given[column].nunique() < 20:
            assert given[column].min() <= drawn[column].min() <= drawn[column].max() <= given[column].max()
        if given[column].dtype.kind == "i":
            assert drawn[column].dtype == np.int64
    assert bool(model.elbo(drawn, samples=4).value.isfinite().all())


@pytest.mark.parametrize("name", ["copies", "everything"])
def test_every_method_takes_data_and_the_users_rows_alike(fitted, name):
    data, model = fitted(name)
    frame = awkward.frame(name)
    for value in (
        lambda x: model.elbo(x, samples=4).value,
        lambda x: model.density(x, samples=4).value,
        lambda x: evaluate(model, x, "ode").value,
        lambda x: model.log_prob(x).value,
        lambda x: denoising_curve(model, x, levels=torch.tensor([0.0])).model,
        lambda x: gv.applications.Novelty(bands=2, samples=4).fit(model, x).score(x),
        lambda x: torch.tensor(gv.certify(model, x, schedule=SCHEDULES["linear"](40)).log_det),
        lambda x: torch.tensor(model.score_test(x, levels=(0.0,), generator=seeded()).levels[0].result.discrepancy),
    ):
        ours, theirs = value(data[:12]), value(frame[:12])
        assert ours.isfinite().all()
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert gv.compare(model, model, frame[:4]).value.abs().max() == 0.0
    if model.encoding.measure != "density":
        assert weighted_elbo(model, frame[:3], draws=2, points=1, replicates=2).value.isfinite().all()


@each_table
def test_data_read_by_another_schema_are_encoded_again(fitted, name, tmp_path):
    """Twelve rows alone have other constants and lattices than all."""
    data, model = fitted(name)
    path = tmp_path / "some.csv"
    awkward.frame(name)[:40].to_csv(path, index=False)
    some = load(path, categorical=True)
    assert torch.allclose(model.encode(some).rows, data.x[:40], atol=1e-9)


@pytest.mark.parametrize("name", ["constant_last", "copies", "one_column_left"])
def test_arrays_and_gradients_of_rows_have_the_users_width(fitted, name):
    data, model = fitted(name)
    values = awkward.frame(name).to_numpy(dtype=np.float64)[:5]
    rows = torch.from_numpy(values).requires_grad_()
    value = model.elbo(rows, samples=4).value
    assert torch.equal(value, model.elbo(values, samples=4).value)
    assert torch.equal(model.encode(values).rows, data.x[:5])


def test_a_fit_of_rows_in_python_samples_what_it_was_given():
    """README's first example with a constant column in the middle."""
    x = rng(0).normal(size=(60, 2))
    model = gv.fit(np.c_[x[:, 0], np.full(60, 2.5), x[:, 1]], config=TINY)
    drawn = model.sample(5, steps=4)
    assert isinstance(drawn, torch.Tensor)  # rows without names come back without
    assert drawn.shape == (5, 3)
    assert bool((drawn[:, 1] == 2.5).all())
    assert model.elbo(drawn, samples=4).value.shape == (5,)


def test_the_same_seed_draws_the_same_rows_also_where_some_are_drawn_again(fitted):
    _, model = fitted("everything")
    first, second = (model.sample(40, steps=4, generator=seeded(3)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_a_saved_model_draws_the_same(fitted, tmp_path):
    _, model = fitted("everything")
    model.save_pretrained(tmp_path / "model")
    twin = gv.DensityModel.from_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(model.sample(5, steps=4), twin.sample(5, steps=4))
    assert twin.schema == model.schema
