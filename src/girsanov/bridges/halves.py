r"""One direction of a bridge: a closed-form pull plus a network that corrects it.

A half gives :math:`p(t, x)`, the gradient of a log-potential, so that the drifts of the two halves are

.. math::
    u = f + g^2 p_{\mathrm{forward}} = f + g z, \qquad v = f - g^2 p_{\mathrm{backward}} = f - g \hat z

(note of paper 3, section 2.1). The network sees standardised states and its output starts at zero, so that training
starts at the closed form: the reference, the bridge between Gaussians, or one between mixtures. In the reference's
clock tau, with :math:`r` the time to the end that the half pulls to and w that end's variance over
:math:`\alpha^2`, the output is in units of

.. math::
    k = \frac{1}{\alpha_t} \sqrt{\frac{w}{(r + \delta)(r + w)}},

the standard deviation of the pull to a single point of the end, given the state, kept finite by delta at the end.
"""

__all__ = [
    "DIRECTIONS",
    "BridgeNetwork",
    "EndMoments",
    "Half",
    "NetworkConfig",
    "bridge_condition",
    "moment_match",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.bridges.potentials import Potentials
from girsanov.bridges.reference import Clock
from girsanov.densities import Density, Gaussian, GaussianMixture
from girsanov.inputs import as_condition
from girsanov.networks import ConvNetwork, ResidualMLP, Signature, takes_convolutions
from girsanov.pairs import Direction
from girsanov.types import InputError, State, Time

DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")
HALF_RANGE = 15.0  # networks know times as log-SNR levels within this
AFFINE_TERMS = 6  # cosines in time of the affine part
AFFINE_LIMIT = 128  # dimensions up to which a network has one
SOFTENING = 0.01  # delta, as a share of the shorter of total time and variance


@dataclass(frozen=True)
class NetworkConfig:
    """Size of the two networks.

    Attributes:
        width: of the residual stream, or channels for images.
        blocks: residual blocks.
        dropout: rate inside the blocks.
        classes: number of class labels, 0 for none.
        condition_dim: length of a continuous condition, 0 for none.
    """

    width: int = 128
    blocks: int = 2
    dropout: float = 0.0
    classes: int = 0
    condition_dim: int = 0


@final
class EndMoments(nn.Module):
    """Mean and variance of every coordinate at both ends: what scales the networks' inputs and outputs."""

    start_mean: Tensor
    start_variance: Tensor
    end_mean: Tensor
    end_variance: Tensor

    def __init__(self, start_mean: Tensor, start_variance: Tensor, end_mean: Tensor, end_variance: Tensor) -> None:
        super().__init__()
        for name, value in zip(
            ("start_mean", "start_variance", "end_mean", "end_variance"),
            (start_mean, start_variance, end_mean, end_variance),
            strict=True,
        ):
            self.register_buffer(name, value.double().clone())

    @classmethod
    def of(cls, start: State | Density, end: State | Density) -> "EndMoments":
        """From rows or a density at each end."""
        return cls(*_moments(start), *_moments(end))


def _moments(law: State | Density) -> tuple[Tensor, Tensor]:
    if isinstance(law, Density):
        gaussian = moment_match(law)
        return gaussian.mean, gaussian.marginal_variance()
    rows = law.double()
    mean, variance = rows.mean(0), rows.var(0)
    # a constant coordinate has the mean scale of the others
    return mean, torch.where(variance > 0, variance, variance.mean().clamp_min(1e-12))


def moment_match(law: Density) -> Gaussian:
    """The Gaussian with the moments of an end's law.

    Raises:
        InputError: if the law is neither a Gaussian nor a mixture of them.
    """
    if isinstance(law, Gaussian | GaussianMixture):
        return law.moment_match()
    raise InputError(f"The end of a bridge is a Gaussian, a GaussianMixture or rows; got {type(law).__name__}")


class BridgeNetwork(nn.Module):
    """A residual network of time and standardised state, plus a part that is affine in the state.

    Args:
        event_shape: shape of one row; a convolutional network if :func:`girsanov.networks.takes_convolutions`.
        config: its size.

    Example:
        >>> BridgeNetwork((3,), NetworkConfig(width=8, blocks=1))(torch.zeros(4), torch.randn(4, 3)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(self, event_shape: tuple[int, ...], config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        signature = Signature(classes=config.classes, condition_dim=config.condition_dim)
        if takes_convolutions(event_shape):
            self.residual: nn.Module = ConvNetwork(
                event_shape,
                signature,
                width=config.width,
                deep_width=2 * config.width,
                deep_blocks=config.blocks,
                dropout=config.dropout,
            )
        else:
            self.residual = ResidualMLP(
                event_shape, signature, width=config.width, blocks=config.blocks, dropout=config.dropout
            )
        d = math.prod(event_shape)
        self.affine = nn.Parameter(torch.zeros(AFFINE_TERMS, d + 1, d)) if d <= AFFINE_LIMIT else None

    def forward(self, r: Tensor, x: State, condition: Tensor | None = None) -> State:
        """Output at times ``r`` in [0, 1], see :class:`Half`, and states ``b *d``."""
        if condition is not None and len(r) > 1:
            r = every_row(r, x)
        level = HALF_RANGE * (2.0 * r - 1.0)
        out = self.residual(level, x[:, None], condition)[:, 0]
        if self.affine is None:
            return out
        terms = torch.cos(math.pi * r[:, None] * torch.arange(AFFINE_TERMS, device=r.device)).to(x.dtype)
        y, offset = x.flatten(1), terms @ self.affine[:, -1]
        if len(r) < len(x):  # rows share times: one matrix for each time
            matrices = torch.tensordot(terms, self.affine[:, :-1], 1)
            mapped = y.unflatten(0, (len(r), -1)) @ matrices + offset[:, None]
        else:
            mapped = torch.einsum("bj,jbd->bd", terms, y @ self.affine[:, :-1]) + offset
        return out + mapped.reshape(x.shape)


@final
class Half(nn.Module):
    """One direction: a closed-form pull and its correction.

    Times are float64: one for each of the ``b`` rows, one for all, or m times of ``b / m`` consecutive rows each, which
    costs less where rows share times: what depends on time alone is computed m times.

    Args:
        direction: ``forward`` pulls to the end, ``backward`` to the start.
        clock: of the reference.
        potentials: closed-form pulls that the network corrects; not trained.
        ends: scales.
        network: ``(r, standardised state, condition)`` to a correction, zero at first.
    """

    def __init__(
        self, direction: Direction, clock: Clock, potentials: Potentials, ends: EndMoments, network: nn.Module
    ) -> None:
        super().__init__()
        self.direction: Direction = direction
        self.clock, self.ends, self.network = clock, ends, network
        self._potentials = [potentials]  # not a submodule: both halves share it, and it is not trained

    @property
    def potentials(self) -> Potentials:
        """The closed-form pulls."""
        return self._potentials[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Half":
        self.potentials._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """The pull at times ``b``, ``m`` or one, and rows ``b *d``."""
        if self._idle():
            return self.base(t, x)
        return self.base(t, x) + self.scale(t, x) * self.correction(t, x, condition)

    def base(self, t: Time, x: State) -> State:
        """The closed-form pull."""
        t = t.to(x.device)
        t = t if len(t) == 1 else every_row(t, x)
        if self.direction == "forward":
            return self.potentials.forward_pull(t, x)
        return self.potentials.backward_pull(t, x)

    def correction(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """The network's output, in units of :meth:`scale`."""
        law, ends = self.clock.pinned(t), self.ends
        a, b, c = (v.reshape(-1, *(1,) * (x.ndim - 1)).to(x.device) for v in (law.start, law.end, law.variance))
        mean = (a * ends.start_mean + b * ends.end_mean)[:, None]
        spread = (a.square() * ends.start_variance + b.square() * ends.end_variance + c).sqrt()[:, None]
        standard = ((x.double().unflatten(0, (len(t), -1)) - mean) / spread).flatten(0, 1).to(x.dtype)
        return self.network((t / self.clock.horizon).to(x.device, x.dtype), standard, condition)

    def scale(self, t: Time, x: State) -> State:
        """K of the module's equation, ``b *d``, or ``1 *d`` for one time."""
        alpha, _ = self.clock(t)
        remaining, variance = self.remaining(t), self.variance()
        delta = self.softening()
        alpha, remaining = (v.reshape(-1, *(1,) * (x.ndim - 1)).to(x.device) for v in (alpha, remaining))
        scale = ((variance / ((remaining + delta) * (remaining + variance))).sqrt() / alpha).to(x.dtype)
        return scale if len(t) == 1 else every_row(scale, x)

    def remaining(self, t: Time) -> Tensor:
        """Clock time r to the end that this half pulls to, float64, of the shape of ``t``."""
        _, tau = self.clock(t)
        return (self.clock.total - tau).clamp_min(0.0) if self.direction == "forward" else tau

    def variance(self) -> Tensor:
        """Variance of that end in the clock's units, of the event's shape."""
        if self.direction == "forward":
            return self.ends.end_variance / self.clock.scale.square().to(self.ends.end_variance.device)
        return self.ends.start_variance

    def softening(self) -> float:
        """Delta of the module's equation."""
        return SOFTENING * min(float(self.clock.total), float(self.variance().mean()))

    def untrained(self) -> bool:
        """Whether the correction is zero, as it is at first."""
        network = self.network
        last = [p for name, p in network.named_parameters() if "leave" in name or name == "affine"]
        return not any(bool(p.any()) for p in last or network.parameters())

    def _idle(self) -> bool:
        """Untrained and to stay so: the network then need not be evaluated."""
        return not next(self.network.parameters()).requires_grad and self.untrained()


def every_row(v: Tensor, x: State) -> Tensor:
    """Values of ``m`` times, each for ``b / m`` consecutive rows of x, as one for each row."""
    return v if len(v) == len(x) else v.repeat_interleave(len(x) // len(v), 0)


def bridge_condition(condition: Any, config: NetworkConfig, x: State | int) -> Tensor | None:
    """Conditions as the networks take them, ``n`` classes or ``n c`` numbers (or 1 of them), on the rows' device.

    Args:
        condition: an array of any kind; one class may stand alone.
        config: says what the networks take.
        x: the rows, or their number.

    Raises:
        InputError: with what to pass instead.
    """
    wanted = bool(config.classes or config.condition_dim)
    if wanted != (condition is not None):
        need = "needs condition= for its rows" if wanted else "takes no condition: set classes= or condition_dim="
        raise InputError(f"This bridge {need}")
    if condition is None:
        return None
    found = as_condition(condition, x)
    if config.classes:
        return _known_classes(found, config.classes)
    found = found[:, None] if found.ndim == 1 and config.condition_dim == 1 else found
    if found.shape[1:] != (config.condition_dim,):
        raise InputError(f"condition must have {config.condition_dim} numbers for each row; got {tuple(found.shape)}")
    return found.to(torch.get_default_dtype())


def _known_classes(condition: Tensor, classes: int) -> Tensor:
    found = condition[:, 0] if condition.ndim == 2 and condition.shape[1] == 1 else condition
    if found.ndim != 1 or bool((found != found.round()).any() if found.is_floating_point() else False):
        raise InputError(f"condition must be one whole number for each row, its class; got {tuple(condition.shape)}")
    unknown = found[(found < 0) | (found >= classes)]
    if len(unknown):
        raise InputError(f"condition has the class {unknown[0]:g}, but this bridge has the classes 0 to {classes - 1}")
    return found.long()
