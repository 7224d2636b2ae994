"""The page docs/paper2.md and its figures, written from the committed results and by nobody's hand.

python -m benchmarks.paper2.summary            # print
python -m benchmarks.paper2.summary --write    # write docs/paper2.md and docs/figures/paper2-*.png
"""

import argparse
from statistics import mean

from benchmarks._page import FIGURES, ROOT, command, load, script_of, source

PAGE = ROOT / "docs" / "paper2.md"
RULES = {"likelihood": "-log p", "typicality": "typicality", "bands": "bands", "largest_band": "largest band"}

INTRODUCTION = """\
# Paper 2: the density formula and its applications

Li and Yan (2024, arXiv 2408.16765) read the log-density of the data off the scores of all noised marginals. The formula
is exact and not new: Huang, Lim and Courville (2021), Song, Durkan, Murray and Ermon (2021) and Kong, Brekelmans and
Ver Steeg (2023) have it in other clocks. For a learned score it is the bound of the SDE model. Every figure below is
written by `python -m benchmarks.paper2.summary --write` from the file that its line links.
"""


def line(claim, reached, name):
    """One row of the table."""
    return f"| {claim} | {reached} | `{command(script_of(name))}` | [{name}](../benchmarks/results/{name}.json) |"


def formula(found):
    """Errors by quadrature."""
    worst = {d: max(row["quadrature_error"] for row in found["rows"] if row["d"] == d) for d in (1, 2)}
    reached = f"largest error {worst[1]:.1e} nats in d = 1 (asked 1e-8), {worst[2]:.1e} in d = 2 (asked 1e-5)"
    return line("The formula is exact", reached, "paper2-formula")


def coverage(found):
    """Coverage over oracles."""
    d, least = max(row["d"] for row in found["rows"]), min(row["repeats"] for row in found["rows"])
    spread = {"256 evaluations": [row["coverage_95"] for row in found["rows"]]}
    for number in found.get("coverage_95_few", ()):
        spread[number] = [row["coverage_95_few"][number] for row in found["rows"]]
    parts = [f"{100 * min(values):.1f}–{100 * max(values):.1f} % at {name}" for name, values in spread.items()]
    reached = (
        f"{', '.join(parts)} (64 for 256 where d = {d}); {len(found['rows'])} oracles, d up to {d}, "
        f"{least:,} repeats or more each (asked 93–97 %)"
    )
    return line("95 % intervals cover", reached, "oracles")


def bias(found):
    """What discrete sums miss."""
    value = {(row["schedule"].split(",")[0], row["steps"], row["d"]): row for row in found["rows"]}
    parts = [
        f"{name} {value[name, 1000, 1]['bound_weights']:+.3f} and {value[name, 4000, 1]['bound_weights']:+.3f}"
        for name in ("linear", "cosine", "theory")
    ]
    worst = max(abs(row["trapezoid"]) for row in found["rows"] if row["d"] == 1)
    reached = (
        f"nats per dimension at 1000 and 4000 steps: {'; '.join(parts)}; the trapezoid rule on the same evaluations: "
        f"at most {worst:.0e}"
    )
    return line("DDPM's discrete sums are no log p", reached, "paper2-discrete-bias")


def certificate(found):
    """Gap and distortion."""
    parts = [f"{r['schedule']} {r['gap_per_dim']:.3f} and {r['distortion']:.3g}" for r in found["rows"]]
    reached = f"d = 16, gap in nats per dimension and distortion: {'; '.join(parts)}"
    return line("A certificate of DDPM training", reached, "paper2-certificate")


def pretrained(found):
    """Schedulers of diffusers."""
    rows, pairs = found["rows"], found["wrong_pairs"]
    inside = sum(abs(row["density_error"]) <= 3.0 * row["density_stderr"] for row in rows)
    reached = (
        f"{inside} of {len(rows)} schedulers within 3 standard errors of the truth, a row's standard error at most "
        f"{max(row['density_row_stderr'] for row in rows):.3f} nats per dimension (asked 0.02); the same number "
        f"through all of them to {max(row['common_range_difference'] for row in rows):.0e}; the self-test refuses "
        f"{sum(p['refused_with_rows'] for p in pairs)} of {len(pairs)} wrong pairs"
    )
    return line("diffusers models as densities", reached, "paper2-pretrained-diffusers")


def block(title, text, name, arguments, header, rows, figure=None):
    """A section: what was done, a table, where it comes from, and its figure."""
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    picture = [] if figure is None else ["", f"![{figure}](figures/{name}.png)"]
    return ["", f"## {title}", "", text, "", *table, "", source(name, arguments), *picture]


def ratio(entry, name):
    """How many times fewer evaluations than a baseline."""
    found = entry["times_fewer_than"].get(name)
    return "–" if found is None else f"{found:.1f} ×"


def classifier(found):
    """Accuracy, calibration and cost."""
    baselines = ("uniform, window", "standard", "noise-free")
    rows = []
    for entry in found["summary"]:
        if "confidence" not in entry:
            continue
        rows.append(
            [
                f"{entry['method']}, {entry['confidence']}",
                f"{100 * entry['accuracy']:.2f} %",
                f"{entry['calibration_error']:.3f}",
                f"{entry['evaluations']:.1f}",
                *(ratio(entry, name) for name in baselines),
            ]
        )
    alone = picked(found, "screen alone")
    rows.append(["screen alone", f"{100 * alone['accuracy']:.2f} %", "–", "0", "–", "–", "–"])
    header = ["digits, mean of five splits", "accuracy", "calibration error", "evaluations", *BASELINES]
    return block(*CLASSIFIER, "paper2-classifier", "digits", header, rows, "Error and evaluations")


def picked(found, method):
    """The summary of a method that has one."""
    return next(entry for entry in found["summary"] if entry["method"] == method)


def novelty(found):
    """AUROC of rules."""
    rows = [
        [f"{row['data']}: {row['foreign']}", *(f"{row[rule]:.2f}" for rule in RULES), f"{row['log_prob_gap']:+.1f}"]
        for row in found["rows"]
    ]
    header = ["AUROC", *RULES.values(), "log p, own minus foreign"]
    return block(*NOVELTY, "paper2-novelty", "--data DATA", header, rows, "AUROC of novelty scores")


def gan(found):
    """The regulariser's effect."""
    rows, keys = [], ("nll", "confidence", "classes", "precision", "recall", "frechet")
    for variant in dict.fromkeys(row["variant"] for row in found["rows"]):
        mine = [row for row in found["rows"] if row["variant"] == variant]
        rows.append([variant, *(f"{mean(row[key] for row in mine):.2f}" for key in keys)])
    header = ["variant", "-log p", "confidence", "class entropy", "precision", "recall", "Fréchet"]
    return block(*GAN, "paper2-gan", "", header, rows)


def tokens(found):
    """Weightings of the token head."""
    rows = []
    for row in found["rows"]:
        gap, low, high = row["likelihood_minus_uniform_t"]
        values = [f"{row[w]['nats']:.2f} ± {row[w]['stderr']:.2f}" for w in ("likelihood", "uniform-t")]
        truth = "–" if row["truth"] is None else f"{row['truth']:.2f}"
        rows.append([row["data"], *values, f"{gap:+.2f} [{low:+.2f}, {high:+.2f}]", f"{row['gaussian']:.2f}", truth])
    header = ["nats per sequence", "likelihood weights", "uniform t", "difference, 95 %", "Gaussian", "truth"]
    return block(*TOKENS, "paper2-tokens", "--data DATA", header, rows)


LINES = {
    "paper2-formula": formula,
    "oracles": coverage,
    "paper2-discrete-bias": bias,
    "paper2-certificate": certificate,
    "paper2-pretrained-diffusers": pretrained,
}
BLOCKS = {"paper2-classifier": classifier, "paper2-novelty": novelty, "paper2-gan": gan, "paper2-tokens": tokens}

BASELINES = ("fewer than uniform", "than standard", "than noise-free")
CLASSIFIER = (
    "Classification",
    """\
Asked: accuracy 98 %, calibration error 0.03, and five times fewer evaluations than the smallest uniform budget within
0.2 points. All classes see the same levels and noise. *Uniform* gives every class the same antithetic pairs at the
same chosen levels; *standard* is the usual diffusion classifier, unweighted errors at evenly spaced times;
*noise-free* is one evaluation per class at αx, which estimates no likelihood and classifies well. The screen, one
Gaussian per class, needs no evaluation. It proposes two classes or more, so many that the class which the model would
choose is among them with the stated probability (conformal, calibrated on validation rows), and the model decides.
On digits the screen alone is nearly as good as the model; a worse one keeps more classes under the same promise.
Without a screen all classes are evaluated at least once, and two antithetic pairs each are enough on digits: that
bounds what elimination alone saves.""",
)
NOVELTY = (
    "Novelty",
    """\
Raw log p prefers whatever is simpler than the data: near-blank images are likelier than digits. Bands of log-SNR,
z-scored on held-out rows, see what is too simple and what is too complex alike. Where foreign rows are no simpler, as
flipped digits or shuffled columns, raw log p does about as well. Rows of calibration, test and fit are disjoint.""",
)
GAN = (
    "A small GAN with the density regulariser",
    """\
-log p in nats by a second model, fitted to rows that the regulariser's has not seen; class entropy is at best 2.30.
The optimum is p c pʷ / (1 - c pʷ), which is sharper than p. In so short a training the plain GAN stays far from the
digits, and every regulariser brings it nearer; the paired one, which does not sharpen, keeps most of their variety.""",
)
TOKENS = (
    "A density per token",
    """\
A causal transformer with a diffusion head, trained by the likelihood's weights or at uniform times, else alike: the
bound on held-out sequences, with the estimator's error. Both have the same optimum for a network that
can be exact; after as many steps the likelihood's weights are ahead on rows of images, behind on two of three sets of
scalar tokens, and level on the third.""",
)


def page():
    """The text of docs/paper2.md."""
    found = {name: load(name) for name in (*LINES, *BLOCKS)}
    lines = [INTRODUCTION, "| claim | reached | command | data |", "|---|---|---|---|"]
    lines += [make(found[name]) for name, make in LINES.items() if found[name] is not None]
    lines += ["", "![The two integrands of DDPM training](figures/paper2-certificate.png)"]
    for name, make in BLOCKS.items():
        lines += [] if found[name] is None else make(found[name])
    return "\n".join(lines) + "\n"


def draw_certificate(axes, found):
    """Half the squared error per log-SNR, and what the discrete bound makes of it."""
    for axis, name in zip(axes, ("linear", "theory"), strict=True):
        row = next(r for r in found["rows"] if r["schedule"] == name)
        axis.plot(row["log_snr"], row["discrete_density"], label="discrete bound")
        axis.plot(row["log_snr"], row["continuous_density"], label="continuous bound")
        axis.set(title=f"{name}, {row['steps']} steps", xlabel="log-SNR", ylabel="nats per unit of log-SNR")
        axis.set_ylim(0.0, 2.5 * max(row["continuous_density"]))
        axis.legend()


def draw_classifier(axes, found):
    """Error against evaluations per row, both logarithmic."""
    (axis,) = axes
    for name in ("uniform", "standard", "noise-free", "elimination", "screened elimination"):
        entries = sorted((e["evaluations"], 1.0 - e["accuracy"]) for e in found["summary"] if e["method"] == name)
        axis.plot(*zip(*entries, strict=True), marker="o", label=name)
    alone = 1.0 - picked(found, "screen alone")["accuracy"]
    axis.axhline(alone, color="grey", linestyle=":", label="screen alone, no evaluation")
    axis.set(xscale="log", yscale="log", xlabel="network evaluations per row", ylabel="test error, mean of five splits")
    axis.legend()


def draw_novelty(axes, found):
    """Bars of every rule for every kind of foreign rows."""
    (axis,) = axes
    names = [f"{row['data']}: {row['foreign']}" for row in found["rows"]]
    for k, (rule, label) in enumerate(RULES.items()):
        positions = [i + 0.2 * (k - 1.5) for i in range(len(names))]
        axis.barh(positions, [row[rule] for row in found["rows"]], height=0.2, label=label)
    axis.axvline(0.5, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("AUROC")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(RULES))


FIGURE = {
    "paper2-certificate": (draw_certificate, 2, (8.0, 3.0)),
    "paper2-classifier": (draw_classifier, 1, (6.0, 3.6)),
    "paper2-novelty": (draw_novelty, 1, (7.0, 4.2)),
}


def main():
    """Print the page, or write it and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(page())
        return
    PAGE.write_text(page())
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for name, (make, count, size) in FIGURE.items():
        if (found := load(name)) is not None:
            figure, axes = pyplot.subplots(1, count, figsize=size, squeeze=False, layout="constrained")
            make(axes[0], found)
            FIGURES.mkdir(exist_ok=True)
            figure.savefig(FIGURES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
