r"""Stein tests in linear time: for many rows, where all pairs are too many.

**Finite set.** With the Stein features at J places :math:`v_j`,
:math:`\xi(x, v) = b(x)\, k(x, v) + m(x)^\top \nabla_x k(x, v)`, and
:math:`\tau(x) = \mathrm{vec}(\xi(x, v_j)) / \sqrt{r J}`,

.. math::
    \mathrm{FSSD}^2 = \frac{1}{n (n - 1)} \sum_{i \ne j} \tau(x_i) \cdot \tau(x_j)
    = \frac{\| \sum_i \tau(x_i) \|^2 - \sum_i \| \tau(x_i) \|^2}{n (n - 1)}

(note of paper 4, section 2.5; Jitkrittum et al. 2017). **Incomplete U-statistic.** The mean of k0 over the pairs
(i, i + r) for r = 1 .. R alone (Schrab et al. 2022). Both take their null from random signs shared by all kernels.
"""

__all__ = ["FiniteSet", "IncompleteU", "stein_features"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from girsanov.stein.gram import paired
from girsanov.stein.kernels import RadialKernel
from girsanov.stein.nulls import Method, Outcome, Problem, SignForms, random_signs
from girsanov.stein.points import SteinPoints
from girsanov.types import InputError

CHUNK = 8192  # points at once
TRAINING_ROWS = 10_000  # places learn from at most so many
LEARNING_RATE = 0.05
FLOOR = 1e-4  # added to the standard deviation of the power criterion, in units of the kernel's diagonal


def stein_features(points: SteinPoints, kernel: RadialKernel, locations: Tensor) -> Tensor:
    """Features tau of each point, shape ``n r J`` over locations ``J d`` about the points' centre; differentiable.

    Example:
        >>> from girsanov.stein.kernels import InverseMultiquadric
        >>> points = SteinPoints.at(torch.tensor([[-1.0], [1.0]]), lambda x: -x)
        >>> stein_features(points, InverseMultiquadric(1.0), torch.zeros(1, 1))[:, 0, 0]
        tensor([ 1.0607, -1.0607])
    """
    x, m = points.x, points.m
    u = torch.cdist(x, locations, compute_mode="donot_use_mm_for_euclid_dist").square()
    phi, first, _ = kernel.profile(u)
    if m is None or m.ndim < 3:
        scale = x.new_ones(len(x), 1) if m is None else (m[:, None] if m.ndim == 1 else m)
        projected = scale[:, :, None] * (x[:, :, None] - locations.T)
    else:
        projected = torch.einsum("ndr,nd->nr", m, x)[:, :, None] - torch.einsum("ndr,jd->nrj", m, locations)
    features = points.b[:, :, None] * phi[:, None] + 2.0 * (first * phi)[:, None] * projected
    return features / math.sqrt(features.shape[1] * features.shape[2])


@final
@dataclass(frozen=True)
class FiniteSet(Method):
    """Finite-set discrepancy: O(n) in rows and in memory.

    Args:
        locations: number J of places, drawn from a Gaussian fitted to the rows.
        optimise: move the places, and scale the bandwidth, to the best power on a part of the rows; the rest is tested.
        train: share of rows for that.
        steps: steps of that.
        resamples: number of replicates B.

    Example:
        >>> from girsanov.stein.goodness import goodness_of_fit
        >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> goodness_of_fit(x, lambda x: -x + 0.2, method=FiniteSet()).pvalue
        0.001
    """

    locations: int = 5
    optimise: bool = False
    train: float = 0.2
    steps: int = 100
    resamples: int = 999

    def run(self, problem: Problem) -> Outcome:
        _require_pointwise(problem)
        if self.locations < 1 or not 0.0 < self.train < 1.0:
            raise InputError("A finite set needs one location or more, and a training share between 0 and 1")
        points, kernels = problem.points, problem.radial
        places = [_gaussian_draws(points.x, self.locations, problem.generator)] * len(kernels)
        if self.optimise:
            order = torch.randperm(len(points), generator=problem.generator).to(points.x.device)
            held = max(2, min(TRAINING_ROWS, round(self.train * len(points))))
            learned = [self._learn(points[order[:held]], kernel, places[0]) for kernel in kernels]
            points, places = points[order[held:]], [place for _, place in learned]
            kernels = [kernel for kernel, _ in learned]
        return _feature_outcome(points, kernels, places, self.resamples, problem.generator)

    def _learn(self, points: SteinPoints, kernel: RadialKernel, start: Tensor) -> tuple[RadialKernel, Tensor]:
        """Ascend the ratio of the statistic to its standard deviation where the model is wrong."""
        with torch.enable_grad():
            places = start.clone().requires_grad_()
            length = float(kernel.squared_bandwidth) ** 0.5
            factor = start.new_zeros(()).requires_grad_()
            optimiser = torch.optim.Adam(
                [{"params": places, "lr": LEARNING_RATE * float(points.x.std())}, {"params": factor}], lr=LEARNING_RATE
            )
            best = (-math.inf, kernel, start)
            for _ in range(self.steps):
                optimiser.zero_grad()
                scaled = replace(kernel, bandwidth=length * factor.exp())
                power = _power(stein_features(points, scaled, places).flatten(1))
                if float(power.detach()) > best[0]:
                    current = replace(kernel, bandwidth=length * float(factor.detach().exp()))
                    best = (float(power.detach()), current, places.detach().clone())
                (-power).backward()
                optimiser.step()
        return best[1:]


@final
@dataclass(frozen=True)
class IncompleteU(Method):
    """Incomplete U-statistic over the pairs (i, i + 1) to (i, i + R): O(n R).

    Args:
        diagonals: number R; the complete statistic has n - 1.
        resamples: number of replicates B.

    Example:
        >>> from girsanov.stein.goodness import goodness_of_fit
        >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> goodness_of_fit(x, lambda x: -x + 0.5, method=IncompleteU(50)).pvalue < 0.05
        True
    """

    diagonals: int = 100
    resamples: int = 999

    def run(self, problem: Problem) -> Outcome:
        _require_pointwise(problem)
        points, kernels, n = problem.points, problem.radial, len(problem.points)
        if not 1 <= self.diagonals < n:
            raise InputError(f"An incomplete statistic of {n} rows has 1 to {n - 1} diagonals; got {self.diagonals}")
        signs = random_signs(n, self.resamples, problem.generator).to(points.x.device)
        rows, squares, largest = (points.x.new_zeros(len(kernels), k, dtype=torch.float64) for k in (n, 1, 1))
        forms = rows.new_zeros(len(kernels), self.resamples)
        for offset in range(1, self.diagonals + 1):
            for start in range(0, n - offset, CHUNK):
                stop = min(start + CHUNK, n - offset)
                left, right = slice(start, stop), slice(start + offset, stop + offset)
                values = paired(points[left], points[right], kernels)
                rows[:, left] += values
                rows[:, right] += values
                squares += values.square().sum(1, keepdim=True)
                largest = torch.maximum(largest, values.abs().amax(1, keepdim=True))
                forms += (values.to(points.x) @ (signs[left] * signs[right]).to(points.x)).double()
        pairs = sum(n - offset for offset in range(1, self.diagonals + 1))
        mean = 0.5 * rows.sum(1) / pairs
        effects = mean / (squares[:, 0] / pairs).sqrt()
        stderr = self._stderr(rows, squares[:, 0], mean, pairs)
        spread = (squares / largest.square().clamp_min(torch.finfo(torch.float64).tiny))[:, 0]
        moving = SignForms.of(rows, signs, 2 * pairs)
        return Outcome(mean, forms / pairs, effects, stderr, float(n), n, spread, moving)

    def _stderr(self, rows: Tensor, squares: Tensor, mean: Tensor, pairs: int) -> Tensor:
        r"""Standard error of a mean over pairs, by the covariances of pairs that share a row.

        With h centred, these sum up to :math:`\sum_i (\sum_j h_{ij})^2 - \sum_{i<j} h_{ij}^2`, where pairs on their
        own have :math:`\sum_{i<j} h_{ij}^2`; shared rows add to it, so it is never less.
        """
        index = torch.arange(rows.shape[1], device=rows.device)
        partners = index.clamp_max(self.diagonals) + index.flip(0).clamp_max(self.diagonals)
        alone = squares - pairs * mean.square()
        shared = (rows - mean[:, None] * partners).square().sum(1) - alone
        return torch.maximum(shared, alone).sqrt() / pairs


def _feature_outcome(
    points: SteinPoints,
    kernels: Sequence[RadialKernel],
    places: Sequence[Tensor],
    resamples: int,
    generator: torch.Generator,
) -> Outcome:
    """Sums of features and of features with random signs, chunk by chunk."""
    n = len(points)
    members = list(zip(kernels, places, strict=True))
    sums, norms = [], points.x.new_zeros(len(kernels), dtype=torch.float64)
    for start in range(0, n, CHUNK):
        part = points[start : start + CHUNK]
        signs = random_signs(len(part), resamples, generator).to(part.x)
        signs = torch.cat([signs.new_ones(len(part), 1), signs], 1)  # the first column is the statistic's
        taus = [stein_features(part, *member).flatten(1) for member in members]
        sums.append(torch.stack([(signs.T @ tau).double() for tau in taus]))
        norms += torch.stack([tau.square().sum(dtype=torch.float64) for tau in taus])
    total = torch.stack(sums).sum(0)
    values = (total.square().sum(2) - norms[:, None]) / (n * (n - 1))
    stderr = torch.stack(
        [_projected_stderr(points, *each) for each in zip(kernels, places, total[:, 0] / n, strict=True)]
    )
    # with random signs, the statistic's variance is 2 / (n (n - 1)) times the mean square over pairs
    effects = values[:, 0] / (values[:, 1:].square().mean(1) * n * (n - 1) / 2).sqrt()
    return Outcome(values[:, 0], values[:, 1:], effects, stderr, float(n), n)


def _projected_stderr(points: SteinPoints, kernel: RadialKernel, places: Tensor, mean: Tensor) -> Tensor:
    """Standard error from the projection tau(x) . mean of each point, in a second pass over the features."""
    starts = range(0, len(points), CHUNK)
    features = (stein_features(points[start : start + CHUNK], kernel, places) for start in starts)
    projection = torch.cat([part.flatten(1).double() @ mean for part in features])
    return 2.0 * projection.std() / math.sqrt(len(points))


def _power(tau: Tensor) -> Tensor:
    """Statistic over its standard deviation under the alternative, to be made large."""
    n = len(tau)
    mean, norm = tau.mean(0), tau.square().sum(1).mean()
    statistic = (n * mean.square().sum() - norm) / (n - 1)
    variance = 4.0 * (tau @ mean).var() + (FLOOR * norm).square()
    return statistic / (variance + torch.finfo(tau.dtype).tiny).sqrt()


def _gaussian_draws(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws from the Gaussian with mean 0 and the covariance of centred rows, without forming the covariance."""
    mix = torch.randn(count, len(x), generator=generator).to(x) if len(x) <= CHUNK else None
    if mix is None:
        chosen = torch.randperm(len(x), generator=generator)[:CHUNK].to(x.device)
        return _gaussian_draws(x[chosen] - x[chosen].mean(0), count, generator)
    return mix @ x / math.sqrt(len(x))


def _require_pointwise(problem: Problem) -> None:
    if problem.directions is not None:
        raise InputError("Linear-time tests have no slices: leave slices out, or take the wild bootstrap")
