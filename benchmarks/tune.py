"""Variance times evaluations of bounds in 64 dimensions, untuned and tuned, beside uniform times and one probe.

Mixtures of five Gaussians with scales from 0.1 to 0.7, the exact score as a plain function, nothing else given:

- implicit score matching at one uniform time with one Rademacher probe, written from its formula (note of paper 1,
  section 2.6); a draw counts as one evaluation, though its vector-Jacobian product costs two more;
- levels from the spectrum of N(0, I) alone, as was the default before a Gaussian was fitted about each row;
- the default;
- the pair tuned to 500 rows (`girsanov.tune`).

    OMP_NUM_THREADS=1 python -m benchmarks.tune
"""

__all__: list[str] = []

import time

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, record, settings, spread
from girsanov.calculus import sum_event
from girsanov.likelihoods import elbo
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.solvers import LogSNRDensity
from tests.laws import HARD, rows_of, seeded

LAWS = [name for name in HARD if "64" in name]


def implicit(pair: ScorePair, x: Tensor, draws: int) -> Tensor:
    """Variance of one draw for each row: -(1/2 |s|^2 + v' ds/dx v) g^2 at one uniform time."""
    process, (low, high) = pair.process, pair.log_snr_range
    ends = process.time(torch.tensor([high, low]))
    found = []
    for i, row in enumerate(x):
        generator = seeded(i)
        t = ends[0] + (ends[1] - ends[0]) * torch.rand(draws, generator=generator)
        (_, g2), (alpha, sigma) = process.rates(t), process.marginal(t)
        z = alpha[:, None] * row + sigma[:, None] * torch.randn(draws, len(row), generator=generator)
        probe = 2.0 * torch.randint(0, 2, z.shape, generator=generator) - 1.0
        z.requires_grad_()
        score = pair.score(t, z)
        (product,) = torch.autograd.grad(score, z, probe)
        values = (ends[1] - ends[0]) * g2 * (0.5 * sum_event(score.square()) + sum_event(product * probe))
        found.append(values.detach().var())
    return torch.stack(found)


def bound(pair: ScorePair, x: Tensor, samples: int, seeds: int) -> Tensor:
    """Variance times evaluations of the bound for each row, over seeds."""
    values = torch.stack([elbo(pair, x, samples=samples, generator=seeded(seed)).value for seed in range(seeds)])
    return samples * values.var(0)


def main() -> None:
    """Compare, print and record."""
    parser = Command(__doc__, rows=3, seeds=4, draws=200)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=40_000)
    parser.add_argument("--tuned-on", type=int, default=500, help="rows that the pair is tuned to")
    parser.add_argument("--samples", type=int, nargs="*", default=[32, 64])
    parser.add_argument("--name", default="tune", help="file stem of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows: list[dict[str, object]] = []
    for law in LAWS:
        case, x = rows_of(law, options.rows)
        score = case.density.score(VariancePreserving())
        pair = ScorePair(lambda t, x, score=score: score(t, x), VariancePreserving())
        begun = time.perf_counter()
        tuned = gv.tune(pair, case.rows(options.tuned_on, seed=9))
        seconds = time.perf_counter() - begun
        spectrum = LogSNRDensity.from_spectrum(*pair.log_snr_range, torch.ones(1), atom=True, floor=0.3)
        base = implicit(pair, x, options.draws)
        rows.append({"law": law, "estimator": "uniform time, one probe", "variance_times_nfe": spread(base.tolist())})
        ways = {"spectrum alone": pair.replace(proposal=spectrum), "default": pair, "tuned": tuned}
        for name, one in ways.items():
            for samples in options.samples:
                found = bound(one, x, samples, options.seeds)
                row = {"law": law, "estimator": name, "samples": samples, "variance_times_nfe": spread(found.tolist())}
                row |= {"gain": spread((base / found).tolist()), "mean_gain": float(base.mean() / found.mean())}
                rows.append(row | ({"tuning_seconds": seconds} if name == "tuned" else {}))
                print(
                    law, name, samples, f"gain {row['gain']['median']:.0f}, of means {row['mean_gain']:.0f}", flush=True
                )
    if not options.quick:
        record(options.name, rows, **settings(options, "name", "rows"))


if __name__ == "__main__":
    main()
