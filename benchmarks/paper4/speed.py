"""Speed and memory of Stein discrepancies and tests, beside coreax and beside dense code in the manner of kgof.

Rows are N(0, I), d = 10, tested against themselves with an inverse multiquadric of bandwidth 3. Five measurements:

- the statistic at n = 10^4, ours and coreax's (float32 both, the same value to 1e-5, compilation not counted);
- the same with 500 bootstrap multipliers, ours against dense NumPy matrices with one pass per dimension and one
  matrix-vector product per multiplier, as kgof does it (float64, as there);
- the statistic at n = 10^5 with the memory that it adds to the process;
- linear-time tests at n = 10^6.

coreax is run by the interpreter that --coreax-python names (``python3 -m venv DIR && DIR/bin/pip install coreax``);
without one, its absence is recorded. Run on an idle machine, from the root of the repository:

    OMP_NUM_THREADS=2 python -m benchmarks.paper4.speed --coreax-python DIR/bin/python
"""

__all__: list[str] = []

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks._record import Command, record
from girsanov.stein import (
    FiniteSet,
    IncompleteU,
    InverseMultiquadric,
    WildBootstrap,
    goodness_of_fit,
    kernel_stein_discrepancy,
)

LENGTH, DIMENSIONS, MULTIPLIERS = 3.0, 10, 500
KERNEL = InverseMultiquadric(LENGTH)
FULL = {"pairs": 10_000, "dense": (2_000, 4_000, 8_000), "large": 100_000, "linear": 1_000_000}
QUICK = {"pairs": 1_000, "dense": (500,), "large": 4_000, "linear": 20_000}


def draws(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of the model itself."""
    return torch.randn(n, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def score(x: torch.Tensor) -> torch.Tensor:
    """Of N(0, I)."""
    return -x


def timed(call: Callable[[], object], repeats: int) -> tuple[list[float], object]:
    """Seconds of repeated calls after one that is not counted, and the value."""
    value = call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - start)
    return seconds, value


def resident_megabytes() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def statistic(n: int, repeats: int) -> dict[str, object]:
    """Ours, float32."""
    x = draws(n)
    seconds, value = timed(lambda: float(kernel_stein_discrepancy(x, score, kernel=KERNEL, statistic="v")), repeats)
    return {"what": "statistic", "code": "girsanov", "n": n, "seconds": statistics.median(seconds), "all": seconds,
            "v_statistic": value}  # fmt: skip


def coreax_statistic(n: int, repeats: int, python: str | None) -> dict[str, object]:
    """The same by coreax, best of two block sizes, or a note that it is not there."""
    row: dict[str, object] = {"what": "statistic", "code": "coreax", "n": n}
    if python is None:
        return {**row, "absent": "no interpreter with coreax was given"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.npy"
        np.save(path, draws(n).numpy())
        found = []
        for block in (1000, 2000):
            command = [python, str(Path(__file__).with_name("_coreax.py")), str(path), str(LENGTH)]
            result = subprocess.run([*command, str(block), str(repeats)], capture_output=True, text=True, check=False)
            if result.returncode:
                return {**row, "absent": result.stderr.strip().splitlines()[-1]}
            found.append({"block": block, **json.loads(result.stdout.splitlines()[-1])})
    best = min(found, key=lambda entry: statistics.median(entry["seconds"]))
    return {**row, **best, "all": best["seconds"], "seconds": statistics.median(best["seconds"])}


def bootstrap(n: int, repeats: int) -> dict[str, object]:
    """Ours with multipliers, float32."""
    x, method = draws(n), WildBootstrap(MULTIPLIERS)
    seconds, result = timed(lambda: goodness_of_fit(x, score, kernel=KERNEL, method=method), repeats)
    return {"what": "bootstrap", "code": "girsanov", "n": n, "seconds": statistics.median(seconds), "all": seconds,
            "u_statistic": result.discrepancy, "pvalue": result.pvalue}  # fmt: skip


def dense_bootstrap(n: int) -> dict[str, object]:
    """Dense matrices, one pass per dimension, one product per multiplier; once, for it takes long."""
    start = time.perf_counter()
    x = draws(n, torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad((-0.5 * x.square()).sum(), x)
    gram = dense_stein_matrix(x.detach().numpy(), slope.numpy())
    np.fill_diagonal(gram, 0.0)
    value, generator = gram.sum() / (n * (n - 1)), np.random.default_rng(0)
    replicates = []
    for _ in range(MULTIPLIERS):
        signs = generator.choice([-1.0, 1.0], n)
        replicates.append(signs @ (gram @ signs) / (n * (n - 1)))
    pvalue = (1 + sum(replicate >= value for replicate in replicates)) / (MULTIPLIERS + 1)
    seconds = time.perf_counter() - start
    return {"what": "bootstrap", "code": "dense", "n": n, "seconds": seconds, "u_statistic": float(value),
            "pvalue": pvalue, "largest_megabytes": resident_megabytes()}  # fmt: skip


def dense_stein_matrix(x: np.ndarray, s: np.ndarray) -> np.ndarray:
    """All pairs at once, float64: k s.s' + sum_i (s_i d_i' k + s_i' d_i k) + sum_i d_i d_i' k."""
    n, d = x.shape
    squares = (x**2).sum(1)
    base = 1.0 + np.maximum(squares[:, None] - 2.0 * x @ x.T + squares, 0.0) / LENGTH**2
    first = -0.5 / LENGTH**2 * base**-1.5
    second = 0.75 / LENGTH**4 * base**-2.5
    cross, trace = np.zeros((n, n)), np.zeros((n, n))
    for i in range(d):
        difference = x[:, i, None] - x[:, i]
        cross += 2.0 * first * difference * (s[:, i] - s[:, i, None])
        trace += -2.0 * first - 4.0 * second * difference**2
    return base**-0.5 * (s @ s.T) + cross + trace


def large(n: int) -> dict[str, object]:
    """One statistic with the memory that it adds."""
    x = draws(n)
    before, start = resident_megabytes(), time.perf_counter()
    value = float(kernel_stein_discrepancy(x, score, kernel=KERNEL))
    seconds, after = time.perf_counter() - start, resident_megabytes()
    return {"what": "memory", "code": "girsanov", "n": n, "seconds": seconds, "u_statistic": value,
            "process_megabytes": after, "added_megabytes": after - before}  # fmt: skip


def linear(n: int) -> list[dict[str, object]]:
    """Linear-time tests with their bootstrap."""
    x, rows = draws(n), []
    for name, method in (("finite set", FiniteSet(5, resamples=500)), ("incomplete", IncompleteU(1, resamples=500))):
        start = time.perf_counter()
        result = goodness_of_fit(x, score, kernel=KERNEL, method=method)
        seconds = time.perf_counter() - start
        rows.append({"what": "linear time", "code": f"girsanov, {name}", "n": n, "seconds": seconds,
                     "pvalue": result.pvalue, "process_megabytes": resident_megabytes()})  # fmt: skip
    return rows


def child(what: str, n: int) -> list[dict[str, object]]:
    """One measurement in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.paper4.speed", "--only", what, "--n", str(n)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ.copy())
    return json.loads(result.stdout.splitlines()[-1])


def ratios(rows: list[dict[str, object]]) -> dict[str, float]:
    """How many times quicker ours is, at equal n."""
    by_key = {(row["what"], row["code"], row["n"]): row.get("seconds") for row in rows}
    found = {}
    for (what, code, n), seconds in by_key.items():
        ours = by_key.get((what, "girsanov", n))
        if code in ("coreax", "dense") and seconds and ours:
            found[f"{what}, {code}, n={n}"] = seconds / ours
    return found


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__)
    parser.add_argument("--coreax-python", help="an interpreter that can import coreax")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure = {"large": lambda n: [large(n)], "linear": linear, "dense": lambda n: [dense_bootstrap(n)]}
        print(json.dumps(measure[arguments.only](arguments.n)))
        return
    sizes = QUICK if arguments.quick else FULL
    rows = [statistic(sizes["pairs"], arguments.repeats)]
    rows.append(coreax_statistic(sizes["pairs"], arguments.repeats, arguments.coreax_python))
    for n in (*sizes["dense"], sizes["pairs"]):
        rows.append(bootstrap(n, arguments.repeats))
    for n in sizes["dense"]:
        rows += child("dense", n)
    rows += child("large", sizes["large"]) + child("linear", sizes["linear"])
    for row in rows:
        print({key: value for key, value in row.items() if key != "all"}, flush=True)
    print(ratios(rows))
    if not arguments.quick:
        print(f"wrote {record('paper4-speed', rows, ratios=ratios(rows)).name}")


if __name__ == "__main__":
    main()
