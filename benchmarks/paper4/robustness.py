"""Outliers: joint mean and variance of a normal by closed-form score matching (note of paper 4, section 3.2).

500 rows of N(2, 1.5^2), a tenth of them at 20 or none; the matrix (1 + z^2)^a with z standardised by median and median
absolute deviation; 2000 repetitions, and the coverage of the sandwich's 95 % intervals. A Gaussianising flow stands
beside them on a tenth of the repetitions: the automatic choice for heavy tails follows outliers instead of bounding
them. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.robustness
"""

__all__: list[str] = []

import math

import torch

from benchmarks._record import Command, record
from girsanov.stein import Radial, fit_exponential_family
from tests.stein.test_estimation import contaminated, normal_statistics

#: (power, outliers of 500) -> the note's root mean square error of the mean (second run)
NOTE = {
    (0.0, 50): 1.80,
    (-0.5, 50): 0.088,
    (-1.0, 50): 0.113,
    (0.0, 0): 0.068,
    (-0.5, 0): 0.087,
    (-1.0, 0): 0.121,
}


def measure(power: float | None, outliers: int, repeats: int) -> dict[str, object]:
    """Mean and root mean square error of the estimated mean, and coverage; no power means the flow."""
    means, hits = [], 0
    for seed in range(repeats):
        x = contaminated(seed, outliers)
        matrix = "gaussianise" if power is None else Radial.fit(x, power=power)
        fit = fit_exponential_family(normal_statistics, x, diffusion=matrix)
        eta = fit.parameters
        mean = eta[0] / eta[1]
        slope = torch.stack([1.0 / eta[1], -eta[0] / eta[1] ** 2])
        hits += abs(float(mean) - 2.0) < 1.96 * math.sqrt(float(slope @ fit.covariance @ slope))
        means.append(mean)
    squares = (torch.stack(means) - 2.0).square()
    rmse = float(squares.mean().sqrt())
    noise = float(squares.std()) / math.sqrt(repeats) / (2.0 * rmse)
    name, note = "gaussianise" if power is None else f"a = {power:g}", NOTE.get((power, outliers))
    print(f"{name:12s} outliers={outliers:<3d} {rmse:.4f} +- {noise:.4f}  note {note}", flush=True)
    return {
        "matrix": name,
        "power": power,
        "outliers": outliers,
        "mean": float(torch.stack(means).mean()),
        "rmse": rmse,
        "monte_carlo_error": noise,
        "coverage_95": hits / repeats,
        "repeats": repeats,
        "note": note,
    }


def main() -> None:
    """All cases, printed and recorded."""
    parser = Command(__doc__, repeats=50)
    parser.add_argument("--repeats", type=int, default=2000, help="samples of each case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = [measure(power, outliers, arguments.repeats) for power, outliers in NOTE]
    rows += [measure(None, outliers, arguments.repeats // 10) for outliers in (50, 0)]
    if not arguments.quick:
        print(f"wrote {record('paper4-robustness', rows, repeats=arguments.repeats).name}")


if __name__ == "__main__":
    main()
