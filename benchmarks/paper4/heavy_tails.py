"""Tests of a heavy-tailed model, Student-t with 3 degrees, with diffusion matrices and flows (note, section 3.3).

400 rows, 5 % level, inverse multiquadric of bandwidth 1.5 (0.7 after the flow asinh(x / sqrt 3)), U-statistic, 300
multipliers, m = z^a with z = 1 + x^2/3; 200 repetitions. Two tests choose their own matrix: "gaussianise" fits a flow
to the tested rows and takes the median bandwidth at its image, "tuned" tunes a flow for power on one half of the rows
and tests the other, in a quarter of the repetitions. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.heavy_tails
"""

__all__: list[str] = []

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks._record import Command, record
from girsanov.stein import InverseMultiquadric, JohnsonFlow, WildBootstrap, goodness_of_fit, push_forward, tune_flow

LEVEL, ROWS = 0.05, 400


def contaminated(source: np.random.Generator) -> np.ndarray:
    """Student-t rows, each with probability 2 % about +-30 with unit spread (on both, power depends strongly)."""
    x, outlier = source.standard_t(3, ROWS), source.random(ROWS) < 0.02
    about = 30.0 * source.choice([-1.0, 1.0], ROWS) + source.standard_normal(ROWS)
    return np.where(outlier, about, x)


SAMPLES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "t3": lambda source: source.standard_t(3, ROWS),
    "t3 + 2% at 30": contaminated,
    "t1.5": lambda source: source.standard_t(1.5, ROWS),
    "N(0, 1.5)": lambda source: math.sqrt(1.5) * source.standard_normal(ROWS),
}
#: the note's rejection rates over the first four tests below
NOTE = {
    "t3": (0.055, 0.060, 0.040, 0.040),
    "t3 + 2% at 30": (0.050, 0.355, 0.390, 0.055),
    "t1.5": (0.090, 0.400, 0.215, 0.575),
    "N(0, 1.5)": (0.200, 0.360, 0.955, 0.395),
}


def score(x: Tensor) -> Tensor:
    """Of Student's t with 3 degrees of freedom."""
    return -4.0 * x / (3.0 + x.square())


def pvalue(x: Tensor, s: object, bandwidth: float | None, seed: int, diffusion: object = None) -> float:
    """One test."""
    options = {"kernel": InverseMultiquadric(bandwidth), "method": WildBootstrap(300), "diffusion": diffusion}
    return goodness_of_fit(x, s, **options, generator=torch.Generator().manual_seed(seed)).pvalue


def powered(power: float) -> Callable[[Tensor, int], float]:
    """The test with m = (1 + x^2/3)^power."""
    return lambda x, seed: pvalue(x, score, 1.5, seed, lambda x: (1.0 + x[:, 0].square() / 3.0) ** power)


def after_flow(x: Tensor, seed: int) -> float:
    """The plain test after asinh(x / sqrt 3)."""
    y, s = push_forward(x, score, lambda x: torch.asinh(x / math.sqrt(3.0)))
    return pvalue(y, s, 0.7, seed)


def gaussianised(x: Tensor, seed: int) -> float:
    """The plain test after a flow that makes the tested rows about normal."""
    return pvalue(*push_forward(x, score, JohnsonFlow.fit(x)), None, seed)


def tuned(x: Tensor, seed: int) -> float:
    """A flow tuned on one half, the test on the other."""
    matrix = tune_flow(x[: ROWS // 2], score, kernel=InverseMultiquadric(1.5))
    return pvalue(x[ROWS // 2 :], score, 1.5, seed, matrix)


TESTS: dict[str, Callable[[Tensor, int], float]] = {
    "plain": lambda x, seed: pvalue(x, score, 1.5, seed),
    "z^.5": powered(0.5),
    "z": powered(1.0),
    "asinh": after_flow,
    "gaussianise": gaussianised,
    "tuned": tuned,
}


def rejection(sample: str, test: str, repeats: int) -> dict[str, object]:
    """Rejection rate with its binomial error."""
    repeats = max(2, repeats // 4) if test == "tuned" else repeats
    rejected = 0
    for seed in range(repeats):
        source = np.random.default_rng([seed, list(SAMPLES).index(sample)])
        x = torch.tensor(source.permutation(SAMPLES[sample](source)))[:, None]
        rejected += TESTS[test](x, seed) <= LEVEL
    rate = rejected / repeats
    note = dict(zip(TESTS, NOTE[sample], strict=False)).get(test)
    error = math.sqrt(max(rate * (1.0 - rate), 0.01) / repeats)
    print(f"{sample:14s} {test:11s} {rate:.3f} +- {error:.3f}  note {note}", flush=True)
    return {"sample": sample, "test": test, "rate": rate, "stderr": error, "repeats": repeats, "note": note}


def main() -> None:
    """The table, printed and recorded."""
    parser = Command(__doc__, repeats=10)
    parser.add_argument("--repeats", type=int, default=200, help="samples of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = [rejection(sample, test, arguments.repeats) for sample in SAMPLES for test in TESTS]
    if not arguments.quick:
        print(f"wrote {record('paper4-heavy-tails', rows, level=LEVEL, rows_per_sample=ROWS).name}")


if __name__ == "__main__":
    main()
