r"""What DDPM's discrete sums miss: errors against the truth with the exact score, in nats per dimension.

For each schedule, four numbers from the *same* evaluations of an exact score: the paper's sum with the weights of the
bound and with left-end weights, the DDPM bound itself, and the continuous bound by the trapezoid rule in log-SNR. The
oracles are mixtures in d = 1 (at x = 0.5) and d = 2 (mean over four points); the mean over the noise is a quadrature.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.discrete_bias
"""

import torch

from benchmarks._record import Command, record
from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
from girsanov.likelihoods.denoising import Quadrature
from girsanov.pairs import ScorePair
from girsanov.processes import HarmonicVP
from tests.laws import note_mixture_1d, note_mixture_2d

POINTS = {1: [[0.5]], 2: [[0.0, 0.0], [1.0, 1.0], [-1.5, 0.6], [2.5, -1.0]]}
GRIDS = {1: Quadrature(), 2: Quadrature(spacing=0.25, reach=7.0)}


def measure(case, name, steps):
    """One row: the four errors per dimension."""
    d, schedule = case.d, SCHEDULES[name](steps)
    x = torch.tensor(POINTS[d])
    bound = ddpm_bound(ScorePair(case.density.score(HarmonicVP())), x, schedule=schedule, noise=GRIDS[d])
    truth, levels = case.log_prob(x), schedule.log_snr
    values = {
        "bound_weights": bound.discretised_formula(),
        "left_weights": bound.discretised_formula(left=True),
        "ddpm_bound": bound.estimate.value,
        "trapezoid": bound.continuous.value,
    }
    errors = {key: float((value - truth).mean()) / d for key, value in values.items()}
    facts = {"log_snr": [float(levels[-1]), float(levels[0])], "first_gap": float(levels[0] - levels[1])}
    return {"d": d, "schedule": name, "steps": steps, **facts, "distortion": schedule.distortion(), **errors}


def main():
    """All schedules, 1000 and 4000 steps; with --quick 1000 steps in d = 1 only."""
    parser = Command(__doc__)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    cases = (
        [(note_mixture_1d(), (1000,))]
        if options.quick
        else [
            (note_mixture_1d(), (1000, 4000)),
            (note_mixture_2d(), (1000,)),
        ]
    )
    rows = []
    for case, counts in cases:
        for name in SCHEDULES:
            for steps in counts:
                rows.append(row := measure(case, name, steps))
                numbers = " ".join(f"{key} {row[key]:+.2e}" for key in list(row)[-5:])
                print(f"d={row['d']} {name:14s} {steps:5d}  {numbers}", flush=True)
    if not options.quick:
        print(f"wrote {record('paper2-discrete-bias', rows).name}")


if __name__ == "__main__":
    main()
