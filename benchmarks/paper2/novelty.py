r"""Which novelty score works: AUROC of every rule against raw log p, on images and on tables.

A model of the digits is asked about digits that it has not seen, against the same digits with shuffled pixels,
inverted, flipped, blurred, nearly blank, and (with --data) MNIST averaged to 8 x 8; a model of a UCI table about rows
whose columns are each shuffled, or one of them is. AUROC 0.5 is chance, and below it the score prefers the foreign
rows. Rows of calibration and test are disjoint, and neither took part in the fit.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.novelty --data ../shared/data
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from benchmarks._record import Command, record
from girsanov.applications.novelty import RULES, Calibration, band_errors
from girsanov.datasets import Splits, load
from girsanov.density_model import Config, fit

SAMPLES = 128
TABLES = ("wine", "concrete")
QUICK = {"steps": 150, "members": 1}


def digit_variants(x, generator, folder):
    """Foreign inputs made from digits ``n 1 8 8`` with levels 0 .. 16."""
    order = torch.stack([torch.randperm(64, generator=generator) for _ in x])
    blurred = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    noise = (torch.rand(x.shape, generator=generator, dtype=x.dtype) < 0.05).to(x)
    variants = {
        "shuffled pixels": x.flatten(1).gather(1, order).reshape(x.shape),
        "inverted": 16.0 - x,
        "flipped": x.flip(2),
        "blurred": blurred.round(),
        "nearly blank": noise,
    }
    if folder is not None:
        variants["MNIST at 8 x 8"] = mnist_small(folder / "mnist", len(x))
    return variants


def mnist_small(folder, count):
    """MNIST images, 28 x 28 padded to 32 and averaged to 8 x 8, on the digits' 17 levels."""
    images = load(folder).x[:count].double()
    wide = torch.nn.functional.pad(images, (2, 2, 2, 2))
    return (torch.nn.functional.avg_pool2d(wide, 4) * (16.0 / 255.0)).round().clamp(0.0, 16.0)


def table_variants(x, generator):
    """Rows with every column shuffled by itself, and with one shuffled column."""
    shuffled = torch.stack([column[torch.randperm(len(x), generator=generator)] for column in x.T], 1)
    one = x.clone()
    one[:, 0] = shuffled[:, 0]
    return {"shuffled columns": shuffled, "one shuffled column": one}


def aurocs(model, calibration_rows, own, variants):
    """AUROC of every rule for every kind of foreign rows."""
    calibration = Calibration.of(band_errors(model, calibration_rows, samples=SAMPLES))
    found = band_errors(model, own, samples=SAMPLES)
    rows = []
    for kind, foreign in variants.items():
        other = band_errors(model, foreign, samples=SAMPLES)
        labels = [0] * len(own) + [1] * len(foreign)
        row = {"foreign": kind, "rows": len(own), "log_prob_gap": float(found.log_prob.mean() - other.log_prob.mean())}
        for name, rule in RULES.items():
            scores = torch.cat([rule(calibration, part) for part in (found, other)])
            row[name] = float(roc_auc_score(labels, scores.numpy()))
        rows.append(row)
    return rows


def measure(name, data, config, variants_of, limit):
    """One data set: fit, calibrate on half of the held-out rows, test on the other half."""
    begun = time.perf_counter()
    model = fit(data, config=config)
    seconds = time.perf_counter() - begun
    test = data.x[Splits.from_json(model.record["splits"]).test]
    half = min(len(test) // 2, limit)
    own = test[half : 2 * half]
    rows = aurocs(model, test[:half], own, variants_of(own))
    return [{"data": name, "fit_seconds": seconds, **row} for row in rows]


def main():
    """Digits, then tables where their folder is given."""
    parser = Command(__doc__)
    parser.add_argument("--data", type=Path, help="folder with mnist/ and uci/; without it digits alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=45.0, help="of training per data set")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    settings = QUICK if options.quick else {"time_budget": options.seconds}
    config = Config(seed=options.seed, test=0.4, flow=not options.quick, **settings)
    limit = 100 if options.quick else 1000
    smooth = replace(config, network="conv", dequantise="uniform")  # a density, which the rules are about
    jobs = [("digits", "digits", smooth, lambda x: digit_variants(x, generator, options.data))]
    for table in () if options.data is None else TABLES[: 1 if options.quick else None]:
        jobs.append((table, options.data / "uci" / f"{table}.csv.gz", config, lambda x: table_variants(x, generator)))
    rows = []
    for name, source, chosen, variants_of in jobs:
        for row in measure(name, load(source), chosen, variants_of, limit):
            rows.append(row)
            scores = " ".join(f"{rule} {row[rule]:.3f}" for rule in RULES)
            print(f"{name:12s} {row['foreign']:20s} {scores}  log p gap {row['log_prob_gap']:+.1f}", flush=True)
    if not options.quick:
        print(
            f"wrote {record('paper2-novelty', rows, samples=SAMPLES, seed=options.seed, seconds=options.seconds).name}"
        )


if __name__ == "__main__":
    main()
