"""The rows of a run, found again: data are read by name, encoded by the model's schema and recognised by their hash."""

__all__ = ["Rows", "Selection", "all_rows", "rows_of", "select", "tested_rows"]

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.datasets import Data, Splits, fingerprint, load, read
from girsanov.density_model import DensityModel
from girsanov.runs.folder import Source
from girsanov.types import InputError, State


@dataclass(frozen=True)
class Rows:
    """Encoded rows and which rows of their source they are.

    Attributes:
        x: shape ``n *event_shape``.
        index: shape ``n``.
        labels: shape ``n``, or ``None``.
        described: what they are, for people.
        classes: names of the labels, where they have names.
    """

    x: State
    index: Tensor
    labels: Tensor | None
    described: str
    classes: tuple[str, ...] | None = None

    def first(self, limit: int | None) -> "Rows":
        """The first ``limit`` rows."""
        if limit is None or limit >= len(self.x):
            return self
        labels = None if self.labels is None else self.labels[:limit]
        described = f"the first {limit:,} of {self.described}"
        return dataclasses.replace(self, x=self.x[:limit], index=self.index[:limit], labels=labels, described=described)


@dataclass(frozen=True)
class Selection:
    """Data for a fit and where they came from.

    Attributes:
        data: the rows.
        source: where they came from.
        index: which rows of the source they are, shape ``n``.
    """

    data: Data
    source: Source
    index: Tensor


def select(
    source: Source,
    *,
    categorical: bool = False,
    dequantise: bool = True,
    drop: Sequence[str] = (),
    continuous: Sequence[str] = (),
    lattice: Mapping[str, float] | None = None,
) -> Selection:
    """Read and check data for a fit; with a limit, keep a random choice of rows, in their order.

    Args:
        source: which rows.
        categorical: see :func:`girsanov.datasets.load`.
        dequantise: see :func:`girsanov.datasets.load`.
        drop: see :func:`girsanov.datasets.load`.
        continuous: see :func:`girsanov.datasets.load`.
        lattice: see :func:`girsanov.datasets.load`.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.

    Example:
        >>> chosen = select(Source("iris", limit=50))
        >>> chosen.data.x.shape, chosen.index[:3].tolist() == sorted(chosen.index[:3].tolist())
        (torch.Size([50, 4]), True)
    """
    data = load(
        source.name,
        categorical=categorical,
        dequantise=dequantise,
        drop=drop,
        continuous=continuous,
        lattice=lattice,
    )
    index = _chosen(len(data.x), source)
    border = None if data.n_train is None else int((index < data.n_train).sum())
    labels = None if data.labels is None else data.labels[index]
    border = border if border and border < len(index) else None
    return Selection(dataclasses.replace(data, x=data.x[index], labels=labels, n_train=border), source, index)


def _chosen(n: int, source: Source) -> Tensor:
    if source.limit is None or source.limit >= n:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(source.seed)
    return torch.randperm(n, generator=generator)[: source.limit].sort().values


def tested_rows(model: DensityModel) -> Rows:
    """The held-out rows of the data that a model was fitted to.

    Raises:
        InputError: if the data are gone or have changed.
    """
    source = _source(model)
    found = _encoded(model, source.name)
    index = _chosen(len(found.x), source)
    if fingerprint(found.x[index]) != model.record["data"]["fingerprint"]:
        raise InputError(f"{source.name} has changed since the fit, so its held-out rows are unknown: give DATA")
    return _test_part(model, found, index)


def rows_of(model: DensityModel, name: str) -> Rows:
    """Rows to evaluate: all rows of other data, the held-out ones of the data that the model was fitted to.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.
    """
    found = _encoded(model, name)
    if "data" not in model.record:
        return found
    source = _source(model)
    index = _chosen(len(found.x), source)
    same = fingerprint(found.x[index]) == model.record["data"]["fingerprint"]
    return _test_part(model, found, index) if same else found


def all_rows(model: DensityModel, name: str) -> Rows:
    """All rows of a source, encoded by the model's schema."""
    return _encoded(model, name)


def _encoded(model: DensityModel, name: str) -> Rows:
    raw = read(name)
    x = model.schema.encode(raw)
    labels = None if raw.labels is None else torch.from_numpy(raw.labels)
    return Rows(x, torch.arange(len(x)), labels, f"the rows of {name}", raw.classes)


def _source(model: DensityModel) -> Source:
    record = model.record.get("source") or {"name": model.record["data"]["name"]}
    return Source(**record)


def _test_part(model: DensityModel, found: Rows, index: Tensor) -> Rows:
    test = index[Splits.from_json(model.record["splits"]).test]
    labels = None if found.labels is None else found.labels[test]
    described = f"the held-out {found.described.removeprefix('the ')}"
    return dataclasses.replace(found, x=found.x[test], index=test, labels=labels, described=described)
