r"""A bridge as a chain of Gaussian steps, exact for its linear reference at any number of steps.

In the reference's clock :math:`y = x/\alpha` is Brownian, so that Euler steps of the pulls p and :math:`\hat p`,

.. math::
    y_{k+1} = y_k + \Delta\tau\, \alpha_k\, p(t_k, x_k) + \sqrt{\Delta\tau}\, s_k \varepsilon, \qquad
    y_k = y_{k+1} + \Delta\tau\, \alpha_{k+1}\, \hat p(t_{k+1}, x_{k+1}) + \sqrt{\Delta\tau}\, r_k \varepsilon',

are exact where both pulls vanish, however stiff the reference is: no step overshoots (note of paper 3, section 5, traps
5 and 6: the encoder's pull is taken at the earlier time, the decoder's at the later). The factors s and r may be
learned, s a number for each step and r a diagonal or a lower triangular matrix; both are 1 at first.
"""

__all__ = ["BridgeChain", "Weighed", "cosine_times", "joined", "rows_at_once", "uniform_times"]

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from girsanov.bridges.halves import Half
from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Density
from girsanov.linear import Isotropic, LinearMap, Triangular
from girsanov.pairs import Chain, Direction, GaussianKernel, Kernel, Move, Noise
from girsanov.pairs.chain import recomputing
from girsanov.randomness import normal_blocks, source_of
from girsanov.types import InputError, Nats, State

StepVariances = Literal["fixed", "diagonal", "full"]
ROWS_AT_ONCE = 16_384  # through a network: more cost memory and save no time
ENTRIES_AT_ONCE = 2**17  # and of wide rows fewer, whose feature maps stay in the cache
ROUNDING = 1e-9  # of the horizon: closer times are one


def uniform_times(steps: int, horizon: float) -> Tensor:
    """Grid of ``steps + 1`` equidistant times, float64."""
    return torch.linspace(0.0, horizon, steps + 1, dtype=torch.float64)


def cosine_times(steps: int, horizon: float) -> Tensor:
    """Grid of ``steps + 1`` times, finer towards both ends, float64.

    Example:
        >>> cosine_times(4, 1.0)
        tensor([0.0000, 0.1464, 0.5000, 0.8536, 1.0000], dtype=torch.float64)
    """
    grid = 0.5 * horizon * (1.0 - torch.cos(math.pi * torch.arange(steps + 1, dtype=torch.float64) / steps))
    grid[-1] = horizon
    return grid


@final
class BridgeChain(Chain):
    """Steps of two halves on a grid.

    Args:
        forward: half that pulls to the end.
        backward: half that pulls to the start.
        times: increasing grid from 0 to the horizon.
        prior: law of the end, where its density is known: without one there is no bound.
        variances: of the steps: ``fixed`` to the reference's; or learned, a number for each step of the encoder and,
            for a step of the decoder, ``diagonal`` (one number where the end has no density) or ``full``, a covariance.
            The best encoder of a chain with diagonals is not the Schroedinger bridge but one whose reversed steps are
            nearly uncorrelated; with ``full`` it is, between Gaussians at any number of steps (decision 0009).
    """

    decoder_below: Tensor | None

    def __init__(
        self,
        forward: Half,
        backward: Half,
        times: Tensor,
        *,
        prior: Density | None = None,
        variances: StepVariances = "fixed",
    ) -> None:
        grid = times.double()
        if grid.ndim != 1 or not bool((grid.diff() > 0).all()):
            raise InputError(f"times must increase; got {grid.tolist()[:4]} ...")
        learned, shape = variances != "fixed", tuple(forward.ends.start_mean.shape)
        per_dimension = shape if learned and prior is not None else ()
        super().__init__(len(grid) - 1, learn_variances=learned, per_dimension=per_dimension)
        below = torch.zeros(self.length, math.prod(shape), math.prod(shape)) if variances == "full" else None
        self.decoder_below = None if below is None else nn.Parameter(below)
        self.forward_half, self.backward_half, self.prior = forward, backward, prior
        self.variances: StepVariances = variances
        alpha, tau = forward.clock(grid)
        for name, value in (("times", grid), ("alpha", alpha), ("tau", tau)):
            self.register_buffer(name, value)

    def on(self, first: float, last: float, begin: float, end: float) -> tuple["BridgeChain", Tensor]:
        """The chain stretched over ``[first, last]``, between any two times of that: steps that hold these are cut.

        Within a step the chain is Brownian with a constant pull in the reference's clock, so that a walk that stops
        inside a step has the step's own law there.

        Returns:
            The chain of the part, which shares the halves, and the outer times of its states, float64.
        """
        times = self.get_buffer("times").cpu()
        outer = first + (last - first) * (times / times[-1])
        outer[-1] = last
        if (begin, end) == (first, last):
            return self, outer
        edges = times.new_tensor([begin, end])
        low, high = times[-1] * (edges - first) / (last - first)
        inside = (times > low + ROUNDING * times[-1]) & (times < high - ROUNDING * times[-1])
        part = self._cut(torch.cat([low[None], times[inside], high[None]]))
        return part, torch.cat([edges[:1], outer[inside], edges[1:]])

    def _cut(self, grid: Tensor) -> "BridgeChain":
        """The chain on a grid whose steps lie in its own."""
        own = self.get_buffer("times")
        part = BridgeChain(self.forward_half, self.backward_half, grid, prior=self.prior, variances=self.variances)
        part = part.to(own.device).train(self.training)
        step = torch.searchsorted(own.cpu(), 0.5 * (grid[:-1] + grid[1:])) - 1
        for name in ("encoder_log_variance", "decoder_log_variance", "decoder_below"):
            value = getattr(self, name)
            if value is not None:
                getattr(part, name).data = value.detach()[step.to(value.device)]
        return part

    def encode(self, k: int | Tensor, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """From time k to time k + 1; k may be a number of its own for each row, shape ``b``."""
        return self._forward(k, x, self.forward_half(self._times(k), x, condition))

    def decode(self, k: int | Tensor, x: State, condition: Tensor | None = None) -> GaussianKernel:
        return self._backward(k, x, self.backward_half(self._times(k + 1), x, condition))

    def _forward(self, k: int | Tensor, x: State, pull: State) -> GaussianKernel:
        """The encoder's step, given its pull at time k."""
        alpha, following, width = self._step(k)
        shift = _wide(following / alpha - 1.0, x) * x + _wide(following * width * alpha, x) * pull
        offset = _offset(self.encoder_log_variance, k, x)
        return GaussianKernel(shift, self._scale(following * width**0.5, x), offset, pull)

    def _backward(self, k: int | Tensor, x: State, pull: State) -> GaussianKernel:
        """The decoder's step, given its pull at time k + 1."""
        alpha, following, width = self._step(k)
        shift = _wide(alpha / following - 1.0, x) * x + _wide(alpha * width * following, x) * pull
        scale: LinearMap = self._scale(alpha * width**0.5, x)
        if self.decoder_below is not None:
            scale = Triangular(scale.value, self.decoder_below[k])
        return GaussianKernel(shift, scale, _offset(self.decoder_log_variance, k, x), pull)

    def returns(
        self,
        moves: Iterable[Move],
        direction: Direction = "forward",
        *,
        condition: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Iterator[tuple[Move, Kernel]]:
        """See :class:`~girsanov.pairs.Chain`; the network sees the states of many moves at once."""
        up = direction == "forward"
        half = recomputing(self.backward_half if up else self.forward_half, checkpoint)
        for taken in _blocks(moves):
            times = torch.cat([self._times(move.k + up) for move in taken])
            pulls = _pulls(half, times, [move.after for move in taken], condition)
            for move, pull in zip(taken, pulls, strict=True):
                yield move, (self._backward if up else self._forward)(move.k, move.after, pull)

    def log_prior(self, x: State) -> Nats:
        """Log-density of the end.

        Raises:
            InputError: if the end is known by rows only.
        """
        if self.prior is None:
            raise InputError("The end of this bridge is known by rows only, so it has no bound: fit it with prior=")
        return self.prior.log_prob(x)

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw from the end, in the dtype of the networks.

        Raises:
            InputError: if the end is known by rows only.
        """
        if self.prior is None:
            raise InputError("The end of this bridge is known by rows only: pass rows to start from")
        drawn = self.prior.sample(n, generator=generator)
        parameter = next(self.parameters(), None)
        return drawn if parameter is None else drawn.to(parameter)

    @torch.no_grad()
    def simulate(
        self,
        x: State,
        direction: Direction = "forward",
        *,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
    ) -> State:
        """Paths from rows of one end to the other, in the order of time: shape ``N+1 n *d``.

        Their noise is drawn from ``generator``, or given by ``noise``.
        """
        moves = self.walk(x, noise or normal_blocks(x, source_of(generator)), direction, condition=condition)
        states = [x, *(move.after for move in moves)]
        return torch.stack(states if direction == "forward" else states[::-1])

    def weigh(
        self,
        x: State,
        noise: Noise,
        *,
        condition: Tensor | None = None,
        path_gradient: bool = False,
        checkpoint: bool = False,
    ) -> "Weighed":
        """One encoder path per row and what is summed along it.

        Args:
            x: rows ``b *d``.
            noise: source of standard normal blocks.
            condition: leading dimension ``b`` or 1.
            path_gradient: leave the score of the encoder's own densities at fixed states out of the gradient of
                ``steps``. Its mean is zero; without it the gradient of the encoder has no variance where the decoder
                reverses it exactly (Roeder, Wu & Duvenaud 2017), at the cost of one more evaluation of the encoder.
            checkpoint: keep only states and moves in memory and evaluate the networks again in the backward pass.
        """
        moves = list(self.walk(x, noise, condition=condition, checkpoint=checkpoint))
        reference = sum((self._divergence(move) for move in moves), x.new_zeros(len(x), dtype=torch.float64))
        held = moves
        if path_gradient and torch.is_grad_enabled():
            held = self._by_constants(moves, condition, checkpoint)
        returned = self.returns(held, condition=condition, checkpoint=checkpoint)
        steps = sum((move.gain(back) for move, back in returned), torch.zeros_like(reference))
        return Weighed(steps, reference, moves[-1].after)

    def _by_constants(self, moves: list[Move], condition: Tensor | None, checkpoint: bool) -> list[Move]:
        """Moves of the encoder, their kernels and noise as the encoder with constant parameters sees them."""
        constants = {name: parameter.detach() for name, parameter in self.forward_half.named_parameters()}
        half = recomputing(lambda *inputs: functional_call(self.forward_half, constants, inputs), checkpoint)
        pulls = _pulls(half, self.get_buffer("times")[:-1], [move.before for move in moves], condition)
        held = []
        for move, pull in zip(moves, pulls, strict=True):
            kernel = self._forward(move.k, move.before, pull)
            kernel = replace(kernel, log_variance=kernel.log_variance.detach())
            held.append(replace(move, kernel=kernel, eps=kernel.noise(move.change)))
        return held

    def _divergence(self, move: Move) -> Nats:
        """Divergence of the encoder's step from the reference's, shape ``b``."""
        alpha, following, width = self._step(move.k)
        assert isinstance(move.kernel, GaussianKernel)
        control = move.kernel.shift - (following / alpha - 1.0) * move.before
        offset = move.kernel.log_variance.double()
        size = sum_event(control.square()) / (following**2 * width)
        return 0.5 * (size + move.before[0].numel() * (offset.exp() - 1.0 - offset))

    def _step(self, k: int | Tensor) -> tuple[Any, Any, Any]:
        """Alpha at both times of a step and the clock's advance: numbers, or ``b`` of each."""
        alpha, tau = self.get_buffer("alpha"), self.get_buffer("tau")
        found = alpha[k], alpha[k + 1], tau[k + 1] - tau[k]
        return found if isinstance(k, Tensor) else tuple(map(float, found))

    def _times(self, k: int | Tensor) -> Tensor:
        return self.get_buffer("times")[k].reshape(-1)  # one for all rows: what depends on time is computed once

    @staticmethod
    def _scale(value: float | Tensor, x: State) -> Isotropic:
        each = (
            value.to(x) if isinstance(value, Tensor) else torch.full((len(x),), value, dtype=x.dtype, device=x.device)
        )
        return Isotropic(each)


@dataclass(frozen=True)
class Weighed:
    """Sums along one encoder path per row.

    Attributes:
        steps: the log-weight without the prior, ``b``.
        reference: a one-path estimate of KL(encoder || reference) in the chain's form (note of paper 3, equation 4),
            ``b``.
        end: the last state, ``b *d``.
    """

    steps: Nats
    reference: Nats
    end: State


def joined(parts: list[Tensor]) -> Tensor:
    """States or times of parts that follow each other, each beginning where the one before ends."""
    return torch.cat([parts[0], *(part[1:] for part in parts[1:])])


def rows_at_once(x: State) -> int:
    """How many rows like these a network should see at once."""
    return max(1, min(ROWS_AT_ONCE, ENTRIES_AT_ONCE // max(1, math.prod(x.shape[1:]))))


def _blocks(moves: Iterable[Move]) -> Iterator[list[Move]]:
    """So many moves at a time as a network should see the states of: a long walk is not kept whole."""
    taken: list[Move] = []
    for move in moves:
        taken.append(move)
        if len(taken) >= _at_once(move.after):
            yield taken
            taken = []
    if taken:
        yield taken


def _at_once(x: State) -> int:
    """How many states like this one a network should see at once."""
    return max(1, rows_at_once(x) // len(x))


def _wide(factor: float | Tensor, x: State) -> float | Tensor:
    """A factor of each row beside rows ``x``."""
    return expand_as_rows(factor, x).to(x.dtype) if isinstance(factor, Tensor) else factor


def _offset(values: Tensor, k: int | Tensor, x: State) -> Tensor:
    """The offset of the log-variance of step k, or those of every row beside rows ``x``."""
    offset = values[k]
    return expand_as_rows(offset, x) if isinstance(k, Tensor) and offset.ndim == 1 else offset


def _pulls(half: Callable[..., State], times: Tensor, states: list[State], condition: Tensor | None) -> Iterator[State]:
    """A half's pull at the states of several times: its network sees many times at once."""
    rows = len(states[0])
    at_once, given = _at_once(states[0]), condition
    for begin in range(0, len(states), at_once):
        block = states[begin : begin + at_once]
        if condition is not None and len(condition) > 1:
            given = condition.repeat(len(block), *(1,) * (condition.ndim - 1))
        pulls = half(times[begin : begin + len(block)], torch.cat(block), given)
        yield from pulls.unflatten(0, (len(block), rows))
