"""Pages from templates: files that a designer can open, in which every text is escaped and nothing is loaded.

Parts of a page may fail: what cannot be made becomes one sentence in its place, never the end of a run.
"""

__all__ = ["Attempts", "Section", "anchor", "render"]

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from girsanov.reports.numbers import fact, number, plus_minus, sensible, signs
from girsanov.training import Interrupted
from girsanov.types import InputError

T = TypeVar("T")


def anchor(title: str) -> str:
    """The address of a section within its page.

    Example:
        >>> anchor("Data, settings, versions")
        'data-settings-versions'
    """
    return re.sub(r"\W+", "-", title.lower()).strip("-")


TEMPLATES = Environment(
    loader=PackageLoader("girsanov.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "anchor": anchor,
    "exp": math.exp,
    "fact": fact,
    "number": number,
    "plus_minus": plus_minus,
    "sensible": sensible,
    "signs": signs,
}


def render(name: str, **values: Any) -> str:
    """HTML of a page or of a part of one.

    Args:
        name: of a file in ``templates``.
        values: what it shows; texts are escaped there, drawings and parts that were rendered before are not.

    Example:
        >>> render("sentence", text="a < b")
        '<p>a &lt; b</p>'
    """
    return TEMPLATES.get_template(f"{name}.html").render(**values)


@dataclass(frozen=True)
class Section:
    """A part of a page: its title, its HTML, and whether it is folded."""

    title: str
    html: str
    folded: bool = False


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

    def page(
        self,
        title: str,
        subtitle: str,
        builders: Mapping[str, Callable[[Any], str]],
        contents: Any,
        *,
        folded: frozenset[str] = frozenset(),
    ) -> str:
        """HTML of the page whose sections the builders make of the contents; one that failed says so in its place.

        Sections without content are left out; those that are ``folded`` open when they are asked for, and on paper.
        """
        found = []
        for name, build in builders.items():
            html = None if name in self.failed else self(name, partial(build, contents))
            if html is None:
                html = render("sentence", text=f"This section could not be made: {self.failed[name]}.")
            found += [Section(name, html, name in folded)] if html else []
        return render("page", title=title, subtitle=subtitle, sections=found)
