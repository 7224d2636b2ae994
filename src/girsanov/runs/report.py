"""Making the report of a complete run again, of whichever kind."""

__all__ = ["write_report"]

from collections.abc import Callable
from pathlib import Path

from girsanov.bridge_model import is_bridge_run
from girsanov.runs.bridge import BridgeRun
from girsanov.runs.density import DensityRun
from girsanov.runs.folder import RunFolder
from girsanov.runs.run import Work


def write_report(run: str | Path, *, note: Callable[[str], None] = lambda _: None) -> Path:
    """Make ``report.html``, and ``samples.png`` of a density model, of a complete run again.

    Args:
        run: folder of the run.
        note: receives a sentence for each part that could not be made.

    Returns:
        The path of the report.

    Raises:
        InputError: if the run is not complete.
    """
    folder = RunFolder(Path(run))
    (BridgeRun if is_bridge_run(run) else DensityRun).write_again(Work(folder, note=note))
    return folder.path / "report.html"
