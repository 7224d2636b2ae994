r"""The pair: two processes that share a diffusion coefficient, and what its path weights are made of.

The inference process :math:`dX = u\, dt + G\, dW` carries data at t = 0 to the horizon; the generative process
starts from the prior there and runs :math:`dX = v\, dt + G\, d\bar W` down to 0 (both drifts are written forward in
t). With :math:`D = G G^\top`, :math:`(\mathrm{div} D)_i = \sum_j \partial_j D_{ij}` and :math:`\mathrm{ddD} =
\sum_{ij} \partial_i \partial_j D_{ij}`, the control is the part of u that v does not contain,

.. math::
    a = G^{-1} (u - v - \mathrm{div} D),

and Feynman and Kac's potential is :math:`\mathrm{div}\, v + \tfrac12 \mathrm{ddD}` (note of paper 1, sections 2.2
and 2.4). Two processes whose diffusion coefficients differ have singular path laws: the infinitely deep bound is
minus infinity, so a pair refuses them.
"""

__all__ = ["DataEnd", "Drift", "Pair", "Step"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.calculus import Divergence
from girsanov.densities import Density, draw_rows
from girsanov.display import Shown, Summary, in_words
from girsanov.inputs import ask
from girsanov.linear import Full, LinearMap, ValueMap, map_of
from girsanov.linear.fields import depends_on_rows, diffusion_terms
from girsanov.pairs.steps import Kernel
from girsanov.processes import Process
from girsanov.types import InputError, Nats, State, Time

#: ``(t, x) -> drift``, or ``(t, x, condition) -> drift`` for a conditional one: shapes ``b``, ``b *d`` -> ``b *d``
Drift = Callable[..., State]

PROBES = 8
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Step:
    """What a path weight needs at one time.

    Attributes:
        drift: inference drift u, shape ``b *d``.
        scale: the shared diffusion coefficient.
        control: shape ``b *d``.
        potential: div v + ddD / 2, shape ``m b``, one row per probe of the divergence.
    """

    drift: State
    scale: LinearMap
    control: State
    potential: Tensor

    def uncontrolled(self) -> "Step":
        """The same with no control, whose drift is without the part that the control adds."""
        drift = self.drift - self.scale.times(self.control)
        return replace(self, drift=drift, control=torch.zeros_like(self.control))


class DataEnd(nn.Module):
    """How data enter and leave: here as they are.

    Attributes:
        has_exit: whether the data have a law given the first state, :meth:`exit`.
    """

    has_exit: bool = False

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The first state given data, and its log-weight; here the data themselves, and 0."""
        del eps, condition
        return x, x.new_zeros(len(x), dtype=torch.float64)

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """Data drawn given the first state, and their log-weight; here the state itself, and 0."""
        del eps, condition
        return x, x.new_zeros(len(x), dtype=torch.float64)

    def exit(self, x: State, condition: Tensor | None = None) -> Kernel | None:
        """The law of the data given the first state; ``None`` where they are that state."""
        del x, condition
        return None


class Pair(Shown, DataEnd):
    r"""An inference process, a generative drift and a prior.

    Args:
        inference: the process that carries data to the prior, with the diffusion coefficient of both.
        generative: drift ``v(t, x)`` written forward in t; or a whole process, whose diffusion coefficient is then
            compared with the inference process's at random probe points.
        prior: law of the generative process at the horizon.
        event_shape: shape of one row; default the prior's.

    Raises:
        InputError: if the two diffusion coefficients or horizons differ.

    Example:
        >>> from girsanov.densities import StandardNormal
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> process = OrnsteinUhlenbeck()
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> pair.times(4)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        inference: Process,
        generative: Process | Drift,
        prior: Density | None,
        *,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.inference = inference
        self.generative = generative
        self._prior = prior
        self._event_shape = None if event_shape is None else torch.Size(event_shape)
        if isinstance(generative, Process):
            self._require_shared_diffusion(generative)

    def _summary(self) -> Summary:
        facts = {name: in_words(value) for name, value in self._facts().items()}
        return Summary(
            type(self).__name__, facts, hint="gv.elbo or gv.chain_elbo(pair, x) bounds; gv.sample(pair, n) draws"
        )

    def _facts(self) -> dict[str, Any]:
        """What it is made of, by name."""
        return {"inference": self.inference, "generative": self.generative, "prior": self._prior}

    @property
    def prior(self) -> Density:
        """Law of the generative process at the horizon."""
        assert self._prior is not None
        return self._prior

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row; empty where neither the caller nor the prior knows it."""
        return self.prior.event_shape if self._event_shape is None else self._event_shape

    @property
    def horizon(self) -> float:
        """Time of the prior."""
        return self.inference.horizon

    def times(self, steps: int) -> Tensor:
        """Grid of ``steps + 1`` times from 0 to the horizon, float64."""
        return torch.linspace(0.0, self.horizon, steps + 1, dtype=torch.float64)

    def inference_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift u(t, x) of the inference process, shape ``b *d``."""
        return _call(self.inference.drift, t, x, condition)

    def generative_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift v(t, x) of the generative process, written forward in t, shape ``b *d``."""
        drift = self.generative.drift if isinstance(self.generative, Process) else self.generative
        return _call(drift, t, x, condition)

    def scale(self, t: Time, x: State) -> ValueMap:
        """The shared diffusion coefficient at rows ``x``.

        Raises:
            InputError: for one that is not positive and finite or, as a matrix, not invertible.
        """
        return _invertible(map_of(self.inference.diffusion(t.to(x.dtype), x), x), x)

    def noise_depends_on(self, x: State) -> bool:
        """Whether the diffusion coefficient has a gradient in rows ``x``, at half time."""
        t = torch.full((len(x),), 0.5 * self.horizon, dtype=x.dtype, device=x.device)
        return depends_on_rows(lambda y: self.inference.diffusion(t, y), x)

    def log_prior(self, x: State) -> Nats:
        """Log-density of the prior at rows of the horizon, shape ``b``."""
        return self.prior.log_prob(x)

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw ``n`` rows from the prior, in the dtype of the pair's parameters.

        Raises:
            InputError: if neither the prior nor the pair knows the shape of a row.
        """
        x = draw_rows(self.prior, n, event_shape=self.event_shape, generator=generator)
        parameter = next(self.parameters(), None)
        return x if parameter is None else x.to(parameter)

    def step(self, t: Time, x: State, condition: Tensor | None, divergence: Divergence, probes: Tensor | None) -> Step:
        """Drift, coefficient, control and potential at one time for each row."""
        v, div_v = divergence(lambda y: self.generative_drift(t, y, condition), x, probes)
        u = self._inference_beside(t, x, v, condition)
        scale = self.scale(t, x)
        terms = diffusion_terms(lambda y: self.inference.diffusion(t.to(y.dtype), y), x)
        if terms is None:
            return Step(u, scale, scale.solve(u - v), div_v)
        div_d, dd_d = terms
        return Step(u, scale, scale.solve(u - v - div_d), div_v + 0.5 * dd_d)

    def _inference_beside(self, t: Time, x: State, v: State, condition: Tensor | None) -> State:
        """The inference drift, given the generative one at the same rows: a shared network is evaluated once."""
        del v
        return self.inference_drift(t, x, condition)

    def _require_shared_diffusion(self, generative: Process) -> None:
        if generative.horizon != self.horizon:
            raise InputError(
                f"Both processes must end at the same time; the horizons are {self.horizon} and {generative.horizon}"
            )
        x, t = self._probe_points()
        scales = (map_of(p.diffusion(t.to(x.dtype), x), x) for p in (self.inference, generative))
        ours, theirs = (scale.squared().dense(x) for scale in scales)
        worst = float(((ours - theirs).norm(dim=(1, 2)) / ours.norm(dim=(1, 2))).max())
        if not worst <= TOLERANCE:
            raise InputError(
                f"The generative process has another diffusion coefficient than the inference process (relative "
                f"difference of G G^T {worst:.2g} at probe points): their path laws are singular and the infinitely "
                f"deep bound is minus infinity; give both the same diffusion"
            )

    def _probe_points(self) -> tuple[State, Time]:
        generator = torch.Generator().manual_seed(0)
        x = self.sample_prior(PROBES, generator)
        t = self.horizon * torch.rand(PROBES, generator=generator, dtype=torch.float64)
        return x, t.to(x.device)


def _invertible(g: ValueMap, x: State) -> ValueMap:
    if isinstance(g, Full):
        right = g.columns(x) == x[0].numel() and bool(g.detach().log_det(x).isfinite().all())
    else:
        right = bool(((g.value > 0.0) & g.value.isfinite()).all())
    if not right:
        raise InputError(
            "diffusion(t, x) must be positive and finite, as a matrix invertible: where it is degenerate, paths have "
            "no weights; add noise to the directions that have none"
        )
    return g


def _call(drift: Drift, t: Time, x: State, condition: Tensor | None) -> State:
    """Times take the dtype of the rows, as a user's network expects them."""
    return ask(drift, t.to(x.dtype), x, condition, "drift")
