"""The application: its commands, and the one place where failures become an exit code and a line.

0 is success, 2 bad input (one line, no traceback), 130 and 143 follow SIGINT and SIGTERM.
"""

__all__ = ["app", "main"]

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import typer

from girsanov import __version__
from girsanov.cli import evaluate, fit, inspect, sample
from girsanov.cli.output import UsageError, emit

BAD_INPUT = 2
INTERRUPT, TERMINATE = 130, 143

app = typer.Typer(
    name="girsanov",
    help="Likelihoods you can trust, for diffusion models.",
    epilog="Example: girsanov fit digits --out runs/digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fit.register(app)
evaluate.register(app)
sample.register(app)
inspect.register(app)


class Terminated(BaseException):
    """SIGTERM outside training, where no checkpoint is due."""


def _version(value: bool) -> None:
    if value:
        emit(f"girsanov {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Likelihoods you can trust, for diffusion models."""
    del version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: those of the command line when omitted.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    previous = _handle_sigterm()
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="girsanov", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _say("stopped", INTERRUPT)
    except Terminated:
        return _say("stopped by SIGTERM", TERMINATE)
    except Exception as error:
        return _exit_code(error)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _exit_code(error: Exception) -> int:
    """Exit code of an error that was meant for people; any other one is raised again."""
    if isinstance(error, UsageError):
        return _say(str(error), BAD_INPUT)
    if hasattr(error, "format_message"):  # the parser's errors: unknown options, values out of range
        return _say(error.format_message() or _no_message(error), BAD_INPUT)  # type: ignore[attr-defined]
    from girsanov.types import InputError

    if isinstance(error, InputError):
        return _say(str(error), BAD_INPUT)
    code = getattr(error, "exit_code", None)
    if code in (INTERRUPT, TERMINATE):
        return _say(str(error), code)
    raise error


def _no_message(error: Exception) -> str:
    return f"give a command ({type(error).__name__}); girsanov --help lists them"


def _say(message: str, code: int) -> int:
    line = " ".join(message.split()).rstrip(".")
    print(f"girsanov: {line}", file=sys.stderr, flush=True)
    return code


def _handle_sigterm() -> Any:
    """Unwind on SIGTERM, so that temporary files are removed; training installs its own handler meanwhile."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        del signum, frame
        raise Terminated

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        return None
