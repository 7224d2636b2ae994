r"""Chains that undo exact noising: in :math:`y = x_t/\alpha`, level by level, whatever their decoder.

With :math:`v = \sigma^2/\alpha^2 = e^{-l}` noising is Brownian: the encoder adds noise of variance :math:`v' - v`,
exactly at any number of steps.
"""

__all__ = ["Guidance", "NoisingChain"]

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.densities import Density, Gaussian, draw_rows
from girsanov.linear import Isotropic
from girsanov.pairs.chain import Chain
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.steps import GaussianKernel
from girsanov.rows import conditions_for
from girsanov.types import InputError, Nats, State


@final
@dataclass(frozen=True)
class Guidance:
    """Steps of a condition, extrapolated from those without one: ``free + scale (own - free)``.

    Attributes:
        scale: 1 is the conditional model, 0 the one without a condition.
        null: condition that stands for none, leading dimension 1; ``None`` where the network is called without one.
    """

    scale: float
    null: Tensor | None = None

    def of(self, function: Callable[[Tensor | None], Tensor], condition: Tensor | None) -> Tensor:
        """The extrapolation of a function of the condition, which is called twice.

        Raises:
            InputError: without a condition.
        """
        if condition is None:
            raise InputError("Guidance needs condition=: what the steps are guided towards")
        free = function(self.null)
        return free + self.scale * (function(condition) - free)


class NoisingChain(Chain, ABC):
    """A chain in y with the exact noising process as its encoder; to implement one, define ``decode``.

    Args:
        pair: the model.
        levels: log-SNR of the states after the data, decreasing, float64.
        prior: law of ``alpha y`` at the last level; default the pair's.
        reference: the Gaussian that corrections are about; ``None`` for the denoised point itself.
        guidance: of the steps by their condition.
    """

    levels: Tensor

    def __init__(
        self,
        pair: ScorePair,
        levels: Tensor,
        *,
        prior: Density | None = None,
        reference: Gaussian | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        super().__init__(len(levels))
        self.pair, self.guidance, self.reference = pair, guidance, reference
        self.prior, self.event_shape = pair.prior if prior is None else prior, pair.event_shape
        self.register_buffer("levels", levels.double().contiguous().to(pair.device))

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Exact noising from v_k to v_{k+1}; v_0 = 0 are the data."""
        del condition
        added = (self.variance(k + 1) - self.variance(k)).sqrt()
        return GaussianKernel(torch.zeros_like(x), self.isotropic(added, x), self.encoder_log_variance[k])

    def correction(self, k: int, y: State, condition: Tensor | None = None) -> State:
        """Denoised point minus the reference's denoised point, or minus y where there is no reference, at v_{k+1}."""
        level = self.levels[k].expand(len(y))
        r = torch.exp(-0.5 * level[0]).to(y.dtype)
        z = torch.sigmoid(level[0]).sqrt().to(y.dtype) * y

        def pull(given: Tensor | None) -> State:
            """Of the noise prediction, or of its deviation from the reference's."""
            given = conditions_for(given, len(y))
            if self.reference is None:
                return -r * self.pair.noise(level, z, given)
            return -r * self.pair.deviation(level, z, given)[1]

        return pull(condition) if self.guidance is None else self.guidance.of(pull, condition)

    def log_prior(self, x: State) -> Nats:
        """Log-density of y at the noise end."""
        alpha = self._alpha()
        return self.prior.log_prob(alpha.to(x.dtype) * x) + x[0].numel() * alpha.log()

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw y at the noise end.

        Raises:
            InputError: if neither prior nor reference knows the shape of a row, and none was given.
        """
        x = draw_rows(self.prior, n, event_shape=self.event_shape, generator=generator)
        x = x.to(device=self.levels.device, dtype=self.pair.dtype(x))
        return x / self._alpha().to(x.dtype)

    def variance(self, k: int) -> Tensor:
        """v_k: no noise for the data, then e^{-l} of each level."""
        levels = self.levels
        return torch.exp(-levels[k - 1]) if k else levels.new_zeros(())

    def isotropic(self, value: Tensor, x: State) -> Isotropic:
        """One number for all rows."""
        return Isotropic(value.to(x.dtype).expand(len(x)))

    def _alpha(self) -> Tensor:
        return self.pair.process.marginal_at(self.levels[-1])[0]
