"""The run of a density model: fit, evaluate on held-out rows, fit the peers, report."""

__all__ = ["DensityRun"]

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch

from girsanov.datasets import Data, Splits, fingerprint
from girsanov.density_model import DensityModel, FitConfig, fit
from girsanov.density_model.certificate import certify
from girsanov.evaluation import denoising_curve
from girsanov.files import CARD
from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.score_test import LEVELS
from girsanov.reports import Attempts, Contents, ScoreTests, render_report, samples_png
from girsanov.reports.report import CERTIFICATE, CURVE, SAMPLES, TESTS
from girsanov.runs.budget import Budget
from girsanov.runs.density_measures import EvaluationConfig, codecs_of, evaluated, peers_of
from girsanov.runs.folder import Identity, RunFolder
from girsanov.runs.rows import Rows, Selection, tested_rows
from girsanov.runs.run import Kind, Work
from girsanov.types import InputError

#: shares of a time budget: training, evaluation, peers, report
TABLES, IMAGES = (0.5, 0.15, 0.25, 0.1), (0.8, 0.07, 0.07, 0.06)
TEST_ROWS = 10_000  # held-out rows that are evaluated at most
CURVE_ROWS = 128
SCORE_TEST_ROWS = 2000  # in which an effect of 0.0025 shows; a test of all pairs, at four noise levels
CERTIFIED_ROWS = 16  # of the DDPM bound, whose thousand steps are evaluated twice for each
DRAWN = 512  # samples for the figures of tables
DRAWN_IMAGES = 64
FILES = ("checkpoints", "flow", "allowance.json", "config.json", "metrics.json", "train.jsonl")


@dataclass(frozen=True)
class DensityRun(Kind):
    """A density model of the rows of one source.

    Attributes:
        chosen: the data, as :func:`girsanov.runs.select` returns them.
        config: settings of the fit.
        evaluation: settings of the evaluation.
    """

    command: ClassVar[str] = "fit"
    chosen: Selection
    config: FitConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def within(self, seconds: float | None) -> "DensityRun":
        if seconds is None:
            return self
        training, *others = self._shares
        limited = dataclasses.replace(self.config, time_budget=seconds * training / (training + sum(others)))
        return dataclasses.replace(self, config=limited)

    @property
    def _shares(self) -> tuple[float, float, float, float]:
        """Shares of a time budget: of training, evaluation, peers and report."""
        training, evaluation, peers, report = IMAGES if self.chosen.data.schema.kind == "images" else TABLES
        return training, evaluation, peers if self.evaluation.peers else 0.0, report

    def identity(self) -> Identity:
        """By the rows, how they were read, and the settings of the fit."""
        data = self.chosen.data
        return Identity(str(data.name), (fingerprint(data.x),), data.schema.cells, self.config.to_json())

    @classmethod
    def begun(cls, folder: RunFolder) -> Identity | None:
        record = None if folder.is_new(FILES) else folder.record()
        if record is None:
            return None
        data = record["data"]
        return Identity(data["name"], (data["fingerprint"],), data["cells"], record["config"])

    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        return metrics.get("settings") == self._settings()

    def _settings(self) -> dict[str, Any]:
        return {"config": self.config.to_json(), "evaluation": asdict(self.evaluation)}

    def fit(self, work: Work) -> DensityModel:
        """Fit and save; what is refused leaves nothing behind."""
        folder, begun = work.folder, time.monotonic()
        created, config = not folder.path.exists(), self.config
        if config.time_budget is not None:
            config = dataclasses.replace(config, time_budget=work.training(config.time_budget))
        try:
            model = fit(self.chosen.data, config=config, out=folder.path, progress=work.progress, device=work.device)
        except InputError:
            if created:
                folder.discard_traces()
            raise
        # what came before the network's training counts too; a resumed run only knows the training's own seconds
        training = model.record["training"]
        seconds = max(round(time.monotonic() - begun, 2), training["seconds"])
        model.record["training"] = training | {"fit_seconds": seconds}
        model.record["source"] = self.chosen.source.to_json()
        model.save_pretrained(folder.path)
        return model

    def measure(self, model: DensityModel, work: Work) -> dict[str, Any]:
        """Everything that ``metrics.json`` holds, and ``test.csv``."""
        rows, begun = self.shown(model), time.monotonic()
        work.note(f"evaluating {len(rows):,} held-out rows")
        attempts = Attempts(work.note)
        _, share, of_peers, of_report = self._shares
        budget = work.budget.part(share / (share + of_peers + of_report))
        bound, test = evaluated(model, rows, self.evaluation, self.config.seed, attempts, budget)
        rows, done = rows[: len(bound.value)], time.monotonic()
        values, peers, codecs = {"elbo": bound.value.cpu(), "stderr": bound.stderr.cpu()}, {}, {}
        if self.evaluation.peers:
            budget = work.budget.part(of_peers / (of_peers + of_report))
            codecs = codecs_of(model.schema, rows, attempts, budget)
            found = peers_of(model, self.chosen.data.x, rows, bound, self.evaluation, attempts, budget)
            peers = {name: entry for name, (entry, _) in found.items()}
            values |= {name: value for name, (_, value) in found.items()}
        work.folder.write_values(rows.index, values)
        splits, training = model.record["splits"], model.record["training"]
        return {
            **{name: model.record.get(name) for name in ("data", "training", "starting_points", "mixed")},
            "test": test,
            "peers": peers,
            "codecs": codecs,
            "failed": attempts.failed,
            "timing": {
                "training": training["fit_seconds"],
                "evaluation": round(done - begun, 2),
                "peers": round(time.monotonic() - done, 2),
            },
            "rows": {name: splits[name] for name in ("train", "validation", "test")} | {"evaluated": len(rows)},
            "settings": self._settings(),
        }

    @classmethod
    def load(cls, folder: RunFolder) -> DensityModel:
        return DensityModel.from_pretrained(folder.path)

    def shown(self, model: DensityModel) -> Rows:
        test = Splits.from_json(model.record["splits"]).test
        return Rows(self.chosen.data[test], self.chosen.index[test], "the held-out rows").first(TEST_ROWS)

    @classmethod
    def read_again(cls, model: DensityModel) -> Rows:
        return tested_rows(model)

    @classmethod
    def report(
        cls, model: DensityModel, metrics: Mapping[str, Any], shown: Rows | None, missing: str, work: Work
    ) -> None:
        """Draw, and write ``samples.png`` and ``report.html``; what cannot be made is said in its place."""
        attempts, folder, kept = Attempts(work.note), work.folder, work.folder.values()
        index, values = kept if kept is not None else (None, {})
        rows = shown if shown is None or index is None else shown.first(len(index))
        drawn = _Drawn(model, None if rows is None or len(rows) < 2 else rows.data, attempts, work.budget)
        samples = drawn.samples(model, metrics["settings"])
        own = samples if model.mixed is None else drawn.samples(model.diffusion, metrics["settings"])
        contents = Contents(
            name=str(metrics["data"]["name"]),
            metrics=metrics,
            schema=model.schema,
            history=folder.history(),
            values=values,
            rows=index,
            test=None if rows is None else rows.x,
            samples=None if samples is None else samples.x,
            curve=drawn.most(CURVE, CURVE_ROWS, lambda rows: denoising_curve(model, rows), share=0.3),
            score_tests=attempts(TESTS, lambda: drawn.tests(missing, own)),
            certificate=drawn.most(CERTIFICATE, CERTIFIED_ROWS, lambda rows: certify(model, rows), share=0.6),
            lattice=model.lattice is not None,
            missing=missing,
        )
        if samples is not None:
            picture = attempts("samples.png", lambda: samples_png(samples.x[:DRAWN_IMAGES], model.schema))
            if picture is not None:
                folder.write("samples.png", picture)
        folder.write("report.html", render_report(contents, attempts))
        model.record["evaluations"] = metrics["test"]
        folder.write(CARD, model.card())


@dataclass(frozen=True)
class _Drawn:
    """What a report computes itself, of as many rows as there is time for."""

    model: DensityModel
    data: Data | None
    attempts: Attempts
    budget: Budget

    def most(self, title: str, rows: int, make: Any, *, share: float) -> Any:
        """``make`` of the first rows, for a share of the time that is left; ``None`` without rows or time."""
        data = self.data
        if data is None:
            return None

        def made() -> Any:
            self.budget.require()
            wanted = min(rows, len(data))
            return self.budget.part(share).most(f"{title} (rows)", wanted, lambda n: make(data[:n]), least=2)

        return self.attempts(title, made)

    def samples(self, model: DensityModel, settings: Mapping[str, Any]) -> Data | None:
        """Rows of a model's own, as its schema encodes them."""
        steps = settings["evaluation"]["sampler_steps"] or EvaluationConfig.steps_of(model.schema)

        def draw(count: int) -> Data:
            generator = torch.Generator().manual_seed(settings["config"]["seed"])
            x = model.encode(model.sample(count, steps=steps, generator=generator)).rows.cpu()
            return Data(x, None, None, model.schema, "samples", None)

        count = DRAWN_IMAGES if model.schema.kind == "images" else DRAWN
        return self.attempts(SAMPLES, lambda: self.budget.part(0.2).most("samples drawn", count, draw, least=16))

    def tests(self, missing: str, samples: Data | None) -> ScoreTests | None:
        """Stein tests of held-out rows and of the samples at the levels that the score knows; none of a flow."""
        low, high = self.model.score.log_snr_range
        levels = [level for level in LEVELS if low <= level <= high]
        if not levels or self.model.is_flow:
            return None

        def tested(rows: Data | None, without: str, share: float) -> ScoreTest | str:
            if rows is None:
                return without

            def test(n: int) -> ScoreTest:
                return self.model.score_test(rows[:n], levels)

            try:
                self.budget.require()
                most, count = self.budget.part(share).most, min(len(rows), SCORE_TEST_ROWS)
                return most("rows of the tests of the score", count, test, least=100, power=2.0)
            except InputError as error:
                return f"not tested. {error}."

        held = tested(self.data, missing or "not tested: there are too few rows.", 0.3)
        return ScoreTests(held, tested(samples, "not tested: there are none.", 0.4))
