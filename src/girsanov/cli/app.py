"""The application: its commands, and the one place where failures become an exit code and a line.

0 is success, 1 a self-test that failed, 2 bad input (one line, no traceback), 130 and 143 follow SIGINT and SIGTERM.
"""

__all__ = ["app", "main"]

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.completion import (
    Shells,  # pyright: ignore[reportPrivateImportUsage]
    completion_init,  # pyright: ignore[reportPrivateImportUsage]
    install_callback,
    show_callback,
)

from girsanov import __version__
from girsanov.cli import anomalies, bridge, classify, doctor, evaluate, fit, inspect, merge, sample, test
from girsanov.cli.options import spread
from girsanov.cli.output import UsageError, emit

BAD_INPUT = 2

app = typer.Typer(
    name="girsanov",
    help="Likelihoods you can trust, for diffusion models.",
    epilog="Example: girsanov fit digits --out runs/digits",
    no_args_is_help=True,
    add_completion=False,  # typer's own options guess the shell, which a script or a pipe has none of; see _options
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, tuple[Callable[..., Any], str]] = {  # in the order of --help, each with an example
    "fit": (fit.fit, "girsanov fit data.csv --out runs/data --time-budget 600"),
    "evaluate": (
        evaluate.evaluate,
        "girsanov evaluate runs/data --likelihood density, "
        "or girsanov evaluate ddpm-cifar10-32 images --data-range=-1,1",
    ),
    "score": (evaluate.score, "girsanov score runs/data new.csv --out scores.csv"),
    "merge": (merge.merge, "girsanov merge scores-1.csv scores-2.csv --out scores.csv"),
    "sample": (sample.sample, "girsanov sample runs/digits -n 36 --out samples.png"),
    "classify": (classify.classify, "girsanov classify runs/digits digits --confidence 0.95 --screen"),
    "anomalies": (anomalies.anomalies, "girsanov anomalies runs/data new.csv --fdr 0.1 --out anomalies.csv"),
    "bridge": (
        bridge.bridge,
        "girsanov bridge before.csv after.csv --out runs/change, or "
        "girsanov bridge digits digits --source-classes 0,1,2,3,4 --target-classes 5,6,7,8,9 --out runs/digits",
    ),
    "translate": (bridge.translate, "girsanov translate runs/change new.csv --out moved.csv"),
    "test": (test.run_test, "girsanov test samples.npy runs/digits --limit 2000"),
    "report": (inspect.report, "girsanov report runs/digits"),
    "datasets": (inspect.datasets, "girsanov datasets"),
    "doctor": (doctor.doctor, "girsanov doctor"),
}
for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example: {_example}")(spread(_command))


class Stopped(BaseException):
    """SIGINT or SIGTERM outside training, where no checkpoint is due; not an ``Exception``, so nothing swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


def _version(value: bool) -> None:
    if value:
        emit(f"girsanov {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    install_completion: Annotated[
        Shells | None,
        typer.Option(
            metavar="SHELL",
            callback=install_callback,
            help="Let the tab key complete commands and options in this shell: bash, zsh, fish or powershell.",
        ),
    ] = None,
    show_completion: Annotated[
        Shells | None,
        typer.Option(metavar="SHELL", callback=show_callback, help="Print the script that does so."),
    ] = None,
) -> None:
    """Likelihoods you can trust, for diffusion models."""
    del version, install_completion, show_completion


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: those of the command line when omitted.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    completion_init()
    previous = _handle_signals()
    try:
        with _company():
            given = None if arguments is None else list(arguments)
            code = app(args=given, prog_name="girsanov", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Stopped as stopped:
        return _say(str(stopped), stopped.exit_code)
    except Exception as error:
        return _exit_code(error)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _company() -> contextlib.AbstractContextManager[Any]:
    """Where a launcher has started several processes, the first leads the command and the others help it."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return contextlib.nullcontext()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns of what is meant
    from girsanov.workers import leading

    return leading()


def _exit_code(error: Exception) -> int:
    """Exit code of an error that was meant for people; any other one is raised again."""
    if isinstance(error, UsageError):
        return _say(str(error), BAD_INPUT)
    if hasattr(error, "format_message"):  # the parser's errors: unknown options, values out of range
        return _say(_parser_message(error), BAD_INPUT)
    from girsanov.types import InputError

    if isinstance(error, InputError):
        return _say(str(error), BAD_INPUT)
    from girsanov.workers import WorkerLostError

    if isinstance(error, WorkerLostError):
        return _say(str(error), error.exit_code)
    raise error


def _parser_message(error: Any) -> str:
    """What the parser has against the words of a command, and where the right ones stand."""
    message = error.format_message().removesuffix(".").replace("Value error, ", "") or "give a command"
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "girsanov"
    return f"{message}: {command} --help lists what there is"


def _say(message: str, code: int) -> int:
    line = " ".join(message.split()).rstrip(".")
    print(f"girsanov: {line}", file=sys.stderr, flush=True)
    return code


def _handle_signals() -> dict[int, Any]:
    """Unwind on a signal, so that temporary files are removed; training installs its own handlers meanwhile.

    Returns:
        The handlers that were there, none outside the main thread.
    """

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
