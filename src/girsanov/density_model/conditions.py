"""What rows are conditioned on, as a user has it: classes by name or finite numbers, one per row or one for all."""

__all__ = ["Conditioning", "class_names", "continuous_conditions", "training_labels", "unknown_class"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets import Data, Splits
from girsanov.datasets.labels import label_array, label_name
from girsanov.datasets.refusals import Given
from girsanov.types import InputError

SHOWN = 20


def unknown_class(label: Any, classes: Sequence[Any]) -> InputError:
    """The sentence about a class that a model does not know."""
    return InputError(f"Unknown class {label!r}: the classes are {_listed(classes)}")


def training_labels(data: Data, splits: Splits) -> Tensor:
    """What the rows of data are conditioned on in training: their classes' numbers, or continuous conditions.

    Raises:
        InputError: without labels, or naming the classes of which every row is held out: the network would draw them
            from what it was before training.
    """
    if data.codes is None:
        raise InputError(f"{data.name}: has no labels to condition on; leave conditional out")
    if data.codes.is_floating_point():
        return data.codes
    trained = set(data.codes[splits.train].tolist())
    missing = [name for k, name in enumerate(data.classes or ()) if k not in trained]
    if missing:
        raise InputError(
            f"{data.name}: the training split has no row of {'class' if len(missing) == 1 else 'classes'} "
            f"{_listed(missing)}: leave their rows out, give more of them, or split with another seed"
        )
    return data.codes


def class_names(data: Data) -> tuple[str, ...]:
    """Names of the classes that data have."""
    if data.codes is None or data.codes.is_floating_point():
        return ()
    return data.of_present_classes().classes or ()


def continuous_conditions(labels: Any | None) -> Tensor | None:
    """Labels as continuous conditions, float64 ``n c``; ``None`` where they are classes, or missing."""
    if labels is None:
        return None
    values = np.asarray(
        labels.detach().cpu().double() if isinstance(labels, Tensor) and labels.is_floating_point() else labels
    )
    if values.dtype.kind not in "iuf" or (values.dtype.kind != "f" and values.shape[1:] in ((), (1,))):
        return None
    if values.ndim == 2:
        return torch.from_numpy(values.astype(np.float64))
    fractional = values.ndim == 1 and bool((np.isfinite(values) & (values != np.rint(values))).any())
    return torch.from_numpy(values.astype(np.float64))[:, None] if fractional else None


def _listed(classes: Sequence[Any]) -> str:
    return ", ".join(map(str, classes[:SHOWN])) + (", ..." if len(classes) > SHOWN else "")


@final
@dataclass(frozen=True)
class Conditioning:
    """What a model is conditioned on: classes, numbers, or nothing.

    Attributes:
        classes: names of the classes, in the order of the network's labels.
        values: the classes as the labels of the fit gave them; empty where they came by name.
        numbers: whether it is numbers.
        width: how many there are for each row; ``None`` for any shape.
    """

    classes: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    numbers: bool = False
    width: int | None = None

    @classmethod
    def of(cls, data: Data) -> "Conditioning":
        """Classes by name, and as the labels gave them where the names say no more; or numbers."""
        if data.codes is not None and data.codes.is_floating_point():
            return cls(numbers=True, width=data.codes.shape[1])
        names, values = class_names(data), tuple(data.values or ())
        return cls(names, values if tuple(map(label_name, values)) == names else ())

    def encode(self, condition: Any, rows: int | None, device: torch.device) -> Tensor | None:
        """The condition as a network takes it, leading dimension ``rows`` or 1.

        Args:
            condition: labels as the fit was given them, by name (of classes whose names are no whole numbers also their
                positions), or numbers ``n c`` of a model of continuous conditions; in an array of any kind, or one
                label.
            rows: how many rows there are; ``None`` for any number.
            device: of the model.

        Raises:
            InputError: one sentence, for a condition that the model does not take, of another length, that is not
                finite, or an unknown class.
        """
        if condition is None:
            return None
        if self.classes:
            found = torch.tensor(_positions(condition, self.classes), dtype=torch.int64)
        elif self.numbers:
            found = _numbers(condition, self.width)
        else:
            raise InputError("This model was fitted without labels: leave condition out, or fit with conditional=True")
        if len(found) != 1 and rows is not None and len(found) != rows:
            raise InputError(f"condition must have leading dimension 1 or {rows}; got {len(found)}")
        return found.to(device)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {"classes": list(self.classes), "values": list(self.values)}
        return plain | {"numbers": self.numbers, "width": self.width}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Conditioning":
        """The inverse of :meth:`to_json`."""
        return cls(tuple(plain["classes"]), tuple(plain["values"]), plain["numbers"], plain["width"])


def _positions(condition: Any, classes: Sequence[str]) -> list[int]:
    if not isinstance(condition, Tensor) and np.ndim(condition) == 0:
        condition = [condition]
    labels = label_array(
        condition.reshape(-1) if isinstance(condition, Tensor) else condition, None, Given("condition", None)
    )
    position = {name: k for k, name in enumerate(classes)}
    if labels.dtype.kind == "i" and not any(name.lstrip("-").isdecimal() for name in classes):
        position = {str(k): k for k in range(len(classes))}
    names = [label_name(label) for label in labels.tolist()]
    unknown = next((name for name in names if name not in position), None)
    if unknown is not None:
        raise unknown_class(unknown, classes)
    return [position[name] for name in names]


def _numbers(condition: Any, width: int | None) -> Tensor:
    try:
        found = condition if isinstance(condition, Tensor) else torch.as_tensor(np.asarray(condition))
    except (TypeError, ValueError) as error:
        raise InputError("This model is conditioned on numbers: give an array of them") from error
    found = found if found.is_floating_point() else found.double()
    if width is not None:
        found = found[..., None] if width == 1 and found.ndim < 2 else found
        found = found[None] if found.ndim < 2 else found
        if found.ndim != 2 or found.shape[1] != width:
            raise InputError(f"condition must have shape (n or 1, {width}); got {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        raise InputError("condition must be finite: leave such rows out")
    return found
