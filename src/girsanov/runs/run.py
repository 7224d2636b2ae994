"""The one ritual of a run: its folder, the fit, the measures, the report; it goes on where an earlier call stopped."""

__all__ = ["Kind", "Work", "fit_run"]

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from girsanov.environment import versions
from girsanov.runs.budget import Budget
from girsanov.runs.folder import Identity, RunFolder
from girsanov.training import Progress
from girsanov.types import InputError

FORMAT = 2


@dataclass(frozen=True)
class Work:
    """Where a run is made, how long that may take, and who is told.

    Attributes:
        folder: of the run.
        budget: of the whole run.
        progress: what shows the training.
        note: receives a sentence at each stage.
        device: where networks are trained and evaluated.
    """

    folder: RunFolder
    budget: Budget = field(default_factory=Budget)
    progress: Progress | None = None
    note: Callable[[str], None] = lambda _: None
    device: str | torch.device = "cpu"

    def training(self, seconds: float) -> float:
        """Seconds of training, fewer where a source was slow to read."""
        return min(seconds, max(0.1 * seconds, 0.8 * self.budget.left))


class Kind(ABC):
    """What one kind of run plugs into the ritual: its data and settings, a fit, measures and a report."""

    #: of the command that makes such runs
    command: ClassVar[str]

    @abstractmethod
    def within(self, seconds: float | None) -> "Kind":
        """The same, its training limited to its share of the seconds of a whole run."""

    @abstractmethod
    def identity(self) -> Identity:
        """What a folder must have in common with this run, to be gone on with."""

    @classmethod
    @abstractmethod
    def begun(cls, folder: RunFolder) -> Identity | None:
        """The same of what a folder holds; ``None`` if it holds nothing yet.

        Raises:
            InputError: if it holds something else.
        """

    @abstractmethod
    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        """Whether these are the results that this run would have."""

    @abstractmethod
    def fit(self, work: Work) -> Any:
        """Fit, or go on where a fit was stopped, and save the model in the folder."""

    @abstractmethod
    def measure(self, model: Any, work: Work) -> dict[str, Any]:
        """The results, with the seconds of every phase as ``timing``."""

    @classmethod
    @abstractmethod
    def load(cls, folder: RunFolder) -> Any:
        """The model of a complete run."""

    @abstractmethod
    def shown(self, model: Any) -> Any:
        """The held-out rows that the report is about."""

    @classmethod
    @abstractmethod
    def read_again(cls, model: Any) -> Any:
        """The same of the run that a model came from.

        Raises:
            InputError: if the data are gone or have changed.
        """

    @classmethod
    @abstractmethod
    def report(cls, model: Any, metrics: Mapping[str, Any], shown: Any | None, missing: str, work: Work) -> None:
        """Write ``report.html`` and its pictures; ``missing`` says why there are no rows to show."""

    @classmethod
    def write_again(cls, work: Work) -> None:
        """Make the report of a complete run again.

        Raises:
            InputError: if the run is not complete.
        """
        model, metrics = cls.load(work.folder), work.folder.metrics()
        if metrics is None:
            path = work.folder.path
            raise InputError(f"{path} has no metrics.json: run its girsanov {cls.command} command again to complete it")
        try:
            shown, missing = cls.read_again(model), ""
        except InputError as error:
            shown, missing = None, f"This section needs the data, which could not be read again: {error}"
        cls.report(model, metrics, shown, missing, work)


def fit_run(
    kind: Kind,
    out: str | Path,
    *,
    budget: Budget | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Fit a model, measure it on held-out rows and write the folder of the run; goes on where an earlier call stopped.

    Args:
        kind: the data and the settings: :class:`girsanov.runs.DensityRun` or :class:`girsanov.runs.BridgeRun`.
        out: folder of the run.
        budget: of the whole run; what there is no time for shrinks, and says so.
        progress: what shows the training.
        note: receives a sentence at each stage.
        device: where networks are trained and evaluated; peers stay on the CPU.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: for settings or a folder that cannot work; nothing is left behind then.
        Interrupted: on SIGINT or SIGTERM during training, after a checkpoint was saved.
    """
    work = Work(RunFolder(Path(out)), budget or Budget(), progress, note or (lambda _: None), device)
    work.budget.note = work.note
    kind, folder = kind.within(work.budget.seconds), work.folder
    held = kind.begun(folder)
    folder.check(held, kind.identity())
    known = None if held is None else folder.metrics()
    if known is not None and kind.is_complete(known):
        work.note(f"{folder.path} is complete: nothing to fit again")
        if not (folder.path / "report.html").exists():
            kind.write_again(work)
        return known
    begun = time.monotonic()
    model = kind.fit(work)
    found = kind.measure(model, work)
    metrics = {
        "format": FORMAT,
        **found,
        "seconds": round(sum(found["timing"].values()), 1),
        "shortened": work.budget.shortened,
        "versions": versions(),
    }
    folder.write_metrics(metrics)
    work.note(f"drawing samples and writing the report ({time.monotonic() - begun:.0f} s so far)")
    kind.report(model, metrics, kind.shown(model), "", work)
    return metrics
