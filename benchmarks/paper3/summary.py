"""The measured part of docs/paper3.md, written from the committed results and by nobody's hand.

python -m benchmarks.paper3.summary            # print
python -m benchmarks.paper3.summary --write    # put between the page's markers

A result that is not recorded yet has no section.
"""

from collections.abc import Callable

from benchmarks._page import ROOT, Page, figure, source, table

GAUSSIAN = {
    "closed": "exact drift, same steps",
    "ipf_gaussian": "projections from the moments' closed form",
    "ipf_reference": "projections from the reference (IPF)",
    "imf": "projections from minibatch pairs (IMF)",
    "joint": "joint, annealed reference, step covariances",
    "joint_diagonal": "joint, annealed reference, step variances",
    "sf2m_exact": "[SF]²M, exact plan",
    "sf2m_sinkhorn": "[SF]²M, entropic plan",
}
MIXTURE = {
    "exact": "exact plan (floor of the draws)",
    "lightsb": "LightSB's loss and family, static plan",
    "plan": "full covariances, static plan",
    "bridge": "our bridge, paths",
    "sf2m_exact": "[SF]²M, exact plan",
    "sf2m_sinkhorn": "[SF]²M, entropic plan",
}


def comes_from(name: str, arguments: str = "") -> list[str]:
    """Lines that say where a section comes from."""
    return ["", source(name, arguments), ""]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, or a dash."""
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}g} %"


def oracles(document: dict) -> list[str]:
    """What bounds promise."""
    by_check: dict[str, list[dict]] = {}
    for row in document["rows"]:
        by_check.setdefault(row["check"], []).append(row)
    (bounds,), (posterior,), (limit,) = (by_check[name] for name in ("bounds", "posterior", "gradient_limit"))
    floor = min(by_check["floor"], key=lambda row: row["z"])
    rows = [
        ["mean chain weight above log q_N", f"{bounds['violations']} of {bounds['pairs']:,} random pairs", "none"],
        ["weights of the exact posterior against log q_N", f"{posterior['worst']:.0e}", "1e-10"],
        ["table of learned variances, N = 4 … 64",
         f"{max(row['error_to_note'] for row in by_check['variances']):.1e}", "0.01"],
        ["gradient at a reversing decoder is the prior loss's", f"{limit['worst_error']:.0e}", "1e-6"],
        ["negative bound minus entropy, the smallest", f"{floor['z']:.1f} standard errors above", "never below"],
    ]  # fmt: skip
    head = ["## Bounds on oracles", ""]
    return head + table(["what", "reached", "asked"], rows) + comes_from("paper3-oracles")


def gaussian(document: dict) -> list[str]:
    """Errors between Gaussians."""
    rows = [
        [row["dim"], GAUSSIAN[row["method"]], percent(row["cross"]), percent(row["far_covariance"]),
         percent(row["far_mean"]), percent(row.get("backward_cross")), percent(row.get("backward_far_covariance")),
         percent(row.get("backward_far_mean")), number(row["kl_mean"], 2), number(row.get("seconds"), 3)]
        for row in sorted(document["rows"], key=lambda r: (r["dim"], list(GAUSSIAN).index(r["method"])))
        if row["instance"] == "random"
    ]  # fmt: skip
    settings = document["settings"]
    floors = {row["dim"]: row["rows_cross"] for row in document["rows"] if row["method"] == "closed"}
    words = (
        f"Random Gaussians, Brownian reference of variance 1. Errors of {settings['measured']:,} simulated paths with "
        "the exact drift as control variate: relative Frobenius errors of Cov(X₀, X_T) and of the covariance at the "
        "end that paths reach, and that end's mean over its spread; then the same backwards; mean divergence of "
        f"moments over the times, nats. The closed form from the {settings['rows']:,} training rows' own moments has "
        f"{', '.join(f'{percent(v)} (d = {d})' for d, v in sorted(floors.items()))}."
    )
    header = ["d", "fit", "cross", "end cov.", "end mean", "← cross", "← cov.", "← mean", "mean KL", "seconds"]
    head = ["## Between Gaussians", "", words, ""]
    shown = figure("paper3-gaussian", "errors by dimension")
    return head + table(header, rows) + comes_from("paper3-gaussian") + shown


def mixture(document: dict) -> list[str]:
    """cBW2-UVP of normal to mixture."""
    by_key = {(row["eps"], row["dim"], row["method"]): row for row in document["rows"]}
    cases = sorted({key[:2] for key in by_key})
    rows = []
    for eps, d in cases:
        cells = [_with_error(by_key.get((eps, d, method))) for method in MIXTURE]
        plain = next(row["independent"] for row in document["rows"] if (row["eps"], row["dim"]) == (eps, d))
        rows.append([number(eps), d, *cells, f"{plain:.0f}"])
    words = (
        "cBW²-UVP in percent, 0 is exact; 1000 draws per start leave the floor of the third column. Our bridge "
        "starts at the same dual over mixtures with full covariances; its corrections by projections are kept only "
        "where held-out paths confirm them."
    )
    head = ["## A normal to a mixture, the exact entropic plan known", "", words, ""]
    header = ["ε", "d", *MIXTURE.values(), "ignoring the start"]
    shown = figure("paper3-mixture", "cBW2-UVP by dimension and noise")
    return head + table(header, rows) + comes_from("paper3-mixture") + shown


def _with_error(row: dict | None) -> str:
    return "–" if row is None else f"{row['cbw2_uvp']:.2g} ± {row['stderr']:.1g}"


def cite(document: dict) -> list[str]:
    """W1 on held-out days."""
    lines = [row for row in document["rows"] if row["kind"] == "summary"]
    rows = []
    for name in dict.fromkeys(row["name"] for row in lines):
        mine = {row["held"]: row for row in lines if row["name"] == name}
        chosen = [f"σ = {row['sigma']:g}, {row['way']}" if "sigma" in row else "–" for row in mine.values()]
        spread = [f"{row['w1']:.2f} ± {number(row['sd'], 2)}" for row in mine.values()]
        rows.append([name, *(cell for pair in zip(chosen, spread, strict=True) for cell in pair)])
    words = (
        f"W1 between 2,000 moved and 2,000 true cells of a day that took no part, mean and standard deviation over "
        f"{lines[0]['seeds']} seeds; noise level and way of moving were chosen by holding out the middle training day, "
        "among candidates that were fixed after a look at both days. `sde` moves a cell by a draw, `flow` by the ODE, "
        "`mean` to the average of 64 paths: its expected place, no draw of the law, with too small a spread. "
        "The literature, with other sample sizes, has 38.5–40.0 for [SF]²M and 53.8 for DSBM."
    )
    head = ["## A held-out day of CITE-seq", "", words, ""]
    header = ["moved by", "chosen", "day 3", "chosen", "day 4"]
    shown = figure("paper3-cite", "moved and true cells in two components")
    return head + table(header, rows) + comes_from("paper3-cite") + shown


def translated(document: dict, words: str) -> list[str]:
    """Errors of translated images."""
    rows = [
        [row["direction"], "none: closed form" if row["network"] == "none" else row["network"],
         f"{row['wasserstein']:.2f}", f"{row['floor_wasserstein']:.2f}", f"{row['untouched_wasserstein']:.2f}",
         percent(row["share_in_target_neighbours"]), percent(row["share_in_target_logistic"]),
         f"{row['variance_ratio']:.2f}"]
        for row in document["rows"]
    ]  # fmt: skip
    header = ["direction", "network", "W1", "floor", "untouched", "neighbours", "logistic", "variance"]
    legend = (
        "Images that took no part, translated: W1 to the other end's held-out ones in spreads of a pixel (floor: as "
        "many true ones; untouched: left as they are), share that two classifiers find among the target's digits, "
        "variance over the true one."
    )
    return [words, "", legend, "", *table(header, rows)]


def mnist(document: dict) -> list[str]:
    """MNIST, even to odd."""
    words = "Even digits of MNIST (14 x 14) to odd ones and back, without pairs."
    body = translated(document, words) + comes_from("paper3-images-mnist", "--mnist FOLDER")
    return ["## Unpaired images", "", *body, *figure("paper3-mnist", "translated MNIST digits")]


def images(document: dict) -> list[str]:
    """Small digits."""
    words = "The 8 x 8 digits 0–4 to 5–9 and back, from 760 rows of each."
    body = translated(document, words) + comes_from("paper3-images")
    return ["### Few rows", "", *body, *figure("paper3-digits", "translated digits")]


def fewsteps(document: dict) -> list[str]:
    """Bound against steps."""
    by_key = {(row["steps"], row["forward"]): row for row in document["rows"]}
    steps = sorted({key[0] for key in by_key})
    rows = []
    for n in steps:
        fixed, learned, half = by_key[n, "fixed VP"], by_key[n, "learned"], by_key.get((n // 2, "learned"))
        bounds = [f"{row['elbo']:.3f} ± {row['stderr']:.3f}" for row in (fixed, learned)]
        rows.append([n, *bounds, "–" if half is None else _difference(half, fixed)])
    head = [
        "## Few-step sampling",
        "",
        "Bound per row on a stretched spiral, the forward process fixed or learned, and what half of the steps with a "
        "learned process gain over all of them with the fixed one (errors of the paths; the test rows are the same).",
        "",
    ]
    header = ["steps", "fixed VP", "learned", "learned in half the steps, minus fixed"]
    picture = figure("paper3-fewsteps", "bound against steps")
    return head + table(header, rows) + comes_from("paper3-fewsteps") + picture


def _difference(first: dict, second: dict) -> str:
    error = (first["stderr"] ** 2 + second["stderr"] ** 2) ** 0.5
    return f"{first['elbo'] - second['elbo']:+.3f} ± {error:.3f}".replace("-", "−")


def freeze(document: dict) -> list[str]:
    """Time to equal bounds, and the gap to the training rows."""
    rows = [
        [row["seed"], row["recipe"], f"{row['test_elbo']:.2f} ± {row['test_stderr']:.2f}", f"{row['overfit']:.2f}",
         f"{row['cpu_seconds']:.0f}"]
        for row in document["rows"]
    ]  # fmt: skip
    ratios = {
        recipe: ", ".join(
            f"{number(s['ratio'])}×" + ("" if s["reaches_joint"] else " (to its own best)")
            for s in document["savings"]
            if s["recipe"] == recipe
        )
        for recipe in ("frozen", "fixed")
    }
    words = (
        "Processor time of joint training over the recipe's, to an equal bound on validation rows: "
        f"{ratios['frozen']}; over that of the same recipe with an encoder that is never learned: {ratios['fixed']}, "
        "which ends at another bound. The decoder alone fits its training rows more closely: training minus test."
    )
    head = ["## Freezing the encoder", "", words, ""]
    header = ["seed", "recipe", "test bound", "training minus test", "processor seconds"]
    return head + table(header, rows) + comes_from("paper3-freeze") + figure("paper3-freeze", "bound against time")


SECTIONS: dict[str, Callable[[dict], list[str]]] = {
    "paper3-oracles": oracles,
    "paper3-gaussian": gaussian,
    "paper3-mixture": mixture,
    "paper3-cite": cite,
    "paper3-images-mnist": mnist,
    "paper3-images": images,
    "paper3-fewsteps": fewsteps,
    "paper3-freeze": freeze,
}
PAGE = Page(ROOT / "docs" / "paper3.md", SECTIONS)

if __name__ == "__main__":
    PAGE.main(__doc__)
