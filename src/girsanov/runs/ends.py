"""Both ends of a bridge: read, checked against each other, and split."""

__all__ = ["NORMAL", "EndSource", "Ends", "read_ends", "source_rows"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from girsanov.datasets import Data, Raw, Schema, Splits, fingerprint, joined, keep_classes, read, split, take
from girsanov.runs.folder import Source
from girsanov.types import InputError, State

NORMAL = "normal"  # the name of the end that is a standard normal law
TEST_SHARE = 0.15
LEAST_ROWS = 30


@dataclass(frozen=True)
class EndSource:
    """Which rows stand at an end.

    Attributes:
        name: a name, file, folder or Hugging Face id; ``normal`` for a standard normal law.
        classes: only rows of these classes, or ``None``.
    """

    name: str
    classes: tuple[str, ...] | None = None

    @property
    def described(self) -> str:
        """For people, such as ``digits (0, 1)``."""
        return self.name if self.classes is None else f"{self.name} ({', '.join(self.classes)})"

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {**asdict(self), "classes": None if self.classes is None else list(self.classes)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EndSource":
        """The inverse of :meth:`to_json`."""
        return cls(record["name"], None if record["classes"] is None else tuple(record["classes"]))


@dataclass(frozen=True)
class Ends:
    """Encoded rows of one or two ends under one schema.

    Attributes:
        schema: of both.
        sources: where they came from; the second may be the normal law.
        x: rows of each end that has some, float64, data units.
        splits: their training and test rows; the validation part is empty.
        reading: what :func:`read_ends` was told beside the sources.
    """

    schema: Schema
    sources: tuple[EndSource, EndSource]
    x: tuple[State, ...]
    splits: tuple[Splits, ...]
    reading: Mapping[str, Any]

    @property
    def fingerprints(self) -> list[str]:
        """Hash of the rows of each end."""
        return [fingerprint(x) for x in self.x]

    @property
    def described(self) -> list[str]:
        """A sentence on each end, for people."""
        shape = tuple(self.schema.event_shape)
        return [f"{e.described}: {len(x):,} rows of shape {shape}" for e, x in zip(self.sources, self.x, strict=False)]

    def part(self, end: int, name: str) -> Data:
        """Rows of an end: its ``train`` or ``test`` part."""
        rows = self.x[end][getattr(self.splits[end], name)]
        return Data(rows, None, None, self.schema, self.sources[end].described, None)


def source_rows(source: EndSource) -> Raw:
    """The rows of an end as their source holds them.

    Raises:
        InputError: one sentence, for everything that can be wrong with it.
    """
    raw = read(source.name)
    return raw if source.classes is None else take(raw, keep_classes(raw, source.classes))


def read_ends(
    source: EndSource,
    target: EndSource,
    *,
    categorical: bool = False,
    drop: Sequence[str] = (),
    missing_as_level: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> Ends:
    """Read both ends and fit one schema to them.

    Args:
        source: the start.
        target: the end; the name ``normal`` stands for a standard normal law.
        categorical: one-hot encode text columns.
        drop: names of columns to leave out.
        missing_as_level: names of text columns whose cells that look missing are levels.
        limit: keep so many rows of each end, chosen at random.
        seed: chooses and splits them.

    Raises:
        InputError: if an end cannot be read, the two do not fit each other, or have too few rows.

    Example:
        >>> ends = read_ends(EndSource("iris", ("setosa",)), EndSource("iris", ("virginica",)))
        Traceback (most recent call last):
        girsanov.types.InputError: iris: has no classes to choose from; leave the choice of classes out.
        >>> digits = read_ends(EndSource("digits", ("0", "1")), EndSource("digits", ("7",)))
        >>> [len(x) for x in digits.x], len(digits.part(1, "test"))
        ([360, 179], 27)
    """
    if source.name == NORMAL:
        raise InputError("The start of a bridge is data; give normal as the TARGET")
    known = target.name == NORMAL
    if known and target.classes is not None:
        raise InputError("A normal law has no classes: leave --target-classes out")
    raws = [_limited(source_rows(end), limit, seed) for end in ((source,) if known else (source, target))]
    columns: Any = {"categorical": categorical, "drop": list(drop), "missing_as_level": list(missing_as_level)}
    for raw in raws:
        if len(raw) < LEAST_ROWS:
            raise InputError(f"{raw.name}: {len(raw)} rows are too few for a bridge; give at least {LEAST_ROWS}.")
        single = Schema.infer(raw, **columns)  # so that errors name the file and its own rows
    both = raws[0] if known else joined(*raws)
    schema = single if known else Schema.infer(both, **columns)
    x = tuple(schema.encode(raw) for raw in raws)
    splits = tuple(split(len(raw), seed=seed, test=TEST_SHARE, validation=0.0, n_train=raw.n_train) for raw in raws)
    reading = columns | {"limit": limit, "seed": seed}
    return Ends(schema, (source, target), x, splits, reading)


def _limited(raw: Raw, limit: int | None, seed: int) -> Raw:
    index = Source(str(raw.name), limit, seed).chosen(len(raw))
    return raw if len(index) == len(raw) else take(raw, index.numpy())
