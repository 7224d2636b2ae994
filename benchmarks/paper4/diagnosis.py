"""What score tests find: missing modes, wrong scales, an under-trained model of the digits, and one without a class.

Ring: a mixture of eight narrow modes, noised, against exact and wrong scores (note of paper 4, section 3.5).
Digits: three models, after few training steps, after many, and after as many without the images of one class, each
tested at four noise levels against held-out images of all classes, of that class alone, and against its own samples;
the first two are also compared with each other on the same noised images. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.diagnosis
"""

__all__: list[str] = []

import math
from collections.abc import Callable

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, record
from girsanov.datasets import load
from girsanov.densities import GaussianMixture
from girsanov.likelihoods import ScoreTest, score_test
from girsanov.likelihoods.score_test import LEVELS
from girsanov.pairs import ScorePair
from girsanov.processes import OrnsteinUhlenbeck
from girsanov.stein import BLIND_SPOTS, WildBootstrap, compare_scores

ALPHA = 0.05
PROCESS = OrnsteinUhlenbeck(beta=2.0)  # alpha_t = exp(-t)


def seeded(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def share(count: int, repeats: int) -> dict[str, float]:
    """A rate and its standard error."""
    rate = count / repeats
    return {"rate": rate, "stderr": math.sqrt(max(rate * (1 - rate), 1e-9) / repeats), "repeats": repeats}


# Ring


def ring(skip: int = 0, shift: float = 0.0) -> GaussianMixture:
    """Eight modes of standard deviation .2 on a circle of radius 2, some left out, all shifted."""
    angle = 2 * torch.pi * torch.arange(skip, 8, dtype=torch.float64) / 8
    means = 2.0 * torch.stack([angle.cos(), angle.sin()], 1) + torch.tensor([shift, 0.0])
    return GaussianMixture(torch.ones(len(means)), means, torch.full_like(means, 0.04))


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exact": ring().score(PROCESS),
    "7 of 8 modes": ring(skip=1).score(PROCESS),
    "modes shifted by .1": ring(shift=0.1).score(PROCESS),
    "score x 1.1": lambda t, x: 1.1 * ring().score(PROCESS)(t, x),
    "score at 1.2 t": lambda t, x: ring().score(PROCESS)(1.2 * t, x),
}


def ring_tests(n: int, repeats: int, times: tuple[float, ...]) -> list[dict[str, object]]:
    """Rejection rate and mean effect by score and time."""
    rows = []
    for time in times:
        level = float(PROCESS.log_snr(torch.tensor(time, dtype=torch.float64)))
        for name, score in SCORES.items():
            found = [
                score_test(
                    ScorePair(score, PROCESS),
                    ring().sample(n, generator=seeded(seed)),
                    [level],
                    method=WildBootstrap(299),
                    generator=seeded(seed),
                )
                for seed in range(repeats)
            ]
            effect = sum(test.levels[0].result.effect_size for test in found) / repeats
            row = {"problem": "ring", "score": name, "t": time, "n": n, "effect_size": effect}
            rows.append({**row, **share(sum(test.pvalue <= ALPHA for test in found), repeats)})
            print(rows[-1], flush=True)
    return rows


# Digits

HIDDEN = 0  # the class that one model never saw


def digits(few: int, many: int, held_out: int, drawn: int) -> list[dict[str, object]]:
    """Tests of three models on the same held-out images and of their samples; comparison of the first two."""
    data = load("digits")
    order = torch.randperm(len(data.x), generator=seeded(0))
    test, train = data.x[order[:held_out]], order[held_out:]
    assert data.codes is not None
    unseen = test[data.codes[order[:held_out]] == HIDDEN]
    cases = {
        "few steps": (train, few),
        "many steps": (train, many),
        "many steps without a class": (train[data.codes[train] != HIDDEN], many),
    }
    models, rows = {}, []
    for name, (index, steps) in cases.items():
        config = gv.Config(network="conv", dequantise="uniform", steps=steps)  # score tests are of densities
        models[name] = model = gv.fit(data.x[index], config=config)
        training = model.record["training"]
        bound = model.elbo(test, generator=seeded(0)).mean()
        facts = {"model": name, "steps": training["steps"], "held_out_nats": bound.value, "nats_stderr": bound.stderr}
        sets = {
            "held-out": test,
            "held-out, hidden class": unseen,
            "own samples": model.sample(drawn, generator=seeded(1)),
        }
        for kind, x in sets.items():
            rows += levels(f"digits, {kind}", model.score_test(x, generator=seeded(0)), facts)
    first, second = list(models.values())[:2]
    return rows + compared(first, second, test)


def levels(problem: str, found: ScoreTest, facts: dict[str, object]) -> list[dict[str, object]]:
    """One row per noise level."""
    print(problem, facts["model"], found.statement(), flush=True)
    return [
        {
            "problem": problem,
            "log_snr": level.log_snr,
            "n": level.result.n,
            "effect_size": level.result.effect_size,
            "discrepancy": level.result.discrepancy,
            "stderr": level.result.stderr,
            "pvalue": level.result.pvalue,
            "corrected": level.corrected,
            "statement": found.statement(),
            **facts,
        }
        for level in found.levels
    ]


def compared(first: gv.DensityModel, second: gv.DensityModel, test: Tensor) -> list[dict[str, object]]:
    """Which of two models fitted to the same rows is nearer to held-out ones, at each level."""
    uniform = torch.rand(test.shape, generator=seeded(2), dtype=torch.float64)
    y, process, rows = first.encoding.transforms(test, uniform)[0].detach(), first.score.process, []
    for level in LEVELS:
        at = torch.tensor(level, dtype=torch.float64)
        alpha, sigma = process.marginal_at(at)
        noised = (alpha * y + sigma * torch.randn(y.shape, generator=seeded(3), dtype=torch.float64)).float()
        time = process.time(at).expand(len(noised))
        with torch.no_grad():
            scores = [model.score(time, noised) for model in (first, second)]
        found = compare_scores(noised, *scores)
        row = {"problem": "digits, comparison", "log_snr": level, "difference": found.statistic, "n": found.n}
        rows.append({**row, "stderr": found.stderr, "pvalue": found.pvalue, "discrepancies": found.discrepancies})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, repeats=5, few=2, many=4)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--few", type=int, default=50, help="steps of the under-trained digits model")
    parser.add_argument("--many", type=int, default=1000, help="steps of the other two")
    parser.add_argument("--problems", nargs="*", default=["ring", "digits"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    if "ring" in arguments.problems:
        rows += ring_tests(500, arguments.repeats, (0.01, 0.1, 0.5))
        rows += [] if arguments.quick else ring_tests(3000, 20, (0.1, 0.5))
    if "digits" in arguments.problems:
        rows += digits(arguments.few, arguments.many, *((100, 8) if arguments.quick else (500, 300)))
    if not arguments.quick:
        print(f"wrote {record('paper4-diagnosis', rows, alpha=ALPHA, blind_spots=BLIND_SPOTS).name}")


if __name__ == "__main__":
    main()
