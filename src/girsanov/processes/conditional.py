r"""Inference given by its conditional law q(x_t | x), simulation-free and possibly learned.

A path is a reparameterised Gaussian, :math:`x_t = m(t, x) + s(t, x) \odot \varepsilon`, from which follow its velocity
at fixed noise, :math:`w = \partial_t m + \partial_t s \odot \varepsilon`, its conditional score
:math:`-\varepsilon / s`, and, for any diffusion coefficient g, the drift of the reversed conditional SDE
:math:`w - \tfrac12 g^2 \nabla \log q(x_t \mid x)`, which a generative drift is compared with (note of paper 3,
section 2.8). Unlike a process, a path may look at its data point: its noise schedule may differ by dimension and row,
and its mean may be encoded. Means and scales may have parameters; nothing is ever simulated.
"""

__all__ = ["ConditionalPath", "EncodedPath", "ProcessPath", "ScheduledPath"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.processes.base import LinearProcess, require_range
from girsanov.types import State, Time

BASIS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t,
    lambda t: t.square(),
    lambda t: t**4,
    lambda t: 1.0 - (1.0 - t).square(),
    lambda t: 1.0 - (1.0 - t) ** 4,
)


class ConditionalPath(nn.Module, ABC):
    """A Gaussian law q(x_t | x) on a time interval, with dimensions independent given x.

    To implement one: set ``span``, define ``mean_and_scale``; override ``velocity`` where it is closed form, and
    ``clock`` where another law of times than the uniform one suits the path.
    """

    #: first and last time; data at the first, the prior at the last
    span: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def mean_and_scale(self, t: Time, x: State) -> tuple[State, State]:
        """Mean m(t, x) and standard deviation s(t, x), each ``b *d``."""

    def sample(self, t: Time, x: State, eps: State) -> State:
        """The state x_t made of the noise ``eps``, ``b *d``."""
        mean, scale = self.mean_and_scale(t, x)
        return mean + scale * eps

    def velocity(self, t: Time, x: State, eps: State) -> State:
        """Time derivative of :meth:`sample` at fixed noise, ``b *d``; differentiable again."""
        return _with_time_derivative(lambda time: self.sample(time, x, eps), t)[1]

    def score(self, t: Time, x: State, eps: State) -> State:
        """Conditional score at the state made of ``eps``, ``b *d``."""
        _, scale = self.mean_and_scale(t, x)
        return -eps / scale

    def reverse_drift(self, t: Time, x: State, eps: State, diffusion: Tensor) -> State:
        """Drift, written forward in t, of the time reversal of the conditional SDE with this diffusion.

        Args:
            t: times ``b``.
            x: data points ``b *d``.
            eps: noise ``b *d``.
            diffusion: coefficient g, one per row ``b`` or per dimension ``b *d``.
        """
        g = diffusion if diffusion.ndim == x.ndim else expand_as_rows(diffusion, x)
        return self.velocity(t, x, eps) - 0.5 * g.square() * self.score(t, x, eps)

    def clock(self, positions: Tensor) -> tuple[Time, Tensor]:
        """Times at cumulative ``positions`` in [0, 1), and the reciprocals of their density."""
        start, end = self.span
        return start + (end - start) * positions, torch.full_like(positions, end - start)


@final
class ProcessPath(ConditionalPath):
    """A linear process as a path: nothing learned, closed forms, times uniform in log-SNR.

    Args:
        process: the process; its log-SNR range sets the span.

    Example:
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> path, x = ProcessPath(OrnsteinUhlenbeck(2.0)), torch.ones(1, 2)
        >>> mean, scale = path.mean_and_scale(torch.tensor([0.5]), x)
        >>> mean, scale.square()
        (tensor([[0.6065, 0.6065]]), tensor([[0.6321, 0.6321]]))
    """

    def __init__(self, process: LinearProcess) -> None:
        super().__init__()
        self.process = process
        end, start = process.time(torch.tensor(process.log_snr_range, dtype=torch.float64)).tolist()
        self.span = (start, end)

    def mean_and_scale(self, t: Time, x: State) -> tuple[State, State]:
        alpha, sigma = self.process.marginal(t)
        return expand_as_rows(alpha, x) * x, expand_as_rows(sigma, x).expand(x.shape)

    def velocity(self, t: Time, x: State, eps: State) -> State:
        """Closed form: the drift of the probability flow given x."""
        rate, g2 = self.process.rates(t)
        _, sigma = self.process.marginal(t)
        return expand_as_rows(rate, x) * self.sample(t, x, eps) + expand_as_rows(0.5 * g2 / sigma, x) * eps

    def clock(self, positions: Tensor) -> tuple[Time, Tensor]:
        """Times at equal steps of log-SNR, from the data end."""
        low, high = self.process.log_snr_range
        times = self.process.time(high - (high - low) * positions)
        _, g2 = self.process.rates(times)
        _, sigma = self.process.marginal(times)
        return times, (high - low) * sigma.square() / g2


@final
class ScheduledPath(ConditionalPath):
    r"""Variance preserving with a log-SNR of each dimension's own that may depend on the data (after MuLAN).

    .. math:: l_i(t, x) = l_e - (l_e - l_T) \sum_k w_{ik}(x)\, B_k(t),

    with softmax weights w and fixed monotone functions B from 0 to 1: decreasing with exact end points, whatever the
    network returns.

    Args:
        log_snr_range: end points ``(l_T, l_e)`` at t = 1 and t = 0.
        network: ``x -> logits``, ``b *d`` to ``b 5 *d``.

    Raises:
        InputError: if the range is empty or upside down.

    Example:
        >>> path = ScheduledPath((-5.0, 5.0), lambda x: x.new_zeros(len(x), 5, 2))
        >>> mean, scale = path.mean_and_scale(torch.tensor([0.5]), torch.ones(1, 2))
        >>> torch.allclose(mean.square() + scale.square(), torch.ones(1, 2))
        True
    """

    FUNCTIONS = len(BASIS)

    def __init__(self, log_snr_range: tuple[float, float], network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        require_range(log_snr_range)
        self.log_snr_range = log_snr_range
        self.network = network

    def log_snr(self, t: Time, x: State) -> State:
        """The log-SNR of every dimension, ``b *d``."""
        low, high = self.log_snr_range
        weights = torch.softmax(self.network(x), 1)
        rise = torch.stack([function(t) for function in BASIS], 1).to(x.dtype)
        share = (weights * rise.reshape(*rise.shape, *(1,) * (x.ndim - 1))).sum(1)
        return high - (high - low) * share

    def mean_and_scale(self, t: Time, x: State) -> tuple[State, State]:
        level = self.log_snr(t, x)
        return torch.sigmoid(level).sqrt() * x, torch.sigmoid(-level).sqrt()


@final
class EncodedPath(ConditionalPath):
    r"""A linear process around an encoded data point, :math:`m = \alpha_t (x + \rho_t\, e(t, x))` (after DiffEnc).

    The ramp rises from 0 at the data end to 1, so that what is decoded stays the data point itself.

    Args:
        process: the process; its log-SNR range sets the span.
        encoder: ``(t, x) -> shift``, ``b`` and ``b *d`` to ``b *d``.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> path = EncodedPath(VariancePreserving(), lambda t, x: torch.ones_like(x))
        >>> start = torch.tensor([path.span[0]])
        >>> torch.allclose(path.mean_and_scale(start, torch.zeros(1, 2))[0], torch.zeros(1, 2))
        True
    """

    def __init__(self, process: LinearProcess, encoder: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.base, self.encoder = ProcessPath(process), encoder
        self.span = self.base.span

    def mean_and_scale(self, t: Time, x: State) -> tuple[State, State]:
        start, end = self.span
        ramp = expand_as_rows((t - start) / (end - start), x)
        return self.base.mean_and_scale(t, x + ramp * self.encoder(t, x))

    def velocity(self, t: Time, x: State, eps: State) -> State:
        """The process's velocity at the encoded point, plus what the encoding moves."""
        start, end = self.span

        def encoded(time: Tensor) -> Tensor:
            return x + expand_as_rows((time - start) / (end - start), x) * self.encoder(time, x)

        point, moved = _with_time_derivative(encoded, t)
        alpha, _ = self.base.process.marginal(t)
        return self.base.velocity(t, point, eps) + expand_as_rows(alpha, x) * moved

    def clock(self, positions: Tensor) -> tuple[Time, Tensor]:
        return self.base.clock(positions)


def _with_time_derivative(function: Callable[[Tensor], Tensor], t: Time) -> tuple[State, State]:
    """A function of one time per row and its derivative, by two reverse passes; differentiable again."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        time = t if t.requires_grad else t.detach().requires_grad_()
        value = function(time)
        direction = torch.ones_like(value, requires_grad=True)
        (product,) = torch.autograd.grad(value, time, direction, create_graph=True)
        (derivative,) = torch.autograd.grad(product.sum(), direction, create_graph=keep)
    return (value, derivative) if keep else (value.detach(), derivative.detach())
