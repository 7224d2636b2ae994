r"""N Gaussian steps: a deep hierarchical VAE, whose log-weight is a true bound at every N.

An encoder step is :math:`F_k(x_{k+1} \mid x_k)`, a decoder step :math:`B_k(x_k \mid x_{k+1})`, both Gaussian. With
:math:`x_{k+1} = x_k + m_k + S_k \varepsilon_k` and the decoder's :math:`x_k = x_{k+1} + n_k + R_k \varepsilon'_k`,

.. math::
    \log w = \log \pi(x_N) + \sum_k \Big[ \tfrac12 \|\varepsilon_k\|^2 - \tfrac12 \|\varepsilon'_k\|^2
        + \log|\det S_k| - \log|\det R_k| \Big],
    \qquad \varepsilon'_k = -R_k^{-1} (S_k \varepsilon_k + m_k + n_k),

the form that does not cancel (note of paper 3, section 2.6). Its mean over encoder paths is at most, and the logarithm
of its mean weight tends to, the log-density of the chain; on paths of the decoder it errs to the other side.
"""

__all__ = ["Chain", "Direction", "GaussianKernel", "Kernel", "Move", "recomputing"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from girsanov.calculus import sum_event
from girsanov.inputs import checked
from girsanov.linear import LinearMap
from girsanov.pairs.pair import DataEnd
from girsanov.pairs.paths import Noise
from girsanov.randomness import normal_blocks, source_of
from girsanov.types import Nats, State, require_count

T = TypeVar("T")
LOG_2PI = math.log(2.0 * math.pi)

#: of a walk: from the data to the prior by the encoder, or back by the decoder
Direction = Literal["forward", "backward"]


class Kernel(ABC):
    """The law of one step, given the state that it leaves: a change of the state for each standard normal noise."""

    @abstractmethod
    def change(self, eps: State) -> State:
        """The change of the state that noise ``eps`` makes, shape ``b *d``."""

    @abstractmethod
    def noise(self, change: State) -> State:
        """The noise that makes ``change``."""

    @abstractmethod
    def log_det(self, change: State) -> Nats:
        """Log-determinant of the change's derivative in the noise, shape ``b``, float64."""

    def log_prob(self, change: State) -> Nats:
        """Log-density of a change of the state, shape ``b``, float64."""
        square = sum_event(self.noise(change).square())
        return -0.5 * (square + change[0].numel() * LOG_2PI) - self.log_det(change)


@final
@dataclass(frozen=True)
class GaussianKernel(Kernel):
    """A Gaussian step: ``x + shift + exp(log_variance / 2) scale eps``.

    Attributes:
        shift: mean minus the present state, shape ``b *d``.
        scale: what multiplies the noise.
        log_variance: learned offset of the output's log-variance, one number or one per dimension (``*d``), or such for
            every row (``b 1``, ``b *d``).
        pull: what a network contributed to the shift, before its factor, shape ``b *d``; ``None`` where nobody asks.
    """

    shift: State
    scale: LinearMap
    log_variance: Tensor
    pull: State | None = None

    def change(self, eps: State) -> State:
        """The shift, and the noise in its scale."""
        return self.shift + (0.5 * self.log_variance).exp().to(eps.dtype) * self.scale.times(eps)

    def noise(self, change: State) -> State:
        """What is left beyond the shift, over its scale."""
        return self.scale.solve((-0.5 * self.log_variance).exp().to(change.dtype) * (change - self.shift))

    def log_det(self, change: State) -> Nats:
        """Log-determinant of the scale, shape ``b``."""
        offset = self.log_variance.double()
        each = offset.ndim == change.ndim
        total = sum_event(offset.expand(change.shape)) if each else offset.expand(change.shape[1:]).sum()
        return self.scale.log_det(change) + 0.5 * total


@dataclass(frozen=True)
class Move:
    """One step of a walk.

    Attributes:
        k: its number; forward it leads from state k to state k + 1, backward from k + 1 to k.
        before: the state that it left, shape ``b *d``.
        after: the state that it reached.
        change: their difference, as it was made.
        eps: its noise.
        kernel: the law it was drawn from.
    """

    k: int
    before: State
    after: State
    change: State
    eps: State
    kernel: Kernel

    def returned(self, back: Kernel) -> State:
        """The noise with which the kernel ``back`` of the other direction undoes this move."""
        return back.noise(-self.change)

    def gain(self, back: Kernel) -> Nats:
        """Log-density of the way back less that of the way here, shape ``b``, float64."""
        noise = self.returned(back)
        log_det = self.kernel.log_det(self.change) - back.log_det(-self.change)
        return log_det + 0.5 * sum_event((self.eps - noise) * (self.eps + noise))


class Chain(DataEnd, ABC):
    """A chain of Gaussian steps from data (k = 0) to the prior (k = N).

    To implement one, define ``encode``, ``decode`` and ``log_prior``, and ``sample_prior`` for draws.

    Args:
        length: number N of steps.
        learn_variances: whether the offsets below are parameters, for training; else they are buffers.
        per_dimension: shape of a row where the decoder has one offset per dimension; default one per step.

    Attributes:
        encoder_log_variance: offsets of the encoder's log-variances, shape ``N``; 0 at first.
        decoder_log_variance: the decoder's, shape ``N`` or ``N *d``; see also :meth:`fit_variances`.
    """

    encoder_log_variance: Tensor
    decoder_log_variance: Tensor

    def __init__(self, length: int, *, learn_variances: bool = False, per_dimension: Sequence[int] = ()) -> None:
        super().__init__()
        self.length = require_count("steps", length)
        offsets = torch.zeros(length), torch.zeros(length, *per_dimension)
        for name, value in zip(("encoder_log_variance", "decoder_log_variance"), offsets, strict=True):
            if learn_variances:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @abstractmethod
    def encode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """The step from state k to state k + 1, given state k."""

    @abstractmethod
    def decode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """The step from state k + 1 to state k, given state k + 1."""

    @abstractmethod
    def log_prior(self, x: State) -> Nats:
        """Log-density of state N, shape ``b``."""

    @abstractmethod
    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw state N, ``n`` rows."""

    def walk(
        self,
        x: State,
        noise: Noise,
        direction: Direction = "forward",
        *,
        condition: Tensor | None = None,
        checkpoint: bool = False,
        still: Container[int] = (),
    ) -> Iterator[Move]:
        """The one walk: from state 0 by the encoder or from state N by the decoder, a move at a time.

        Args:
            x: the state to start from, ``b *d``.
            noise: source of standard normal blocks, one for each move.
            direction: ``forward`` to the prior or ``backward`` to the data.
            condition: leading dimension ``b`` or 1.
            checkpoint: do not keep what a kernel computes, but compute it again in the backward pass.
            still: numbers of the moves that end in their means, without noise.
        """
        step = recomputing(self.encode if direction == "forward" else self.decode, checkpoint)
        for k in range(self.length) if direction == "forward" else reversed(range(self.length)):
            kernel = step(k, x, condition)
            eps = torch.zeros_like(x) if k in still else noise(1)[0]
            change = kernel.change(eps)
            yield Move(k, x, x + change, change, eps, kernel)
            x = x + change

    def returns(
        self,
        moves: Iterable[Move],
        direction: Direction = "forward",
        *,
        condition: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Iterator[tuple[Move, Kernel]]:
        """Every move of a walk in ``direction`` with the kernel of the other one that leads back from its end."""
        back = recomputing(self.decode if direction == "forward" else self.encode, checkpoint)
        for move in moves:
            yield move, back(move.k, move.after, condition)

    def log_weights(self, x: State, noise: Noise, *, condition: Tensor | None = None, checkpoint: bool = False) -> Nats:
        """Log-weight of one encoder path per row, shape ``b``, float64; differentiable along the path.

        Args:
            x: rows ``b *d``.
            noise: source of standard normal blocks.
            condition: leading dimension ``b``.
            checkpoint: keep only states and moves in memory and compute every kernel again in the backward pass.
        """
        x, total = self.begin(x, noise(1)[0], condition)
        moves = self.walk(x, noise, condition=condition, checkpoint=checkpoint)
        for move, back in self.returns(moves, condition=condition, checkpoint=checkpoint):
            x, total = move.after, total + move.gain(back)
        return total + self.log_prior(x)

    @checked
    def sample(
        self, n: int, *, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> tuple[State, Nats]:
        """Draw rows from the decoder, each with the log-weight of the path that made it.

        Given its row, that path is an exact draw from the chain's posterior: the mean of its log-weight is an
        upper bound on the row's log-density.
        """
        generator = source_of(generator)
        x = self.sample_prior(n, generator)
        noise, total = normal_blocks(x, generator), self.log_prior(x)
        moves = self.walk(x, noise, "backward", condition=condition)
        for move, forward in self.returns(moves, "backward", condition=condition):
            x, total = move.after, total - move.gain(forward)
        x, gain = self.finish(x, noise(1)[0], condition)
        return x, total + gain

    @checked
    @torch.no_grad()
    def fit_variances(
        self, x: State, *, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> None:
        """Set the decoder's step variances to those that maximise the bound on rows ``x``, in closed form.

        Given its mean, the best variance of a Gaussian step is the mean squared residual along encoder paths (note of
        paper 3, section 2.6, learned kb). On n rows its logarithm has an error that costs about 1/2n nats (for each
        offset), more in many steps than small offsets gain: they are shrunk towards 0 by what of their square is error.
        """
        noise = normal_blocks(x, source_of(generator))
        x, _ = self.begin(x, noise(1)[0], condition)
        for move, back in self.returns(self.walk(x, noise, condition=condition), condition=condition):
            own, squares = self.decoder_log_variance[move.k], move.returned(back).double().square()
            found = _shrunk_log_mean(squares if own.ndim else squares.flatten(1).mean(1))
            self.decoder_log_variance[move.k] = own + found


def recomputing(function: Callable[..., T], checkpoint: bool) -> Callable[..., T]:
    """The same function, or with ``checkpoint`` one whose inner values are computed again in the backward pass."""
    if not (checkpoint and torch.is_grad_enabled()):
        return function
    return partial(recompute, function, use_reentrant=False)  # type: ignore[return-value]


def _shrunk_log_mean(squares: Tensor) -> Tensor:
    """Logarithm of the mean over rows, times the share of its square that is not its own error."""
    mean = squares.mean(0)
    variance = squares.var(0, correction=0) / (len(squares) * mean.square())
    offset = mean.log()
    return (offset * (1.0 - variance / offset.square()).clamp_min(0.0)).nan_to_num(0.0)
