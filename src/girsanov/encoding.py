r"""The one way from a user's rows to a model's space and back: a schema, and the transforms behind it.

Rows have three forms. *Raw* rows are what a user holds: arrays, tensors, data frames. *Encoded* rows are the schema's
float64 columns in data units; they come as :class:`girsanov.datasets.Data` or
:class:`girsanov.likelihoods.RandomisedRows`, so that a tensor by itself is always raw. Rows of the model's *space* are
what the transforms make of encoded ones. Discrete columns are dequantised on the way, by one of two kinds of noise:

- keyed by the row's content, where rows get values (:meth:`Encoding.view`): a value does not depend on other rows;
- fresh, for everything that is fitted to rows, or chosen by them (:meth:`Encoding.spread`). Where discrete rows repeat,
  noise that a row's content keys would be the same in all of its copies, in training and in held-out rows alike: a
  density fitted to them puts its mass where the few draws lie and is praised by the same draws. Here every copy of
  every row has its own draw, from the stream of its purpose.
"""

__all__ = ["COPIES", "MOST_COPIES", "Encoding", "copies_for"]

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from girsanov.datasets import Data, Raw, Schema
from girsanov.datasets.arrays import from_array
from girsanov.likelihoods.estimator import RandomisedRows, View, keyed_view
from girsanov.transforms import Compose, Dequantise, OnLattice, Transform
from girsanov.types import InputError, Measure, State

COPIES = 4  # of training rows to which closed forms are fitted
MOST_COPIES = 8
SPREAD_NUMBERS = 2**23  # spread at a time, since a transform takes several times their memory


@final
class Encoding(nn.Module):
    """How raw rows become rows of a model's space, and back.

    Args:
        schema: from raw rows to encoded ones.
        transforms: from encoded rows to the model's space, in order.

    Example:
        >>> from girsanov.datasets import from_array as read
        >>> dice = read(torch.arange(60.0)[:, None] % 6)
        >>> encoding = Encoding(dice.schema, [Dequantise((1,), dice.schema.bin_width, dice.schema.offset)])
        >>> rows = encoding.encode(torch.tensor([[2.0], [5.0]]))
        >>> rows.rows.T, encoding.measure, rows.view(8, seed=0).x.shape
        (tensor([[2., 5.]], dtype=torch.float64), 'mass', torch.Size([2, 8, 1]))
        >>> encoding.decode(encoding.inverse(rows.view(1, seed=0).x[:, 0])).T
        tensor([[2., 5.]], dtype=torch.float64)
    """

    place: Tensor

    def __init__(self, schema: Schema, transforms: Sequence[Transform] = ()) -> None:
        super().__init__()
        self.schema = schema
        self.transforms = Compose(transforms)
        self.register_buffer("place", torch.empty(0), persistent=False)

    def then(self, *transforms: Transform) -> "Encoding":
        """The same with more transforms at the end."""
        return Encoding(self.schema, [*self.transforms.members, *transforms]).to(self.place.device)

    def with_dequantiser(self, dequantiser: Dequantise) -> "Encoding":
        """The same with another way to dequantise."""
        members = [dequantiser if isinstance(m, Dequantise) else m for m in self.transforms.members]
        return Encoding(self.schema, members).to(self.place.device)

    @property
    def dequantiser(self) -> Dequantise | None:
        """What spreads lattice points over their cells; ``None`` for continuous rows."""
        return next((m for m in self.transforms.members if isinstance(m, Dequantise)), None)

    @property
    def draws(self) -> bool:
        """Whether noise is drawn: neither continuous rows need any, nor those whose cells are decoded."""
        return self.dequantiser is not None and not isinstance(self.dequantiser, OnLattice)

    @property
    def measure(self) -> Measure:
        """Whether values are log-densities, log-masses (all columns discrete) or mixed."""
        discrete = self.schema.bin_width > 0
        if not bool(discrete.any()):
            return "density"
        return "mass" if bool(discrete.all()) else "mixed"

    def encode(self, x: Any) -> RandomisedRows:
        """Rows as the user has them to encoded rows ``n *event_shape``, float64, where the transforms are.

        Args:
            x: an array, a tensor (gradients pass), a data frame, or :class:`girsanov.datasets.Data`, whatever schema
                these were read with; rows that were encoded here stay as they are.

        Raises:
            InputError: for other columns or shapes, missing values, rows off a discrete column's lattice, or rows that
                another model has encoded.
        """
        if isinstance(x, RandomisedRows):
            if x.views != self.view:
                raise InputError("These rows were encoded for another model: give them as they were before")
            return x
        if isinstance(x, Data):
            same = x.schema is self.schema or x.schema.rules == self.schema.rules
            encoded = x.x.double() if same else self.schema.encode(x.schema.decode(x.x, name=x.name))
        elif isinstance(x, Tensor) and x.requires_grad:
            self.schema.encode(from_array(x.detach()))  # the checks, without cutting the graph
            encoded = self.schema.select(x.double())
        else:
            encoded = self.schema.encode(x if isinstance(x, Raw) else from_array(x))
        return RandomisedRows(encoded.to(self.place.device), self.view, self.measure, self.draws)

    def encode_each(self, x: Any) -> tuple[RandomisedRows, np.ndarray, dict[int, str]]:
        """The rows that :meth:`encode` takes, and what is wrong with each of the others.

        Returns:
            Encoded rows ``m *event_shape``; their numbers from 0, shape ``m``; a sentence for every other number.

        Raises:
            InputError: as :meth:`encode`, where the columns are wrong or no row can be encoded.
        """
        if isinstance(x, Data | RandomisedRows):
            rows = self.encode(x)
            return rows, np.arange(len(rows)), {}
        encoded, kept, refused = self.schema.encode_each(x if isinstance(x, Raw) else from_array(x))
        return RandomisedRows(encoded.to(self.place.device), self.view, self.measure, self.draws), kept, refused

    def view(
        self,
        rows: State,
        replicates: int,
        seed: int,
        round_: int = 0,
        *,
        purpose: str = "dequantise",
        keys: State | None = None,
    ) -> View:
        """Encoded rows in the model's space, dequantised afresh in every replicate by noise that their content keys.

        Args:
            rows: shape ``b *event_shape``.
            replicates: draws of each row; continuous rows are transformed once.
            seed: any integer.
            round_: successive rounds are independent.
            purpose: separates the draws of different uses.
            keys: what keys the draws of each row, ``b k``; default its content.
        """
        if self.dequantiser is not None:
            return keyed_view(self.transforms, rows, replicates, seed, round_, purpose=purpose, keys=keys)
        y, log_det = self.transforms(rows)
        return View.shared(y, log_det, replicates)

    def spread(self, rows: State, generator: torch.Generator, copies: int = COPIES) -> tuple[State, Tensor]:
        """Encoded rows in the model's space, ``copies`` fresh draws of each in succession, with log-determinants.

        Args:
            rows: shape ``n *event_shape``; without a dequantiser nothing is drawn, and they come once.
            generator: source of all draws, on the CPU.
            copies: draws of each row.
        """
        with torch.no_grad():
            if self.dequantiser is None:
                return self.transforms(rows)
            parts = []
            for part in rows.split(max(1, SPREAD_NUMBERS // (copies * rows[:1].numel() or 1))):
                uniform = torch.rand(len(part) * copies, *rows.shape[1:], generator=generator, dtype=torch.float64)
                parts.append(self.transforms(part.repeat_interleave(copies, 0), uniform.to(rows.device)))
            if len(parts) == 1:
                return parts[0]
            y, log_det = zip(*parts, strict=True)
            return torch.cat(y), torch.cat(log_det)

    def inverse(self, y: State) -> State:
        """Rows of the model's space in data units, float64, not yet rounded to a lattice."""
        smooth = [member for member in self.transforms.members if not isinstance(member, Dequantise)]
        return Compose(smooth).inverse(y.double())

    def decode(self, x: State) -> Any:
        """Rows in data units as a user holds them: discrete values on their lattice, categories by name.

        Args:
            x: encoded rows, or what :meth:`inverse` returns, ``n *event_shape``.

        Returns:
            A data frame where the rows of the fit had named columns, as frames and files with a header have, or columns
            of text: under their names, in their order, whole numbers as integers. A float64 tensor of other rows, as
            arrays, tensors and files without a header are: ``n columns`` of tables, ``n *event_shape`` of images.

        Example:
            >>> from girsanov.datasets import load
            >>> iris = load("iris")
            >>> Encoding(iris.schema).decode(iris.x[:2]).iloc[0].to_dict()["petal width (cm)"]
            0.2
        """
        raw = self.schema.decode(x)
        if raw.kind == "images":
            return torch.from_numpy(raw.stack).to(self.place.device)
        if raw.named or any(column.dtype == object for column in raw.columns):
            return raw.to_pandas()
        return torch.stack([torch.from_numpy(column).double() for column in raw.columns], 1).to(self.place.device)


def copies_for(rows: int, wanted: int) -> int:
    """How many draws of each row bring ``rows`` to about ``wanted``, 8 at most.

    Example:
        >>> copies_for(500, 2000), copies_for(10, 2000), copies_for(3000, 2000)
        (4, 8, 1)
    """
    return max(1, min(MOST_COPIES, wanted // rows))
