"""Pages from templates: files that a designer can open, in which every text is escaped and nothing is loaded."""

__all__ = ["number", "render"]

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def number(value: float | None, form: str = "") -> str:
    """A number with a real minus sign, a dash where there is none.

    Example:
        >>> number(-1.5, ".2f"), number(None)
        ('−1.50', '–')
    """
    return "–" if value is None else format(value, form).replace("-", "−")


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
TEMPLATES.filters |= {"exp": math.exp, "fact": fact, "number": number}


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
