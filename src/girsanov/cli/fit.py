"""``girsanov fit``: data to a run folder with a model, its numbers and its report."""

__all__ = ["register"]

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girsanov.cli.options import (
    DeviceOption,
    Devices,
    JsonOption,
    QuietOption,
    SamplesOption,
    SeedOption,
    ThreadsOption,
    choose_device,
    prepare_threads,
)
from girsanov.cli.output import UsageError, as_json, emit, print_result, stderr_note

if TYPE_CHECKING:
    from girsanov.training import Progress

EXAMPLE = "Example: girsanov fit data.csv --out runs/data --time-budget 600"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", epilog=EXAMPLE)(fit)


def fit(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A name (girsanov datasets), file, folder or Hugging Face id.")
    ] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/<name>")] = None,
    time_budget: Annotated[float | None, typer.Option(metavar="S", help="Seconds of training.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most.")] = None,
    model: Annotated[
        str, typer.Option(help="diffusion, or cnf: a continuous flow by maximum likelihood.")
    ] = "diffusion",
    network: Annotated[str | None, typer.Option(help="conv, mlp, two-layer or unet; chosen by the data.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels or units of the network.")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks of the network.")] = None,
    process: Annotated[str, typer.Option(help="Forward process.")] = "vp",
    schedule: Annotated[str, typer.Option(help="Noise schedule: fixed, or learned with the network.")] = "fixed",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per training step.")] = None,
    conditional: Annotated[bool, typer.Option("--conditional", help="Learn each class too.")] = False,
    categorical: Annotated[bool, typer.Option("--categorical", help="One-hot encode text columns.")] = False,
    dequantise: Annotated[
        bool, typer.Option("--dequantise/--no-dequantise", help="Read lattice values as bins; else refuse them.")
    ] = True,
    noise: Annotated[
        str, typer.Option(help="Of discrete columns: uniform, truncated-normal, variational or categorical.")
    ] = "uniform",
    lattice_head: Annotated[
        bool, typer.Option("--lattice-head/--no-lattice-head", help="Head for few discrete levels.")
    ] = True,
    flow: Annotated[bool, typer.Option("--flow/--no-flow", help="Let tables start from a spline flow.")] = True,
    drop: Annotated[list[str] | None, typer.Option(metavar="COL", help="Leave a column out; repeatable.")] = None,
    continuous: Annotated[
        list[str] | None, typer.Option(metavar="COL,...", help="Read columns as densities, whatever they look like.")
    ] = None,
    lattice: Annotated[
        list[str] | None, typer.Option(metavar="COL=STEP,...", help="Read columns as multiples of a step.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=5, metavar="N", help="Use N rows of the data, chosen at random.")
    ] = None,
    samples: SamplesOption = 32,
    ode_rows: Annotated[int, typer.Option(min=0, help="Held-out rows for the ODE's likelihood.")] = 32,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Fit other models to the same rows.")] = True,
    peer_budget: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds for each peer.", show_default="as the training")
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = Devices.auto,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Fit a density model, evaluate it on held-out rows, and write a report.

    The same command goes on where an earlier one was stopped.
    """
    settings = {
        "model": model,
        "dequantise": noise,
        "network": network,
        "width": width,
        "blocks": blocks,
        "process": process,
        "schedule": schedule,
        "conditional": conditional,
        "lattice": lattice_head,
        "flow": flow,
        "steps": steps,
        "time_budget": time_budget,
        "seed": seed,
    }
    if batch_size is not None:
        settings["batch_size"] = batch_size
    prepare_threads(threads)
    place = choose_device(device)
    reading = {"categorical": categorical, "dequantise": dequantise, "drop": drop or ()}
    reading |= {"continuous": _listed(continuous), "lattice": dict(map(_step, _listed(lattice)))}
    evaluation = {"samples": samples, "ode_rows": ode_rows, "peers": peers, "peer_seconds": peer_budget}
    return _run(
        data, out or Path("runs") / _folder_name(data), limit, settings, reading, evaluation, place, json, quiet
    )


def _run(
    data: str,
    out: Path,
    limit: int | None,
    settings: dict[str, Any],
    reading: dict[str, Any],
    evaluation: dict[str, Any],
    place: Any,
    json: bool,
    quiet: bool,
) -> int:
    from girsanov.density_model import Config
    from girsanov.runs import EvaluationConfig, Source, fit_run, select
    from girsanov.training import Interrupted, default_progress

    note = stderr_note(quiet)
    config, how = Config(**settings), EvaluationConfig(**evaluation)
    chosen = select(Source(data, limit, settings["seed"]), **reading)
    read = (f"{data}: {len(chosen.data.x):,} rows of shape {tuple(chosen.data.schema.event_shape)}",)
    progress = _Announcing(default_progress(quiet=quiet), [*read, *chosen.data.schema.notes], note)
    try:
        metrics = fit_run(chosen, out, config, how, progress=progress, note=note, device=place)
    except Interrupted as interrupted:
        stderr_note(False)(f"girsanov: saved at step {progress.step:,}; run the same command again to go on")
        return interrupted.exit_code
    if json:
        emit(as_json(metrics))
    else:
        print_result(metrics)
        emit(f"report: {out / 'report.html'}")
    return 0


def _listed(options: Sequence[str] | None) -> list[str]:
    """The names in options that repeat or hold lists; a name with a comma stands in double quotes."""
    return [name for row in csv.reader(options or (), skipinitialspace=True) for name in row]


def _step(text: str) -> tuple[str, float]:
    """Column and step of ``COL=STEP``, the step a number or a fraction.

    Example:
        >>> _step("height=0.5"), _step("share=1/4")
        (('height', 0.5), ('share', 0.25))
    """
    name, mark, number = text.rpartition("=")
    part, _, whole = number.partition("/")
    try:
        return name, float(part) / float(whole or 1)
    except (ValueError, ZeroDivisionError) as error:
        wrong = f"{number!r} is no number" if mark else "there is no ="
        raise UsageError(f"--lattice {text}: {wrong}; give COL=STEP, as in --lattice age=1") from error


class _Announcing:
    """Says how the data were read when training begins: by then nothing about the input can be wrong any more."""

    def __init__(self, inner: "Progress", sentences: Sequence[str], note: Callable[[str], None]) -> None:
        self._inner, self._sentences, self._note = inner, sentences, note
        self.stage, self.report, self.stop = inner.stage, inner.report, inner.stop
        self.step = 0

    def start(self, step: int, total: int) -> None:
        """Print the sentences, and on a resume the step; then begin."""
        for sentence in self._sentences:
            self._note(sentence)
        self._sentences = ()  # once, however many trainings a fit consists of
        if step:
            self._note(f"going on from step {step:,}")
        self.step = step
        self._inner.start(step, total)

    def advance(self, step: int, total: int) -> None:
        """Remember the step: it is called before every checkpoint."""
        self.step = step
        self._inner.advance(step, total)


def _folder_name(data: str) -> str:
    """A plain folder name for any DATA.

    Example:
        >>> _folder_name("some/where/My data.csv.gz")
        'My-data'
    """
    name = re.sub(
        r"(\.csv|\.tsv|\.txt|\.gz|\.bz2|\.xz|\.zip|\.parquet|\.npy|\.npz)+$",
        "",
        Path(data).name or "data",
        flags=re.IGNORECASE,
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"
