r"""The self-test of conventions on a grid of wrong ones: how many are refused, of those that move the likelihood.

Networks of DDPM's steps, of continuous time, of noise levels and of flows, exact for an asymmetric mixture, are written
in every combination of what is returned, what is told, sign and coordinates of the input, and given to every adapter of
their kind as though they were its own. A wrong convention moves the likelihood where the bound over fresh rows under
common noise differs from the right one's by more than five standard errors of the paired difference. Beside them: the
right conventions; right ones whose outputs are noisy, shrunk or stretched, as those of bad networks; and networks
after few steps of training. These must not be refused, and whether they are undecided is the test's word.

    OMP_NUM_THREADS=1 python -m benchmarks.networks.wrong_conventions --lines FILE.jsonl

FILE.jsonl gets a line for every set of rows; those that are there are skipped, so that it can be run in pieces.
"""

__all__: list[str] = []

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record, settings
from benchmarks.networks._conventions import FAMILIES, STATED, Stated, network, networks, train
from tests.adapters.conventional import law

ERRORS = 5.0  # by which a convention moves the likelihood
EARLY = (0, 10, 30, 100, 300, 1000)  # steps of training
BAD: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    **{
        f"noise of {scale}": lambda f, g, scale=scale: f + scale * torch.randn(f.shape, generator=g).to(f)
        for scale in (0.1, 0.3, 0.6, 1.0, 2.0)
    },
    **{f"{factor} times": lambda f, g, factor=factor: factor * f for factor in (0.0, 0.1, 0.4, 0.7, 0.9, 1.3)},
}


def seeded(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def named(convention: tuple[str, str, int, str]) -> str:
    """A network in words."""
    kind, clock, sign, shown = convention
    return f"{'-' if sign < 0 else ''}{kind} of {clock}, {shown}"


def order_of(stated: Stated) -> str:
    """Of the arguments of its networks."""
    return "t, x" if FAMILIES[stated.family].time_first else "x, t"


def wrong(stated: Stated) -> Iterator[tuple[str, str, int, str]]:
    """Conventions of its family that are not its own."""
    return (convention for convention in networks(stated.family) if convention != stated.right)


def moves(d: int, rows: int, samples: int, only: int | None) -> Iterator[dict[str, Any]]:
    """By how much every wrong convention moves the bound, in nats and in errors."""
    exact = law(d)
    x, given = exact.sample(rows, generator=seeded(7)), {"reference": exact.moment_match()}
    for name, stated in STATED.items():
        given["order"] = order_of(stated)
        right = gv.elbo(stated.adapt(network(exact, stated.family, *stated.right), **given), x, samples=samples)
        for convention in list(wrong(stated))[:only]:
            pair = stated.adapt(network(exact, stated.family, *convention), **given)
            moved = gv.elbo(pair, x, samples=samples).value - right.value
            nats, stderr = float(moved.mean()), float(moved.std()) / math.sqrt(rows)
            yield {"d": d, "stated": name, "network": named(convention), "nats": nats, "errors": abs(nats) / stderr}


def verdict(stated: Stated, net: Callable[..., Tensor], x: Tensor) -> str:
    """Of the self-test: accepted, undecided or refused."""
    try:
        pair = stated.adapt(net, check=x, order=order_of(stated))
    except gv.InputError:
        return "refused"
    return "undecided" if pair.score.network.notes else "accepted"  # type: ignore[union-attr]


def spoilt(net: Callable[..., Tensor], change: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[..., Tensor]:
    """A network whose outputs are worse."""
    generator = seeded(9)
    return lambda *given: change(net(*given), generator)


def counted(found: dict[str, str], good: str) -> dict[str, object]:
    """Verdicts, and which networks got one that they should not."""
    verdicts = list(found.values())
    counts = {word: verdicts.count(word) for word in ("accepted", "undecided", "refused")}
    return {**counts, "not as they should be": sorted(f"{k}: {v}" for k, v in found.items() if v not in good)}


def judged(d: int, n: int, seed: int, moved: set[str], early: dict[int, object], only: int | None) -> dict[str, object]:
    """Verdicts on all networks with one set of rows."""
    exact = law(d)
    x = exact.sample(n, generator=seeded(1000 * seed + n))
    found: dict[str, dict[str, str]] = {kind: {} for kind in ("moving", "alike", "right", "bad", "early")}
    for name, stated in STATED.items():
        good = network(exact, stated.family, *stated.right)
        found["right"][name] = verdict(stated, good, x)
        for convention in list(wrong(stated))[:only]:
            key = f"{name} / {named(convention)}"
            kind = "moving" if key in moved else "alike"
            found[kind][key] = verdict(stated, network(exact, stated.family, *convention), x)
        for change, function in list(BAD.items())[:only]:
            found["bad"][f"{name} / {change}"] = verdict(stated, spoilt(good, function), x)
        for steps, net in early.items():
            found["early"][f"{name} / {steps} steps"] = verdict(stated, network(net, stated.family, *stated.right), x)
    good = {"moving": ("refused",), "alike": ("refused", "undecided", "accepted"), "right": ("accepted",)}
    served = ("accepted", "undecided")
    return {"d": d, "n": n, "seed": seed, **{k: counted(v, good.get(k, served)) for k, v in found.items()}}


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, d=[2], rows=[64], seeds=[0], only=3, evaluated=32)
    parser.add_argument("--d", type=int, nargs="*", default=[2, 8], help="dimensions")
    parser.add_argument("--rows", type=int, nargs="*", default=[64, 256], help="that the self-test sees")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the rows")
    parser.add_argument("--evaluated", type=int, default=256, help="fresh rows on which a convention moves the bound")
    parser.add_argument("--samples", type=int, default=64, help="evaluations of the bound for each of them")
    parser.add_argument("--only", type=int, help="as many conventions of each adapter, and no more")
    parser.add_argument("--lines", default=os.devnull, help="file that keeps what is measured, to go on from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, shifts = Path(options.lines), []
    rows = read_lines(lines)
    done = {(row["d"], row["n"], row["seed"]) for row in rows}
    for d in options.d:
        shifts += (of_d := list(moves(d, options.evaluated, options.samples, options.only)))
        moved = {f"{s['stated']} / {s['network']}" for s in of_d if not s["errors"] <= ERRORS}
        early = {step: train(law(d), d, step) for step in (EARLY[:1] if options.quick else EARLY)}
        print(f"d={d}: {len(moved)} of {len(of_d)} wrong conventions move the likelihood", flush=True)
        for n, seed in ((n, seed) for n in options.rows for seed in options.seeds):
            if (d, n, seed) not in done:
                rows.append(judged(d, n, seed, moved, early, options.only))
                append_line(lines, rows[-1])
                print(rows[-1], flush=True)
    if not options.quick:
        facts = {"errors": ERRORS, "settings": settings(options, "lines")}
        least = sorted(shifts, key=lambda s: s["errors"])[:40]
        print(f"wrote {record('networks-wrong-conventions', rows, **facts, least_moved=least).name}")


if __name__ == "__main__":
    main()
