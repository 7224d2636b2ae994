r"""The four score-matching losses, each with the constant that makes it the likelihood bound.

Per unit of :math:`g^2`, at one time (note of paper 1, section 2.6):

.. math::
    \mathrm{ESM} &= \tfrac12 \|s - \nabla\log q_t\|^2, &
    \mathrm{ISM} &= \tfrac12 \|s\|^2 + \mathrm{div}\, s, \\
    \mathrm{SSM} &= \tfrac12 (e^\top s)^2 + e^\top (\partial_x s)\, e, &
    \mathrm{DSM} &= \tfrac12 \|s - \nabla\log q(x_t \mid x)\|^2 .

ISM, the mean of SSM over probes with :math:`E[e e^\top] = I`, DSM minus :math:`d/(2\sigma^2)` and ESM minus
:math:`\tfrac12\|\nabla\log q_t\|^2` have one expectation J: given x for the first three, over data for ESM. Since
:math:`g^2\, dt = -\sigma^2\, dl`, all that depends on the process is left to the ends of the log-SNR range:

.. math::
    \log p_0(x) \ge E[\log \pi(x_T) \mid x] + d \log \alpha_T - \int_{l_T}^{l_e} J(l)\, dl - J(l_e), \qquad
    J(l) = \sigma^2 E[\tfrac12 \|s\|^2 + \mathrm{div}\, s \mid x] .

The last term is the Gaussian decoder's residual in the same form: the integral's measure has an atom at the data
end. The losses are evaluated through the noise prediction :math:`\hat\varepsilon = -\sigma s` in variance-preserving
coordinates z, where :math:`\sigma^2 \mathrm{div}\, s = -\sigma_z \mathrm{div}_z \hat\varepsilon`.
"""

__all__ = [
    "DenoisingScoreMatching",
    "ExplicitScoreMatching",
    "ImplicitScoreMatching",
    "Matching",
    "SlicedScoreMatching",
]

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from girsanov.calculus import Divergence, Exact, Field, Hutchinson, Noised, sum_event
from girsanov.pairs import ScorePair
from girsanov.types import Kind, Nats, require_counts


class Matching(ABC):
    r"""A score-matching loss that knows its constant.

    To implement one, define :meth:`loss` and :meth:`constant`, both in units of the noise prediction, that is times
    :math:`\sigma^2`; where it differentiates or draws probes, override ``cost`` and ``probes``.
    """

    #: what minus its integral is, per row
    kind: Kind = "lower_bound"

    @property
    def probes(self) -> int:
        """Number of Rademacher vectors that an evaluation draws."""
        return 0

    def cost(self, event_dim: int) -> int:
        """Network evaluations of one evaluation, a backward pass counted as two."""
        del event_dim
        return 1

    @abstractmethod
    def loss(self, pair: ScorePair, at: Noised) -> Nats:
        """The loss per row, shape ``b``, float64."""

    @abstractmethod
    def constant(self, at: Noised) -> Nats:
        """What makes the mean of ``loss + constant`` the integrand J of the bound, free of the score, shape ``b``."""


def _field(pair: ScorePair, at: Noised) -> Field:
    return lambda z: pair.noise(at.log_snr, z, at.condition)


def _none(at: Noised) -> Nats:
    return torch.zeros_like(at.log_snr, dtype=torch.float64)


@final
@dataclass(frozen=True)
class ExplicitScoreMatching(Matching):
    """Distance to a known score: the oracle's loss, for tests, distillation and plots.

    Its mean over data from the law of ``target`` is the mean of the bound; a single row's value is no bound.

    Args:
        target: the pair of the exact score, over the same process.
    """

    target: ScorePair
    kind: Kind = field(default="estimate", init=False)

    def loss(self, pair: ScorePair, at: Noised) -> Nats:
        """Half the squared distance of the noise predictions."""
        return 0.5 * sum_event((_field(pair, at)(at.z) - _field(self.target, at)(at.z)).square())

    def constant(self, at: Noised) -> Nats:
        """Minus half the target's own square."""
        with torch.no_grad():
            return -0.5 * sum_event(_field(self.target, at)(at.z).square())


@final
@dataclass(frozen=True)
class ImplicitScoreMatching(Matching):
    """Half the squared score plus its divergence: needs neither a target nor the noise.

    Args:
        divergence: ``Exact()`` (default) or ``Hutchinson(probes=...)``.
    """

    divergence: Divergence = field(default_factory=Exact)

    @property
    def probes(self) -> int:
        """As many as the divergence draws."""
        return self.divergence.probes

    def cost(self, event_dim: int) -> int:
        return self.divergence.cost(event_dim)

    def loss(self, pair: ScorePair, at: Noised) -> Nats:
        """Half the squared prediction minus its scaled divergence."""
        noise, divergence = self.divergence(_field(pair, at), at.z, at.signs)
        return 0.5 * sum_event(noise.square()) - _sigma(at) * divergence.mean(0)

    def constant(self, at: Noised) -> Nats:
        """Zero."""
        return _none(at)


@final
@dataclass(frozen=True)
class SlicedScoreMatching(Matching):
    """The implicit loss seen along random directions, one backward pass each.

    Args:
        probes: number of Rademacher directions per evaluation.
        reduced_variance: whether the square stays analytic and only the divergence is sliced (SSM-VR).

    Raises:
        InputError: for fewer than one direction.
    """

    probes: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]  # a field where the base has a property
    reduced_variance: bool = True

    def __post_init__(self) -> None:
        require_counts(self, "probes")

    def cost(self, event_dim: int) -> int:
        """One forward pass and one backward pass per direction."""
        del event_dim
        return 1 + 2 * self.probes

    def loss(self, pair: ScorePair, at: Noised) -> Nats:
        """Mean over directions of half the squared projection minus the scaled second-order term."""
        noise, slices = Hutchinson(self.probes)(_field(pair, at), at.z, at.signs)
        square = sum_event(noise.square())
        if not self.reduced_variance:
            assert at.signs is not None
            square = torch.stack([sum_event(noise * e).square() for e in at.signs]).mean(0)
        return 0.5 * square - _sigma(at) * slices.mean(0)

    def constant(self, at: Noised) -> Nats:
        """Zero."""
        return _none(at)


@final
@dataclass(frozen=True)
class DenoisingScoreMatching(Matching):
    """Distance to the noise that was added: no divergence, and valid row by row."""

    def loss(self, pair: ScorePair, at: Noised) -> Nats:
        """Half the squared error of the noise prediction."""
        return 0.5 * sum_event((at.eps - _field(pair, at)(at.z)).square())

    def constant(self, at: Noised) -> Nats:
        """Minus half the number of dimensions, the mean of the noise's own half square."""
        return _none(at) - 0.5 * at.z[0].numel()


def _sigma(at: Noised) -> Tensor:
    return torch.sigmoid(-at.log_snr.double()).sqrt()
