r"""Learned bridges from a normal to a mixture against the exact entropic plan: d = 2, 16, 64, eps = 0.1, 1, 10.

One-sided construction (Gushchin et al., 2023; note of paper 3, section 4.3): the start is N(0, I), the potential at
the end a mixture of 5 Gaussians with means on the sphere of radius 5, random rotations and variances 0.5 to 2; the end
given any start is then known exactly. cBW2-UVP: from each of 1000 fresh starts (fewer, as recorded, where paths are
simulated) 1000 draws, whose mean and covariance are compared with the exact ones; 0 is exact, ``independent`` is a plan
that ignores the start. 1000 draws are not 0 even where they are exact: ``exact`` is that floor.

- exact: draws of the exact plan; euler: the exact drift on the steps of ours, what the steps alone cost.
- lightsb: a mixture of Gaussians with diagonal covariances fitted by the dual of entropic transport (LightSB's loss and
  family, Korotin et al., 2024, from its formula, by our optimiser), drawn as a static plan.
- plan: ours, the same dual over mixtures with full covariances, drawn as a static plan; start: that by simulated paths
  on the steps of the bridge; bridge: after alternating projections of networks.
- sf2m_exact, sf2m_sinkhorn: torchcfm's class with either minibatch plan, networks of the same size; the entropic plan
  only where eps is 1 or more, since its iterations do not converge below.

Figures of the literature are of the same construction with other random potentials, and context only.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.mixture --peers FOLDER_OF_TORCHCFM
"""

__all__: list[str] = []

import os
import time
from itertools import pairwise

import torch

from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from benchmarks.paper3._peers import SF2M, published, torchcfm_from
from benchmarks.paper3._rows import Rows
from girsanov.bridges import (
    AlternatingConfig,
    EndPotential,
    MixtureStart,
    NetworkConfig,
    OneSidedBridge,
    SchrodingerBridge,
    conditional_bw2_uvp,
    cosine_times,
    fit_mixture_potential,
)
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.processes import BrownianMotion

DIMENSIONS, NOISES = (2, 16, 64), (0.1, 1.0, 10.0)
METHODS = ("exact", "euler", "lightsb", "plan", "start", "bridge", "sf2m_exact", "sf2m_sinkhorn")
OURS = ("plan", "start", "bridge")
SIMULATED = ("euler", "start", "bridge", "sf2m_exact", "sf2m_sinkhorn")
RADIUS, COMPONENTS = 5.0, 5
CHUNK = 20_000
FIGURE = FIGURES / "paper3-mixture.png"


def instance(d, eps):
    """The exact bridge: the same potential for every eps."""
    generator = torch.Generator().manual_seed(500 + d)
    means = torch.randn(COMPONENTS, d, generator=generator, dtype=torch.float64)
    means = RADIUS * means / means.norm(dim=1, keepdim=True)
    rotations, _ = torch.linalg.qr(torch.randn(COMPONENTS, d, d, generator=generator, dtype=torch.float64))
    variances = torch.logspace(-1.0, 1.0, d, base=2.0, dtype=torch.float64)
    covariances = (rotations * variances) @ rotations.mT
    mixture = GaussianMixture(torch.full((COMPONENTS,), 1.0 / COMPONENTS), means, 0.5 * (covariances + covariances.mT))
    start = Gaussian(torch.zeros(d, dtype=torch.float64), 1.0)
    return OneSidedBridge(BrownianMotion(sigma=eps**0.5), start, mixture)


def end_moments(exact, n=20_000):
    """Mean and covariance of the end, by the exact conditional moments of many starts."""
    x0 = exact.start.sample(n, generator=torch.Generator().manual_seed(7))
    parts = [exact.conditional(x).moments() for x in x0.split(2000)]
    means, within = torch.cat([m for m, _ in parts]), torch.stack([s.mean(0) for _, s in parts]).mean(0)
    return means.mean(0), within + torch.cov(means.T)


def static(plan, x0, draws):
    """Draws of a static plan, ``draws n d``."""
    law, generator = plan.conditional(x0), torch.Generator().manual_seed(17)
    roots = torch.linalg.cholesky(law.covariances).float()
    component = torch.multinomial(law.weights, draws, replacement=True, generator=generator).T  # draws n
    noise = torch.randn(draws, *x0.shape, generator=generator)
    for k, root in enumerate(roots):
        noise[component == k] = noise[component == k] @ root.T
    return noise + law.means.float()[torch.arange(len(x0)), component]


def simulated(move, x0, draws):
    """Draws of a process: ``move(x, generator)`` takes starts to ends."""
    generator, rows = torch.Generator().manual_seed(17), x0.float().repeat(draws, 1)
    ends = torch.cat([move(x, generator) for x in rows.split(CHUNK)])
    return ends.reshape(draws, *x0.shape)


def euler(drift, eps, times):
    """Steps of a drift on a grid."""

    def move(x, generator):
        for s, t in pairwise(times):
            noise = torch.randn(x.shape, generator=generator) * ((eps * float(t - s)) ** 0.5)
            x = x + float(t - s) * drift(s, x) + noise
        return x

    return move


def our_bridge(eps, x0, x1, options):
    """A fitted bridge with a mixture start."""
    alternating = AlternatingConfig(rounds=options.rounds, steps=options.steps, paths=options.paths)
    start = MixtureStart(options.components, "full", options.potential_steps)
    bridge = SchrodingerBridge(
        BrownianMotion(sigma=eps**0.5), dim=x0.shape[1], start=start,
        steps=options.grid, network=NetworkConfig(width=options.width, blocks=2), alternating=alternating,
    )  # fmt: skip
    return bridge.fit(x0, x1)


def lightsb(eps, x0, x1, options):
    """The static plan of a mixture with diagonal covariances."""
    return EndPotential(
        BrownianMotion(sigma=eps**0.5), fit_mixture_potential(x1, x0, eps, MixtureStart(options.components), seed=1)
    )


def plan_of(bridge):
    """The static plan of a bridge's mixture start."""
    potentials = bridge.sections[0].forward_half.potentials
    return EndPotential(bridge.reference, potentials.end)


def static_plan(method, exact, eps, rows, bridge, options):
    """What ends are drawn from, given starts."""
    if method == "exact":
        return exact
    return lightsb(eps, *rows, options) if method == "lightsb" else plan_of(bridge)


def mover(method, exact, eps, bridge, rows, options, torchcfm):
    """What moves starts to ends, ``move(x, generator)``."""
    times = cosine_times(options.grid, 1.0)
    if method == "euler":
        return euler(exact.forward_drift, eps, times)
    if method == "start":
        half = bridge.sections[0].forward_half
        return euler(lambda t, x: eps * half.base(t.reshape(1), x), eps, times)
    if method == "bridge":
        return lambda x, generator: bridge.sample(x, generator=generator)
    model = SF2M(
        torchcfm, rows[0].shape[1], eps**0.5, plan=method.removeprefix("sf2m_"),
        network=NetworkConfig(width=options.width, blocks=2), spread=float(rows[1].std()), seed=1,
    )  # fmt: skip
    model.fit([rows], steps=options.sf2m_steps, batch=options.sf2m_batch)
    return lambda x, generator: model.move(x, times, generator=generator)[-1]


def instance_rows(exact, eps, options, torchcfm, wanted):
    """One row of results for every wanted method on one instance."""
    generator, d = torch.Generator().manual_seed(9), exact.start.event_shape[0]
    x0, other = (exact.start.sample(options.rows, generator=generator) for _ in range(2))
    x1 = torch.cat([exact.conditional(x).sample(generator=generator).float() for x in other.split(5000)])
    end, rows, bridge = end_moments(exact), (x0.float(), x1), None
    for method in wanted:
        begin = time.perf_counter()
        bridge = our_bridge(eps, *rows, options) if method in OURS and bridge is None else bridge
        few = {"euler": options.euler_starts}.get(method, options.simulated_starts)
        starts = few if method in SIMULATED else options.starts
        test = exact.start.sample(options.starts, generator=torch.Generator().manual_seed(3))[:starts]
        if method in SIMULATED:
            move = mover(method, exact, eps, bridge, rows, options, torchcfm)
            fit_seconds = time.perf_counter() - begin
            draws = simulated(move, test, options.draws)
        else:
            plan = static_plan(method, exact, eps, rows, bridge, options)
            fit_seconds = time.perf_counter() - begin
            draws = static(plan, test, options.draws)
        found = conditional_bw2_uvp(draws, exact.conditional(test).moments(), end)
        row = {
            "method": method, "dim": d, "eps": eps, "cbw2_uvp": found.value, "stderr": found.stderr,
            "independent": found.independent, "starts": starts, "draws": options.draws,
            "fit_seconds": round(fit_seconds, 1), "seconds": round(time.perf_counter() - begin, 1),
        }  # fmt: skip
        if method == "bridge":
            row["projections"] = bridge.history
        yield row


def parse():
    """Options of the command line."""
    parser = Command(
        __doc__, dimensions=[2], noises=[1.0], methods=["exact", "plan"], rows=1000, starts=20, draws=50,
        potential_steps=20, partial=os.devnull,
    )  # fmt: skip
    parser.add_argument("--peers", help="folder with torchcfm; absent: as installed, or recorded as absent")
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(DIMENSIONS))
    parser.add_argument("--noises", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--partial", default="runs/paper3-mixture.jsonl", help="rows that are already there stay")
    parser.add_argument("--no-record", action="store_true", help="keep the partial rows only")
    for name, value in (
        ("rows", 100_000), ("starts", 1000), ("simulated-starts", 100), ("euler-starts", 25), ("draws", 1000),
        ("components", 20), ("width", 64), ("grid", 40), ("rounds", 1), ("steps", 600), ("paths", 20_000),
        ("sf2m-steps", 1000), ("sf2m-batch", 256), ("potential-steps", 1500),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main():
    """All fits that are not there yet, then the record."""
    options = parse()
    torchcfm, kept = torchcfm_from(options.peers), Rows(options.partial, options)
    for d in options.dimensions:
        for eps in options.noises:
            wanted = [m for m in options.methods if not kept.has(method=m, dim=d, eps=eps)]
            wanted = [m for m in wanted if not m.startswith("sf2m") or torchcfm is not None]
            wanted = [m for m in wanted if m != "sf2m_sinkhorn" or eps >= 1.0]
            if wanted:
                for row in instance_rows(instance(d, eps), eps, options, torchcfm, wanted):
                    kept.add(row)
    if options.no_record or options.quick:
        return
    plot(kept.all)
    path = record(
        "paper3-mixture", kept.all, settings=settings(options, "peers", "partial", "no_record"),
        torchcfm=getattr(torchcfm, "__version__", "absent"),
        published=published("mixture"),
    )  # fmt: skip
    print(f"wrote {path.name}")


def plot(rows):
    """Bars for each dimension and noise level, in percent."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), sharey=True, layout="constrained")
    shown = ("exact", "lightsb", "plan", "bridge", "sf2m_exact", "sf2m_sinkhorn")
    for axis, eps in zip(axes, NOISES, strict=True):
        for i, method in enumerate(shown):
            mine = {r["dim"]: r["cbw2_uvp"] for r in rows if r["method"] == method and r["eps"] == eps}
            places = [k + 0.13 * (i - 2.5) for k, d in enumerate(DIMENSIONS) if d in mine]
            axis.bar(places, [mine[d] for d in DIMENSIONS if d in mine], 0.12, label=method)
        plain = [
            next((r["independent"] for r in rows if r["dim"] == d and r["eps"] == eps), float("nan"))
            for d in DIMENSIONS
        ]
        axis.plot(range(3), plain, "k_", markersize=30, label="independent")
        axis.set(yscale="log", title=f"eps = {eps:g}", xticks=range(3), xticklabels=[f"d = {d}" for d in DIMENSIONS])
    axes[0].set_ylabel("cBW2-UVP, %")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=7)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=75)
    plt.close(figure)


if __name__ == "__main__":
    main()
