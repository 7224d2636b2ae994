r"""Chains of the steps of a pair on a grid of times: Euler's, and what all such chains have in common."""

__all__ = ["EulerChain", "PairChain"]

from typing import final

import torch
from torch import Tensor

from girsanov.linear import LinearMap
from girsanov.pairs.chain import Chain
from girsanov.pairs.pair import Pair
from girsanov.pairs.steps import GaussianKernel, Kernel
from girsanov.types import Nats, State, require_count


class PairChain(Chain):
    """Steps of a pair, between the pair's own entry of data and exit to them.

    Arguments are those of :class:`EulerChain`, which is one.
    """

    times: Tensor

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
        self.pair, self.has_exit = pair, pair.has_exit
        self.register_buffer("times", grid)

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        return self.pair.begin(x, eps, condition)

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        return self.pair.finish(x, eps, condition)

    def exit(self, x: State, condition: Tensor | None = None) -> Kernel | None:
        return self.pair.exit(x, condition)

    def log_prior(self, x: State) -> Nats:
        """Log-density of the pair's prior."""
        return self.pair.log_prior(x)

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw from the pair's prior."""
        return self.pair.sample_prior(n, generator)

    def _time(self, k: int, x: State) -> Tensor:
        return self.times[k].to(x.device).expand(len(x))

    def _width(self, k: int) -> float:
        return float(self.times[k + 1] - self.times[k])


@final
class EulerChain(PairChain):
    r"""Euler steps of a pair.

    Shifts are :math:`h u(t_k, x_k)` and :math:`-h v(t_{k+1}, x_{k+1})`, both scales :math:`\sqrt h\, G(t_k, \cdot)`.
    Where G depends on the state, take :class:`girsanov.pairs.MidpointChain`: the bound of Euler steps then stays below
    the log-density of the continuum at any number of steps.

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

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Euler-Maruyama step of the inference process."""
        drift = self.pair.inference_drift(self._time(k, x), x, condition)
        return GaussianKernel(self._width(k) * drift, self._scale(k, x), self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Euler-Maruyama step of the generative process: drift at the later time, scale at the earlier."""
        drift = self.pair.generative_drift(self._time(k + 1, x), x, condition)
        return GaussianKernel(-self._width(k) * drift, self._scale(k, x), self.decoder_log_variance[k])

    def _scale(self, k: int, x: State) -> LinearMap:
        """The coefficient of both kernels: the ratio of their variances tends to 1 with the step, as it must."""
        return self.pair.scale(self._time(k, x), x).stretched(self._width(k) ** 0.5)
