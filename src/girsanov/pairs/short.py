r"""Few steps with the covariances that few steps need: each decoder is the best Gaussian for its step.

Given data x, the state at v' < v is Gaussian around :math:`y + (1 - v'/v)(x - y)` with variance
:math:`\tilde\beta = v' (1 - v'/v)`. A decoder that knows y but not x has the denoised point in place of x, and must be
as wide as its error :math:`C = E (x - \hat x)(x - \hat x)^\top` at that level makes it,

.. math::
    y' \sim \mathcal{N}\big(y + (1 - v'/v)(\hat x - y),\; \tilde\beta I + (1 - v'/v)^2 C\big).

With the posterior's variance alone, as DDPM has it, a long step pays the squared error of its mean in units of
:math:`\tilde\beta`; this one pays the logarithm, :math:`\tfrac12 \log\det(I + (e^{l'} - e^l) C)`. For Gaussian data
and an exact score C is the posterior's covariance, and the chain is exact in a single step.
"""

__all__ = ["ShortChain"]

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from girsanov.densities import Gaussian
from girsanov.linear import Spectral
from girsanov.pairs.noising import Guidance, NoisingChain
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.steps import GaussianKernel
from girsanov.types import State


@final
class ShortChain(NoisingChain):
    """Steps of a score between chosen levels, with a covariance of the denoised point's error at each.

    :func:`girsanov.short_chain` fits one to rows.

    Args:
        pair: the model.
        levels: log-SNR, decreasing, one for each network evaluation, shape ``N``.
        errors: Gaussians whose covariances are those of x minus the denoised point at each level.
        prior: law of the data, whose noised law the last state has.
        guidance: of the steps by their condition; see :class:`girsanov.pairs.Guidance`.
    """

    def __init__(
        self,
        pair: ScorePair,
        levels: Tensor,
        errors: Sequence[Gaussian],
        prior: Gaussian,
        *,
        guidance: Guidance | None = None,
    ) -> None:
        noised = prior.diffused(*pair.process.marginal_at(levels[-1]))
        super().__init__(pair, levels, prior=noised, guidance=guidance)
        self.errors = nn.ModuleList(errors)
        self.event_shape = prior.event_shape

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """The step from v_{k+1} to v_k, or to the data."""
        v, following = self.variance(k + 1), self.variance(k)
        share, correction = 1.0 - following / v, self.correction(k, x, condition)
        scale = Spectral(self.errors[k], lambda c: (following * share + share.square() * c).sqrt())  # type: ignore[arg-type]
        return GaussianKernel(share.to(x.dtype) * correction, scale, self.decoder_log_variance[k], correction)
