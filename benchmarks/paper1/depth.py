"""Paper 1: depth N against the gap, on a trained network: hierarchical VAEs of N Gaussian steps and their limit.

Three samplers of one score model, trained on a planar ring of Gaussians whose density is known: steps
with DDPM's posterior variances, the same with step variances fitted in closed form on training rows, and the steps that
take the model's Gaussian reference exactly (what `sample` does). For each N: the chain's bound with its standard error,
its gap to the continuous bound, the importance-weighted bound with 16 paths, and the bracket on the chain's own
draws. The measured order is the slope of log2(gap) over the last doubling.

    OMP_NUM_THREADS=1 python benchmarks/paper1/depth.py
"""

__all__: list[str] = []

import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _record import record
from family import ring

import girsanov as gv

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "paper1-depth.png"


class Bare(torch.nn.Module):
    """The score without its reference, so that steps are DDPM's."""

    def __init__(self, score):
        super().__init__()
        self.score, self.log_snr_range = score, score.log_snr_range

    def forward(self, t, x, condition=None):
        return self.score(t, x, condition)


def chains(model, steps, rows):
    """Name -> chain with this many steps."""
    score, process = model.score, model.score.process
    shape = rows.shape[1:]
    plain = gv.AncestralChain(Bare(score), process, steps, prior=model.prior, event_shape=shape)
    fitted = gv.AncestralChain(Bare(score), process, steps, prior=model.prior, event_shape=shape)
    fitted.fit_variances(rows)
    return {
        "posterior variances": plain,
        "fitted variances": fitted,
        "exact reference": gv.AncestralChain(score, process, steps, prior=model.prior),
    }


def measure(chain, held, shift, limit, paths):
    """Bounds of one chain on held-out rows and on its own draws."""
    bound = gv.chain_elbo(chain, held, paths=paths).mean()
    tight = gv.importance_bound(chain, held, paths=16, groups=2).mean()
    bracket = gv.chain_bracket(chain, len(held), paths=paths)
    width = bracket.width
    return {
        "bound": bound.value + shift,
        "stderr": bound.stderr,
        "gap_to_continuous": limit - bound.value - shift,
        "importance_bound": tight.value + shift,
        "bracket_width": width.value,
        "bracket_stderr": width.stderr,
    }


def draw(rows, limit):
    """Gap against depth, with the first-order line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(5.4, 3.6), constrained_layout=True)
    for name in dict.fromkeys(row["chain"] for row in rows):
        mine = [row for row in rows if row["chain"] == name]
        depth, gap = [row["steps"] for row in mine], [max(row["gap_to_continuous"], 1e-4) for row in mine]
        panel.loglog(depth, gap, "o-", label=name)
    first = [row for row in rows if row["chain"] == "posterior variances"]
    anchor = first[-1]["gap_to_continuous"] * first[-1]["steps"]
    panel.loglog([row["steps"] for row in first], [anchor / row["steps"] for row in first], "k:", label="order 1")
    panel.set(xlabel="steps N", ylabel="gap to the continuous bound, nats", title=f"continuous bound {limit:.3f} nats")
    panel.legend(fontsize=8)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=80)


def main():
    """Fit, bound at every depth, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--depths", type=int, nargs="*", default=[4, 8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--held", type=int, default=256)
    parser.add_argument("--paths", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, law = ring(12_000)
    config = gv.Config(network="mlp", width=96, blocks=3, gaussianise=False, time_budget=options.seconds, steps=20_000)
    model = gv.fit(x[:10_000], config=config)
    held = x[10_000:][: options.held]
    y, log_det = model.transforms(held)
    train = model.transforms(x[:2000])[0].float()
    limit = model.elbo(held, samples=1024).mean()
    rows = []
    for steps in options.depths:
        for name, chain in chains(model, steps, train).items():
            found = measure(chain, y.float(), float(log_det.mean()), limit.value, options.paths)
            rows.append({"chain": name, "steps": steps, **found})
            print(rows[-1], flush=True)
    orders = {}
    for name in dict.fromkeys(row["chain"] for row in rows):
        gaps = [row["gap_to_continuous"] for row in rows if row["chain"] == name][-2:]
        orders[name] = math.log2(gaps[0] / gaps[1]) if min(gaps) > 0 else None
    truth = float(law.log_prob(held).mean())
    facts = {"continuous": limit.value, "continuous_stderr": limit.stderr, "truth": truth, "last_order": orders}
    record("paper1-depth", rows, **vars(options), **facts)
    draw(rows, limit.value)


if __name__ == "__main__":
    main()
