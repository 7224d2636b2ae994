"""``girsanov fit``: data to a run folder with a model, its numbers and its report."""

__all__ = ["fit"]

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from girsanov.cli.options import Computing, MissingAsLevelOption, listed, out_option, settings_of
from girsanov.cli.output import UsageError, as_json, emit, print_result, stderr_note

if TYPE_CHECKING:
    from girsanov.training import Progress


@dataclass(frozen=True)
class Reading:
    """Which rows, and how they are read."""

    panel: ClassVar[str] = "Data"
    limit: Annotated[int | None, typer.Option(min=5, metavar="N", help="Use N rows of the data, chosen at random.")] = (
        None
    )
    drop: Annotated[list[str] | None, typer.Option(metavar="COL", help="Leave a column out; repeatable.")] = None
    categorical: Annotated[bool, typer.Option("--categorical", help="One-hot encode text columns.")] = False
    discrete: Annotated[
        bool, typer.Option("--discrete/--no-discrete", help="Read values on a lattice as cells; else refuse them.")
    ] = True
    continuous: Annotated[
        list[str] | None, typer.Option(metavar="COL,...", help="Read columns as densities, whatever they look like.")
    ] = None
    lattice: Annotated[
        list[str] | None, typer.Option(metavar="COL=STEP,...", help="Read columns as multiples of a step.")
    ] = None
    missing_as_level: MissingAsLevelOption = None

    def select(self, data: str, seed: int) -> Any:
        """The rows that were asked for."""
        from girsanov.runs import Source, select

        return select(
            Source(data, self.limit, seed),
            categorical=self.categorical,
            discrete=self.discrete,
            drop=self.drop or (),
            continuous=listed(self.continuous),
            lattice=dict(map(_step, listed(self.lattice))),
            missing_as_level=listed(self.missing_as_level),
        )


@dataclass(frozen=True)
class Model:
    """What is fitted."""

    panel: ClassVar[str] = "Model"
    model: Annotated[str, typer.Option(help="diffusion, or cnf: a continuous flow by maximum likelihood.")] = (
        "diffusion"
    )
    network: Annotated[str | None, typer.Option(help="image, conv, mlp, two-layer or unet; chosen by the data.")] = None
    width: Annotated[int | None, typer.Option(min=1, help="Channels or units of the network.")] = None
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks of the network.")] = None
    process: Annotated[
        str,
        typer.Option(
            help="vp, sub-vp, ve, ou, cosine, harmonic, straight; or learned: a vp whose schedule is trained too."
        ),
    ] = "vp"
    dequantise: Annotated[
        str | None,
        typer.Option(
            help="Noise of discrete columns: uniform, truncated-normal, variational; or none: categorical.",
            show_default="categorical for images, else uniform",
        ),
    ] = None
    lattice_head: Annotated[
        bool, typer.Option("--lattice-head/--no-lattice-head", help="Head for few discrete levels.")
    ] = True
    flow: Annotated[bool, typer.Option("--flow/--no-flow", help="Let tables start from a spline flow.")] = True
    mixed: Annotated[
        bool, typer.Option("--mixed/--no-mixed", help="Let tables be mixtures with closed forms, where rows say so.")
    ] = True
    conditional: Annotated[bool, typer.Option("--conditional", help="Learn each class too.")] = False

    def settings(self, event_shape: Sequence[int], **others: Any) -> Any:
        """The settings of a fit to rows of a shape.

        Raises:
            UsageError: for an option that the kind of model or network does not have.
        """
        from girsanov.density_model.config import CONFIGS
        from girsanov.networks import NETWORKS, default_network

        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        sizes = {name: given.pop(name) for name in ("width", "blocks") if name in given}
        network = _kind("network", NETWORKS, self.network or default_network(event_shape), sizes)
        return _kind("model", CONFIGS, given.pop("model", self.model), given | {"network": network} | others)


@dataclass(frozen=True)
class Training(Computing):
    """How long it is trained, and with what."""

    panel: ClassVar[str] = "Training"
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds of the whole command: data, training, evaluation, peers, report."),
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most.")] = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Rows per training step.", show_default="64 or 128 for image networks, else 256"),
    ] = None


@dataclass(frozen=True)
class Evaluation:
    """How it is evaluated, and beside what."""

    panel: ClassVar[str] = "Evaluation"
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Network evaluations per row.", show_default="32, of rows of over 256 numbers 8"),
    ] = None
    ode_rows: Annotated[int, typer.Option(min=0, help="Held-out rows for the ODE's likelihood.")] = 32
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Fit other models to the same rows; of images also PNG and WebP.")
    ] = True
    peer_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds for each peer.", show_default="as the training")
    ] = None


def fit(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A name (girsanov datasets), file, folder or Hugging Face id.")
    ] = "digits",
    out: Annotated[Path | None, out_option("Folder of the run.", show_default="runs/<name>")] = None,
    *,
    reading: Reading,
    kind: Model,
    training: Training,
    evaluation: Evaluation,
) -> int:
    """Fit a density model, evaluate it on held-out rows, and write a report.

    The same command goes on where an earlier one was stopped.
    """
    begun = time.monotonic()
    device = training.prepare()
    from girsanov.runs import Budget, DensityRun, EvaluationConfig, fit_run
    from girsanov.training import Interrupted, default_progress

    note, out = stderr_note(training.quiet), out or Path("runs") / _folder_name(data)
    budget = Budget(training.time_budget, begun=begun)
    how = EvaluationConfig(**vars(evaluation))
    kind.settings(())  # what is wrong with the options is said before the data are read
    chosen = reading.select(data, training.seed)
    options = {"steps": training.steps, "batch_size": training.batch_size, "seed": training.seed}
    run = DensityRun(chosen, kind.settings(chosen.data.schema.event_shape, **options), how)
    read = (f"{data}: {len(chosen.data.x):,} rows of shape {tuple(chosen.data.schema.event_shape)}",)
    progress = _Announcing(default_progress(quiet=training.quiet), [*read, *chosen.data.schema.notes], note)
    try:
        metrics = fit_run(run, out, budget=budget, progress=progress, note=note, device=device)
    except Interrupted as interrupted:
        stderr_note(False)(f"girsanov: saved at step {progress.step:,}; run the same command again to go on")
        return interrupted.exit_code
    if training.json:
        emit(as_json(metrics))
    else:
        print_result(metrics)
        emit(f"report: {out / 'report.html'}")
    return 0


def _kind(what: str, kinds: Mapping[str, Any], name: str, settings: dict[str, Any]) -> Any:
    """The settings of one kind of model or network, by its name."""
    if name not in kinds:
        raise UsageError(f"Unknown {what} {name!r}: choose one of {', '.join(kinds)}")
    return settings_of(kinds[name], f"the {name} {what}", **settings)


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

    def say(self, sentence: str) -> None:
        """Print what was read, then this."""
        for line in (*self._sentences, sentence):
            self._note(line)
        self._sentences = ()  # once, however many trainings a fit consists of

    def start(self, step: int, total: int) -> None:
        """Print the sentences, and on a resume the step; then begin."""
        for sentence in self._sentences:
            self._note(sentence)
        self._sentences = ()
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
