r"""Laws with known log p, their scores, right or wrong on purpose, and what each kind of estimator is held to.

A score is given as the noise prediction :math:`\hat\varepsilon(l, z)` at log-SNR l and variance-preserving z; from it
follow the score of the process that score_sde and sdeflow share (beta from 0.1 to 20), and the velocity of the straight
path with data at time 1. For Gaussian data and an affine prediction, coordinate by coordinate
:math:`\hat\varepsilon = M(l) z + b(l)`, three truths have closed forms up to an ordinary differential equation in l:

- the bound of the plug-in SDE, :math:`E\log\pi - \tfrac12 \int (\mathrm{mse} - \mathrm{sigmoid}(l))\, dl` with
  :math:`\mathrm{mse} = (1 - M\sigma)^2 + (M\alpha x + b)^2`;
- the density of the ODE, by its affine map;
- the density of the reverse SDE, by its mean and variance.
"""

__all__ = ["PROCESS", "WRONG", "Problem", "Truth", "affine_problem", "exact_problem", "problem_of"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import girsanov as gv
from girsanov.densities import Gaussian
from tests.laws import Case

PROCESS = gv.VariancePreserving()
FAR = 30.0  # log-SNR that stands for no noise at all
NEAREST = 1e-6  # of the straight path's ends, where its velocity is a quotient of zeros
Noise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Truth:
    """What is known of each row, in nats.

    Attributes:
        data: log p of the law that the rows come from.
        bound: of the plug-in SDE.
        ode: density of the process's ODE, which starts from N(0, I) at the horizon.
        path: density of the straight path's ODE, which starts from N(0, I) where nothing is left of the data.
        sde: density of the reverse SDE.
    """

    data: Tensor
    bound: Tensor
    ode: Tensor
    path: Tensor
    sde: Tensor


@dataclass(frozen=True)
class Problem:
    """A score to evaluate likelihoods with.

    Attributes:
        name: how tables call it.
        noise: noise prediction at log-SNR ``b`` and variance-preserving rows ``b d``.
        d: number of dimensions.
        spectrum: eigenvalues of the covariance of the data.
        pair: the same score as a pair, nothing else given.
        tuned: the pair with a Gaussian reference and levels fitted to other rows.
        exact: whether the score is that of the data.
        log_snr_range: where the score is known.
        shape: of a row of the pair, where that is not flat; it then computes in single precision.
        others: rows of the data that are not evaluated, ``m d``.
    """

    name: str
    noise: Noise
    d: int
    spectrum: Tensor
    pair: gv.ScorePair
    tuned: gv.ScorePair
    exact: bool = True
    log_snr_range: tuple[float, float] = (-math.inf, math.inf)
    shape: tuple[int, ...] | None = None
    others: Tensor | None = None

    def shaped(self, x: Tensor) -> Tensor:
        """Rows ``n d`` as the pair takes them."""
        return x if self.shape is None else x.float().reshape(len(x), *self.shape)

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """Score of the process at times ``b``."""
        return score_of(self.noise)(t, x)

    def velocity(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Velocity of the straight path ``t x_1 + (1 - t) x_0`` at one time, data at 1."""
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)[:1].clamp(NEAREST, 1.0 - NEAREST)
        size = (t.square() + (1.0 - t).square()).sqrt()
        level = (2.0 * (t.log() - torch.log1p(-t))).expand(len(x))
        eps = self.noise(level, x / size)
        return (x - (1.0 - t) * eps) / t - eps

    @property
    def times(self) -> tuple[float, float]:
        """First and last time at which the score is known."""
        low, high = self.log_snr_range
        low = max(low, PROCESS.end_log_snr)
        first = 0.0 if math.isinf(high) else float(PROCESS.time(torch.tensor(high, dtype=torch.float64)))
        return first, float(PROCESS.time(torch.tensor(low, dtype=torch.float64)))


def score_of(noise: Noise) -> Callable[[Tensor, Tensor], Tensor]:
    """The score under the process, of a noise prediction."""

    def score(t: Tensor, x: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        _, sigma = PROCESS.marginal(t)
        return -noise(PROCESS.log_snr(t), x) / sigma[:, None]

    return score


def problem_of(name: str, noise: Noise, case: Case, held: int, spectrum: Tensor, *, exact: bool) -> Problem:
    """A problem, with a pair fitted to ``held`` rows that are not evaluated; without any, the same pair."""
    pair, rows = gv.ScorePair(score_of(noise), PROCESS), case.rows(max(held, 1), seed=9).flatten(1)
    tuned = gv.tune(pair.replace(reference=Gaussian.fit(rows)), rows) if held else pair
    return Problem(name, noise, rows.shape[1], spectrum, pair, tuned, exact, others=rows)


def exact_problem(name: str, case: Case, x: Tensor, held: int = 500) -> tuple[Problem, Truth]:
    """A law with its own score: all truths are log p."""
    truth = case.log_prob(x)
    spectrum = torch.linalg.eigvalsh(case.moments()[1])
    problem = problem_of(name, case.density.noise, case, held, spectrum, exact=True)
    return problem, Truth(truth, truth, truth, truth, truth)


@dataclass(frozen=True)
class Affine:
    """Coefficients of a noise prediction ``M z + b`` per coordinate, at log-SNRs ``k``: each ``k d``."""

    at: Callable[[Tensor], tuple[Tensor, Tensor]]

    def __call__(self, log_snr: Tensor, z: Tensor) -> Tensor:
        gain, shift = self.at(log_snr)
        return gain * z + shift


def scales(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Variance-preserving scales, each ``k 1``."""
    return torch.sigmoid(log_snr).sqrt()[:, None], torch.sigmoid(-log_snr).sqrt()[:, None]


def gaussian_noise(mean: Tensor, variance: Tensor) -> Affine:
    """The exact prediction for independent Gaussian coordinates."""

    def at(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = scales(log_snr)
        gain = sigma / (alpha.square() * variance + sigma.square())
        return gain, -gain * alpha * mean

    return Affine(at)


def scaled(mean: Tensor, variance: Tensor) -> Affine:
    """A tenth too far from the standard normal's prediction."""
    right = gaussian_noise(mean, variance)

    def at(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        (gain, shift), (_, sigma) = right.at(log_snr), scales(log_snr)
        return sigma + 1.1 * (gain - sigma), 1.1 * shift

    return Affine(at)


def offset(mean: Tensor, variance: Tensor) -> Affine:
    """The right prediction and a constant field, 0.3 alpha sigma in every coordinate."""
    right = gaussian_noise(mean, variance)

    def at(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        (gain, shift), (alpha, sigma) = right.at(log_snr), scales(log_snr)
        return gain, shift + 0.3 * alpha * sigma

    return Affine(at)


#: wrong scores of independent Gaussian coordinates
WRONG: dict[str, Callable[[Tensor, Tensor], Affine]] = {
    "scaled by 1.1": scaled,
    "of variances half again as large": lambda mean, variance: gaussian_noise(mean, 1.5 * variance),
    "an offset field added": offset,
}


def affine_problem(name: str, case: Case, x: Tensor, held: int = 500) -> tuple[Problem, Truth]:
    """Gaussian data with a wrong score, and the closed truths of it; all in the axes of the covariance."""
    variance, axes = torch.linalg.eigh(case.covariances[0])
    affine = WRONG[name](case.means[0] @ axes, variance)

    def noise(log_snr: Tensor, z: Tensor) -> Tensor:
        return affine(log_snr, z @ axes) @ axes.T

    problem = problem_of(name, noise, case, held, variance, exact=False)
    y, low = x @ axes, PROCESS.end_log_snr
    return problem, Truth(
        case.log_prob(x), _bound(affine, y), _ode(affine, y, low), _ode(affine, y, -FAR), _sde(affine, y)
    )


def _solve(change: Callable[[Tensor, Tensor], Tensor], start: Tensor, ends: tuple[float, float]) -> Tensor:
    """End value of an ordinary differential equation in log-SNR, any shape."""

    def flat(level: float, state: object) -> object:
        at = torch.tensor([level], dtype=torch.float64)
        return change(at, torch.as_tensor(state, dtype=torch.float64).reshape(start.shape)).flatten().numpy()

    found = solve_ivp(flat, ends, start.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12)
    return torch.from_numpy(found.y[:, -1]).reshape(start.shape)


def _normal(x: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (x.square() / variance + variance.log() + math.log(2.0 * math.pi))


def _bound(noise: Affine, x: Tensor) -> Tensor:
    low = PROCESS.end_log_snr

    def change(level: Tensor, _: Tensor) -> Tensor:
        (gain, shift), (alpha, sigma) = noise.at(level), scales(level)
        return (1.0 - gain * sigma).square() + (gain * alpha * x + shift).square() - torch.sigmoid(level)

    integral = _solve(change, torch.zeros_like(x), (low, FAR))
    alpha, sigma = scales(torch.tensor([low], dtype=torch.float64))
    prior = -0.5 * (math.log(2.0 * math.pi) + (alpha * x).square() + sigma.square())
    return (prior - 0.5 * integral).sum(1)


def _ode(noise: Affine, x: Tensor, low: float) -> Tensor:
    def change(level: Tensor, state: Tensor) -> Tensor:  # y = z / alpha moves by dy/dr = eps, r = sigma / alpha
        (gain, shift), (alpha, sigma) = noise.at(level), scales(level)
        y, log_slope = state
        return -0.5 * sigma / alpha * torch.stack([gain * alpha * y + shift, (gain * alpha).expand_as(log_slope)])

    y, log_slope = _solve(change, torch.stack([x, torch.zeros_like(x)]), (FAR, low))
    alpha, _ = scales(torch.tensor([low], dtype=torch.float64))
    return (_normal(alpha * y, torch.ones(())) + alpha.log() + log_slope).sum(1)


def _sde(noise: Affine, x: Tensor) -> Tensor:
    low = PROCESS.end_log_snr

    def change(level: Tensor, state: Tensor) -> Tensor:
        (gain, shift), (_, sigma) = noise.at(level), scales(level)
        rate = 0.5 * sigma.square() - sigma * gain
        mean, variance = state
        return torch.cat([rate * mean - sigma * shift, 2.0 * rate * variance + sigma.square()])

    d = x.shape[1]
    mean, variance = _solve(change, torch.stack([torch.zeros(d), torch.ones(d)]), (low, FAR))
    return _normal(x - mean, variance).sum(1)
