r"""The N-step sampler of a score as a chain: exact noising kernels up, Gaussian posterior steps down.

In :math:`y = x_t/\alpha` with :math:`v = \sigma^2/\alpha^2 = e^{-l}` the encoder adds noise of variance
:math:`v' - v`, exactly, whatever the number of steps. The decoder takes the Gaussian reference :math:`N(m, S)` through
its own posterior and moves by the score's deviation from it; from v down to v', with :math:`D = S + v`,

.. math::
    y' = y + (\rho - 1)(y - m) + \Big(1 - (v'/v)^{1 - \lambda/2}\Big) \Delta\hat x
         + \sqrt{D' (1 - (D'/D)^{1-\lambda})}\; \varepsilon,
    \qquad \rho = (D'/D)^{1 - \lambda/2}.

A model that equals its reference therefore has the reference's density at every N, with log-weights that do not vary.
Without a reference (S to 0 around the denoised point) the step is DDPM's posterior at 0 and DDIM's at 1. The last step,
to v' = 0, is the residual decoder: the posterior, in every member of the family (note of paper 1, sections 2.5 to 2.8;
note of paper 3, section 2.6).
"""

__all__ = ["AncestralChain", "denoising_density"]

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.inputs import checked
from girsanov.linear import Spectral
from girsanov.pairs.noising import Guidance, NoisingChain
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.steps import GaussianKernel
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, State, require_count


def _itself(s: Tensor) -> Tensor:
    return s


@final
class AncestralChain(NoisingChain):
    """The sampler of a score in a finite number of steps, with the exact noising process as its encoder.

    Args:
        pair: the model, whose reference's posterior is exact.
        steps: number of steps between the two ends of the log-SNR range; the residual decoder is one more.
        lmbd: member of the family of samplers, at most 1; the encoder fits ``lmbd = 0``, so that other members have
            looser bounds, and 1, whose steps have no noise, none: take :func:`girsanov.ode_log_prob`.
        levels: log-SNR of the ``steps + 1`` states after the data, decreasing to the range's noise end; default at
            equal shares of the reference's denoising.
        guidance: of the steps by their condition; see :class:`Guidance`. The chain is that of guided steps, and its
            bound is one of its own density, which is that of no condition.

    Raises:
        InputError: for ``lmbd`` above 1, or levels that are not one more than steps.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> from girsanov.densities import Gaussian
        >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), torch.tensor([0.5, 2.0]))
        >>> chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 4)
        >>> x = torch.zeros(3, 2)
        >>> torch.allclose(chain.log_weights(x, lambda count: torch.randn(count, 3, 2)), law.log_prob(x), atol=1e-4)
        True
    """

    @checked
    def __init__(
        self,
        pair: ScorePair,
        steps: int,
        *,
        lmbd: float = 0.0,
        levels: Tensor | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        if not lmbd <= 1.0:
            raise InputError(f"lmbd must be at most 1, where the diffusion vanishes; got {lmbd}")
        nodes = denoising_density(pair).nodes(require_count("steps", steps) + 1).flip(0) if levels is None else levels
        if nodes.shape != (steps + 1,):
            raise InputError(f"{steps} steps go between {steps + 1} levels; got levels {tuple(nodes.shape)}")
        super().__init__(pair, nodes, reference=pair.reference, guidance=guidance)
        self.lmbd = lmbd

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Exact noising from v_k to v_{k+1}; v_0 = 0 are the data.

        Raises:
            InputError: for the ODE's sampler, which has no density by its paths: for draws alone, and of the ODE too,
                there is :func:`girsanov.sample`.
        """
        if self.lmbd == 1.0:
            raise InputError("The steps of lmbd = 1 have no noise, so its paths have no weights: use ode_log_prob")
        return super().encode(k, x, condition)

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """The sampler's step from v_{k+1} to v_k, whose pull is the :meth:`correction` there."""
        lmbd, correction = self.lmbd if k else 0.0, self.correction(k, x, condition)
        v, following = self.variance(k + 1), self.variance(k)
        share = (1.0 - (following / v) ** (1.0 - 0.5 * lmbd)).to(x.dtype)
        if self.reference is None:
            spread = v if k == 0 else following * (1.0 - (following / v) ** (1.0 - lmbd))
            isotropic = self.isotropic(spread.sqrt(), x)
            return GaussianKernel(share * correction, isotropic, self.decoder_log_variance[k], correction)
        pull, scale = self.gaussian_step(k, x, self.reference)
        return GaussianKernel(pull + share * correction, scale, self.decoder_log_variance[k], correction)

    def gaussian_step(
        self, k: int, x: State, law: Gaussian, own: Callable[[Tensor], Tensor] = _itself
    ) -> tuple[State, Spectral]:
        """Mean change and scale of the step from v_{k+1} to v_k where the data are Gaussian.

        Args:
            k: number of the step.
            x: states ``b *d``.
            law: of the data.
            own: function of its variances, a number per row or one for all: what the variances are in its place.
        """
        lmbd, v, following = self.lmbd if k else 0.0, self.variance(k + 1), self.variance(k)
        power = 1.0 - 0.5 * lmbd

        def ratio(s: Tensor) -> Tensor:
            """Of the noised variances after and before."""
            return (own(s) + following) / (own(s) + v)

        pull = law.spectral(x - law.mean.to(x.dtype), lambda s: ratio(s) ** power - 1.0)
        return pull, Spectral(law, lambda s: ((own(s) + following) * (1.0 - ratio(s) ** (1.0 - lmbd))).sqrt())


def denoising_density(pair: ScorePair) -> LogSNRDensity:
    """Where the reference denoises, on the log-SNR range: what a sampler's levels are equal shares of."""
    variances = pair.reference.spectrum() if pair.reference is not None else torch.ones(1)
    return LogSNRDensity.from_spectrum(*pair.log_snr_range, variances, floor=0.3)
