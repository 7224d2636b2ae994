"""Percent scripts as pages: a tutorial is one file, which tests run and readers read."""

import re
from pathlib import Path
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def as_markdown(script: str) -> str:
    r"""Cells of text as they are, cells of code in fences; what stands before the first cell is for editors.

    Example:
        >>> as_markdown("# ---\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n")
        '# Title\n\nText.\n\n```python\nx = 1\n```\n'
    """
    _, *cells = CELL.split(script)
    return "\n\n".join(_cell(kind, text.strip("\n")) for kind, text in zip(cells[::2], cells[1::2], strict=True)) + "\n"


def _cell(kind: str, text: str) -> str:
    return re.sub(r"^# ?", "", text, flags=re.MULTILINE) if "[markdown]" in kind else f"```python\n{text}\n```"


class PercentParser(MystParser):
    """A percent script, and under it the file itself."""

    supported = ("percent",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Fill the document."""
        name = Path(document["source"]).name
        super().parse(f"{as_markdown(inputstring)}\n---\n\nThe page is a script: {{download}}`{name}`.\n", document)


def setup(app: Any) -> dict[str, bool]:
    """Read ``.py`` as percent scripts."""
    app.add_source_suffix(".py", "percent")
    app.add_source_parser(PercentParser)
    return {"parallel_read_safe": True}
