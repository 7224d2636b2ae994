r"""Estimators that integrate an ordinary differential equation, by the packages that people use for it.

score_sde's is written from its formula on SciPy; flow_matching, zuko and torchdiffeq are called. The velocity is that
of the straight path, data at time 1 where flow_matching stands and at 0 where zuko and torchcfm's notebooks run it.
"""

__all__ = ["Counted", "few_steps", "flow_matching_from", "meta_flow", "score_sde", "shared_steps", "zuko_flow"]

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.audit._problem import PROCESS, Problem
from benchmarks.audit._stochastic import normal

Field = Callable[[Tensor, Tensor], Tensor]  #: (time, rows) -> velocity


def flow_matching_from(folder: str | None) -> ModuleType | None:
    """flow_matching's solvers, as installed or from a folder put last on the path; ``None`` where absent."""
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module("flow_matching.solver")
    except ImportError:
        return None


class Counted:
    """A field that counts its calls."""

    def __init__(self, field: Field) -> None:
        self.field, self.calls = field, 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate and count."""
        self.calls += 1
        return self.field(t, x)


def probed(field: Field, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Value, and the divergence that one probe says."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(t, x)
        (product,) = torch.autograd.grad(value, x, probe)
    return value.detach(), (product * probe).sum(1)


def traced(field: Field, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value, and the exact divergence."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(t, x)
        basis = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape)
        (rows,) = torch.autograd.grad(value, x, basis, is_grads_batched=True)
    return value.detach(), rows.diagonal(dim1=0, dim2=2).sum(1)


def score_sde(
    problem: Problem, x: Tensor, seed: int, tolerance: float = 1e-5, nearest: float = 1e-5
) -> tuple[Tensor, float]:
    """score_sde: RK45 over the whole batch from t = 1e-5, which is where its density is taken, with one probe."""
    probe = 2.0 * torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)) - 1.0
    first, last = max(problem.times[0], nearest), problem.times[1]

    def drift(t: Tensor, z: Tensor) -> Tensor:
        rate, squared = PROCESS.rates(t)
        return rate * z - 0.5 * squared * problem.score(t, z)

    field = Counted(drift)

    def change(t: float, state: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(state[: x.numel()].copy()).reshape(x.shape)
        value, divergence = probed(field, torch.tensor([t]), z.to(x), probe.to(x))
        return np.concatenate([value.flatten().double().numpy(), divergence.double().numpy()])

    start = np.concatenate([x.flatten().double().numpy(), np.zeros(len(x))])
    found = solve_ivp(change, (first, last), start, rtol=tolerance, atol=tolerance, method="RK45")
    end = torch.from_numpy(found.y[:, -1])
    return normal(end[: x.numel()].reshape(x.shape)) + end[x.numel() :], 3.0 * field.calls


def meta_flow(
    problem: Problem, x: Tensor, seed: int, steps: int | None = None, *, exact: bool = False
) -> tuple[Tensor, float]:
    """flow_matching's ``compute_likelihood``: its defaults, or midpoint steps as in its guide."""
    solver = importlib.import_module("flow_matching.solver")
    field = Counted(problem.velocity)
    ode = solver.ODESolver(lambda x, t: field(t, x))
    given = {"step_size": None} if steps is None else {"step_size": 1.0 / steps, "method": "midpoint"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, value = ode.compute_likelihood(x_1=x, log_p0=normal, exact_divergence=exact, **given)
    return value, field.calls * (1.0 + 2.0 * (problem.d if exact else 1))


def backward(problem: Problem) -> Counted:
    """The velocity with data at time 0, counted."""
    return Counted(lambda t, x: -problem.velocity(1.0 - torch.as_tensor(t, dtype=torch.float64), x))


def zuko_flow(problem: Problem, x: Tensor, seed: int, tolerance: float | None = None) -> tuple[Tensor, float]:
    """Zuko's free-form transform around the velocity, as sbi and lampe do, at its defaults: rtol 1e-5, exact trace."""
    del seed
    from zuko.distributions import DiagNormal, NormalizingFlow
    from zuko.transforms import FreeFormJacobianTransform

    field = backward(problem)
    given = {} if tolerance is None else {"rtol": tolerance, "atol": 0.1 * tolerance}
    transform = FreeFormJacobianTransform(field, t0=x.new_tensor(0.0), t1=x.new_tensor(1.0), **given)
    zeros = torch.zeros(problem.d).to(x)
    with torch.no_grad():
        value = NormalizingFlow(transform, DiagNormal(zeros, zeros + 1.0)).log_prob(x)
    return value, field.calls * (1.0 + 2.0 * problem.d)


def shared_steps(problem: Problem, x: Tensor, seed: int, tolerance: float = 1e-4) -> tuple[Tensor, float]:
    """Torchdiffeq's dopri5 on rows and traces together, exact trace, at the tolerances of torchcfm's notebooks."""
    del seed
    from torchdiffeq import odeint

    field = backward(problem)
    with torch.no_grad():
        ends, traces = odeint(
            lambda t, state: traced(field, t, state[0]),
            (x, torch.zeros(len(x)).to(x)),
            torch.tensor([0.0, 1.0]).to(x),
            method="dopri5",
            rtol=tolerance,
            atol=tolerance,
        )
    return normal(ends[-1]) + traces[-1], field.calls * (1.0 + 2.0 * problem.d)


def few_steps(problem: Problem, x: Tensor, seed: int, evaluations: int = 1) -> tuple[Tensor, float]:
    """A model of few-step likelihoods: Heun's steps (Euler's for one evaluation), the divergence exact at each.

    A distilled network returns velocity and divergence together, so a pair of them counts as one evaluation.
    """
    del seed
    field, steps = backward(problem), max(1, evaluations // 2)
    total, size = torch.zeros(len(x)).to(x), 1.0 / steps
    for k in range(steps):
        value, trace = traced(field, torch.tensor([k * size]), x)
        if evaluations > 1:
            second, other = traced(field, torch.tensor([(k + 1) * size]), x + size * value)
            value, trace = 0.5 * (value + second), 0.5 * (trace + other)
        x, total = x + size * value, total + size * trace
    return normal(x) + total, float(field.calls)
