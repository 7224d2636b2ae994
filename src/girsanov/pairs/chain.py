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

__all__ = ["Chain", "Direction", "recomputing"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from girsanov.inputs import checked
from girsanov.pairs.pair import DataEnd
from girsanov.pairs.paths import Noise
from girsanov.pairs.steps import Kernel, Move, Path
from girsanov.randomness import normal_blocks, source_of
from girsanov.rows import conditions_for
from girsanov.types import InputError, Nats, State, require_count

T = TypeVar("T")
NO_DENSITY = (
    "Step {j} of a draw has no density: its noise vanishes, as all of lmbd = 1 do, or its mean is not finite. Take a "
    "sampler whose steps have noise"
)

#: of a walk: from the data to the prior by the encoder, or back by the decoder
Direction = Literal["forward", "backward"]


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
        decode: Callable[..., Kernel] | None = None,
    ) -> Iterator[Move]:
        """The one walk: from state 0 by the encoder or from state N by the decoder, a move at a time.

        Args:
            x: the state to start from, ``b *d``.
            noise: source of standard normal blocks, one for each move.
            direction: ``forward`` to the prior or ``backward`` to the data.
            condition: leading dimension ``b`` or 1.
            checkpoint: do not keep what a kernel computes, but compute it again in the backward pass.
            still: numbers of the moves that end in their means, without noise.
            decode: in place of the decoder, for samplers whose steps are no kernels of this chain.
        """
        step = recomputing(self.encode if direction == "forward" else decode or self.decode, checkpoint)
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
    def sample_path(self, n: int, *, generator: torch.Generator | None = None, condition: Tensor | None = None) -> Path:
        """Draw rows from the decoder and keep every step: its states, its noise and its log-density.

        Args:
            n: number of rows.
            generator: source of all draws; ``None`` means seed 0.
            condition: leading dimension ``n`` or 1.

        Example:
            >>> from girsanov.densities import Gaussian
            >>> from girsanov.pairs import AncestralChain, ScorePair
            >>> from girsanov.processes import VariancePreserving
            >>> process, law = VariancePreserving(), Gaussian(torch.ones(2), 0.5)
            >>> chain = AncestralChain(ScorePair(law.score(process), prior=law.marginal(process, 1.0)), 4)
            >>> path = chain.sample_path(3)
            >>> path.states.shape, path.step_log_prob.shape
            (torch.Size([3, 6, 2]), torch.Size([3, 5]))
            >>> torch.equal(chain.step_log_prob(path), path.step_log_prob)
            True
        """
        return self.rsample_path(n, generator=generator, condition=condition)

    @checked
    def rsample_path(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Path:
        """The same, differentiable in the chain's parameters along the whole path.

        Args:
            n: number of rows.
            generator: source of all draws; ``None`` means seed 0.
            condition: leading dimension ``n`` or 1.
            checkpoint: keep only states and moves in memory and compute every kernel again in the backward pass.

        Raises:
            InputError: for a step without noise, which has no density.
        """
        generator, given = source_of(generator), conditions_for(condition, n)
        x = self.sample_prior(n, generator)
        noise, states, changes, eps, log_prob = normal_blocks(x, generator), [x], [], [], []
        for j, move in enumerate(self._draw(x, noise, given, checkpoint)):
            log_prob.append(move.kernel.log_prob(move.change))
            if not bool(log_prob[-1].isfinite().all()):
                raise InputError(NO_DENSITY.format(j=j))
            for kept, value in ((states, move.after), (changes, move.change), (eps, move.eps)):
                kept.append(value)
        walked, moved, drawn, each = (torch.stack(kept).transpose(0, 1) for kept in (states, changes, eps, log_prob))
        return Path(walked, moved, drawn, self.log_prior(x), each, given)

    @checked
    def step_log_prob(self, path: Path, *, only: Sequence[int] | None = None, checkpoint: bool = False) -> Tensor:
        """Log-density of every step of paths under this chain, summed over dimensions: ``n steps``, float64.

        With the log-density of the first states, their sum is the joint density of a path; the exponential of their
        difference from ``path.step_log_prob`` is what policy gradients call the ratio. Of the chain that drew the path
        it is exactly 1.

        Args:
            path: of this chain, or of another one with as many steps in the same coordinates.
            only: numbers of steps in the order of drawing; default all.
            checkpoint: compute every kernel again in the backward pass in place of keeping what it computes.

        Raises:
            InputError: for a path with another number of steps.
        """
        kernels = self._kernels(path, only, checkpoint)
        return torch.stack([kernel.log_prob(path.changes[:, j]) for j, kernel in kernels], 1)

    @checked
    def step_kl(
        self, other: "Chain", path: Path, *, only: Sequence[int] | None = None, checkpoint: bool = False
    ) -> Tensor:
        """Kullback-Leibler divergence of every step from another chain's, at the states of paths: ``n steps``, float64.

        In closed form; on paths of this chain the mean of the sum over steps is the divergence between the chains.

        Args:
            other: with as many steps in the same coordinates.
            path: whose states are taken.
            only: numbers of steps in the order of drawing; default all.
            checkpoint: see :meth:`step_log_prob`.

        Raises:
            InputError: for chains of different lengths, or steps of different kinds.
        """
        kernels = zip(self._kernels(path, only, checkpoint), other._kernels(path, only, checkpoint), strict=True)
        return torch.stack([kernel.divergence(theirs) for (_, kernel), (_, theirs) in kernels], 1)

    @property
    def steps(self) -> int:
        """Number of steps of a draw: N, and one more where the data have a law given the first state."""
        return self.length + self.has_exit

    def step(self, j: int, x: State, condition: Tensor | None = None) -> Kernel:
        """Step number j of a draw, from 0 at the prior, given the state ``b *d`` that it leaves."""
        if j < self.length:
            return self.decode(self.length - 1 - j, x, condition)
        kernel = self.exit(x, condition)
        assert kernel is not None
        return kernel

    def _draw(self, x: State, noise: Noise, condition: Tensor | None, checkpoint: bool) -> Iterator[Move]:
        """The walk to the data, and the step that leaves it."""
        for move in self.walk(x, noise, "backward", condition=condition, checkpoint=checkpoint):
            x = move.after
            yield move
        if self.has_exit:
            kernel, eps = recomputing(self.step, checkpoint)(self.length, x, condition), noise(1)[0]
            change = kernel.change(eps)
            yield Move(-1, x, x + change, change, eps, kernel)

    def _kernels(self, path: Path, only: Sequence[int] | None, checkpoint: bool) -> Iterator[tuple[int, Kernel]]:
        """Kernels of some steps at the states of a path, by the number of the step."""
        if path.steps != self.steps:
            raise InputError(f"This chain has {self.steps} steps, the path {path.steps}")
        step = recomputing(self.step, checkpoint)
        for j in range(self.steps) if only is None else only:
            if not 0 <= j < self.steps:
                raise InputError(f"only= are numbers of steps from 0 to {self.steps - 1}; got {j}")
            yield j, step(j, path.states[:, j], path.condition)

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
