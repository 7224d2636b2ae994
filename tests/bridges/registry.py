"""Bridges in closed form that the laws run over: a new one is one line of ``BRIDGES``."""

from collections.abc import Callable

import numpy as np
import torch

from girsanov.bridges import ClosedBridge, GaussianBridge, MixtureBridge, gaussian_bridge
from girsanov.densities import GaussianMixture
from girsanov.processes import BrownianMotion, LinearProcess, OrnsteinUhlenbeck, VarianceExploding, VariancePreserving
from tests.laws import diagonal_mixture_case, gaussian_case, mixture_case

LEGENDRE = tuple(torch.tensor(a, dtype=torch.float64) for a in np.polynomial.legendre.leggauss(30))


class NoteReference(LinearProcess):
    """Note of paper 3, section 4.2: T = 2, a = -0.3 - 0.2 t, g = 0.6 + 0.3 t; the clock by Gauss-Legendre."""

    horizon = 2.0

    def _log_alpha(self, t):
        return -0.3 * t - 0.1 * t.square()

    def _kernel(self, t):
        nodes, weights = LEGENDRE
        s = 0.5 * t[..., None] * (nodes + 1.0)
        rates = (0.6 + 0.3 * s).square() * torch.exp(-2.0 * self._log_alpha(s))
        tau = 0.5 * t * (weights * rates).sum(-1)
        return self._log_alpha(t), self._log_alpha(t) + 0.5 * tau.log()

    def _rates(self, t):
        return -0.3 - 0.2 * t, (0.6 + 0.3 * t).square()

    def _time(self, log_snr):
        raise NotImplementedError

    def _alpha_at(self, log_snr):
        raise NotImplementedError


def gaussian(shape: tuple[int, ...], reference: LinearProcess) -> GaussianBridge:
    """Between two random Gaussians with dense covariances that do not commute."""
    first, second = gaussian_case(shape, seed=1), gaussian_case(shape, seed=2)
    ends = (first.density.mean, first.covariances[0], second.density.mean, second.covariances[0])
    return gaussian_bridge(*ends, reference=reference)


def note_gaussian() -> GaussianBridge:
    """Section 4.2: N(-1, 0.5) -> N(0.8, 1.7)."""
    return gaussian_bridge(torch.tensor([-1.0]), 0.5, torch.tensor([0.8]), 1.7, reference=NoteReference())


def note_mixture() -> MixtureBridge:
    """Section 4.3: b = 0.5."""
    psi = GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[-2.0], [0.5], [2.5]]), torch.tensor([[0.2], [0.1], [0.4]])
    )
    psihat = GaussianMixture(torch.tensor([0.6, 0.4]), torch.tensor([[-0.5], [1.0]]), torch.tensor([[0.8], [0.3]]))
    return MixtureBridge(BrownianMotion(sigma=0.5**0.5), psihat, psi)


def mixture(make_case, shape, reference) -> MixtureBridge:
    """Between two random mixtures."""
    return MixtureBridge(reference, make_case(shape, seed=3).density, make_case(shape, seed=4).density)


#: name -> constructor (call it inside a test, where float64 is the default)
GAUSSIANS: dict[str, Callable[[], GaussianBridge]] = {
    "brownian": lambda: gaussian((3,), BrownianMotion(sigma=1.3)),
    "exploding-image": lambda: gaussian((1, 2, 2), VarianceExploding(0.1, 3.0)),
    "preserving": lambda: gaussian((3,), VariancePreserving()),
    "ornstein": lambda: gaussian((2,), OrnsteinUhlenbeck(1.5)),
    "note-4.2": note_gaussian,
}
BRIDGES: dict[str, Callable[[], ClosedBridge]] = {
    **GAUSSIANS,
    "note-4.3": note_mixture,
    "mixture-image": lambda: mixture(mixture_case, (2, 1, 2), OrnsteinUhlenbeck(1.5)),
    "mixture-preserving": lambda: mixture(diagonal_mixture_case, (2,), VariancePreserving()),
    "mixture-exploding": lambda: mixture(mixture_case, (3,), VarianceExploding(0.1, 3.0)),
}
