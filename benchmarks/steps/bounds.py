r"""Bounds of short samplers: levels and covariances by the bound, beside DDPM's steps and learned variances.

For N network evaluations, of the same score: DDPM's chain on every (1000/N)-th level of its linear schedule with
posterior variances; the same levels with the best variance of each step, in closed form from rows; and
`gv.short_chain`, levels and covariances chosen by its own bound on the same rows. Nats a row of held-out rows, less
log p where it is known (mixtures, exact scores), else less the continuous bound of the same model (digits, a table).
With `importance_bound` of the short chain, 32 paths, and the mean width of its bracket.

    OMP_NUM_THREADS=1 python -m benchmarks.steps.bounds RUN_OR_MODEL_FOLDER --lines LINES
"""

__all__: list[str] = []

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record, settings
from girsanov.datasets import Splits, load
from girsanov.densities import Gaussian, StandardNormal
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.pairs import ScorePair, ShortChain
from tests.laws import HARD

STEPS = (4, 8, 16, 32)
MIXTURES = ("spike and slab", "ring", "scales, d = 64")
NOTHING = 1e-12  # variance of an error that DDPM's decoder leaves out


@dataclass(frozen=True)
class Problem:
    """A score, rows to fit to, held-out rows, and what their bounds are less of."""

    name: str
    pair: ScorePair
    fitted: Tensor
    held: Tensor
    truth: Tensor
    known: bool


def mixtures(options: Namespace) -> Iterator[Problem]:
    """Exact scores of mixtures."""
    for name in MIXTURES:
        case = HARD[name][0]()
        x = case.rows(options.rows, seed=1)
        pair = ScorePair(case.density.score(gv.VariancePreserving()))
        yield Problem(name, pair, case.rows(options.fitted, seed=5), x, case.log_prob(x), True)


def trained(name: str, model: gv.DensityModel, data: object, splits: Splits, options: Namespace) -> Problem:
    """A fitted model's score in its own space, at one dequantised draw of rows."""
    seen = [
        model.diffusion.encode(data[index]).view(1, 0).x[:, 0].float()  # type: ignore[index]
        for index in (splits.train[: options.fitted], splits.test[: options.rows])
    ]
    bound = gv.elbo(model.pair, seen[1], samples=256)
    return Problem(name, model.pair, *seen, bound.value, False)


def networks(options: Namespace) -> Iterator[Problem]:
    """A table's model, fitted here, and the digits' one."""
    table = load("diabetes")
    model = gv.fit(table, config=gv.Config(steps=options.steps))
    yield trained("diabetes", model, table, Splits.from_json(model.record["splits"]), options)
    if options.folder:
        digits = gv.DensityModel.from_pretrained(options.folder)
        splits = Splits.from_json(digits.record["splits"])
        fewer = Namespace(**vars(options) | {"rows": min(options.digits, options.rows)})
        yield trained("digits", digits, load("digits").x, splits, fewer)


def ddpm(pair: ScorePair, steps: int, x: Tensor) -> ShortChain:
    """DDPM's chain on evenly spaced steps of its linear schedule, within the range of the score."""
    low, high = pair.log_snr_range
    levels = SCHEDULES["linear"](1000).log_snr.clamp(low, high)
    levels = levels[torch.linspace(0, 999, steps).round().long()]
    nothing, last = (Gaussian(torch.zeros(x.shape[1:]), float(v)) for v in (NOTHING, torch.exp(-levels[0])))
    chain = ShortChain(pair, levels, [last, *[nothing] * (steps - 1)], last)
    chain.prior = StandardNormal()
    return chain


def bounds(problem: Problem, steps: int, options: Namespace) -> dict[str, object]:
    """One line: mean gaps with the standard errors of their means over rows."""
    pair, x = problem.pair, problem.held
    plain, learned = ddpm(pair, steps, x), ddpm(pair, steps, x)
    learned.fit_variances(problem.fitted)
    short = gv.short_chain(pair, steps, problem.fitted)
    row: dict[str, object] = {"score": problem.name, "steps": steps, "rows": len(x), "log p is known": problem.known}
    for name, chain in (("DDPM", plain), ("learned variances", learned), ("short chain", short)):
        row[name] = gap(problem, gv.chain_elbo(chain, x, paths=options.paths).value)
    row["short chain, importance"] = gap(problem, gv.importance_bound(short, x, paths=32).value)
    width = gv.chain_bracket(short, len(x), paths=32).width
    row["bracket"] = {"value": width.value, "stderr": width.stderr}
    row["levels"] = short.levels.tolist()
    row["kinds"] = [kind_of(law, x[0].numel()) for law in short.errors]
    return row


def kind_of(law: object, d: int) -> str:
    """How many numbers a covariance has."""
    assert isinstance(law, Gaussian)
    if law.basis is None:
        return "diagonal"
    rank = law.basis.shape[1]
    return "isotropic" if rank == 0 else "full" if rank == d else f"rank {rank}"


def gap(problem: Problem, value: Tensor) -> dict[str, float]:
    """Of a bound and the truth."""
    apart = (value - problem.truth).detach()
    return {"value": float(apart.mean()), "stderr": float(apart.std()) / len(apart) ** 0.5}


def measured(options: Namespace) -> Iterator[dict[str, object]]:
    """One line of each score and number of steps; those that are kept are not made again."""
    kept = Path(options.lines)
    old = {(line["score"], line["steps"]): line for line in read_lines(kept)}
    for problems in (mixtures, networks):
        for problem in problems(options):
            for steps in options.numbers:
                row = old.get((problem.name, steps))
                if row is None:
                    row = bounds(problem, steps, options)
                    append_line(kept, row)
                names = ("DDPM", "learned variances", "short chain", "short chain, importance", "bracket")
                told = {name: f"{row[name]['value']:.3f} ± {row[name]['stderr']:.3f}" for name in names}
                print(row["score"], steps, told, flush=True)
                yield row


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, rows=20, fitted=40, numbers=[2], paths=2, steps=3)
    parser.add_argument("folder", nargs="?", default=None, help="run or model folder of the digits")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--digits", type=int, default=50, help="rows of digits, whose network takes the time")
    parser.add_argument("--fitted", type=int, default=1000, help="rows that chains are fitted to")
    parser.add_argument("--numbers", nargs="*", type=int, default=STEPS, help="network evaluations")
    parser.add_argument("--paths", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600, help="of the table's training")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(measured(options))
    if not options.quick:
        facts = settings(options, "folder", "lines", "rows")
        record("steps-bounds", rows, network=options.folder is not None, held=options.rows, **facts)


if __name__ == "__main__":
    main()
