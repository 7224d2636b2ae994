r"""Few-step sampling: how many steps a learned forward process needs beside a fixed one, for the same bound.

A stretched planar set (a spiral of standard deviations 8 and 1, in the manner of Deng et al., 2024), standard normal
prior. Both sides have the same networks, training steps, grid and learned covariances of the decoder's steps; they
differ in the encoder alone: fixed at the variance-preserving process, or learned from there, drift and step variances,
by the joint objective. For every number of steps N: the bound on rows that neither saw, with the errors of
estimator and rows, and its importance-weighted version. ``saving`` compares, for each bound that the fixed process
reaches at some N, the smallest N' at which the learned one is within 0.02 nats of it.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.fewsteps
"""

import argparse
import math
import os
import time

import torch

from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from benchmarks.paper3._rows import Rows
from girsanov.bridges import JointConfig, NetworkConfig, SchrodingerBridge
from girsanov.densities import Gaussian
from girsanov.processes import VariancePreserving

STEPS = (8, 16, 32, 64, 128)
SIDES = ("fixed VP", "learned")
TOLERANCE = 0.02
STRETCH = 8.0
FIGURE = FIGURES / "paper3-fewsteps.png"


def spiral(n: int, seed: int) -> torch.Tensor:
    """A noisy spiral of standard deviations about 8 and 1."""
    generator = torch.Generator().manual_seed(seed)
    angle = 3.0 * math.pi * torch.rand(n, generator=generator).sqrt()
    x = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 6.0
    x = x + 0.08 * torch.randn(n, 2, generator=generator)
    return x * torch.tensor([STRETCH, 1.0])


def fit(steps: int, learned: bool, arguments: argparse.Namespace) -> dict[str, object]:
    """One model and its bounds."""
    joint = JointConfig(
        steps=arguments.train, batch_size=arguments.batch, learning_rate=arguments.rate, warm_steps=arguments.warm,
        ema_decay=0.99, validate_every=max(1, arguments.train // 10), learn_encoder=learned,
        step_variances="full",
    )  # fmt: skip
    bridge = SchrodingerBridge(
        VariancePreserving(beta_min=0.1, beta_max=arguments.beta_max), dim=2, steps=steps,
        network=NetworkConfig(width=64, blocks=2), joint=joint,
    )  # fmt: skip
    start = time.process_time()
    rows = spiral(8000, 0)
    bridge.fit(rows, prior=Gaussian(torch.zeros(2), 1.0))
    test = spiral(arguments.rows, 1)
    bound, tight = bridge.elbo(test, paths=16).mean(), bridge.importance_bound(test[:500], paths=32).mean()
    return {
        "steps": steps, "forward": SIDES[learned], "elbo": bound.value, "stderr": bound.stderr,
        "rows_stderr": bound.rows_stderr, "importance_bound": tight.value, "cpu_seconds": time.process_time() - start,
        "reference_kl": bridge.history[-1]["reference"], "prior_lower": bridge.history[-1]["prior_lower"],
    }  # fmt: skip


def savings(rows: list[dict]) -> list[dict[str, object]]:
    """For each N of the fixed process, the least N' of the learned one that is within the tolerance."""
    by_side = {side: {r["steps"]: r["elbo"] for r in rows if r["forward"] == side} for side in SIDES}
    found = []
    for steps, bound in sorted(by_side["fixed VP"].items()):
        enough = [n for n, value in sorted(by_side["learned"].items()) if value >= bound - TOLERANCE]
        found.append({"fixed": steps, "learned": enough[0] if enough else None,
                      "ratio": steps / enough[0] if enough else None})  # fmt: skip
    return found


def draw(rows: list[dict]) -> None:
    """Bound against the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for side, mark in (("fixed VP", "o--"), ("learned", "s-")):
        own = sorted((r for r in rows if r["forward"] == side), key=lambda r: r["steps"])
        axis.plot([r["steps"] for r in own], [r["elbo"] for r in own], mark, label=f"{side} forward process")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("steps N of the sampler")
    axis.set_ylabel("bound, nats per row (higher is better)")
    axis.legend()
    axis.grid(alpha=0.3)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Fit, print, record, draw."""
    parser = Command(__doc__, steps=[8], train=20, warm=10, rows=200, partial=os.devnull)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--train", type=int, default=3000, help="joint training steps")
    parser.add_argument("--rate", type=float, default=1e-2, help="peak learning rate")
    parser.add_argument("--warm", type=int, default=600, help="steps of denoising score matching first")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4000, help="test rows")
    parser.add_argument("--beta-max", type=float, default=10.0)
    parser.add_argument("--partial", default="runs/paper3-fewsteps.jsonl", help="rows that are already there stay")
    parser.add_argument("--no-record", action="store_true", help="keep the partial rows only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = Rows(arguments.partial, arguments)
    for steps in arguments.steps:
        for learned in (SIDES.index(side) for side in arguments.sides):
            if not kept.has(steps=steps, forward=SIDES[learned]):
                kept.add(fit(steps, bool(learned), arguments))
    print(savings(kept.all))
    if arguments.no_record or arguments.quick:
        return
    asked = settings(arguments, "partial", "no_record")
    print(f"wrote {record('paper3-fewsteps', kept.all, savings=savings(kept.all), settings=asked).name}")
    draw(kept.all)


if __name__ == "__main__":
    main()
