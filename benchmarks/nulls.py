r"""How often kernel Stein tests reject at 5 %: the true model by chains and by few rows, and a model nearly true.

Chains are first-order autoregressions with standard normal marginals, tested with blocks of signs
(:class:`MarkovBootstrap`) and, with `--before`, with the signs that blocks replaced: a Markov chain with the memory
that Sokal's autocorrelation time asks for. Shares are of all chains, and of those that are tested: a chain found to
be worth fewer than 30 independent rows is refused.
Independent rows are tested with all ten bandwidths and with those that rest on pairs enough; with the power against
a shift and a scale.
Balls about the model (:class:`SteinBall`) are tested with rows inside, at their boundary and outside, each beside the
plain test of the same rows.

    OMP_NUM_THREADS=1 python -m benchmarks.nulls --before
"""

import math
from unittest.mock import patch

import torch

from benchmarks._record import Command, record, settings
from girsanov.stein import (
    IncompleteU,
    InverseMultiquadric,
    MarkovBootstrap,
    SteinBall,
    WildBootstrap,
    goodness,
    goodness_of_fit,
)
from girsanov.stein.nulls import Method
from girsanov.types import InputError

LEVEL, RESAMPLES = 0.05, 99
SIZES, RHOS = (50, 200, 500, 2000), (0.0, 0.5, 0.9, 0.97)
FEW = (20, 50, 200)
SHIFT, SHARE, DIGITS = (
    0.1,
    0.05,
    0.1,
)  # of the balls: a shift of all rows, a share of foreign ones, a score's last digit
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


def worth(n, rho):
    """Independent rows that a chain is worth."""
    return n * (1.0 - rho) / (1.0 + rho)


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


def normal(x):
    """Score of the standard normal model."""
    return -x


def pvalue(x, seed, method, kernel="imq", score=normal, **options):
    """Of one test; nothing where it is refused."""
    try:
        return goodness_of_fit(x, score, kernel=kernel, method=method, generator=seeded(seed), **options).pvalue
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
    cell = {"rows": "chain", "n": n, "d": d, "rho": rho, "worth": worth(n, rho)}
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


def boundary():
    """The discrepancy of a shifted standard normal law under one kernel: the shift times the root of E k(X, X')."""
    nodes = torch.linspace(-12.0, 12.0, 20_001)
    weights = torch.exp(-0.5 * nodes.square()) / math.sqrt(2.0 * math.pi) * (nodes[1] - nodes[0])
    profile = InverseMultiquadric(1.0).profile(2.0 * nodes.square())[0]
    return SHIFT * math.sqrt(float((weights * profile).sum()))


def foreign(share):
    """Rows of the model, but for some, each with this probability, at nine standard deviations."""

    def change(x):
        return torch.where(torch.rand(len(x), 1, generator=seeded(len(x) + int(1e6 * abs(x[0, 0])))) < share, 9.0, x)

    return change


def situations():
    """Name, ball, change of the model's rows, score, other options."""
    robust = {"diffusion": "robust"}
    fixed = {"kernel": InverseMultiquadric(1.0)}
    tolerant = {"contamination": SHARE}
    yield "inside: no foreign rows of 5 %", tolerant, lambda x: x, normal, robust
    yield "inside: 5 % foreign rows of 5 %", tolerant, foreign(SHARE), normal, robust
    yield "outside: 15 % foreign rows of 5 %", tolerant, foreign(3 * SHARE), normal, robust
    yield "outside: a shift of 0.3", tolerant, lambda x: x + 0.3, normal, robust
    yield "inside: a score to one decimal", {"radius": 0.5 * DIGITS}, lambda x: x, rounded, {}
    yield "boundary: a shift of 0.1", {"radius": boundary()}, lambda x: x + SHIFT, normal, fixed
    yield "outside: a shift of 0.3", {"radius": boundary()}, lambda x: x + 3.0 * SHIFT, normal, fixed


def rounded(x):
    """The model's score, cut off after one decimal: too small by 0.05 in the mean."""
    return torch.trunc(-x / DIGITS) * DIGITS


def balls(n, kernel, method, repeats):
    """A ball, and the plain test of the same rows."""
    for name, ball, change, score, options in situations():
        if "kernel" in options and kernel is None:
            continue
        options = {"kernel": kernel, "score": score, **options}
        found = {"ball": [], "plain": []}
        for seed in range(repeats):
            x = change(torch.randn(n, 1, generator=seeded(seed)))
            once = Once(method)
            found["plain"].append(pvalue(x, seed + repeats, once, **options))
            found["ball"].append(pvalue(x, seed + repeats, SteinBall(**ball, method=once), **options))
        bandwidths = "ten" if kernel is None else "one"
        for test, pvalues in found.items():
            yield {"rows": name, **ball, "n": n, "bandwidths": bandwidths, "test": test, **shares(pvalues)}


def cells(options):
    """All measurements."""
    for n in SIZES:
        for d in (1, 3):
            for rho in RHOS:
                near = n <= 500 and 30 <= worth(n, rho) <= 200  # where a test of chains is hardest
                repeats = options.chains if near else options.chains // 4
                yield from chains(n, d, rho, max(2, repeats), options.before and n in (50, 500))
    for d in (1, 3):
        for n in FEW:
            yield from bandwidths(n, d, "independent", lambda x: x, options.repeats)
        for name, change in WRONG.items():
            yield from bandwidths(50, d, name, change, options.repeats // 4)
    signs, count = WildBootstrap(RESAMPLES), options.balls
    yield from balls(500, "imq", signs, count)
    yield from balls(500, None, signs, max(2, count // 4))
    yield from balls(5000, "imq", signs, max(2, count // 10))
    if not options.quick:
        yield from balls(50_000, "imq", IncompleteU(100, RESAMPLES), max(2, count // 25))


def main():
    """Measure, print and record."""
    parser = Command(__doc__, repeats=20, chains=4, balls=2)
    parser.add_argument("--repeats", type=int, default=1000, help="samples of independent rows")
    parser.add_argument("--chains", type=int, default=2000, help="chains worth 30 to 200 rows, a quarter of others")
    parser.add_argument("--balls", type=int, default=500, help="samples of 500 rows for each ball, fewer of more rows")
    parser.add_argument(
        "--before", action="store_true", help="also the signs that blocks replaced, of 50 and 500 states"
    )
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
