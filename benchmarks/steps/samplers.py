"""Samplers of few evaluations: distances of draws to the law, ours beside the solvers of diffusers, on the same scores.

Laws: mixtures of scales 0.01 to 1 in 2 and 64 dimensions, and a spike of 0.01 in a slab of 1, with their exact scores;
a small table model that is fitted here; and with ``--digits FOLDER`` a fitted model of digits, in the model's space.
Distances: sliced Wasserstein (of second order) to a large sample of the law (of models: to draws of 200 steps, and to
rows of the data); of exact scores also the kernel Stein discrepancy, of one bandwidth, after noise of scale 0.1,
without which the few rows of fine scales decide it, and the mean difference of sorted log-densities, which sees fine
scales. Each is also that of as many rows of the law itself.

Every solver of diffusers has the same score, range of log-SNR and prior, takes the score at its own exact noise level,
and is run with several settings; the best of them at each number of evaluations is what ours is compared with.

    OMP_NUM_THREADS=1 python -m benchmarks.steps.samplers --digits FOLDER --lines kept.jsonl
"""

__all__: list[str] = []

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record, settings
from girsanov.densities import GaussianMixture
from girsanov.processes import VariancePreserving
from girsanov.stein import InverseMultiquadric, kernel_stein_discrepancy, median_bandwidth

FINEST = 12.0  # log-SNR beyond which the schedulers' single precision does not follow
DIRECTIONS = 50
STEIN_NOISE = 0.1
DISTANCES = ("sliced", "sliced_rows", "stein", "log_prob")


@dataclass(frozen=True)
class Problem:
    """A pair, a large sample of its law, rows of the data or the law itself, and how many rows are drawn."""

    pair: gv.ScorePair
    sample: Tensor
    rows: Tensor | None = None
    law: GaussianMixture | None = None
    n: int = 0

    def distances(self, x: Tensor) -> dict[str, float]:
        """Of draws."""
        x = x.double().detach()
        found = {"sliced": sliced(x, self.sample)}
        if self.rows is not None:
            found["sliced_rows"] = sliced(x, self.rows)
        if self.law is not None:
            noised = x + STEIN_NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
            score = self.law.diffused_score(
                torch.ones(len(x)).double(), torch.full((len(x),), STEIN_NOISE).double(), noised
            )
            kernel = InverseMultiquadric(median_bandwidth(self.sample[:1000]))
            found["stein"] = float(kernel_stein_discrepancy(noised, score, kernel=kernel, statistic="v")) ** 0.5
            found["log_prob"] = sorted_difference(
                self.law.log_prob(x)[:, None], self.law.log_prob(self.sample)[:, None]
            )
        return found


def sliced(x: Tensor, sample: Tensor) -> float:
    """Root mean square over directions of the distance of second order of projections."""
    directions = torch.randn(DIRECTIONS, x[0].numel(), generator=torch.Generator().manual_seed(1)).double()
    directions = directions / directions.norm(dim=1, keepdim=True)
    return sorted_difference(x.flatten(1) @ directions.T, sample.double().flatten(1) @ directions.T, 2.0)


def sorted_difference(x: Tensor, sample: Tensor, power: float = 1.0) -> float:
    """Distance of columns as laws on the line."""
    middle = (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
    gap = x.sort(0).values - sample.quantile(middle, 0)
    return float(gap.abs().pow(power).mean() ** (1.0 / power))


def mixture(d: int, scales: list[float]) -> GaussianMixture:
    """Of isotropic components."""
    means = torch.randn(len(scales), d, generator=torch.Generator().manual_seed(3)).double()
    variances = torch.tensor(scales).double().square()[:, None].repeat(1, d)
    return GaussianMixture(torch.full((len(scales),), 1.0 / len(scales)).double(), means, variances)


def spike() -> GaussianMixture:
    """A scale of 0.01 inside one of 1."""
    return GaussianMixture(torch.full((2,), 0.5).double(), torch.zeros(2, 1), torch.tensor([[1e-4], [1.0]]).double())


def exact(law: GaussianMixture, rows: int) -> Problem:
    """With the law's own score."""
    pair = gv.ScorePair(law.score(VariancePreserving()))
    return Problem(pair, law.sample(10 * rows, generator=torch.Generator().manual_seed(7)), law=law, n=rows)


def fitted(model: gv.DensityModel, source: str, rows: int) -> Problem:
    """In the model's space."""
    data = model.encode(gv.datasets.load(source)).view(1, 0).x[:, 0].detach()
    generator = torch.Generator().manual_seed(7)
    return Problem(model.pair, gv.sample(model.pair, 2 * rows, steps=199, order=1, generator=generator), data, n=rows)


def table(rows: int, steps: int) -> Problem:
    """A small network of scikit-learn's wine."""
    config = gv.Config(steps=steps, network=gv.networks.MLPConfig(width=64, blocks=2), mixed=False)
    return fitted(gv.fit(gv.datasets.load("wine"), config=config), "wine", rows)


def ours() -> Iterator[tuple[str, str, Callable[..., Tensor]]]:
    """Our samplers: kind, name, draws of so many evaluations."""
    for kind, lmbd in (("ode", 1.0), ("sde", 0.0)):
        for order in (1, 2, 3):

            def draw(
                pair: gv.ScorePair, n: int, count: int, seed: int, lmbd: float = lmbd, order: int = order
            ) -> Tensor:
                generator = torch.Generator().manual_seed(seed)
                return gv.sample(pair, n, steps=count - 1, lmbd=lmbd, order=order, generator=generator)

            yield kind, f"order {order}", draw


def theirs() -> Iterator[tuple[str, str, Callable[..., Tensor]]]:
    """Solvers of diffusers by their settings; ``linear`` is the usual table of betas with evenly spaced steps."""
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    spacings = {name: {f"use_{name}": True} for name in ("karras_sigmas", "exponential_sigmas", "lu_lambdas")}
    spacings |= {"linear": {}}
    for spacing, chosen in spacings.items():
        for order in (2, 3):
            for algorithm in ("dpmsolver++", "sde-dpmsolver++"):
                given = {"solver_order": order, "algorithm_type": algorithm, **chosen}
                if algorithm[0] == "d" or order == 2:
                    kind = "ode" if algorithm[0] == "d" else "sde"
                    yield kind, f"{algorithm} {order} {spacing}", solver(DPMSolverMultistepScheduler, spacing, given)
            if spacing != "lu_lambdas":
                given = {"solver_order": order, **chosen}
                yield "ode", f"unipc {order} {spacing}", solver(UniPCMultistepScheduler, spacing, given)


def solver(kind: Any, spacing: str, given: dict[str, Any]) -> Callable[..., Tensor]:
    """Draws of a scheduler, ending without noise as its default is, in the range of the pair."""

    @torch.no_grad()
    def draw(pair: gv.ScorePair, n: int, count: int, seed: int) -> Tensor:
        low, high = pair.log_snr_range
        share = torch.sigmoid(torch.linspace(min(high, FINEST), low, 1000).double())
        betas = {"trained_betas": (1.0 - share / torch.cat([share.new_ones(1), share[:-1]])).tolist()}
        betas = {"beta_start": 1e-4, "beta_end": 0.02} if spacing == "linear" else betas
        scheduler, generator = kind(**betas, **given), torch.Generator().manual_seed(seed)
        scheduler.set_timesteps(count)
        levels = -2.0 * scheduler.sigmas.double().log()
        scales = torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt()
        alpha, _ = pair.process.marginal_at(torch.tensor(low).double())
        start = pair.prior.sample(n, generator=generator, **shape_of(pair)).to(pair.dtype(torch.zeros(1)))
        y = start / alpha  # the same first states in the scheduler's units: data + noise
        x = (y * torch.sigmoid(torch.tensor(low)).sqrt()).to(start.dtype)
        if levels[0] > low:  # the scheduler starts at less noise
            x = noised_reference(pair, n, scales[0][0], scales[1][0], generator).to(start.dtype)
        for i, t in enumerate(scheduler.timesteps):
            noise = pair.noise(levels[i].expand(n), x, None)
            x = (
                scheduler.step(noise, t, x, generator=generator, return_dict=True).prev_sample.to(x.dtype)
                if "algorithm_type" in given
                else scheduler.step(noise, t, x).prev_sample.to(x.dtype)
            )
        return x

    return draw


def noised_reference(pair: gv.ScorePair, n: int, alpha: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """First states at a level, as a law that is known has them: kinder than N(0, I)."""
    assert pair.reference is not None
    return pair.reference.diffused(alpha, sigma).sample(n, generator=generator)


def shape_of(pair: gv.ScorePair) -> dict[str, Any]:
    """What a standard normal prior needs."""
    return {} if pair.prior.event_shape else {"event_shape": pair.event_shape}


def measure(name: str, problem: Problem, options: Any) -> list[dict[str, Any]]:
    """All samplers, as far as they are not in the lines kept."""
    kept = [row for row in read_lines(Path(options.lines)) if row["problem"] == name] if options.lines else []
    done = {(row["evaluations"], row["seed"]) for row in kept}
    for count in options.evaluations:
        for seed in options.seeds:
            if (count, seed) in done:
                continue
            for whose, samplers in (("ours", ours()), ("diffusers", theirs())):
                for kind, sampler, draw in samplers:
                    x = draw(problem.pair, problem.n, count, seed)
                    at = {"problem": name, "evaluations": count, "seed": seed, "kind": kind, "whose": whose}
                    kept.append({**at, "sampler": sampler, **finite(problem, x)})
            own = problem.sample if problem.law is None else problem.law.sample(problem.n, generator=of(seed))
            at = {
                "problem": name,
                "evaluations": count,
                "seed": seed,
                "kind": "law",
                "whose": "law",
                "sampler": "itself",
            }
            kept.append({**at, **problem.distances(own[: problem.n])})
            if options.lines:
                for row in kept:
                    if (row["evaluations"], row["seed"]) == (count, seed):
                        append_line(Path(options.lines), row)
    return kept


def of(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(1000 + seed)


def finite(problem: Problem, x: Tensor) -> dict[str, float]:
    """Distances of draws; infinite where one of them is."""
    if not bool(x.isfinite().all()):
        return dict.fromkeys(problem.distances(problem.sample[:10]), math.inf)
    return problem.distances(x)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our order 2, the best setting of diffusers', their paired difference, and what rows of the law itself have."""
    found = []
    for problem, count, kind in sorted(
        {(r["problem"], r["evaluations"], r["kind"]) for r in rows if r["kind"] != "law"}
    ):
        here = [r for r in rows if (r["problem"], r["evaluations"], r["kind"]) == (problem, count, kind)]
        for distance in DISTANCES:
            values: dict[tuple[str, str], list[float]] = {}
            for r in sorted(here, key=lambda r: r["seed"]):
                if distance in r:
                    values.setdefault((r["whose"], r["sampler"]), []).append(r[distance])
            if not values:
                continue
            best = min((key for key in values if key[0] == "diffusers"), key=lambda key: mean(values[key]))
            mine = values["ours", "order 2"]
            gaps = [a - b for a, b in zip(mine, values[best], strict=True)]
            error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
            own = [r[distance] for r in rows if (r["problem"], r["kind"]) == (problem, "law") and distance in r]
            at = {"problem": problem, "evaluations": count, "kind": kind, "distance": distance}
            at |= {"law": mean(own), "ours": mean(mine)}
            found.append(at | {"diffusers": mean(values[best]), "best": best[1], "gap": mean(gaps), "error": error})
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in found[-1].items()}, flush=True)
    return found


def main() -> None:
    """Draw, measure and record."""
    parser = Command(__doc__, rows=50, seeds=[0], evaluations=[5], steps=20)
    parser.add_argument("--rows", type=int, default=1000, help="that each sampler draws, of digits a quarter")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, nargs="*", default=[5, 10, 15, 20, 50])
    parser.add_argument("--steps", type=int, default=2000, help="of the table's training")
    parser.add_argument("--digits", help="folder of a fitted model of digits")
    parser.add_argument("--only", nargs="*", help="names of problems")
    parser.add_argument("--lines", help="file that keeps what is measured, from which a run goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scales, n = [0.01, 0.05, 0.2, 1.0], options.rows
    problems: dict[str, Callable[[], Problem]] = {
        "mixture, d = 2": lambda: exact(mixture(2, scales), n),
        "mixture, d = 64": lambda: exact(mixture(64, scales), n),
        "spike and slab": lambda: exact(spike(), n),
        "wine": lambda: table(n, options.steps),
    }
    if options.digits:
        problems["digits"] = lambda: fitted(gv.DensityModel.from_pretrained(options.digits), "digits", n // 4)
    rows = []
    for name in options.only or problems:
        rows += measure(name, problems[name](), options)
    found = summary(rows)
    if not options.quick:
        record("steps-samplers", found, settings=settings(options, "digits", "lines"))


if __name__ == "__main__":
    main()
