r"""PyTorch's face: a diffusion model as a :class:`torch.distributions.Distribution`.

The law is that of the probability-flow ODE, on both sides: :math:`\log p` is :func:`girsanov.ode_log_prob`'s, and draws
are the law at the noise end, carried to the data by the same ODE in the same coordinates,

.. math::
    w_T \sim \pi, \qquad \frac{dw}{dl} = -\tfrac12 \sigma\, S_l^{-1/2} \delta(l, z), \qquad x = m + S^{1/2} w_0 ,

with the same solver and the same steps beyond the ends of the range (:mod:`girsanov.likelihoods.ode`, note of paper 1,
section 2.8, at lambda = 1). Samples and densities are of one model, which the reverse SDE's sampler and its bound are
not: for these there are :func:`girsanov.sample` and :func:`girsanov.elbo`.
"""

__all__ = ["ODEDistribution", "distribution"]

import math
import warnings
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from girsanov.calculus import Divergence, expand_as_rows
from girsanov.datasets.columns import Numeric, Omitted
from girsanov.densities import draw_rows
from girsanov.density_model import DensityModel
from girsanov.inputs import as_condition, as_rows, checked
from girsanov.likelihoods import ode_log_prob
from girsanov.likelihoods.ode import WhitenedFlow, default_solver, whitening
from girsanov.pairs import ScorePair
from girsanov.rows import condition_at
from girsanov.solvers import Adaptive, FixedGrid
from girsanov.types import InputError, State

CHUNK = 256  # rows that are drawn together
SEEDS = 2**62
SHOWN = 5  # columns that a refusal names
INVERSIONS = 2  # of the step beyond the noise end, whose inverse is implicit


@checked
def distribution(
    model: ScorePair | DensityModel,
    condition: Any = None,
    *,
    batch_shape: Sequence[int] | None = None,
    divergence: Divergence | None = None,
    solver: Adaptive | FixedGrid | None = None,
    differentiable: bool = False,
    validate_args: bool = True,
) -> "ODEDistribution":
    """A diffusion model as a ``torch.distributions.Distribution``: the law of its probability-flow ODE.

    It goes where PyTorch's own go, and zuko's: into ``Independent``, ``TransformedDistribution``,
    ``MixtureSameFamily``, a Monte-Carlo divergence, a variational fit. Pyro calls only its own:
    ``pyro.distributions.Independent(p, 0)`` is one of the same law.

    Args:
        model: a pair, or a fitted model, whose rows are then in data units. Where no law of a pair knows the shape of
            a row, give it ``event_shape``.
        condition: one for all draws (a label, a number), or a batch of them, whose leading dimension is the batch:
            labels as a fitted model knows them, or what the pair's score takes.
        batch_shape: of the conditions, whose leading dimension runs over it; ``()`` for a single vector. Default that
            dimension, and ``()`` for a label or none.
        divergence: see :func:`girsanov.ode_log_prob`. With probes ``log_prob`` is an unbiased estimate, the same for
            the same row.
        solver: of densities and draws alike; see :func:`girsanov.ode_log_prob`.
        differentiable: keep the graph of the model's own parameters too; take a :class:`FixedGrid` then.
        validate_args: whether missing and infinite values are refused, else their density is ``nan``; other shapes
            always are. PyTorch's global default, which importing zuko turns off, decides nothing here.

    Raises:
        InputError: for a pair that does not know the shape of a row, conditions that do not fit the batch, and a fitted
            model that has no density on all of its columns: discrete, constant or copied ones.

    Example:
        >>> from girsanov.densities import GaussianMixture
        >>> from girsanov.processes import VariancePreserving
        >>> law = GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.full((2, 2), 0.5))
        >>> process = VariancePreserving()
        >>> p = distribution(ScorePair(law.score(process), prior=law.marginal(process, 1.0)))
        >>> x = p.sample((5,))
        >>> x.shape, p.event_shape, torch.allclose(p.log_prob(x), law.log_prob(x), atol=1e-4)
        (torch.Size([5, 2]), torch.Size([2]), True)
    """
    fitted = model if isinstance(model, DensityModel) else None
    if fitted is not None:
        _require_density(fitted, divergence)
    pair = model.pair if isinstance(model, DensityModel) else model
    if not pair.event_shape:
        raise InputError("The shape of a row is not known here: give the pair event_shape=")
    given, own_shape = _encoded(model, condition)
    shape = torch.Size(own_shape if batch_shape is None else batch_shape)
    options = {"divergence": divergence, "solver": solver}
    return ODEDistribution(pair, fitted, given, shape, options, differentiable, validate_args)


@final
class ODEDistribution(Distribution):
    """The law of a model's probability-flow ODE; made by :func:`distribution`.

    ``sample`` and ``rsample`` read one number of PyTorch's global generator, so that ``torch.manual_seed`` reproduces
    them. ``rsample`` keeps the graph of the condition where it requires a gradient, and of the model's parameters where
    the distribution is ``differentiable``; :meth:`transport` also that of the noise that draws are made of, and
    ``log_prob`` that of the rows. Mean, variance, entropy and distribution function are not known in closed form and
    raise ``NotImplementedError``.

    A model with closed forms beside its diffusion (``model.mixed``) is the mixture of these and of the ODE: it is drawn
    part by part, which no gradient passes, and ``has_rsample`` is false; ``gv.distribution(model.diffusion)`` has it.
    """

    arg_constraints = {}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]  (as PyTorch's own)
    _index: Tensor  # of each place of the batch, its condition

    def __init__(
        self,
        pair: ScorePair,
        model: DensityModel | None,
        condition: Tensor | None,
        batch_shape: Sequence[int],
        options: dict[str, Any],
        differentiable: bool = False,
        validate_args: bool = True,
    ) -> None:
        self.pair, self.model, self.condition = pair, model, condition
        self.differentiable, self._options = differentiable, options
        self.has_rsample = model is None or model.mixed is None
        shape, count = torch.Size(batch_shape), 1 if condition is None else len(condition)
        if count not in (1, shape.numel()):
            raise InputError(
                f"{count} conditions do not fill the batch shape {tuple(shape)}: give one, or one for each"
            )
        self._index = torch.arange(count, device=pair.device).expand(shape.numel()).reshape(shape)
        event_shape = pair.event_shape if model is None else torch.Size(model.schema.event_shape)
        super().__init__(shape, event_shape, validate_args)

    def __repr__(self) -> str:
        return f"ODEDistribution(batch_shape: {tuple(self.batch_shape)}, event_shape: {tuple(self.event_shape)})"

    @property
    def support(self) -> constraints.Constraint:
        """All rows of real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of draws: float64 of closed forms and in data units, else the network's, or PyTorch's default."""
        return torch.float64 if self.model is not None else self.pair.dtype(torch.empty(0))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "ODEDistribution":
        """The same law, or laws, in a larger batch; see :meth:`torch.distributions.Distribution.expand`."""
        new: Any = self._get_checked_instance(ODEDistribution, _instance)
        new.__dict__.update(self.__dict__)
        new._index = self._index.expand(torch.Size(batch_shape))
        Distribution.__init__(new, new._index.shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of values whose shape ends in ``batch_shape + event_shape``, or broadcasts with it.

        Args:
            value: rows; arrays and lists will do.

        Returns:
            In the values' dtype, or the draws' where that is finer. Differentiable in the values, and in the condition,
            where these require a gradient.

        Raises:
            InputError: for other shapes, and for missing or infinite values where arguments are validated.
        """
        rows = value if isinstance(value, Tensor) and value.layout is torch.strided else as_rows(value)
        lead = rows.shape[: max(rows.ndim - len(self.event_shape), 0)]
        if rows.shape[len(lead) :] != self.event_shape:
            raise InputError(f"Values end in the event shape {tuple(self.event_shape)}; got {tuple(rows.shape)}")
        try:
            shape = torch.broadcast_shapes(lead, self.batch_shape)
        except RuntimeError as error:
            raise InputError(f"Values {tuple(rows.shape)} do not fit the batch {tuple(self.batch_shape)}") from error
        if self._shared:  # one law: what the batch only repeats is evaluated once
            found = self._log_prob(rows.reshape(lead.numel(), *self.event_shape), self.condition)
            found = found.reshape(lead).expand(shape)
        else:
            index = self._index.expand(shape).reshape(-1)
            wide = rows.expand(*shape, *self.event_shape).reshape(shape.numel(), *self.event_shape)
            found = self._log_prob(wide, self._given(index)).reshape(shape)
        return found.to(torch.promote_types(rows.dtype, self.dtype))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (as PyTorch's own)
        """Draws of shape ``sample_shape + batch_shape + event_shape``, without a graph."""
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """The draws of :meth:`sample`, with the graph of what is differentiable here.

        Adaptive steps control the error of draws, not that of their derivatives: take a :class:`FixedGrid` for these.

        Raises:
            NotImplementedError: for a model that is mixed with closed forms.
        """
        if not self.has_rsample:
            raise NotImplementedError(
                "This model is mixed with closed forms, whose draws no gradient passes: take model.diffusion"
            )
        return self._draw(torch.Size(sample_shape))

    def noise(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """States at the noise end that :meth:`rsample` would transport: draws of ``pair.prior``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self._prior(shape[: len(shape) - len(self.event_shape)].numel(), _source()).reshape(shape)

    def transport(self, noise: Tensor) -> Tensor:
        """The ODE's map from the noise end to the data; differentiable in the noise where it requires a gradient.

        Args:
            noise: states distributed as ``pair.prior``, of shape ``sample_shape + batch_shape + event_shape``.

        Returns:
            Rows of that shape, in data units of a fitted model.

        Example:
            >>> from girsanov.processes import VariancePreserving
            >>> from girsanov.densities import Gaussian
            >>> law = Gaussian(torch.tensor([3.0, -3.0]), 4.0)
            >>> p = distribution(ScorePair(law.score(VariancePreserving()), prior=Gaussian(torch.zeros(2), 1.0)))
            >>> p.transport(torch.tensor([[0.0, 1.0]])).round(decimals=1)
            tensor([[ 3., -1.]], dtype=torch.float64)
        """
        shape = torch.broadcast_shapes(noise.shape, self.batch_shape + self.event_shape)
        index = self._index.expand(shape[: len(shape) - len(self.event_shape)]).reshape(-1)
        rows = self._transport(noise.expand(shape).reshape(len(index), *self.event_shape), self._given(index))
        return rows.reshape(shape).to(torch.promote_types(noise.dtype, self.dtype))

    def _given(self, index: Tensor) -> Tensor | None:
        """The conditions at places of the batch: one for each, or the one that all share."""
        return condition_at(self.condition, index)

    @property
    def _shared(self) -> bool:
        return self.condition is None or len(self.condition) == 1

    def _records(self, *of: Tensor | None) -> bool:
        """Whether a graph is kept of what is computed of these."""
        wanted = self.differentiable or any(given is not None and given.requires_grad for given in of)
        return wanted and torch.is_grad_enabled()

    def _log_prob(self, rows: State, condition: Tensor | None) -> Tensor:
        """Log-densities of rows ``n *event_shape``, float64."""
        known = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if not self._validate_args:
            known = rows.flatten(1).isfinite().all(1)
            rows, condition = rows[known], condition_at(condition, known.nonzero().flatten())
        values = torch.full(known.shape, math.nan, dtype=torch.float64, device=rows.device)
        if not len(rows):
            return values
        if self._records(condition) and not rows.requires_grad:
            rows = as_rows(rows).detach().requires_grad_()  # likelihoods keep a graph where their rows want one
        if self.model is None:
            found = ode_log_prob(self.pair, rows, condition=condition, **self._options)
        else:
            found = self.model.log_prob(rows, condition=_labels(self.model, condition), **self._options)
        if found.kind == "estimate":
            warnings.warn(found.caveat or "The score computes in half precision, which no value knows of", stacklevel=3)
        return values.masked_scatter(known, found.value) if len(rows) < len(known) else found.value

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        shape = self._extended_shape(sample_shape)
        index = self._index.expand(shape[: len(shape) - len(self.event_shape)]).reshape(-1)
        source, given = _source(), self._given(index)
        if not len(index):
            return torch.empty(shape, dtype=self.dtype, device=self.pair.device)

        def flow(n: int, condition: Tensor | None, generator: torch.Generator) -> State:
            return self._transport(self._prior(n, generator), condition)

        mixed = None if self.model is None else self.model.mixed
        draw = flow if self.model is None or mixed is None else mixed.drawing(flow, self.model.encoding)
        return draw(len(index), given, source).reshape(shape).to(self.dtype)

    def _prior(self, n: int, generator: torch.Generator) -> State:
        law, shape = self.pair.prior, self.pair.event_shape
        noise = draw_rows(law, n, event_shape=shape, generator=generator)
        return noise.to(self.pair.device, self.pair.dtype(torch.empty(0)))

    def _transport(self, noise: State, condition: Tensor | None) -> State:
        """Rows of states at the noise end, ``n *event_shape``, float64."""
        if not len(noise):
            return noise.double()
        with torch.set_grad_enabled(self._records(noise, condition)):
            parts = []
            for part in (slice(k, k + CHUNK) for k in range(0, len(noise), CHUNK)):
                solver = self._options["solver"] or default_solver(self.pair, noise)
                parts.append(_from_noise(self.pair, noise[part], condition_at(condition, part), solver))
            rows = torch.cat(parts)
            return rows if self.model is None else self.model.encoding.inverse(rows)


def _from_noise(pair: ScorePair, noise: State, condition: Tensor | None, solver: Adaptive | FixedGrid) -> State:
    """What the ODE makes of states at the noise end, in the pair's space, float64: ``ode_log_prob``'s way backwards."""
    law = pair.reference if pair.reference is not None else whitening(noise)
    flow = WhitenedFlow(pair, law, None, condition, one_level=isinstance(solver, FixedGrid))
    rows, (low, high) = torch.arange(len(noise), device=noise.device), pair.log_snr_range

    def level(value: float) -> Tensor:
        return torch.full((len(noise),), value, dtype=torch.float64, device=noise.device)

    def field(log_snr: Tensor, w: State, rows: Tensor) -> tuple[State, Tensor]:
        return flow.velocity(log_snr, w, rows), torch.zeros(1, len(w), dtype=torch.float64, device=w.device)

    if pair.endless:  # the Euler step from here on, inverted
        w = end = law.whiten(level(-math.inf), noise.double()).to(pair.dtype(noise))
        for _ in range(INVERSIONS):
            w = end + 2.0 * flow.velocity(level(low), w, rows)
    else:
        alpha, sigma = pair.process.marginal_at(level(low))
        z = noise.double() / expand_as_rows((alpha.square() + sigma.square()).sqrt(), noise)
        w = law.whiten(level(low), z).to(pair.dtype(noise))
    w = solver.solve(field, w, flow.grid(solver.points()).flip(0)).state
    w = w + flow.velocity(level(high), w, rows)
    return law.unwhiten(level(math.inf), w.double())


def _source() -> torch.Generator:
    """A generator whose seed is read from PyTorch's global one, as its own distributions draw."""
    return torch.Generator().manual_seed(int(torch.randint(SEEDS, ())))


def _encoded(model: ScorePair | DensityModel, condition: Any) -> tuple[Tensor | None, tuple[int, ...]]:
    """Conditions as the network takes them, and the batch shape that they imply."""
    if condition is None:
        return None, ()
    count = len(condition) if np.ndim(condition) else 1
    if isinstance(model, DensityModel):
        given = model.conditioning.encode(condition, None, model.device)
        assert given is not None
    else:
        given = as_condition(condition, count).to(model.device)
    one = np.ndim(condition) == 0 or count != len(given)  # a model of c numbers takes one vector of them, too
    return given, () if one else (count,)


def _labels(model: DensityModel, condition: Tensor | None) -> Any:
    """Encoded conditions as a fitted model's doors take them."""
    if condition is None or not model.classes:
        return condition
    return [model.classes[k] for k in condition.tolist()]


def _require_density(model: DensityModel, divergence: Divergence | None) -> None:
    """A law on all columns, whose log-density is known."""
    names = [rule.name for rule in model.schema.rules if not isinstance(rule, Numeric | Omitted)]
    if model.encoding.measure != "density" or names:
        columns = model.schema.columns or ()
        steps = model.schema.bin_width.flatten().tolist()
        names += [name for name, step in zip(columns, steps, strict=False) if step > 0 and name not in names]
        found = f": {', '.join(map(repr, names[:SHOWN]))}" if names else ""
        raise InputError(
            "This model has no density on its columns, of which some are discrete, constant or computed from others"
            f"{found}; leave them out of the fit, declare them continuous, or take model.pair, the law in its own space"
        )
    if model.mixed is not None and divergence is not None and divergence.probes:
        raise InputError("The log-density of a mixture is not known with probes: take the exact divergence")
