"""The registry of contenders: what each is, where it comes from, its settings, and what it is held to."""

__all__ = ["CONTENDERS", "Contender", "Value"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

import girsanov as gv
from benchmarks.audit import _flows, _stochastic
from benchmarks.audit._problem import Problem
from girsanov.pairs import ShortChain
from girsanov.solvers import Adaptive
from girsanov.types import Estimate


@dataclass(frozen=True)
class Value:
    """A value per row, what it cost, and the interval that came with it."""

    value: Tensor
    evaluations: float
    interval: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, found: "tuple[Tensor, float] | Estimate") -> "Value":
        """From what a contender returns; a standard error of 0 is no interval."""
        if isinstance(found, tuple):
            return cls(found[0].detach().double(), found[1])
        given = bool((found.stderr > 0.0).any())
        return cls(found.value.detach(), float(found.nfe), found.interval() if given else None)


@dataclass(frozen=True)
class Contender:
    """One estimator.

    Attributes:
        name: how tables call it.
        source: paper or package.
        settings: in words.
        truth: field of the truth that it is held to.
        call: (problem, rows, seed) -> values and evaluations, or an estimate of ours.
        random: whether seeds change it.
        tiled: whether copies of a row in one call are as good as calls with other seeds.
        cheaper: other settings, for the evaluations to a true error; of solvers.
        package: what must be installed.
    """

    name: str
    source: str
    settings: str
    truth: str
    call: Callable[..., "tuple[Tensor, float] | Estimate"]
    random: bool = True
    tiled: bool = False
    cheaper: Sequence[Callable[..., "tuple[Tensor, float] | Estimate"]] = ()
    package: str = ""

    def __call__(self, problem: Problem, x: Tensor, seed: int) -> Value:
        """Values of rows ``n d``."""
        return Value.of(self.call(problem, x, seed))


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def elbo(problem: Problem, x: Tensor, seed: int, *, tuned: bool = False) -> Estimate:
    """Our bound."""
    return gv.elbo(problem.tuned if tuned else problem.pair, problem.shaped(x), generator=seeded(seed))


def density(problem: Problem, x: Tensor, seed: int, *, tuned: bool = False) -> Estimate:
    """Our formula, declared exact where it is."""
    pair = problem.tuned if tuned else problem.pair
    return gv.density(pair, x, exact=problem.exact, generator=seeded(seed))


def ode(problem: Problem, x: Tensor, seed: int, *, tolerance: float | None = None) -> Estimate:
    """Our ODE."""
    solver = None if tolerance is None else Adaptive(rtol=tolerance, atol=tolerance)
    return gv.ode_log_prob(problem.pair, x, solver=solver, generator=seeded(seed))


def chain(problem: Problem, x: Tensor, seed: int) -> Estimate:
    """The bound of what our sampler draws at its default number of steps."""
    return gv.chain_elbo(gv.AncestralChain(problem.tuned, 128), x, generator=seeded(seed))


@cache
def short_chain(problem: Problem, steps: int) -> ShortChain:
    """Our sampler of few evaluations, fitted once to the other rows."""
    assert problem.others is not None
    return gv.short_chain(problem.pair, steps, problem.others)


def few(problem: Problem, x: Tensor, seed: int, steps: int) -> Estimate:
    """Its bound."""
    return gv.chain_elbo(short_chain(problem, steps), x, paths=2, generator=seeded(seed))


LOOSER = (1e-1, 1e-2, 1e-3, 1e-4)
OURS = "girsanov"

CONTENDERS = (
    Contender(
        "uniform times, one probe", "sdeflow; Huang et al. 2021", "one time in [0, 1], one Rademacher probe", "bound",
        _stochastic.implicit, tiled=True,
    ),
    Contender(
        "importance-sampled bound", "ScoreFlow; Song et al. 2021", "1,000 times a row, from t = 1e-5 and residual",
        "bound", _stochastic.score_flow, tiled=True,
    ),
    Contender(
        "VDM's loss, continuous", "Kingma et al. 2021", "one time a row, spread over the batch, -5 to 13.3 in log-SNR",
        "bound", _stochastic.vdm, tiled=True,
    ),
    Contender(
        "VDM's loss, 1,000 steps", "Kingma et al. 2021", "the same at times k/1000", "bound",
        partial(_stochastic.vdm, steps=1000), tiled=True,
    ),
    Contender(
        "information-theoretic", "Kong et al. 2023", "100 logistic levels a row, from the data's spectrum, clip 4",
        "bound", _stochastic.information, tiled=True,
    ),
    Contender(
        "DDPM's sum", "Ho et al. 2020", "1,000 steps, linear betas, posterior variances, one draw per step", "bound",
        _stochastic.ddpm, tiled=True,
    ),
    Contender(
        "ODE, one probe", "score_sde; Song et al. 2021", "RK45, rtol = atol = 1e-5, from t = 1e-5", "ode",
        _flows.score_sde, cheaper=[partial(_flows.score_sde, tolerance=t) for t in LOOSER],
    ),
    Contender(
        "compute_likelihood, defaults", "flow_matching 1.0.10", "one Euler step, one probe", "path", _flows.meta_flow,
        package="flow_matching.solver",
    ),
    Contender(
        "compute_likelihood, as in its guide", "flow_matching 1.0.10", "100 midpoint steps, one probe", "path",
        partial(_flows.meta_flow, steps=100), cheaper=[partial(_flows.meta_flow, steps=k) for k in (2, 5, 10, 20, 50)],
        package="flow_matching.solver",
    ),
    Contender(
        "free-form flow", "zuko 1.6.0, as in sbi and lampe", "rtol 1e-5, atol 1e-6, exact trace", "path",
        _flows.zuko_flow, random=False, cheaper=[partial(_flows.zuko_flow, tolerance=t) for t in LOOSER],
    ),
    Contender(
        "dopri5, steps shared", "torchdiffeq 0.2.5, as in torchcfm", "rtol = atol = 1e-4, exact trace", "path",
        _flows.shared_steps, random=False, cheaper=[partial(_flows.shared_steps, tolerance=t) for t in LOOSER[:-1]],
    ),
    *(
        Contender(
            f"few steps, {k} evaluation{'s' if k > 1 else ''}", "a model of distilled divergences",
            "Euler" if k == 1 else f"{k // 2} step{'s' if k > 2 else ''} of Heun", "path",
            partial(_flows.few_steps, evaluations=k), random=False,
        )
        for k in (1, 2, 4, 8)
    ),
    Contender("gv.elbo", OURS, "defaults: 32 samples, nothing but the score", "bound", elbo),
    Contender("gv.elbo, tuned", OURS, "with 500 other rows", "bound", partial(elbo, tuned=True)),
    Contender("gv.density", OURS, "defaults, exact=True where the score is", "bound", density),
    Contender("gv.density, tuned", OURS, "the same, with 500 other rows", "bound", partial(density, tuned=True)),
    Contender(
        "gv.ode_log_prob", OURS, "defaults: steps of each row, exact trace", "ode", ode, random=False,
        cheaper=[partial(ode, tolerance=t) for t in LOOSER],
    ),
    Contender("gv.chain_elbo", OURS, "128 ancestral steps, 8 paths, tuned", "bound", chain),
    *(
        Contender(
            f"gv.short_chain, {k} steps", OURS, "2 paths of so many evaluations; fitted to 500 other rows", "data",
            partial(few, steps=k),
        )
        for k in (4, 8)
    ),
)  # fmt: skip
