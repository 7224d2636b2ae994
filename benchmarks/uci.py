r"""Held-out log-likelihood of tables beside three peers, under one protocol and equal time.

For every table and seed: 80/20 split with a validation cut of 10 % of the 80 %; discrete columns dequantised on their
lattice, the same draws for every contender; every choice made on the validation rows; the same seconds on the same
threads for the diffusion model, the mixtures and each of the two settings of the spline flow. Reported are nats
per row in data units (log-mass of discrete columns), and the paired difference per row to the best peer, best by its
test mean.

    python -m benchmarks.uci DATA_FOLDER --seconds 60 --seeds 0 1 2 3 4

DATA_FOLDER holds ``NAME.csv.gz``. Results are written after every fit, and fits already there are skipped.
"""

import json
import time
from pathlib import Path

import torch

from benchmarks._record import RESULTS, Command, record
from girsanov.datasets import Splits, load
from girsanov.density_model import Config, fit
from girsanov.evaluation import difference
from girsanov.peers import PEERS, PeerData

TABLES = ("protein", "elevators", "parkinsons", "concrete", "wine")


def run(folder, name, seed, seconds):
    """Fit all contenders to one split and compare them row by row."""
    data = load(str(folder / f"{name}.csv.gz"))
    begun = time.monotonic()
    model = fit(data, config=Config(seed=seed, time_budget=seconds))
    ours_seconds = time.monotonic() - begun
    splits = Splits.from_json(model.record["splits"])
    test = data.x[splits.test]
    ours = model.elbo(data[splits.test], samples=64)
    with torch.no_grad():
        start = model.reference
        view = model.encode(data[splits.test]).view(8, 0)
        base = (start.log_prob(view.x.flatten(0, 1)) + view.log_det.flatten()).reshape(len(test), -1).mean(1)
    result = {
        "rows": [len(splits.train), len(splits.validation), len(splits.test)],
        "discrete_columns": int((data.schema.bin_width > 0).sum()),
        "columns": data.x.shape[1],
        "ours": {
            "nats": ours.mean().value,
            "stderr": ours.mean().stderr,
            "rows_stderr": ours.mean().rows_stderr,
            "untrained_reference": float(base.mean()),
            "seconds": ours_seconds,
            "training": model.record["training"],
            "starting_points": model.record["starting_points"],
            "head": type(model.score.head).__name__,
            "flow": any(type(t).__name__ == "SplineFlow" for t in model.encoding.transforms.members),
        },
        "peers": {},
        "differences": {},
    }
    peers = PeerData(model, data.x, splits)
    for peer_name, fit_peer in PEERS.items():
        peer = fit_peer(peers, 2.0 * seconds if peer_name == "spline_flow" else seconds)
        estimate = peers.estimate(peer, test)
        mean = estimate.mean()
        result["peers"][peer_name] = {
            "nats": mean.value,
            "rows_stderr": mean.rows_stderr,
            "settings": peer.settings,
            "seconds": peer.seconds,
            "worst": float(estimate.value.min()),
        }
        gap = difference(ours, estimate)
        result["differences"][peer_name] = {"mean": gap.nats, "interval": [gap.low, gap.high]}
    return result


def main():
    """Run what is missing and write the record."""
    parser = Command(__doc__, tables=["wine"], seeds=[0], seconds=2.0)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="uci", help="results/NAME.json; rows already there are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() and not options.quick else []
    done = {(row["table"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for table in options.tables:
            if (table, seed) in done:
                continue
            rows.append({"table": table, "seed": seed, **run(options.folder, table, seed, options.seconds)})
            if not options.quick:
                record(options.name, rows, seconds=options.seconds, threads=options.threads)
            print(line(rows[-1]), flush=True)


def line(row):
    """One line for the reader who waits."""
    best = max(row["peers"], key=lambda peer: row["peers"][peer]["nats"])
    low, high = row["differences"][best]["interval"]
    return (
        f"{row['table']}/{row['seed']}: ours {row['ours']['nats']:.3f}, {best} {row['peers'][best]['nats']:.3f}, "
        f"difference [{low:.3f}, {high:.3f}]"
    )


if __name__ == "__main__":
    main()
