"""One trained network in every convention that adapters take: do all of them give one likelihood?

A small network is trained once on an asymmetric mixture, and rewritten algebraically into DDPM's steps, continuous
times, EDM's denoiser and its raw network, flow matching with data at either end, score_sde's scores and a diffusers
module. Each comes through its adapter, with the self-test on. On the log-SNR range that all share, bound, density and
ODE are compared with the first convention's: in nats under the same noise (rounding), in errors under noise of its own,
and the ODE in units of what its solver's steps change. The difference of the bounds on each convention's own range,
where they are different models, stands beside them.

    OMP_NUM_THREADS=1 python -m benchmarks.networks.conventions
"""

__all__: list[str] = []

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import girsanov as gv
from benchmarks._record import Command, record, settings
from benchmarks.networks._conventions import FAMILIES, SIGMAS, STATED, TABLE, Trained, network, train
from girsanov.likelihoods import Replicates
from girsanov.processes import Cosine, LinearProcess
from girsanov.solvers import Adaptive
from girsanov.types import Estimate
from tests.adapters.conventional import law

COMMON = (-7.5, 9.0)  # that of VarianceExploding ends at -7.8, that of the table at 9.2
VE, COSINE = gv.VarianceExploding(), Cosine()


def seeded(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def score(net: Trained, process: LinearProcess) -> Callable[[Tensor, Tensor], Tensor]:
    """score_sde's function of a process."""
    return lambda x, t: net.diffused_score(*process.marginal(t.double()), x.double())


class EDM(nn.Module):
    """Karras et al.'s preconditioning about their raw network F, which is the trained one rewritten.

    Args:
        net: the trained one.
        data: standard deviation of the data, as EDM asks for.
    """

    def __init__(self, net: Trained, data: float = 0.5) -> None:
        super().__init__()
        self.net, self.data = net, data

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the skip connection, the output and the input."""
        root = (sigma.square() + self.data**2).sqrt()
        return self.data**2 / root.square(), sigma * self.data / root, 1.0 / root

    def raw(self, x_in: Tensor, c_noise: Tensor) -> Tensor:
        """F(c_in x, log(sigma) / 4)."""
        sigma = (4.0 * c_noise).exp()
        skip, out, scale = (part[:, None] for part in self.scales(sigma))
        x = x_in / scale
        noise = -sigma[:, None] * self.net.diffused_score(torch.ones_like(sigma), sigma, x)
        return (x - sigma[:, None] * noise - skip * x) / out

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The denoiser."""
        sigma = sigma.double()
        skip, out, scale = (part[:, None] for part in self.scales(sigma))
        return skip * x + out * self.raw(scale * x, sigma.log() / 4.0)


class Steps(nn.Module):
    """A custom network as diffusers pipelines call it, for rows ``b d 1 1``."""

    def __init__(self, net: Trained) -> None:
        super().__init__()
        self.inner = network(net, "steps", "noise", "k", 1, "preserving")

    def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor]:
        """The noise prediction, in a tuple."""
        return (self.inner(sample.flatten(1), timestep.expand(len(sample))).reshape(sample.shape),)


def of_diffusers(net: Trained, check: Tensor, reference: gv.Gaussian) -> gv.ScorePair:
    """The pair through ``from_diffusers``, with a DDPM scheduler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.schedulers import DDPMScheduler
    shape = (check.shape[1], 1, 1)
    wide = gv.Gaussian(reference.mean.reshape(shape), reference.covariance)
    return gv.from_diffusers(Steps(net), DDPMScheduler(), check=check.reshape(-1, *shape), reference=wide)


#: convention -> (network, rows, reference) -> pair; the first is what others are compared with
Adapt = Callable[..., gv.ScorePair]
OTHERS: dict[str, Adapt] = {
    "time, noise, cosine": lambda net, **more: gv.from_noise_prediction(
        lambda x, t: -COSINE.marginal(t)[1][:, None] * score(net, COSINE)(x, t), COSINE, **more
    ),
    "score, VE": lambda net, **more: gv.from_score(score(net, VE), VE, **more),
    "EDM, preconditioned": lambda net, **more: gv.from_denoiser(EDM(net), sigma_range=SIGMAS, **more),
    "velocity, data_at=1, net(x, t)": lambda net, **more: gv.from_velocity(
        lambda x, t: network(net, "flow", "flow", "t", -1, "straight")(t, x), **more
    ),
    "diffusers, DDPMScheduler": lambda net, *, check, reference: of_diffusers(net, check, reference),
}


def adapted(name: str, net: Trained, **more: object) -> gv.ScorePair:
    """The pair of one convention."""
    if name in OTHERS:
        return OTHERS[name](net, **more)
    stated = STATED[name]
    order = "t, x" if FAMILIES[stated.family].time_first else "x, t"
    return stated.adapt(network(net, stated.family, *stated.right), order=order, **more)


def compared(found: Estimate, first: Estimate) -> float:
    """Difference of the means, in standard errors of both."""
    a, b = found.mean(), first.mean()
    return (a.value - b.value) / math.hypot(a.stderr, b.stderr)


def likelihoods(pair: gv.ScorePair, x: Tensor, samples: int, seed: int) -> dict[str, Estimate]:
    """Bound and density."""
    replicates = min(32, samples // 2)
    options = {"samples": samples, "method": Replicates(replicates), "generator": seeded(seed)}
    return {"elbo": gv.elbo(pair, x, **options), "density": gv.density(pair, x, **options)}


def measured(d: int, steps: int, rows: int, samples: int, ode_rows: int) -> list[dict[str, object]]:
    """One row for each convention."""
    truth = law(d)
    net = train(truth, d, steps)
    more = {"check": truth.sample(256, generator=seeded(1)), "reference": truth.moment_match()}
    x, found = truth.sample(rows, generator=seeded(2)), []
    first: dict[str, Estimate] = {}
    for k, name in enumerate([*STATED, *OTHERS]):
        pair = adapted(name, net, **more)
        at = x.reshape(-1, *pair.event_shape)
        shared = pair.replace(log_snr_range=COMMON)
        ode = partial(gv.ode_log_prob, shared, at[:ode_rows])
        now = {**likelihoods(shared, at, samples, 0), "ode": ode(), "fine": ode(solver=Adaptive(1e-8, 1e-8))}
        now["own range"] = likelihoods(pair, at, samples, 0)["elbo"]
        if not first:
            first, base = now, shared
        noise, other = likelihoods(shared, at, samples, 100 + k), likelihoods(base, x, samples, 200 + k)
        row: dict[str, object] = {"d": d, "convention": name, "log_snr_range": list(pair.log_snr_range)}
        for kind in ("elbo", "density"):
            row[f"{kind}_nats"] = float((now[kind].value - first[kind].value).abs().max())
            row[f"{kind}_errors"] = compared(noise[kind], other[kind])
        steps_change = float((first["ode"].value - first["fine"].value).abs().max())
        row["ode_nats"] = float((now["ode"].value - first["ode"].value).abs().max())
        row["ode_fine_nats"] = float((now["fine"].value - first["fine"].value).abs().max())
        row["ode_errors"] = row["ode_nats"] / steps_change  # type: ignore[operator]
        row["own_range_nats"] = now["own range"].mean().value - first["elbo"].mean().value
        row["notes"] = list(pair.score.network.notes)  # type: ignore[union-attr]
        found.append(row)
        print(row, flush=True)
    gap = float((truth.log_prob(x) - first["elbo"].value).mean())
    return [{**row, "gap_of_the_network_nats": gap} for row in found]


def conditional(steps: int, samples: int) -> dict[str, object]:
    """A network with labels through two adapters."""
    truth = law(2)
    net = train(truth, 2, steps, labels=2)
    label = torch.randint(2, (256,), generator=seeded(3))
    rows, reference = truth.sample(256, generator=seeded(1)) + label[:, None], truth.moment_match()

    def noise_at(alpha: Tensor, sigma: Tensor, x: Tensor, label: Tensor) -> Tensor:
        level, size = 2.0 * (alpha / sigma).log(), (alpha.square() + sigma.square()).sqrt()
        return net.noise(level, x / size[:, None], label)

    def velocity(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        t = t.double()
        return (x - noise_at(t, 1.0 - t, x, label)) / t[:, None]

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        sigma = sigma.double()
        return x - sigma[:, None] * noise_at(torch.ones_like(sigma), sigma, x, label)

    more = {"check": rows, "condition": label, "reference": reference}
    pairs = gv.from_velocity(velocity, **more), gv.from_denoiser(denoiser, sigma_range=SIGMAS, **more)
    values = [
        gv.elbo(pair.replace(log_snr_range=COMMON), rows[:64], samples=samples, condition=label[:64]) for pair in pairs
    ]
    nats = float((values[0].value - values[1].value).abs().max())
    return {"d": 2, "convention": "velocity and denoiser, labels", "elbo_nats": nats}


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, d=[2], steps=30, rows=32, samples=16, ode_rows=2)
    parser.add_argument("--d", type=int, nargs="*", default=[2, 8], help="dimensions")
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--ode-rows", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for d in options.d:
        rows += measured(d, options.steps, options.rows, options.samples, options.ode_rows)
    rows.append(conditional(options.steps, options.samples))
    print(rows[-1])
    if not options.quick:
        facts = {"common_range": list(COMMON), "table": len(TABLE), "settings": settings(options)}
        print(f"wrote {record('networks-conventions', rows, **facts).name}")


if __name__ == "__main__":
    main()
