r"""Elementwise transforms: dequantisation on a lattice, affine standardisation, logit."""

__all__ = ["Dequantise", "Logit", "Standardise"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.transforms.base import Transform
from girsanov.types import InputError, State

MARGIN = 4.0  # units beyond the outermost rows before tails begin


class Dequantise(Transform):
    r"""Spread each lattice point uniformly over its cell: :math:`y = x + h (u - \tfrac12)`, u uniform on [0, 1).

    Args:
        event_shape: shape of one row.
        step: lattice step h of each dimension, shape ``event_shape``; 0 leaves a dimension as it is.
        offset: one lattice point of each dimension.

    Example:
        >>> spread = Dequantise((2,), step=torch.tensor([1.0, 0.0]))
        >>> y, log_det = spread(torch.tensor([[3.0, 0.7]]), torch.tensor([[0.75, 0.75]]))
        >>> y, spread.inverse(y)
        (tensor([[3.2500, 0.7000]]), tensor([[3.0000, 0.7000]]))
    """

    step: Tensor
    offset: Tensor

    def __init__(self, event_shape: Sequence[int], step: Tensor | None = None, offset: Tensor | None = None) -> None:
        super().__init__()
        zeros = torch.zeros(*event_shape, dtype=torch.float64)
        self.event_shape = tuple(event_shape)
        # clones: an expanded or shared tensor could not be loaded into
        self.register_buffer("step", (zeros if step is None else step.double()).clone())
        self.register_buffer("offset", (zeros if offset is None else offset.double()).clone())

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """Add noise within cells; the log-determinant is minus its log-density, the log-volume of a cell if uniform."""
        if not bool((self.step > 0).any()):
            return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if uniform is None:
            raise ValueError("Dequantisation needs its uniform draws")
        noise, log_det = self._noise(x, uniform)
        return x + noise.to(x.dtype), log_det

    def _noise(self, x: State, uniform: Tensor) -> tuple[State, Tensor]:
        """Noise on the cells of rows, made of uniform draws, and minus its log-density, ``n``."""
        log_volume = torch.where(self.step > 0, self.step, 1.0).log().sum()
        return self.step * (uniform - 0.5), log_volume.expand(len(x))

    def inverse(self, y: State) -> State:
        """Round to the nearest lattice point."""
        step = torch.where(self.step > 0, self.step, 1.0)
        rounded = self.offset + step * ((y - self.offset) / step).round()
        return torch.where(self.step > 0, rounded, y.double()).to(y.dtype)

    def config(self) -> dict[str, Any]:
        return {"event_shape": list(self.event_shape)}


class Standardise(Transform):
    r"""Affine map :math:`y = (x - m) / s` per dimension; with tails, only as far as there are rows.

    Beyond ``low`` and ``high`` the map grows like a logarithm, :math:`x - h = \pm b\,(e^{|s y - (h - m)| / b} - 1)`, so
    that what is a Gaussian there has a polynomial tail in data units.

    Args:
        event_shape: shape of one row.
        mean: m, shape ``event_shape``.
        scale: s > 0, shape ``event_shape``.
        ends: low and high ends of the affine part, and the unit b of the tails, each of shape ``event_shape``;
            default no tails.

    Example:
        >>> y, log_det = Standardise((1,), torch.tensor([1.0]), torch.tensor([2.0]))(torch.tensor([[5.0]]))
        >>> y, log_det
        (tensor([[2.]]), tensor([-0.6931], dtype=torch.float64))
    """

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    unit: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        ends: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        zeros = torch.zeros(*event_shape, dtype=torch.float64)
        self.event_shape = tuple(event_shape)
        self.register_buffer("mean", (zeros if mean is None else mean.double()).clone())
        self.register_buffer("scale", (zeros + 1.0 if scale is None else scale.double()).clone())
        low, high, unit = ends or (zeros - math.inf, zeros + math.inf, zeros + 1.0)
        for name, value in (("low", low), ("high", high), ("unit", unit)):
            self.register_buffer(name, value.double().clone())

    @classmethod
    def fit(cls, x: State, *, shared: bool = False) -> "Standardise":
        """Fit mean and standard deviation per dimension, or one common scale where ``shared`` (images)."""
        rows = x.double()
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)
        if not bool((variance > 0).any()):
            raise InputError("The data are constant: there is no density to fit")
        common = variance.mean().expand_as(variance)
        scale = (common if shared else torch.where(variance > 0, variance, common)).sqrt()
        return cls(mean.shape, mean, scale)

    def with_tails(self, low: Tensor, high: Tensor, unit: Tensor) -> "Standardise":
        """The same map between ``low`` and ``high`` and :data:`MARGIN` units around them, with tails beyond.

        Args:
            low: lowest value of each dimension that was seen, shape ``event_shape``.
            high: the highest.
            unit: of the tails; where it is 0, the scale's.
        """
        unit = torch.where(unit > 0, unit.double(), self.scale)
        return Standardise(self.event_shape, self.mean, self.scale, (low - MARGIN * unit, high + MARGIN * unit, unit))

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        low, high, unit = (end.to(x.dtype) for end in (self.low, self.high, self.unit))
        inside = x.clamp(low, high)
        beyond = torch.log1p((x - inside).abs() / unit)
        y = (inside + (x - inside).sign() * unit * beyond - self.mean.to(x.dtype)) / self.scale.to(x.dtype)
        return y, -self.scale.log().sum() - sum_event(beyond)

    def inverse(self, y: State) -> State:
        low, high, unit = (end.to(y.dtype) for end in (self.low, self.high, self.unit))
        x = y * self.scale.to(y.dtype) + self.mean.to(y.dtype)
        inside = x.clamp(low, high)
        return inside + (x - inside).sign() * unit * torch.expm1((x - inside).abs() / unit)

    def config(self) -> dict[str, Any]:
        return {"event_shape": list(self.event_shape)}


class Logit(Transform):
    r"""Logit of bounded data: :math:`z = c + (1 - 2c) \frac{x - a}{b - a}`, :math:`y = \log z - \log(1 - z)`.

    Args:
        low: lower bound a of the data.
        high: upper bound b of the data.
        margin: c, between 0 and 0.5, which keeps the ends finite.

    Example:
        >>> y, log_det = Logit(0.0, 1.0)(torch.tensor([[0.5]]))
        >>> y, log_det.round(decimals=4)
        (tensor([[0.]]), tensor([1.2809], dtype=torch.float64))
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, margin: float = 0.05) -> None:
        super().__init__()
        if not (high > low and 0.0 <= margin < 0.5):
            raise InputError(f"Logit needs low < high and 0 <= margin < 0.5; got {low}, {high}, {margin}")
        self.low, self.high, self.margin = low, high, margin

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        slope = (1.0 - 2.0 * self.margin) / (self.high - self.low)
        z = self.margin + slope * (x - self.low)
        if not bool(((z > 0) & (z < 1)).all()):
            raise InputError(f"Logit got values outside [{self.low}, {self.high}]")
        log_slope = math.log(slope) * x[0].numel()
        return torch.logit(z), log_slope - sum_event(z.log() + torch.log1p(-z))

    def inverse(self, y: State) -> State:
        slope = (1.0 - 2.0 * self.margin) / (self.high - self.low)
        return self.low + (torch.sigmoid(y) - self.margin) / slope

    def config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "margin": self.margin}
