r"""The freezing recipe beside joint training: processor time to equal held-out bounds, and the gap to training rows.

The digits as 64 numbers (dequantised once, scaled), standard normal prior, a chain of N steps over an
Ornstein-Uhlenbeck reference with learned step variances. *Joint* trains both halves through simulated paths to the
end. *Frozen* does so until the prior loss no longer moves on validation rows, by more than a tolerance in two of them,
then trains the decoder alone on cached paths. *Fixed* is the control: the same recipe with an encoder that stays the
reference. Validations are part of all times and equally frequent in joint steps. ``saving`` is the ratio of the
processor times to the best bound that joint training reaches on validation rows (or, where the other does not reach
it, to that one's best, and the record says so). Test rows take part in nothing.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.freeze
"""

import argparse

import torch

from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from girsanov.bridges import JointConfig, NetworkConfig, SchrodingerBridge
from girsanov.densities import StandardNormal
from girsanov.processes import OrnsteinUhlenbeck

RECIPES = ("joint", "frozen", "fixed")
FIGURE = FIGURES / "paper3-freeze.png"


def digits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and test rows, ``n 64``."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(load_digits().data, dtype=torch.float32)
    x = (x + torch.rand(x.shape, generator=generator)) / 17.0
    x = 4.0 * (x - x.mean(0))
    order = torch.randperm(len(x), generator=generator)
    return x[order[:1400]], x[order[1400:]]


def fit(recipe: str, seed: int, arguments: argparse.Namespace) -> tuple[dict[str, object], list[dict]]:
    """One fit: its bounds and its validations."""
    train, test = digits(seed)
    joint = JointConfig(
        steps=arguments.joint, batch_size=128, learning_rate=1e-3, ema_decay=0.98, freeze=recipe != "joint",
        learn_encoder=recipe != "fixed",
        freeze_tolerance=arguments.tolerance, freeze_patience=2, decoder_steps=arguments.decoder, refresh=100,
        validate_every=arguments.joint // 20, seed=seed,
    )  # fmt: skip
    bridge = SchrodingerBridge(
        OrnsteinUhlenbeck(3.0), dim=64, steps=arguments.steps, network=NetworkConfig(width=128, blocks=2), joint=joint
    )
    bridge.fit(train, prior=StandardNormal())
    seen, unseen = (bridge.elbo(x[:397], paths=8).mean() for x in (train, test))
    joint_steps = max(entry["step"] for entry in bridge.history if entry["stage"] == "joint")
    row = {
        "recipe": recipe, "seed": seed, "cpu_seconds": bridge.history[-1]["cpu_seconds"], "joint_steps": joint_steps,
        "test_elbo": unseen.value, "test_stderr": unseen.stderr, "test_rows_stderr": unseen.rows_stderr,
        "train_elbo": seen.value, "overfit": seen.value - unseen.value,
        "best_validation": max(entry["elbo"] for entry in bridge.history),
        "prior_lower": bridge.history[-1]["prior_lower"],
    }  # fmt: skip
    print(row, flush=True)
    return row, bridge.history


def saving(joint: list[dict], other: list[dict]) -> dict[str, object]:
    """Processor times to a common bound on validation rows."""
    best = max(entry["elbo"] for entry in joint)
    reached = max(entry["elbo"] for entry in other) >= best
    goal = best if reached else max(entry["elbo"] for entry in other)
    times = [next((e["cpu_seconds"] for e in side if e["elbo"] >= goal), None) for side in (joint, other)]
    ratio = times[0] / times[1] if times[0] and times[1] else None
    return {"goal": goal, "reaches_joint": reached, "joint_seconds": times[0], "seconds": times[1], "ratio": ratio}


def draw(curves: dict[str, list[dict]]) -> None:
    """Bound on validation rows against processor time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for name, history in curves.items():
        axis.plot([e["cpu_seconds"] for e in history], [e["elbo"] for e in history], ".-", label=name)
    frozen = next((e["cpu_seconds"] for e in curves["frozen"] if e["stage"] == "decoder"), None)
    if frozen is not None:
        axis.axvline(frozen, color="grey", lw=0.8, ls=":", label="encoder frozen")
    low = min(e["elbo"] for history in curves.values() for e in history[3:])
    axis.set_ylim(bottom=low)
    axis.set_xlabel("processor time, seconds")
    axis.set_ylabel("bound on validation rows, nats")
    axis.legend()
    axis.grid(alpha=0.3)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Fit, print, record, draw."""
    parser = Command(__doc__, seeds=[0], steps=4, joint=20, decoder=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--joint", type=int, default=1000, help="joint training steps")
    parser.add_argument("--decoder", type=int, default=4000, help="steps of the decoder alone")
    parser.add_argument("--tolerance", type=float, default=0.5, help="nats of prior loss that count as a move")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, savings, curves = [], [], {}
    for seed in arguments.seeds:
        for recipe in RECIPES:
            row, curves[recipe] = fit(recipe, seed, arguments)
            rows.append(row)
        for recipe in RECIPES[1:]:
            savings.append({"seed": seed, "recipe": recipe, **saving(curves["joint"], curves[recipe])})
            print(savings[-1], flush=True)
    if not arguments.quick:
        asked = settings(arguments)
        print(f"wrote {record('paper3-freeze', rows, savings=savings, settings=asked, curves=curves).name}")
        draw(curves)


if __name__ == "__main__":
    main()
