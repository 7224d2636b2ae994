"""Paper 1: trajectories for lambda = 0 and 1, and the bound against lambda, on networks trained on two planar sets.

A swiss roll (scikit-learn) and a mixture of eight Gaussians with a known density. For every member of the family: the
bound of the Euler chain of the inference process u_lambda with the model's own score (a true bound of that sampler),
the Girsanov weight of the same Euler paths (kind estimate: its step error is seen beside it), and the factor
(1 - lambda/2)^2 / (1 - lambda) by which the gap would grow if the inference score were exact; the ODE's log-density at
lambda = 1. Draws the figure.

    OMP_NUM_THREADS=1 python benchmarks/paper1/family.py
"""

__all__: list[str] = []

import argparse
import math
import sys
from pathlib import Path

import torch
from sklearn.datasets import make_swiss_roll

sys.path.insert(0, str(Path(__file__).parents[1]))

from _record import record

import girsanov as gv

LAMBDAS = (-2.0, -1.0, -0.5, 0.0, 0.3, 0.6, 0.9)
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "paper1-family.png"


def swiss_roll(n):
    x, _ = make_swiss_roll(n, noise=0.5, random_state=0)
    return torch.from_numpy(x[:, [0, 2]]) / 10.0, None


def ring(n):
    angles = torch.arange(8) * math.pi / 4
    means = torch.stack([angles.cos(), angles.sin()], 1).double()
    law = gv.GaussianMixture(torch.ones(8), means, torch.full((8, 2), 0.01))
    return law.sample(n, generator=torch.Generator().manual_seed(0)), law


def fit(x, seconds):
    """A diffusion on standardised coordinates, without the help of flow or mixture: the network is what is seen."""
    config = gv.Config(network="mlp", width=96, blocks=3, gaussianise=False, time_budget=seconds, steps=20_000)
    return gv.fit(x, config=config)


def bounds(model, held, steps, paths, truth):
    """One row per member, on held-out rows in the model's space; nats per row in data units."""
    y, log_det = model.transforms(held)
    shift = float(log_det.mean())
    rows = []
    for lmbd in LAMBDAS:
        pair = gv.ScorePair(model.score, model.score.process, prior=model.prior, lmbd=lmbd)
        weight = gv.path_log_weight(pair, y.float(), steps=steps, paths=paths).mean()
        chain = gv.chain_elbo(pair, y.float(), steps=steps, paths=paths).mean()
        rows.append(
            {
                "lambda": lmbd,
                "path_bound": weight.value + shift,
                "path_stderr": weight.stderr,
                "chain_bound": chain.value + shift,
                "chain_stderr": chain.stderr,
                "gap_factor": (1.0 - 0.5 * lmbd) ** 2 / (1.0 - lmbd),
            }
        )
        print(rows[-1], flush=True)
    elbo, ode = model.elbo(held, samples=256).mean(), model.log_prob(held).mean()
    facts = {"elbo": elbo.value, "elbo_stderr": elbo.stderr, "ode": ode.value, "truth": truth, "test_rows": len(held)}
    return rows, facts


def paths_of(model, lmbd, n, steps=200):
    """Sampler states in the model's space, from noise to data, scaled back by alpha: ``steps n 2``."""
    chain = gv.AncestralChain(model.score, model.score.process, steps, prior=model.prior, lmbd=lmbd)
    generator = torch.Generator().manual_seed(3)
    states = [chain.sample_prior(n, generator)]
    with torch.no_grad():
        for k in reversed(range(chain.length)):
            kernel = chain.decode(k, states[-1])
            eps = torch.randn(states[-1].shape, generator=generator)
            quiet = lmbd == 1.0 and k > 0
            states.append(states[-1] + kernel.shift + (0.0 if quiet else kernel.spread(eps)))
    levels = torch.cat([chain.levels.flip(0), torch.tensor([50.0], dtype=torch.float64)])
    alpha = torch.sigmoid(levels).sqrt()
    return torch.stack([a.float() * y for a, y in zip(alpha, states, strict=True)])


def draw(models):
    """Trajectories of both ends of the family on both sets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), constrained_layout=True)
    for row, (name, (model, x)) in zip(axes, models.items(), strict=True):
        data = model.transforms(x[:2000])[0]
        for column, lmbd in enumerate((0.0, 1.0)):
            tracks = paths_of(model, lmbd, 1000)
            panel = row[2 * column]
            panel.plot(tracks[:, :12, 0].numpy(), tracks[:, :12, 1].numpy(), lw=0.7, alpha=0.8)
            panel.scatter(*tracks[-1, :12].T.numpy(), s=14, c="black", zorder=3)
            panel.set_title(f"{name}: 12 paths, λ = {lmbd:g}" + (" (ODE)" if lmbd == 1.0 else " (SDE)"), fontsize=9)
            cloud = row[2 * column + 1]
            cloud.scatter(*data.T.numpy(), s=1, c="0.75", label="data")
            cloud.scatter(*tracks[-1].T.numpy(), s=1, c="C3", label="samples")
            cloud.set_title("end points on data", fontsize=9)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[], xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=80)


def main():
    """Fit, bound, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--paths", type=int, default=4)
    parser.add_argument("--held", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, models, facts = [], {}, {}
    for name, make in {"swiss roll": swiss_roll, "ring": ring}.items():
        x, law = make(12_000)
        model = fit(x[:10_000], options.seconds)
        held = x[10_000:][: options.held]
        truth = None if law is None else float(law.log_prob(held).mean())
        rows, facts[name] = bounds(model, held, options.steps, options.paths, truth)
        results += [{"data": name, **row} for row in rows]
        models[name] = (model, x)
    record("paper1-family", results, **vars(options), sets=facts)
    draw(models)


if __name__ == "__main__":
    main()
