"""The report of a run: one HTML file that says what the numbers are, where they come from and what the model draws."""

__all__ = ["CERTIFICATE", "CURVE", "SAMPLES", "TESTS", "Contents", "render", "samples_png"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.evaluation import Curve
from girsanov.likelihoods.certificate import Certificate
from girsanov.reports import figures
from girsanov.reports.attempts import Attempts
from girsanov.reports.certificate import certificate_section
from girsanov.reports.examples import extremes, samples_beside_data
from girsanov.reports.page import details, figure, headline, minus, page, paragraph, section, table
from girsanov.reports.png import image_grid, png_bytes
from girsanov.reports.score_tests import ScoreTests, score_tests_section
from girsanov.reports.tables import KINDS, NAMES, advice, differences, sections
from girsanov.types import FEWEST, student_quantile

RELATIONS = {
    "lower_bound": "is a lower bound on",
    "upper_bound": "is an upper bound on",
    "exact": "is, up to the solver's tolerance,",
    "unbiased": "is an unbiased estimate of",
    "estimate": "estimates, without a guarantee,",
}
NO_FIGURES = (
    "There are no figures here because matplotlib is missing: pip install 'girsanov[plot]', then girsanov report."
)


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows. What is ``None`` is left out, and ``missing`` says why.

    Attributes:
        name: how the user named the data.
        metrics: what ``metrics.json`` holds.
        schema: how the data were read.
        history: the lines of ``train.jsonl``.
        values: per test row: ``elbo``, its ``stderr`` and the peers' values.
        rows: which rows of the data the test rows are, shape ``n``.
        test: the encoded test rows, shape ``n *event_shape``.
        samples: encoded rows that the model drew, shape ``m *event_shape``.
        curve: the denoising curve on held-out rows.
        certificate: of DDPM training, on held-out rows.
        score_tests: of held-out rows and of the samples.
        missing: why the data could not be read again.
    """

    name: str
    metrics: Mapping[str, Any]
    schema: Schema
    history: Sequence[Mapping[str, float | None]] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None
    test: Tensor | None = None
    samples: Tensor | None = None
    curve: Curve | None = None
    certificate: Certificate | None = None
    score_tests: ScoreTests | None = None
    missing: str = ""


#: titles of the sections that hold what is computed beforehand
CURVE, TESTS, CERTIFICATE, SAMPLES = (
    "Where in log-SNR the model learned",
    "Tests of the score",
    "Certificate of DDPM training",
    "Samples",
)


def render(contents: Contents, attempts: Attempts | None = None) -> str:
    """The page as HTML text.

    Args:
        contents: what it shows.
        attempts: what failed before; one sentence stands in place of such sections and of those that fail here.
    """
    attempts = attempts or Attempts(lambda _: None)
    metrics = contents.metrics
    shape = " × ".join(map(str, contents.schema.event_shape))
    what = f"images of {shape}" if contents.schema.kind == "images" else f"tables of {shape} columns"
    subtitle = f"A density model of {what} by girsanov {metrics['versions']['girsanov']}, fitted to {contents.name}"
    builders = {"Result": _headline, "What the number means": _meaning, "Paired differences": _differences}
    builders |= {"Learning": _learning, CURVE: _curve, TESTS: _score_tests, CERTIFICATE: _certificate}
    builders |= {SAMPLES: _samples, "Most and least likely rows": _extremes, "Values of single rows": _histogram}
    builders |= {"Data, settings, versions": _facts}
    if not figures.available():
        builders = {"Result": _headline, "Figures": _no_figures, **builders}
        for title in ("Learning", CURVE, "Values of single rows"):
            del builders[title]
    made = attempts.sections([(title, partial(build, contents)) for title, build in builders.items()])
    return page(PurePath(contents.name).name or contents.name, subtitle, made)


def samples_png(samples: Tensor, schema: Schema, limits: tuple[float, float] | None = None) -> bytes | None:
    """``samples.png``: a grid of images, or for tables a heat map of standardised rows; ``None`` for other shapes.

    Args:
        samples: rows in data units.
        schema: of the data.
        limits: values that are black and white; the samples' own range when omitted.
    """
    values = samples.detach().cpu().double().numpy()
    if schema.kind == "images":
        if values.ndim != 4:
            return None
        low, high = limits or (float(values.min()), float(values.max()))
        return png_bytes(image_grid(values, low=low, high=high))
    spread = values.std(0) + 1e-12
    heat = np.clip((values - values.mean(0)) / (3.0 * spread), -1.0, 1.0)
    pixels = np.rint(127.5 * (heat + 1.0)).astype(np.uint8)
    factor = max(1, 320 // max(pixels.shape))
    return png_bytes(pixels.repeat(factor, 0).repeat(factor, 1))


def _headline(contents: Contents) -> str:
    name, entry = _main(contents.metrics)
    bits = "" if entry["bits_per_dim"] is None else f"{entry['bits_per_dim']:.3f} bits/dim, "
    rest = f"({bits}{KINDS[entry['kind']]}, {NAMES.get(name, name).removeprefix('girsanov, ')})"
    parts = [table(part.header, part.rows, caption=part.title, ours="girsanov") for part in sections(contents.metrics)]
    note = (
        "± estimator is the standard error from the finite number of evaluations per row; ± rows is the one from the "
        "finite number of held-out rows. Numbers of different tables are of different kinds or models: do not "
        "compare them. nfe counts network evaluations per row."
    )
    number = minus(f"{entry['nats']:.2f}") + " nats per row"
    behind = (paragraph(sentence) for sentence in advice(contents.metrics))
    return section("Result", headline(number, rest), *behind, *parts, paragraph(note))


def _main(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The likelihood that the report is about: the bound, where it is there."""
    return next(((name, entry) for name, entry in metrics["test"].items() if name == "elbo"), None) or next(
        iter(metrics["test"].items())
    )


def _no_figures(contents: Contents) -> str:
    del contents
    return section("Figures", paragraph(NO_FIGURES))


def _meaning(contents: Contents) -> str:
    _, entry = _main(contents.metrics)
    what = {
        "density": "the log-density of the data in their own units",
        "mass": "the log-probability of the data, all of whose columns are discrete",
        "mixed": "the joint log-density of the continuous and log-probability of the discrete columns",
    }[entry["measure"]]
    error, rows = entry["rows_stderr"], entry["rows"]
    margin = f"{FEWEST} rows or more would say how sure this is"
    if error is not None and rows >= FEWEST:
        margin = f"± {student_quantile(0.95, rows - 1) * error:.3f} at 95 % from the rows"
    equation = {"sde": "stochastic differential equation", "ode": "ordinary differential equation"}
    text = [
        f"{minus(format(entry['nats'], '.3f'))} nats per row {RELATIONS[entry['kind']]} {what}, as the generative "
        f"{equation.get(entry['model'], entry['model'])} of this model gives it, averaged over {entry['rows']:,} rows "
        f"that took no part in the fit ({margin})."
    ]
    if entry["stderr"] is not None:
        text.append(
            f"{entry['nfe']:,} network evaluations were spent on each row, which leave a standard error of "
            f"{entry['stderr']:.4f} in the mean."
        )
    if entry["log_snr_range"]:
        low, high = (minus(f"{level:g}") for level in entry["log_snr_range"])
        text.append(
            f"The network was evaluated at log signal-to-noise ratios from {low} to {high}; the terms at both ends "
            "are part of the number, so nothing is left out."
        )
    if entry["model"] == "sde":
        text.append(
            "Model and peers have a small share of a broad law: a row that is unlike all training rows costs tens of "
            "nats in each dimension that is, so that a few such rows do not rule the mean."
        )
    if entry["bits_per_dim"] is not None:
        text.append(
            f"In bits per dimension, that is {entry['bits_per_dim']:.4f}, lower being better, with the bins that the "
            "data have."
        )
    return section("What the number means", paragraph(" ".join([*text, *_beginning(contents)])))


def _beginning(contents: Contents) -> list[str]:
    """What training has added to the closed forms that it started from."""
    first = next(iter(contents.history), {})
    reached = contents.metrics.get("training", {}).get("validation")
    if first.get("step") != 0 or first.get("validation") is None or reached is None:
        return []
    before, after = (minus(f"{value:.3f}") for value in (first["validation"], reached))
    return [
        "The network corrects what was fitted before it (a Gaussian and, where they pay, a mixture or a spline flow): "
        f"on the validation rows the bound was {before} nats per row before the network was trained and {after} after."
    ]


def _differences(contents: Contents) -> str:
    found = differences(contents.metrics)
    if not found:
        return ""
    rows = [
        (name, *(minus(f"{value:+.3f}") for value in (gap.nats, gap.low, gap.high)), f"{gap.rows:,}")
        for name, gap in found.items()
    ]
    header = ("compared with", "nats per row ahead", "95 % from", "to", "rows")
    note = (
        "The same rows, and the same dequantisation where there is one, for both models; positive where this model "
        "finds the held-out rows more likely."
    )
    if any(entry["kind"] == "exact" for entry in contents.metrics["peers"].values()):
        note += " This model's value is a lower bound and the peer's is exact, so the true lead is at least that large."
    elif any(entry["kind"] == "lower_bound" for entry in contents.metrics["peers"].values()):
        note += " Both values are lower bounds on log-probabilities."
    parts = [figure(figures.intervals(found), note)] if figures.available() else [paragraph(note)]
    return section("Paired differences", *parts, table(header, rows))


def _learning(contents: Contents) -> str:
    if not contents.history:
        return ""
    training = contents.metrics.get("training", {})
    svg = figures.learning(contents.history, training.get("best_step"))
    caption = (
        "Left: the loss is an unbiased estimate of the negative gain in the bound over the Gaussian reference in the "
        "model's coordinates, 0 for that reference. Right: the bound on validation rows with its estimator's standard "
        "error; the weights of the best step are the model."
    )
    return section("Learning", figure(svg, caption))


def _curve(contents: Contents) -> str:
    if contents.curve is None:
        return _absent(CURVE, contents)
    curve = contents.curve
    caption = (
        "Squared error of the noise prediction against log-SNR, noise to the left and data to the right, with "
        "bands of two standard errors. A bound is better by half the area between the Gaussian's curve and the "
        f"model's: {minus(format(curve.nats_per_dim(), '+.4f'))} nats per dimension on these rows."
    )
    return section(CURVE, figure(figures.curve(curve), caption))


def _score_tests(contents: Contents) -> str:
    return "" if contents.score_tests is None else score_tests_section(contents.score_tests)


def _certificate(contents: Contents) -> str:
    return "" if contents.certificate is None else certificate_section(contents.certificate)


def _samples(contents: Contents) -> str:
    if contents.samples is None:
        return ""
    return section(SAMPLES, *samples_beside_data(contents.samples, contents.test, contents.schema))


def _extremes(contents: Contents) -> str:
    if contents.test is None or "elbo" not in contents.values or contents.rows is None:
        return _absent("Most and least likely rows", contents)
    parts = extremes(contents.test, contents.values["elbo"], contents.rows, contents.schema)
    return section("Most and least likely rows", *parts)


def _histogram(contents: Contents) -> str:
    if "elbo" not in contents.values:
        return ""
    peers = {
        NAMES.get(name, name): values.numpy()
        for name, values in contents.values.items()
        if name not in ("elbo", "stderr")
    }
    svg = figures.histogram(contents.values["elbo"].numpy(), peers)
    return section("Values of single rows", figure(svg, "How the held-out rows' values are spread, by model."))


def _facts(contents: Contents) -> str:
    metrics = contents.metrics
    notes = "<ul>" + "".join(f"<li>{paragraph(note)}</li>" for note in contents.schema.notes) + "</ul>"
    pairs = {
        "Splits": {name: f"{count:,} rows" for name, count in metrics["rows"].items()},
        "Could not be computed": metrics.get("failed", {}),
        "Training": metrics.get("training", {}),
        "Starting points (validation rows, nats)": metrics.get("starting_points", {}),
        "Seconds": metrics.get("timing", {}),
        "Settings": metrics.get("settings", {}).get("config", {}),
        "Evaluation": metrics.get("settings", {}).get("evaluation", {}),
        "Versions": metrics["versions"],
    }
    parts = [details("How the data were read", notes)] if contents.schema.notes else []
    for name, entry in metrics.get("peers", {}).items():
        pairs[f"Chosen for: {NAMES.get(name, name)}"] = entry.get("settings", {})
    parts += [
        details(title, table(("name", "value"), [(key, _shown(value)) for key, value in facts.items()], text=True))
        for title, facts in pairs.items()
        if facts
    ]
    return section("Data, settings, versions", *parts)


def _absent(title: str, contents: Contents) -> str:
    return section(title, paragraph(contents.missing)) if contents.missing else ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)
