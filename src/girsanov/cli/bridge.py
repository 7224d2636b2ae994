"""``girsanov bridge`` and ``girsanov translate``: unpaired rows of two sources, and the way between them."""

__all__ = ["bridge", "translate"]

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.options import (
    Common,
    Computing,
    MissingAsLevelOption,
    OnError,
    OnErrorOption,
    listed,
    out_option,
    settings_of,
)
from girsanov.cli.output import UsageError, as_json, emit, note_refused, stderr_note

HEADER = ("direction", "rows", "energy", "true rows", "untouched", "W1", "true rows", "untouched")
LINE = "{:<9} {:>6} {:>9} {:>10} {:>10} {:>9} {:>10} {:>10}"


@dataclass(frozen=True)
class Model:
    """What is fitted."""

    panel: ClassVar[str] = "Model"
    sigma: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="How much a path may stray, in spreads of the columns: smaller keeps rows closer to what they were.",
            show_default="0.5; 1 to normal",
        ),
    ] = None
    chain_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a path.", show_default="40; 20 to normal")
    ] = None
    network: Annotated[
        str | None,
        typer.Option(help="mlp or conv.", show_default="conv for images with even sides of 4 or more, mlp otherwise"),
    ] = None
    width: Annotated[int | None, typer.Option(min=1, help="Units or channels of the networks.")] = None
    blocks: Annotated[int, typer.Option(min=1, help="Residual blocks of the networks.")] = 2


@dataclass(frozen=True)
class Training:
    """How a bridge is fitted."""

    panel: ClassVar[str] = "Training"
    start: Annotated[
        str | None,
        typer.Option(help="Where training starts: gaussian, mixture or reference.", show_default="gaussian"),
    ] = None
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="minibatch: match both halves to pairs of rows by optimal transport first; or none.",
            show_default="minibatch with convolutions",
        ),
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Alternations of both halves; none to normal.", show_default="3; 1 after a warm start"
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of each half in each round.", show_default="1500; 2000 to normal"),
    ] = None
    paths: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Paths simulated for each half; none to normal.",
            show_default="one from each row, 10,000 at most; 4,000 with convolutions",
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per training step.")] = 256


@dataclass(frozen=True)
class Computed(Computing):
    """How the command computes, and how long."""

    panel: ClassVar[str] = "Training"
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds of the whole command: data, training, moving rows, report."),
    ] = None


@dataclass(frozen=True)
class Reading:
    """Which rows, and how they are read."""

    panel: ClassVar[str] = "Data"
    source_classes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of SOURCE, only rows of these classes.")
    ] = None
    target_classes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of TARGET, only rows of these classes.")
    ] = None
    drop: Annotated[list[str] | None, typer.Option(metavar="COL", help="Leave a column out; repeatable.")] = None
    categorical: Annotated[bool, typer.Option("--categorical", help="One-hot encode text columns.")] = False
    missing_as_level: MissingAsLevelOption = None
    limit: Annotated[
        int | None, typer.Option(min=30, metavar="N", help="Use N rows of each end, chosen at random.")
    ] = None

    def options(self) -> dict[str, Any]:
        """How both ends are read."""
        levels = listed(self.missing_as_level)
        return {
            "categorical": self.categorical,
            "drop": self.drop or (),
            "missing_as_level": levels,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class Moving:
    """Which rows are moved, and which way."""

    panel: ClassVar[str] = "Data"
    direction: Annotated[
        str | None, typer.Option(help="forward, from source to target, or backward.", show_default="forward")
    ] = None
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="Of DATA, only rows of these classes.")] = None
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Rows to draw where the end is normal.")] = 64


def bridge(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Rows to start from: a name, file or folder.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Rows to lead to; or the word normal, for a standard normal law.")
    ],
    out: Annotated[Path, out_option("Folder of the run.")],
    *,
    reading: Reading,
    model: Model,
    training: Training,
    computed: Computed,
) -> int:
    """Learn the way from the rows of SOURCE to those of TARGET and back, without pairs of rows.

    Of all ways it is the one that strays least from Brownian motion of the size --sigma (the Schroedinger bridge), so
    that rows change no more than the other end asks for. 15 % of both ends are held out and moved both ways, to
    forward.csv and backward.csv (or .npy), and into a report with errors beside those of true rows. girsanov translate
    moves other rows.

    The same command goes on where an earlier one was stopped.
    """
    begun = time.monotonic()
    device = computed.prepare()
    from girsanov.runs import BridgeConfig, BridgeRun, Budget, EndSource, LawBridgeConfig, fit_run, read_ends
    from girsanov.training import Interrupted, default_progress

    note, progress = stderr_note(computed.quiet), default_progress(quiet=computed.quiet)
    budget = Budget(computed.time_budget, begun=begun)
    given = {name: value for name, value in {**vars(model), **vars(training)}.items() if value is not None}
    kind, whose = (LawBridgeConfig, "a bridge to a normal law") if target == "normal" else (BridgeConfig, "a bridge")
    config = settings_of(kind, whose, **given, seed=computed.seed)
    sources = EndSource(source, _classes(reading.source_classes)), EndSource(target, _classes(reading.target_classes))
    ends = read_ends(*sources, **reading.options(), seed=computed.seed)
    run = BridgeRun(ends, config)
    try:
        metrics = fit_run(run, out, budget=budget, progress=progress, note=note, device=device)
    except Interrupted as interrupted:
        stderr_note(False)("girsanov: saved; run the same command again to go on")
        return interrupted.exit_code
    if computed.json:
        emit(as_json(metrics))
    else:
        emit(_text(metrics))
        emit(f"report: {out / 'report.html'}")
    return 0


def translate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run of girsanov bridge.")],
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Rows to move; of a bridge from a normal law, left out.")
    ] = None,
    on_error: OnErrorOption = OnError.nan,
    out: Annotated[Path | None, out_option("A .csv, .npy or .png file; CSV is printed if left out.")] = None,
    *,
    moving: Moving,
    common: Common,
) -> None:
    """Move rows along a bridge: each row of DATA becomes one of the other end, in its units and columns.

    A row that the bridge cannot have becomes a line of nan, and is named, unless --on-error fail. A bridge to a normal
    law draws --number rows from it instead.
    """
    from girsanov.cli.tables import check_suffix, write_rows

    check_suffix(out)
    chosen = _classes(moving.classes)
    if moving.direction not in (None, "forward", "backward"):
        raise UsageError(f"unknown --direction {moving.direction!r}: give forward or backward")
    device = common.prepare()
    from girsanov.bridge_model import BridgeModel

    model = BridgeModel.load(run)
    model.bridge.to(device)
    note, refused = stderr_note(common.quiet), {}
    if model.known_end:
        rows = _drawn(model, data, moving, chosen, common.seed).x
    else:
        x, refused = _given(model, data, chosen, common.limit, each=on_error is OnError.nan)
        note_refused(refused, note, column=False)
        rows = model.moved(x, moving.direction or "forward", seed=common.seed).x
    write_rows(out, rows, model.schema, json=common.json, note=note, refused=refused)


def _given(
    model: Any, data: str | None, classes: tuple[str, ...] | None, limit: int | None, *, each: bool
) -> tuple[Any, dict[int, str]]:
    """The rows to move, and what is wrong with the others, by their numbers."""
    import numpy as np

    from girsanov.datasets import Data, take
    from girsanov.runs import EndSource
    from girsanov.runs.ends import source_rows

    if data is None:
        raise UsageError("there is nothing to move: give DATA")
    raw = source_rows(EndSource(data, classes))
    raw = raw if limit is None else take(raw, np.arange(min(limit, len(raw))))
    if not each:
        return raw, {}
    x, _, refused = model.schema.encode_each(raw)
    return Data(x, None, None, model.schema, raw.name, None), refused


def _drawn(model: Any, data: str | None, moving: Moving, classes: tuple[str, ...] | None, seed: int) -> Any:
    if data is not None or moving.direction == "forward" or classes is not None:
        raise UsageError(
            "this bridge leads to a normal law, so it draws rows from that: leave DATA, --direction and --classes out"
        )
    return model.draw(moving.number, seed=seed)


def _classes(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError("a choice of classes needs at least one name, such as 0,1")
    return names


def _text(metrics: Any) -> str:
    """The errors of both directions as a table."""
    from girsanov.runs import BridgeConfig

    lines = [LINE.format(*HEADER)]
    for direction in ("forward", "backward"):
        entry = metrics["test"][direction]
        cells = [f"{entry['rows']:,}"]
        for name in ("energy", "wasserstein"):
            values = (entry, entry.get("floor", {}), entry.get("untouched", {}))
            cells += ["–" if v.get(name) is None else f"{v[name]:.4f}".replace("-", "−") for v in values]
        lines.append(LINE.format(direction, *cells))
    if "elbo" in metrics["test"]:
        entry = metrics["test"]["elbo"]
        number = f"{entry['nats']:.3f}".replace("-", "−")
        lines.append(f"bound on held-out rows: {number} nats per row")
    else:
        lines.append(
            f"sigma {metrics['sigma']:g} spreads of the columns over the whole time ({BridgeConfig.sigma:g} unless "
            "--sigma is given, whatever the data): a smaller one keeps rows closer to what they were"
        )
    return "\n".join(
        ["Distances of moved held-out rows from those of the other end, in spreads of the columns", *lines]
    )
