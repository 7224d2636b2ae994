"""A fitted bridge with what it needs to move rows of files: the schema, the units and where both ends came from."""

__all__ = ["DIRECTIONS", "BridgeModel", "Direction", "is_bridge_run", "read_record", "to_units", "write_record"]

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from girsanov.bridges import SchrodingerBridge
from girsanov.bridges.chain import rows_at_once
from girsanov.datasets import Schema
from girsanov.files import parse_json, write_bytes_atomic, write_text_atomic
from girsanov.pairs import Noise
from girsanov.randomness import KeyedStreams, keyed_generators, keyed_normal, keyed_uniform, mix
from girsanov.runs.ends import Ends, EndSource, Units, read_ends
from girsanov.types import InputError, State

FORMAT = 1
DATA_FILE = "data.json"
Direction = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")


def is_bridge_run(folder: str | Path) -> bool:
    """Whether a folder holds, or is to hold, a bridge."""
    return (Path(folder) / DATA_FILE).is_file()


@dataclass(frozen=True)
class BridgeModel:
    """A bridge between the rows of two sources, in their own units.

    Attributes:
        bridge: fitted, in units of :attr:`units`.
        schema: of the rows of both ends.
        units: scale of every coordinate.
        sources: what stands at both ends.
        record: how the data were read, their hashes, the settings.
    """

    bridge: SchrodingerBridge
    schema: Schema
    units: Units
    sources: tuple[EndSource, EndSource]
    record: dict[str, Any]

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
        sources = (EndSource.from_json(record["source"]), EndSource.from_json(record["target"]))
        bridge = SchrodingerBridge.from_pretrained(folder)
        return cls(bridge, Schema.from_json(record["schema"]), Units.from_json(record["units"]), sources, record)

    def save(self, folder: Path) -> None:
        """Write the bridge's files into the folder of the run, the manifest last."""
        aside = folder / "saving"
        shutil.rmtree(aside, ignore_errors=True)
        self.bridge.save_pretrained(aside)
        for name in ("config.json", "model.safetensors", "manifest.json"):
            write_bytes_atomic(folder / name, (aside / name).read_bytes())
        shutil.rmtree(aside)

    def ends(self) -> Ends:
        """The rows that the bridge was fitted to, read again.

        Raises:
            InputError: if they are gone or have changed.
        """
        reading = self.record["reading"]
        ends = read_ends(*self.sources, **reading)
        if ends.fingerprints != self.record["fingerprints"]:
            raise InputError("the rows have changed since the fit, so the held-out ones are unknown.")
        return ends

    def encode(self, x: State, *, purpose: int = 0) -> State:
        """Data units to the bridge's, where its networks are: discrete columns get uniform noise of one step.

        Args:
            x: rows as the schema encodes them, ``n *event_shape``.
            purpose: keys the noise, beside the seed of the run and the row itself.
        """
        uniform = keyed_uniform(_streams(x, mix(self.seed, 100 + purpose)), x.shape[1:], x)
        rows = to_units(x, self.schema, self.units, uniform).reshape(-1, *self.bridge.event_shape)
        return rows.to(self.bridge.device)

    def decode(self, y: State) -> State:
        """The bridge's units to data units, unrounded, ``n *event_shape``, on the CPU."""
        return self.units.decode(y.cpu().reshape(-1, *self.schema.event_shape))

    def rounded(self, x: State) -> State:
        """Rows in data units as the source would hold them: discrete columns on their lattice."""
        return self.schema.encode(self.schema.decode(x)) if self.schema.discrete else x

    def translate(self, x: State, direction: Direction = "forward", *, seed: int | None = None) -> State:
        """Move rows to the other end.

        Args:
            x: rows as the schema encodes them, ``n *event_shape``, data units.
            direction: ``forward`` from the source to the target, or ``backward``.
            seed: of the noise, which is keyed by each row: a row moves to the same place whichever rows are moved with
                it, and one that occurs again to another. That of the run when omitted.

        Returns:
            Rows at the other end in data units, discrete columns rounded; a normal law's are not.
        """
        y, streams = self.encode(x, purpose=0 if seed is None else seed), _streams(x, mix(self._seed(seed), 200))
        moved, size = [], rows_at_once(y)
        for begin in range(0, len(y), size):
            block = y[begin : begin + size]
            noise = _noise(streams[begin : begin + size], block)
            moved.append(self.bridge.sample(block, direction, noise=noise))
        found = self.decode(torch.cat(moved))
        return found if self.known_end and direction == "forward" else self.rounded(found)

    def draw(self, n: int, *, seed: int | None = None) -> State:
        """Rows in data units that start as draws of the known end."""
        generator = torch.Generator().manual_seed(mix(self._seed(seed), 500, 3) % 2**31)
        return self.rounded(self.decode(self.bridge.sample(n, "backward", generator=generator)))

    def paths(self, x: State, direction: Direction = "forward") -> Tensor:
        """Whole paths of rows in data units, unrounded: shape ``m n *event_shape``."""
        noise = _noise(_streams(x, mix(self.seed, 200)), y := self.encode(x))
        states = self.bridge.sample(y, direction, return_path=True, noise=noise)
        return torch.stack([self.decode(state) for state in states])

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.record["settings"]["seed"])

    def _seed(self, given: int | None) -> int:
        return self.seed if given is None else given

    @property
    def known_end(self) -> bool:
        """Whether the target is a law whose density is known."""
        return self.bridge.prior is not None


def to_units(x: State, schema: Schema, units: Units, uniform: Tensor) -> State:
    """Rows in units of the spread, dequantised by ``uniform`` draws on [0, 1) of their shape."""
    return units.encode(x + schema.bin_width * (uniform - 0.5) if schema.discrete else x)


def _streams(x: State, seed: int) -> KeyedStreams:
    """Randomness of each row by its content and how often it stood there before: copies do not share it."""
    flat = x.flatten(1).double().cpu()
    _, number = flat.unique(dim=0, return_inverse=True)
    order = number.argsort(stable=True)
    place = torch.empty_like(order).index_put((order,), torch.arange(len(order)))
    first = torch.searchsorted(number[order], number)
    return keyed_generators(seed, "bridge", torch.cat([flat, (place - first)[:, None]], 1))


def _noise(streams: KeyedStreams, y: State) -> Noise:
    """Standard normal blocks for rows ``n *d``: ``count -> count n *d``."""
    return lambda count: keyed_normal(streams, (count, *y.shape[1:]), y).movedim(1, 0)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``data.json``.

    Raises:
        InputError: if it is damaged or of another version.
    """
    path = folder / DATA_FILE
    record = parse_json(path.read_bytes(), str(path))
    if record.get("format") != FORMAT or record.get("kind") != "bridge":
        raise InputError(f"{path} is not of a bridge of format {FORMAT}: use the version of girsanov that wrote it")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``data.json``."""
    text = json.dumps({"format": FORMAT, "kind": "bridge", **record}, allow_nan=False) + "\n"
    write_text_atomic(folder / DATA_FILE, text)
