"""Trajectories for lambda = 0 and 1, and the bound against lambda, on networks trained on two planar sets.

A swiss roll (scikit-learn) and a ring of eight Gaussians whose density is known, the ring also by a network that was
hardly trained. For every member of the family: the bound of the Euler chain of the inference process u_lambda with
the model's own score, a true bound of that sampler, at two numbers of steps; and, where the density is known, the bound
that an inference process with the exact score would have by the formula, truth - (1 + lambda^2 / 4 (1 - lambda))
(truth - bound at 0), to which the factor alone would lead. Beside them the bound at lambda = 0 by quadrature in
log-SNR, which has no steps, and the ODE's own log-density at lambda = 1.

    OMP_NUM_THREADS=1 python -m benchmarks.paper1.family
"""

__all__: list[str] = []

import math

import torch
from sklearn.datasets import make_swiss_roll

import girsanov as gv
from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings

LAMBDAS = (-2.0, -1.0, 0.0, 0.5, 0.8, 0.9)
TRAINED, HASTE = 2000, 60  # training steps, and those of the hardly trained network


def swiss_roll(n):
    """Rows ``n 2`` of a roll seen from above; its density is not known."""
    x, _ = make_swiss_roll(n, noise=0.5, random_state=0)
    return torch.from_numpy(x[:, [0, 2]]) / 10.0, None


def ring(n):
    """Rows ``n 2`` of eight Gaussians on a circle, and their law."""
    angles = torch.arange(8) * math.pi / 4
    means = torch.stack([angles.cos(), angles.sin()], 1).double()
    law = gv.GaussianMixture(torch.ones(8), means, torch.full((8, 2), 0.01))
    return law.sample(n, generator=torch.Generator().manual_seed(0)), law


def fit(x, steps):
    """A diffusion on standardised coordinates, without the help of flow or mixture: the network is what is seen."""
    config = gv.Config(network=gv.networks.MLPConfig(width=96, blocks=3), gaussianise=False, steps=steps)
    return gv.fit(x, config=config)


def bounds(model, held, depths, paths, truth):
    """One row per member, on held-out rows in the model's space; nats per row in data units."""
    y, log_det = model.encoding.transforms(held)
    shift, elbo, ode = float(log_det.mean()), model.elbo(held, samples=512).mean(), model.log_prob(held).mean()
    rows = []
    for lmbd in LAMBDAS:
        pair = model.pair.family(lmbd)
        coarse, fine = (gv.chain_elbo(pair, y.float(), steps=n, paths=paths).mean() for n in depths)
        factor = (1.0 - 0.5 * lmbd) ** 2 / (1.0 - lmbd)
        rows.append(
            {
                "lambda": lmbd,
                "coarse_bound": coarse.value + shift,
                "fine_bound": fine.value + shift,
                "fine_stderr": fine.stderr,
                "gap_factor": factor,
                "by_formula": None if truth is None else truth - factor * (truth - elbo.value),
            }
        )
        print(rows[-1], flush=True)
    facts = {"elbo": elbo.value, "elbo_stderr": elbo.stderr, "ode": ode.value, "truth": truth, "test_rows": len(held)}
    return rows, facts | {"depths": list(depths), "steps_trained": model.record["training"]["steps"]}


@torch.no_grad()
def paths_of(model, lmbd, n, steps=800):
    """Sampler states x_t in the model's space and their log-SNR, from noise to data: ``steps n 2`` and ``steps``."""
    chain = gv.AncestralChain(model.pair, steps, lmbd=lmbd)
    generator = torch.Generator().manual_seed(3)
    states = [chain.sample_prior(n, generator)]
    for k in reversed(range(chain.length)):
        kernel, quiet = chain.decode(k, states[-1]), lmbd == 1.0 and k > 0
        eps = torch.randn(states[-1].shape, generator=generator)
        states.append(states[-1] + kernel.shift + (0.0 if quiet else kernel.spread(eps)))
    levels = torch.cat([chain.levels.flip(0), torch.tensor([50.0], dtype=torch.float64)])
    alpha = torch.sigmoid(levels).sqrt()
    return torch.stack([a.float() * y for a, y in zip(alpha, states, strict=True)]), levels


def draw_paths(plt, models):
    """Trajectories of both ends of the family on both sets, from log-SNR -1 on, where they begin to know the data."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), constrained_layout=True)
    for row, (name, (model, x)) in zip(axes, models.items(), strict=True):
        data = model.encoding.transforms(x[:2000])[0]
        for column, lmbd in enumerate((0.0, 1.0)):
            states, levels = paths_of(model, lmbd, 1000)
            tracks, panel = states[levels > -1.0, :8], row[2 * column]
            panel.scatter(*data.T.numpy(), s=1, c="0.85")
            panel.plot(tracks[..., 0].numpy(), tracks[..., 1].numpy(), lw=0.6, alpha=0.9)
            panel.scatter(*tracks[0].T.numpy(), s=14, facecolors="none", edgecolors="0.3", zorder=3)
            panel.scatter(*tracks[-1].T.numpy(), s=14, c="black", zorder=3)
            panel.set_title(f"{name}: 8 paths, λ = {lmbd:g}" + (" (ODE)" if lmbd == 1.0 else " (SDE)"), fontsize=9)
            cloud = row[2 * column + 1]
            cloud.scatter(*data.T.numpy(), s=1, c="0.7")
            cloud.scatter(*states[-1].T.numpy(), s=1, c="C3")
            cloud.set_title("end points (red) on data (grey)", fontsize=9)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[], xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), aspect="equal")
    figure.savefig(FIGURES / "paper1-paths.png", dpi=62)


def draw_bounds(plt, results, facts):
    """The bound against lambda, one panel per model."""
    figure, axes = plt.subplots(1, len(facts), figsize=(11, 3.6), constrained_layout=True)
    for panel, (name, known) in zip(axes, facts.items(), strict=True):
        mine = [row for row in results if row["data"] == name]
        x = [row["lambda"] for row in mine]
        coarse, fine = known["depths"]
        panel.plot(x, [row["coarse_bound"] for row in mine], "C0o:", ms=3, label=f"bound, {coarse} steps")
        panel.plot(x, [row["fine_bound"] for row in mine], "C0o-", ms=3, label=f"bound, {fine} steps")
        if known["truth"] is not None:
            panel.plot(x, [row["by_formula"] for row in mine], "k--", lw=1, label="formula, exact inference score")
        panel.plot([0.0], [known["elbo"]], "k*", ms=9, label="bound, no steps")
        panel.plot([1.0], [known["ode"]], "r^", ms=6, label="ODE")
        panel.set(title=name, xlabel="λ", ylabel="nats per held-out row")
        panel.legend(fontsize=6.5, loc="lower center")
    figure.savefig(FIGURES / "paper1-family.png", dpi=75)


def main():
    """Fit, bound, draw, record."""
    parser = Command(__doc__, trained=20, depth=16, held=8, paths=1)
    parser.add_argument("--trained", type=int, default=TRAINED, help="training steps")
    parser.add_argument("--depth", type=int, default=768, help="steps of the finer sampler, four times the coarser's")
    parser.add_argument("--paths", type=int, default=2)
    parser.add_argument("--held", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained, depth = options.trained, options.depth
    sets = {
        "swiss roll": (swiss_roll, trained, depth),
        "ring": (ring, trained, depth),
        "ring, hardly trained": (ring, min(HASTE, trained), depth // 4),  # whose sampler converges sooner
    }
    results, models, facts = [], {}, {}
    for name, (make, steps, fine) in sets.items():
        x, law = make(12_000)
        model = fit(x[:10_000], steps)
        held = x[10_000:][: options.held]
        truth = None if law is None else float(law.log_prob(held).mean())
        rows, facts[name] = bounds(model, held, (fine // 4, fine), options.paths, truth)
        results += [{"data": name, **row} for row in rows]
        if fine == depth:
            models[name] = (model, x)
    if options.quick:
        return
    record("paper1-family", results, **settings(options), sets=facts)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    FIGURES.mkdir(exist_ok=True)
    draw_paths(plt, models)
    draw_bounds(plt, results, facts)


if __name__ == "__main__":
    main()
