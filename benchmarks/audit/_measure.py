"""What the audit measures of a contender on a problem, and the lines that keep it."""

__all__ = ["TOLERANCE", "add_options", "measured", "rows_of"]

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._record import Command, append_line, read_lines
from benchmarks.audit._contenders import CONTENDERS, Contender, Value
from benchmarks.audit._flows import flow_matching_from
from benchmarks.audit._problem import Problem, Truth

TOLERANCE = 0.01  # nats per dimension: the true error that evaluations are counted to
VISIBLE = 0.001  # nats per dimension above the truth that count as above
TILE, ALONE, LADDER = 4096, 3, 10  # evaluations in one call; rows judged alone; runs of a cheaper setting


def add_options(parser: Command) -> None:
    """Options of both tables, and their quick values."""
    parser.quick |= {"rows": 3, "evaluations": 2000, "runs": 4, "least": 2}
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=400_000, help="of a row, to spend on each contender and law")
    parser.add_argument("--runs", type=int, default=4000, help="at most so many for each row")
    parser.add_argument("--least", type=int, default=15, help="at least so many")
    parser.add_argument("--ours", type=int, default=100, help="at most so many of ours, whose calls are long")
    parser.add_argument("--contenders", nargs="*", default=[c.name for c in CONTENDERS], help="names of contenders")
    parser.add_argument("--no-ladder", dest="ladder", action="store_false", help="settings of their own alone")
    parser.add_argument("--site", default=None, help="folder with flow_matching, installed with --no-deps")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")


def missing(contender: Contender, site: str | None) -> bool:
    """Whether its package is not installed."""
    if not contender.package:
        return False
    return (
        flow_matching_from(site) is None
        if "flow_matching" in contender.package
        else importlib.util.find_spec(contender.package) is None
    )


def runs_of(contender: Contender, problem: Problem, x: Tensor, first: Value, options: object) -> int:
    """How many runs the evaluations allow."""
    if not contender.random:
        return 1
    most = options.runs if contender.tiled else options.ours
    return int(min(max(options.evaluations / (len(x) * first.evaluations), options.least), most))


def repeated(contender: Contender, problem: Problem, x: Tensor, first: Value, runs: int) -> tuple[Tensor, list[Value]]:
    """Values ``r n`` and the calls behind them, the first with seed 0."""
    calls, values = [first], [first.value[None]]
    tile = max(1, int(TILE / (len(x) * first.evaluations))) if contender.tiled else 1
    while sum(map(len, values)) < runs:
        calls.append(contender(problem, x.repeat(tile, 1), len(calls)))
        values.append(calls[-1].value.reshape(tile, len(x)))
    return torch.cat(values), calls


def needed(bias: Tensor, variance: float, noise: float, evaluations: float) -> float | None:
    """Evaluations per row to a root mean square error of the tolerance, by averaging runs; ``None`` where bias forbids.

    Args:
        bias: of every row, per dimension.
        variance: of one run, per dimension, mean over rows.
        noise: variance of ``bias`` itself; a bias that does not show beside it is taken as none.
        evaluations: of one run.
    """
    squared = float(bias.square().mean()) - noise
    squared = squared if squared > 3.0 * math.sqrt(2.0 / len(bias)) * noise else 0.0
    if squared >= TOLERANCE**2:
        return None
    return evaluations * max(1.0, math.ceil(variance / (TOLERANCE**2 - squared)))


def cheapest(
    contender: Contender,
    problem: Problem,
    x: Tensor,
    values: Tensor,
    truth: Tensor,
    evaluations: float,
    *,
    ladder: bool,
) -> float | None:
    """The least evaluations to the tolerance over its settings; ``values`` ``r n`` are at its own, from seed 0 on.

    A cheaper setting's bias is that of its own and the mean difference under the same seeds, where probes cancel.
    """
    runs, d = len(values), problem.d
    own = (values.mean(0) - truth) / d
    variance = float((values / d).var(0).mean()) if runs > 1 else 0.0
    found = [needed(own, variance, variance / runs, evaluations)]
    for call in contender.cheaper if ladder else ():
        count = min(LADDER, runs)
        cheaper = [Value.of(call(problem, x, seed)) for seed in range(count)]
        other = torch.stack([one.value for one in cheaper])
        bias = own + (other - values[:count]).mean(0) / d
        wide = float((other / d).var(0).mean()) if count > 1 else 0.0
        found.append(needed(bias, wide, variance / runs, cheaper[0].evaluations))
    return min((one for one in found if one is not None), default=None)


def alone(call: Callable[..., Value], problem: Problem, x: Tensor, batch: Tensor) -> float:
    """Largest difference of a row's value by itself from that in the batch, same seed, nats per dimension."""
    values = torch.cat([call(problem, x[i : i + 1], 0).value for i in range(min(ALONE, len(x)))])
    return float((values - batch[: len(values)]).abs().max()) / problem.d


def measured(contender: Contender, problem: Problem, truth: Truth, x: Tensor, options: object) -> dict[str, object]:
    """One row of the table."""
    first, target = contender(problem, x, 0), getattr(truth, contender.truth)
    values, calls = repeated(contender, problem, x, first, runs_of(contender, problem, x, first, options))
    error, d, runs = (values - target) / problem.d, problem.d, len(values)
    own = error.mean(0)
    spread = error.std(0) if runs > 1 else torch.zeros_like(own)
    inside = [(low <= target) & (target <= high) for low, high in (c.interval for c in calls if c.interval)]
    return {
        "law": problem.name,
        "d": d,
        "contender": contender.name,
        "rows": len(x),
        "runs": runs,
        "bias": float(own.mean()),
        "bias_stderr": float(error.mean(1).std()) / math.sqrt(runs) if runs > 1 else None,
        "from_the_data": float((values - truth.data).mean()) / d,
        "spread": float(spread.square().mean().sqrt()),
        "rms_error": float(error.square().mean().sqrt()),
        "above": float(((own > VISIBLE) & (own > 3.0 * spread / math.sqrt(runs))).double().mean()),
        "coverage": float(torch.stack(inside).double().mean()) if inside else None,
        "evaluations": first.evaluations,
        "evaluations_needed": cheapest(contender, problem, x, values, target, first.evaluations, ladder=options.ladder),
        "alone": alone(contender, problem, x, first.value),
    }


def kept(options: object, law: str, contender: str) -> dict[str, object] | None:
    """A line that was measured before."""
    lines = read_lines(Path(options.lines))
    return next((line for line in lines if (line["law"], line["contender"]) == (law, contender)), None)


def rows_of(problem: Problem, truth: Truth, x: Tensor, options: object) -> list[dict[str, object]]:
    """All contenders on one problem, those whose package is absent named as such."""
    found = []
    for contender in CONTENDERS:
        if contender.name not in options.contenders:
            continue
        if missing(contender, options.site):
            print(f"{problem.name:36s} {contender.name:36s} not installed", flush=True)
            continue
        row = kept(options, problem.name, contender.name)
        if row is None:
            row = measured(contender, problem, truth, x, options)
            append_line(Path(options.lines), row)
        print(
            f"{problem.name:36s} {contender.name:36s} bias {row['bias']:+.4f} spread {row['spread']:.4f} "
            f"above {row['above']:.2f} needed {row['evaluations_needed']} alone {row['alone']:.1e}",
            flush=True,
        )
        found.append(row)
    return found
