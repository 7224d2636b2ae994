"""What a person sees during training: a bar in a terminal or a notebook, lines elsewhere, or nothing."""

__all__ = [
    "LineProgress",
    "NotebookProgress",
    "PartProgress",
    "Progress",
    "RichProgress",
    "SilentProgress",
    "as_progress",
    "default_progress",
]

import html
import os
import sys
import time
from typing import Any, Protocol, TextIO, final

from girsanov.training.log import Record
from girsanov.types import InputError


class Progress(Protocol):
    """Follows a run; called a few times a second at most, by rank 0. What an heir leaves out shows nothing."""

    def stage(self, name: str) -> None:
        """What follows, where a fit is made of several runs: such as a section of a bridge."""

    def say(self, sentence: str) -> None:
        """What was decided, such as the size of a network."""

    def start(self, step: int, total: int) -> None:
        """Training begins, or goes on from a checkpoint."""

    def advance(self, step: int, total: int) -> None:
        """So many steps are completed; the total changes once when a time budget is planned."""

    def report(self, record: Record) -> None:
        """A line was added to the log."""

    def stop(self) -> None:
        """Training is over, or has failed."""


@final
class SilentProgress(Progress):
    """Shows nothing."""


@final
class PartProgress:
    """Progress of a part: its stages are named after the whole's.

    Example:
        >>> progress = PartProgress(LineProgress(sys.stdout, interval=0.0), "day 2 to 3")
        >>> progress.stage("round 1 of 3")
        >>> progress.start(0, 200)
        >>> progress.report({"step": 50, "loss": 0.25})
        day 2 to 3, round 1 of 3: step 50/200  loss 0.25
    """

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name
        self.say, self.start, self.advance = inner.say, inner.start, inner.advance
        self.report, self.stop = inner.report, inner.stop

    def stage(self, name: str) -> None:
        """Name the part and what follows in it."""
        self._inner.stage(f"{self._name}, {name}")


@final
class LineProgress(Progress):
    """Plain lines for logs and pipes, at most one every ``interval`` seconds, however many runs they tell of.

    Args:
        stream: where to print; standard error when omitted.
        interval: seconds between lines.

    Example:
        >>> progress = LineProgress(sys.stdout, interval=0.0)
        >>> progress.start(0, 200)
        >>> progress.advance(50, 200)
        >>> progress.report({"step": 50, "loss": 0.25, "validation": -1.5})
        step 50/200  loss 0.25  validation -1.5
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 15.0) -> None:
        self._stream = stream
        self._interval = interval
        self._total = 0
        self._stage = ""
        self._printed: float | None = None

    def stage(self, name: str) -> None:
        self._stage = f"{name}: "

    def say(self, sentence: str) -> None:
        print(sentence, file=self._stream or sys.stderr, flush=True)

    def start(self, step: int, total: int) -> None:
        """Begin to count the seconds between lines, in the first run."""
        self._total = total
        self._printed = time.monotonic() if self._printed is None else self._printed

    def advance(self, step: int, total: int) -> None:
        self._total = total

    def report(self, record: Record) -> None:
        if self._printed is not None and time.monotonic() - self._printed < self._interval:
            return
        self._printed = time.monotonic()
        text = f"{self._stage}step {record['step']}/{self._total}  {_numbers(record)}"
        print(text.rstrip(), file=self._stream or sys.stderr, flush=True)


@final
class RichProgress(Progress):
    """A bar on standard error: steps, steps per second, time left, loss and validation."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""

    def stage(self, name: str) -> None:
        self._stage = name

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    def start(self, step: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

        self._bar = Bar(
            TextColumn("{task.description}", style="default"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._stage, total=total, completed=step, rate="", note="")
        self._bar.start()

    def advance(self, step: int, total: int) -> None:
        speed = self._bar.tasks[0].speed
        rate = "" if speed is None else f"{speed:.0f}/s"
        self._bar.update(self._task, completed=step, total=total, rate=rate)

    def report(self, record: Record) -> None:
        """Show the newest loss and, until the next one, the newest validation."""
        self._bar.update(self._task, note=_numbers(record))

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@final
class NotebookProgress(Progress):
    """A bar under the cell of a notebook, in its own fonts and colours; gone when training is over."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._stage, self._note, self._said = "", "", ""
        self._step, self._total = 0, 1

    def stage(self, name: str) -> None:
        self._stage = name

    def say(self, sentence: str) -> None:
        self._said = sentence

    def start(self, step: int, total: int) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]  # a notebook has it

        self._step, self._total, self._note = step, total, ""
        if self._handle is None:
            self._handle = display({"text/html": self._page()}, raw=True, display_id=True)

    def advance(self, step: int, total: int) -> None:
        self._step, self._total = step, total
        self._show(self._page())

    def report(self, record: Record) -> None:
        """Show the newest loss and, until the next one, the newest validation."""
        self._note = _numbers(record)
        self._show(self._page())

    def stop(self) -> None:
        self._show("")

    def _show(self, page: str) -> None:
        if self._handle is not None:
            self._handle.update({"text/html": page}, raw=True)

    def _page(self) -> str:
        count = f"{self._step:,} of {self._total:,} steps"
        bar = f'<progress value="{self._step}" max="{max(self._total, 1)}"></progress>'
        text = html.escape("  ".join(filter(None, [count, self._stage, self._note, self._said])))
        return f"<div>{bar} {text}</div>"


def as_progress(given: Progress | bool | None = None) -> Progress:
    """What ``progress=`` of a fit means.

    Args:
        given: what shows the progress; ``None`` a bar in a terminal or a notebook and nothing elsewhere, ``True`` lines
            elsewhere, ``False`` nothing.

    Raises:
        InputError: for anything else.

    Example:
        >>> isinstance(as_progress(False), SilentProgress)
        True
    """
    if isinstance(given, bool):
        return default_progress(quiet=not given)
    if given is None:
        found = default_progress()
        return SilentProgress() if isinstance(found, LineProgress) else found
    if not hasattr(given, "advance"):
        raise InputError(f"progress must be True, False, or an object that shows the progress; got {given!r:.80}")
    return given


def in_notebook() -> bool:
    """Whether this runs under the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def default_progress(*, quiet: bool = False) -> Progress:
    """The progress that suits the process: a bar, lines, or nothing.

    A bar in a terminal or a notebook, lines elsewhere. With the environment variable
    ``NO_COLOR`` there are lines instead of the terminal's bar.

    Args:
        quiet: show nothing.

    Example:
        >>> isinstance(default_progress(quiet=True), SilentProgress)
        True
    """
    if quiet:
        return SilentProgress()
    if in_notebook():
        return NotebookProgress()
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        return RichProgress()
    return LineProgress()


def _numbers(record: Record) -> str:
    shown = ((name, record.get(name)) for name in ("loss", "validation"))
    return "  ".join(f"{name} {value:.4g}" for name, value in shown if value is not None)
