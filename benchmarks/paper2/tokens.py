r"""A diffusion head per token: the loss at uniform times against the likelihood's weighting, in held-out nats.

Both train the same transformer and head from the same start for the same number of steps, and both are stopped early
by the bound; what is reported is the bound on rows that neither saw, per sequence, with the errors of the estimator and
of the rows, and the paired difference. An untrained model is the joint Gaussian of the sequences, the line to beat.

- ``switching``: scalar tokens x_i = 2 tanh(2 x_{i-1}) + 0.4 eps, whose log-density is known;
- ``digits``: the eight rows of an image, dequantised;
- ``concrete``, ``wine`` (with --data): the columns of a table as scalar tokens, dequantised where a lattice is known.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.tokens --data ../shared/data
"""

import time
from pathlib import Path

import torch

from benchmarks._record import Command, record
from girsanov.applications.tokens import WEIGHTINGS, TokenModel, fit_tokens
from girsanov.datasets import load
from girsanov.evaluation import difference
from girsanov.training import TrainingConfig

SAMPLES = 128
SWITCHES = 6


def switching(count, seed):
    """Sequences with their log-densities."""
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(count, SWITCHES, generator=generator, dtype=torch.float64)
    rows, scale = [eps[:, 0]], torch.tensor([1.0] + [0.4] * (SWITCHES - 1), dtype=torch.float64)
    for i in range(1, SWITCHES):
        rows.append(2.0 * torch.tanh(2.0 * rows[-1]) + 0.4 * eps[:, i])
    return torch.stack(rows, 1)[:, :, None], torch.distributions.Normal(0.0, scale).log_prob(eps * scale).sum(1)


def tokens_of(data, seed):
    """Dequantised rows in random order: an image's rows, or a table's columns, as tokens."""
    generator = torch.Generator().manual_seed(seed)
    x, width = data.x, data.schema.bin_width
    x = x + width * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5)
    x = x[torch.randperm(len(x), generator=generator)]
    return x.flatten(1, 2) if data.schema.kind == "images" else x[:, :, None]


def measure(name, x, truth, held, config):
    """One data set: both weightings, the Gaussian, and the paired difference."""
    row, values = {"data": name, "tokens": x.shape[1], "numbers": x.shape[2], "rows": len(held)}, {}
    for weighting in WEIGHTINGS:
        begun = time.perf_counter()
        model: TokenModel = fit_tokens(x, weighting=weighting, config=config)
        seconds = time.perf_counter() - begun
        found = model.log_prob(held, samples=SAMPLES).sequence
        mean, values[weighting] = found.mean(), found.value
        row[weighting] = {
            "nats": mean.value,
            "stderr": mean.stderr,
            "rows_stderr": mean.rows_stderr,
            "stderr_of_one_sequence": float(found.stderr.square().mean().sqrt()),
            "fit_seconds": seconds,
        }
    law = torch.distributions.MultivariateNormal(model.mean.flatten(), scale_tril=model.factor)
    row["gaussian"] = float(law.log_prob(held.flatten(1)).mean())
    row["truth"] = None if truth is None else float(truth.mean())
    gap = difference(values["likelihood"], values["uniform-t"])
    row["likelihood_minus_uniform_t"] = [gap.nats, gap.low, gap.high]
    return row


def jobs(options):
    """(name, training sequences, truth of the held-out ones, held-out sequences)."""
    limit = 1200 if options.quick else 8000
    train, _ = switching(limit, seed=options.seed)
    held, truth = switching(400, seed=options.seed + 1)
    yield "switching", train, truth, held
    names = [("digits", "digits")]
    if options.data is not None:
        names += [(name, options.data / "uci" / f"{name}.csv.gz") for name in ("concrete", "wine")]
    for name, source in names[: 1 if options.quick else None]:
        x = tokens_of(load(source), options.seed)
        cut = min(400, len(x) // 5)
        yield name, x[cut : cut + limit], None, x[:cut]


def main():
    """All data sets; with --quick two of them and few steps."""
    parser = Command(__doc__)
    parser.add_argument("--data", type=Path, help="folder with uci/; without it two data sets")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    steps = 250 if options.quick else 1000
    config = TrainingConfig(
        steps=steps, batch_size=64, learning_rate=2e-3, warmup=min(200, steps // 10), clip_norm=5.0,
        ema_decay=0.98 if options.quick else 0.995, patience=10, seed=options.seed,
    )  # fmt: skip
    rows = []
    for job in jobs(options):
        rows.append(row := measure(*job, config))
        low, high = (f"{row[w]['nats']:.3f} ± {row[w]['rows_stderr']:.3f}" for w in WEIGHTINGS)
        gap = " ".join(f"{value:+.3f}" for value in row["likelihood_minus_uniform_t"])
        print(f"{row['data']:10s} likelihood {low}  uniform-t {high}  difference, interval {gap}", flush=True)
        print(f"{'':10s} gaussian {row['gaussian']:.3f}  truth {row['truth']}", flush=True)
    if not options.quick:
        print(f"wrote {record('paper2-tokens', rows, samples=SAMPLES, steps=steps, seed=options.seed).name}")


if __name__ == "__main__":
    main()
