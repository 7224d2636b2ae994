"""Power of aggregated tests beside the published rows of KSDAgg and KSDAggInc (note of paper 4, section 6.2).

Gamma: the model is Gamma(5, scale 5), the data Gamma(5 + shift, 5), from the published seeds. RBM: a
Gaussian-Bernoulli restricted Boltzmann machine of 50 visible and 40 hidden units whose couplings, +-1, are perturbed
with N(0, sigma^2), afresh for every sample; rows come from a Gibbs sampler of our own, each from a chain of its own
with 2,000 sweeps (chains hardly leave their mode, and power still grows with the sweeps there).
"rbm-instances" repeats sigma = 0.02 for single perturbations of couplings that are kept over all samples: how far the
power depends on which perturbation was drawn, which the published rows do not say.
"published" takes their ten bandwidths, "default" ours. Rows of problems that are not asked for stay as they were
recorded. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.aggregation
"""

__all__: list[str] = []

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._record import RESULTS, Command, record
from girsanov.stein import FiniteSet, IncompleteU, InverseMultiquadric, WildBootstrap, goodness_of_fit

ALPHA = 0.05
SHIFTS, SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4), (0.0, 0.01, 0.02, 0.03, 0.04)
VISIBLE, HIDDEN = 50, 40
#: published rejection rates over shifts or sigmas
PUBLISHED = {
    ("gamma", "aggregated, published"): (0.020, 0.170, 0.430, 0.750, 0.915),
    ("gamma", "median"): (0.035, 0.175, 0.455, 0.78, 0.93),
    ("rbm", "aggregated, published"): (0.060, 0.310, 0.990, 1.0, 1.0),
    ("rbm", "median"): (0.055, 0.21, 0.795, 1.0, 1.0),
    ("rbm", "incomplete, R=100"): (0.06, 0.12, 0.73, 0.99, 1.0),
    ("rbm", "incomplete, R=200"): (0.05, 0.27, 0.94, 1.0, 1.0),
    ("rbm", "finite set"): (0.02, 0.09, 0.48, 0.71, 0.99),
}


def published_bandwidths(x: Tensor) -> list[InverseMultiquadric]:
    """Ten bandwidths from 1/d to the largest distance of the first 500 rows over d."""
    largest = max(float(torch.pdist(x[:500] - x[:500].mean(0)).max()), 2.0)
    return [InverseMultiquadric(largest ** (i / 9) / x.shape[1]) for i in range(10)]


#: name -> (kernels of the rows, method), given the number of resamples of aggregated tests
TESTS: dict[str, Callable[[Tensor, int], tuple[object, object]]] = {
    "aggregated, published": lambda x, count: (published_bandwidths(x), WildBootstrap(count)),
    "aggregated, default": lambda x, count: (None, WildBootstrap(count)),
    "median": lambda x, count: ("imq", WildBootstrap(min(count, 499))),
    "incomplete, R=100": lambda x, count: (published_bandwidths(x), IncompleteU(100, min(count, 499))),
    "incomplete, R=200": lambda x, count: (published_bandwidths(x), IncompleteU(200, min(count, 499))),
    "finite set": lambda x, count: ("gaussian", FiniteSet(5, optimise=True, resamples=min(count, 499))),
}
LINEAR = {"incomplete, R=100", "incomplete, R=200", "finite set"}
MOST = dict.fromkeys(LINEAR, 100) | {"aggregated, default": 50}  # samples; linear-time rows were published so
RBM_SHARES = (0.5, 1.0, 1.0, 0.3, 0.3)  # of the samples, by sigma
RESAMPLES = {"gamma": 1999, "rbm": 999, "rbm-instances": 499}
INSTANCED = {"rbm-instances"}  # problems whose parameter is the number of a perturbation
INSTANCES, INSTANCE_SAMPLES, INSTANCE_SIGMA = 6, 25, 0.02


def gamma_rows(repeats: int) -> Iterator[tuple[float, list[Tensor]]]:
    """The published data, one list of samples per shift."""
    for i, shift in enumerate(SHIFTS):
        data = np.random.RandomState(i + 10).gamma(5 + shift, 5, (201, 500, 1))[:200]
        yield shift, [torch.tensor(x, dtype=torch.float32) for x in data[:repeats]]


def gamma_score(x: Tensor) -> Tensor:
    """Of Gamma(shape 5, scale 5)."""
    return 4.0 / x - 0.2


class Machine:
    """p(x, h) proportional to exp(x'Bh/2 + b'x + c'h - |x|^2/2), h in +-1, with the couplings of RandomState(0)."""

    def __init__(self) -> None:
        source = np.random.RandomState(0)
        self.couplings = torch.tensor(source.randint(0, 2, (VISIBLE, HIDDEN)) * 2.0 - 1.0, dtype=torch.float32)
        self.b, self.c = (torch.tensor(source.randn(k), dtype=torch.float32) for k in (VISIBLE, HIDDEN))

    def score(self, x: Tensor) -> Tensor:
        """Closed form, by tanh: exp(2y) would overflow."""
        return self.b - x + 0.5 * torch.tanh(0.5 * x @ self.couplings + self.c) @ self.couplings.T

    def sample(
        self, repeats: int, n: int, sigma: float, sweeps: int, seed: int, *, machines: int | None = None
    ) -> Tensor:
        """Samples ``repeats n d`` of machines with perturbed couplings, every row from a chain of its own.

        ``machines`` is the number of perturbations, 1 or (default) one for each sample.
        """
        generator = torch.Generator().manual_seed(seed)
        couplings = self.couplings + sigma * torch.randn(machines or repeats, VISIBLE, HIDDEN, generator=generator)
        x = torch.randn(repeats, n, VISIBLE, generator=generator)
        for _ in range(sweeps):
            chance = torch.sigmoid(x @ couplings + 2.0 * self.c)
            h = 2.0 * (torch.rand(chance.shape, generator=generator) < chance).float() - 1.0
            x = self.b + 0.5 * h @ couplings.mT + torch.randn(x.shape, generator=generator)
        return x


def rbm_rows(machine: Machine, repeats: int, n: int, sweeps: int) -> Iterator[tuple[float, list[Tensor]]]:
    """Samples of perturbed machines, ten repetitions at a time; fewer where the power is near 0 or 1."""
    for k, sigma in enumerate(SIGMAS):
        starts = range(0, max(2, round(RBM_SHARES[k] * repeats)), 10)
        batches = [machine.sample(10, n, sigma, sweeps, 1000 * k + start) for start in starts]
        yield sigma, list(torch.cat(batches))


def instance_rows(machine: Machine, n: int, sweeps: int) -> Iterator[tuple[int, list[Tensor]]]:
    """Samples of one perturbed machine each, by the number of the perturbation."""
    for k in range(INSTANCES):
        yield k, list(machine.sample(INSTANCE_SAMPLES, n, INSTANCE_SIGMA, sweeps, 77_000 + k, machines=1))


def rejection(
    name: str, test: str, parameter: float, samples: list[Tensor], score: Callable[[Tensor], Tensor], resamples: int
) -> dict[str, object]:
    """One rate with its standard error, beside the published one."""
    count, start = 0, time.process_time()
    for seed, x in enumerate(samples):
        kernel, method = TESTS[test](x, resamples)
        generator = torch.Generator().manual_seed(seed)
        count += goodness_of_fit(x, score, kernel=kernel, method=method, generator=generator).pvalue <= ALPHA
    rate, places = count / len(samples), SHIFTS if name == "gamma" else SIGMAS
    published = PUBLISHED.get((name, test))
    place = {"perturbation": parameter, "parameter": INSTANCE_SIGMA} if name in INSTANCED else {"parameter": parameter}
    return {
        "problem": name,
        "test": test,
        **place,
        "rate": rate,
        "stderr": math.sqrt(max(rate * (1 - rate), 1e-9) / len(samples)),
        "published": None if published is None else published[places.index(parameter)],
        "repeats": len(samples),
        "n": len(samples[0]),
        "seconds": time.process_time() - start,
    }


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, repeats=10, sweeps=50)
    parser.add_argument("--repeats", type=int, default=200, help="samples per row; some tests take half")
    parser.add_argument("--sweeps", type=int, default=2000, help="of the Gibbs sampler")
    parser.add_argument("--problems", nargs="*", default=["gamma", "rbm", "rbm-instances"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = Machine(), []
    size = 200 if arguments.quick else 1000
    sources = {
        "gamma": lambda: (gamma_rows(arguments.repeats), gamma_score),
        "rbm": lambda: (rbm_rows(machine, arguments.repeats, size, arguments.sweeps), machine.score),
        "rbm-instances": lambda: (instance_rows(machine, size, arguments.sweeps), machine.score),
    }
    for name in arguments.problems:
        source, score = sources[name]()
        for parameter, samples in source:
            for test in [t for t in TESTS if t not in LINEAR] if name == "gamma" else TESTS:
                used = samples[: MOST.get(test, len(samples))]
                if test in LINEAR and arguments.quick:
                    continue  # not enough rows for 200 diagonals
                resamples = 199 if arguments.quick else RESAMPLES[name]
                rows.append(rejection(name, test, parameter, used, score, resamples))
                print(rows[-1], flush=True)
    if arguments.quick:
        return
    rows = kept(arguments.problems) + rows
    facts = {"alpha": ALPHA, "resamples": RESAMPLES, "sweeps": arguments.sweeps, "largest_gaps": gaps(rows)}
    print(facts["largest_gaps"])
    print(f"wrote {record('paper4-aggregation', rows, **facts).name}")


def kept(problems: list[str]) -> list[dict[str, Any]]:
    """Recorded rows of other problems, with the commit that they are of."""
    path = RESULTS / "paper4-aggregation.json"
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    return [{"commit": document["commit"], **row} for row in document["rows"] if row["problem"] not in problems]


def gaps(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The largest distance to a published rate by problem and test."""
    found: dict[str, float] = {}
    for row in rows:
        if row["published"] is not None:
            key = f"{row['problem']}, {row['test']}"
            found[key] = max(found.get(key, 0.0), abs(row["rate"] - row["published"]))
    return found


if __name__ == "__main__":
    main()
