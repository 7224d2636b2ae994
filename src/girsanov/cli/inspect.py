"""``girsanov report`` and ``girsanov datasets``: what is there."""

__all__ = ["datasets", "report"]

from girsanov.cli.options import JsonOption, RunArgument, ThreadsOption, prepare_threads
from girsanov.cli.output import as_json, emit, stderr_note


def report(run: RunArgument, threads: ThreadsOption = None, json: JsonOption = False) -> None:
    """Write report.html (and samples.png of a density model) of a run again."""
    prepare_threads(threads)
    from girsanov.runs import write_report

    path = write_report(run, note=stderr_note(False))
    emit(as_json({"report": str(path)}) if json else f"report: {path}")


def datasets(json: JsonOption = False) -> None:
    """List the data sets that have names; files, folders and Hugging Face ids are DATA too."""
    from girsanov.datasets import names

    found = names()
    if json:
        keys = ("name", "description", "rows", "event_shape")
        emit(as_json([dict(zip(keys, entry, strict=True)) for entry in found]))
        return
    for name, description, rows, shape in found:
        emit(f"{name:14} {rows:6,} rows  {' x '.join(map(str, shape)):10} {description}")
