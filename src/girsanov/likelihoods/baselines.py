r"""Same-noise control variates of the squared error of a noise prediction.

The diffusion part of every bound is :math:`-\tfrac12 \int E\|\varepsilon - \hat\varepsilon\|^2 dl`. Its Monte-Carlo
estimate becomes precise when a baseline :math:`b(\varepsilon, x, l)` with closed-form mean is subtracted under the
*same* noise: only :math:`\tfrac12 (b - \|\varepsilon - \hat\varepsilon\|^2)` is then sampled. Two baselines:

- :class:`NormBaseline`, :math:`b = \mathrm{sigmoid}(l)\, \|\varepsilon\|^2`, which needs no statistics of the data;
- :class:`GaussianBaseline`, :math:`b = \|\varepsilon - \hat\varepsilon_G\|^2` with a Gaussian reference's exact
  denoiser; written through the deviation :math:`\delta = \hat\varepsilon - \hat\varepsilon_G`, the sampled
  difference is :math:`\tfrac12\, \delta \cdot (2 (\varepsilon - \hat\varepsilon_G) - \delta)`, exactly 0 for a model
  that equals its reference.

A baseline's fluctuation about its mean is also a control variate, whose best coefficient depends on the score: where
that is sharper than the Gaussian, the Gaussian's error explains less of what fluctuates. :meth:`Baseline.excess`
is that fluctuation; its coefficient, level by level, is fitted on held-out rows.

Where a score has a broad share (:class:`girsanov.pairs.ScoreModel`), its noise prediction stays small for rows
many deviations away; the Gaussian's grows with the distance, and so would what is sampled. There the baseline is that
of a row :math:`x'` nearby, a function of x alone, under the same noise: its mean is closed form too.

A third, :class:`DensityBaseline`, has the denoiser of any closed-form law, such as a mixture fitted to rows: the mean
of its squared error, integrated over a range of log-SNR, is a difference of two divergences, which need no network.

And where the reference is so far from the score that its error hides what is to be measured, as that of a Gaussian for
images of saturated pixels, :class:`NoBaseline` is best: the squared error alone.

The residual term at the data end has the same form in the metric of the last decoder.
"""

__all__ = ["Baseline", "DensityBaseline", "GaussianBaseline", "NoBaseline", "NormBaseline", "baseline_of"]

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from girsanov.calculus import Noised, expand_as_rows, noised, sum_event, where_rows
from girsanov.densities import Density, Gaussian
from girsanov.pairs import ScorePair
from girsanov.pairs.score_model import given_way
from girsanov.types import Nats, State


@dataclass(frozen=True)
class Baseline(ABC):
    r"""A control variate for the score of one pair; ``decoder`` sets the metric of the residual at the data end.

    Attributes:
        pair: the model.
        decoder: the Gaussian whose posterior covariance the last decoder has, or ``None`` for
            the isotropic :math:`(\sigma/\alpha)^2 I`.
    """

    pair: ScorePair
    decoder: Gaussian | None

    @property
    def law(self) -> Gaussian | None:
        """The Gaussian whose denoiser it is; ``None`` for another one."""
        return None

    @property
    def plain(self) -> "Baseline":
        """That of the pair's reference, which a fitted law may stand in for."""
        return self

    def near(self, x: State) -> State | None:
        """The rows that the baseline is about in place of ``x``, float64; ``None`` where these are ``x``."""
        del x
        return None

    def sampled(self, at: Noised, at_end: Tensor | None = None, near: State | None = None) -> Nats:
        """Half of baseline minus squared error, per evaluation; see :meth:`compared`."""
        return self.compared(at, at_end, near)[0]

    @abstractmethod
    def compared(
        self, at: Noised, at_end: Tensor | None = None, near: State | None = None
    ) -> tuple[Nats, State, State]:
        """Half of baseline minus squared error, per evaluation; and the errors of both, noise less its prediction.

        The score's error comes first.

        Args:
            at: the evaluations.
            at_end: which of them are in the decoder's metric; default none.
            near: what ``at.z`` is to the rows that the baseline is about, where these are others.
        """

    @abstractmethod
    def integral(self, x: State, low: float, high: float) -> Nats:
        """Mean of the baseline about ``x``, integrated over log-SNR."""

    @abstractmethod
    def end(self, x: State, high: float) -> Nats:
        """Mean of the baseline about ``x`` at the data end, in the decoder's metric."""

    @abstractmethod
    def excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        """A zero-mean function of the noise, for rows ``b *d``, levels ``b k`` and noise ``b k *d``: ``b k``."""

    def _precise(self, log_snr: Tensor, error: State, at_end: Tensor | None) -> State:
        """The decoder's metric applied to ``error`` at the end, the identity elsewhere."""
        if self.decoder is None or at_end is None or not bool(at_end.any()):
            return error
        return where_rows(at_end, self.decoder.posterior_form(log_snr, error), error)


@final
class NormBaseline(Baseline):
    """The share of the noise's own norm that an N(0, I) denoiser leaves."""

    def compared(
        self, at: Noised, at_end: Tensor | None = None, near: State | None = None
    ) -> tuple[Nats, State, State]:
        del near
        error = at.eps - self.pair.noise(at.log_snr, at.z, at.condition, calls=at.calls)
        squared, share = sum_event(error * self._precise(at.log_snr, error, at_end)), torch.sigmoid(at.log_snr)
        values = 0.5 * (share * sum_event(at.eps.square()) - squared)
        return values, error, expand_as_rows(share.sqrt(), at.eps) * at.eps

    def integral(self, x: State, low: float, high: float) -> Nats:
        span = softplus(torch.tensor([low, high], dtype=torch.float64)).diff()
        return (x[0].numel() * span).to(x.device).expand(len(x))

    def end(self, x: State, high: float) -> Nats:
        share = torch.sigmoid(torch.tensor(high, dtype=torch.float64))
        return (x[0].numel() * share).to(x.device).expand(len(x))

    def excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        return torch.sigmoid(log_snr) * (eps.flatten(2).square().sum(2, dtype=torch.float64) - x[0].numel())


@final
@dataclass(frozen=True)
class GaussianBaseline(Baseline):
    """The squared error of a Gaussian reference's exact denoiser.

    Attributes:
        reference: the Gaussian; where ``decoder`` is given it must be the same one.
    """

    reference: Gaussian

    @property
    def law(self) -> Gaussian | None:
        return self.reference

    def near(self, x: State) -> State | None:
        if not getattr(self.pair.score, "broad_share", False):
            return None
        clean = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        white = self.reference.whiten(clean, x.double())
        # the Gaussian predicts noise of up to half a whitened coordinate, at the level where signal and noise are equal
        share = given_way(0.5 * white)
        far = (share > 0.0).flatten(1).any(1)
        if not bool(far.any()):
            return None
        near = self.reference.unwhiten(clean, white * (1.0 - share))
        return where_rows(far, near, x.double())

    def compared(
        self, at: Noised, at_end: Tensor | None = None, near: State | None = None
    ) -> tuple[Nats, State, State]:
        noise, delta = self.pair.deviation(at.log_snr, at.z, at.condition, reference=self.reference, calls=at.calls)
        if near is not None:
            nearer = self.reference.noise(at.log_snr, near)
            noise, delta = nearer, delta + (noise - nearer)
        error = at.eps - noise
        values = 0.5 * sum_event(self._precise(at.log_snr, delta, at_end) * (2.0 * error - delta))
        return values, error - delta, error

    def integral(self, x: State, low: float, high: float) -> Nats:
        return self.reference.squared_error_integral(x, low, high)

    def end(self, x: State, high: float) -> Nats:
        if self.decoder is not None:
            return self.reference.posterior_quadratic(high, x)
        return self.reference.squared_error(x, high)

    def excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        return self.reference.squared_error_excess(x, log_snr, eps)


@final
@dataclass(frozen=True)
class DensityBaseline(Baseline):
    r"""The squared error of the denoiser of a closed-form law q, for the integral; another baseline's at the data end.

    Along the noising, half the squared error of q's denoiser is the rate at which the divergence
    :math:`\mathrm{KL}(q(z_l \mid x) \,\|\, q_l)` of a row's noised law from q's rises with log-SNR (the pointwise
    I-MMSE identity; note of paper 2, section 2.8), so that over a range

    .. math::
        \tfrac12 \int E\|\varepsilon - \hat\varepsilon_q\|^2 dl = E[\log q_{low}(z_{low})] - E[\log q_{high}(z_{high})]
          - \tfrac d2 \log(\sigma_{high}^2 / \sigma_{low}^2) .

    Attributes:
        control: the law q.
        inner: the baseline at the data end.
    """

    control: Density
    inner: Baseline

    @property
    def plain(self) -> Baseline:
        return self.inner

    def compared(
        self, at: Noised, at_end: Tensor | None = None, near: State | None = None
    ) -> tuple[Nats, State, State]:
        del near
        values, error, _ = self.inner.compared(at, at_end)
        own = at.eps - self.control.noise(at.log_snr, at.z)
        inside = 0.5 * sum_event((own - error) * (own + error))
        return (inside if at_end is None else torch.where(at_end, values, inside)), error, own

    def integral(self, x: State, low: float, high: float) -> Nats:
        del low, high
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def sampled_integral(self, x: State, eps: State, low: float, high: float) -> Nats:
        """What takes the place of :meth:`integral` in the mean over noise ``b m *d``."""
        ends = torch.tensor([low, high], dtype=torch.float64, device=x.device)
        means = []
        for level in ends:
            alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
            z = noised(level.expand(len(x)), x[:, None], eps)
            means.append(self.control.diffused(alpha, sigma).log_prob(z.flatten(0, 1)).reshape(eps.shape[:2]).mean(1))
        entropies = x[0].numel() * torch.sigmoid(-ends).log().diff()
        return 2.0 * (means[0] - means[1]) - entropies

    def end(self, x: State, high: float) -> Nats:
        return self.inner.end(x, high)

    def excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        return torch.zeros(log_snr.shape, dtype=torch.float64, device=x.device)


@final
class NoBaseline(Baseline):
    """Nothing beside the squared error."""

    def compared(
        self, at: Noised, at_end: Tensor | None = None, near: State | None = None
    ) -> tuple[Nats, State, State]:
        del near
        error = at.eps - self.pair.noise(at.log_snr, at.z, at.condition, calls=at.calls)
        values = -0.5 * sum_event(error * self._precise(at.log_snr, error, at_end))
        return values, error, torch.zeros_like(error)

    def integral(self, x: State, low: float, high: float) -> Nats:
        del low, high
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def end(self, x: State, high: float) -> Nats:
        del high
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        del x, eps
        return torch.zeros(log_snr.shape, dtype=torch.float64, device=log_snr.device)


def baseline_of(pair: ScorePair, decoder: Gaussian | None = None, *, reference: Gaussian | None = None) -> Baseline:
    """The Gaussian's where there is a reference, else the norm's; a fitted law's in the place of either, or none.

    Args:
        pair: the model, whose proposal may have a fitted law.
        decoder: sets the metric of the residual.
        reference: default the pair's.
    """
    if pair.proposal is not None and pair.proposal.alone:
        return NoBaseline(pair, decoder)
    law = reference or pair.reference
    inner = NormBaseline(pair, decoder) if law is None else GaussianBaseline(pair, decoder, law)
    control = None if pair.proposal is None else pair.proposal.control
    return DensityBaseline(pair, decoder, control, inner) if isinstance(control, Density) else inner
