r"""Discrete data in a continuous model: other ways than uniform noise to spread lattice points over their cells.

For any density q(y | x) on the cell of x, :math:`\log P(x) \ge E_q[\log p(y) - \log q(y \mid x)]`, so that a draw's
"log-determinant" is :math:`-\log q(y \mid x)` (note of paper 1, section 2.10). Beside :class:`Dequantise`, q uniform,

- :class:`TruncatedNormalDequantise`, :math:`y = x + s z` with z normal on :math:`(-\tau, \tau)`, :math:`s = h/2\tau`:
  the noise that a diffusion adds by itself, cut to the cell, so that nothing need be learned;
- :class:`VariationalDequantise`, a learned q that starts as the uniform one;
- :class:`OnLattice`, no noise at all, for models that decode cells (:func:`girsanov.likelihoods.categorical_elbo`).

All take the same uniform draws, round back to the lattice, and leave dimensions without a lattice as they are.
"""

__all__ = ["OnLattice", "TruncatedNormalDequantise", "VariationalDequantise"]

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.calculus import sum_event
from girsanov.transforms.elementwise import Dequantise
from girsanov.types import InputError, State

LOG_2PI = math.log(2.0 * math.pi)
REACH = 8.0  # deviations from the mean of what a learned noise looks at


@final
class TruncatedNormalDequantise(Dequantise):
    r"""Spread each lattice point by a normal cut to its cell: :math:`y = x + \tfrac{h}{2\tau} z`, :math:`|z| < \tau`.

    Args:
        event_shape: shape of one row.
        step: lattice step h of each dimension; 0 leaves a dimension as it is.
        offset: one lattice point of each dimension.
        tau: half a cell in standard deviations.

    Raises:
        InputError: if tau is not positive.

    Example:
        >>> spread = TruncatedNormalDequantise((1,), step=torch.tensor([1.0]), tau=3.0)
        >>> spread(torch.tensor([[2.0]]), torch.tensor([[0.5]]))[0]
        tensor([[2.]])
        >>> round(spread.entropy(), 4)
        1.4029
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        step: Tensor | None = None,
        offset: Tensor | None = None,
        tau: float = 3.0,
    ) -> None:
        super().__init__(event_shape, step, offset)
        if not tau > 0.0:
            raise InputError(f"tau must be a positive number; got {tau}")
        self.tau = tau

    def entropy(self) -> float:
        r"""Entropy :math:`\tfrac12\log 2\pi e + \log Z - \tau\phi(\tau)/Z` of z, Z = erf(tau / sqrt 2)."""
        mass = math.erf(self.tau / math.sqrt(2.0))
        bell = math.exp(-0.5 * (self.tau**2 + LOG_2PI))
        return 0.5 * (LOG_2PI + 1.0) + math.log(mass) - self.tau * bell / mass

    def _noise(self, x: State, uniform: Tensor) -> tuple[State, Tensor]:
        discrete, scale = self.step > 0, self.step / (2.0 * self.tau)
        mass = math.erf(self.tau / math.sqrt(2.0))
        share = 0.5 * (1.0 - mass) + mass * uniform.double()
        z = torch.special.ndtri(share).clamp(-self.tau, self.tau)  # rounding may leave the cell by 1e-16
        surprise = 0.5 * (z.square() + LOG_2PI) + math.log(mass) + torch.where(discrete, scale, 1.0).log()
        return scale * z, sum_event(torch.where(discrete, surprise, 0.0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "tau": self.tau}


@final
class VariationalDequantise(Dequantise):
    r"""Spread each lattice point by a learned noise, :math:`u = \mathrm{sigmoid}(b(x) + e^{a(x)} \mathrm{logit}(v))`.

    Given the row, dimensions are independent logistic-sigmoid variables on their cells; a network of one hidden layer
    gives a and b, and starts at zero, where u = v is uniform.

    Args:
        event_shape: shape of one row.
        step: lattice step of each dimension; 0 leaves a dimension as it is.
        offset: one lattice point of each dimension.
        width: units of the hidden layer.
        centre: mean of the data, for the network's input.
        spread: scale of the data, for the network's input.

    Example:
        >>> spread = VariationalDequantise((2,), step=torch.ones(2))
        >>> y, log_det = spread(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.75, 0.5]]))
        >>> y.detach(), log_det.detach()
        (tensor([[3.2500, 1.0000]]), tensor([0.], dtype=torch.float64))
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        step: Tensor | None = None,
        offset: Tensor | None = None,
        width: int = 64,
        centre: Tensor | None = None,
        spread: Tensor | None = None,
    ) -> None:
        super().__init__(event_shape, step, offset)
        self.width = width
        zeros = torch.zeros(*event_shape, dtype=torch.float64)
        self.register_buffer("centre", (zeros if centre is None else centre.double()).clone())
        self.register_buffer("spread", (zeros + 1.0 if spread is None else spread.double()).clone())
        d = math.prod(event_shape)
        self.network = nn.Sequential(nn.Linear(d, width), nn.SiLU(), nn.Linear(width, 2 * d))
        for parameter in self.network[2].parameters():
            nn.init.zeros_(parameter)

    def _noise(self, x: State, uniform: Tensor) -> tuple[State, Tensor]:
        discrete = self.step > 0
        # a draw of 0 stands for its rounding cell
        v = uniform.double().clamp_min(2.0**-25)
        log_scale, shift = self._scale_and_shift(x)
        logit = shift + log_scale.exp() * torch.logit(v)
        u = torch.sigmoid(logit)
        slope = log_scale + _log_slope(logit) - _log_slope(torch.logit(v))
        log_det = torch.where(discrete, slope + torch.where(discrete, self.step, 1.0).log(), 0.0)
        return self.step * (u - 0.5), sum_event(log_det)

    def _scale_and_shift(self, x: State) -> tuple[Tensor, Tensor]:
        dtype = next(self.network.parameters()).dtype
        # clamped where no training row is: the noise of a far cell is that of a near one
        rows = ((x.double() - self.centre) / self.spread).clamp(-REACH, REACH).to(dtype)
        log_scale, shift = self.network(rows.flatten(1)).double().chunk(2, 1)
        return log_scale.reshape(x.shape), shift.reshape(x.shape)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "width": self.width}


@final
class OnLattice(Dequantise):
    """Leave lattice points where they are; the inverse rounds to the lattice.

    Args:
        event_shape: shape of one row.
        step: lattice step of each dimension.
        offset: the lowest lattice point of each dimension.
        count: number of lattice points per dimension, for the decoder.

    Example:
        >>> stay = OnLattice((1,), step=torch.ones(1), count=8)
        >>> stay(torch.tensor([[3.0]]))[0], stay.inverse(torch.tensor([[3.4]]))
        (tensor([[3.]]), tensor([[3.]]))
    """

    def __init__(
        self, event_shape: Sequence[int], step: Tensor | None = None, offset: Tensor | None = None, count: int = 256
    ) -> None:
        super().__init__(event_shape, step, offset)
        self.count = count

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """The rows themselves, and log-determinant 0: the decoder's masses need no volume."""
        return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "count": self.count}


def _log_slope(logit: Tensor) -> Tensor:
    """Logarithm of the sigmoid's derivative."""
    return nn.functional.logsigmoid(logit) + nn.functional.logsigmoid(-logit)
