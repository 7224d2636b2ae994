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

__all__ = ["AncestralChain", "Guidance"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.densities import draw_rows
from girsanov.inputs import checked
from girsanov.linear import Isotropic, Spectral
from girsanov.pairs.chain import Chain
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.steps import GaussianKernel
from girsanov.rows import conditions_for
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, State, require_count


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


@final
class AncestralChain(Chain):
    """The sampler of a score in a finite number of steps, with the exact noising process as its encoder.

    Args:
        pair: the model, whose reference's posterior is exact.
        steps: number of steps between the two ends of the log-SNR range; the residual decoder is one more.
        lmbd: member of the family of samplers, at most 1; the encoder fits ``lmbd = 0``, so that other members have
            looser bounds, and 1, whose steps have no noise, none: take :func:`girsanov.ode_log_prob`.
        guidance: of the steps by their condition; see :class:`Guidance`. The chain is that of guided steps, and its
            bound is one of its own density, which is that of no condition.

    Raises:
        InputError: for ``lmbd`` above 1.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> from girsanov.densities import Gaussian
        >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), torch.tensor([0.5, 2.0]))
        >>> chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 4)
        >>> x = torch.zeros(3, 2)
        >>> torch.allclose(chain.log_weights(x, lambda count: torch.randn(count, 3, 2)), law.log_prob(x), atol=1e-4)
        True
    """

    levels: Tensor

    @checked
    def __init__(self, pair: ScorePair, steps: int, *, lmbd: float = 0.0, guidance: Guidance | None = None) -> None:
        if not lmbd <= 1.0:
            raise InputError(f"lmbd must be at most 1, where the diffusion vanishes; got {lmbd}")
        super().__init__(require_count("steps", steps) + 1)
        self.pair, self.lmbd, self.guidance = pair, lmbd, guidance
        self.prior, self.reference, self.event_shape = pair.prior, pair.reference, pair.event_shape
        # from the data end to the noise end, by equal shares of the reference's denoising
        variances = self.reference.spectrum() if self.reference is not None else torch.ones(1)
        nodes = LogSNRDensity.from_spectrum(*pair.log_snr_range, variances, floor=0.3).nodes(steps + 1)
        self.register_buffer("levels", nodes.flip(0).contiguous().to(pair.device))

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Exact noising from v_k to v_{k+1}; v_0 = 0 are the data.

        Raises:
            InputError: for the ODE's sampler, which has no density by its paths: for draws alone, and of the ODE too,
                there is :func:`girsanov.sample`.
        """
        del condition
        if self.lmbd == 1.0:
            raise InputError("The steps of lmbd = 1 have no noise, so its paths have no weights: use ode_log_prob")
        added = (self.variance(k + 1) - self.variance(k)).sqrt()
        return GaussianKernel(torch.zeros_like(x), self._isotropic(added, x), self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """The sampler's step from v_{k+1} to v_k, whose pull is the :meth:`correction` there."""
        lmbd, correction = self.lmbd if k else 0.0, self.correction(k, x, condition)
        power, v, following = 1.0 - 0.5 * lmbd, self.variance(k + 1), self.variance(k)
        share, law = (1.0 - (following / v) ** power).to(x.dtype), self.reference
        if law is None:
            spread = v if k == 0 else following * (1.0 - (following / v) ** (1.0 - lmbd))
            isotropic = self._isotropic(spread.sqrt(), x)
            return GaussianKernel(share * correction, isotropic, self.decoder_log_variance[k], correction)
        centred = x - law.mean.to(x.dtype)
        pull = law.spectral(centred, lambda s: ((s + following) / (s + v)) ** power - 1.0)
        scale = Spectral(law, lambda s: ((s + following) * (1.0 - ((s + following) / (s + v)) ** (1.0 - lmbd))).sqrt())
        return GaussianKernel(pull + share * correction, scale, self.decoder_log_variance[k], correction)

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

    def _alpha(self) -> Tensor:
        return self.pair.process.marginal_at(self.levels[-1])[0]

    def _isotropic(self, value: Tensor, x: State) -> Isotropic:
        return Isotropic(value.to(x.dtype).expand(len(x)))
