"""Classes are the values that occur, by name and in order; conditions and predictions are the user's own labels."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import girsanov as gv
from girsanov.datasets import split
from girsanov.evaluation import evaluate
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.solvers import FixedGrid
from girsanov.stein import WildBootstrap
from tests.seeds import rng, seed, seeded

TINY = gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False, conditional=True, seed=seed())
COARSE = FixedGrid(2)
CODES = np.arange(60) % 2
LABELS = {
    "from one": (CODES + 1, ("1", "2")),
    "far apart": (np.where(CODES, 1_000_000, -1), ("-1", "1000000")),
    "a column": ((CODES + 1)[:, None], ("1", "2")),
    "whole floats": (CODES + 3.0, ("3", "4")),
    "text": (np.array(["b", "a"])[CODES], ("a", "b")),
    "digits as text": (np.array(["10", "9"])[CODES], ("10", "9")),
    "booleans": (CODES == 1, ("False", "True")),
    "categories": (pd.Series(np.array(["oak", "ash"])[CODES], dtype="category"), ("ash", "oak")),
    "nullable": (pd.Series(CODES + 7, dtype="Int64"), ("7", "8")),
    "a list": ((CODES + 1).tolist(), ("1", "2")),
    "a tensor": (torch.from_numpy(CODES.astype(np.uint8) + 1), ("1", "2")),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_kind_are_the_classes_that_occur(name):
    labels, names = LABELS[name]
    data = gv.datasets.from_array(rng(0).normal(size=(60, 2)), labels=labels)
    assert data.classes == names
    assert data.codes.unique().tolist() == [0, 1]
    assert data.labels.tolist() == np.asarray(labels).reshape(-1).tolist()
    assert data[1::2].labels.tolist() == data.labels[1::2].tolist()
    again = gv.datasets.from_array(data.x, labels=data.labels)
    assert (again.classes, again.codes.tolist()) == (names, data.codes.tolist())


def test_predictions_are_right_whatever_the_labels_are_called():
    """Two clusters ten deviations apart: labels that stand in another order than their names would all be wrong."""
    labels = np.where(np.arange(200) % 2 == 0, 11, 2)
    x = rng(1).normal(size=(200, 2)) + np.where(labels == 11, 5.0, -5.0)[:, None]
    config = gv.Config(
        steps=200, network=gv.networks.MLPConfig(width=16, blocks=1), conditional=True, gaussianise=False, flow=False
    )
    classifier = gv.DiffusionClassifier(gv.fit(x, labels=labels, config=config), samples=16)
    assert classifier.score(x, labels) > 0.95


@pytest.mark.parametrize("name", ["from one", "digits as text", "booleans", "far apart"])
def test_conditions_and_predictions_are_the_users_labels(name):
    labels, names = LABELS[name]
    x = rng(0).normal(size=(60, 2))
    model = gv.fit(x, labels=labels, config=TINY)
    assert model.classes == names
    classifier = gv.DiffusionClassifier(model, samples=4)
    found = classifier.predict(x[:6])
    assert found.dtype.kind == np.asarray(labels).dtype.kind
    assert set(found.tolist()) <= set(np.asarray(labels).tolist())
    bound = model.elbo(x[:6], samples=4, condition=labels[:6]).value
    data = gv.datasets.from_array(x, labels=labels)
    assert torch.equal(bound, model.elbo(data[:6], samples=4, condition=data.labels[:6]).value)
    own = [model.elbo(x[:6], samples=4, condition=labels[k : k + 1]).value for k in (0, 1)]
    assert torch.equal(bound, torch.stack(own)[torch.arange(6) % 2, torch.arange(6)])
    with pytest.raises(gv.InputError, match="Unknown class"):
        model.elbo(x[:6], samples=4, condition=[77])
    with pytest.raises(gv.InputError, match="leading dimension 1 or 6"):
        model.elbo(x[:6], samples=4, condition=labels[:3])


def test_missing_and_broken_labels_are_one_sentence():
    x = rng(0).normal(size=(60, 2))
    with pytest.raises(gv.InputError, match=r"array: the label of x\[2\] is missing"):
        gv.fit(x, labels=np.where(np.arange(60) == 2, np.nan, 1.0), config=TINY)
    with pytest.raises(gv.InputError, match="one for each of the 60 rows"):
        gv.fit(x, labels=CODES[:50], config=TINY)


ROUTES = {
    "elbo": lambda model, x, c: model.elbo(x, samples=4, condition=c).value,
    "evaluate": lambda model, x, c: evaluate(model, x, samples=4, condition=c).value,
    "weighted_elbo": lambda model, x, c: (
        gv.density_model.weighted_elbo(model, x, draws=2, replicates=2, condition=c).value
    ),
    "weighted_log_prob": lambda model, x, c: (
        gv.density_model.weighted_log_prob(model, x, draws=1, condition=c, solver=COARSE).value
    ),
    "certify": lambda model, x, c: gv.certify(model, x, schedule=SCHEDULES["cosine"](10), condition=c).curve,
    "denoising_curve": lambda model, x, c: (
        gv.evaluation.denoising_curve(model, x, levels=torch.zeros(1), condition=c).model
    ),
    "score_test": lambda model, x, c: torch.tensor(
        model.score_test(x, [1.0], condition=c, method=WildBootstrap(19)).levels[0].result.discrepancy
    ),
    "density_regulariser": lambda model, x, c: gv.applications.density_regulariser(
        model, torch.as_tensor(x) - 1.5, condition=c
    ),
    "sample": lambda model, x, c: model.sample(len(x), steps=4, condition=c),
}


TWINS = {
    "from one": CODES + 1,
    "text": np.array(["ash", "oak"])[CODES],
    "digits as text": np.array(["10", "9"])[CODES],
    "categories": pd.Series(np.array(["ash", "oak"])[CODES], dtype="category"),
}


@cache
def twins():
    """Models of the same rows and networks, whose two classes have names of several kinds; labels matter in them."""
    x = rng(1).integers(0, 4, (60, 2))
    found = {}
    for name, labels in {"plain": CODES, **TWINS}.items():
        model = gv.fit(x, labels=labels, config=TINY)
        generator = seeded(2)
        with torch.no_grad():
            for parameter in model.score.network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        found[name] = model
    return x[:12], found


@pytest.mark.parametrize("route", ROUTES)
def test_every_door_takes_the_users_labels(route):
    ask = ROUTES[route]
    x, models = twins()
    first, mixed = (ask(models["plain"], x, c) for c in ([0], CODES[:12]))
    assert float((first.double() - mixed.double()).detach().abs().max()) > 1e-9  # labels matter
    for name, labels in TWINS.items():
        assert torch.equal(ask(models[name], x, [models[name].classes[0]]), first), name
        assert torch.equal(ask(models[name], x, labels[:1]), first), name
        assert torch.equal(ask(models[name], x, labels[:12]), mixed), name
        with pytest.raises(gv.InputError, match="Unknown class"):
            ask(models[name], x, ["77"])
        with pytest.raises(gv.InputError, match="leading dimension 1 or 12"):
            ask(models[name], x, labels[:3])


def test_a_curve_takes_continuous_conditions():
    x, c = rng(3).normal(size=(2, 60, 2))
    model = gv.fit(x, labels=c, config=TINY)
    curves = [
        gv.evaluation.denoising_curve(model, x[:8], levels=torch.zeros(1), condition=given) for given in (c[:8], c[:1])
    ]
    assert all(bool(curve.model.isfinite().all()) for curve in curves)


def test_a_class_of_held_out_rows_alone_is_refused_before_training():
    x, labels = rng(4).normal(size=(60, 2)), np.array(["ash", "oak"])[CODES]
    held = split(60, seed=TINY.seed, test=TINY.test, validation=TINY.validation)
    for row in (int(held.test[0]), int(held.validation[0])):
        rare = labels.astype(object)
        rare[row] = "yew"
        with pytest.raises(gv.InputError, match="the training split has no row of class yew: leave their rows out"):
            gv.fit(x, labels=rare, config=TINY)
    rare = labels.astype(object)
    rare[[int(held.test[0]), int(held.test[1])]] = ["elm", "yew"]
    with pytest.raises(gv.InputError, match="no row of classes elm, yew"):
        gv.fit(x, labels=rare, config=TINY)
    rare = labels.astype(object)
    rare[int(held.train[0])] = "yew"
    assert gv.fit(x, labels=rare, config=TINY).classes == ("ash", "oak", "yew")
