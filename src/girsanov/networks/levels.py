r"""The exact denoiser of levels that are saturated often and smooth otherwise, for images of up to 256 levels.

Given the other pixels, the level of a pixel has a law of its own; with :math:`y = x + r \varepsilon` the exact denoiser
is the mean of that law's posterior under the pixel's own noise. Here the law is a few atoms and a few Gaussians on the
lattice (of mass :math:`h\, \mathcal{N}(x_k; m, s^2)` at the points :math:`x_k`, with standard deviations of two steps h
or more, so that by Poisson's formula it is one but for :math:`2 e^{-2\pi^2 s^2 / h^2}`),

.. math:: P(x_i = x_k) = \sum_a w_a 1\{x_k = v_a\} + \sum_c w_c\, h\, \mathcal{N}(x_k; m_c, s_c^2),

and the network moves weights, means and deviations. Where the noise spans the lattice, :math:`r \ge 0.85 h`, a
Gaussian's part of the posterior is a Gaussian's but for :math:`2 e^{-2 \pi^2 r^2 s^2 / h^2 (r^2 + s^2)}`; below, it is
the sum over the nine nearest points, beyond which is less than :math:`e^{-13}` of it
where the law puts rows. So a pixel costs a few exponentials
instead of one for each level.

The law starts as the pixel's histogram, mixed with the Gaussian reference's own leave-one-out prediction.
"""

__all__ = ["LevelHead", "LevelPrior"]

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian
from girsanov.networks.heads import ExpertHead, NetworkCall
from girsanov.types import State

FINE = 0.85  # noise, in steps, below which lattice points are told apart
NEIGHBOURS = 4  # lattice points on each side of the nearest one that are summed over
NARROWEST = 2.0  # standard deviation of a Gaussian in steps, at least
STRETCH = (-6.0, 2.0)  # logarithm of the factor by which the network may change one
REACH = 3.0  # standard deviations of the noise within which a pixel looks as if it had the lowest level
TRUSTS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.999)  # weights of the reference's prediction that a start is chosen from
TRUST_ROWS, TRUST_NUMBERS = 128, 2**15  # rows that choose, and numbers in them


@dataclass(frozen=True)
class LevelPrior:
    """A law of the levels of each pixel: some atoms, and Gaussians on a lattice.

    Attributes:
        lowest: the lowest level, in the model's coordinates, shape ``*d``.
        step: distance of neighbouring levels.
        atoms: levels with a weight of their own, above the lowest, shape ``a``.
        means: of the Gaussians, above the lowest, shape ``c``.
        deviations: of the Gaussians, shape ``c``, two steps or more.
        log_weights: of atoms and Gaussians in each pixel, shape ``a + c *d``.
    """

    lowest: Tensor
    step: float
    atoms: Tensor
    means: Tensor
    deviations: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class _Law:
    """A prior of rows: log-weights of the atoms and of the Gaussians up to a number for each pixel, and these.

    Maps are along axis 1.
    """

    atoms: Tensor
    gaussians: Tensor
    means: Tensor
    variances: Tensor

    def __getitem__(self, rows: Tensor) -> "_Law":
        return _Law(self.atoms[rows], self.gaussians[rows], self.means[rows], self.variances[rows])


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

    inputs = 4
    deviations_at_end = 4.0
    beside_reference = False  # images of saturated pixels are far from a Gaussian
    INK = 40.0  # levels above the lowest at which the last feature map ends

    def __init__(self, reference: Gaussian, predicts: str, prior: LevelPrior) -> None:
        super().__init__(reference, predicts)
        self.register_buffer("step", torch.tensor(prior.step))
        for name in ("lowest", "atoms", "means", "deviations", "log_weights"):
            self.register_buffer(name, getattr(prior, name).float())
        self.register_buffer("trust", torch.zeros(self.KNOTS))
        self.counts = len(prior.atoms), len(prior.means) + 1
        self.outputs = self.counts[0] + 3 * self.counts[1]

    def blend(self, network: NetworkCall, log_snr: Tensor, z: State, share: Tensor) -> State:
        r = expand_as_rows(torch.exp(-0.5 * log_snr), z)
        noisy = z * expand_as_rows(torch.sigmoid(log_snr).rsqrt(), z) - self.lowest
        gaussian = self.reference.noise(log_snr, z)
        start = self._start(log_snr, noisy, r, gaussian)
        outputs = network(self._features(noisy, r, self.denoised(start, noisy, r)))
        return share * ((noisy - self.denoised(self._moved(start, outputs), noisy, r)) / r - gaussian)

    @torch.no_grad()
    def calibrate(self, x: State, generator: torch.Generator) -> None:
        """Choose the weight of the reference's prediction at every knot, of a start that has the whole share."""
        self.share.fill_(1.0)
        rows = x[: max(1, min(TRUST_ROWS, TRUST_NUMBERS // x[0].numel()))]
        for i, knot in enumerate(self.knots):
            level = knot.double().expand(len(rows))
            eps = torch.randn(rows.shape, generator=generator, dtype=x.dtype).to(x.device)
            z = torch.sigmoid(knot).sqrt() * rows + torch.sigmoid(-knot).sqrt() * eps
            errors = []
            for trust in TRUSTS:
                self.trust[i] = trust
                noise = self.reference.noise(level, z) + self.blend(
                    partial(self.silent, level), level, z, z.new_ones(())
                )
                errors.append(float(sum_event((eps - noise).square()).mean()))
            self.trust[i] = TRUSTS[errors.index(min(errors))]

    def denoised(self, law: _Law, noisy: State, r: Tensor) -> State:
        """Posterior mean of clean rows, at noise ``r`` of shape ``b 1 ...``; both rows above the lowest level."""
        fine = r.flatten() < FINE * self.step
        if bool(fine.all()):
            return self._near(law, noisy, r)
        if not bool(fine.any()):
            return self._wide(law, noisy, r)
        near, wide = fine.nonzero()[:, 0], (~fine).nonzero()[:, 0]
        parts = self._near(law[near], noisy[near], r[near]), self._wide(law[wide], noisy[wide], r[wide])
        return torch.cat(parts)[torch.cat([near, wide]).argsort()]

    def _features(self, noisy: State, r: Tensor, guess: State) -> Tensor:
        scale = (1.0 + r.square()).sqrt()
        low = torch.tanh(noisy / (REACH * r))
        ink = (guess / (self.INK * self.step)).clamp(0.0, 1.0)
        return torch.stack([noisy / scale, guess, low, ink], 1)

    def _start(self, log_snr: Tensor, noisy: State, r: Tensor, gaussian: State) -> _Law:
        """The pixel's histogram, and with the weight of trust the Gaussian prediction from the other pixels."""
        precision, count = self.reference.marginal_precision(r.flatten()), self.counts[0]
        variance = (1.0 / precision - r.double().square()).to(noisy.dtype)
        own = (noisy - gaussian / (r * precision.to(noisy.dtype)))[:, None]
        trust = expand_as_rows(self._at_knots(self.trust, log_snr), noisy)[:, None].clamp(1e-12, 1.0 - 1e-6)
        known = torch.log1p(-trust) + self.log_weights
        fixed = [expand_as_rows(t, noisy).expand_as(known[:, count:]) for t in (self.means, self.deviations.square())]
        return _Law(
            atoms=known[:, :count],
            gaussians=torch.cat([known[:, count:], trust.log().expand_as(own)], 1),
            means=torch.cat([fixed[0], own], 1),
            variances=torch.cat([fixed[1], variance[:, None]], 1).clamp_min(self._narrowest),
        )

    @property
    def _narrowest(self) -> float:
        """The least variance of a Gaussian."""
        return (NARROWEST * float(self.step)) ** 2

    def _moved(self, law: _Law, outputs: Tensor) -> _Law:
        """The law that the network makes of the start."""
        a, c = self.counts
        logits, shift, stretch = outputs.split([a + c, c, c], 1)
        atoms, gaussians = logits.split([a, c], 1)  # not normalised: a posterior's weights are, later
        variances = law.variances * torch.exp(2.0 * stretch.clamp(*STRETCH))
        means = law.means + shift
        return _Law(law.atoms + atoms, law.gaussians + gaussians, means, variances.clamp_min(self._narrowest))

    def _bells(self, law: _Law, noisy: State, r: Tensor) -> Tensor:
        """Log-weights of the atoms in the posterior, up to a number for all that is in it."""
        return law.atoms - 0.5 * ((noisy[:, None] - expand_as_rows(self.atoms, noisy)) / r[:, None]).square()

    def _wide(self, law: _Law, noisy: State, r: Tensor) -> State:
        """Posterior mean where the noise spans the lattice: that of a mixture of atoms and Gaussians."""
        y, squared = noisy[:, None], r[:, None].square()
        total = law.variances + squared
        log_weights = law.gaussians + 0.5 * ((squared / total).log() - (y - law.means).square() / total)
        weights = torch.softmax(torch.cat([self._bells(law, noisy, r), log_weights], 1), 1)
        means = (law.means * squared + y * law.variances) / total
        atoms = expand_as_rows(self.atoms, noisy)
        return (weights[:, : len(atoms)] * atoms).sum(1) + (weights[:, len(atoms) :] * means).sum(1)

    def _near(self, law: _Law, noisy: State, r: Tensor) -> State:
        """Posterior mean where it is the nearest lattice points that count."""
        steps = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, device=noisy.device)
        nearest = (noisy / self.step).round()[:, None]
        points = self.step * (nearest + expand_as_rows(steps, noisy))
        square = (points[:, :, None] - law.means[:, None]).square() / law.variances[:, None]
        density = torch.logsumexp(law.gaussians[:, None] - 0.5 * (square + law.variances[:, None].log()), 2)
        masses = density + (self.step / math.sqrt(2.0 * math.pi)).log()
        own = masses - 0.5 * ((noisy[:, None] - points) / r[:, None]).square()
        weights = torch.softmax(torch.cat([self._bells(law, noisy, r), own], 1), 1)
        atoms = expand_as_rows(self.atoms, noisy)
        return (weights[:, : len(atoms)] * atoms).sum(1) + (weights[:, len(atoms) :] * points).sum(1)
