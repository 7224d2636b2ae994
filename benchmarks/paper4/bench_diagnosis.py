"""What score tests find: missing modes, wrong scales, and an under-trained model of the digits.

Ring: a mixture of eight narrow modes, noised, against exact and wrong scores (note of paper 4, section 3.5).
Digits: models after few and many training steps, and one that never saw a class, each against held-out images of all
classes and against its own samples. Run from the root of the repository:

    OMP_NUM_THREADS=1 python benchmarks/paper4/bench_diagnosis.py
"""

__all__: list[str] = []

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _record import record
from torch import Tensor

import girsanov as gv
from girsanov.calculus import keyed_generators, keyed_uniform
from girsanov.datasets import load
from girsanov.densities import GaussianMixture
from girsanov.processes import OrnsteinUhlenbeck
from girsanov.stein import BLIND_SPOTS, WildBootstrap, score_test

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


def ring_tests(n: int, repeats: int) -> list[dict[str, object]]:
    """Rejection rate and mean effect by score and time."""
    rows = []
    for time_ in (0.01, 0.1, 0.5):
        level = float(PROCESS.log_snr(torch.tensor(time_, dtype=torch.float64)))
        for name, score in SCORES.items():
            found = [
                score_test(score, PROCESS, ring().sample(n, generator=seeded(seed)), [level],
                           method=WildBootstrap(299), generator=seeded(seed))
                for seed in range(repeats)
            ]  # fmt: skip
            effect = sum(test.levels[0].result.effect_size for test in found) / repeats
            row = {"problem": "ring", "score": name, "t": time_, "n": n, "effect_size": effect}
            rows.append({**row, **share(sum(test.pvalue <= ALPHA for test in found), repeats)})
            print(rows[-1], flush=True)
    return rows


# Digits


def model_space(model: gv.DensityModel, x: Tensor) -> Tensor:
    """Images in the model's coordinates, dequantised."""
    uniform = keyed_uniform(keyed_generators(0, "diagnosis", x), x.shape[1:], x)
    return model.transforms(x, uniform)[0].detach()


def digits(steps: tuple[int, int], held_out: int) -> list[dict[str, object]]:
    """Tests of three models on the same held-out images, and of the best one's own samples."""
    data = load("digits")
    order = torch.randperm(len(data.x), generator=seeded(0))
    test, train = data.x[order[:held_out]], order[held_out:]
    assert data.labels is not None
    few, many = steps
    kept = train[data.labels[train] != 0]
    cases = {
        f"{few} steps": (train, few), f"{many} steps": (train, many), f"{many} steps, no class 0": (kept, many)
    }  # fmt: skip
    rows = []
    for name, (index, count) in cases.items():
        start = time.perf_counter()
        model = gv.fit(data.x[index], config=gv.Config(steps=count))
        trained = time.perf_counter() - start
        rows += levels("digits, held-out", name, model, model_space(model, test), {"training_seconds": trained})
        drawn = model_space(model, model.encode(model.sample(held_out, generator=seeded(1))))
        rows += levels("digits, own samples", name, model, drawn, {})
    return rows


def levels(problem: str, name: str, model: gv.DensityModel, y: Tensor, facts: dict) -> list[dict[str, object]]:
    """One row per noise level."""
    found = score_test(model.score, model.score.process, y, generator=seeded(0))
    rows = [
        {"problem": problem, "model": name, "log_snr": level.log_snr, "n": level.result.n,
         "effect_size": level.result.effect_size,
         "discrepancy": level.result.discrepancy, "stderr": level.result.stderr,
         "pvalue": level.result.pvalue, "corrected": level.corrected, **facts}
        for level in found.levels
    ]  # fmt: skip
    for row in rows:
        print(row, flush=True)
    return rows


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--steps", type=int, nargs=2, default=(300, 10_000), help="of the digits models")
    parser.add_argument("--problems", nargs="*", default=["ring", "digits"])
    parser.add_argument("--quick", action="store_true", help="few samples, nothing recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats, steps, held_out = arguments.repeats, tuple(arguments.steps), 500
    if arguments.quick:
        repeats, steps, held_out = 10, (2, 10), 60
    rows: list[dict[str, object]] = []
    if "ring" in arguments.problems:
        rows += ring_tests(500, repeats)
        if not arguments.quick:
            rows += ring_tests(3000, 20)
    if "digits" in arguments.problems:
        rows += digits(steps, held_out)
    if not arguments.quick:
        print(f"wrote {record('paper4-diagnosis', rows, alpha=ALPHA, blind_spots=BLIND_SPOTS).name}")


if __name__ == "__main__":
    main()
