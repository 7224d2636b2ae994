r"""How often the kernel Stein tests reject the true model at 5 %: chains, and ten bandwidths in few rows.

Chains are first-order autoregressions with standard normal marginals, tested with blocks of signs
(:class:`MarkovBootstrap`) and, with `--before`, with the signs that blocks replaced: a Markov chain with the memory
that Sokal's autocorrelation time asks for. Shares are of all chains, and of those that are tested: a chain found to
be worth fewer than 30 independent rows is refused.
Independent rows are tested with all ten bandwidths and with those that rest on pairs enough; with the power against
a shift and a scale.

    OMP_NUM_THREADS=1 python -m benchmarks.nulls
"""

import math
from unittest.mock import patch

import torch

from benchmarks._record import Command, record, settings
from girsanov.stein import MarkovBootstrap, WildBootstrap, goodness, goodness_of_fit
from girsanov.stein.nulls import Method
from girsanov.types import InputError

LEVEL, RESAMPLES = 0.05, 99
SIZES, RHOS = (50, 200, 500, 2000), (0.0, 0.5, 0.9, 0.97)
FEW = (20, 50, 200)
WRONG = {"shift of 0.3": lambda x: x + 0.3, "scale of 1.3": lambda x: 1.3 * x}


def seeded(seed):
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def autoregressions(count, n, d, rho):
    """Stationary chains with standard normal marginals, shape ``count n d``."""
    x = torch.randn(count, n, d, generator=seeded(round(1000 * rho) + n + d))
    for i in range(1, n):
        x[:, i] = rho * x[:, i - 1] + math.sqrt(1.0 - rho**2) * x[:, i]
    return x


def flip_before(x):
    """Probability of a change of sign by the rule that blocks replaced: three times the time by Sokal's window."""
    n = len(x)
    spectrum = torch.fft.rfft(x - x.mean(0), n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=0)[:n]
    times = 2.0 * (covariance / covariance[0]).cumsum(0) - 1.0
    inside = torch.arange(n)[:, None] < 5.0 * times
    last = torch.where(inside.all(0), n - 1, (~inside).int().argmax(0))
    return 0.5 / (1.0 + 3.0 * (max(1.0, float(times.gather(0, last[None]).max())) - 1.0))


class Once(Method):
    """A method that keeps the outcome of its first problem."""

    def __init__(self, method):
        self.method, self.resamples, self.found = method, method.resamples, None

    def run(self, problem):
        """The same outcome at every call."""
        self.found = self.found or self.method.run(problem)
        return self.found


def pvalue(x, seed, method, kernel="imq"):
    """Of one test of the standard normal model; nothing where it is refused."""
    try:
        return goodness_of_fit(x, lambda x: -x, kernel=kernel, method=method, generator=seeded(seed)).pvalue
    except InputError:
        return None


def shares(pvalues):
    """Rejections among all and among those tested, with the standard error of the first."""
    tested = [p for p in pvalues if p is not None]
    rejected, count = sum(p <= LEVEL for p in tested), len(pvalues)
    share = rejected / count
    return {
        "rejected": share,
        "stderr": math.sqrt(share * (1.0 - share) / count),
        "refused": 1.0 - len(tested) / count,
        "rejected_of_tested": rejected / len(tested) if tested else None,
        "repeats": count,
    }


def chains(n, d, rho, repeats, before):
    """Blocks of signs, and the Markov signs before them if asked for, on the same chains."""
    methods = {"blocks": lambda x: MarkovBootstrap(RESAMPLES)}
    if before:
        methods["before"] = lambda x: MarkovBootstrap(RESAMPLES, flip_before(x))
    x = autoregressions(repeats, n, d, rho)
    cell = {"rows": "chain", "n": n, "d": d, "rho": rho, "worth": n * (1.0 - rho) / (1.0 + rho)}
    for name, method in methods.items():
        yield {**cell, "signs": name, **shares([pvalue(each, seed, method(each)) for seed, each in enumerate(x)])}


def bandwidths(n, d, rows, change, repeats):
    """Ten bandwidths, and those of them that rest on five pairs."""
    x = change(torch.randn(repeats, n, d, generator=seeded(n + d)))
    once = [Once(WildBootstrap(RESAMPLES)) for _ in x]
    for name, least in (("five pairs", goodness.LEAST_PAIRS), ("all", 0.0)):
        with patch.object(goodness, "LEAST_PAIRS", least):
            found = [pvalue(each, seed, once[seed], None) for seed, each in enumerate(x)]
        yield {"rows": rows, "n": n, "d": d, "bandwidths": name, **shares(found)}


def cells(options):
    """All measurements."""
    for d in (1, 3):
        for n in FEW:
            yield from bandwidths(n, d, "independent", lambda x: x, options.repeats)
        for name, change in WRONG.items():
            yield from bandwidths(50, d, name, change, options.repeats // 4)
    for n in SIZES:
        for d in (1, 3):
            for rho in RHOS:
                yield from chains(n, d, rho, max(2, options.chains * min(n, 500) // n), options.before)


def main():
    """Measure, print and record."""
    parser = Command(__doc__, repeats=20, chains=4)
    parser.add_argument("--repeats", type=int, default=2000, help="samples of independent rows")
    parser.add_argument("--chains", type=int, default=1000, help="chains in each cell, a quarter of 2,000 states")
    parser.add_argument("--before", action="store_true", help="also the signs that blocks replaced")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    rows = []
    for row in cells(options):
        rows.append(row)
        print(row, flush=True)
    if not options.quick:
        print(f"wrote {record('nulls', rows, level=LEVEL, resamples=RESAMPLES, settings=settings(options)).name}")


if __name__ == "__main__":
    main()
