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

__all__ = ["Chain", "EulerChain", "Kernel"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from girsanov.calculus import sum_event
from girsanov.inputs import checked
from girsanov.pairs.pair import Pair
from girsanov.pairs.paths import Noise
from girsanov.pairs.scales import Scale
from girsanov.randomness import source_of
from girsanov.types import Nats, State, require_count


@dataclass(frozen=True)
class Kernel:
    """A Gaussian step: ``x + shift + exp(log_variance / 2) scale eps``.

    Attributes:
        shift: mean minus the present state, shape ``b *d``.
        scale: what multiplies the noise.
        log_variance: learned offset, one number or one per dimension (``*d``), of the output's log-variance.
    """

    shift: State
    scale: Scale
    log_variance: Tensor

    def spread(self, eps: State) -> State:
        """Noise of the step, shape ``b *d``."""
        return (0.5 * self.log_variance).exp().to(eps.dtype) * self.scale.times(eps)

    def whiten(self, y: State) -> State:
        """The eps that :meth:`spread` maps to ``y``."""
        return self.scale.solve((-0.5 * self.log_variance).exp().to(y.dtype) * y)

    def log_det(self, x: State) -> Nats:
        """Log-determinant of :meth:`spread`, shape ``b``."""
        offset = self.log_variance.double().expand(x.shape[1:]).sum()
        return self.scale.log_det(x) + 0.5 * offset


class Chain(nn.Module, ABC):
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

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """State 0 given data, and its log-weight; here the data themselves, and 0."""
        del eps, condition
        return x, x.new_zeros(len(x), dtype=torch.float64)

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """Data drawn given state 0, and their log-weight; here the state itself, and 0."""
        del eps, condition
        return x, x.new_zeros(len(x), dtype=torch.float64)

    def log_weights(self, x: State, noise: Noise, *, condition: Tensor | None = None, checkpoint: bool = False) -> Nats:
        """Log-weight of one encoder path per row, shape ``b``, float64; differentiable along the path.

        Args:
            x: rows ``b *d``.
            noise: source of standard normal blocks.
            condition: leading dimension ``b``.
            checkpoint: keep only the states in memory and compute every step again in the backward pass.
        """
        x, total = self.begin(x, noise(1)[0], condition)
        for k in range(self.length):
            eps = noise(1)[0]
            if checkpoint and torch.is_grad_enabled():
                x, gain = recompute(self._advance, k, x, eps, condition, use_reentrant=False)  # type: ignore[misc]
            else:
                x, gain = self._advance(k, x, eps, condition)
            total = total + gain
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
        total = self.log_prior(x)
        for k in reversed(range(self.length)):
            eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            x, gain = self._retreat(k, x, eps, condition)
            total = total + gain
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        x, gain = self.finish(x, eps, condition)
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
        generator = source_of(generator)
        x, _ = self.begin(x, torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device), condition)
        for k in range(self.length):
            eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            _, following, _, whitened = self._transition(k, x, eps, condition)
            own = self.decoder_log_variance[k]
            squares = whitened.double().square()
            self.decoder_log_variance[k] = own + _shrunk_log_mean(squares if own.ndim else squares.flatten(1).mean(1))
            x = following

    def _transition(self, k: int, x: State, eps: State, condition: Tensor | None) -> tuple[Kernel, State, Nats, State]:
        """The encoder's step, state k + 1, the log-weight gained, and the decoder's whitened residual."""
        forward = self.encode(k, x, condition)
        step = forward.shift + forward.spread(eps)
        following = x + step
        gain, whitened = self._gain(forward, self.decode(k, following, condition), step, eps)
        return forward, following, gain, whitened

    @staticmethod
    def _gain(forward: Kernel, backward: Kernel, step: State, eps: State) -> tuple[Nats, State]:
        """Log-weight gained by an encoder's step that ``eps`` made, and the decoder's whitened residual."""
        whitened = backward.whiten(step + backward.shift)
        log_det = forward.log_det(step) - backward.log_det(step)
        return log_det + 0.5 * sum_event((eps - whitened) * (eps + whitened)), whitened

    def _advance(self, k: int, x: State, eps: State, condition: Tensor | None) -> tuple[State, Nats]:
        _, following, gain, _ = self._transition(k, x, eps, condition)
        return following, gain

    def _retreat(self, k: int, x: State, eps: State, condition: Tensor | None) -> tuple[State, Nats]:
        """State k from state k + 1, and the log-ratio of decoder to encoder of that step."""
        backward = self.decode(k, x, condition)
        step = backward.shift + backward.spread(eps)
        earlier = x + step
        forward = self.encode(k, earlier, condition)
        whitened = forward.whiten(step + forward.shift)
        log_det = forward.log_det(x) - backward.log_det(x)
        return earlier, log_det + 0.5 * sum_event((whitened - eps) * (whitened + eps))


def _shrunk_log_mean(squares: Tensor) -> Tensor:
    """Logarithm of the mean over rows, times the share of its square that is not its own error."""
    mean = squares.mean(0)
    variance = squares.var(0, correction=0) / (len(squares) * mean.square())
    offset = mean.log()
    return (offset * (1.0 - variance / offset.square()).clamp_min(0.0)).nan_to_num(0.0)


@final
class EulerChain(Chain):
    r"""Euler steps of a pair.

    Shifts are :math:`h u(t_k, x_k)` and :math:`-h v(t_{k+1}, x_{k+1})`, both scales :math:`\sqrt h\, G(t_k, \cdot)`.

    Args:
        pair: the two processes.
        steps: number of steps, on ``pair.times``.
        times: increasing grid in place of ``pair.times(steps)``.
        learn_variances: see :class:`Chain`.
        per_dimension: whether the decoder has one offset per dimension of ``pair.event_shape``.

    Example:
        >>> from girsanov.densities import StandardNormal
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> process = OrnsteinUhlenbeck(2.0)
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> chain = EulerChain(pair, 64)
        >>> x, noise = torch.zeros(1000, 2), lambda count: torch.randn(count, 1000, 2)
        >>> chain.log_weights(x, noise).mean().round(decimals=1)  # log N(0; 0, I) is -1.84
        tensor(-1.8000, dtype=torch.float64)
    """

    def __init__(
        self,
        pair: Pair,
        steps: int,
        *,
        times: Tensor | None = None,
        learn_variances: bool = False,
        per_dimension: bool = False,
    ) -> None:
        grid = pair.times(require_count("steps", steps)) if times is None else times.double()
        shape = pair.event_shape if per_dimension else ()
        super().__init__(len(grid) - 1, learn_variances=learn_variances, per_dimension=shape)
        self.pair = pair
        self.register_buffer("times", grid)

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """Euler-Maruyama step of the inference process."""
        drift = self.pair.inference_drift(self._time(k, x), x, condition)
        return Kernel(self._width(k) * drift, self._scale(k, x), self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> Kernel:
        """Euler-Maruyama step of the generative process: drift at the later time, scale at the earlier."""
        drift = self.pair.generative_drift(self._time(k + 1, x), x, condition)
        return Kernel(-self._width(k) * drift, self._scale(k, x), self.decoder_log_variance[k])

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The pair's own entry."""
        return self.pair.begin(x, eps, condition)

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The pair's own exit."""
        return self.pair.finish(x, eps, condition)

    def log_prior(self, x: State) -> Nats:
        """Log-density of the pair's prior."""
        return self.pair.log_prior(x)

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw from the pair's prior."""
        return self.pair.sample_prior(n, generator)

    def _time(self, k: int, x: State) -> Tensor:
        return self.get_buffer("times")[k].to(x.device).expand(len(x))

    def _width(self, k: int) -> float:
        times = self.get_buffer("times")
        return float(times[k + 1] - times[k])

    def _scale(self, k: int, x: State) -> Scale:
        """The coefficient of both kernels: the ratio of their variances tends to 1 with the step, as it must."""
        return self.pair.scale(self._time(k, x), x).stretched(self._width(k) ** 0.5)
