"""A fitted bridge with the encoding of its rows: rows of two sources, moved from one end to the other."""

__all__ = [
    "DATA_FILE",
    "BridgeModel",
    "describe_units",
    "is_bridge_run",
    "read_record",
    "read_units",
    "spread_units",
    "write_record",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from girsanov.bridges import SchrodingerBridge
from girsanov.bridges.chain import rows_at_once
from girsanov.bridges.storage import BRIDGE, bridge_tensors
from girsanov.datasets import Data, Schema
from girsanov.display import Shown, Summary
from girsanov.encoding import Encoding
from girsanov.files import read_json, write_json
from girsanov.hub import Card
from girsanov.likelihoods.estimator import RandomisedRows, View
from girsanov.pairs import Direction, Noise
from girsanov.randomness import KeyedStreams, apart, keyed_generators, keyed_normal, mix
from girsanov.transforms import Dequantise, Standardise
from girsanov.types import InputError, State, require_count

FORMAT = 2
DATA_FILE = "data.json"
USAGE = "from girsanov.bridge_model import BridgeModel\n\nprint(BridgeModel.load({source!r}))"


def is_bridge_run(folder: str | Path) -> bool:
    """Whether a folder holds, or is to hold, a bridge."""
    return (Path(folder) / DATA_FILE).is_file()


@dataclass(frozen=True, repr=False)
class BridgeModel(Shown):
    """A bridge between the rows of two sources, in their own units.

    Attributes:
        bridge: fitted, in units of the spread.
        encoding: of the rows of both ends, to these units.
        record: where both ends came from, how the data were read, their hashes, the settings.
    """

    bridge: SchrodingerBridge
    encoding: Encoding
    record: dict[str, Any]

    def _summary(self) -> Summary:
        source, target = (PurePath(str(self.record[end]["name"])).name for end in ("source", "target"))
        shape = " × ".join(map(str, self.schema.event_shape))
        facts = {"rows": f"of {shape} numbers, in their own units", "bridge": f"sigma {self.record['sigma']:g} spreads"}
        hint = "model.translate(x, direction='forward') moves rows to the other end"
        return Summary(f"Bridge from {source} to {target}", facts, hint=hint)

    @classmethod
    def load(cls, folder: str | Path) -> "BridgeModel":
        """Read the folder of a run.

        Raises:
            InputError: if it holds no bridge, or files are missing or damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; give that of a run of girsanov bridge")
        if not is_bridge_run(folder):
            raise InputError(f"{folder} holds no bridge: give the folder of a run of girsanov bridge")
        if not (folder / "manifest.json").is_file():
            raise InputError(f"{folder} is not complete: run its girsanov bridge command again")
        record = read_record(folder)
        return cls(SchrodingerBridge.from_pretrained(folder), read_units(record), record)

    def save(self, folder: Path) -> None:
        """Write the bridge's files into the folder of the run, the manifest last."""
        told = self._summary()
        lead = "It moves rows of either end to the other, in their own units; girsanov translate does it too."
        card = Card(told.title, lead, USAGE, facts=dict(told.facts), tags=["schrodinger-bridge"]).text()
        BRIDGE.write_into(folder, self.bridge.description(), bridge_tensors(self.bridge.sections), card=card)

    @property
    def schema(self) -> Schema:
        """Of the rows of both ends."""
        return self.encoding.schema

    def encode(self, x: Any) -> RandomisedRows:
        """Rows of either end as the user has them, encoded; see :meth:`girsanov.encoding.Encoding.encode`."""
        return self.encoding.encode(x)

    def view(self, rows: RandomisedRows, *, purpose: int = 0) -> View:
        """Rows in units of the spread, discrete columns with noise of one step, each seen once.

        Args:
            rows: as :meth:`encode` returns them.
            purpose: keys the noise, beside the seed of the run and the row itself.
        """
        x = rows.rows
        return self.encoding.view(x, 1, mix(self.seed, 100 + purpose), purpose="bridge", keys=apart(x))

    def placed(self, rows: RandomisedRows, *, purpose: int = 0) -> State:
        """What :meth:`view` sees as the bridge takes it, where its networks are."""
        seen = self.view(rows, purpose=purpose).x.to(torch.get_default_dtype())
        return seen.reshape(-1, *self.bridge.event_shape).to(self.bridge.device)

    def scaled(self, rows: Data) -> State:
        """Rows in units of the spread, without noise, in the default dtype."""
        return self.encoding.transforms.members[-1](rows.x.double())[0].to(torch.get_default_dtype())

    def left(self, y: State) -> State:
        """The bridge's units to data units, unrounded, ``n *event_shape``, on the CPU."""
        return self.encoding.inverse(y.detach().cpu().reshape(-1, *self.schema.event_shape))

    def data(self, x: State) -> Data:
        """Unrounded rows in data units as the source would hold them: discrete columns on their lattice; encoded."""
        rounded = self.schema.encode(self.schema.decode(x)) if self.schema.discrete else x
        return Data(rounded, None, None, self.schema, "moved rows", None)

    def translate(self, x: Any, direction: Direction = "forward", *, seed: int | None = None) -> Any:
        """Move rows to the other end.

        Args:
            x: rows as the user has them: arrays, tensors, data frames or :class:`girsanov.datasets.Data`.
            direction: ``forward`` from the source to the target, or ``backward``.
            seed: of the noise, which is keyed by each row: a row moves to the same place whichever rows are moved with
                it, and one that occurs again to another. That of the run when omitted.

        Returns:
            Rows at the other end in the form that the ends had, a data frame (with the index of the one that was given)
            or a float64 tensor, discrete columns on their lattice; rows of a normal law as a tensor.
        """
        moved = self.moved(x, direction, seed=seed).x
        if self.known_end and direction == "forward":
            return moved
        found = self.encoding.decode(moved)
        return found.set_axis(x.index) if hasattr(found, "columns") and hasattr(x, "columns") else found

    def moved(self, x: Any, direction: Direction = "forward", *, seed: int | None = None) -> Data:
        """What :meth:`translate` returns, encoded."""
        rows = self.encode(x)
        y = self.placed(rows, purpose=0 if seed is None else self._seed(seed))
        streams = _streams(rows.rows, mix(self._seed(seed), 200))
        moved, size = [], rows_at_once(y)
        for begin in range(0, len(y), size):
            block = y[begin : begin + size]
            noise = _noise(streams[begin : begin + size], block)
            moved.append(self.bridge.sample(block, direction, noise=noise))
        found = self.left(torch.cat(moved))
        if self.known_end and direction == "forward":
            return Data(found, None, None, self.schema, "rows of the law", None)
        return self.data(found)

    def draw(self, n: int, *, seed: int | None = None) -> Data:
        """Rows that start as draws of the known end, encoded."""
        generator = torch.Generator().manual_seed(mix(self._seed(seed), 500, 3) % 2**31)
        return self.data(self.left(self.bridge.sample(n, "backward", generator=generator)))

    def paths(self, x: Any, direction: Direction = "forward") -> Tensor:
        """Whole paths of rows as the user has them, in data units, unrounded: shape ``m n *event_shape``."""
        rows = self.encode(x)
        noise = _noise(_streams(rows.rows, mix(self.seed, 200)), y := self.placed(rows))
        states = self.bridge.sample(y, direction, return_path=True, noise=noise)
        return torch.stack([self.left(state) for state in states])

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.record["settings"]["seed"])

    def _seed(self, given: int | None) -> int:
        return self.seed if given is None else require_count("seed", given, 0)

    @property
    def known_end(self) -> bool:
        """Whether the target is a law whose density is known."""
        return self.bridge.sections.prior is not None


def spread_units(schema: Schema, ends: Sequence[State]) -> Encoding:
    """The encoding in whose space rows have mean about 0 and spread about 1.

    Args:
        schema: of the rows; the pixels of images have one centre and one scale.
        ends: encoded rows ``n *event_shape`` of one or two ends, which count alike; the spread is that within the ends.

    Example:
        >>> from girsanov.datasets import continuous_table
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> describe_units(spread_units(continuous_table(x).schema, [x, x + 10.0]))["units"]
        {'centre': [5.0], 'scale': [1.0]}
    """
    centre = torch.stack([x.mean(0) for x in ends]).mean(0)
    variance = torch.stack([x.var(0, correction=0) for x in ends]).mean(0)
    if schema.kind == "images":
        centre, variance = centre.mean().expand(centre.shape), variance.mean().expand(variance.shape)
    # a coordinate that is constant within the ends has the scale of its step between them, or 1
    between = (ends[0].mean(0) - ends[-1].mean(0)).abs()
    scale = torch.where(variance > 0, variance.sqrt(), torch.where(between > 0, between, 1.0))
    return _units(schema, centre, scale)


def _units(schema: Schema, centre: Tensor, scale: Tensor) -> Encoding:
    found = Encoding(schema)
    if schema.discrete:
        found = found.then(Dequantise(schema.event_shape, schema.bin_width, schema.offset))
    return found.then(Standardise(schema.event_shape, centre, scale))


def describe_units(encoding: Encoding) -> dict[str, Any]:
    """Schema, centre and scale as JSON."""
    affine = encoding.transforms.members[-1]
    assert isinstance(affine, Standardise)
    units = {"centre": affine.mean.tolist(), "scale": affine.scale.tolist()}
    return {"schema": encoding.schema.to_json(), "units": units}


def read_units(record: Mapping[str, Any]) -> Encoding:
    """The inverse of :func:`describe_units`."""
    parts = (torch.tensor(record["units"][name], dtype=torch.float64) for name in ("centre", "scale"))
    return _units(Schema.from_json(record["schema"]), *parts)


def _streams(x: State, seed: int) -> KeyedStreams:
    return keyed_generators(seed, "bridge", apart(x))


def _noise(streams: KeyedStreams, y: State) -> Noise:
    """Standard normal blocks for rows ``n *d``: ``count -> count n *d``."""
    return lambda count: keyed_normal(streams, (count, *y.shape[1:]), y).movedim(1, 0)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``data.json``.

    Raises:
        InputError: if it is damaged or of another version.
    """
    path = folder / DATA_FILE
    record = read_json(path)
    if record.get("format") != FORMAT or record.get("kind") != "bridge":
        raise InputError(f"{path} is not of a bridge of format {FORMAT}: use the version of girsanov that wrote it")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``data.json``."""
    write_json(folder / DATA_FILE, {"format": FORMAT, "kind": "bridge", **record})
