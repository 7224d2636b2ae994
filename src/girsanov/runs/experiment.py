"""A whole run, from data to report: fit, evaluate on held-out rows, fit the peers, write everything down."""

__all__ = ["EvaluationConfig", "fit_run", "write_report"]

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from girsanov.datasets import Data, Splits, fingerprint
from girsanov.density_model import Config, DensityModel, fit
from girsanov.density_model.certificate import certify
from girsanov.environment import versions
from girsanov.evaluation import denoising_curve, difference, evaluate, summary
from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.score_test import LEVELS
from girsanov.peers import PEERS, Peer, PeerData
from girsanov.randomness import seed_of
from girsanov.reports import Attempts, Contents, ScoreTests, render_report, samples_png
from girsanov.reports.report import CERTIFICATE, CURVE, SAMPLES, TESTS
from girsanov.runs.conditions import condition_of
from girsanov.runs.folder import RunFolder
from girsanov.runs.rows import Rows, Selection, tested_rows
from girsanov.training import Progress
from girsanov.types import FEWEST, Estimate, InputError, require_counts

FORMAT = 1
TEST_ROWS = 10_000  # held-out rows that are evaluated at most
CURVE_ROWS = 128
SCORE_TEST_ROWS = 2000  # in which an effect of 0.0025 shows; a test of all pairs, at four noise levels
CERTIFIED_ROWS = 16  # of the DDPM bound, whose thousand steps are evaluated twice for each
DRAWN = 512  # samples for the figures of tables
DRAWN_IMAGES = 64
PEER_SECONDS = 10.0  # peers get at least so long

Note = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationConfig:
    """How a fitted model is evaluated.

    Attributes:
        samples: network evaluations per row of the bound.
        ode_rows: held-out rows on which the ODE's likelihood is computed; 0 leaves it out.
        peers: whether other models are fitted to the same rows.
        peer_seconds: time for each peer; by default what our own training took.
        sampler_steps: steps of the sampler for the figures.

    Raises:
        InputError: for a value that cannot work.
    """

    samples: int = 32
    ode_rows: int = 32
    peers: bool = True
    peer_seconds: float | None = None
    sampler_steps: int = 128

    def __post_init__(self) -> None:
        require_counts(self, "samples", "sampler_steps")
        require_counts(self, "ode_rows", least=0)
        if self.peer_seconds is not None and not 0.0 < self.peer_seconds < math.inf:
            raise InputError(f"peer_seconds must be positive; got {self.peer_seconds}")


def fit_run(
    chosen: Selection,
    out: str | Path,
    config: Config,
    evaluation: EvaluationConfig | None = None,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Fit a model, evaluate it, fit the peers and write the folder of the run; goes on where an earlier call stopped.

    Args:
        chosen: the data, as :func:`girsanov.runs.select` returns them.
        out: folder of the run.
        config: settings of the fit.
        evaluation: settings of the evaluation.
        progress: what shows the training.
        note: receives a sentence at each stage.
        device: where the model is trained and evaluated; the peers stay on the CPU.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: for settings or a folder that cannot work; nothing is left behind then.
        Interrupted: on SIGINT or SIGTERM during training, after a checkpoint was saved.
    """
    evaluation = evaluation or EvaluationConfig()
    note = note or (lambda _: None)
    folder, data = RunFolder(Path(out)), chosen.data
    folder.check(fingerprint(data.x), data.schema.cells, config.to_json())
    settings = {"config": config.to_json(), "evaluation": asdict(evaluation)}
    known = folder.metrics()
    if known is not None and known.get("settings") == settings and folder.record() is not None:
        note(f"{folder.path} is complete: nothing to fit again")
        if not (folder.path / "report.html").exists():
            write_report(folder.path, note=note)
        return known
    begun = time.monotonic()
    model = _fitted(data, folder, config, progress, device)
    model.record["source"] = chosen.source.to_json()
    model.save_pretrained(folder.path)
    rows = _held_out(chosen, model)
    metrics = _measured(model, data, rows, folder, settings, note)
    timing = {**metrics["timing"], "training": model.record["training"]["fit_seconds"]}
    metrics = metrics | {"seconds": round(sum(timing.values()), 1), "timing": timing}
    folder.write_metrics(metrics)
    note(f"drawing samples and writing the report ({time.monotonic() - begun:.0f} s so far)")
    _report(folder, model, metrics, rows, "", note)
    return metrics


def write_report(run: str | Path, *, note: Note | None = None) -> Path:
    """Make ``samples.png`` and ``report.html`` of a complete run again.

    Args:
        run: folder of the run.
        note: receives a sentence for each part that could not be made.

    Returns:
        The path of the report.

    Raises:
        InputError: if the run is not complete.
    """
    folder = RunFolder(Path(run))
    model = DensityModel.from_pretrained(folder.path)
    metrics = folder.metrics()
    if metrics is None:
        raise InputError(f"{folder.path} has no metrics.json: run its girsanov fit command again to complete it")
    try:
        rows, missing = tested_rows(model), ""
    except InputError as error:
        rows, missing = None, f"This section needs the data, which could not be read again: {error}"
    return _report(folder, model, metrics, rows, missing, note or (lambda _: None))


def _fitted(
    data: Data, folder: RunFolder, config: Config, progress: Progress | None, device: str | torch.device
) -> DensityModel:
    created, begun = not folder.path.exists(), time.monotonic()
    try:
        model = fit(data, config=config, out=folder.path, progress=progress, device=device)
    except InputError:
        if created:
            folder.discard_traces()
        raise
    # what came before the network's training counts too; a resumed run only knows the training's own seconds
    training = model.record["training"]
    model.record["training"] = training | {"fit_seconds": max(_since(begun, time.monotonic()), training["seconds"])}
    return model


def _held_out(chosen: Selection, model: DensityModel) -> Rows:
    test = Splits.from_json(model.record["splits"]).test
    return Rows(chosen.data[test], chosen.index[test], "the held-out rows").first(TEST_ROWS)


def _measured(
    model: DensityModel, data: Data, rows: Rows, folder: RunFolder, settings: dict[str, Any], note: Note
) -> dict[str, Any]:
    """Everything that ``metrics.json`` holds, and ``test.csv``."""
    evaluation = EvaluationConfig(**settings["evaluation"])
    seed = settings["config"]["seed"]
    begun = time.monotonic()
    note(f"evaluating {len(rows):,} held-out rows")
    attempts = Attempts(note)
    bound, test = _own(model, rows, evaluation, seed, attempts)
    evaluated = time.monotonic()
    values = {"elbo": bound.value.cpu(), "stderr": bound.stderr.cpu()}
    peers = {}
    if evaluation.peers:
        budget = evaluation.peer_seconds or max(PEER_SECONDS, model.record["training"]["fit_seconds"])
        peers, found = _peers(model, data, rows, values["elbo"], budget, _seed(seed), note, attempts)
        values |= found
    folder.write_values(rows.index, values)
    splits = model.record["splits"]
    return {
        "format": FORMAT,
        "data": model.record["data"],
        "test": test,
        "peers": peers,
        "failed": attempts.failed,
        "training": model.record["training"],
        "starting_points": model.record.get("starting_points", {}),
        "timing": {"evaluation": _since(begun, evaluated), "peers": _since(evaluated, time.monotonic())},
        "rows": {name: splits[name] for name in ("train", "validation", "test")} | {"evaluated": len(rows)},
        "settings": settings,
        "versions": versions(),
    }


def _own(
    model: DensityModel, rows: Rows, evaluation: EvaluationConfig, seed: int, attempts: Attempts
) -> tuple[Estimate, dict[str, Any]]:
    """Our bound per row, and the entries of every likelihood of ours."""

    def measure(part: Data, likelihood: str, condition: Any = None) -> tuple[Estimate, Any]:
        begun = time.monotonic()
        generator = torch.Generator().manual_seed(seed)
        options = {"samples": evaluation.samples, "condition": condition, "generator": generator}
        estimate = evaluate(model, part, likelihood, **options)
        seconds = {"fit_seconds": model.record["training"]["fit_seconds"], "seconds": _since(begun, time.monotonic())}
        return estimate, summary(estimate) | seconds

    data = rows.data
    bound, entry = measure(data, "elbo")
    test = {"elbo": entry}
    if model.classes and data.codes is not None:
        test["elbo_given_class"] = measure(data, "elbo", condition_of(model, rows, own_class=True))[1]
    count = len(data) if model.is_flow else evaluation.ode_rows  # a flow's own likelihood: of every row
    if count and model.lattice is None:
        ode = attempts("likelihood of the ODE", lambda: measure(data[:count], "ode")[1])
        test |= {} if ode is None else {"ode": ode}
    return bound, test


def _peers(
    model: DensityModel,
    data: Data,
    rows: Rows,
    ours: torch.Tensor,
    budget: float,
    seed: int,
    note: Note,
    attempts: Attempts,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Entries and per-row values of all peers, fitted to the same rows."""
    peer_data = PeerData(model, data.x, Splits.from_json(model.record["splits"]), seed)
    entries, values = {}, {}

    def compare(fit_peer: Callable[[PeerData, float], Peer]) -> tuple[dict[str, Any], torch.Tensor]:
        peer = fit_peer(peer_data, budget)
        begun = time.monotonic()
        estimate = peer_data.estimate(peer, rows.x)
        gap = asdict(difference(ours, estimate.value)) if len(rows) >= FEWEST else None
        entry = summary(estimate) | {
            "fit_seconds": round(peer.seconds, 1),
            "seconds": _since(begun, time.monotonic()),
            "validation": peer.validation,
            "settings": peer.settings,
            "difference": gap,
        }
        return entry, estimate.value

    for name, fit_peer in PEERS.items():
        what = name.replace("_", " ")
        note(f"fitting for comparison: {what} (at most about {_duration(name, budget)})")
        found = attempts(what, partial(compare, fit_peer))
        if found is not None:
            entries[name], values[name] = found
    return entries, values


def _report(
    folder: RunFolder, model: DensityModel, metrics: dict[str, Any], rows: Rows | None, missing: str, note: Note
) -> Path:
    """Draw, and write ``samples.png`` and ``report.html``; what cannot be made is said in its place."""
    attempts = Attempts(note)
    samples = attempts(SAMPLES, lambda: _drawn(model, metrics["settings"]))
    kept = folder.values()
    index, values = kept if kept is not None else (None, {})
    if rows is not None and index is not None:
        rows = rows.first(len(index))
    data = None if rows is None or len(rows) < 2 else rows.data
    contents = Contents(
        name=str(metrics["data"]["name"]),
        metrics=metrics,
        schema=model.schema,
        history=folder.history(),
        values=values,
        rows=index,
        test=None if rows is None else rows.x,
        samples=None if samples is None else samples.x,
        curve=None if data is None else attempts(CURVE, lambda: denoising_curve(model, data[:CURVE_ROWS])),
        score_tests=attempts(TESTS, lambda: _score_tests(model, rows.data if rows is not None else missing, samples)),
        certificate=None if data is None else attempts(CERTIFICATE, lambda: certify(model, data[:CERTIFIED_ROWS])),
        missing=missing,
    )
    if samples is not None:
        picture = attempts("samples.png", lambda: samples_png(samples.x[:DRAWN_IMAGES], model.schema))
        if picture is not None:
            folder.write("samples.png", picture)
    folder.write("report.html", render_report(contents, attempts))
    return folder.path / "report.html"


def _drawn(model: DensityModel, settings: dict[str, Any]) -> Data:
    """Rows of the model's own, as its schema encodes them."""
    count = DRAWN_IMAGES if model.schema.kind == "images" else DRAWN
    generator = torch.Generator().manual_seed(settings["config"]["seed"])
    drawn = model.sample(count, steps=settings["evaluation"]["sampler_steps"], generator=generator)
    x = model.encode(drawn).rows.cpu()
    return Data(x, None, None, model.schema, "samples", None)


def _score_tests(model: DensityModel, data: Data | str, samples: Data | None) -> ScoreTests | None:
    """Stein tests of held-out rows and of the samples at the levels that the score knows; none of a flow."""
    low, high = model.score.log_snr_range
    levels = [level for level in LEVELS if low <= level <= high]
    if not levels or model.is_flow:
        return None

    def tested(rows: Data | str) -> ScoreTest | str:
        if isinstance(rows, str):
            return rows
        try:
            return model.score_test(rows[:SCORE_TEST_ROWS], levels)
        except InputError as error:
            return f"not tested. {error}."

    return ScoreTests(tested(data), tested("not tested: there are none." if samples is None else samples))


def _seed(seed: int) -> int:
    """The seed under which the bound's draws are keyed, so that the peers' can be the same."""
    return seed_of(torch.Generator().manual_seed(seed))


def _since(begun: float, ended: float) -> float:
    return round(ended - begun, 2)


def _duration(name: str, budget: float) -> str:
    seconds = {"gaussian": 1.0}.get(name, budget)
    return f"{seconds:.0f} s"
