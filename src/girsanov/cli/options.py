"""Options that several commands share, declared once, and the set-up that they ask for.

They stand in dataclasses by the panels of ``--help``: Data, Model, Training, Evaluation, Output. Their words are those
of the library.
"""

__all__ = [
    "Common",
    "Computing",
    "DeviceOption",
    "Devices",
    "JsonOption",
    "MissingAsLevelOption",
    "OnError",
    "OnErrorOption",
    "RunArgument",
    "SamplesOption",
    "ThreadsOption",
    "device_of",
    "listed",
    "out_option",
    "prepare_threads",
    "settings_of",
    "spread",
]

import copy
import csv
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, ClassVar, get_args

import typer

from girsanov.cli.output import UsageError


class Devices(StrEnum):
    """Where a model is evaluated."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class OnError(StrEnum):
    """What becomes of a row that the model cannot have."""

    nan = "nan"
    fail = "fail"


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or a Hugging Face model id.")]
SamplesOption = Annotated[int, typer.Option(min=1, help="Network evaluations per row.")]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        help="A row that the model cannot have (a missing value, an unknown level, off the lattice): nan and a "
        "sentence, or the end of the command.",
        rich_help_panel="Data",
    ),
]
MissingAsLevelOption = Annotated[
    list[str] | None,
    typer.Option(metavar="COL,...", help="Text columns in which what looks missing (NA, None, empty) is a level."),
]
DeviceOption = Annotated[Devices, typer.Option(help="Where to compute.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processor threads.")]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Results as JSON on standard output, all else elsewhere.", rich_help_panel="Output"),
]


def listed(options: Sequence[str] | None) -> list[str]:
    """The names in options that repeat or hold lists; a name with a comma stands in double quotes.

    Example:
        >>> listed(["a,b", '"c,d"'])
        ['a', 'b', 'c,d']
    """
    return [name for row in csv.reader(options or (), skipinitialspace=True) for name in row]


def out_option(text: str, **options: Any) -> Any:
    """``--out``, in its panel."""
    return typer.Option(help=text, rich_help_panel="Output", **options)


@dataclass(frozen=True)
class Computing:
    """What every command that computes can be told."""

    panel: ClassVar[str] = "Evaluation"
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Decides every random choice.")] = 0
    threads: ThreadsOption = None
    device: DeviceOption = Devices.auto
    json: JsonOption = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes.", rich_help_panel="Output")
    ] = False

    def prepare(self) -> Any:
        """Set the number of threads, and return the ``torch.device`` that was asked for.

        Raises:
            UsageError: if CUDA is asked for and missing.
        """
        prepare_threads(self.threads)
        return device_of(self.device)

    def generator(self) -> Any:
        """A new generator of the seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Common(Computing):
    """What every command that evaluates rows can be told."""

    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N rows.", rich_help_panel="Data")
    ] = None


def settings_of(kind: Callable[..., Any], whose: str, **given: Any) -> Any:
    """The settings of a kind, of the options that were given.

    Args:
        kind: their dataclass.
        whose: what such settings are of, in words.
        **given: the options.

    Raises:
        UsageError: for an option that the kind does not have.
    """
    for name in given:
        if name not in inspect.signature(kind).parameters:
            raise UsageError(f"--{name.replace('_', '-')} has no effect on {whose}: leave it out")
    return kind(**given)


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameters that are dataclasses of options stand for those options, one by one.

    Example:
        >>> def command(run: RunArgument, common: Common) -> None: ...
        >>> list(inspect.signature(spread(command)).parameters)
        ['run', 'seed', 'threads', 'device', 'json', 'quiet', 'limit']
    """
    parameters, groups = [], {}
    for parameter in inspect.signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter)
            continue
        group: Any = parameter.annotation
        groups[parameter.name] = group
        parameters += [
            inspect.Parameter(
                f.name, parameter.KEYWORD_ONLY, default=f.default, annotation=_placed(f.type, group.panel)
            )
            for f in fields(group)
        ]

    @wraps(command)
    def gathered(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        return command(**values)

    gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return gathered


def _placed(option: Any, panel: str) -> Any:
    """An option in the panel of its group, unless it names one of its own."""
    kind, info = get_args(option)
    placed = copy.copy(info)
    placed.rich_help_panel = info.rich_help_panel or panel
    return Annotated[kind, placed]


def prepare_threads(threads: int | None) -> None:
    """Set the number of threads before and after PyTorch is loaded.

    Waiting threads soon sleep by default: two busy processes on few processors slow each other down manyfold otherwise.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # a moment's spinning: a fit is 1.4 times quicker than without
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def device_of(device: Devices) -> Any:
    """The ``torch.device`` of an option.

    Raises:
        UsageError: if CUDA is asked for and missing.
    """
    import torch

    present = torch.cuda.is_available()
    if device is Devices.cuda and not present:
        raise UsageError("PyTorch finds no CUDA device here: leave --device out, or give --device cpu")
    return torch.device("cuda" if present and device is not Devices.cpu else "cpu")
