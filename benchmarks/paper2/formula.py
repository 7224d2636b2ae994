r"""The density formula against the truth: by quadrature in d <= 2, by Monte Carlo at two budgets for comparison.

Quadrature shows that the formula is exact (to 1e-8 nats in one dimension and 1e-5 in two); the Monte-Carlo rows show
what the estimator that everybody uses makes of it, and its standard error.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.formula
"""

import torch

from benchmarks._record import Command, record
from girsanov.likelihoods import density
from girsanov.likelihoods.denoising import Quadrature, density_by_quadrature
from girsanov.pairs import ScorePair
from tests.laws import PROCESSES, note_mixture_1d, note_mixture_2d

CASES = {
    1: (note_mixture_1d, [[-2.0], [0.0], [0.5], [1.5], [3.0]], {}),
    2: (
        note_mixture_2d,
        [[0.0, 0.0], [1.0, 1.0], [-1.5, 0.6], [2.5, -1.0]],
        {"spacing": 0.25, "noise": Quadrature(0.2, 7.0)},
    ),
}


def measure(d, name):
    """One row: largest error over the points of the note."""
    make, points, options = CASES[d]
    case, process, x = make(), PROCESSES[name](), torch.tensor(points)
    pair, truth = ScorePair(case.density.score(process), reference=case.density.moment_match()), case.log_prob(x)
    exact = density_by_quadrature(pair, x, **options)
    row = {"d": d, "process": name, "quadrature_error": float((exact.value - truth).abs().max())}
    for samples in (256, 4096):
        drawn = density(pair, x, exact=True, samples=samples)
        row[f"error_{samples}"] = float((drawn.value - truth).abs().max())
        row[f"stderr_{samples}"] = float(drawn.stderr.square().mean().sqrt())
    return row


def main():
    """Every process in d = 1, two of them in d = 2; with --quick one process each."""
    parser = Command(__doc__)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    names = {1: list(PROCESSES), 2: ["VariancePreserving", "StraightPath"]}
    rows = []
    for d in CASES:
        for name in names[d][: 1 if options.quick else None]:
            rows.append(row := measure(d, name))
            print(f"d={d} {name:22s} " + " ".join(f"{key} {row[key]:.1e}" for key in list(row)[2:]), flush=True)
    if not options.quick:
        print(f"wrote {record('paper2-formula', rows).name}")


if __name__ == "__main__":
    main()
