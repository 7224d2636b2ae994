r"""The family of generators around a score: from the reverse SDE towards the ODE, and beyond it.

With the generative drift :math:`v_\lambda = f - (1 - \lambda/2) g^2 s`, the inference drift
:math:`u_\lambda = f - (\lambda/2) g^2 \hat s` and the diffusion :math:`\sqrt{1 - \lambda}\, g`, every
:math:`\lambda < 1` has the marginals of the process where s and :math:`\hat s` are exact, and a valid bound where
they are not (note of paper 1, section 2.8). The member 0 is the reverse SDE.
"""

__all__ = ["FamilyPair", "PlugIn"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows
from girsanov.densities import Density
from girsanov.inputs import ask
from girsanov.pairs.pair import Pair
from girsanov.pairs.steps import Kernel
from girsanov.processes import LinearProcess, Process
from girsanov.types import InputError, Nats, Score, State, Time


@dataclass(frozen=True)
class PlugIn:
    """Generative drift v_lambda, written forward in t, of a score over a linear process."""

    process: LinearProcess
    score: Score
    lmbd: float = 0.0

    def __call__(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift at times ``b`` and rows ``b *d``."""
        share = (1.0 - 0.5 * self.lmbd) * self.process.rates(t)[1]
        return self.process.drift(t, x) - expand_as_rows(share, x) * ask(self.score, t, x, condition)


class _Tempered(Process):
    """Inference process u_lambda with diffusion sqrt(1 - lambda) g."""

    def __init__(self, drift: PlugIn, score: Score | None) -> None:
        super().__init__()
        self.process, self.score, self.lmbd = drift.process, score, drift.lmbd
        self.horizon = self.process.horizon

    def drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        drift = self.process.drift(t, x)
        if self.score is None:
            return drift
        value = ask(self.score, t, x, condition)
        return drift - 0.5 * self.lmbd * expand_as_rows(self.process.rates(t)[1], x) * value

    def diffusion(self, t: Time, x: State) -> Tensor:
        return (1.0 - self.lmbd) ** 0.5 * self.process.diffusion(t, x)


@final
class FamilyPair(Pair):
    """A member of a score pair's family; made by :meth:`ScorePair.family`.

    Args:
        base: the pair of the reverse SDE.
        drift: the member's generative drift, whose lambda is below 1.
        inference_score: the score of the inference drift where ``lmbd`` is not 0; default the pair's.
    """

    def __init__(self, base: Pair, drift: PlugIn, inference_score: Score | None = None) -> None:
        lmbd = drift.lmbd
        if not lmbd < 1.0:
            raise InputError(f"lmbd must be below 1; got {lmbd}: at 1 the model is the ODE, use ode_log_prob")
        inner = None if lmbd == 0.0 else (inference_score or drift.score)
        super().__init__(_Tempered(drift, inner), drift, None)
        self.base, self.process, self.lmbd = base, drift.process, lmbd
        self.has_exit = base.has_exit
        self._shared = inference_score is None or lmbd == 0.0

    @property
    def prior(self) -> Density:
        return self.base.prior

    @property
    def event_shape(self) -> torch.Size:
        return self.base.event_shape

    def times(self, steps: int) -> Tensor:
        return self.base.times(steps)

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        return self.base.begin(x, eps, condition)

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        return self.base.finish(x, eps, condition)

    def exit(self, x: State, condition: Tensor | None = None) -> Kernel | None:
        return self.base.exit(x, condition)

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
