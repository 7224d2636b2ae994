"""Efficiency of score matching with a diffusion matrix on Student-t data (note of paper 4, section 3.1).

First the asymptotic efficiency relative to maximum likelihood, by quadrature of the sandwich, beside the note's table.
Then root mean square errors of location and scale over samples of 300 rows at (25, 10), with matrices whose centre and
scale are plugged in (median and median absolute deviation), and with the Gaussianising flow fitted to each sample: the
automatic choice. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.efficiency
"""

__all__: list[str] = []

import math
from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor

from benchmarks._record import Command, record
from girsanov.stein import Radial, fit_flow, minimum_score_matching
from tests.stein.test_estimation import efficiency, gaussianising, student, student_score

FREEDOMS = (1, 2, 3, 5, 30)
#: matrix -> location and scale for each freedom, as the note has them; 0 where the variance is infinite
NOTE = {
    "1": ((0.40, 0.26), (0.49, 0.38), (0.56, 0.48), (0.67, 0.63), (0.96, 0.96)),
    "(1+z2/nu)^.5": ((0.50, 0.50), (0.57, 0.64), (0.65, 0.74), (0.75, 0.84), (0.98, 0.99)),
    "(1+z2/nu)^.75": ((0.57, 0.74), (0.60, 0.84), (0.66, 0.90), (0.78, 0.95), (0.99, 1.00)),
    "1+z2/nu": ((1.00, 1.00), (0.0, 1.00), (0.50, 1.00), (0.75, 1.00), (0.99, 1.00)),
    "flow": ((0.54, 0.64), (0.60, 0.79), (0.67, 0.86), (0.78, 0.93), (0.99, 1.00)),
}
POWERS = {"1": 0.0, "(1+z2/nu)^.5": 0.5, "(1+z2/nu)^.75": 0.75, "1+z2/nu": 1.0}
#: (freedom, estimator) -> the note's root mean square errors of location and scale
NOTE_ERRORS = {
    (5, "mle"): (0.659, 0.499),
    (5, "plain"): (0.780, 0.650),
    (5, "1+z2/nu"): (0.736, 0.507),
    (1, "mle"): (0.88, 0.82),
    (1, "plain"): (1.34, 1.80),
    (1, "1+z2/nu"): (1.01, 1.04),
}


def table() -> list[dict[str, object]]:
    """Asymptotic efficiencies, and their distance from the note's."""
    rows = []
    for name, expected in NOTE.items():
        for freedom, pair in zip(FREEDOMS, expected, strict=True):
            unit = torch.ones(1)
            fixed = Radial(0.0 * unit, unit, POWERS[name], float(freedom)) if name in POWERS else gaussianising(freedom)
            found = efficiency(float(freedom), fixed)
            gap = max(abs(a - b) for a, b in zip(found, pair, strict=True) if b > 0.0)
            row = {"matrix": name, "freedom": freedom, "location": found[0], "scale": found[1], "gap": gap}
            rows.append({"part": "asymptotic", **row, "note": pair})
            print(
                f"{name:14s} nu={freedom:<3d} {found[0]:.3f}/{found[1]:.3f}  note {pair[0]:.2f}/{pair[1]:.2f}",
                flush=True,
            )
    return rows


def maximum_likelihood(x: Tensor, freedom: float) -> tuple[float, float]:
    """Location and scale by SciPy."""
    _, location, scale = stats.t.fit(x.numpy().ravel(), fix_df=freedom)
    return float(location), float(scale)


def score_matched(diffusion: Callable[[Tensor, float], object]) -> Callable[[Tensor, float], tuple[float, float]]:
    """Location and scale by score matching with the matrix of a sample."""

    def estimate(x: Tensor, freedom: float) -> tuple[float, float]:
        middle = x.median()
        start = torch.stack([middle, (x - middle).abs().median().log()])
        found = minimum_score_matching(x, student_score(freedom), start, diffusion=diffusion(x, freedom)).parameters
        return float(found[0]), math.exp(float(found[1]))

    return estimate


ESTIMATORS: dict[str, Callable[[Tensor, float], tuple[float, float]]] = {
    "mle": maximum_likelihood,
    "plain": score_matched(lambda x, freedom: None),
    "(1+z2/nu)^.5": score_matched(lambda x, freedom: Radial.fit(x, power=0.5, freedom=freedom)),
    "1+z2/nu": score_matched(lambda x, freedom: Radial.fit(x, power=1.0, freedom=freedom)),
    "flow": score_matched(lambda x, freedom: fit_flow(x)),
}


def errors(freedom: int, name: str, repeats: int) -> dict[str, object]:
    """Root mean square errors over samples, each with its Monte-Carlo standard error."""
    found = torch.tensor([ESTIMATORS[name](student(freedom, 300, seed), float(freedom)) for seed in range(repeats)])
    squares = (found - torch.tensor([25.0, 10.0])).square()
    rmse = squares.mean(0).sqrt()
    noise = squares.std(0) / math.sqrt(repeats) / (2.0 * rmse)
    row = {"part": "samples", "freedom": freedom, "estimator": name, "repeats": repeats, "rmse": rmse.tolist()}
    print(f"nu={freedom} {name:14s} {rmse[0]:.3f}/{rmse[1]:.3f} +- {noise[0]:.3f}/{noise[1]:.3f}", flush=True)
    return {**row, "monte_carlo_error": noise.tolist(), "note": NOTE_ERRORS.get((freedom, name))}


def main() -> None:
    """Both parts, printed and recorded."""
    parser = Command(__doc__, repeats=10)
    parser.add_argument("--repeats", type=int, default=300, help="samples of each estimator")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = table()
    gap = max(row["gap"] for row in rows)
    print(f"largest gap to the note's table: {gap:.4f}")
    rows += [errors(freedom, name, arguments.repeats) for freedom in (5, 1) for name in ESTIMATORS]
    if not arguments.quick:
        print(f"wrote {record('paper4-efficiency', rows, largest_gap=gap).name}")


if __name__ == "__main__":
    main()
