r"""The exact denoiser of levels that are saturated often and smooth otherwise, for images of up to 256 levels.

Given the other pixels, the level of a pixel has a law of its own; with :math:`y = x + r \varepsilon` the exact denoiser
is the mean of that law's posterior under the pixel's own noise. Here the law is a few atoms and a few Gaussians on the
lattice (of mass :math:`h\, \mathcal{N}(x_k; m, s^2)` at the points :math:`x_k`, with standard deviations of a step h
or more, so that by Poisson's formula it is one but for :math:`2 e^{-2\pi^2 s^2 / h^2}`),

.. math:: P(x_i = x_k) = \sum_a w_a 1\{x_k = v_a\} + \sum_c w_c\, h\, \mathcal{N}(x_k; m_c, s_c^2),

and the network moves weights, means and deviations. Where the noise spans the lattice, :math:`r \ge 1.2 h`, a
Gaussian's part of the posterior is a Gaussian's but for :math:`2 e^{-2 \pi^2 r^2 s^2 / h^2 (r^2 + s^2)}`; below, it is
the sum over the three to thirteen nearest points, beyond which is less than
:math:`e^{-13}` of it where the law puts rows. So a pixel costs a few exponentials
instead of one for each level.

The law starts as the pixel's histogram, mixed with the Gaussian reference's own leave-one-out prediction
:math:`\mathcal{N}(y - (v + r^2)\, \hat\varepsilon_G / r,\; v)` (of a mixture of its scales, where images are smooth or
rough as a whole), where :math:`v + r^2` is the reciprocal of the pixel's entry on the diagonal of
:math:`(S + r^2 I)^{-1}`; v is between the pixel's conditional and its marginal variance, and its logarithm is
interpolated between levels a quarter apart, to half a percent.
"""

__all__ = ["LevelHead", "LevelPrior"]

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian, ScaleMixture
from girsanov.networks.heads import ExpertHead, NetworkCall
from girsanov.networks.level_law import LevelLaw, mean_among_points, mean_over_lattice
from girsanov.randomness import normal_like
from girsanov.rows import whole
from girsanov.types import State

FINE = 1.2  # noise, in steps, below which lattice points are told apart
SPANNED = 5.29  # standard deviations of the noise within which lattice points count: beyond is e^-14 of it
NARROWEST = 1.0  # standard deviation of a Gaussian in steps, at least
STRETCH = (-6.0, 2.0)  # logarithm of the factor by which the network may change one
REACH = 3.0  # standard deviations of the noise within which a pixel looks as if it had the lowest level
TRUSTS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.999)  # weights of the reference's prediction that a start is chosen from
TRUST_ROWS, TRUST_NUMBERS = 128, 2**15  # rows that choose, and numbers in them
# numbers of a law that are worked on at a time, in training and otherwise, so that they stay near the processor
TILE, LARGE_TILE = 2**17, 2**20


@dataclass(frozen=True)
class LevelPrior:
    """A law of the levels of each pixel: some atoms, and Gaussians on a lattice.

    Attributes:
        lowest: the lowest level, in the model's coordinates, shape ``*d``.
        step: distance of neighbouring levels.
        atoms: levels with a weight of their own, above the lowest, shape ``a``.
        means: of the Gaussians, above the lowest, shape ``c``.
        deviations: of the Gaussians, shape ``c``, a step or more.
        log_weights: of atoms and Gaussians in each pixel, shape ``a + c *d``.
        scales: log-weights of the factors by which the reference's covariance is another one in every image.
    """

    lowest: Tensor
    step: float
    atoms: Tensor
    means: Tensor
    deviations: Tensor
    log_weights: Tensor
    scales: Tensor | None = None


class LevelHead(ExpertHead):
    """The denoiser of atoms and Gaussians on a lattice, whose weights, means and deviations the network moves.

    Args:
        reference: the Gaussian in the same coordinates.
        predicts: accepted as of every head; this one has no residual.
        prior: the levels, and their law in every pixel before learning.

    The network gets four feature maps: the noisy row of unit scale, the start's best guess of the clean row, how near
    each pixel is to the lowest level in units of the noise, and how much of one the guess has.
    """

    lowest: Tensor
    step: Tensor
    atoms: Tensor
    means: Tensor
    deviations: Tensor
    log_weights: Tensor
    trust: Tensor
    own_log_variances: Tensor

    inputs = 4
    deviations_at_end = 4.0
    beside_reference = False  # images of saturated pixels are far from a Gaussian
    INK = 40.0  # levels above the lowest at which the last feature map ends
    FINER = 5  # levels at which variances are known, for each knot

    def __init__(self, reference: Gaussian, predicts: str, prior: LevelPrior) -> None:
        super().__init__(reference, predicts)
        self.register_buffer("step", torch.tensor(prior.step))
        for name in ("lowest", "atoms", "means", "deviations", "log_weights"):
            self.register_buffer(name, getattr(prior, name).float())
        self.register_buffer("trust", torch.zeros(self.KNOTS))
        self.others = ScaleMixture(reference, prior.scales)
        self.counts = len(prior.atoms), len(prior.means) + 1
        self.outputs = self.counts[0] + 3 * self.counts[1]
        levels = torch.linspace(float(self.knots[0]), float(self.knots[-1]), self.FINER * (self.KNOTS - 1) + 1)
        self.register_buffer("own_log_variances", self._own_log_variances(levels.double()).float())

    def _own_log_variances(self, levels: Tensor) -> Tensor:
        """Of each pixel given the others of a noisy row under the reference, shape ``k *d``."""
        squared = torch.exp(-levels).to(self.reference.mean.device)
        precision = self.reference.marginal_precision(squared.sqrt())
        return (1.0 / precision - squared.reshape(-1, *(1,) * (precision.ndim - 1))).log()

    def blend(self, network: NetworkCall, log_snr: Tensor, z: State, gaussian: State, share: Tensor) -> State:
        r = expand_as_rows(torch.exp(-0.5 * log_snr), z)
        noisy = z * expand_as_rows(torch.sigmoid(log_snr).rsqrt(), z) - self.lowest
        start = self._start(log_snr, noisy, r, gaussian)
        guess, _ = self._posterior(start, noisy, r, 0)  # what a network sees need not tell lattice points apart
        outputs = network(self._features(noisy, r, guess))
        if self.training and outputs.requires_grad and not noisy.requires_grad:
            found = _Denoised.apply(outputs, self, start, noisy, r)
            assert isinstance(found, Tensor)
        else:
            found = self.denoised(self._moved(start, outputs), noisy, r)
        return share * ((noisy - found) / r - gaussian)

    @torch.no_grad()
    def calibrate(self, x: State, generator: torch.Generator) -> None:
        """Choose the weight of the reference's prediction at every knot, of a start that has the whole share."""
        self.share.fill_(1.0)
        rows = x[: max(1, min(TRUST_ROWS, TRUST_NUMBERS // x[0].numel()))]
        for i, knot in enumerate(self.knots):
            level = knot.double().expand(len(rows))
            eps = normal_like(rows, generator)
            z = torch.sigmoid(knot).sqrt() * rows + torch.sigmoid(-knot).sqrt() * eps
            gaussian, errors = self.reference.noise(level, z), []
            for trust in TRUSTS:
                self.trust[i] = trust
                noise = gaussian + self.blend(partial(self.silent, level), level, z, gaussian, z.new_ones(()))
                errors.append(float(sum_event((eps - noise).square()).mean()))
            self.trust[i] = TRUSTS[errors.index(min(errors))]

    def denoised(self, law: LevelLaw, noisy: State, r: Tensor) -> State:
        """Posterior mean of clean rows, at noise ``r`` of shape ``b 1 ...``; both rows above the lowest level."""
        parts, order = [], []
        for count, rows in self._groups(r):
            for part in rows.split(self._tile(count, noisy, LARGE_TILE)):
                parts.append(self._posterior(law[part], noisy[part], r[part], count)[0])
                order.append(part)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _tile(self, count: int, noisy: State, numbers: int) -> int:
        """How many rows are worked on at a time, of which so many neighbours count."""
        maps = self.counts[0] + self.counts[1] * (2 * count + 1)
        return whole(numbers // (maps * noisy[0].numel()))

    def _groups(self, r: Tensor) -> list[tuple[int, Tensor]]:
        """How many lattice points on each side count, 0 where noise spans the lattice, and the rows of each number."""
        steps = r.flatten() / self.step
        counts = (SPANNED * steps - 0.5).ceil().clamp_min(1.0).masked_fill(steps >= FINE, 0.0)
        return [(int(count), (counts == count).nonzero()[:, 0]) for count in counts.unique().tolist()]

    def _posterior(
        self, law: LevelLaw, noisy: State, r: Tensor, count: int, *, slopes: bool = False
    ) -> tuple[State, Tensor]:
        """The mean of rows of which so many points on each side count, or 0 for the whole lattice, and its slopes."""
        values = expand_as_rows(self.atoms, noisy)
        if count:
            return mean_among_points(law, values, noisy, r, self.step, count, slopes=slopes)
        return mean_over_lattice(law, values, noisy, r, slopes=slopes)

    @torch.no_grad()
    def with_slopes(self, outputs: Tensor, start: LevelLaw, noisy: State, r: Tensor) -> tuple[State, Tensor]:
        """The posterior mean under the law that outputs make of the start, and its slopes in the outputs ``b o *d``."""
        mean, slopes = torch.empty_like(noisy), torch.empty_like(outputs, memory_format=torch.contiguous_format)
        gaussians = self.counts[1]
        for count, rows in self._groups(r):
            for part in rows.split(self._tile(count, noisy, TILE)):
                given = outputs[part]
                law = self._moved(start[part], given)
                mean[part], found = self._posterior(law, noisy[part], r[part], count, slopes=True)
                found[:, -gaussians:] *= self._stretched(start[part], given)
                slopes[part] = found
        return mean, slopes

    def _features(self, noisy: State, r: Tensor, guess: State) -> Tensor:
        scale = (1.0 + r.square()).sqrt()
        low = torch.tanh(noisy / (REACH * r))
        ink = (guess / (self.INK * self.step)).clamp(0.0, 1.0)
        return torch.stack([noisy / scale, guess, low, ink], 1)

    def _start(self, log_snr: Tensor, noisy: State, r: Tensor, gaussian: State) -> LevelLaw:
        """The pixel's histogram, and with the weight of trust the Gaussian prediction from the other pixels."""
        count, factor = self.counts[0], torch.zeros_like(log_snr)
        if not self.others.is_plain:
            gaussian, factor = self.others.denoised(r.flatten(), noisy + self.lowest)
        # a covariance that is c times another's under noise r is that other's under noise r / sqrt(c), times c
        variance = torch.exp(self._at_knots(self.own_log_variances, log_snr + factor) + expand_as_rows(factor, noisy))
        variance = variance.to(noisy.dtype)
        own = (noisy - gaussian * ((variance + r.square()) / r))[:, None]
        trust = expand_as_rows(self._at_knots(self.trust, log_snr), noisy)[:, None].clamp(1e-12, 1.0 - 1e-6)
        known = torch.log1p(-trust) + self.log_weights
        fixed = [expand_as_rows(t, noisy).expand_as(known[:, count:]) for t in (self.means, self.deviations.square())]
        return LevelLaw(
            atoms=known[:, :count],
            gaussians=torch.cat([known[:, count:], trust.log().expand_as(own)], 1),
            means=torch.cat([fixed[0], own], 1),
            variances=torch.cat([fixed[1], variance[:, None]], 1).clamp_min(self._narrowest),
        )

    @property
    def _narrowest(self) -> float:
        """The least variance of a Gaussian."""
        return (NARROWEST * float(self.step)) ** 2

    def _moved(self, law: LevelLaw, outputs: Tensor) -> LevelLaw:
        """The law that the network makes of the start."""
        a, c = self.counts
        logits, shift, stretch = outputs.split([a + c, c, c], 1)
        atoms, gaussians = logits.split([a, c], 1)  # not normalised: a posterior's weights are, later
        variances = law.variances * torch.exp(2.0 * stretch.clamp(*STRETCH))
        means = law.means + shift
        return LevelLaw(law.atoms + atoms, law.gaussians + gaussians, means, variances.clamp_min(self._narrowest))

    def _stretched(self, law: LevelLaw, outputs: Tensor) -> Tensor:
        """Where the logarithm of a deviation is the start's and what the network adds, and not a limit."""
        stretch = outputs[:, -self.counts[1] :]
        free = law.variances * torch.exp(2.0 * stretch) > self._narrowest
        return free & (stretch > STRETCH[0]) & (stretch < STRETCH[1])


class _Denoised(torch.autograd.Function):
    """The posterior mean of what outputs make of a start, with the slopes of :mod:`girsanov.networks.level_law`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, outputs: Tensor, head: LevelHead, start: LevelLaw, noisy: State, r: Tensor
    ) -> State:
        mean, slopes = head.with_slopes(outputs, start, noisy, r)
        ctx.save_for_backward(slopes)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: State) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None, None, None, None
