"""False alarms of the Stein tests: independent rows over thousands of samples of each model, and chains.

Every row is a share of p-values at or below 5 % among samples of the tested model itself, with its binomial standard
error; "pooled" has each test's share over all models. Chains are first-order autoregressions with N(0, 1) marginals
(note of paper 4, section 3.4): independent signs are wrong for them, one sign for each block, or signs that are a
Markov chain, are not; chains that are worth too little for blocks are refused. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.level
"""

__all__: list[str] = []

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._record import Command, record
from girsanov.densities import GaussianMixture
from girsanov.stein import FiniteSet, IncompleteU, InverseMultiquadric, MarkovBootstrap, WildBootstrap, goodness_of_fit
from girsanov.stein.nulls import Method
from girsanov.types import InputError

ALPHA, RESAMPLES = 0.05, 199
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.3, 0.6], [0.5, 0.4]])
)


def seeded(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(n: int, generator: torch.Generator) -> Tensor:
    """N(0, I) in five dimensions."""
    return torch.randn(n, 5, generator=generator, dtype=torch.float64)


def student(n: int, generator: torch.Generator) -> Tensor:
    """Student's t with three degrees of freedom."""
    z, v = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (1, 3))
    return z / (v.square().sum(1, keepdim=True) / 3.0).sqrt()


def mixture_score(x: Tensor) -> Tensor:
    """Of the mixture."""
    return MIXTURE.diffused_score(x.new_ones(len(x)), x.new_zeros(len(x)), x)


#: model -> how to draw, score, diffusion matrix
MODELS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor], object]] = {
    "normal, d=5": (normal, lambda x: -x, None),
    "mixture, d=2": (lambda n, generator: MIXTURE.sample(n, generator=generator), mixture_score, None),
    "student 3": (student, lambda x: -4.0 * x / (3.0 + x.square()), None),
    "student 3, m = 1 + x^2/3": (
        student,
        lambda x: -4.0 * x / (3.0 + x.square()),
        lambda x: 1.0 + x[:, 0].square() / 3.0,
    ),
}
#: test -> kernel, method
TESTS = {
    "wild, median": ("imq", WildBootstrap(RESAMPLES)),
    "wild, ten bandwidths": (None, WildBootstrap(RESAMPLES)),
    "blocks, median": ("imq", MarkovBootstrap(RESAMPLES)),
    "finite set": ("imq", FiniteSet(resamples=RESAMPLES)),
    "finite set, optimised": ("imq", FiniteSet(optimise=True, steps=30, resamples=RESAMPLES)),
    "incomplete, 100 diagonals": ("imq", IncompleteU(100, resamples=RESAMPLES)),
}
#: so many times fewer samples of each model
FEWER = {"wild, ten bandwidths": 2, "blocks, median": 4, "finite set, optimised": 10, "incomplete, 100 diagonals": 4}


def rate(count: int, repeats: int) -> dict[str, float]:
    """A share and its standard error."""
    share = count / repeats
    return {"rate": share, "stderr": math.sqrt(max(share * (1 - share), 1e-9) / repeats), "repeats": repeats}


def independent(model: str, test: str, n: int, repeats: int) -> dict[str, object]:
    """False alarms on independent rows."""
    draw, score, diffusion = MODELS[model]
    kernel, method = TESTS[test]
    count, start = 0, time.process_time()
    for seed in range(repeats):
        x, generator = draw(n, seeded(seed)), seeded(seed + 10**6)
        options = {"kernel": kernel, "method": method, "diffusion": diffusion, "generator": generator}
        count += goodness_of_fit(x, score, **options).pvalue <= ALPHA
    return {"rows": "independent", "model": model, "test": test, "n": n, **rate(count, repeats),
            "seconds": time.process_time() - start}  # fmt: skip


def over_models(rows: list[dict[str, Any]]) -> dict[str, float]:
    """One test's share over all models."""
    return rate(sum(round(row["rate"] * row["repeats"]) for row in rows), sum(row["repeats"] for row in rows))


def chain_pvalue(x: Tensor, method: Method, seed: int) -> float | None:
    """Of one chain; nothing where it is refused."""
    options = {"kernel": InverseMultiquadric(1.0), "method": method, "generator": seeded(seed)}
    try:
        return goodness_of_fit(x, lambda x: -x, **options).pvalue
    except InputError:
        return None


def chains(rho: float, n: int, repeats: int) -> list[dict[str, object]]:
    """False alarms on chains, by independent signs, by blocks of them, and by Markov signs with the published flip."""
    noise = torch.randn(n + 200, repeats, generator=seeded(round(1000 * rho)), dtype=torch.float64)
    states = [noise[0]]
    for step in noise[1:]:
        states.append(rho * states[-1] + math.sqrt(1 - rho**2) * step)
    x = torch.stack(states[200:])
    published = {0.0: 0.5, 0.5: 0.1, 0.9: 0.02}[rho]
    rows = []
    methods = {"independent": WildBootstrap(300), "blocks": MarkovBootstrap(300)}
    methods["markov, published flip"] = MarkovBootstrap(300, flip=published)
    for name, method in methods.items():
        start = time.process_time()
        found = [chain_pvalue(x[:, k : k + 1], method, k) for k in range(repeats)]
        count = sum(pvalue is not None and pvalue <= ALPHA for pvalue in found)
        rows.append({"rows": "chain", "rho": rho, "signs": name, "n": n, **rate(count, repeats),
                     "refused": found.count(None) / repeats, "seconds": time.process_time() - start})  # fmt: skip
    return rows


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, repeats=40, chains=20)
    parser.add_argument("--repeats", type=int, default=4000, help="samples of each model")
    parser.add_argument("--chains", type=int, default=1000, help="chains of each autocorrelation")
    arguments = parser.parse_args()
    repeats, chain_repeats = arguments.repeats, arguments.chains
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for model in MODELS:
        for test in TESTS:
            rows.append(independent(model, test, 200, max(1, repeats // FEWER.get(test, 1))))
            print(rows[-1], flush=True)
    for rho in (0.0, 0.5, 0.9):
        rows += chains(rho, 500, chain_repeats)
    if not arguments.quick:
        rows += chains(0.9, 5000, max(1, chain_repeats // 10))
    for row in rows[len(MODELS) * len(TESTS) :]:
        print(row, flush=True)
    pooled = {test: over_models([row for row in rows if row.get("test") == test]) for test in TESTS}
    print(pooled)
    if not arguments.quick:
        print(f"wrote {record('paper4-level', rows, alpha=ALPHA, pooled=pooled).name}")


if __name__ == "__main__":
    main()
