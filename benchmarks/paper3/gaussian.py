r"""Learned bridges between Gaussians against the closed form: d = 1, 5, 20, 50, Brownian reference of variance 1.

Covariances are random and do not commute, rows and paths are fresh draws. Each fit is measured by paths it simulates:
the relative Frobenius error of Cov(X_0, X_T) and of the covariance at the far end, the error of that end's mean over
its standard deviation, and the divergence of the moment-matched Gaussian at 21 times from the exact marginal.

Noise of the measurement. Empirical covariances of n paths are off by about sqrt(d/n), more than what is measured. So
each path is simulated twice with the same noise, by the fit and by the *exact* drift on the same steps, whose moments
follow from a linear recursion without any sampling: recursion + difference of the two empirical moments is the estimate
(a control variate). What noise is left is measured by halves of the paths and recorded as ``noise_*``, beside
``plain_cross``, the error of as many exact draws, and ``rows_cross``, that of the closed form from the training rows'
own moments, below which no method that knows the ends by these rows can be expected to fall.

- ipf_reference, ipf_gaussian, imf: alternating projections between rows, started from the reference (iterative
  proportional fitting; the end's mean converges last), from the closed form of the rows' moments, and from pairs by
  minibatch transport (iterative Markovian fitting).
- joint: to the end's known density, with a reference weight that falls from 1 to 0.01 and a learned covariance for each
  decoder step; joint_diagonal: the same with variances only, whose optimum is another bridge (decision 0009).
- sf2m_exact, sf2m_sinkhorn: torchcfm's class with either minibatch plan, by networks of the same size.
- closed: the exact drifts on the same steps, by recursion: what the steps alone cost.

The instance ``shift``, N(-0.1, I) to N(0.1, I) with 20 steps, is one of the literature; figures of the literature for
the others are of instances that are not stated and are context only.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.gaussian --peers FOLDER_OF_TORCHCFM
"""

__all__: list[str] = []

import math
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
    JointConfig,
    NetworkConfig,
    SchrodingerBridge,
    cosine_times,
    gaussian_bridge,
)
from girsanov.processes import BrownianMotion

DIMENSIONS = (1, 5, 20, 50)
METHODS = ("closed", "ipf_gaussian", "ipf_reference", "imf", "joint", "joint_diagonal", "sf2m_exact", "sf2m_sinkhorn")
NETWORK = NetworkConfig(width=32, blocks=1)
FIGURE = FIGURES / "paper3-gaussian.png"


def instance(d, shift):
    """The exact bridge: random ends of eigenvalues 0.3 to 3, or two shifted unit Gaussians."""
    generator = torch.Generator().manual_seed(20_000 + d)
    if shift:
        ones = torch.ones(d, dtype=torch.float64)
        return gaussian_bridge(-0.1 * ones, 1.0, 0.1 * ones, 1.0, reference=BrownianMotion())
    ends = []
    for _ in range(2):
        basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        values = (10.0 ** (torch.rand(d, generator=generator, dtype=torch.float64) - 0.5)).clamp(0.3, 3.0)
        ends += [torch.randn(d, generator=generator, dtype=torch.float64), (basis * values) @ basis.T]
    return gaussian_bridge(*ends, reference=BrownianMotion())


def recursion(exact, times, direction):
    """Means, covariances and covariances with the first state of Euler steps of the exact drift, in order of travel."""
    up = direction == "forward"
    law, drift = (exact.start, exact.forward_drift) if up else (exact.end, exact.backward_drift)
    order = times if up else times.flip(0)
    mean, S = law.mean, law.covariance
    cross, d, states = S, len(S), [(law.mean, S, S)]
    for s, t in pairwise(order):
        h = t - s
        offset = drift(s, torch.zeros(1, d, dtype=torch.float64))[0]
        A = torch.eye(d, dtype=torch.float64) + h * (drift(s, torch.eye(d, dtype=torch.float64)) - offset).T
        mean, cross = A @ mean + h * offset, cross @ A.T
        S = A @ S @ A.T + h.abs() * torch.eye(d, dtype=torch.float64)
        states.append((mean, S, cross))
    return states


def twin(exact, x, times, direction, generator):
    """Euler steps of the exact drift with the noise that a fit draws from the same generator, in order of travel."""
    up = direction == "forward"
    drift, order, states = exact.forward_drift if up else exact.backward_drift, times if up else times.flip(0), [x]
    for s, t in pairwise(order):
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + float(t - s) * drift(s, x) + math.sqrt(abs(float(t - s))) * eps
        states.append(x)
    return torch.stack(states)


def moments(start, states):
    """Mean, covariance, and covariance with the start of every state."""
    a = start.double() - start.double().mean(0)
    for state in states:
        x = state.double()
        centred = x - x.mean(0)
        yield x.mean(0), centred.T @ centred / (len(x) - 1), a.T @ centred / (len(x) - 1)


def controlled(start, states, twins, known):
    """Moments of the states with those of the exact drift as control variates."""
    pairs = zip(moments(start, states), moments(start, twins), known, strict=True)
    return [tuple(a - b + c for a, b, c in zip(*three, strict=True)) for three in pairs]


def relative(A, B):
    """Frobenius error of A over the norm of B."""
    return float((A - B).norm() / B.norm())


def divergence(mean, S, law):
    """KL(N(mean, S) || law), nats."""
    solved = torch.linalg.solve(law.covariance, S)
    gap = law.mean - mean
    return float(0.5 * (solved.trace() + gap @ torch.linalg.solve(law.covariance, gap) - len(gap) - solved.logdet()))


def errors(found, exact, times, direction):
    """What is reported of moments in order of travel."""
    up = direction == "forward"
    far = exact.end if up else exact.start
    mean, S, cross = found[-1]
    order = times if up else times.flip(0)
    every = range(0, len(found), max(1, (len(found) - 1) // 20))
    kls = [divergence(*found[k][:2], exact.marginal(order[k])) for k in every]
    return {
        "cross": relative(cross, exact.cross if up else exact.cross.T),
        "far_covariance": relative(S, far.covariance),
        "far_mean": float((mean - far.mean).norm() / far.covariance.trace().sqrt()),
        "kl_end": kls[-1],
        "kl_mean": sum(kls) / len(kls),
        "times": len(kls),
    }


def measure(exact, times, direction, simulate, paths, seed):
    """Errors of the paths that ``simulate(x, generator)`` returns in order of travel, and their noise."""
    law = exact.start if direction == "forward" else exact.end
    x = law.sample(paths, generator=torch.Generator().manual_seed(seed)).float()
    known = recursion(exact, times, direction)
    states = simulate(x, torch.Generator().manual_seed(seed + 1))
    twins = twin(exact, x, times, direction, torch.Generator().manual_seed(seed + 1))
    row = errors(controlled(x, states, twins, known), exact, times, direction)
    halves = []
    for part in (slice(None, paths // 2), slice(paths // 2, None)):
        halves.append(controlled(x[part], states[-1:, part], twins[-1:, part], known[-1:])[0])
    row["noise_cross"] = 0.5 * relative(halves[0][2] - halves[1][2] + exact.cross, exact.cross)
    row["noise_far_covariance"] = 0.5 * float((halves[0][1] - halves[1][1]).norm() / known[-1][1].norm())
    return row


def floors(exact, x0, x1, paths):
    """Errors of exact draws without the control variate, and of the closed form from the rows' moments."""
    a, b = exact.sample_coupling(paths, generator=torch.Generator().manual_seed(11))
    plain = next(moments(a, [b]))
    ends = [v for x in (x0, x1) for v in (x.double().mean(0), torch.cov(x.double().T).reshape(x.shape[1], -1))]
    rows = gaussian_bridge(*ends, reference=exact.reference)
    return {
        "plain_cross": relative(plain[2], exact.cross),
        "plain_far_covariance": relative(plain[1], exact.end.covariance),
        "rows_cross": relative(rows.cross, exact.cross),
    }


def fit(method, exact, x0, x1, options, torchcfm):
    """The grid, and functions that simulate forwards and backwards (or ``None``), both in order of travel."""
    d, steps = x0.shape[1], options.grid
    reference = BrownianMotion()
    if method.startswith("sf2m"):
        model = SF2M(
            torchcfm, d, 1.0, plan=method.removeprefix("sf2m_"), network=NETWORK, spread=float(x1.std()), seed=d
        )
        model.fit([(x0, x1)], steps=options.sf2m_steps, learning_rate=2e-3)
        times = cosine_times(steps, 1.0)

        def forward(x, generator):
            return model.move(x, times, generator=generator)

        return times, forward, None
    if method.startswith("joint"):
        joint = JointConfig(
            steps=options.joint_steps, batch_size=256, learning_rate=5e-3, reference_weight=(1.0, 0.01),
            validation=0.005, validate_every=500, step_variances="diagonal" if method == "joint_diagonal" else "full",
        )  # fmt: skip
        bridge = SchrodingerBridge(
            reference, dim=d, start="reference", steps=options.joint_grid, network=NETWORK, joint=joint
        )
        bridge.fit(x0, prior=exact.end)
    else:
        start, rounds = {
            "ipf_gaussian": ("gaussian", 1), "ipf_reference": ("reference", options.rounds), "imf": ("reference", 3),
        }[method]  # fmt: skip
        alternating = AlternatingConfig(
            rounds=rounds,
            steps=options.ipf_steps,
            paths=options.paths,
            learning_rate=3e-3,
            warm_start="minibatch" if method == "imf" else None,
            warm_steps=options.ipf_steps,
        )
        bridge = SchrodingerBridge(reference, dim=d, start=start, steps=steps, network=NETWORK, alternating=alternating)
        bridge.fit(x0, x1)

    def up(x, generator):
        return bridge.sample(x, return_path=True, generator=generator)

    def down(x, generator):
        return bridge.sample(x, "backward", return_path=True, generator=generator).flip(0)

    return bridge.path_times(), up, down


def run(method, name, d, exact, rows, options, torchcfm):
    """One fit and its measurement."""
    row = {"method": method, "instance": name, "dim": d}
    if method == "closed":
        times = cosine_times(options.grid, 1.0)
        found = recursion(exact, times, "forward")
        return {**row, **errors(found, exact, times, "forward"), **floors(exact, *rows, options.measured)}
    begin = time.perf_counter()
    times, forward, backward = fit(method, exact, *rows, options, torchcfm)
    row["seconds"] = round(time.perf_counter() - begin, 1)
    row |= {"steps": len(times) - 1, **measure(exact, times, "forward", forward, options.measured, 31)}
    if backward is not None:
        back = measure(exact, times, "backward", backward, options.measured, 41)
        row |= {f"backward_{key}": back[key] for key in ("cross", "far_covariance", "far_mean")}
    return row


def parse():
    """Options of the command line."""
    parser = Command(
        __doc__, dimensions=[1], methods=["closed", "ipf_gaussian"], rows=2000, measured=500, grid=4, rounds=1,
        ipf_steps=10, paths=500, partial=os.devnull,
    )  # fmt: skip
    parser.add_argument("--peers", help="folder with torchcfm; absent: as installed, or recorded as absent")
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(DIMENSIONS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--shift", action="store_true", help="only the instance of two shifted unit Gaussians, d = 50")
    parser.add_argument("--partial", default="runs/paper3-gaussian.jsonl", help="rows that are already there stay")
    parser.add_argument("--no-record", action="store_true", help="keep the partial rows only")
    for name, value in (
        ("rows", 1_000_000), ("measured", 20_000), ("grid", 40), ("joint-grid", 20), ("joint-steps", 2000),
        ("rounds", 6), ("ipf-steps", 1500), ("paths", 400_000), ("sf2m-steps", 2000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main():
    """All fits that are not there yet, then the record."""
    options = parse()
    torchcfm, kept = torchcfm_from(options.peers), Rows(options.partial, options)
    cases = [("shift", 50)] if options.shift else [("random", d) for d in options.dimensions]
    if options.shift:
        options.grid = 20
    for name, d in cases:
        exact = instance(d, name == "shift")
        generator = torch.Generator().manual_seed(30_000 + d)
        rows = [law.sample(options.rows, generator=generator).float() for law in (exact.start, exact.end)]
        for method in options.methods:
            absent = method.startswith("sf2m") and torchcfm is None
            if absent or kept.has(method=method, instance=name, dim=d):
                continue
            kept.add(run(method, name, d, exact, rows, options, torchcfm))
    if options.no_record or options.quick:
        return
    plot(kept.all)
    path = record(
        "paper3-gaussian", kept.all, settings=settings(options, "peers", "partial", "no_record"),
        torchcfm=getattr(torchcfm, "__version__", "absent"),
        published=published("gaussian") | published("shifted"),
    )  # fmt: skip
    print(f"wrote {path.name}")


def plot(rows):
    """Errors of the cross-covariance by dimension, and marginal divergences."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for method in METHODS:
        mine = sorted(
            ((r["dim"], r) for r in rows if r["method"] == method and r["instance"] == "random"), key=lambda m: m[0]
        )
        if not mine:
            continue
        style = {"marker": "o", "label": method, "linestyle": ":" if method == "closed" else "-"}
        axes[0].loglog([d for d, _ in mine], [100 * r["cross"] for _, r in mine], **style)
        axes[1].loglog([d for d, _ in mine], [r["kl_mean"] for _, r in mine], **style)
    axes[0].axhline(2.0, color="grey", linewidth=0.8)
    axes[0].set(xlabel="dimensions", ylabel="error of Cov(X_0, X_T), %", title="the line is 2 %", ylim=(0.05, None))
    axes[1].set(xlabel="dimensions", ylabel="mean KL over 21 times, nats")
    axes[1].legend(fontsize=7)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=75)
    plt.close(figure)


if __name__ == "__main__":
    main()
