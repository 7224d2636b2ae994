r"""The certificate of DDPM training under an exact score: the terms of the discrete bound, and what they miss.

A mixture in sixteen dimensions whose score and log-density are closed form, so that the continuous bound must be the
log-density and everything between it and the discrete bound is the chain's. For each schedule of 1000 steps: L_0, the
sum and the curve of L_t, L_T, the gap, and the distortion, how many times what the best model lacks to the entropy of
the data a model may lack that minimises the discrete loss.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.certificate
"""

import torch

from benchmarks._record import Command, record
from girsanov.likelihoods.certificate import certificate
from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
from girsanov.likelihoods.denoising import MonteCarlo
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from tests.laws import mixture_case, seeded

POINTS = 60  # of the curve that is kept


def measure(case, name, steps, rows):
    """One schedule."""
    pair, x = ScorePair(case.density.score(VariancePreserving())), case.rows(rows, seed=1)
    schedule = SCHEDULES[name](steps)
    bound = ddpm_bound(pair, x, schedule=schedule, noise=MonteCarlo(2), generator=seeded(0))
    found = certificate(bound, (-20.0, 20.0))
    truth = case.log_prob(x)
    error = bound.continuous.value - truth
    levels = schedule.log_snr[1:]  # kept where they are nearest to an even grid
    grid = torch.linspace(float(levels[0]), float(levels[-1]), POINTS)
    kept = (levels[:, None] - grid).abs().argmin(0).unique()
    # L_t per unit of log-SNR, beside what the continuous bound has there
    width = -schedule.log_snr.diff()
    return {
        "schedule": name,
        "steps": steps,
        "d": case.d,
        "rows": rows,
        "terms": {key: part.value for key, part in found.terms.items()},
        "discrete": found.discrete.value,
        "continuous": found.continuous.value,
        "truth": float(truth.mean()),
        "continuous_error_per_dim": float(error.mean()) / case.d,
        "continuous_error_stderr_per_dim": float(error.std()) / rows**0.5 / case.d,
        "gap_per_dim": found.gap.value / case.d,
        "gap_stderr_per_dim": found.gap.stderr / case.d,
        "distortion": found.distortion,
        "log_snr": levels[kept].tolist(),
        "discrete_density": (found.curve / width)[kept].tolist(),
        "continuous_density": (0.5 * bound.errors.mean((0, 2))[1:])[kept].tolist(),
    }


def main():
    """All schedules; with --quick 100 steps and few rows."""
    parser = Command(__doc__)
    quick = parser.parse_args().quick
    torch.set_default_dtype(torch.float64)
    case, rows = mixture_case((1, 4, 4)), []
    for name in SCHEDULES:
        rows.append(row := measure(case, name, 100 if quick else 1000, 8 if quick else 128))
        print(
            f"{name:14s} " + " ".join(f"{key} {value:+.3f}" for key, value in row["terms"].items()),
            f"gap/d {row['gap_per_dim']:.4f}  continuous - truth, per d {row['continuous_error_per_dim']:+.4f} "
            f"± {row['continuous_error_stderr_per_dim']:.4f}  distortion {row['distortion']:.2f}",
            flush=True,
        )
    if not quick:
        print(f"wrote {record('paper2-certificate', rows).name}")


if __name__ == "__main__":
    main()
