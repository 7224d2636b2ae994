"""``girsanov test``: are these rows a sample of the run's model, as far as its score can tell?"""

__all__ = ["run_test"]

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.given import Given, conditioned
from girsanov.cli.options import Common, RunArgument
from girsanov.cli.output import as_json, emit, stderr_note

ROW = "{:>9}  {:>9}  {:>11}  {:>11}  {:>10}  {:>10}"
HEADER = ("log-SNR", "noise", "discrepancy", "effect", "p", "corrected")


@dataclass(frozen=True)
class Testing:
    """Which tests."""

    panel: ClassVar[str] = "Evaluation"
    level: Annotated[
        list[float] | None,
        typer.Option(metavar="L", help="Log-SNR of a test, repeatable.", show_default="0, 2, 4 and 6"),
    ] = None
    diffusion: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Diffusion matrix: robust, heavy_tailed, moments or gaussianise."),
    ] = None
    resamples: Annotated[int, typer.Option(min=19, metavar="B", help="Replicates of the null distribution.")] = 999
    contamination: Annotated[
        float,
        typer.Option(
            metavar="E",
            help="Share of foreign rows that is tolerated, with --diffusion robust unless another is named.",
        ),
    ] = 0.0
    radius: Annotated[
        float,
        typer.Option(metavar="R", help="Discrepancy that is tolerated: a score that is off by R in the mean."),
    ] = 0.0

    @property
    def matrix(self) -> str | None:
        """The diffusion matrix asked for; with foreign rows one that bounds what each of them can do."""
        return self.diffusion or ("robust" if self.contamination else None)

    @property
    def tolerated(self) -> str:
        """What is, in words."""
        share, radius = f"{100 * self.contamination:g} % of foreign rows", f"a discrepancy of {self.radius:g}"
        given = {share: self.contamination, radius: self.radius}
        return " and ".join(words for words, value in given.items() if value)


def run_test(
    samples: Annotated[str, typer.Argument(metavar="SAMPLES", help="Rows in data units: a name, file or folder.")],
    run: RunArgument,
    *,
    tests: Testing,
    given: Given,
    common: Common,
) -> None:
    """Test rows against a run's score: held-out rows test the model, generated ones the sampler.

    SAMPLES go to the model's coordinates, get noise of each level, and are compared with the score there by kernel
    Stein discrepancies over ten bandwidths. Noise is its standard deviation relative to the scaled data.

    The effect is 0 for the model's own samples and 1 at most; an effect e shows in some 5/e rows. The p-value holds for
    rows that the model was not fitted to; of the run's own data, only held-out rows are used.

    No model is right to the last digit, which many rows show: with --contamination or --radius the test is of the model
    being as near as that.
    """
    device = common.prepare()
    from girsanov.density_model import DensityModel
    from girsanov.likelihoods.score_test import LEVELS
    from girsanov.runs import rows_of
    from girsanov.stein import SteinBall, WildBootstrap

    model = DensityModel.from_pretrained(run).to(device)
    rows, condition = conditioned(model, rows_of(model, samples), given, common)
    note = stderr_note(common.quiet)
    note(f"testing {rows.described}: {len(rows):,}")
    if model.mixed is not None:
        note("the score is that of the model's diffusion: rows that girsanov sample drew are of the whole mixture")
    found = model.score_test(
        rows.data,
        tests.level or LEVELS,
        condition=condition,
        diffusion=tests.matrix,
        method=SteinBall(tests.contamination, tests.radius, WildBootstrap(tests.resamples)),
        generator=common.generator(),
    )
    named = given.described()
    content = _content(found, tests) | ({} if named is None else {"given": named})
    emit(as_json(content) if common.json else _text(found, tests))


def _content(found: Any, tests: Testing) -> dict[str, Any]:
    """The result as JSON."""
    from girsanov.stein import BLIND_SPOTS

    ball = {"contamination": tests.contamination, "radius": tests.radius} if tests.tolerated else {}
    names = ("discrepancy", "stderr", "effect_size", "pvalue", *(("radius",) if ball else ()))
    levels = [
        {
            "log_snr": level.log_snr,
            "time": level.time,
            **{name: getattr(level.result, name) for name in names},
            "corrected": level.corrected,
        }
        for level in found.levels
    ]
    return {"pvalue": found.pvalue, "rows": found.n, **ball, "levels": levels, "blind_spots": BLIND_SPOTS}


def _statement(found: Any, tests: Testing) -> str:
    """What the p-value says, of the model or of its neighbourhood."""
    from girsanov.likelihoods.score_test import ALPHA

    if not tests.tolerated:
        return found.statement()
    start = f"p = {found.pvalue:.2g} over all levels: "
    if found.pvalue > ALPHA:
        return f"{start}no difference found beyond {tests.tolerated}."
    return (
        f"{start}the rows differ from the model by more than {tests.tolerated}, "
        f"most clearly at log-SNR {found.worst.log_snr:g}."
    )


def _text(found: Any, tests: Testing) -> str:
    """A table, a sentence on what it means, and what it cannot mean."""
    from girsanov.stein import BLIND_SPOTS

    lines = [ROW.format(*HEADER)]
    for level in found.levels:
        noise = math.exp(-0.5 * level.log_snr)
        values = level.result.discrepancy, level.result.effect_size, level.result.pvalue, level.corrected
        lines.append(ROW.format(f"{level.log_snr:g}", f"{noise:.3g}", *(f"{value:.3g}" for value in values)))
    lines += ["", _statement(found, tests), "", "What this test does not see:"]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in BLIND_SPOTS)])
