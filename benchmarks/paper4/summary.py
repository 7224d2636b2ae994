"""The figures of docs/paper4.md, numbers and pictures, from the committed results and by nobody's hand.

python -m benchmarks.paper4.summary            # print the numbers
python -m benchmarks.paper4.summary --write    # put them between the page's markers, and draw
"""

__all__ = ["PAGE"]


from benchmarks._page import FIGURES, ROOT, Page, source, table

#: identity -> the error that it must stay below
GOALS = {"closed form is the definition": 1e-12, "change of the loss": 1e-5, "change of the fisher divergence": 1e-5,
         "entropy rate": 1e-8, "integral of the entropy rate": 1e-8}  # fmt: skip
FLOW_GOAL = 1e-10


def percent(row):
    """A rate with its error."""
    return f"{100 * row['rate']:.1f} ± {100 * row['stderr']:.1f} %"


def identities(found):
    """The largest error of each identity."""
    worst = {}
    for row in found["rows"]:
        if row["error"] >= worst.get(row["identity"], (-1.0, 0))[0]:
            worst[row["identity"]] = (row["error"], f"{row['flow']}, d = {row['d']}")
    rows = [(name, f"{error:.1e}", f"{GOALS.get(name, FLOW_GOAL):.0e}") for name, (error, _) in worst.items()]
    return [
        "## Identities",
        "",
        "Largest errors over five kernels and five kinds of matrix (closed form), and over affine, spline, continuous,",
        "elementwise and composed flows in d = 1, 2, 5.",
        "",
        *table(("identity", "error", "goal"), rows),
        "",
        source("paper4-identities"),
    ]


def efficiency(found):
    """Efficiencies and errors on Student-t rows."""
    asymptotic = [row for row in found["rows"] if row["part"] == "asymptotic"]
    freedoms = sorted({row["freedom"] for row in asymptotic})
    by_matrix = {}
    for row in asymptotic:
        pair = "/".join(
            "0" if note == 0.0 else f"{row[key]:.2f}"
            for key, note in zip(("location", "scale"), row["note"], strict=True)
        )
        by_matrix.setdefault(row["matrix"], {})[row["freedom"]] = pair
    header = ("m", *(f"ν = {freedom}" for freedom in freedoms))
    rows = [(name, *(cells[freedom] for freedom in freedoms)) for name, cells in by_matrix.items()]
    errors = []
    for row in found["rows"]:
        if row["part"] == "samples" and (row["note"] is not None or row["estimator"] == "flow"):
            note = "–" if row["note"] is None else "/".join(f"{value:.2f}" for value in row["note"])
            pair = "/".join(f"{a:.2f} ± {b:.2f}" for a, b in zip(row["rmse"], row["monte_carlo_error"], strict=True))
            errors.append((f"ν = {row['freedom']}, {row['estimator']}", pair, note))
    return [
        "",
        "## Efficiency on heavy tails",
        "",
        "Location/scale of a Student-t by score matching with m, relative to maximum likelihood, by quadrature, beside",
        f"the table of our note within {found['largest_gap']:.3f} (0: infinite variance). The flow Gaussianises.",
        "",
        *table(header, rows),
        "",
        "Root mean square errors over 300 samples of 300 rows, the flow fitted to each; note: an independent run's.",
        "",
        *table(("estimator", "location/scale", "note"), errors),
        "",
        source("paper4-efficiency"),
    ]


def robustness(found):
    """Outliers."""
    rows = [
        (row["matrix"], row["outliers"], f"{row['rmse']:.3f} ± {row['monte_carlo_error']:.3f}",
         "–" if row["note"] is None else f"{row['note']:.3f}", f"{100 * row['coverage_95']:.1f} %")
        for row in found["rows"]
    ]  # fmt: skip
    return [
        "",
        "## Outliers",
        "",
        "Error of a normal mean, 500 rows, none or 50 of them at 12 standard deviations; m = (1 + z²)^a. A flow that",
        "Gaussianises follows outliers: it is the choice for clean heavy tails alone.",
        "",
        *table(("m", "outliers", "error", "note", "95 % intervals cover"), rows),
        "",
        source("paper4-robustness"),
    ]


def heavy_tails(found):
    """Tests of a Student-t model."""
    by_sample = {}
    tests = list(dict.fromkeys(row["test"] for row in found["rows"]))
    for row in found["rows"]:
        note = "" if row["note"] is None else f" ({row['note']:.3f})"
        by_sample.setdefault(row["sample"], {})[row["test"]] = f"{row['rate']:.3f}{note}"
    rows = [(sample, *(cells[test] for test in tests)) for sample, cells in by_sample.items()]
    return [
        "",
        "## Tests of a heavy-tailed model",
        "",
        "Rejection rates of Student-t(3) at 5 %, 400 rows, by diffusion matrix or flow (in parentheses our note's;",
        "both have errors up to 0.035).",
        "",
        *table(("sample", *tests), rows),
        "",
        source("paper4-heavy-tails"),
    ]


def refused(row):
    """How many chains were, in words."""
    return f" ({100 * row['refused']:.0f} % refused)" if row["refused"] else ""


def level(found):
    """False alarms."""
    pooled = [(test, percent(row), f"{row['repeats']:,}") for test, row in found["pooled"].items()]
    single = [row for row in found["rows"] if row["rows"] == "independent"]
    low, high = min(single, key=lambda row: row["rate"]), max(single, key=lambda row: row["rate"])
    chains = [
        (f"chain ρ = {row['rho']}, n = {row['n']:,}, {row['signs']}{refused(row)}", percent(row), f"{row['repeats']:,}")
        for row in found["rows"] if row["rows"] == "chain" and row["rho"] > 0.5 and "flip" not in row["signs"]
    ]  # fmt: skip
    return [
        "",
        "## Level",
        "",
        "False alarms at 5 % on 200 independent rows, pooled over four models, and on autoregressive chains. Models",
        f"alone are between {100 * low['rate']:.1f} % ({low['test']}; {low['model']}) and {100 * high['rate']:.1f} % "
        f"({high['test']}; {high['model']}):",
        "few rows and heavy-tailed Stein kernels make the wild bootstrap cautious. Chains worth too little for blocks",
        "are refused. Goals: 5 ± 1.5 %, of chains at most 7 %.",
        "",
        *table(("test", "false alarms", "nulls"), pooled + chains),
        "",
        source("paper4-level"),
    ]


def power(found):
    """Published rows of aggregated tests."""
    gaps = {}
    for row in found["rows"]:
        if row.get("published") is not None:
            gaps.setdefault((row["problem"], row["test"]), []).append(row["rate"] - row["published"])
    rows = [(*key, f"{min(found):+.3f}", f"{max(found):+.3f}") for key, found in gaps.items()]
    return [
        "",
        "## Power beside published tests",
        "",
        "![Power](figures/paper4-power.png)",
        "",
        "*Lines are ours with two standard errors, crosses the published rates; the same number of rows. Goals: the",
        "aggregated row of Gamma within 0.04, the rows of the RBM within 0.08.*",
        "",
        *table(("problem", "test", "ours less published, from", "to"), rows),
        "",
        *instances(found),
        source("paper4-aggregation"),
    ]


def instances(found):
    """How far the power on the RBM depends on the perturbation that was drawn."""
    singles = {}
    for row in found["rows"]:
        if "perturbation" in row:
            singles.setdefault(row["test"], []).append(row)
    if not singles:
        return []
    rows = []
    for test, mine in singles.items():
        sigma, rates = mine[0]["parameter"], sorted(row["rate"] for row in mine)
        same = next(r for r in found["rows"] if (r["problem"], r["test"], r["parameter"]) == ("rbm", test, sigma))
        rows.append((test, *(f"{rate:.2f}" for rate in rates), f"{same['rate']:.2f}", same["published"] or "–"))
    count, samples = len(rates), mine[0]["repeats"]
    words = (
        f"The rows of the RBM at σ = {sigma} depend on the perturbation: the power for each of {count} fixed ones, by "
        f"{samples} samples each, beside the mean over fresh ones and the published rate, of which it is not said how "
        "many perturbations it is a mean of."
    )
    header = ("test", *("one",) * count, "fresh", "published")
    return [words, "", *table(header, rows), ""]


def speed(found):
    """Ratios, memory, a million rows."""
    rows = {(row["what"], row["code"], row["n"]): row for row in found["rows"]}
    memory = next(row for row in found["rows"] if row["what"] == "memory")
    lines = [(name, f"{ratio:.1f} × quicker") for name, ratio in found["ratios"].items()]
    ours = rows["bootstrap", "girsanov", 10_000]
    lines.append(("statistic and 500 multipliers, n = 10,000", f"{ours['seconds']:.2f} s"))
    lines.append((f"statistic, n = {memory['n']:,}", f"{memory['seconds']:.0f} s, {memory['added_megabytes']:.0f} MB "
                  f"beside the {memory['process_megabytes']:.0f} of the process"))  # fmt: skip
    lines += [
        (f"linear time, n = {row['n']:,} ({row['code'].removeprefix('girsanov, ')})", f"{row['seconds']:.1f} s")
        for row in found["rows"] if row["what"] == "linear time"
    ]  # fmt: skip
    return [
        "",
        "## Speed",
        "",
        f"On {found['machine']['threads']} threads, d = 10, beside coreax and dense code in kgof's manner. Goals: 3",
        "and 10 times quicker, 10⁵ rows in 1 GB, 10⁶ rows in a minute.",
        "",
        *table(("what", "measured"), lines),
        "",
        source("paper4-speed"),
    ]


def diagnosis(found):
    """What tests of digits models find."""
    rows = found["rows"]
    ring = [row for row in rows if row["problem"] == "ring"]
    scores = list(dict.fromkeys(row["score"] for row in ring))
    places = sorted({(row["n"], row["t"]) for row in ring})
    rates = {(row["score"], row["n"], row["t"]): row["rate"] for row in ring}
    table_rows = [(score, *(f"{rates[score, *place]:.2f}" for place in places)) for score in scores]
    verdicts = []
    for row in rows:
        if row["problem"].startswith("digits, ") and "statement" in row and row["log_snr"] == 0.0:
            nats = f"{row['held_out_nats']:.1f} ± {row['nats_stderr']:.1f}"
            verdicts.append((row["model"], nats, row["problem"].removeprefix("digits, "), row["statement"]))
    closer = [row for row in rows if row["problem"] == "digits, comparison"]
    ahead = ", ".join(f"{row['difference'] / row['stderr']:.1f}" for row in closer)
    return [
        "",
        "## Diagnosis",
        "",
        "Rejection rates on a ring of eight modes:",
        "",
        *table(("score", *(f"n = {n}, t = {t}" for n, t in places)), table_rows),
        "",
        "Three digits models on 500 held-out images:",
        "",
        "![Diagnosis](figures/paper4-diagnosis.png)",
        "",
        *table(("model", "held-out nats", "rows", "what the test says"), verdicts),
        "",
        "Few steps against many, difference of discrepancies in standard errors by level: " + ahead + ".",
        "",
        source("paper4-diagnosis"),
    ]


LABELS = {"gamma": "shift of the shape", "rbm": "standard deviation of the couplings' error"}


def draw_power(found):
    """Rejection rates, ours and published."""
    import matplotlib.pyplot as plt

    rows = found["rows"]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), constrained_layout=True, sharey=True)
    for panel, (problem, label) in zip(axes, LABELS.items(), strict=True):
        mine = [row for row in rows if row["problem"] == problem and row["published"] is not None]
        for colour, test in enumerate(dict.fromkeys(row["test"] for row in mine)):
            chosen = [row for row in mine if row["test"] == test]
            x = [row["parameter"] for row in chosen]
            panel.errorbar(x, [row["rate"] for row in chosen], [2 * row["stderr"] for row in chosen], fmt="o-", ms=3,
                           lw=1.2, color=f"C{colour}", label=test)  # fmt: skip
            panel.plot(x, [row["published"] for row in chosen], "x", ms=7, color=f"C{colour}")
        panel.axhline(0.05, color="0.5", lw=0.8, ls="--")
        panel.set(title=f"{problem}, n = {mine[0]['n']}", xlabel=label)
        panel.legend(fontsize=7)
    axes[0].set_ylabel("rejection rate")
    figure.savefig(FIGURES / "paper4-power.png", dpi=75)


def draw_diagnosis(found):
    """Effects by level: held-out rows, rows of the hidden class, own samples."""
    import matplotlib.pyplot as plt

    rows = [row for row in found["rows"] if "statement" in row]
    kinds = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(1, len(kinds), figsize=(9.5, 3.2), constrained_layout=True)
    for panel, kind in zip(axes, kinds, strict=True):
        for model in dict.fromkeys(row["model"] for row in rows):
            chosen = [row for row in rows if row["problem"] == kind and row["model"] == model]
            panel.plot(
                [row["log_snr"] for row in chosen], [row["effect_size"] for row in chosen], "o-", ms=3, label=model
            )
        n = next(row["n"] for row in rows if row["problem"] == kind)
        panel.axhspan(0.0, 5.0 / n, color="0.85", lw=0)
        panel.set_title(f"{kind.removeprefix('digits, ')}, n = {n}", fontsize=10)
        panel.set_xlabel("log-SNR")
    axes[0].set_ylabel("effect")
    axes[1].legend(fontsize=7)
    figure.savefig(FIGURES / "paper4-diagnosis.png", dpi=75)


SECTIONS = {
    "identities": identities,
    "efficiency": efficiency,
    "robustness": robustness,
    "heavy-tails": heavy_tails,
    "level": level,
    "aggregation": power,
    "speed": speed,
    "diagnosis": diagnosis,
}
PAGE = Page(
    ROOT / "docs" / "paper4.md",
    {f"paper4-{name}": section for name, section in SECTIONS.items()},
    {"paper4-aggregation": draw_power, "paper4-diagnosis": draw_diagnosis},
)

if __name__ == "__main__":
    PAGE.main(__doc__)
