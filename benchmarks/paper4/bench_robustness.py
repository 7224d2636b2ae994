"""Outliers: joint mean and variance of a normal by closed-form score matching (note of paper 4, section 3.2).

500 rows of N(2, 1.5^2), a tenth of them at 20 or none; the matrix (1 + z^2)^a with z standardised by median and median
absolute deviation; 2000 repetitions, and the coverage of the sandwich's 95 % intervals. A Gaussianising flow stands
beside them on a tenth of the repetitions: the automatic choice for heavy tails follows outliers instead of bounding
them. Run from the root of the repository:

    OMP_NUM_THREADS=1 python benchmarks/paper4/bench_robustness.py
"""

__all__: list[str] = []

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from _record import record

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="samples of each case")
    parser.add_argument("--quick", action="store_true", help="fifty samples, nothing recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    repeats = 50 if arguments.quick else arguments.repeats
    rows = [measure(power, outliers, repeats) for power, outliers in NOTE]
    rows += [measure(None, outliers, repeats // 10) for outliers in (50, 0)]
    if not arguments.quick:
        print(f"wrote {record('paper4-robustness', rows, repeats=repeats).name}")


if __name__ == "__main__":
    main()
