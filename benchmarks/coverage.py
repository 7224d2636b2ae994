"""Coverage of 95 % intervals row by row: on laws whose few samples tell little, and of trained scores.

For each law 50 fixed rows and one between or beyond the modes (the ring's centre, an outlier of heavy tails): the share
of repeats whose interval holds the truth, as a mean over rows and in the worst one with its upper 99.9 % Wilson limit,
and that of the interval of the mean over rows, at 16, 32 and 64 samples and default settings.

- exact scores: `density` with the law's own moments and with N(0, I), `elbo` with no reference at all, against the
  log-density; `difference` between the law and its moment-matched Gaussian;
- scores trained on 4,000 rows of the law: the bound of the fitted model, and that of its bare score, against the mean
  of 8,192 samples.

In 64 dimensions N(0, I) is left out. The laws of `benchmarks.oracles` are served too, by names such as
"mixture, d = 16", with its references.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage
"""

__all__: list[str] = []

import math
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record, settings
from benchmarks.oracles import CASES, reference_of
from girsanov.densities import Gaussian
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.types import Estimate
from tests.laws import HARD, Case, rows_of, seeded

SAMPLES = (16, 32, 64)
TRAINED = ("bimodal", "ring", "ridges", "heavy tails")
ORACLES = {f"{kind}, d = {d}": make for (kind, d), make in CASES.items() if kind in ("gaussian", "mixture")}
TRUTH_SAMPLES, TRAINING_ROWS = 8192, 4000

Draw = Callable[[int, int], Estimate]  #: (samples, seed) -> estimate of all rows


def wilson(share: float, count: int) -> float:
    """Upper 99.9 % limit of a share."""
    z = NormalDist().inv_cdf(0.9995)
    centre, spread = (
        share + z * z / (2 * count),
        z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)),
    )
    return (centre + spread) / (1 + z * z / count)


@torch.no_grad()
def measure(draw: Draw, truth: Tensor, samples: int, repeats: int) -> dict[str, object]:
    """Coverage, and variance times evaluations, of one kind of estimate."""
    hits, mean_hits, values = torch.zeros(len(truth)), 0, []
    for seed in range(repeats):
        estimate = draw(samples, seed)
        low, high = estimate.interval()
        hits += (low <= truth) & (truth <= high)
        first, last = estimate.mean().interval()
        mean_hits += first <= float(truth.mean()) <= last
        values.append(estimate.value)
    share, variance = hits / repeats, torch.stack(values).var(0)
    worst = float(share.min())
    return {
        "samples": samples,
        "mean_over_rows": float(share.mean()),
        "worst_row": worst,
        "worst_row_upper": wilson(worst, repeats),
        "last_row": float(share[-1]),
        "of_the_mean": mean_hits / repeats,
        "variance_times_samples": float(variance.median()) * samples,
        "repeats": repeats,
        "rows": len(truth),
    }


def exact(case: Case, x: Tensor, reference: Gaussian | None = None) -> Iterator[tuple[str, str, Draw, Tensor]]:
    """What is estimated of an exact score, with which reference, how, and the truth."""
    score = case.density.score(VariancePreserving())
    truth = case.log_prob(x)
    own = ScorePair(score, reference=reference)
    standard = ScorePair(score, reference=Gaussian(torch.zeros(case.shape), 1.0))
    yield "density", "own", lambda n, s: gv.density(own, x, exact=True, samples=n, generator=seeded(s)), truth
    if case.d <= 16:
        yield (
            "density",
            "N(0, I)",
            lambda n, s: gv.density(standard, x, exact=True, samples=n, generator=seeded(s)),
            truth,
        )
    bare = ScorePair(lambda t, x: score(t, x), VariancePreserving(), log_snr_range=score.log_snr_range)
    yield "elbo", "none", lambda n, s: gv.elbo(bare, x, samples=n, generator=seeded(s)), truth
    mean, covariance = case.moments()
    gaussian = Gaussian(mean.reshape(case.shape), 1.1 * covariance if len(case.weights) == 1 else covariance)
    other = gaussian.score(VariancePreserving())

    def either(t: Tensor, x: Tensor, c: Tensor) -> Tensor:
        return torch.where(c.reshape(-1, *(1,) * (x.ndim - 1)) == 0, score(t, x), other(t, x))

    both = ScorePair(either, VariancePreserving(), log_snr_range=score.log_snr_range, reference=gaussian)
    gap = truth - gaussian.log_prob(x)
    yield (
        "difference",
        "own",
        lambda n, s: gv.difference(both, x, 0, 1, exact=True, samples=n, generator=seeded(s)),
        gap,
    )


def trained(case: Case, x: Tensor, seconds: float) -> Iterator[tuple[str, str, Draw, Tensor]]:
    """The same of a score that was fitted to rows of the law."""
    config = gv.Config(time_budget=seconds, seed=0)
    torch.set_default_dtype(torch.float32)
    model = gv.fit(case.rows(TRAINING_ROWS, seed=2).float(), config=config)
    torch.set_default_dtype(torch.float64)
    fitted = lambda n, s: model.elbo(x, samples=n, generator=seeded(s))  # noqa: E731
    y = model.encode(x).view(1, 0).x[:, 0].float().detach()
    pair = model.pair.replace(proposal=None)
    bare = lambda n, s: gv.elbo(pair, y, samples=n, generator=seeded(s))  # noqa: E731
    for name, draw in (("fitted model", fitted), ("its score, no proposal", bare)):
        yield "elbo", name, draw, draw(TRUTH_SAMPLES, 10**6).value


def law_of(name: str, count: int) -> tuple[Case, Tensor, Gaussian | None]:
    """A law, rows of it, and a reference other than its own moments."""
    if name in HARD:
        return *rows_of(name, count), None
    case = ORACLES[name]()
    return case, case.rows(count, seed=1), reference_of(case)


def cells(law: str, options: Namespace) -> list[dict[str, object]]:
    """All measurements of one law."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    case, x, reference = law_of(law, options.rows)
    kinds = [("exact", exact(case, x, reference))] if "exact" in options.kinds else []
    if "trained" in options.kinds and law in TRAINED:
        kinds.append(("trained", trained(case, x, options.training)))
    found = []
    for kind, estimates in kinds:
        for estimate, reference, draw, truth in estimates:
            for samples in SAMPLES:
                row = {"law": law, "score": kind, "estimate": estimate, "reference": reference, "samples": samples}
                kept = next((old for old in read_lines(Path(options.lines)) if row.items() <= old.items()), None)
                if kept is None:
                    kept = row | measure(draw, truth, samples, options.repeats)
                    append_line(Path(options.lines), kept)
                found.append(kept)
                print(
                    f"{law:20s} {kind:8s} {estimate:10s} {reference:22s} n={samples:<3d} "
                    f"rows {kept['mean_over_rows']:.3f} worst {kept['worst_row']:.3f} mean {kept['of_the_mean']:.3f} "
                    f"variance {kept['variance_times_samples']:.3g}",
                    flush=True,
                )
    return found


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, repeats=3, rows=3, laws=["ring"], training=2.0)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--laws", nargs="*", default=list(HARD), help="names of laws")
    parser.add_argument("--kinds", nargs="*", default=["exact", "trained"], help="exact, trained or both")
    parser.add_argument("--training", type=float, default=40.0, help="seconds")
    parser.add_argument("--workers", type=int, default=1, help="laws that are measured at once")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")
    parser.add_argument("--name", default="coverage", help="file stem of the result")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        found = [row for rows in pool.map(cells, options.laws, [options] * len(options.laws)) for row in rows]
    if not options.quick:
        record(options.name, found, **settings(options, "name", "lines", "rows"))


if __name__ == "__main__":
    main()
