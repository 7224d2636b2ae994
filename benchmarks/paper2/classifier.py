r"""Digits, five seeded splits: the diffusion classifier's accuracy, calibration, and evaluations spent.

Per split, a conditional model of the log-SNR band that tells classes apart is trained on the training rows; the
validation rows stop training and calibrate the classifier; the test rows are looked at once. Elimination is compared
with uniform budgets: every class gets the same number of evaluations, under the same weights, levels and antithetic
pairs, or under those of other weightings. The smallest uniform budget whose mean accuracy is within 0.2 points of
elimination's is what it saves against; with ``--trial`` nothing is recorded.

    OMP_NUM_THREADS=1 python benchmarks/paper2/classifier.py digits --seconds 180
    OMP_NUM_THREADS=1 python benchmarks/paper2/classifier.py digits --seconds 5 --rows 40 --seeds 0 --trial
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _record import record, spread

from girsanov.applications import DiffusionClassifier
from girsanov.datasets import load, split
from girsanov.density_model import Config, prepare
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.training import ShuffledBatches, TrainingConfig, train

BAND = (-6.0, 4.0)  # log-SNR of the learned model; the Gaussian reference serves outside
CONFIDENCES = (0.5, 0.9, 0.99)
BUDGETS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32)  # evaluations per class
BINS = 15
TOLERANCE = 0.002


def window(levels):
    """Weights around log-SNR 0, where an antithetic pair says most about the class of an 8 x 8 digit."""
    return torch.exp(-0.5 * levels.square())


WEIGHTS = {"window": window, "fitted": "fitted", "likelihood": "likelihood", "uniform": "uniform"}


def fit_band(data, splits, seed, seconds):
    """A conditional model whose score is learned on the band, by the likelihood's own objective there."""
    config = Config(conditional=True, lattice=False, members=1, seed=seed)
    model = prepare(data, splits, config)
    model.score.log_snr_range = BAND
    rows, label = data.x[splits.train], data.labels[splits.train]
    settings = TrainingConfig(
        steps=6000, batch_size=256, learning_rate=1.5e-3, weight_decay=0.1, ema_decay=0.998, time_budget=seconds,
        patience=10, seed=seed,
    )  # fmt: skip
    batches = ShuffledBatches(len(rows), settings.batch_size, seed)
    held, held_label = data.x[splits.validation], data.labels[splits.validation]

    def validate(module, step):
        del module, step
        return model.encoded_elbo(held, samples=16, condition=held_label).mean()

    objective = DenoisingObjective(model.score, model.transforms, drop_condition=0.1)
    result = train(
        model.score,
        objective,
        lambda step: Batch(rows[batches(step)], label[batches(step)]),
        config=settings,
        validate=validate,
    )
    model.score = result.module
    return model.eval(), result


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


def run(data, seed, seconds, names, max_samples, limit):
    """One split, every weighting."""
    splits = split(len(data.x), seed=seed, test=0.2, validation=0.1)
    begun = time.perf_counter()
    model, result = fit_band(data, splits, seed, seconds)
    rows = []
    chosen = splits.test[:limit]
    held, test, label = data.x[splits.validation], data.x[chosen], data.labels[chosen].numpy()
    facts = {"seed": seed, "fit_seconds": time.perf_counter() - begun, "steps": result.step}
    for name in names:
        classifier = DiffusionClassifier(model, weights=WEIGHTS[name], samples=32, max_samples=max_samples)
        classifier.encoded_calibrate(held, data.labels[splits.validation].numpy())
        common = facts | {"weights": name, "test_rows": len(label)}
        for confidence in CONFIDENCES:
            found = measure(classifier.encoded_classify(test, confidence=confidence), label)
            rows.append(common | {"confidence": confidence} | found)
        for budget in BUDGETS:
            classifier.samples = budget
            rows.append(common | {"uniform": budget} | measure(classifier.encoded_classify(test), label))
        print(json.dumps(rows[-len(CONFIDENCES) - len(BUDGETS)]), flush=True)
    return rows


def mean(rows, key, **which):
    """Mean over splits of the rows that agree with ``which``."""
    return float(np.mean([row[key] for row in rows if all(row.get(name) == value for name, value in which.items())]))


def summarise(rows, names):
    """Means over splits, and how many times fewer evaluations than each weighting's smallest budget that is as good."""
    accuracy = {
        name: {budget: mean(rows, "accuracy", weights=name, uniform=budget) for budget in BUDGETS} for name in names
    }
    found: dict[str, dict] = {f"{name} uniform": accuracy[name] for name in names}
    for name in names:
        for confidence in CONFIDENCES:
            which = {"weights": name, "confidence": confidence}
            entry: dict = {key: mean(rows, key, **which) for key in ("accuracy", "calibration_error", "evaluations")}
            entry["times_fewer_than"] = {}
            for other in names:
                enough = [budget for budget in BUDGETS if accuracy[other][budget] >= entry["accuracy"] - TOLERANCE]
                cost = mean(rows, "evaluations", weights=other, uniform=enough[0]) if enough else None
                entry["times_fewer_than"][other] = None if cost is None else cost / entry["evaluations"]
            found[f"{name} {confidence}"] = entry
    return found


def main():
    """All splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits", help="labelled data: a name, file or folder")
    parser.add_argument("--seconds", type=float, default=180.0, help="of training per split")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--weights", nargs="*", choices=WEIGHTS, default=["window", "likelihood", "uniform"])
    parser.add_argument("--max-samples", type=int, default=64)
    parser.add_argument("--rows", type=int, help="test rows at most")
    parser.add_argument("--trial", action="store_true", help="print, do not record")
    options = parser.parse_args()
    data, rows = load(options.data), []
    for seed in options.seeds:
        rows += run(data, seed, options.seconds, options.weights, options.max_samples, options.rows)
        summary = summarise(rows, options.weights)
        print(json.dumps(summary, indent=1), flush=True)
        if not options.trial:
            accuracies = [row["accuracy"] for row in rows if row.get("confidence") == CONFIDENCES[1]]
            settings = {"band": list(BAND), "seconds": options.seconds, "max_samples": options.max_samples}
            record("paper2-classifier", rows, summary=summary, spread=spread(accuracies), settings=settings)


if __name__ == "__main__":
    main()
