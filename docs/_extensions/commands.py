"""The command line by itself: every verb with its help, options, defaults and example, as ``--help`` has them."""

import re
from itertools import groupby
from typing import Any

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from girsanov.cli.app import app

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#$|])")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")


def reference() -> str:
    """The whole of it as Markdown."""
    verbs: Any = typer.main.get_command(app)
    return "\n".join(_verb(name, command) for name, command in verbs.commands.items() if not command.hidden)


def _verb(name: str, command: Any) -> str:
    """One verb: what it does, how it is called, an example, and its options by panel."""
    context = command.context_class(command, info_name=f"girsanov {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    examples = command.epilog.removeprefix("Example: ").split(", or ")
    lines = [f"## girsanov {name}", _plain(command.help), _console([usage])]
    lines += ["For example", _console(examples), f"```{{program}} girsanov {name}\n```"]
    shown = [parameter for parameter in command.params if not parameter.hidden]
    panels = {parameter.rich_help_panel: None for parameter in shown}  # in the order in which they come
    for panel, options in groupby(sorted(shown, key=lambda p: [*panels].index(p.rich_help_panel)), _panel):
        lines += [f"```{{rubric}} {panel}\n```", *(_option(option, context) for option in options)]
    return "\n\n".join(lines) + "\n"


def _console(commands: list[str]) -> str:
    return "\n".join(["```console", *(f"$ {command}" for command in commands), "```"])


def _panel(parameter: Any) -> str:
    return parameter.rich_help_panel or "Arguments"


def _option(parameter: Any, context: Any) -> str:
    names, text = parameter.get_help_record(context)
    return f"````{{option}} {names.replace(' / ', ', ')}\n{_plain(text)}\n````"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, names of options as code."""
    return OPTION.sub(r"`\1`", SPECIAL.sub(r"\\\1", text))


class Commands(SphinxDirective):
    """``{commands}``: all verbs, each with a heading."""

    def run(self) -> list[nodes.Node]:
        """Parse the reference where the directive stands."""
        return self.parse_text_to_nodes(reference(), allow_section_headings=True)


def setup(app: Any) -> dict[str, bool]:
    """Know the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
