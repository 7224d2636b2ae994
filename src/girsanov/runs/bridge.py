"""A whole bridge, from two sources to a report: fit, move the held-out rows of both ends, write everything down."""

__all__ = ["fit_bridge_run", "write_bridge_report"]

import contextlib
import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from girsanov.bridge_model import (
    BridgeModel,
    describe_units,
    is_bridge_run,
    read_record,
    read_units,
    spread_units,
    write_record,
)
from girsanov.bridges import AlternatingConfig, JointConfig, NetworkConfig, SchrodingerBridge
from girsanov.bridges.halves import DIRECTIONS
from girsanov.densities import StandardNormal
from girsanov.encoding import Encoding
from girsanov.environment import versions
from girsanov.files import write_bytes_atomic, write_text_atomic
from girsanov.processes import BrownianMotion
from girsanov.randomness import mix
from girsanov.reports import Attempts
from girsanov.reports.bridge import BridgeContents, render_bridge
from girsanov.runs.bridge_config import BridgeConfig
from girsanov.runs.bridge_measures import errors, measured, views
from girsanov.runs.bridge_plan import planned_steps
from girsanov.runs.ends import Ends, EndSource, read_ends
from girsanov.training import Progress
from girsanov.types import InputError, State

FORMAT = 1
ROUND_ROWS = 300  # held-out rows of each end that are moved after each alternation

Note = Callable[[str], None]


def fit_bridge_run(
    ends: Ends,
    out: str | Path,
    config: BridgeConfig,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Fit a bridge, move the held-out rows both ways, and write the folder of the run; goes on where it was stopped.

    Args:
        ends: the data, as :func:`girsanov.runs.read_ends` returns them.
        out: folder of the run.
        config: settings.
        progress: what shows the training.
        note: receives a sentence at each stage.
        device: where the networks are trained and the held-out rows are moved.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: for settings or a folder that cannot work.
        Interrupted: on SIGINT or SIGTERM during training, after a checkpoint was saved.
    """
    note = note or (lambda _: None)
    folder, begun = Path(out), time.monotonic()
    given, config = config, config.completed(ends)
    with _writable(folder):
        known = _begun(folder, ends, config)
    if known is not None and (folder / "metrics.json").is_file():
        note(f"{folder} is complete: nothing to fit again")
        if not (folder / "report.html").exists():
            write_bridge_report(folder, note=note)
        return json.loads((folder / "metrics.json").read_text())
    for sentence in (*ends.described, *ends.schema.notes, *given.notes(ends)):
        note(sentence)
    place = torch.device(device)
    record = known or _record(ends, config, place, note)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record)
    model, rounds = _fitted(ends, folder, record, place, progress, note)
    trained = time.monotonic()
    model.save(folder)
    note("moving the held-out rows of both ends")
    metrics = {
        "format": FORMAT,
        "kind": "bridge",
        **{name: record[name] for name in ("source", "target", "sigma", "steps", "settings")},
        "rows": {
            name: {part: len(getattr(split, part)) for part in ("train", "test")}
            for name, split in zip(("source", "target"), ends.splits, strict=False)
        },
        "test": measured(model, ends),
        "rounds": rounds,
        "history": model.bridge.history,
        "timing": {"training": round(trained - begun, 1), "evaluation": round(time.monotonic() - trained, 1)},
        "seconds": round(time.monotonic() - begun, 1),
        "versions": versions(),
    }
    _write_translated(folder, model, ends)
    write_text_atomic(folder / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _report(folder, model, metrics, ends, "", note)
    return metrics


def write_bridge_report(run: str | Path, *, note: Note | None = None) -> Path:
    """Make ``report.html`` of a complete run again.

    Args:
        run: folder of the run.
        note: receives a sentence for each part that could not be made.

    Raises:
        InputError: if the run is not complete.
    """
    folder = Path(run)
    model = BridgeModel.load(folder)
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{folder} has no metrics.json: run its girsanov bridge command again to complete it")
    metrics = json.loads((folder / "metrics.json").read_text())
    try:
        ends, missing = _read_again(model.record), ""
    except InputError as error:
        ends, missing = None, f"This section needs the data, which could not be read again: {error}"
    return _report(folder, model, metrics, ends, missing, note or (lambda _: None))


def _read_again(record: dict[str, Any]) -> Ends:
    """The rows that a bridge was fitted to.

    Raises:
        InputError: if they are gone or have changed.
    """
    ends = read_ends(*(EndSource.from_json(record[end]) for end in ("source", "target")), **record["reading"])
    if ends.fingerprints != record["fingerprints"]:
        raise InputError("the rows have changed since the fit, so the held-out ones are unknown.")
    return ends


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """What the file system refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write in {folder} ({error.strerror}): choose another --out") from error


def _begun(folder: Path, ends: Ends, config: BridgeConfig) -> dict[str, Any] | None:
    """The record of a run that goes on; ``None`` for a new folder.

    Raises:
        InputError: if the folder is something else, or of other data or settings.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another --out")
    if not is_bridge_run(folder):
        if any(folder.iterdir()):
            raise InputError(f"{folder} holds files that are not of a bridge: choose another --out")
        return None
    record = read_record(folder)
    if record["fingerprints"] != ends.fingerprints:
        names = " and ".join(record[end]["name"] for end in ("source", "target"))
        raise InputError(f"{folder} is a bridge of other rows ({names}): choose another --out")
    for name, value in asdict(config).items():
        if record["settings"].get(name) != value:
            raise InputError(
                f"{folder} was fitted with {name}={record['settings'].get(name)}, not {value}: "
                "choose another --out, or give the same settings"
            )
    return record


def _record(ends: Ends, config: BridgeConfig, place: torch.device, note: Note) -> dict[str, Any]:
    encoding = spread_units(ends.schema, [ends.part(i, "train") for i in range(len(ends.x))])
    record = {
        "source": ends.sources[0].to_json(),
        "target": ends.sources[1].to_json(),
        "reading": dict(ends.reading),
        "fingerprints": ends.fingerprints,
        **describe_units(encoding),
        "sigma": config.sigma,
        "settings": asdict(config),
    }
    blank, rows = _blank(ends, record, 1), _encoded(ends, encoding, config, place)
    if config.time_budget is not None:
        note(f"planning the steps of {config.time_budget:g} s")
    return record | {"steps": planned_steps(blank, rows, config)}


def _blank(ends: Ends, record: dict[str, Any], steps: int, rounds: int | None = None) -> SchrodingerBridge:
    """The bridge before it is fitted."""
    config = BridgeConfig(**record["settings"])
    shape = ends.schema.event_shape
    assert config.rounds is not None
    assert config.paths is not None
    assert config.width is not None
    assert config.chain_steps is not None
    warm = config.warm_start == "minibatch" and rounds is None
    return SchrodingerBridge(
        BrownianMotion(sigma=record["sigma"]),
        event_shape=(math.prod(shape),) if config.network == "mlp" else shape,
        start=config.start,  # type: ignore[arg-type]
        steps=config.chain_steps,
        network=NetworkConfig(width=config.width, blocks=config.blocks),
        alternating=AlternatingConfig(
            rounds=config.rounds if rounds is None else rounds, steps=steps, paths=config.paths,
            batch_size=config.batch_size, warm_start="minibatch" if warm else None, warm_steps=steps,
        ),
        joint=JointConfig(steps=steps, warm_steps=max(1, steps // 2), batch_size=config.batch_size),
    )  # fmt: skip


def _encoded(ends: Ends, encoding: Encoding, config: BridgeConfig, place: torch.device) -> list[State]:
    """Training rows of each end in the units and shape of the bridge."""
    rows = []
    for i in range(len(ends.x)):
        generator = torch.Generator().manual_seed(mix(config.seed, 400, i) % 2**31)
        x = encoding.spread(ends.part(i, "train"), generator, copies=1)[0].to(torch.get_default_dtype())
        rows.append((x.flatten(1) if config.network == "mlp" else x).to(place))
    return rows


def _fitted(
    ends: Ends, folder: Path, record: dict[str, Any], place: torch.device, progress: Progress | None, note: Note
) -> tuple[BridgeModel, list[dict[str, Any]]]:
    """The model, and the errors of both directions after each alternation, the closed-form start being number 0."""
    config = BridgeConfig(**record["settings"])
    bridge, encoding = _blank(ends, record, record["steps"]), read_units(record)
    rows, model = _encoded(ends, encoding, config, place), BridgeModel(bridge, encoding, record)
    generator = torch.Generator().manual_seed(config.seed)
    checkpoints = folder / "checkpoints"
    if len(rows) == 1:
        prior = StandardNormal()
        bridge.fit(rows[0], prior=prior, generator=generator, run=checkpoints, progress=progress)
        return model, []
    rounds: list[dict[str, Any]] = []

    def look(fitted: SchrodingerBridge, number: int) -> None:
        entry = errors(dataclasses.replace(model, bridge=fitted), ends, rows=ROUND_ROWS)
        rounds.append({"round": number, **entry})
        distances = ", ".join(f"{way} {entry[way]['energy']:.4f}" for way in DIRECTIONS)
        note(f"{'start' if number == 0 else f'round {number} of {config.rounds}'}: energy distance {distances}")

    if config.start != "mixture":  # whose potentials would be fitted twice
        look(_blank(ends, record, 1, rounds=0).fit(*rows), 0)
    bridge.fit(*rows, generator=generator, run=checkpoints, progress=progress, after_round=look)
    return model, rounds


def _write_translated(folder: Path, model: BridgeModel, ends: Ends) -> None:
    """The held-out rows of each end that has some, moved to the other end: a table of numbered rows, or an array."""
    for i, direction in enumerate(DIRECTIONS[: len(ends.x)]):
        moved = model.translate(ends.part(i, "test"), direction)
        raw = model.schema.decode(moved)
        if raw.kind == "images":
            buffer = io.BytesIO()
            np.save(buffer, raw.stack, allow_pickle=False)
            write_bytes_atomic(folder / f"{direction}.npy", buffer.getvalue())
            continue
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *(raw.names or ())])
        for row, *cells in zip(ends.splits[i].test.tolist(), *(c.tolist() for c in raw.columns), strict=True):
            writer.writerow([row + 1, *(f"{cell:.12g}" if isinstance(cell, float) else cell for cell in cells)])
        write_text_atomic(folder / f"{direction}.csv", text.getvalue())


def _report(
    folder: Path, model: BridgeModel, metrics: dict[str, Any], ends: Ends | None, missing: str, note: Note
) -> Path:
    sources = tuple(EndSource.from_json(model.record[end]).described for end in ("source", "target"))
    contents = BridgeContents(sources, metrics, model.schema, missing=missing)
    attempts = Attempts(note)
    shown = None if ends is None else attempts("Both ends", lambda: views(model, ends))
    contents = contents if shown is None else dataclasses.replace(contents, views=shown)
    write_text_atomic(folder / "report.html", render_bridge(contents, attempts))
    return folder / "report.html"
