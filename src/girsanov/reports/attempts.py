"""Parts of a report that may fail: what cannot be made becomes one sentence in its place, never the end of a run."""

__all__ = ["Attempts"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from girsanov.reports.page import render
from girsanov.training import Interrupted
from girsanov.types import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Attempts:
    """Makes the parts of a report, and keeps why some could not be made.

    Attributes:
        note: receives one sentence for each that failed.
        failed: reasons by the part's title.

    Example:
        >>> attempts = Attempts(print)
        >>> attempts("Curve", lambda: 1 / 0)
        the report's part "Curve" could not be made (ZeroDivisionError: division by zero); the rest is complete
        >>> attempts.failed
        {'Curve': 'ZeroDivisionError: division by zero'}
    """

    note: Callable[[str], None]
    failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, title: str, make: Callable[[], T]) -> T | None:
        """What ``make`` returns, or ``None``. Signals pass."""
        try:
            return make()
        except Interrupted:
            raise
        except Exception as error:  # whatever went wrong, the model and its numbers are worth keeping
            reason = " ".join(str(error).split()).rstrip(".")
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self.failed[title] = kind + reason
            self.note(f'the report\'s part "{title}" could not be made ({kind}{reason}); the rest is complete')
            return None

    def sections(self, builders: Mapping[str, Callable[[], str]]) -> list[tuple[str, str]]:
        """Title and HTML of the sections that are there; one that failed says so in its place."""
        found = []
        for title, build in builders.items():
            html = None if title in self.failed else self(title, build)
            if html is None:
                html = render("sentence", text=f"This section could not be made: {self.failed[title]}.")
            found.append((title, html))
        return [(title, html) for title, html in found if html]
