"""The run of a bridge between two sources: fit, move the held-out rows of both ends, report."""

__all__ = ["BridgeRun"]

import dataclasses
import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from girsanov.bridge_model import (
    DATA_FILE,
    BridgeModel,
    describe_units,
    read_record,
    read_units,
    spread_units,
    write_record,
)
from girsanov.bridges import SchrodingerBridge
from girsanov.bridges.halves import DIRECTIONS
from girsanov.datasets.frames import csv_text
from girsanov.densities import StandardNormal
from girsanov.encoding import Encoding
from girsanov.randomness import mix
from girsanov.reports import Attempts
from girsanov.reports.bridge import BridgeContents, render_bridge
from girsanov.runs.bridge_config import BridgeConfig, CommonBridgeConfig
from girsanov.runs.bridge_measures import errors, measured, views
from girsanov.runs.bridge_plan import planned_steps
from girsanov.runs.ends import Ends, EndSource, read_ends
from girsanov.runs.folder import Identity, RunFolder
from girsanov.runs.run import Kind, Work
from girsanov.types import InputError, State

TRAINING, MEASURES, REPORT = 0.7, 0.2, 0.1  # shares of a time budget
ROUND_ROWS = 300  # held-out rows of each end that are moved after each alternation


@dataclass(frozen=True)
class BridgeRun(Kind):
    """A bridge between the rows of two ends.

    Attributes:
        ends: the data, as :func:`girsanov.runs.read_ends` returns them.
        config: settings.
    """

    command: ClassVar[str] = "bridge"
    ends: Ends
    config: CommonBridgeConfig

    def within(self, seconds: float | None) -> "BridgeRun":
        """The same, its training limited."""
        if seconds is None:
            return self
        return BridgeRun(self.ends, dataclasses.replace(self.config, time_budget=TRAINING * seconds))

    @cached_property
    def settings(self) -> CommonBridgeConfig:
        """The configuration with what the data decide."""
        return self.config.completed(self.ends)

    def identity(self) -> Identity:
        """By the rows of both ends and the settings."""
        names = " and ".join(end.name for end in self.ends.sources)
        return Identity(names, tuple(self.ends.fingerprints), self.ends.schema.cells, asdict(self.settings))

    @classmethod
    def begun(cls, folder: RunFolder) -> Identity | None:
        """The same of ``data.json``."""
        if folder.is_new((DATA_FILE,)):
            return None
        record = read_record(folder.path)
        names = " and ".join(record[end]["name"] for end in ("source", "target"))
        return Identity(names, tuple(record["fingerprints"]), record["cells"], record["settings"])

    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        """Whatever the results are: the settings are those of the folder."""
        return True

    def fit(self, work: Work) -> BridgeModel:
        """Fit and save, the steps as they were planned when the run began."""
        folder, begun = work.folder, time.monotonic()
        for sentence in (*self.ends.described, *self.ends.schema.notes, *self.config.notes(self.ends)):
            work.note(sentence)
        record = self._record(work) if folder.is_new((DATA_FILE,)) else read_record(folder.path)
        with folder.writable():
            folder.path.mkdir(parents=True, exist_ok=True)
            write_record(folder.path, record)
        model, rounds = self._fitted(record, work)
        model.save(folder.path)
        training = {"rounds": rounds, "seconds": round(time.monotonic() - begun, 1)}
        return dataclasses.replace(model, record=record | {"training": training})

    def _record(self, work: Work) -> dict[str, Any]:
        """What the run is of, and how many steps fit into its time."""
        ends, config = self.ends, self.settings
        encoding = spread_units(ends.schema, [ends.part(i, "train").x for i in range(len(ends.x))])
        record = {
            "source": ends.sources[0].to_json(),
            "target": ends.sources[1].to_json(),
            "reading": dict(ends.reading),
            "fingerprints": ends.fingerprints,
            "cells": ends.schema.cells,
            **describe_units(encoding),
            "sigma": config.sigma,
            "settings": asdict(config),
        }
        if config.time_budget is not None:
            config = dataclasses.replace(config, time_budget=work.training(config.time_budget))
            work.note(f"planning the steps of {config.time_budget:g} s")
        blank, rows = config.blank(ends.schema.event_shape, 1), self._encoded(encoding, work.device)
        return record | {"steps": planned_steps(blank, rows, config)}

    def _encoded(self, encoding: Encoding, place: str | torch.device) -> list[State]:
        """Training rows of each end in the units and shape of the bridge."""
        rows, ends = [], self.ends
        for i in range(len(ends.x)):
            generator = torch.Generator().manual_seed(mix(self.settings.seed, 400, i) % 2**31)
            x = encoding.spread(ends.part(i, "train").x, generator, copies=1)[0].to(torch.get_default_dtype())
            rows.append((x.flatten(1) if self.settings.network == "mlp" else x).to(place))
        return rows

    def _fitted(self, record: dict[str, Any], work: Work) -> tuple[BridgeModel, list[dict[str, Any]]]:
        """The model, and the errors of both directions after each alternation, the closed-form start being number 0."""
        ends, config, encoding = self.ends, self.settings, read_units(record)
        shape = ends.schema.event_shape
        bridge, rows = config.blank(shape, record["steps"]), self._encoded(encoding, work.device)
        model = BridgeModel(bridge, encoding, record)
        options = {"run": work.folder.path / "checkpoints", "progress": work.progress}
        options["generator"] = torch.Generator().manual_seed(config.seed)
        if not isinstance(config, BridgeConfig):
            bridge.fit(rows[0], prior=StandardNormal(), **options)
            return model, []
        rounds: list[dict[str, Any]] = []

        def look(fitted: SchrodingerBridge, number: int) -> None:
            entry = errors(dataclasses.replace(model, bridge=fitted), ends, rows=ROUND_ROWS)
            rounds.append({"round": number, **entry})
            distances = ", ".join(f"{way} {entry[way]['energy']:.4f}" for way in DIRECTIONS)
            name = "start" if number == 0 else f"round {number} of {config.rounds}"
            work.note(f"{name}: energy distance {distances}")

        if config.start != "mixture":  # whose potentials would be fitted twice
            look(config.blank(shape, 1, rounds=0).fit(*rows), 0)
        bridge.fit(*rows, after_round=look, **options)
        return model, rounds

    def measure(self, model: BridgeModel, work: Work) -> dict[str, Any]:
        """Distances of the moved held-out rows, and these rows as files."""
        begun, record = time.monotonic(), model.record
        work.note("moving the held-out rows of both ends")
        test = measured(model, self.ends, work.budget.part(MEASURES / (MEASURES + REPORT)))
        for i in range(len(self.ends.x)):
            self._write_translated(model, i, work)
        sizes = {
            name: {part: len(getattr(split, part)) for part in ("train", "test")}
            for name, split in zip(("source", "target"), self.ends.splits, strict=False)
        }
        return {
            "kind": "bridge",
            **{name: record[name] for name in ("source", "target", "sigma", "steps", "settings")},
            "rows": sizes,
            "test": test,
            "rounds": record["training"]["rounds"],
            "history": model.bridge.history,
            "timing": {"training": record["training"]["seconds"], "evaluation": round(time.monotonic() - begun, 1)},
        }

    def _write_translated(self, model: BridgeModel, end: int, work: Work) -> None:
        """The held-out rows of an end, moved to the other: a table of numbered rows, or an array."""
        direction, folder, held = DIRECTIONS[end], work.folder, self.ends.part(end, "test")
        translate = work.budget.part(0.3).most
        moved = translate(f"rows of {direction}", len(held), lambda n: model.moved(held[:n], direction), least=256)
        raw = model.schema.decode(moved.x)
        if raw.kind == "images":
            buffer = io.BytesIO()
            np.save(buffer, raw.stack, allow_pickle=False)
            folder.write(f"{direction}.npy", buffer.getvalue())
            return
        numbers = 1 + self.ends.splits[end].test[: len(moved)].numpy()  # as people count
        numbered = raw.to_pandas().set_axis(numbers).rename_axis("row").reset_index(allow_duplicates=True)
        folder.write(f"{direction}.csv", csv_text(numbered))

    @classmethod
    def load(cls, folder: RunFolder) -> BridgeModel:
        """The bridge."""
        return BridgeModel.load(folder.path)

    def shown(self, model: BridgeModel) -> Ends:
        """Both ends."""
        return self.ends

    @classmethod
    def read_again(cls, model: BridgeModel) -> Ends:
        """Both ends, read again."""
        record = model.record
        ends = read_ends(*(EndSource.from_json(record[end]) for end in ("source", "target")), **record["reading"])
        if ends.fingerprints != record["fingerprints"]:
            raise InputError("the rows have changed since the fit, so the held-out ones are unknown: bring them back.")
        return ends

    @classmethod
    def report(
        cls, model: BridgeModel, metrics: Mapping[str, Any], shown: Ends | None, missing: str, work: Work
    ) -> None:
        """Write ``report.html``."""
        sources = tuple(EndSource.from_json(model.record[end]).described for end in ("source", "target"))
        contents = BridgeContents(sources, metrics, model.schema, missing=missing)
        attempts = Attempts(work.note)
        found = None if shown is None else attempts("Both ends", lambda: views(model, shown, work.budget))
        contents = contents if found is None else dataclasses.replace(contents, views=found)
        work.folder.write("report.html", render_bridge(contents, attempts))
