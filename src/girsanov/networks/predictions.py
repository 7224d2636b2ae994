r"""What a network may predict, and the exact conversions to and from the noise prediction.

With :math:`x_t = \alpha x + \sigma \varepsilon` every prediction is an affine function of
:math:`\hat\varepsilon` at given :math:`(t, x_t)`:

=========  ===========================  ====================================================
name       meaning                      as a function of the noise prediction
=========  ===========================  ====================================================
noise      E[eps given x_t]             :math:`\hat\varepsilon`
score      grad log p_t(x_t)            :math:`-\hat\varepsilon / \sigma`
denoised   E[x given x_t]               :math:`(x_t - \sigma \hat\varepsilon) / \alpha`
v          alpha eps - sigma x          :math:`((\alpha^2 + \sigma^2) \hat\varepsilon - \sigma x_t) / \alpha`
flow       probability-flow velocity    :math:`a x_t + \tfrac{g^2}{2 \sigma} \hat\varepsilon`
control    g times the score            :math:`-g \hat\varepsilon / \sigma`
=========  ===========================  ====================================================

On the straight path ``flow`` is the familiar eps - x.
"""

__all__ = ["PREDICTIONS", "Coefficients", "coefficients", "from_noise", "to_noise"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows
from girsanov.processes import LinearProcess
from girsanov.types import InputError, State


@dataclass(frozen=True)
class Coefficients:
    """``prediction = state * x_t + noise * eps_hat``, one pair of numbers per row, float64."""

    state: Tensor
    noise: Tensor


#: of mean scale, noise, drift rate and squared diffusion, each ``b``
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Coefficients]] = {
    "noise": lambda alpha, sigma, rate, g2: Coefficients(torch.zeros_like(alpha), torch.ones_like(alpha)),
    "score": lambda alpha, sigma, rate, g2: Coefficients(torch.zeros_like(alpha), -1.0 / sigma),
    "denoised": lambda alpha, sigma, rate, g2: Coefficients(1.0 / alpha, -sigma / alpha),
    "v": lambda alpha, sigma, rate, g2: Coefficients(-sigma / alpha, (alpha.square() + sigma.square()) / alpha),
    "flow": lambda alpha, sigma, rate, g2: Coefficients(rate, 0.5 * g2 / sigma),
    "control": lambda alpha, sigma, rate, g2: Coefficients(torch.zeros_like(alpha), -g2.sqrt() / sigma),
}


def coefficients(predicts: str, process: LinearProcess, log_snr: Tensor) -> Coefficients:
    """The affine map from noise prediction to ``predicts`` under ``process`` at ``log_snr``, shape ``b``.

    Raises:
        InputError: for an unknown prediction.
    """
    if predicts not in PREDICTIONS:
        raise InputError(f"Unknown prediction {predicts!r}: choose one of {', '.join(PREDICTIONS)}")
    level = log_snr.double()
    alpha, sigma = process.marginal_at(level)
    rate, g2 = process.rates(process.time(level))
    return PREDICTIONS[predicts](alpha, sigma, rate, g2)


def to_noise(predicts: str, process: LinearProcess, log_snr: Tensor, x_t: State, prediction: State) -> State:
    """Convert a prediction at ``x_t`` to the noise prediction.

    Example:
        >>> from girsanov.processes import StraightPath
        >>> x, eps, log_snr = torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.3])
        >>> alpha, sigma = StraightPath().marginal_at(log_snr)
        >>> to_noise("flow", StraightPath(), log_snr, alpha * x + sigma * eps, eps - x).abs().max() < 1e-6
        tensor(True)
    """
    c = coefficients(predicts, process, log_snr)
    return (prediction - expand_as_rows(c.state, x_t) * x_t) / expand_as_rows(c.noise, x_t)


def from_noise(predicts: str, process: LinearProcess, log_snr: Tensor, x_t: State, noise: State) -> State:
    """Convert a noise prediction at ``x_t`` to another prediction; inverse of :func:`to_noise`."""
    c = coefficients(predicts, process, log_snr)
    return expand_as_rows(c.state, x_t) * x_t + expand_as_rows(c.noise, x_t) * noise
