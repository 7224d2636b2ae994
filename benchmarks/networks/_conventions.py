"""Networks of every convention, right and wrong ones, all rewritten from one law or one trained network.

A convention is what a network is told (its clock), shown (the scale of its input) and returns, with a sign. Networks
are written from the textbook formulas of ``tests/adapters/conventional.py``, and never with the code under test.
"""

__all__ = ["FAMILIES", "SIGMAS", "STATED", "TABLE", "VP", "Family", "Stated", "Trained", "network", "networks", "train"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import girsanov as gv
from tests.adapters.conventional import SIGMAS, TABLE, at_step, at_time, parts, rows_like

VP = gv.VariancePreserving()
LAST = len(TABLE) - 1


def of_sigma(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Variance-preserving scales at a standard deviation of noise beside data of scale 1."""
    sigma = sigma.double().clamp(1e-6, 1e6)
    size = (1.0 + sigma.square()).sqrt()
    return 1.0 / size, sigma / size


def of_share(share: Tensor) -> tuple[Tensor, Tensor]:
    """The same on the straight path, at the share of the data."""
    share = share.double().clamp(1e-6, 1.0 - 1e-6)
    return of_sigma((1.0 - share) / share)


#: coordinates of the input -> their size beside variance-preserving ones
SIZES = {
    "preserving": lambda a, s: torch.ones_like(a),
    "exploding": lambda a, s: 1.0 / a,
    "straight": lambda a, s: 1.0 / (a + s),
}


@dataclass(frozen=True)
class Family:
    """What networks of one kind of training could be told, shown and return; the plain ones first.

    Attributes:
        clocks: name -> scales (alpha, sigma) at what the network is told.
        shown: coordinates of its input.
        kinds: what it returns.
        time_first: order of its arguments.
    """

    clocks: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]
    shown: tuple[str, ...]
    kinds: tuple[str, ...]
    time_first: bool = False


FAMILIES = {
    "steps": Family(
        {
            "k": at_step,
            f"{LAST} - k": lambda k: at_step(LAST - k),
            f"k / {LAST + 1}": lambda k: at_step((LAST + 1.0) * k),
        },
        ("preserving", "exploding"),
        ("noise", "denoised", "v", "score"),
    ),
    "time": Family(
        {
            "t": lambda t: at_time(t.clamp(1e-5, 1.0)),
            "1 - t": lambda t: at_time((1.0 - t).clamp(1e-5, 1.0)),
            "1000 t": lambda t: at_time((t / 1000.0).clamp(1e-5, 1.0)),
            "999 t": lambda t: at_time((t / 999.0).clamp(1e-5, 1.0)),
        },
        ("preserving", "exploding"),
        ("noise", "denoised", "v", "score"),
    ),
    "sigma": Family(
        {
            "sigma": of_sigma,
            "log sigma / 4": lambda c: of_sigma((4.0 * c.double()).exp()),
            "log sigma": lambda c: of_sigma(c.double().exp()),
            "sigma^2": lambda c: of_sigma(c.double().clamp_min(1e-12).sqrt()),
            "sigma / (1 + sigma)": lambda c: of_share(1.0 - c.double()),
            "log-SNR": lambda c: of_sigma((-0.5 * c.double()).exp()),
        },
        ("exploding", "preserving"),
        ("denoised", "noise", "score", "v", "flow"),
    ),
    "flow": Family(
        {
            "t": of_share,
            "1 - t": lambda t: of_share(1.0 - t.double()),
            "1000 t": lambda t: of_share(t.double() / 1000.0),
            "1000 (1 - t)": lambda t: of_share(1.0 - t.double() / 1000.0),
        },
        ("straight",),
        ("flow", "noise", "denoised", "v"),
        time_first=True,
    ),
}


@dataclass(frozen=True)
class Stated:
    """One call of an adapter, and the network that it is right for.

    Attributes:
        family: of networks.
        adapt: ``(net, **more) -> pair``.
        kind: what the right network returns.
        clock: what it is told.
        sign: of its output, the velocity's being that of ``eps - x``.
    """

    family: str
    adapt: Callable[..., gv.ScorePair]
    kind: str
    clock: str
    sign: int = 1

    @property
    def right(self) -> tuple[str, str, int, str]:
        """Kind, clock, sign and coordinates."""
        return self.kind, self.clock, self.sign, FAMILIES[self.family].shown[0]


def _steps(kind: str) -> Callable[..., gv.ScorePair]:
    return lambda net, **more: gv.from_noise_prediction(net, alphas_cumprod=TABLE, predicts=kind, **more)


def _time(kind: str) -> Callable[..., gv.ScorePair]:
    return lambda net, **more: gv.from_noise_prediction(net, VP, predicts=kind, **more)


STATED = {
    **{f"steps, {kind}": Stated("steps", _steps(kind), kind, "k") for kind in ("noise", "denoised", "v")},
    **{f"time, {kind}": Stated("time", _time(kind), kind, "t") for kind in ("noise", "denoised", "v")},
    "score, VP": Stated("time", lambda net, **more: gv.from_score(net, VP, **more), "score", "t"),
    "denoiser": Stated(
        "sigma", lambda net, **more: gv.from_denoiser(net, sigma_range=SIGMAS, **more), "denoised", "sigma"
    ),
    "velocity, data_at=1": Stated("flow", gv.from_velocity, "flow", "t", -1),
    "velocity, data_at=0": Stated(
        "flow", lambda net, **more: gv.from_velocity(net, data_at=0, **more), "flow", "1 - t"
    ),
}


def network(law: object, family: str, kind: str, clock: str, sign: int, shown: str) -> Callable[..., Tensor]:
    """The network of a law in one convention.

    Args:
        law: with ``diffused_score(alpha, sigma, x_t)``: a closed form or :class:`Trained`.
        family: whose arguments it has.
        kind: what it returns.
        clock: what it is told.
        sign: of its output.
        shown: coordinates of its input.
    """
    scales = FAMILIES[family].clocks[clock]

    def net(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (part.expand(len(x)) for part in scales(t.double()))
        size = rows_like(SIZES[shown](alpha, sigma), x)
        found = parts(law, alpha, sigma, x.double() / size)[kind]
        return sign * (found / size if kind == "score" else found).to(x)

    return (lambda t, x: net(x, t)) if FAMILIES[family].time_first else net


def networks(family: str) -> Iterator[tuple[str, str, int, str]]:
    """Kind, clock, sign and coordinates of all networks of a family."""
    found = FAMILIES[family]
    for kind in found.kinds:
        for clock in found.clocks:
            for sign in (1, -1):
                for shown in found.shown:
                    yield kind, clock, sign, shown


class Trained(nn.Module):
    """A small network of (log-SNR, variance-preserving rows), which stands where a law's diffused score does.

    Args:
        d: dimensions.
        width: of its two hidden layers.
        labels: how many classes it knows; 0 for none.
    """

    def __init__(self, d: int, width: int = 64, labels: int = 0) -> None:
        super().__init__()
        layers = [nn.Linear(d + 5 + labels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, d)]
        self.labels, self.net = labels, nn.Sequential(*layers).double()
        self.calls = 0

    def noise(self, level: Tensor, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise prediction at levels ``b`` and variance-preserving rows ``b d``; the network itself returns v."""
        self.calls += len(z)
        alpha, sigma = torch.sigmoid(level).sqrt()[:, None], torch.sigmoid(-level).sqrt()[:, None]
        angle = torch.atan2(sigma, alpha)
        features = [z.double(), level[:, None] / 8.0, *(f(k * angle) for k in (2, 6) for f in (torch.sin, torch.cos))]
        if self.labels:
            given = torch.zeros(len(z), dtype=torch.long) if label is None else label.expand(len(z))
            features.append(nn.functional.one_hot(given, self.labels).double())
        return sigma * z + alpha * self.net(torch.cat(features, 1))

    def diffused_score(self, alpha: Tensor, sigma: Tensor, x_t: Tensor) -> Tensor:
        """Score in the coordinates of alpha and sigma, as a closed form's."""
        level = 2.0 * (alpha.log() - sigma.log())
        size = (alpha.square() + sigma.square()).sqrt()
        return -self.noise(level, x_t / size[:, None]) / sigma[:, None]


def train(law: object, d: int, steps: int = 3000, labels: int = 0) -> Trained:
    """Denoising score matching on fresh draws of a law, over all levels that any adapter asks for.

    Args:
        law: with ``sample``; with labels, class k sees its rows shifted by k.
        d: dimensions.
        steps: of 512 rows.
        labels: how many classes.
    """
    generator = torch.Generator().manual_seed(d)
    torch.manual_seed(d)
    net = Trained(d, labels=labels)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, eps = law.sample(512, generator=generator), torch.randn(512, d, generator=generator, dtype=torch.float64)  # type: ignore[attr-defined]
        label = torch.randint(labels, (512,), generator=generator) if labels else None
        x = x if label is None else x + label[:, None]
        u = torch.rand(512, generator=generator, dtype=torch.float64)
        level = torch.where(u < 0.2, 30.0 * (u / 0.2) - 15.0, torch.logit((u - 0.2) / 0.8, 1e-3) * 2.0)
        alpha, sigma = torch.sigmoid(level).sqrt()[:, None], torch.sigmoid(-level).sqrt()[:, None]
        loss = (net.noise(level, alpha * x + sigma * eps, label) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.calls = 0
    return net.eval().requires_grad_(False)
