"""Depth N against the gap, on a trained network: hierarchical VAEs of N Gaussian steps and their limit.

Three samplers of one score model, trained on a planar ring of Gaussians whose density is known: steps with DDPM's
posterior variances, the same with step variances fitted in closed form on training rows, and the steps that take the
model's Gaussian reference exactly (what `sample` does). For each N: the chain's bound with its standard error and its
gap to the continuous bound of the same rows; up to N = 128 the importance-weighted bound with 8 paths too, and the
bracket on the chain's own draws. The measured order is the slope of log2(gap) over the last doubling at whose end the
gap is four standard errors wide.

    OMP_NUM_THREADS=1 python -m benchmarks.paper1.depth
"""

__all__: list[str] = []

import math
from itertools import pairwise

import torch

import girsanov as gv
from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from benchmarks.paper1.family import fit, ring

THOROUGH = 128
FIGURE = FIGURES / "paper1-depth.png"


class Bare(torch.nn.Module):
    """The score without its reference, so that steps are DDPM's."""

    def __init__(self, score):
        super().__init__()
        self.score, self.log_snr_range = score, score.log_snr_range

    def forward(self, t, x, condition=None):
        return self.score(t, x, condition)


def chains(model, steps, rows):
    """Name -> chain with this many steps."""
    pair = model.pair
    bare = gv.ScorePair(Bare(model.score), pair.process, prior=pair.prior, event_shape=rows.shape[1:])
    plain, fitted = (gv.AncestralChain(bare, steps) for _ in range(2))
    fitted.fit_variances(rows)
    return {
        "posterior variances": plain,
        "fitted variances": fitted,
        "exact reference": gv.AncestralChain(pair, steps),
    }


def measure(chain, held, shift, limit, paths, thorough):
    """Bounds of one chain on held-out rows and on its own draws."""
    bound = gv.chain_elbo(chain, held, paths=paths).mean()
    found = {
        "bound": bound.value + shift,
        "stderr": bound.stderr,
        "gap_to_continuous": limit.value - bound.value - shift,
        "gap_stderr": math.hypot(bound.stderr, limit.stderr),
    }
    if not thorough:
        return found
    width = gv.chain_bracket(chain, 2 * len(held), paths=4).width
    tight = gv.importance_bound(chain, held, paths=8, groups=2).mean()
    return found | {
        "importance_bound": tight.value + shift,
        "bracket_width": width.value,
        "bracket_stderr": width.stderr,
    }


def order(rows):
    """Slope of log2(gap) over the last doubling that the errors leave readable, and where it ends."""
    for first, second in reversed(list(pairwise(rows))):
        if second["gap_to_continuous"] > 4.0 * second["gap_stderr"]:
            slope = math.log2(first["gap_to_continuous"] / second["gap_to_continuous"])
            return {"order": slope, "at": second["steps"]}
    return None


def draw(rows, limit):
    """Gap against depth, with lines of first order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(6.0, 3.8), constrained_layout=True)
    for name in dict.fromkeys(row["chain"] for row in rows):
        mine = [row for row in rows if row["chain"] == name and row["gap_to_continuous"] > 2.0 * row["gap_stderr"]]
        if not mine:
            continue
        depth, gap = [row["steps"] for row in mine], [row["gap_to_continuous"] for row in mine]
        lines = panel.errorbar(depth, gap, [2.0 * row["gap_stderr"] for row in mine], fmt="o-", ms=4, label=name)
        anchor = gap[-1] * depth[-1]
        panel.plot(depth, [anchor / n for n in depth], ":", c=lines[0].get_color())
    panel.set(xscale="log", yscale="log", xlabel="steps N", ylabel="gap to the continuous bound, nats")
    panel.set_title(f"continuous bound {limit:.3f} nats per row; dotted: order 1", fontsize=10)
    panel.set_xscale("log", base=2)
    panel.legend(fontsize=8)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=80)


def main():
    """Fit, bound at every depth, draw, record."""
    parser = Command(__doc__, trained=20, depths=[4, 8], held=8, paths=2)
    parser.add_argument("--trained", type=int, default=1500, help="training steps")
    parser.add_argument("--depths", type=int, nargs="*", default=[4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--held", type=int, default=64)
    parser.add_argument("--paths", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, law = ring(12_000)
    model = fit(x[:10_000], options.trained)
    held = x[10_000:][: options.held]
    y, log_det = model.encoding.transforms(held)
    train = model.encoding.transforms(x[:2000])[0].float()
    limit = model.elbo(held, samples=1024).mean()
    rows = []
    for steps in options.depths:
        for name, chain in chains(model, steps, train).items():
            found = measure(chain, y.float(), float(log_det.mean()), limit, options.paths, steps <= THOROUGH)
            rows.append({"chain": name, "steps": steps, **found})
            print(rows[-1], flush=True)
    names = dict.fromkeys(row["chain"] for row in rows)
    orders = {name: order([row for row in rows if row["chain"] == name]) for name in names}
    truth = float(law.log_prob(held).mean())
    facts = {"continuous": limit.value, "continuous_stderr": limit.stderr, "truth": truth, "orders": orders}
    if not options.quick:
        record("paper1-depth", rows, **settings(options), **facts)
        draw(rows, limit.value)


if __name__ == "__main__":
    main()
