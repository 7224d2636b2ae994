r"""Digits, five seeded splits: the diffusion classifier's accuracy, calibration, and evaluations spent.

Per split, a conditional model of the log-SNR band that tells classes apart is trained on the training rows; the
validation rows stop training and calibrate the classifier; the test rows are looked at once. What is compared:

- ``elimination`` of classes at a stated confidence, without and with a screen: one Gaussian per class, fitted to the
  training rows and calibrated conformally, names the classes that the model chooses from, two at least. By itself it
  needs no evaluation, and is listed too;
- ``uniform``: every class gets the same number of evaluations, under the same weights, levels and antithetic pairs;
- ``standard``: the usual diffusion classifier (note of paper 2, section 6.2): unweighted noise errors at times evenly
  spaced over the band, each with one noise that all classes share;
- ``noise-free``: one evaluation per class at :math:`z = \alpha x`, at the log-SNR that is best on validation rows. It
  estimates no likelihood, and is a strong baseline all the same.

A baseline's cost is that of its smallest budget whose mean accuracy is within 0.2 points of elimination's; with
``--quick`` nothing is recorded.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.classifier digits --seconds 180
    OMP_NUM_THREADS=1 python -m benchmarks.paper2.classifier digits --quick
"""

import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._record import Command, record, spread
from girsanov.applications import DiffusionClassifier, GaussianScreen
from girsanov.calculus import expand_as_rows
from girsanov.datasets import load, split
from girsanov.density_model import Config, prepare
from girsanov.likelihoods.common_noise import gain
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.training import ShuffledBatches, TrainingConfig, train

BAND = (-6.0, 4.0)  # log-SNR of the learned model; the Gaussian reference serves outside
CONFIDENCES = (0.5, 0.9)
SCREENED = (0.8, 0.9, 0.95)  # 180 validation rows vouch for a screen's error of 1/181 or more, half of the whole
BUDGETS = (2, 4, 6, 8, 16, 32)  # evaluations per class
STANDARD = (1, 2, 4, 8, 16)
NOISE_FREE = (-2.0, -1.0, 0.0, 1.0)  # log-SNR from which one is chosen
BINS = 15
TOLERANCE = 0.002


def window(levels):
    """Weights around log-SNR 0, where an antithetic pair says most about the class of an 8 x 8 digit."""
    return torch.exp(-0.5 * levels.square())


WEIGHTS = {"window": window, "fitted": "fitted", "likelihood": "likelihood", "uniform": "uniform"}


def fit_band(data, splits, seed, seconds, kept=None):
    """A conditional model whose score is learned on the band, by the likelihood's own objective there.

    The trained weights are written to the file ``kept``, or read where it exists.
    """
    network = "conv" if data.name == "digits" else None
    config = Config(conditional=True, lattice_head=False, members=1, seed=seed, network=network)
    model = prepare(data, splits, config)
    model.score.log_snr_range = BAND
    if kept is not None and kept.exists():
        saved = torch.load(kept, weights_only=True)
        model.score.load_state_dict(saved["state"])
        return model.eval(), saved["facts"]
    rows, label = data.x[splits.train], data.codes[splits.train]
    settings = TrainingConfig(
        steps=6000, batch_size=256, learning_rate=1.5e-3, weight_decay=0.1, ema_decay=0.998, time_budget=seconds,
        patience=10, seed=seed,
    )  # fmt: skip
    batches = ShuffledBatches(len(rows), settings.batch_size, seed)
    held, held_label = data.x[splits.validation], data.codes[splits.validation]

    def validate(module, step):
        del module, step
        return model.elbo(held, samples=16, condition=held_label).mean()

    objective = DenoisingObjective(model.score, model.encoding.transforms, drop_condition=0.1)
    begun = time.perf_counter()
    result = train(
        model.score,
        objective,
        lambda step: Batch(rows[batches(step)], label[batches(step)]),
        config=settings,
        validate=validate,
    )
    model.score = result.module
    facts = {"fit_seconds": time.perf_counter() - begun, "steps": result.step}
    if kept is not None:
        torch.save({"state": model.score.state_dict(), "facts": facts}, kept)
    return model.eval(), facts


def calibration_error(probabilities, right):
    """Expected calibration error of the predicted class's probability, equal-width bins."""
    top, hit = probabilities.max(1), right.astype(float)
    cell = np.minimum((top * BINS).astype(int), BINS - 1)
    return float(sum(abs(hit[cell == k].sum() - top[cell == k].sum()) for k in range(BINS)) / len(top))


def measure(found, label):
    """Accuracy, calibration and cost of one classification."""
    right = found.index.numpy() == label
    return {
        "accuracy": float(right.mean()),
        "calibration_error": calibration_error(found.probabilities.numpy(), right),
        "evaluations": float(found.nfe.double().mean()),
        "undecided": 1.0 - float(found.decided.double().mean()),
    }


def errors_at(model, y, label_count, levels, eps):
    """Gain of every class over the reference at levels ``k`` under noise ``n k *d``: ``n C``, mean over the levels."""
    pair, (n, count) = model.pair, eps.shape[:2]
    level = levels.repeat(n)
    alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
    clean, noise = y.repeat_interleave(count, 0), eps.flatten(0, 1)
    z = (expand_as_rows(alpha, clean) * clean + expand_as_rows(sigma, clean) * noise).float()
    columns = []
    for label in range(label_count):
        parts = []
        for start in range(0, len(z), 1024):
            part = slice(start, start + 1024)
            given = torch.full((len(z[part]),), label)
            law, delta = pair.deviation(level[part], z[part], given)
            parts.append(gain(noise[part] - law, delta))
        columns.append(torch.cat(parts).reshape(n, count).mean(1))
    return torch.stack(columns, 1)


@torch.no_grad()
def baselines(model, held, held_label, test, label):
    """The standard diffusion classifier at every budget, and the noise-free one."""
    classes, process = int(label.max()) + 1, model.score.process
    y, held_y = (model.encoding.transforms(x, torch.full_like(x, 0.5))[0] for x in (test, held))
    generator, rows = torch.Generator().manual_seed(0), []
    ends = process.time(torch.tensor(BAND, dtype=torch.float64))
    for budget in STANDARD:
        share = (torch.arange(budget, dtype=torch.float64) + 0.5) / budget
        levels = process.log_snr(ends[1] + share * (ends[0] - ends[1]))
        eps = torch.randn(budget, *y.shape[1:], generator=generator, dtype=y.dtype).expand(len(y), -1, -1, -1, -1)
        found = errors_at(model, y, classes, levels, eps).argmax(1)
        accuracy = float((found.numpy() == label).mean())
        rows.append({"method": "standard", "uniform": budget, "accuracy": accuracy, "evaluations": classes * budget})
    silent = {len(x): torch.zeros_like(x)[:, None] for x in (y, held_y)}
    scores = {
        level: errors_at(model, held_y, classes, torch.tensor([level], dtype=torch.float64), silent[len(held_y)])
        for level in NOISE_FREE
    }
    best = max(NOISE_FREE, key=lambda level: float((scores[level].argmax(1).numpy() == held_label).mean()))
    found = errors_at(model, y, classes, torch.tensor([best], dtype=torch.float64), silent[len(y)]).argmax(1)
    accuracy = float((found.numpy() == label).mean())
    rows.append({"method": "noise-free", "uniform": 1, "accuracy": accuracy, "evaluations": classes, "log_snr": best})
    return rows


def run(data, seed, options):
    """One split: baselines, and every weighting with and without a screen."""
    splits = split(len(data.x), seed=seed, test=0.2, validation=0.1)
    kept = None if options.cache is None else options.cache / f"{data.schema.kind}-{seed}.pt"
    model, facts = fit_band(data, splits, seed, options.seconds, kept)
    chosen = splits.test[: options.rows]
    held, test, label = data.x[splits.validation], data.x[chosen], data.codes[chosen].numpy()
    held_label = data.codes[splits.validation].numpy()
    facts = {"seed": seed, "test_rows": len(label), **facts}
    rows = baselines(model, held, held_label, test, label)
    screen = GaussianScreen.fit(data.x[splits.train], data.codes[splits.train])
    alone = float((screen(test).argmax(1).numpy() == label).mean())
    rows.append({"method": "screen alone", "accuracy": alone, "evaluations": 0.0})
    for name in options.weights:
        settings = {"weights": WEIGHTS[name], "samples": 32, "max_samples": options.max_samples}
        classifier = DiffusionClassifier(model, screen=screen, **settings)
        classifier.calibrate(held, held_label)
        for method, confidences in (("screened elimination", SCREENED), ("elimination", CONFIDENCES)):
            classifier.screen = screen if method == "screened elimination" else None
            for confidence in confidences:
                found = measure(classifier.classify(test, confidence=confidence), label)
                rows.append({"method": method, "weights": name, "confidence": confidence} | found)
        for budget in BUDGETS:
            classifier.samples = budget
            found = measure(classifier.classify(test), label)
            rows.append({"method": "uniform", "weights": name, "uniform": budget} | found)
    for row in rows:
        print(json.dumps(row), flush=True)
    return [facts | row for row in rows]


def mean(rows, key, **which):
    """Mean over splits of the rows that agree with ``which``."""
    return float(np.mean([row[key] for row in rows if all(row.get(name) == value for name, value in which.items())]))


def summarise(rows):
    """Means over splits, and how many times fewer evaluations than each baseline's smallest budget that is as good."""
    keys = ("method", "weights", "confidence", "uniform")
    groups = {tuple(row.get(key) for key in keys): None for row in rows}
    table = []
    for group in groups:
        which = dict(zip(keys, group, strict=True))
        found = {key: mean(rows, key, **which) for key in ("accuracy", "evaluations")}
        if "calibration_error" in next(row for row in rows if tuple(row.get(key) for key in keys) == group):
            found["calibration_error"] = mean(rows, "calibration_error", **which)
        table.append({key: value for key, value in which.items() if value is not None} | found)
    uniform = [entry for entry in table if "uniform" in entry]
    for entry in (e for e in table if "confidence" in e):
        entry["times_fewer_than"] = {}
        for name in dict.fromkeys(_label(e) for e in uniform):
            enough = [e for e in uniform if _label(e) == name and e["accuracy"] >= entry["accuracy"] - TOLERANCE]
            cost = min((e["evaluations"] for e in enough), default=None)
            entry["times_fewer_than"][name] = None if cost is None else cost / entry["evaluations"]
    return table


def _label(entry):
    return f"{entry['method']}, {entry['weights']}" if "weights" in entry else entry["method"]


def main():
    """All splits."""
    parser = Command(__doc__, seconds=2.0, seeds=[0], rows=16, max_samples=8)
    parser.add_argument("data", nargs="?", default="digits", help="labelled data: a name, file or folder")
    parser.add_argument("--seconds", type=float, default=180.0, help="of training per split")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--weights", nargs="*", choices=WEIGHTS, default=["window"])
    parser.add_argument("--max-samples", type=int, default=64)
    parser.add_argument("--rows", type=int, help="test rows at most")
    parser.add_argument("--cache", type=Path, help="folder where trained models are kept")
    options = parser.parse_args()
    data, rows = load(options.data), []
    for seed in options.seeds:
        rows += run(data, seed, options)
        summary = summarise(rows)
        if not options.quick:
            accuracies = [row["accuracy"] for row in rows if row["method"] == "elimination"]
            settings = {"band": list(BAND), "seconds": options.seconds, "max_samples": options.max_samples}
            record("paper2-classifier", rows, summary=summary, spread=spread(accuracies), settings=settings)
    for entry in summary:
        print(json.dumps(entry))


if __name__ == "__main__":
    main()
