"""The settings of a fit of snapshots, kept so that it can be made again without a time, and its plan for a time budget.

Training keeps to its own budget. What must be planned is what lies between the runs of training: the paths that each
projection simulates and validates. They are timed once, and what was decided is written into the folder of the fit, so
that a fit that goes on makes the same paths.
"""

__all__ = ["Recipe", "middle_seconds"]

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.annotated import Snapshots
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.potentials import MixtureStart
from girsanov.bridges.reference_size import ReferenceSize, choose_size
from girsanov.bridges.schrodinger import SchrodingerBridge
from girsanov.bridges.starts import Start, start_from_json
from girsanov.datasets import fingerprint
from girsanov.files import read_json, write_json
from girsanov.processes import BrownianMotion
from girsanov.randomness import mix
from girsanov.training import PartProgress, Progress, as_progress
from girsanov.types import InputError

PLAN = "plan.json"
TRAINED, SIMULATED = 0.8, 0.15  # shares of a budget
VALIDATION = 13  # evaluations of the network for each path, of a projection's validations
LEAST_SECONDS = 1.0  # of a projection: a budget with less for each gets fewer rounds
LEAST_PATHS = 200
TIMED_ROWS = 256


@final
@dataclass(frozen=True)
class Recipe:
    """Settings of a fit, see :func:`girsanov.fit_trajectories`.

    Attributes:
        size: of the reference, where it was given; ``None`` chooses one for every fit, from its own snapshots.
        start: where training starts.
        steps: of a path between two times.
        network: size of the networks.
        alternating: settings of the projections, upper limits where there is a time budget.
        seed: decides everything random.
        device: where to fit.
        run: folder for checkpoints.
        time_budget: seconds of one fit.
    """

    size: ReferenceSize | None
    start: Start | None
    steps: int
    network: NetworkConfig | None
    alternating: AlternatingConfig
    seed: int
    device: torch.device
    run: Path | None
    time_budget: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain values; device and folder are those of the next caller."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("device", "run")}
        return plain | {"size": None if self.size is None else self.size.to_json()}

    @classmethod
    def from_json(cls, plain: dict[str, Any], device: torch.device) -> "Recipe":
        """From what :meth:`to_json` gave."""
        built = {
            "size": None if plain["size"] is None else ReferenceSize.from_json(plain["size"]),
            "start": start_from_json(plain["start"]),
            "network": None if plain["network"] is None else NetworkConfig(**plain["network"]),
            "alternating": AlternatingConfig(**plain["alternating"]),
        }
        return cls(**plain | built, device=device, run=None)

    def fit(
        self, snapshots: Snapshots, number: int = 0, *, progress: Progress | bool = True, folder: str = ""
    ) -> tuple[SchrodingerBridge, ReferenceSize]:
        """A fitted bridge, where the device is, and the size of its reference.

        Args:
            snapshots: at two times or more.
            number: of the fit: other numbers are other seeds.
            progress: what shows the fit; see :func:`girsanov.training.as_progress`.
            folder: under :attr:`run`.
        """
        place = None if self.run is None else self.run / folder
        seed = mix(self.seed, number) % 2**31
        size, settings = self._planned(snapshots, seed, place)
        bridge = self._blank(snapshots, size, settings)
        rows = {t: x.to(self.device) for t, x in snapshots.rows.items()}
        weights = {t: w.to(self.device) for t, w in snapshots.weights.items()} or None
        shown = PartProgress(as_progress(progress), f"sigma {size.sigma:.3g}")
        generator = torch.Generator().manual_seed(seed)
        return bridge.fit(rows, weights=weights, generator=generator, run=place, progress=shown), size

    def _blank(self, snapshots: Snapshots, size: ReferenceSize, settings: AlternatingConfig) -> SchrodingerBridge:
        dim = next(iter(snapshots.rows.values())).shape[1]
        return SchrodingerBridge(
            BrownianMotion(sigma=size.sigma), dim=dim, start=self.start, steps=self.steps,
            network=self.network, alternating=settings,
        )  # fmt: skip

    def _planned(self, snapshots: Snapshots, seed: int, place: Path | None) -> tuple[ReferenceSize, AlternatingConfig]:
        """The size of the reference and the projections, as they were decided when the fit began."""
        begun, cells = time.perf_counter(), self._cells(snapshots)
        kept = None if place is None or not (place / PLAN).is_file() else _read(place, cells)
        if kept is None:
            size = self.size or choose_size(snapshots, self.seed)
            rounds, paths = self._afforded(snapshots, size, begun)
            kept = {"cells": cells, "size": size.to_json(), "rounds": rounds, "paths": paths}
            kept["spent"] = 0.0 if self.time_budget is None else time.perf_counter() - begun
            if place is not None:
                _write(place, kept)
        settings = dataclasses.replace(self.alternating, rounds=kept["rounds"], paths=kept["paths"])
        if self.time_budget is not None:
            left = max(self.time_budget - kept["spent"], 0.1 * self.time_budget)
            runs = self._runs(snapshots, kept["rounds"])
            settings = dataclasses.replace(settings, time_budget=TRAINED * left / max(1, runs))
        return ReferenceSize.from_json(kept["size"]), settings

    def _afforded(self, snapshots: Snapshots, size: ReferenceSize, begun: float) -> tuple[int, int]:
        """Rounds and paths for which there is time."""
        rounds, paths = self.alternating.rounds, self.alternating.paths
        if self.time_budget is None or not rounds:
            return rounds, paths
        evaluation = self._evaluation(snapshots, size)
        left = max(self.time_budget - (time.perf_counter() - begun), 0.1 * self.time_budget)
        while rounds > 1 and left < LEAST_SECONDS * self._runs(snapshots, rounds):
            rounds -= 1
        share = SIMULATED * left / self._runs(snapshots, rounds)
        afforded = int(share / ((self.steps + VALIDATION) * evaluation))
        return rounds, min(paths, max(LEAST_PATHS, afforded))

    def _evaluation(self, snapshots: Snapshots, size: ReferenceSize) -> float:
        """Seconds of one step of one path, with networks as large as those to be trained."""
        settings = dataclasses.replace(self.alternating, rounds=0, warm_start=None)
        start = dataclasses.replace(self.start, steps=1) if isinstance(self.start, MixtureStart) else self.start
        rows = {t: snapshots.rows[t][:TIMED_ROWS].to(self.device) for t in snapshots.times[:2]}
        bridge = dataclasses.replace(self, start=start)._blank(snapshots, size, settings).fit(rows)
        x = rows[snapshots.times[0]]
        return middle_seconds(lambda: bridge.sample(x)) / (len(x) * self.steps)

    def _runs(self, snapshots: Snapshots, rounds: int) -> int:
        """Of training: projections, and mixtures where the fit starts from these."""
        passes = rounds + (self.alternating.warm_start is not None) + isinstance(self.start, MixtureStart)
        return 2 * passes * (len(snapshots.rows) - 1)

    def _cells(self, snapshots: Snapshots) -> str:
        """Identifies the cells and the size that was given."""
        given = "" if self.size is None else repr(self.size.sigma)
        parts = [part[t] for part in (snapshots.rows, snapshots.weights) for t in sorted(part)]
        return " ".join([given, *map(repr, snapshots.times), *(fingerprint(x)[:16] for x in parts)])


def _read(place: Path, cells: str) -> dict[str, Any]:
    plan = read_json(place / PLAN)
    if plan.get("cells") != cells:
        raise InputError(f"{place} holds a fit of other cells, or with another sigma: give another run=")
    return plan


def _write(place: Path, plan: dict[str, Any]) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / PLAN, plan)
    except OSError as error:
        raise InputError(f"cannot write in {place} ({error.strerror}): give another run=") from error


def middle_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The middle of a few timings, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return sorted(found)[repeats // 2]
