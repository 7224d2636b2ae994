"""``girsanov evaluate`` and ``girsanov score``: one number for many rows, or one for each row.

The model is a run of ours, or a folder of diffusers with the scale of the data said explicitly.
"""

__all__ = ["evaluate", "score"]

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.given import Given, conditioned
from girsanov.cli.lines import RowLines
from girsanov.cli.merge import shard_of
from girsanov.cli.options import Common, OnError, OnErrorOption, RunArgument, SamplesOption, out_option
from girsanov.cli.output import UsageError, as_json, check_place, emit, note_refused, print_result, stderr_note

COLUMNS = ("value", "stderr", "kind", "model")
BLOCK = 4096  # rows that are evaluated before they are printed


class Likelihoods(StrEnum):
    """What a row's value is."""

    elbo = "elbo"
    density = "density"
    ode = "ode"


@dataclass(frozen=True)
class Pretrained:
    """What must be said of a folder of diffusers."""

    panel: ClassVar[str] = "Model"
    data_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="For a diffusers folder: where its network saw black and white, such as --data-range=-1,1.",
        ),
    ] = None
    levels: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Grey levels 0 to N - 1 of the images; 0: continuous values inside --data-range."
        ),
    ] = 256
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Scheduler of a diffusers network that is saved without one."),
    ] = None
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Test a diffusers network on 16 rows: is it what it claims?")
    ] = True

    def limits(self) -> tuple[float, float]:
        """The data's range as numbers."""
        try:
            low, high = (float(end) for end in (self.data_range or "").split(","))
        except ValueError:
            example = "give the scale of its training, such as --data-range=-1,1"
            raise UsageError(f"A diffusers model does not say where its data lay: {example}") from None
        return low, high


@dataclass(frozen=True)
class Evaluating:
    """Which likelihood, and how much is spent on it."""

    panel: ClassVar[str] = "Evaluation"
    likelihood: Annotated[
        Likelihoods, typer.Option(help="Bound of the SDE, density formula, or the ODE's own likelihood.")
    ] = Likelihoods.elbo
    samples: SamplesOption = 32
    target_stderr: Annotated[
        float | None,
        typer.Option(metavar="NATS", help="With --likelihood density: draw until every row's standard error is below."),
    ] = None


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Other rows; the run's own held-out ones if left out.")
    ] = None,
    *,
    method: Evaluating,
    given: Given,
    pretrained: Pretrained,
    common: Common,
) -> None:
    """Mean log-likelihood of held-out rows, or of the rows of DATA.

    Where DATA are what the model was fitted to, only their held-out rows count.
    """
    device = common.prepare()
    from girsanov.runs import rows_of, tested_rows

    model = _model(run, device, pretrained)
    found = tested_rows(model) if data is None else rows_of(model, data)
    rows, condition = conditioned(model, found, given, common)
    _check(model, rows, _tested_with(model, rows, condition, given), pretrained, common.quiet)
    stderr_note(common.quiet)(f"evaluating {rows.described}: {len(rows):,}")
    entry = _measure(model, rows.data, condition, method, common)
    if given.described() is not None:
        entry["given"] = given.described()
    metrics = {"test": {method.likelihood.value: entry}, "mixed": model.record.get("mixed")}
    if common.json:
        emit(as_json(metrics))
    else:
        print_result(metrics)


def score(
    run: RunArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows to score: a name, file or folder.")],
    out: Annotated[Path | None, out_option("CSV file to write instead of standard output.")] = None,
    on_error: OnErrorOption = OnError.nan,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only rows I, I + N, I + 2 N, ...: one of N commands, whose files girsanov merge joins.",
            rich_help_panel="Data",
        ),
    ] = None,
    *,
    method: Evaluating,
    given: Given,
    pretrained: Pretrained,
    common: Common,
) -> None:
    """Log-likelihood of every row of DATA, in nats: row, value, stderr, kind, model, error; file names of images too.

    Rows count from 1, as in sentences about them, the header apart. A row that the model cannot have gets nan and a
    sentence, unless --on-error fail. A row's value does not depend on the rows beside it, so that shards have the same.
    """
    check_place(out)
    part = None if shard is None else shard_of(shard)
    device = common.prepare()
    from girsanov.rows import condition_at
    from girsanov.runs import all_rows

    model = _model(run, device, pretrained)
    each, note = on_error is OnError.nan, stderr_note(common.quiet)
    rows, condition = conditioned(model, all_rows(model, data, each=each), given, common)
    _check(model, rows, _tested_with(model, rows, condition, given), pretrained, common.quiet)
    if part is not None:
        rows, kept = rows.shard(*part)
        condition = condition_at(condition, kept)
    for sentence in rows.notes:
        note(sentence)
    note(f"scoring {rows.described}: {len(rows):,}")
    note_refused(rows.refused, note)

    def compute(block: slice) -> Any:
        estimate = _estimate(model, rows.data[block], condition_at(condition, block), method, common)
        return estimate.to_pandas(rows.index[block].numpy())

    RowLines(COLUMNS, "value", errors=each).write(rows, compute, size=BLOCK, out=out, json=common.json)


def _model(run: str, device: Any, pretrained: Pretrained) -> Any:
    from girsanov.adapters.diffusers import is_diffusers_folder

    # what is no folder here may be an id of Hugging Face: with a data range, of a model of diffusers
    if is_diffusers_folder(run) or (pretrained.data_range is not None and not Path(run).exists()):
        from girsanov.density_model.diffusers import density_from_diffusers

        model = density_from_diffusers(
            run, pretrained.scheduler, data_range=pretrained.limits(), levels=pretrained.levels or None
        )
        return model.to(device)
    if pretrained.data_range is not None or pretrained.scheduler is not None:
        raise UsageError(
            "--data-range and --scheduler are for folders of diffusers, and a run knows its own data: leave them out"
        )
    from girsanov.density_model import DensityModel

    return DensityModel.from_pretrained(run).to(device)


def _tested_with(model: Any, rows: Any, condition: Any, given: Given) -> Any:
    """The condition under which rows test a network: their own class, where it is known, rather than any other."""
    if given.label is None or rows.data.codes is None:
        return condition
    from girsanov.runs import condition_of

    return condition_of(model, rows, own_class=True)


def _check(model: Any, rows: Any, condition: Any, pretrained: Pretrained, quiet: bool) -> None:
    """The self-test of a network of diffusers on the rows at hand, and what else is to be known of it."""
    from girsanov.adapters.diffusers import DiffusersNetwork

    if not isinstance(model.score.network, DiffusersNetwork):
        return
    if pretrained.check and len(rows) > 1:
        from girsanov.density_model.diffusers import check_density

        stderr_note(quiet)("testing the network on the first rows")
        check_density(model, rows.data, condition=condition)
    for note in model.score.network.notes:
        stderr_note(quiet)(note)


def _estimate(model: Any, x: Any, condition: Any, method: Evaluating, common: Common) -> Any:
    from girsanov.evaluation import evaluate as evaluate_rows

    options = {"samples": method.samples, "target_stderr": method.target_stderr, "generator": common.generator()}
    estimate = evaluate_rows(model, x, method.likelihood.value, condition=condition, **options)
    if estimate.met is not None and not bool(estimate.met.all()):
        missed = int((~estimate.met).sum())
        target = f"a standard error of {method.target_stderr:g} nats"
        stderr_note(common.quiet)(f"{missed:,} of {len(x):,} rows did not reach {target}: see their stderr")
    return estimate


def _measure(model: Any, x: Any, condition: Any, method: Evaluating, common: Common) -> dict[str, Any]:
    import time

    from girsanov.evaluation import summary

    begun = time.monotonic()
    entry = summary(_estimate(model, x, condition, method, common))
    return entry | {"seconds": round(time.monotonic() - begun, 2)}
