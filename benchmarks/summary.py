"""The README's figures, written from the committed results and by nobody's hand.

python -m benchmarks.summary            # print
python -m benchmarks.summary --write    # put between the README's markers
"""

from statistics import mean

from benchmarks._page import ROOT, Page, load


def counted(number, noun):
    """A number with its noun."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def digits(document):
    """Mean over splits of the digits benchmark."""
    rows = document["rows"]
    peers = ("spline_flow", "mixture", "gaussian")
    cells = " | ".join(f"{mean(row[peer]['bits_per_dim'] for row in rows):.3f}" for peer in peers)
    return [
        f"**Digits** (8 × 8, 17 levels; held-out bits per dimension, mean of {len(rows)} splits, lower is better; "
        f"[data](benchmarks/results/digits.json)):",
        "",
        "| ours, bound | spline flow | mixture | Gaussian |",
        "|---|---|---|---|",
        f"| **{mean(row['bits_per_dim'] for row in rows):.3f}** | {cells} |",
        "",
        f"Standard errors per split: estimator {mean(row['stderr_estimator'] for row in rows):.3f}, rows "
        f"{mean(row['stderr_rows'] for row in rows):.3f}. A fit took "
        f"{mean(row['fit_seconds'] for row in rows):.0f} s on {counted(document['machine']['threads'], 'thread')}.",
    ]


def images(mnist):
    """One line per whole command on images."""
    rows = [(f"MNIST, 28 × 28, {row['minutes']:g} min", row) for row in mnist["rows"]]
    demo = load("images-digits")
    rows += [("digits, 8 × 8, the demo", row) for row in (demo["rows"] if demo else [])]
    found = load("images-photographs")
    others = {row["what"]: row for row in found["rows"]} if found else {}
    named = {"photographs": "photographs, 3 × 32 × 32", "crops": "200 crops of them, 3 × 16 × 16"}
    named |= {"pictures": "other pictures, 3 × 32 × 32"}
    rows += [
        (f"{words}, {others[what]['minutes']:g} min", others[what]) for what, words in named.items() if what in others
    ]
    lines = [
        "",
        "**Images** (the whole command `girsanov fit` on held-out images, of 256 levels and digits of 17, bits per "
        "dimension, lower is better, ± both standard errors, of the estimator and over rows; a training step "
        "beside the network's own work in it; [data](benchmarks/results/images-mnist.json)):",
        "",
        "| images, time given | seconds | rows | ours, bound | best peer | PNG | WebP | step / network | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for words, row in rows:
        ours = f"**{row['bits_per_dim']:.3f}** ± {row['stderr_estimator']:.3f} ± {row['stderr_rows']:.3f}"
        best = min(row["peers"], key=lambda name, row=row: row["peers"][name]["bits_per_dim"], default=None)
        peer = "-" if best is None else f"{row['peers'][best]['bits_per_dim']:.3f} ({best.replace('_', ' ')})"
        codecs = (row["codecs"].get(name) for name in ("png", "webp"))
        cells = " | ".join("-" if found is None else f"{found['bits_per_dim']:.3f}" for found in codecs)
        rest = f"{cells} | {row['step_over_network']:.2f} | {row['peak_memory_mib']:,} MiB"
        lines.append(f"| {words} | {row['seconds']:,.0f} | {row['rows']:,} | {ours} | {peer} | {rest} |")
    mixture = others.get("mixture of patches")
    if mixture is not None:
        lines += [
            "",
            f"A mixture of {mixture['components']} Gaussians of 8 × 8 patches has {mixture['bits_per_dim']:.3f} ± "
            f"{mixture['stderr_estimator']:.3f} ± {mixture['stderr_rows']:.3f} on the photographs "
            "([data](benchmarks/results/images-photographs.json)).",
        ]
    return [*lines, *drawn(), *schedules()]


def drawn():
    """Precision and recall of samples, and how many are of the class that was asked for."""
    document = load("images-samples")
    if document is None:
        return []
    found = []
    for row in document["rows"]:
        real, classes = row["real"], row.get("of_the_asked_class_mean")
        asked = "" if classes is None else f", {100 * classes:.0f} % of the class that was asked for"
        found.append(
            f"{row['what']} {row['precision']:.2f} and {row['recall']:.2f} (real images in their place "
            f"{real['precision']:.2f} and {real['recall']:.2f}){asked}"
        )
    return [
        "",
        "Samples, precision and recall in a classifier's features ([data](benchmarks/results/images-samples.json)): "
        f"{'; '.join(found)}.",
    ]


def schedules():
    """Whether a learned schedule pays."""
    document = load("images-schedule")
    if document is None:
        return []
    rows = {row["what"]: row for row in document["rows"]}
    text = ", ".join(
        f"{name} {row['bits_per_dim']:.3f} ± {row['stderr_estimator']:.3f}"
        for name, row in (("as it is", rows["vp"]), ("learned", rows["learned"]))
    )
    return [
        "",
        f"The noise schedule on MNIST in {rows['vp']['budget_seconds'] / 60:g} minutes, same images: {text} "
        "([data](benchmarks/results/images-schedule.json)).",
    ]


def tables(small):
    """One line per table."""
    large = load("uci-large")
    rows = [row for found in (large, small) if found is not None for row in found["rows"]]
    names = list(dict.fromkeys(row["table"] for row in rows))
    lines = [
        "",
        "**Tables** (UCI; held-out nats per row in data units, mean over splits, higher is better; the same seconds "
        "for us and for the spline flow; [data](benchmarks/results)). The last column counts splits whose paired 95 % "
        "interval against the best peer is not wholly below 0.",
        "",
        "| table | splits | ours, bound | where ours started | spline flow | mixture | Gaussian | not worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = [row for row in rows if row["table"] == name]
        best = [max(row["peers"], key=lambda peer, row=row: row["peers"][peer]["nats"]) for row in mine]
        fine = sum(row["differences"][peer]["interval"][1] >= 0 for row, peer in zip(mine, best, strict=True))
        peers = " | ".join(
            f"{mean(row['peers'][peer]['nats'] for row in mine):.2f}" for peer in ("spline_flow", "mixture", "gaussian")
        )
        start = mean(max(row["ours"]["starting_points"].values()) for row in mine)
        ours = mean(row["ours"]["nats"] for row in mine)
        lines.append(f"| {name} | {len(mine)} | **{ours:.2f}** | {start:.2f} | {peers} | {fine}/{len(mine)} |")
    lines += [
        "",
        "*Where ours started* is the spline flow in Gaussianised columns, with a mixture on top where it pays, on "
        "validation rows, before the diffusion was trained: on most tables the gain is there.",
    ]
    return lines


def efficiency(document):
    """Ratios of variance times evaluations."""
    rows = document["rows"]
    ratios = {row["estimator"]: row["ratio_to_ours"]["median"] for row in rows if "ratio_to_ours" in row}
    text = "; ".join(f"{name}: {ratio:,.0f}×" for name, ratio in ratios.items())
    return [
        "",
        "**Estimator** (variance × network evaluations of the bound on a trained digits model, median over test rows, "
        f"relative to ours; [data](benchmarks/results/efficiency.json)): {text}.",
    ]


#: what other records of coverage are of -> their names
COVERAGE = {"trained": "trained", "d = 64": "many", "other oracles": "oracles", "before": "before"}


def coverage(document):
    """Shares of intervals that hold the truth, of exact and of trained scores."""
    more = {name: f"coverage-{stem}" for name, stem in COVERAGE.items()}
    found = {words: load(name) for words, name in more.items()}
    shown = [found[words] for words in COVERAGE if words != "before"]
    cells = [row for known in (document, *shown) if known is not None for row in known["rows"]]
    links = "".join(
        f", [{words}](benchmarks/results/{name}.json)" for words, name in more.items() if found[words] is not None
    )
    lines = [
        "",
        "**Coverage** of 95 % intervals at 16, 32 and 64 evaluations, default settings, mean over rows (worst cell of "
        "`density`, `elbo` and `difference`, with and without reference; "
        f"[data](benchmarks/results/coverage.json){links}):",
        "",
        "| law | score | 16 | 32 | 64 | worst row of all |",
        "|---|---|---|---|---|---|",
    ]
    for law, score in dict.fromkeys((cell["law"], cell["score"]) for cell in cells):
        mine = [cell for cell in cells if (cell["law"], cell["score"]) == (law, score)]
        shares = " | ".join(
            f"{100 * min(cell['mean_over_rows'] for cell in mine if cell['samples'] == samples):.1f} %"
            for samples in (16, 32, 64)
        )
        worst = min(cell["worst_row"] for cell in mine)
        lines.append(f"| {law} | {score} | {shares} | {100 * worst:.1f} % |")
    return lines


def tuning(document):
    """Gains over one uniform time and one probe."""
    parts = []
    for row in document["rows"]:
        if row.get("samples") == 32:
            parts.append(f"{row['law']}, {row['estimator']}: {row['mean_gain']:,.0f}×")
    return [
        "",
        "**An exact score, nothing else given** (variance × evaluations of a bound at 32 evaluations, gain over one "
        f"uniform time with one probe; [data](benchmarks/results/tune.json)): {'; '.join(parts)}.",
    ]


def overheads(document):
    """Ratios to what one would write by hand."""
    rows = document["rows"]
    parts = [f"{row['what']}: {row['ratio']['median']:.2f}×" for row in rows if "ratio" in row]
    parts += [f"{row['what']}: {row['value']:.2f}" for row in rows if "value" in row]
    return ["", f"**Overheads** ([data](benchmarks/results/overheads.json)): {'; '.join(parts)}."]


def bridges(document):
    """The entropic plan in the most dimensions, and a held-out day of cells."""
    d = max(row["dim"] for row in document["rows"])
    parts = []
    for eps in sorted({row["eps"] for row in document["rows"]}):
        found = {row["method"]: row["cbw2_uvp"] for row in document["rows"] if (row["dim"], row["eps"]) == (d, eps)}
        names = {
            "bridge": "ours (full covariances)",
            "lightsb": "LightSB's family",
            "sf2m_exact": "[SF]²M",
            "exact": "exact draws",
        }
        values = ", ".join(f"{words} {found[name]:.2g}" for name, words in names.items())
        parts.append(f"ε = {eps:g}: {values}")
    lines = [
        "",
        f"**Bridges** (normal to mixture, d = {d}, the exact entropic plan known; cBW²-UVP in percent, 0 is exact; "
        f"[data](benchmarks/results/paper3-mixture.json)): {'; '.join(parts)}.",
    ]
    cells = load("paper3-cite")
    if cells is not None:
        found = {(row["name"], row["held"]): row for row in cells["rows"] if row["kind"] == "summary"}
        names = {"bridge, chosen": "ours", "sf2m, chosen": "[SF]²M", "unmoved": "cells unmoved"}
        days = []
        for held in sorted({held for _, held in found}):
            values = ", ".join(f"{words} {found[name, held]['w1']:.1f}" for name, words in names.items())
            days.append(f"day {held}: {values}")
        lines[-1] += (
            " A day of CITE-seq that was left out (W1 in 50 components, each cell at the mean of its paths or moved by "
            "the flow, chosen by holding out another day; "
            f"[data](benchmarks/results/paper3-cite.json)): {'; '.join(days)}."
        )
    images = load("paper3-images-mnist")
    if images is not None:
        way = next(r for r in images["rows"] if r["network"] != "none" and r["direction"] == "forward")
        moved, true = (way[f"share_in_target_{which}neighbours"] for which in ("", "true_"))
        lines += [
            "",
            f"Even digits of MNIST moved to odd ones, learned without pairs: {100 * moved:.0f} % are odd to a "
            f"classifier that says so of {100 * true:.0f} % of true odd ones "
            "([data](benchmarks/results/paper3-images-mnist.json)).",
            "",
            "![Images of digits and where a bridge moves them](docs/figures/paper3-mnist.png)",
        ]
    return lines


PAGE = Page(
    ROOT / "README.md",
    {
        "digits": digits,
        "images-mnist": images,
        "uci-small": tables,
        "paper3-mixture": bridges,
        "efficiency": efficiency,
        "coverage": coverage,
        "tune": tuning,
        "overheads": overheads,
    },
)

if __name__ == "__main__":
    PAGE.main(__doc__)
