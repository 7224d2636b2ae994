"""MNIST for the benchmarks of paper 1: read from a folder of idx files, whole or averaged to 14 x 14 pixels.

Pixels of the small version are means of 2 x 2 blocks, rounded half to even to whole grey levels 0 to 255: a discrete
variable of its own, with bits per dimension that mean something, but another one than MNIST.
"""

__all__ = ["SETTINGS", "mnist", "untrained"]

import dataclasses

import numpy as np
import torch

from girsanov.datasets import Data, Schema, read, split
from girsanov.density_model import Config
from girsanov.density_model.fit import prepare

#: no head that knows the lattice and one network: what differs is the time sampling alone
SETTINGS = {"lattice_head": False, "members": 1}


def mnist(folder, *, side=28, rows=None, seed=0):
    """Images as a :class:`girsanov.datasets.Data`, the test set last.

    Args:
        folder: of the four idx files.
        side: 28, or 14 for averaged images.
        rows: training rows kept, chosen at random; default all.
        seed: of that choice.
    """
    raw = read(folder)
    values, labels, n_train = raw.stack, raw.labels, raw.n_train
    if side == 14:
        means = values.reshape(len(values), 1, 14, 2, 14, 2).mean((3, 5), dtype=np.float64)
        values = np.rint(means).astype(np.uint8)
    if rows is not None and rows < n_train:
        chosen = torch.randperm(n_train, generator=torch.Generator().manual_seed(seed))[:rows].sort().values
        index = np.concatenate([chosen.numpy(), np.arange(n_train, len(values))])
        values, labels, n_train = values[index], labels[index], rows
    raw = dataclasses.replace(raw, values=values, labels=labels, n_train=n_train, name=f"mnist {side} x {side}")
    schema = Schema.infer(raw)
    return Data(schema.encode(raw), torch.from_numpy(raw.labels), raw.classes, schema, raw.name, n_train)


def untrained(data, **settings):
    """The model before training, its settings and the split of its rows."""
    config = Config(**SETTINGS | settings)
    splits = split(len(data.x), seed=config.seed, validation=config.validation, n_train=data.n_train)
    return prepare(data, splits, config), config, splits
