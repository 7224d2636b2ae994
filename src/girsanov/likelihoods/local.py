r"""A Gaussian about each row: a control variate that the row's own evaluations teach, replicate by replicate.

Near a row a score is that of a Gaussian with its own scales, which a reference of the whole data set does not show.
With y the row less its mean in units of its scales, and :math:`p_i = \mathrm{sigmoid}(l + \log \lambda_i)`, its
denoiser has the error

.. math::
    \varepsilon - \hat\varepsilon_\lambda = p\, \varepsilon - \sqrt{p (1 - p)}\; y .

For every variance on a grid y is a matter of least squares, so that both are found without a search. A replicate's
Gaussian is fitted to the evaluations of the others: it knows nothing of the noise that it is subtracted under, and no
expectation is changed. Where few evaluations tell little of a dimension, its scale is that of all dimensions together
and y that of the reference; and where the reference's own denoiser is nearly as close to the score, as it is for a
model that equals its reference, that one stays.

What is left is mostly rare jumps of the denoiser between modes, whose size a handful of evaluations would miss: a share
of the reference's own fluctuation is left in, which is as good as normal, and intervals keep their promise.
"""

__all__ = ["Evaluations", "Local", "Setting"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from girsanov.densities import Gaussian
from girsanov.rows import LANES
from girsanov.types import Nats, State

SHARE = 0.8  # of the baseline's fluctuation that is taken for the local Gaussian's
CLOSER = 0.5  # of the reference's squared distance from the score, below which the local Gaussian's must be
CANDIDATES = 24  # variances that are tried
NARROWEST, WIDEST = 2.0, 4.0  # of these, in log-SNR: so far inside the range's end, and beyond 0
TRUST_Y = 1.0  # evaluations that the reference's y counts for
TRUST_SCALE = 0.3  # evaluations that the common scale counts for, per e-fold squared
TOGETHER = 16  # replicates at most that are fitted to each other
ELEMENTS = 2**18  # at most so many numbers at once, of more rows than one: they stay in a core's cache
ROUNDING = 1e-6  # relative, of a squared distance that is a difference


@final
@dataclass(frozen=True)
class Setting:
    """Coordinates in which a local Gaussian is diagonal, and what the reference says there.

    Attributes:
        basis: orthonormal, ``d d``, or ``None`` for the coordinates themselves.
        mean: ``d``; ``None`` where there is no reference, and y is 0.
        variances: ``d``.
        span: range of log-SNR.
    """

    basis: Tensor | None
    mean: Tensor | None
    variances: Tensor
    span: tuple[float, float]

    @classmethod
    def of(cls, law: Gaussian | None, d: int, span: tuple[float, float], device: torch.device) -> "Setting":
        """That of a reference with a full spectrum, else that of its marginal variances."""
        if law is None:
            return cls(None, None, torch.ones(d, dtype=torch.float64, device=device), span)
        mean = law.mean.double().flatten()
        if law.basis is not None and len(law.eigenvalues) == d:
            return cls(law.basis, mean, law.eigenvalues, span)
        return cls(None, mean, law.marginal_variance().flatten(), span)

    def coordinates(self, rows: State) -> Tensor:
        """Rows ``... *d`` flattened to ``n d`` in the basis, float64."""
        flat = rows.double().flatten(1)
        return flat if self.basis is None else flat @ self.basis

    def shift(self, x: State) -> Tensor:
        """The reference's y of rows ``b *d``, shape ``b d``."""
        if self.mean is None:
            return torch.zeros(len(x), len(self.variances), dtype=torch.float64, device=x.device)
        return self.coordinates(x.double().flatten(1) - self.mean) / self.variances.sqrt()

    def rows_at_once(self, replicates: int) -> int:
        """Of a fit, so many that its numbers fit a processor's cache, and that a single row costs little."""
        each = min(replicates, TOGETHER) * CANDIDATES * len(self.variances)
        return max(1, min(LANES, ELEMENTS // each))

    def grid(self) -> Tensor:
        """Logarithms of the variances that are tried, shape ``c``."""
        ends = (-self.span[1] + NARROWEST, WIDEST)
        return torch.linspace(*ends, CANDIDATES, dtype=torch.float64, device=self.variances.device)


@final
@dataclass(frozen=True)
class Evaluations:
    """What rows ``b`` were evaluated at in replicates ``r`` of ``k`` points, in a setting's coordinates, float64.

    Attributes:
        levels: log-SNR, ``b r k``.
        weights: ``b r k``.
        eps: noise, ``b r k d``.
        error: noise less its prediction, ``b r k d``.
        baseline: the same of the denoiser that is the baseline, ``b r k d``.
    """

    levels: Tensor
    weights: Tensor
    eps: Tensor
    error: Tensor
    baseline: Tensor

    def of(self, replicates: Tensor) -> "Evaluations":
        """Those of some replicates."""
        return Evaluations(*(getattr(self, name)[:, replicates] for name in self.__dataclass_fields__))


@final
@dataclass(frozen=True)
class Local:
    """Gaussians about rows, one for each replicate.

    Attributes:
        y: the row less the mean, in units of the scales, ``b r d``.
        log_variances: ``b r d``.
        share: of the baseline's fluctuation that is taken for this one's, ``b r``.
    """

    y: Tensor
    log_variances: Tensor
    share: Tensor

    @classmethod
    def fit(cls, setting: Setting, shift: Tensor, found: Evaluations) -> "Local":
        """Fit a Gaussian for each replicate to the evaluations of the others.

        Args:
            setting: where it is diagonal.
            shift: the reference's y, ``b d``.
            found: the evaluations.
        """
        count = found.levels.shape[1]
        groups = torch.arange(count, device=shift.device).tensor_split(-(-count // TOGETHER))
        parts = [_fit(setting, shift, found.of(group)) for group in groups]
        return cls(*(torch.cat(values, 1) for values in zip(*parts, strict=True)))

    def squared_error(self, found: Evaluations) -> Nats:
        """Of the Gaussian's denoiser at the same evaluations, ``b r k``."""
        p = torch.sigmoid(found.levels[..., None] + self.log_variances[:, :, None])
        return (p * found.eps - (p * (1.0 - p)).sqrt() * self.y[:, :, None]).square().sum(-1)

    def integral(self, low: float, high: float) -> Nats:
        """Its mean over the noise, integrated over log-SNR, ``b r``."""
        (below, p_low), (above, p_high) = (
            (softplus(end + self.log_variances), torch.sigmoid(end + self.log_variances)) for end in (low, high)
        )
        return (above - below + (p_high - p_low) * (self.y.square() - 1.0)).sum(-1)

    def exchanged(self, found: Evaluations, sums: Nats, mean: Nats, span: tuple[float, float]) -> Nats:
        """What is to be added to sums over evaluations, so that a share of the baseline is this Gaussian: ``b r``.

        Args:
            found: the evaluations.
            sums: weighted sums of half the baseline's minus the score's squared error, ``b r``.
            mean: the baseline's mean, integrated over log-SNR, ``b r``.
            span: the range of that integral.
        """
        gain = 0.5 * (found.weights * (self.squared_error(found) - found.error.square().sum(-1))).sum(-1)
        return self.share * (gain + 0.5 * (mean - self.integral(*span)) - sums)


def _fit(setting: Setting, shift: Tensor, found: Evaluations) -> tuple[Tensor, Tensor, Tensor]:
    """Fits of replicates to each other: the fields of :class:`Local`."""
    grid, weights = setting.grid(), found.weights / found.weights.mean((1, 2), keepdim=True)
    step = grid[1] - grid[0]
    home = ((setting.variances.log() - grid[0]) / step).round().long().clamp(0, CANDIDATES - 1)
    y, loss = _losses(grid, shift, found, weights)
    factor = _shifted(loss, home).argmin(2) - (CANDIDATES - 1)
    common = (home + factor[..., None]).clamp(0, CANDIDATES - 1)
    away = step * (torch.arange(CANDIDATES, device=grid.device)[:, None] - common[:, :, None])
    best = (loss + TRUST_SCALE * away.square()).argmin(2, keepdim=True)
    energy, distance = (
        _of_others((weights[..., None] * squares).sum((2, 3)))
        for squares in (found.error.square(), (found.baseline - found.error).square())
    )
    closer = energy * (1.0 + ROUNDING) + loss.gather(2, best)[:, :, 0].sum(-1) < CLOSER * distance
    return y.gather(2, best)[:, :, 0], grid[best[:, :, 0]], SHARE * closer


def _losses(grid: Tensor, shift: Tensor, found: Evaluations, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Best y for every variance, and the loss there less the score's energy, both ``b r c d``, by other replicates.

    Sums over evaluations are taken one after the other, which no kernel does in another order for another place.
    """
    eps, error = found.eps, found.error
    shape = (*found.levels.shape[:2], len(grid), eps.shape[-1])
    squares, products, energies = eps.new_zeros(shape), eps.new_zeros(shape), eps.new_zeros(*shape[:3], 1)
    squared, crossed = eps.square(), -2.0 * eps * error
    for k in range(found.levels.shape[2]):
        p = torch.sigmoid(found.levels[:, :, k, None] + grid)[..., None]
        w, q = weights[:, :, k, None, None], (p * (1.0 - p)).sqrt()
        squares.addcmul_(w * p.square(), squared[:, :, k, None]).addcmul_(w * p, crossed[:, :, k, None])
        products.addcmul_(w * q, error[:, :, k, None]).addcmul_(-w * q * p, eps[:, :, k, None])
        energies += w * q.square()
    squares, products, energies = (_of_others(total) for total in (squares, products, energies))
    prior = shift[:, None, None]
    y = (TRUST_Y * prior - products) / (energies + TRUST_Y)
    return y, squares + y * (2.0 * products + energies * y) + TRUST_Y * (y - prior).square()


def _of_others(totals: Tensor) -> Tensor:
    """Sums over the other replicates, of sums ``b r ...`` of each."""
    return totals.sum(1, keepdim=True) - totals


def _shifted(loss: Tensor, home: Tensor) -> Tensor:
    """Loss of all dimensions when each scale is the reference's times a common factor, ``b r 2c-1``.

    A factor that takes a dimension off the grid leaves it at the grid's end.
    """
    index = home + torch.arange(1 - CANDIDATES, CANDIDATES, device=home.device)[:, None]
    index = index.clamp(0, CANDIDATES - 1).expand(*loss.shape[:2], -1, -1)
    return loss.gather(2, index).sum(-1)
