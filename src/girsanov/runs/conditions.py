"""What likelihoods are conditioned on, by names and files: one class, every row's own class, or embeddings."""

__all__ = ["condition_of"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girsanov.density_model import DensityModel
from girsanov.density_model.conditions import unknown_class
from girsanov.runs.rows import Rows
from girsanov.types import InputError


def condition_of(
    model: DensityModel,
    rows: Rows,
    *,
    label: str | None = None,
    own_class: bool = False,
    file: str | Path | None = None,
) -> Any:
    """The condition of rows for a model, or ``None`` where nothing is asked for.

    Args:
        model: a density model with classes or continuous conditions.
        rows: the rows.
        label: a class of the model, for all rows.
        own_class: every row is given its own class, found in the model by its name.
        file: numbers in a ``.npy`` file, one condition per row or one for all.

    Returns:
        Names of classes of shape ``n`` or 1, or numbers with leading dimension ``n`` or 1.

    Raises:
        InputError: for more than one of the three, a class that the model does not know, or numbers that do not fit.

    Example:
        >>> import girsanov as gv
        >>> config = gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1), conditional=True)
        >>> model = gv.fit(torch.randn(60, 2), labels=torch.arange(60) % 3, config=config)
        >>> rows = Rows(gv.datasets.from_array(torch.randn(2, 2)), torch.arange(2), "two rows")
        >>> condition_of(model, rows, label="2")
        array(['2'], dtype=object)
    """
    asked = [name for name, given in (("class", label), ("own class", own_class), ("file", file)) if given]
    if len(asked) > 1:
        raise InputError("Rows have one condition: give one of a class, their own classes and a file")
    if file is not None:
        values = _read(Path(file), len(rows) + len(rows.refused))
        return values[rows.index] if rows.refused and len(values) > 1 else values
    if not asked:
        return None
    if not model.classes:
        raise InputError("This model knows no classes: fit again with --conditional on labelled rows")
    if label is not None:
        names = [label]
    elif rows.data.codes is None or rows.data.classes is None:
        raise InputError(f"There are no classes with {rows.described}: name one for all rows")
    else:
        names = [rows.data.classes[k] for k in rows.data.codes.tolist()]
    unknown = next((name for name in names if name not in model.classes), None)
    if unknown is not None:
        raise unknown_class(unknown, model.classes)
    return np.array(names, dtype=object)


def _read(path: Path, rows: int) -> Tensor:
    """Conditions of a file."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give a .npy file of numbers") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim < 2:
        raise InputError(f"{path}: conditions are numbers of shape (rows or 1, ...), such as embeddings")
    if len(values) not in (1, rows) or not np.isfinite(values).all():
        raise InputError(f"{path}: {rows} finite conditions are needed, or 1 for all; got shape {values.shape}")
    return torch.from_numpy(values).float()
