r"""Evaluations and seconds to an error of 0.01 bits/dim per row, ours beside every stochastic estimator of the audit.

Two scores in 64 dimensions: a network trained on the digits, at one dequantised draw of test rows, and the exact score
of a mixture as a plain function, nothing else given. One run of an estimator is what it returns at its settings; with
the variance of a run over seeds, :math:`v`, a row needs :math:`v / s^2` runs for :math:`s = 0.01\, d \log 2` nats, at
the evaluations and seconds of a run each. The mean of variances over rows is compared, and row by row the median of
ratios. Ours is `gv.elbo` at its defaults, and of the pair that `gv.tune` fits to other rows (its seconds apart). The
record has 64 rows of the mixture and, by `--rows 16 --network-evaluations 40000`, 16 digits: their lists say how many.

Estimators that integrate an ODE have no such error: on the mixture, the evaluations and seconds to a true error of 0.01
nats per dimension, at the cheapest of their settings that reaches it.

    OMP_NUM_THREADS=1 python -m benchmarks.networks.evaluations RUN_OR_MODEL_FOLDER --site FOLDER --lines LINES
"""

__all__: list[str] = []

import math
import os
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record, settings
from benchmarks.audit._contenders import CONTENDERS, Contender, Value
from benchmarks.audit._measure import TOLERANCE, missing, needed, repeated
from benchmarks.audit._problem import Problem, exact_problem
from girsanov.datasets import Splits, load
from tests.laws import HARD

BITS = 0.01  # bits per dimension
OURS = ("gv.elbo", "gv.elbo, tuned")
STOCHASTIC = tuple(c.name for c in CONTENDERS if c.tiled)
ODE = tuple(c.name for c in CONTENDERS if c.truth in ("ode", "path") and not c.name.startswith("few"))


def network(options: Namespace) -> tuple[Problem, Tensor, float]:
    """The digits network in its model's space, rows of it, and the seconds of tuning."""
    model = gv.DensityModel.from_pretrained(options.folder)
    splits, x = Splits.from_json(model.record["splits"]), load("digits").x
    seen = [model.encode(x[index]).view(1, 0).x[:, 0].float() for index in (splits.test, splits.validation)]
    y, held = seen[0][: options.rows].flatten(1).double(), seen[1][: options.held]

    def noise(log_snr: Tensor, z: Tensor) -> Tensor:
        return model.score.noise(log_snr, z.float().reshape(-1, *seen[0].shape[1:])).flatten(1).double()

    start = time.perf_counter()
    tuned = gv.tune(model.pair, held)
    seconds = time.perf_counter() - start
    law = model.reference
    assert law is not None
    span = model.pair.log_snr_range
    shape = tuple(seen[0].shape[1:])
    return Problem("digits", noise, y.shape[1], law.spectrum(), model.pair, tuned, False, span, shape), y, seconds


def mixture(options: Namespace) -> tuple[Problem, Tensor, float]:
    """The exact score of a mixture, rows of it, and the seconds of tuning."""
    case = HARD["scales, d = 64"][0]()
    x = case.rows(options.rows, seed=1)
    start = time.perf_counter()
    problem, _ = exact_problem("mixture", case, x, options.held)
    return problem, x, time.perf_counter() - start


def runs_of(contender: Contender, problem: Problem, x: Tensor, options: Namespace) -> int:
    """How many runs of every row the evaluations allow."""
    total = options.evaluations if problem.exact else options.network_evaluations
    allowed = total / len(x) / contender(problem, x[:1], 0).evaluations
    return int(max(options.least, min(options.runs if contender.tiled else options.ours, allowed)))


def spread(contender: Contender, problem: Problem, x: Tensor, runs: int) -> dict[str, object]:
    """Variance of one run for each row, its evaluations, and its seconds for each row."""
    first = contender(problem, x, 0)
    start = time.perf_counter()
    values, _ = repeated(contender, problem, x, first, runs)
    seconds = (time.perf_counter() - start) / ((len(values) - 1) * len(x))
    variance = values.var(0)
    to = 1.0 / (BITS * problem.d * math.log(2.0)) ** 2
    return {
        "runs": len(values),
        "evaluations": first.evaluations,
        "variance_times_evaluations": (first.evaluations * variance).tolist(),
        "evaluations_needed": first.evaluations * float(variance.mean()) * to,
        "seconds_needed": seconds * float(variance.mean()) * to,
    }


def solved(contender: Contender, problem: Problem, x: Tensor, truth: Tensor, runs: int) -> dict[str, object]:
    """Evaluations and seconds to the true error, at the cheapest setting that reaches it.

    A cheaper setting's bias is that of its own and the mean difference under the same seeds, where probes cancel.
    """
    best: dict[str, object] = {"evaluations_needed": None, "seconds_needed": None}
    own = torch.zeros(1, len(x))
    for k, call in enumerate((contender.call, *contender.cheaper)):
        start = time.perf_counter()
        found = [Value.of(call(problem, x, seed)) for seed in range(runs if contender.random else 1)]
        seconds = (time.perf_counter() - start) / (len(found) * len(x))
        errors = (torch.stack([one.value for one in found]) - truth) / problem.d
        own = errors if k == 0 else own
        spread = [float(one.var(0).mean()) if len(one) > 1 else 0.0 for one in (errors, own)]
        cost = needed(own.mean(0) + (errors - own).mean(0), spread[0], spread[1] / len(own), found[0].evaluations)
        if cost is not None and (best["evaluations_needed"] is None or cost < best["evaluations_needed"]):
            best = {"evaluations_needed": cost, "seconds_needed": seconds * cost / found[0].evaluations}
    return best


def ratios(rows: list[dict[str, object]]) -> None:
    """How many times the evaluations and seconds of each of ours an estimator needs."""
    for row in rows:
        for ours in OURS:
            base = next((r for r in rows if (r["score"], r["estimator"]) == (row["score"], ours)), None)
            if base is None or row["estimator"] in OURS or "variance_times_evaluations" not in row:
                continue
            pair = zip(row["variance_times_evaluations"], base["variance_times_evaluations"], strict=True)
            row[f"times {ours}"] = {
                "evaluations": row["evaluations_needed"] / base["evaluations_needed"],
                "seconds": row["seconds_needed"] / base["seconds_needed"],
                "median_row": float(torch.tensor([a / b for a, b in pair]).median()),
            }


def measured(options: Namespace) -> Iterator[dict[str, object]]:
    """One line of each score and estimator."""
    kept = Path(options.lines)
    old = read_lines(kept)
    for make in (mixture, network) if options.folder else (mixture,):
        problem, x, seconds = make(options)
        for contender in CONTENDERS:
            about = {"score": problem.name, "estimator": contender.name}
            odd = contender.name in ODE and problem.exact
            if (not odd and contender.name not in (*STOCHASTIC, *OURS)) or missing(contender, options.site):
                continue
            row = next((line for line in old if about.items() <= line.items()), None)
            if row is None:
                if odd:
                    truth = HARD["scales, d = 64"][0]().log_prob(x[: options.solved])
                    found = solved(contender, problem, x[: options.solved], truth, options.probes)
                else:
                    found = spread(contender, problem, x, runs_of(contender, problem, x, options))
                row = about | found | ({"tuning_seconds": seconds} if contender.name == OURS[1] else {})
                append_line(kept, row)
            print(
                f"{row['score']:8s} {row['estimator']:36s} evaluations {row['evaluations_needed'] or math.nan:.4g} "
                f"seconds {row['seconds_needed'] or math.nan:.3g}",
                flush=True,
            )
            yield row


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, rows=4, runs=20, least=2, ours=4, held=40, solved=2, probes=2)
    parser.add_argument("folder", nargs="?", default=None, help="run or model folder of the digits")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--solved", type=int, default=8, help="rows of the ODEs")
    parser.add_argument("--probes", type=int, default=10, help="runs of an ODE with one probe, for each setting")
    parser.add_argument("--held", type=int, default=250, help="other rows, for tuning")
    parser.add_argument("--evaluations", type=int, default=2_000_000, help="to spend on an estimator, on the mixture")
    parser.add_argument("--network-evaluations", type=int, default=150_000, help="the same of the network")
    parser.add_argument("--runs", type=int, default=4000, help="at most so many of each row")
    parser.add_argument("--least", type=int, default=6, help="at least so many")
    parser.add_argument("--ours", type=int, default=150, help="at most so many of ours")
    parser.add_argument("--site", default=None, help="folder with flow_matching, installed with --no-deps")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = list(measured(options))
    ratios(rows)
    for row in rows:
        for ours in OURS:
            if (found := row.get(f"times {ours}")) is not None:
                print(
                    f"{row['score']:8s} {row['estimator']:32s} over {ours:16s}",
                    {k: round(v, 1) for k, v in found.items()},
                )
    if not options.quick:
        facts = settings(options, "folder", "site", "lines", "rows")
        record(
            "networks-evaluations", rows, tolerance=TOLERANCE, bits=BITS, network=options.folder is not None, **facts
        )


if __name__ == "__main__":
    main()
