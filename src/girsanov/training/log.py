"""The log of a run: one JSON object per line, append-only, no step twice even after a kill."""

__all__ = ["Record", "TrainLog"]

import json
from pathlib import Path
from typing import TypeAlias, final

from girsanov.files import parse_json, write_atomic
from girsanov.types import InputError

Record: TypeAlias = dict[str, float | None]


@final
class TrainLog:
    """``train.jsonl``, or only a list in memory.

    Opening it drops what a resume will write again: lines after ``step``, and a last line that a kill has torn.

    Args:
        path: the file, or ``None`` to keep the records in memory only.
        step: completed steps of the checkpoint from which the run goes on.

    Attributes:
        records: all lines so far, those of earlier processes included.

    Example:
        >>> log = TrainLog(None, step=0)
        >>> log.write({"step": 50, "loss": 0.5})
        >>> log.records
        [{'step': 50, 'loss': 0.5}]
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self._path = path
        self.records: list[Record] = []
        if path is None or not path.exists():
            return
        data = path.read_bytes()
        self.records = _valid_records(data, step)
        if "".join(map(_line, self.records)).encode() != data:
            self._rewrite()

    def write(self, record: Record) -> None:
        """Append one line, or complete the last one if it is of the same step."""
        if self.records and self.records[-1].get("step") == record.get("step"):
            self.records[-1] |= {name: value for name, value in record.items() if value is not None}
            self._rewrite()
            return
        self.records.append(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def _rewrite(self) -> None:
        if self._path is not None:
            write_atomic(self._path, "".join(map(_line, self.records)))


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _valid_records(data: bytes, step: int) -> list[Record]:
    records: list[Record] = []
    for line in data.split(b"\n"):
        try:
            record = parse_json(line, "train.jsonl")
        except InputError:
            continue
        number, last = record.get("step"), records[-1]["step"] if records else -1
        if type(number) is int and last is not None and last < number <= step:
            records.append(record)
    return records
