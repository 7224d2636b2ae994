"""Pages from templates: files that a designer can open, in which every text is escaped and nothing is loaded.

Parts of a page may fail: what cannot be made becomes one sentence in its place, never the end of a run.
"""

__all__ = ["Attempts", "number", "render"]

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from girsanov.training import Interrupted
from girsanov.types import InputError

T = TypeVar("T")


def number(value: float | None, form: str = "") -> str:
    """A number with a real minus sign, a dash where there is none.

    Example:
        >>> number(-1.5, ".2f"), number(None)
        ('−1.50', '–')
    """
    return "–" if value is None else format(value, form).replace("-", "−")


def signs(sentence: str) -> str:
    """A sentence with real minus and plus-minus signs before its numbers.

    Example:
        >>> signs("log-SNR from -10.1 to 9.2, off by -0.02 +- 0.04")
        'log-SNR from −10.1 to 9.2, off by −0.02 ± 0.04'
    """
    return re.sub(r"(?<![\w-])-(?=\.?\d)", "−", sentence.replace("+-", "±"))


def fact(value: Any) -> str:
    """A value of a table of facts: numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)


TEMPLATES = Environment(
    loader=PackageLoader("girsanov.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"exp": math.exp, "fact": fact, "number": number, "signs": signs}


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

    def page(self, title: str, subtitle: str, builders: Mapping[str, Callable[[Any], str]], contents: Any) -> str:
        """HTML of the page whose sections the builders make of the contents; one that failed says so in its place.

        Sections without content are left out.
        """
        found = []
        for name, build in builders.items():
            html = None if name in self.failed else self(name, partial(build, contents))
            if html is None:
                html = render("sentence", text=f"This section could not be made: {self.failed[name]}.")
            found.append((name, html))
        return render("page", title=title, subtitle=subtitle, sections=[(name, html) for name, html in found if html])
