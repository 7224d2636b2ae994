r"""From what a network returns to a deviation of the noise prediction from the reference's.

:class:`ResidualHead` reads one map as the residual of a prediction in whitened coordinates.

:class:`LatticeHead` also knows that dequantised data are uniform on the cells of a lattice. With
:math:`y = x + r \varepsilon`, :math:`r = e^{-l/2}`, the exact denoiser of such data is a mixture over cells,

.. math::
    \hat\varepsilon_i = -\sum_k P_{ik}\, E\Big[\frac{x_i - y_i}{r} \,\Big|\, x_i \in \text{cell}_k\Big], \qquad
    P_{ik} \propto \pi_{ik}(y)\; P(\mathcal{N}(y_i, r^2) \in \text{cell}_k),

whose truncated-normal moments are closed form; only the weights :math:`\pi`, what the other coordinates say about
the cell, need learning. They start from the reference's own leave-one-out prediction of x_i mixed with the
column's histogram, and the network adds logits. A gate in log-SNR hands over from the residual to the lattice
while the noise still spans several cells.

:class:`MixtureHead` has a Gaussian mixture's exact denoiser to correct instead of the Gaussian's alone.
"""

__all__ = ["CellHistogram", "ExpertHead", "Head", "LatticeHead", "MixtureHead", "ResidualHead"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.randomness import normal_like
from girsanov.types import State

#: d noise / d prediction in whitened variance-preserving coordinates, as a function of p
RESIDUAL_SCALE: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": torch.ones_like,
    "score": lambda p: -(1.0 - p).sqrt(),
    "denoised": lambda p: -(p / (1.0 - p)).sqrt(),
    "v": torch.sqrt,
    "flow": lambda p: p.sqrt() / (p.sqrt() + (1.0 - p).sqrt()),
    "control": lambda p: -torch.ones_like(p),
}

NetworkCall = Callable[[Tensor], Tensor]  #: ``features b f *d -> outputs b o *d``, or ``b *d -> b *d`` without maps


class Head(nn.Module, ABC):
    """Turns network outputs into a deviation.

    Attributes:
        inputs: number of maps that the network gets; 0 where it gets the rows as they are.
        outputs: number of maps that it returns; 0 where it returns rows.
        deviations_at_end: where a categorical decoder takes over: half a lattice step in standard deviations of noise.
        beside_reference: whether the reference's error under the same noise says much about the model's.
    """

    inputs: int
    outputs: int
    deviations_at_end: float = 3.0
    beside_reference: bool = True

    @abstractmethod
    def deviation(self, network: NetworkCall, log_snr: Tensor, z: State, noise: State | None = None) -> State:
        """Noise prediction minus the reference's.

        Args:
            network: that is asked.
            log_snr: levels ``b``.
            z: variance-preserving states ``b *d``.
            noise: the reference's prediction there, where it is known already.
        """

    def silent(self, log_snr: Tensor, features: Tensor) -> Tensor:
        """What a network returns that adds nothing to the reference, as an untrained one does."""
        del log_snr
        return features.new_zeros(len(features), self.outputs, *features.shape[2:])


class ResidualHead(Head):
    """One map in (the whitened input), one out (the residual of ``predicts`` in whitened coordinates)."""

    inputs = 1
    outputs = 1

    def __init__(self, reference: Gaussian, predicts: str) -> None:
        super().__init__()
        self.reference = reference
        self.predicts = predicts

    def deviation(self, network: NetworkCall, log_snr: Tensor, z: State, noise: State | None = None) -> State:
        del noise
        return self.colour(log_snr, network(self.reference.whiten(log_snr, z)[:, None])[:, 0])

    def colour(self, log_snr: Tensor, residual: State) -> State:
        """Turn the residual that the network predicts into a deviation of the noise prediction."""
        scale = RESIDUAL_SCALE[self.predicts]
        return self.reference.function_at(
            log_snr, residual, lambda alpha2, sigma2, v: scale(alpha2 * v / (alpha2 * v + sigma2))
        )


@dataclass(frozen=True)
class CellHistogram:
    """Cells of equal width per dimension, in the coordinates of the model.

    Attributes:
        lower: lower edge of the first cell, shape ``*d``.
        step: cell width, shape ``*d``; 0 marks a continuous dimension.
        histogram: log-frequencies of the cells in the training data, shape ``*d k``.
    """

    lower: Tensor
    step: Tensor
    histogram: Tensor


class ExpertHead(Head):
    """A head with a closed-form expert: deviation = residual + share * (expert's deviation - what it replaces).

    The share is a learned function of log-SNR. It starts at zero, so that an untrained model is the reference
    exactly, and :meth:`calibrate` sets it by least squares before the first step.
    """

    KNOTS = 25

    knots: Tensor

    def __init__(self, reference: Gaussian, predicts: str) -> None:
        super().__init__()
        self.residual = ResidualHead(reference, predicts)
        self.reference = reference
        self.register_buffer("knots", torch.linspace(-15.0, 15.0, self.KNOTS))
        self.share = nn.Parameter(torch.zeros(self.KNOTS))

    @abstractmethod
    def blend(self, network: NetworkCall, log_snr: Tensor, z: State, gaussian: State, share: Tensor) -> State:
        """The deviation under a given share, broadcastable with ``z``, from the reference's prediction."""

    def deviation(self, network: NetworkCall, log_snr: Tensor, z: State, noise: State | None = None) -> State:
        share = expand_as_rows(self._at_knots(self.share, log_snr), z)
        return self.blend(network, log_snr, z, self.reference.noise(log_snr, z) if noise is None else noise, share)

    @torch.no_grad()
    def calibrate(self, x: State, generator: torch.Generator) -> None:
        """Set the share of the untrained expert by least squares at every knot, on clean rows ``n *d``."""
        for i, knot in enumerate(self.knots):
            level = knot.double().expand(len(x))
            eps = normal_like(x, generator)
            z = torch.sigmoid(knot).sqrt() * x + torch.sigmoid(-knot).sqrt() * eps
            gaussian = self.reference.noise(level, z)
            full = self.blend(partial(self.silent, level), level, z, gaussian, torch.ones(()))
            energy = sum_event(full.square()).sum()
            target = sum_event(full * (eps - gaussian)).sum()
            self.share[i] = (target / energy).clamp(0.0, 1.0).float() if energy > 0 else 0.0

    def _at_knots(self, values: Tensor, log_snr: Tensor) -> Tensor:
        """Piecewise-linear interpolation of values ``k *d`` at levels as far apart from the first knot to the last."""
        first, last = self.knots[0], self.knots[-1]
        position = ((log_snr - first) / (last - first) * (len(values) - 1)).clamp(0.0, len(values) - 1.001)
        left = position.long()
        part = expand_as_rows((position - left).to(values.dtype), values[:1])
        return (1.0 - part) * values[left] + part * values[left + 1]


class MixtureHead(ExpertHead):
    """The exact denoiser of a Gaussian mixture as expert, corrected by the network.

    Args:
        reference: the Gaussian in the same coordinates.
        predicts: meaning of the residual map.
        mixture: fitted to the same rows.

    The network gets the whitened input and what the mixture adds to the Gaussian, both of unit scale.
    """

    inputs = 2
    outputs = 1

    def __init__(self, reference: Gaussian, predicts: str, mixture: GaussianMixture) -> None:
        super().__init__(reference, predicts)
        self.mixture = mixture

    def blend(self, network: NetworkCall, log_snr: Tensor, z: State, gaussian: State, share: Tensor) -> State:
        expert = self.mixture.noise(log_snr, z) - gaussian
        added = self.reference.function_at(
            log_snr, expert, lambda alpha2, sigma2, v: ((alpha2 * v + sigma2) / (alpha2 * v)).sqrt()
        )
        outputs = network(torch.stack([self.reference.whiten(log_snr, z), added], 1))
        return share * expert + self.residual.colour(log_snr, outputs[:, 0])


class LatticeHead(ExpertHead):
    """The exact denoiser's form for data that are uniform on lattice cells, with learned cell logits.

    Args:
        reference: the Gaussian in the same coordinates.
        predicts: meaning of the residual map.
        lattice: the cells.

    The network gets three feature maps (whitened input, best guess of the clean point, noisy point, all of unit
    scale) and returns the residual and one logit map per cell.
    """

    lower: Tensor
    step: Tensor
    discrete: Tensor
    histogram: Tensor
    scale: Tensor

    inputs = 3
    GATE = (-6.0, -3.0)  # log of (cell width / noise)^2 between which the lattice takes over
    TRUST = 0.1  # weight of the histogram against the Gaussian's leave-one-out prediction

    def __init__(self, reference: Gaussian, predicts: str, lattice: CellHistogram) -> None:
        super().__init__(reference, predicts)
        self.cells = lattice.histogram.shape[-1]
        self.outputs = 1 + self.cells
        self.register_buffer("lower", lattice.lower.float())
        self.register_buffer("step", torch.where(lattice.step > 0, lattice.step, 1.0).float())
        self.register_buffer("discrete", lattice.step > 0)
        self.register_buffer("histogram", lattice.histogram.float())
        self.register_buffer("scale", reference.marginal_variance().sqrt().float())

    def blend(self, network: NetworkCall, log_snr: Tensor, z: State, gaussian: State, share: Tensor) -> State:
        gate = self._gate(log_snr, z) * share
        r = torch.exp(-0.5 * log_snr)
        noisy = z * expand_as_rows(torch.sigmoid(log_snr).rsqrt(), z)
        weights, moments = self._cells(noisy, r, gaussian)
        denoised = noisy - expand_as_rows(r, z) * gaussian
        guess = denoised + gate * (self._centre(weights) - denoised)
        outputs = network(self._features(log_snr, z, gate, guess, noisy, r))
        residual = self.residual.colour(log_snr, outputs[:, 0])
        logits = outputs[:, 1:].movedim(1, -1)
        lattice = -(torch.softmax(weights + logits, -1) * moments).sum(-1)
        return residual + gate * (lattice - gaussian - residual)

    def _features(self, log_snr: Tensor, z: State, gate: Tensor, guess: State, noisy: State, r: Tensor) -> Tensor:
        mean = self.reference.mean.to(z.dtype)
        spread = (self.scale.square() + expand_as_rows(r, z).square()).sqrt()
        return torch.stack([self.reference.whiten(log_snr, z), (guess - mean) / self.scale, (noisy - mean) / spread], 1)

    def _gate(self, log_snr: Tensor, z: State) -> Tensor:
        """Smooth step in the log-ratio of cell width to noise; 0 on continuous dimensions."""
        low, high = self.GATE
        level = expand_as_rows(log_snr, z) + 2.0 * self.step.log()
        t = ((level - low) / (high - low)).clamp(0.0, 1.0)
        return t * t * (3.0 - 2.0 * t) * self.discrete

    def _centre(self, weights: Tensor) -> State:
        """Mean cell centre under the untrained weights, in data coordinates."""
        index = torch.arange(self.cells, device=weights.device) + 0.5
        return self.lower + self.step * (torch.softmax(weights, -1) * index).sum(-1)

    def _cells(self, noisy: State, r: Tensor, gaussian: State) -> tuple[Tensor, Tensor]:
        """Unnormalised log weights of the cells before learning, and E[(x - y) / r] in each, ``b *d k``."""
        wide = expand_as_rows(r, noisy)
        s = (wide / self.step).clamp_max(math.exp(-0.5 * self.GATE[0]))
        u = torch.where(self.discrete, (noisy - self.lower) / self.step, 0.5 * self.cells)
        log_mass, moments = truncated_moments(u, s, self.cells)
        precision = self.reference.marginal_precision(r).to(noisy.dtype)
        variance = (1.0 / precision - wide.square()) / self.step.square()
        leave_one_out = (noisy - gaussian / (wide * precision) - self.lower) / self.step
        centres = torch.arange(self.cells, device=noisy.device) + 0.5
        guess = -0.5 * (centres - leave_one_out[..., None]).square() / variance.clamp_min(1.0 / 12.0)[..., None]
        prior = torch.logaddexp(
            torch.log_softmax(guess, -1) + math.log(1.0 - self.TRUST), self.histogram + math.log(self.TRUST)
        )
        return prior + log_mass, moments


OUTSIDE = 8.0  # standard deviations beyond the outermost cell from which masses are computed as ratios


def truncated_moments(u: Tensor, s: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    r"""Mass and first moment of :math:`\mathcal{N}(u, s^2)` on the cells [k, k+1), k = 0 ... cells - 1.

    Far outside the lattice every mass is too small for its number format: there both come from scaled error functions,
    so that the nearest cell still outweighs the others and gradients stay finite.

    Args:
        u: positions in units of the cell, shape ``b *d``.
        s: noise in the same units, broadcastable with ``u``.
        cells: number of cells.

    Returns:
        Log masses and standardised means :math:`E[(X - u)/s \mid X \in \text{cell}]`, each ``b *d cells``.
    """
    far = torch.maximum(-u, u - cells) > OUTSIDE * s
    if not bool(far.any()):
        return _inside(u, s, cells)
    log_mass, moment = _inside(torch.where(far, 0.5 * cells, u), s, cells)
    index = far.nonzero(as_tuple=True)
    tail = _outside(u[index].double(), s.expand(u.shape)[index].double(), cells)
    return log_mass.index_put(index, tail[0].to(u.dtype)), moment.index_put(index, tail[1].to(u.dtype))


def _inside(u: Tensor, s: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    edges = (torch.arange(cells + 1, device=u.device, dtype=u.dtype) - u[..., None]) / s[..., None]
    left, right = edges[..., :-1], edges[..., 1:]
    # the lower tail is the accurate one: reflect cells above the position
    above = (left + right) > 0
    low, high = torch.where(above, -right, left), torch.where(above, -left, right)
    mass = 0.5 * (torch.erfc(-high * math.sqrt(0.5)) - torch.erfc(-low * math.sqrt(0.5))).clamp_min(2e-36)
    bell = torch.exp(-0.5 * edges.square()) / math.sqrt(2.0 * math.pi)
    moment = (bell[..., :-1] - bell[..., 1:]) / mass
    return mass.log(), torch.minimum(torch.maximum(moment, left), right)


def _outside(u: Tensor, s: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    r"""The same for positions ``k`` outside the lattice, results ``k cells``; in float64, since derivatives cancel.

    With edges at distances a < b, :math:`\Phi(-a) - \Phi(-b) = \tfrac12 e^{-a^2/2} (X(a) - q X(b))`, where
    :math:`X(a) = \mathrm{erfcx}(a / \sqrt 2)` and :math:`q = e^{-(b^2 - a^2)/2}`.
    """
    edges = (torch.arange(cells + 1, device=u.device, dtype=u.dtype) - u[:, None]) / s[:, None]
    distance = edges.abs()
    near = torch.minimum(distance[:, :-1], distance[:, 1:])
    far = torch.maximum(distance[:, :-1], distance[:, 1:])
    q = torch.exp(-0.5 * (far - near) * (far + near))
    scaled = torch.special.erfcx(near * math.sqrt(0.5)) - q * torch.special.erfcx(far * math.sqrt(0.5))
    moment = edges.sign()[:, :1] * math.sqrt(2.0 / math.pi) * (1.0 - q) / scaled
    log_mass = scaled.log() - math.log(2.0) - 0.5 * near.square()
    return log_mass, torch.minimum(torch.maximum(moment, edges[:, :-1]), edges[:, 1:])
