"""Classes are the values that occur, by name and in order; conditions and predictions are the user's own labels."""

import numpy as np
import pandas as pd
import pytest
import torch

import girsanov as gv
from tests.seeds import rng, seed

TINY = gv.Config(steps=2, network="mlp", width=8, blocks=1, flow=False, conditional=True, seed=seed())
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
    assert data.labels.unique().tolist() == [0, 1]


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
    assert 0.0 <= classifier.score(x[:6], labels[:6]) <= 1.0
    bound = model.elbo(x[:6], samples=4, condition=labels[:6]).value
    own = [model.elbo(x[:6], samples=4, condition=labels[k : k + 1]).value for k in (0, 1)]
    assert torch.equal(bound, torch.stack(own)[torch.arange(6) % 2, torch.arange(6)])
    with pytest.raises(gv.InputError, match="Unknown class"):
        model.elbo(x[:6], samples=4, condition=[77])
    with pytest.raises(gv.InputError, match="leading dimension 1 or 6"):
        model.elbo(x[:6], samples=4, condition=labels[:3])


def test_missing_and_broken_labels_are_one_sentence():
    x = rng(0).normal(size=(60, 2))
    with pytest.raises(gv.InputError, match="the label of row 3 is missing"):
        gv.fit(x, labels=np.where(np.arange(60) == 2, np.nan, 1.0), config=TINY)
    with pytest.raises(gv.InputError, match="one for each of the 60 rows"):
        gv.fit(x, labels=CODES[:50], config=TINY)
