r"""Plug-in reverse SDEs of a score over a linear process: the lambda-family.

With the generative drift :math:`v_\lambda = f - (1 - \lambda/2) g^2 s`, the inference drift
:math:`u_\lambda = f - (\lambda/2) g^2 \hat s` and the diffusion :math:`\sqrt{1 - \lambda}\, g`, every
:math:`\lambda < 1` has the marginals of the process where s and :math:`\hat s` are exact, and a valid bound where
they are not (note of paper 1, section 2.8). The pair runs on the score's log-SNR range: data enter at its high end by
the exact kernel, and leave through the residual decoder :math:`\mathcal{N}(\hat x(x_e), (\sigma_e/\alpha_e)^2 I)`,

.. math::
    R = \log p(x \mid x_e) - \log q(x_e \mid x) = d \log \alpha_e + \tfrac12 (\|\varepsilon\|^2
        - \|\varepsilon - \hat\varepsilon\|^2).
"""

__all__ = ["ScorePair"]

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Density
from girsanov.inputs import ask, checked
from girsanov.models import noise_prediction
from girsanov.pairs.pair import Pair
from girsanov.processes import LinearProcess, Process, span_of
from girsanov.types import InputError, Nats, Score, State, Time


class _Tempered(Process):
    """Inference process u_lambda with diffusion sqrt(1 - lambda) g."""

    def __init__(self, process: LinearProcess, score: Score | None, lmbd: float) -> None:
        super().__init__()
        self.process, self.score, self.lmbd = process, score, lmbd
        self.horizon = process.horizon

    def drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        drift = self.process.drift(t, x)
        if self.score is None:
            return drift
        value = ask(self.score, t, x, condition)
        return drift - 0.5 * self.lmbd * expand_as_rows(self.process.rates(t)[1], x) * value

    def diffusion(self, t: Time, x: State) -> Tensor:
        return (1.0 - self.lmbd) ** 0.5 * self.process.diffusion(t, x)


class _PlugIn(nn.Module):
    """Generative drift v_lambda."""

    def __init__(self, process: LinearProcess, score: Score, lmbd: float) -> None:
        super().__init__()
        self.process, self.score, self.lmbd = process, score, lmbd

    def forward(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        share = (1.0 - 0.5 * self.lmbd) * self.process.rates(t)[1]
        return self.process.drift(t, x) - expand_as_rows(share, x) * ask(self.score, t, x, condition)


@final
class ScorePair(Pair):
    r"""A linear process and the plug-in generative process of a score.

    Args:
        score: ``(t, x) -> grad log p_t(x)``, a network's or an oracle's.
        process: the forward process.
        prior: law at the noise end of the score's range; default: see :func:`girsanov.processes.span_of`.
        lmbd: member of the family, below 1: 0 is the reverse SDE; the ODE at 1 has no path weight.
        inference_score: the score of the inference drift where ``lmbd`` is not 0; default ``score``.
        event_shape: shape of one row, for sampling where the prior has none.

    Raises:
        InputError: for ``lmbd`` of 1 or more.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), 0.5)
        >>> pair = ScorePair(law.score(process), process)
        >>> process.log_snr(pair.times(2)).round()
        tensor([ 15.,   2., -10.], dtype=torch.float64)
    """

    @checked
    def __init__(
        self,
        score: Score,
        process: LinearProcess,
        *,
        prior: Density | None = None,
        lmbd: float = 0.0,
        inference_score: Score | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        if not lmbd < 1.0:
            raise InputError(f"lmbd must be below 1; got {lmbd}: at 1 the model is the ODE, use ode_log_prob")
        span = span_of(score, process, prior=prior)
        shared = inference_score is None or lmbd == 0.0
        inner = None if lmbd == 0.0 else (inference_score or score)
        super().__init__(
            _Tempered(process, inner, lmbd), _PlugIn(process, score, lmbd), span.prior, event_shape=event_shape
        )
        self.score, self.process, self.lmbd, self._shared = score, process, lmbd, shared
        self.log_snr_range = span.log_snr_range

    def times(self, steps: int) -> Tensor:
        """Times at ``steps + 1`` equally spaced log-SNRs of the range, float64."""
        low, high = self.log_snr_range
        return self.process.time(torch.linspace(high, low, steps + 1, dtype=torch.float64))

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The noised data at the high end of the range, and the residual term R."""
        alpha, sigma = self._entry(x)
        x_e = expand_as_rows(alpha, x) * x + expand_as_rows(sigma, x) * eps
        predicted = self._noise(x_e, condition)
        misfit = 0.5 * sum_event(predicted * (2.0 * eps - predicted))
        return x_e, misfit + x[0].numel() * alpha.log()

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The residual decoder's draw given the state at the high end of the range, and its term R."""
        alpha, sigma = self._entry(x)
        predicted = self._noise(x, condition)
        data = (x - expand_as_rows(sigma, x) * (predicted - eps)) / expand_as_rows(alpha, x)
        misfit = 0.5 * sum_event(predicted * (predicted - 2.0 * eps))
        return data, misfit + x[0].numel() * alpha.log()

    def _entry(self, x: State) -> tuple[Tensor, Tensor]:
        level = torch.full((len(x),), self.log_snr_range[1], dtype=torch.float64, device=x.device)
        return self.process.marginal_at(level)

    def _noise(self, x: State, condition: Tensor | None) -> State:
        level = torch.full((len(x),), self.log_snr_range[1], dtype=torch.float64, device=x.device)
        alpha, sigma = self.process.marginal_at(level)
        z = x / expand_as_rows((alpha.square() + sigma.square()).sqrt(), x)
        return noise_prediction(self.score, self.process, level, z, condition)

    def inference_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift u_lambda, shape ``b *d``; times stay in float64, where both ends of a schedule are resolved."""
        drift: _Tempered = self.inference  # type: ignore[assignment]
        return drift.drift(t, x, condition)

    def generative_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift v_lambda, shape ``b *d``."""
        return self.generative(t, x, condition)  # type: ignore[operator]

    def _inference_beside(self, t: Time, x: State, v: State, condition: Tensor | None) -> State:
        if not self._shared:
            return self.inference_drift(t, x, condition)
        drift = self.process.drift(t, x)
        return drift - 0.5 * self.lmbd / (1.0 - 0.5 * self.lmbd) * (drift - v)
