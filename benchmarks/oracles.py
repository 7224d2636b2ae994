"""Estimators against oracles: every process, Gaussians, mixtures and hard laws, dimensions 1 to 512, exact scores.

For each case: quantiles of the formula's error in units of its own standard error (Student's t if the error is
honest), the standard error at 256 evaluations, coverage of 95 % intervals over 2000 repeats (rows x seeds; 10,000 for
d <= 2) at 256 evaluations and at 16, 32 (the default) and 64, the bound against its own expectation where that has a
closed form or a quadrature, and the error of the probability-flow ODE. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.oracles
"""

__all__: list[str] = []

import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._record import Command, append_line, read_lines, record, spread
from girsanov.calculus import Exact, Hutchinson
from girsanov.densities import Gaussian
from girsanov.likelihoods import density, elbo, ode_log_prob
from girsanov.pairs import ScorePair
from girsanov.processes import LinearProcess
from girsanov.solvers import Adaptive
from girsanov.types import Estimate
from tests.laws import (
    HARD,
    PROCESSES,
    Case,
    diagonal_gaussian_case,
    diagonal_mixture_case,
    gaussian_case,
    gaussian_elbo,
    mixture_case,
    note_mixture_1d,
    note_mixture_2d,
    quadrature_elbo,
    seeded,
)

CASES = {
    ("gaussian", 1): lambda: gaussian_case((1,)),
    ("gaussian", 2): lambda: gaussian_case((2,)),
    ("gaussian", 16): lambda: gaussian_case((1, 4, 4)),
    ("gaussian", 64): lambda: diagonal_gaussian_case((64,)),
    ("gaussian", 512): lambda: diagonal_gaussian_case((2, 16, 16)),
    ("mixture", 1): note_mixture_1d,
    ("mixture", 2): note_mixture_2d,
    ("mixture", 16): lambda: mixture_case((1, 4, 4)),
    ("mixture", 64): lambda: diagonal_mixture_case((64,)),
    ("mixture", 512): lambda: diagonal_mixture_case((2, 16, 16)),
    **{(name, make().d): make for name, (make, _) in HARD.items()},
}
FEW = (16, 32, 64)  # samples
LEVELS = (0.5, 0.9, 0.95, 0.99)  # Student-7: 0.711, 1.895, 2.365, 3.499; Student-15: 0.691, 1.753, 2.131, 2.947
TIGHT = Adaptive(rtol=1e-6, atol=1e-6)


def reference_of(case: Case) -> Gaussian:
    """Moments where the law is a mixture; for a Gaussian or d = 512 an isotropic one that is a bit off."""
    mean, covariance = case.moments()
    if len(case.weights) > 1 and case.d <= 64:
        return Gaussian(mean.reshape(case.shape), covariance)
    return Gaussian((mean + 0.1).reshape(case.shape), 1.2 * float(covariance.diagonal().mean()))


def measure_formula(case: Case, process: LinearProcess, repeats: int) -> dict[str, object]:
    """The density formula's standardised errors, standard error and coverage."""
    count, samples = (20, 256) if case.d < 512 else (8, 64)
    if case.d <= 2:  # cheap, and skewed enough for the share to need a smaller error
        count, repeats = 100, 5 * repeats
    pair, x = ScorePair(case.density.score(process), reference=reference_of(case)), case.rows(count, seed=1)
    truth, errors, sizes, covered = case.log_prob(x), [], [], []
    start = time.process_time()
    for seed in range(math.ceil(repeats / count)):
        estimate = density(pair, x, exact=True, samples=samples, generator=seeded(seed))
        errors.append(estimate.value - truth)
        sizes.append(estimate.stderr)
        covered.append(covers(estimate, truth))
    seconds = time.process_time() - start
    few: dict[int, list[Tensor]] = {number: covered if number == samples else [] for number in FEW}
    for seed in range(math.ceil(repeats / count)):
        for number in set(FEW) - {samples}:
            few[number].append(covers(density(pair, x, exact=True, samples=number, generator=seeded(seed)), truth))
    error, size = torch.stack(errors).flatten(), torch.stack(sizes).flatten()
    z = (error / size).abs()
    wide = density(pair, x, exact=True, samples=256)
    return {
        "z_quantiles": [float(q) for q in z.quantile(torch.tensor(LEVELS))],
        "bias_in_se": float(error.mean() / (error.std() / len(error) ** 0.5)),
        "coverage_95": float(torch.stack(covered).double().mean()),
        "coverage_95_few": {str(number): float(torch.stack(found).double().mean()) for number, found in few.items()},
        "repeats": len(z),
        "samples": samples,
        "stderr_256": float(wide.stderr.square().mean().sqrt()),
        "stderr_256_per_sqrt_d": float(wide.stderr.square().mean().sqrt()) / math.sqrt(case.d),
        "microseconds_per_evaluation": 1e6 * seconds / (len(z) * samples),
    }


def covers(estimate: Estimate, truth: Tensor) -> Tensor:
    """Whether each row's 95 % interval contains the truth."""
    low, high = estimate.interval(0.95)
    return (low <= truth) & (truth <= high)


def expected_bound(case: Case, process: LinearProcess, x: Tensor, prior: Gaussian) -> Tensor | None:
    """The bound's own expectation, where it is known without simulation."""
    if len(case.weights) == 1:
        return gaussian_elbo(case, process, x, (prior.mean.flatten(), prior.covariance))
    return quadrature_elbo(case, process, x, _flat(prior)) if case.d <= 2 else None


def _flat(prior: Gaussian) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(prior.mean.flatten(), prior.covariance)


def measure_bound(case: Case, process: LinearProcess) -> dict[str, object]:
    """The bound with a Gaussian prior that is a bit off, against its expectation."""
    x, reference = case.rows(40 if case.d < 512 else 10, seed=2), reference_of(case)
    _, sigma = process.marginal_at(torch.tensor(process.log_snr_range[0]))
    prior = Gaussian(torch.zeros(case.shape), float(1.2 * sigma.square() + 0.1))
    expected = expected_bound(case, process, x, prior)
    if expected is None:
        return {"elbo_z_rms": None, "elbo_error": None}
    estimate = elbo(ScorePair(case.density.score(process), prior=prior, reference=reference), x, samples=256)
    z = (estimate.value - expected) / estimate.stderr
    return {
        "elbo_z_rms": float(z.square().mean().sqrt()),
        "elbo_error": float((estimate.value - expected).mean()),
    }


def measure_ode(case: Case, process: LinearProcess) -> dict[str, object]:
    """The ODE's largest error over rows with the default solver, a tight one, and in z-scores with probes."""
    if case.d > 64:
        return {"ode_error_default": None, "ode_error_tight": None, "ode_z_hutchinson": None}
    x, low = case.rows(16, seed=3), torch.tensor(process.log_snr_range[0])
    prior = case.density.marginal(process, float(process.time(low)))
    pair = ScorePair(case.density.score(process), prior=prior, reference=reference_of(case))
    truth = case.log_prob(x)
    found: dict[str, object] = {"ode_error_default": None, "ode_error_tight": None}
    if case.d <= 16:
        value = ode_log_prob(pair, x, divergence=Exact()).value
        found["ode_error_default"] = float((value - truth).abs().max())
    if case.d <= 2:
        value = ode_log_prob(pair, x, solver=TIGHT).value
        found["ode_error_tight"] = float((value - truth).abs().max())
    probed = ode_log_prob(pair, x, divergence=Hutchinson(8))
    found["ode_z_hutchinson"] = float(((probed.value - truth) / probed.stderr).square().median().sqrt())
    return found


def measure(kind: str, d: int, name: str, repeats: int) -> dict[str, object]:
    """One row of the table."""
    case, process = CASES[kind, d](), PROCESSES[name]()
    start = time.perf_counter()
    parts = (measure_formula(case, process, repeats), measure_bound(case, process), measure_ode(case, process))
    row: dict[str, object] = {"process": name, "data": kind, "d": d}
    for part in parts:
        row.update(part)
    return {**row, "seconds": time.perf_counter() - start}


def show(row: dict[str, object]) -> None:
    """Print one row."""
    parts = [f"{row['process']:22s} {row['data']:20s} d={row['d']:<4d}"]
    parts += ["z " + " ".join(f"{z:.2f}" for z in row["z_quantiles"])]
    for key, label, form in (
        ("stderr_256", "SE", ".4f"),
        ("coverage_95", "cover", ".3f"),
        ("elbo_z_rms", "elbo z", ".2f"),
        ("ode_error_default", "ode", ".1e"),
        ("ode_error_tight", "tight", ".1e"),
        ("seconds", "s", ".1f"),
    ):
        value = row[key]
        parts.append(f"{label} {'-' if value is None else format(value, form)}")
    parts += [f"at {number} {share:.3f}" for number, share in row["coverage_95_few"].items()]
    print("  ".join(parts), flush=True)


def main() -> None:
    """Run all cases, print a line for each and record them."""
    parser = Command(__doc__, repeats=4, processes=["VariancePreserving"])
    parser.add_argument(
        "--repeats", type=int, default=2000, help="rows x seeds of the coverage, five times as many for d <= 2"
    )
    parser.add_argument("--processes", nargs="*", default=list(PROCESSES), help="names of processes")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")
    parser.add_argument("--name", default="oracles", help="file stem of the result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows, kept = [], {(old["data"], old["d"], old["process"]): old for old in read_lines(Path(arguments.lines))}
    for kind, d in CASES:
        for name in arguments.processes:
            row = kept.get((kind, d, name)) or measure(kind, d, name, arguments.repeats)
            if (kind, d, name) not in kept:
                append_line(Path(arguments.lines), row)
            rows.append(row)
            show(row)
    coverage = spread(row["coverage_95"] for row in rows)
    print(f"coverage: median {coverage['median']:.4f}, from {coverage['min']:.4f} to {coverage['max']:.4f}")
    few = {str(number): spread(row["coverage_95_few"][str(number)] for row in rows) for number in FEW}
    for number, found in few.items():
        print(f"at {number}: median {found['median']:.4f}, from {found['min']:.4f} to {found['max']:.4f}")
    facts: dict[str, object] = {"levels": LEVELS, "coverage_95": coverage, "coverage_95_few": few}
    if not arguments.quick:
        print(f"wrote {record(arguments.name, rows, **facts).name}")


if __name__ == "__main__":
    main()
