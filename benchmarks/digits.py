r"""Digits, defaults, five seeded splits: held-out bits per dimension beside a Gaussian, mixtures and a spline flow.

80/20 splits with the validation rows cut from the 80 %, no class labels. Ours models levels as they are; Gaussians,
mixtures and flow are of dequantised rows, and all of them see the same draws at test time. The spline flow gets as many
seconds as our training took, on the same threads.

    python -m benchmarks.digits --threads 2
"""

import json
import time

import torch

from benchmarks._record import RESULTS, Command, record, spread
from girsanov.datasets import Splits, load
from girsanov.density_model import Config, fit
from girsanov.evaluation import difference
from girsanov.peers import PEERS, PeerData

SAMPLES = 64


def run(data, seed, seconds):
    """One split: our fit with defaults, then the peers."""
    begun = time.perf_counter()
    model = fit(data, config=Config(seed=seed, time_budget=seconds))
    seconds = time.perf_counter() - begun
    splits = Splits.from_json(model.record["splits"])
    test = data.x[splits.test]
    begun = time.perf_counter()
    ours = model.elbo(test, samples=SAMPLES)
    evaluation = time.perf_counter() - begun
    mean, per_bit = ours.mean(), float(data.x[0].numel() * torch.tensor(2.0).log())
    row = {
        "seed": seed,
        "bits_per_dim": float(ours.bits_per_dim().mean()),
        "stderr_estimator": mean.stderr / per_bit,
        "stderr_rows": mean.rows_stderr / per_bit,
        "train_bits_per_dim": float(model.elbo(data.x[splits.train][:360], samples=16).bits_per_dim().mean()),
        "fit_seconds": seconds,
        "evaluation_seconds": evaluation,
        "training": model.record["training"],
    }
    peers = PeerData(model, data.x, splits)
    for name, fit_peer in PEERS.items():
        peer = fit_peer(peers, seconds)
        estimate = peers.estimate(peer, test)
        gap = difference(ours, estimate)
        row[name] = {
            "bits_per_dim": float(estimate.bits_per_dim().mean()),
            "seconds": peer.seconds,
            "settings": peer.settings,
            "difference_nats": [gap.nats, gap.low, gap.high],
        }
    return row


def main():
    """All splits; rows already in the record are kept."""
    parser = Command(__doc__, seeds=[0], seconds=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seconds", type=float, help="of training per split; default as long as the defaults take")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load("digits")
    path = RESULTS / "digits.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() and not options.quick else []
    for seed in options.seeds:
        if seed in {row["seed"] for row in rows}:
            continue
        rows.append(run(data, seed, options.seconds))
        bits = [row["bits_per_dim"] for row in rows]
        if not options.quick:
            record("digits", rows, mean_bits_per_dim=sum(bits) / len(bits), spread=spread(bits), samples=SAMPLES)
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
