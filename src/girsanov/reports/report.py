"""The report of a run: one HTML file that says what the numbers are, where they come from and what the model draws."""

__all__ = [
    "CERTIFICATE",
    "CURVE",
    "SAMPLES",
    "TESTS",
    "Contents",
    "certificate_section",
    "described",
    "render_report",
    "samples_png",
    "score_tests_section",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from girsanov.datasets import Schema
from girsanov.evaluation import Curve
from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.certificate import Certificate
from girsanov.reports import figures
from girsanov.reports.examples import columns, extremes, samples_beside_data
from girsanov.reports.findings import Evidence, ScoreTests, advice, composition, findings, headline
from girsanov.reports.page import Attempts, render
from girsanov.reports.png import image_grid, png_bytes
from girsanov.reports.tables import NAMES, bits_error, differences, result_tables
from girsanov.stein import BLIND_SPOTS
from girsanov.types import FEWEST, student_quantile

SHOWN = 9  # points of a certificate's curve

#: titles of the sections that hold what is computed beforehand
CURVE, TESTS, CERTIFICATE, SAMPLES = (
    "Where in log-SNR the model learned",
    "Tests of the score",
    "Certificate of DDPM training",
    "Samples",
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
        lattice: whether the model is one of levels, whose training loss is the bound itself.
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
    lattice: bool = False
    missing: str = ""


def render_report(contents: Contents, attempts: Attempts | None = None) -> str:
    """The page as HTML text.

    Args:
        contents: what it shows.
        attempts: what failed before; one sentence stands in place of such sections and of those that fail here.
    """
    attempts = attempts or Attempts(lambda _: None)
    shown = {
        "Result": _result,
        SAMPLES: lambda c: "" if c.samples is None else samples_beside_data(c.samples, c.test, c.schema),
        "Most and least likely rows": _extremes,
        "Columns": _columns,
        "Paired differences": _differences,
        "All numbers": _numbers,
    }
    details = {
        "What the number means": _meaning,
        "Values of single rows": _histogram,
        "Learning": _learning,
        CURVE: _curve,
        TESTS: lambda c: "" if c.score_tests is None else score_tests_section(c.score_tests),
        CERTIFICATE: lambda c: "" if c.certificate is None else certificate_section(c.certificate),
        "Data, settings, versions": _facts,
    }
    version = contents.metrics["versions"]["girsanov"]
    subtitle = f"A density model of {described(contents.schema)} by girsanov {version}, fitted to {contents.name}"
    title = PurePath(contents.name).name or contents.name
    return attempts.page(title, subtitle, shown | details, contents, folded=frozenset(details))


def described(schema: Schema) -> str:
    """What rows are, in words."""
    shape = " × ".join(map(str, schema.event_shape))
    if schema.kind == "images":
        return f"images of {shape}"
    given = sum(bool(rule.dimensions()) for rule in schema.rules)
    return f"tables of {given} columns" + (f" ({shape} dimensions)" if schema.blocks else "")


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
    return png_bytes(Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)))


def _result(contents: Contents) -> str:
    evidence = Evidence(contents.metrics, contents.history, contents.score_tests)
    found, entry = findings(evidence), evidence.entry
    model = {"sde": "SDE", "ode": "ODE"}.get(entry["model"], entry["model"])
    said = {"headline": headline(found), "model": model, "bits_error": bits_error(entry)}
    return render("result", entry=entry, findings=found, advice=advice(found), **said)


def _numbers(contents: Contents) -> str:
    metrics = contents.metrics
    return render("numbers", composition=composition(metrics), tables=result_tables(metrics))


def _columns(contents: Contents) -> str:
    if contents.schema.kind == "images" or contents.samples is None:
        return ""
    return _absent(contents) if contents.test is None else columns(contents.samples, contents.test, contents.schema)


def _meaning(contents: Contents) -> str:
    entry = Evidence(contents.metrics).entry
    error, rows = entry["rows_stderr"], entry["rows"]
    margin = None if error is None or rows < FEWEST else student_quantile(0.95, rows - 1) * error
    return render("meaning", entry=entry, bits_error=bits_error(entry), margin=margin, fewest=FEWEST)


def _differences(contents: Contents) -> str:
    gaps = differences(contents.metrics)
    kinds = [entry["kind"] for entry in contents.metrics.get("peers", {}).values()]
    return render("differences", gaps=gaps, kinds=kinds, svg=figures.intervals(gaps)) if gaps else ""


def _learning(contents: Contents) -> str:
    best = contents.metrics.get("training", {}).get("best_step")
    charts = figures.learning(contents.history, best, reference=not contents.lattice)
    return render("learning", charts=charts, lattice=contents.lattice) if contents.history else ""


def _curve(contents: Contents) -> str:
    if contents.curve is None:
        return _absent(contents)
    return render("curve", charts=figures.curve(contents.curve), gain=contents.curve.nats_per_dim())


def score_tests_section(tests: ScoreTests) -> str:
    """Is the score that of the held-out rows, and do the samples follow the score? HTML."""
    named = {"Held-out rows: the model": tests.held_out, "The model's own samples: the sampler": tests.drawn}
    made = {name: test for name, test in named.items() if isinstance(test, ScoreTest)}
    svg = figures.effects(made) if made else ""
    return render("score_tests", tests=named, svg=svg, blind_spots=BLIND_SPOTS)


def certificate_section(certificate: Certificate) -> str:
    """The terms of the discrete bound of held-out rows, and what follows from them, as HTML."""
    last = len(certificate.curve) - 1
    points = sorted({round(i * last / (SHOWN - 1)) for i in range(SHOWN)})
    return render("certificate", certificate=certificate, points=points)


def _extremes(contents: Contents) -> str:
    if contents.test is None or "elbo" not in contents.values or contents.rows is None:
        return _absent(contents)
    return extremes(contents.test, contents.values["elbo"], contents.rows, contents.schema)


def _histogram(contents: Contents) -> str:
    values = {NAMES.get(name, name): value.numpy() for name, value in contents.values.items()}
    ours = values.pop(NAMES["elbo"], None)
    values.pop("stderr", None)
    return "" if ours is None else render("histogram", svg=figures.histogram(ours, values))


def _facts(contents: Contents) -> str:
    metrics = contents.metrics
    settings = metrics.get("settings", {})
    tables = {
        "Splits": {name: f"{count:,} rows" for name, count in metrics["rows"].items()},
        "Could not be computed": metrics.get("failed", {}),
        "Shortened to the time budget": metrics.get("shortened", {}),
        "Training": metrics.get("training", {}),
        "Starting points (validation rows, nats)": metrics.get("starting_points", {}),
        "Seconds": metrics.get("timing", {}),
        "Settings": settings.get("config", {}),
        "Evaluation": settings.get("evaluation", {}),
        "Versions": metrics["versions"],
    }
    peers = metrics.get("peers", {}).items()
    tables |= {f"Chosen for: {NAMES.get(name, name)}": entry.get("settings", {}) for name, entry in peers}
    return render("facts", notes=contents.schema.notes, tables=tables)


def _absent(contents: Contents) -> str:
    return render("sentence", text=contents.missing) if contents.missing else ""
