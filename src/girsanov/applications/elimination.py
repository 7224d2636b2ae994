r"""Sequential elimination of classes with a stated confidence.

For one row, the difference of two classes' evidence is the mean of P independent antithetic pairs. At every look each
class is compared with the one that leads, and leaves when the difference exceeds a quantile of Student's t times its
standard error. The error 1 - confidence is divided by Bonferroni, more of it to the first looks, which more classes
pay for, and of each look's share one part in C - 1 to every other of the C classes that a row starts with. Whichever
class leads when, the best one is lost with probability at most 1 - confidence.

The variance of one pair is estimated with what is known beforehand: a log-likelihood ratio is as noisy as it is large,
so the variance is :math:`\rho S` with the spread :math:`S = \int w\, \|\hat\varepsilon_a - \hat\varepsilon_c\|^2 dl`
(twice the difference that is expected where a is right) and a :math:`\rho` that varies little. Held-out rows give
:math:`\rho`, and the degrees of freedom :math:`d_0` with which it is known for a new row, by matching the moments of
log-variances (Smyth 2004). The moderated variance

.. math::
    \hat V = \frac{d_0\, \rho\, \bar S + (P - 1)\, s^2}{d_0 + P - 1}

has :math:`d_0 + P - 1` degrees. Without held-out rows :math:`d_0 = 0`: this is the paired t-test.

The guarantee is about Monte-Carlo error alone, for pairs that are near normal: the class returned is the one that
unlimited evaluations of this model would choose. Whether the model is right is another question.
"""

__all__ = ["NoiseModel", "looks", "spending", "survivors"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_DEGREES = 1000.0


@dataclass(frozen=True)
class NoiseModel:
    """What is known beforehand about the variance of one pair's difference.

    Attributes:
        ratio: variance over spread, rho.
        degrees: degrees of freedom with which it is known for a new row, d_0; 0 for "not at all".
    """

    ratio: float = 1.0
    degrees: float = 0.0

    @classmethod
    def fit(cls, variance: Tensor, spread: Tensor, degrees: int) -> "NoiseModel":
        """From sample variances of ``degrees`` degrees of freedom and mean spreads, both of shape ``k``."""
        from scipy.special import digamma, polygamma

        kept = (variance > 0.0) & (spread > 0.0)
        logs = variance[kept].log() - spread[kept].log()
        if len(logs) < 2:
            return cls()
        half = degrees / 2.0
        centre = float(logs.mean()) - float(digamma(half)) + math.log(half)
        excess = float(logs.var()) - float(polygamma(1, half))
        prior = 2.0 * _inverse_trigamma(excess) if excess > 0.0 else LARGEST_DEGREES
        prior = min(prior, LARGEST_DEGREES)
        return cls(math.exp(centre + float(digamma(prior / 2.0)) - math.log(prior / 2.0)), prior)

    def moderate(self, variance: Tensor, spread: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Variance of one pair and its degrees of freedom, from sample variances (ignored at one pair)."""
        own = (pairs - 1).clamp_min(0).to(spread.dtype)
        total = self.degrees + own
        known = self.degrees * self.ratio * spread
        return (known + own * torch.where(own > 0, variance, 0.0)) / total.clamp_min(1e-12), total


def looks(first: int, most: int) -> list[int]:
    """Numbers of pairs after which to look: doubling from ``first``, ending with ``most``.

    Example:
        >>> looks(1, 12)
        [1, 2, 4, 8, 12]
    """
    found = [min(first, most)]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def spending(count: int) -> list[float]:
    """Shares of the error for each look, summing to one: half of it equal, half of it halving from look to look.

    Example:
        >>> spending(4)
        [0.375, 0.25, 0.1875, 0.1875]
    """
    return [0.5 / count + 0.5 ** min(k + 2, count) for k in range(count)]


def survivors(values: Tensor, spread: Tensor, alive: Tensor, noise: NoiseModel, error: Tensor | float) -> Tensor:
    """Which classes remain after a look.

    Args:
        values: every pair's evidence, shape ``n C P``; anything where not ``alive``.
        spread: mean spread of a pair's difference to the leader, shape ``n C``.
        alive: shape ``n C``.
        noise: what is known of the variance.
        error: error probability of one comparison, one number or one per row.

    Returns:
        Mask of shape ``n C``; the leader always remains.
    """
    pairs = values.shape[2]
    mean = torch.where(alive, values.mean(2), -math.inf)
    leader = mean.argmax(1)
    rows = torch.arange(len(values), device=values.device)
    differences = values[rows, leader][:, None] - values
    gap = differences.mean(2)
    variance = differences.var(2) if pairs > 1 else torch.zeros_like(gap)
    moderated, degrees = noise.moderate(variance, spread, torch.tensor(pairs))
    if not float(degrees) > 0.0:
        return alive
    quantile = _quantile(torch.as_tensor(error, dtype=torch.float64), float(degrees)).to(gap)
    stay = gap <= quantile[..., None] * (moderated / pairs).sqrt()
    stay[rows, leader] = True
    return alive & stay


def _quantile(error: Tensor, degrees: float) -> Tensor:
    from scipy.special import stdtrit

    return torch.as_tensor(-stdtrit(degrees, error.cpu().numpy()))


def _inverse_trigamma(y: float) -> float:
    """Newton's method on the reciprocal, which is nearly linear."""
    from scipy.special import polygamma

    x = 0.5 + 1.0 / y
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1.0 - trigamma / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
