"""The figures of docs/paper1.md, written from the committed results and by nobody's hand.

python -m benchmarks.paper1.summary            # print
python -m benchmarks.paper1.summary --write    # put between the page's markers
"""

__all__ = ["PAGE"]

import statistics

from benchmarks._page import ROOT, Page, source


def caption(*sentences):
    """Emphasised sentences."""
    return f"*{' '.join(sentences)}*"


def family(found):
    """Trajectories, and the bound against lambda."""
    sets, rows = found["sets"], found["rows"]
    ring, poor = sets["ring"], sets["ring, hardly trained"]
    last = {row["data"]: row for row in rows if row["lambda"] == max(r["lambda"] for r in rows)}
    own, wrong = last["ring, hardly trained"], last["ring"]
    spread = [row["fine_bound"] for row in rows if row["data"] == "ring, hardly trained"]
    return [
        "## The λ-family on trained networks",
        "",
        "![Paths](figures/paper1-paths.png)",
        "",
        caption(
            "Paths of the reverse SDE and of the ODE of one network each, from log-SNR -1 (circles) to the data (dots)."
        ),
        "",
        "![The bound against λ](figures/paper1-family.png)",
        "",
        caption(
            "Held-out nats. Every dot is a true bound of its sampler, by simulating the inference process with the",
            f"model's own score. On the ring (density of the data {ring['truth']:.2f}) the bound without steps is",
            f"{ring['elbo']:.3f} ± {ring['elbo_stderr']:.3f}, the ODE's own likelihood {ring['ode']:.2f};",
            f"at λ = {wrong['lambda']:g} the bound is {wrong['fine_bound']:.2f}, where the factor alone would say",
            f"{wrong['by_formula']:.2f}. For a network that was hardly trained ({poor['steps_trained']} steps)",
            f"it stays within [{min(spread):.2f}, {max(spread):.2f}] for every λ, beside the ODE's {poor['ode']:.2f};",
            f"the factor alone would say {own['by_formula']:.2f}.",
        ),
        "",
        source("paper1-family"),
    ]


def depth(found):
    """Depth against the gap."""
    orders = "; ".join(
        f"{name} {order['order']:.2f} (at N = {order['at']})" for name, order in found["orders"].items() if order
    )
    mine = [row for row in found["rows"] if row["chain"] == "exact reference" and "bracket_width" in row][-1]
    few = {row["chain"]: row["gap_to_continuous"] for row in found["rows"] if row["steps"] == 16}
    return [
        "",
        "## Hierarchical VAEs of N steps",
        "",
        "![Depth and gap](figures/paper1-depth.png)",
        "",
        caption(
            "Gap between the bound of the N-step sampler, a true bound at every N, and the continuous one.",
            f"Measured order of convergence: {orders}.",
            f"At 16 steps DDPM's variances lose {few['posterior variances']:.0f} nats, fitted ones",
            f"{few['fitted variances']:.2f}, and the sampler of this library {few['exact reference']:.2f}.",
            f"On its own draws at N = {mine['steps']} the two-sided certificate is",
            f"{mine['bracket_width']:.3f} ± {mine['bracket_stderr']:.3f} nats wide.",
        ),
        "",
        source("paper1-depth"),
    ]


def mnist(found):
    """Time sampling on small MNIST."""
    rows = [row for row in found["rows"] if row["trained_by"] == "debiased" and row["step"] > 0]
    ratios = [row["uniform: gradient variance"] / row["debiased: gradient variance"] for row in rows]
    bits = "; ".join(
        f"{law} {end['bits_per_dim']:.3f} (± {end['stderr']:.3f} estimator, ± {end['rows_stderr']:.3f} rows)"
        for law, end in found["final"].items()
    )
    last = rows[-1]
    return [
        "",
        "## Debiased times",
        "",
        "![Time sampling](figures/paper1-mnist.png)",
        "",
        caption(
            "MNIST averaged to 14 × 14 pixels of 256 whole levels, uniform dequantisation: bits per dimension of that",
            f"variable, not of MNIST. The same network and {found['steps']} steps; held-out bits/dim: {bits}.",
            f"The gradient of the bound has {min(ratios):.0f} to {max(ratios):.0f} times (median",
            f"{statistics.median(ratios):.0f}) the variance under uniform times. One draw per image, as the paper",
            f"evaluates, leaves a standard error of {last['uniform: one draw stderr']:.2f} (uniform) and",
            f"{last['debiased: one draw stderr']:.2f} (debiased) on {found['held']} images; the library's 16",
            f"evaluations leave {last['stderr']:.3f}.",
        ),
        "",
        source("paper1-mnist", "FOLDER"),
    ]


PAGE = Page(
    ROOT / "docs" / "paper1.md",
    {"paper1-family": family, "paper1-depth": depth, "paper1-mnist": mnist},
)

if __name__ == "__main__":
    PAGE.main(__doc__)
