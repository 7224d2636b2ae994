r"""Gaussians of images where there are few: covariances that are the same all over the image.

A covariance of d pixels has d (d + 1) / 2 numbers, which a few hundred images do not tell. Where images are alike all
over, as crops of a photograph are, the covariance of two pixels depends on their channels a, b and distance alone,

.. math:: C_{ab}(u) = \text{mean over images and over } p \text{ of } (x_a(p) - m_a) (x_b(p + u) - m_b),

and every image tells thousands of times of each number. Estimated so, the matrix need not be positive definite: what is
below a floor is lifted to it. A share of the usual, shrunk covariance brings back what is not the same all over.
Held-out rows choose floor and share, and whether there is anything stationary about the images at all.
"""

__all__ = ["fit_image_gaussian", "stationary_covariance"]

import math

import torch
from torch import Tensor

from girsanov.densities.gaussian import Gaussian
from girsanov.types import State

FLOORS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # in units of the mean variance
SHARES = (0.1, 0.3, 0.6)  # of the usual covariance, beside none of it and nothing else
FEW = 20  # rows for each dimension, from which the usual covariance is known well enough


def stationary_covariance(x: State) -> tuple[Tensor, Tensor]:
    """Mean of each channel and the covariance by distance of rows ``n c h w``: shapes ``c h w`` and ``d d``, float64.

    Example:
        >>> x = torch.randn(500, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> _, covariance = stationary_covariance(x)
        >>> bool(torch.equal(covariance[0, 1], covariance[4, 5])), bool((covariance - torch.eye(6)).abs().max() < 0.2)
        (True, True)
    """
    x = x.double()
    height, breadth = x.shape[2:]
    mean = x.mean((0, 2, 3))
    spectrum = torch.fft.rfft2(x - mean[:, None, None], s=(2 * height, 2 * breadth))
    crossed = torch.einsum("naij,nbij->abij", spectrum.conj(), spectrum) / len(x)
    sums = torch.fft.irfft2(crossed, s=(2 * height, 2 * breadth))  # of products at each distance, modulo the padding
    rows, columns = (torch.arange(side, device=x.device) for side in (height, breadth))
    down, right = (side[None, :] - side[:, None] for side in (rows, columns))
    pairs = (height - down.abs())[:, None, :, None] * (breadth - right.abs())[None, :, None, :]
    by_pixel = sums[:, :, down[:, None, :, None], right[None, :, None, :]] / pairs  # a b, then rows and columns of both
    covariance = by_pixel.permute(0, 2, 3, 1, 4, 5).reshape(x[0].numel(), x[0].numel())
    return mean[:, None, None].expand(x.shape[1:]).contiguous(), 0.5 * (covariance + covariance.T)


def fit_image_gaussian(x: State, held: State) -> Gaussian:
    """The Gaussian that held-out images are likeliest under: the usual one, a stationary one, or one between.

    Args:
        x: images ``n c h w``.
        held: others, ``m c h w``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(60, 1, 4, 6, generator=generator, dtype=torch.float64).cumsum(3)
        >>> fit_image_gaussian(x[:40], x[40:]).event_shape
        torch.Size([1, 4, 6])
    """
    usual = Gaussian.fit(x)
    if len(x) >= FEW * x[0].numel():
        return usual
    mean, covariance = stationary_covariance(x)
    values, vectors = torch.linalg.eigh(covariance)
    scale = float(covariance.diagonal().mean())
    found = [Gaussian.from_spectrum(mean, vectors, values.clamp_min(floor * scale)) for floor in FLOORS]
    best = max([usual, *found], key=lambda law: float(law.log_prob(held).mean()))
    if best is usual:
        return usual
    most, mixed = float(best.log_prob(held).mean()), best
    for share in SHARES:
        centre = (1.0 - share) * mean + share * usual.mean
        between = (1.0 - share) * _covariance(best) + share * _covariance(usual)
        value = _log_likelihood(centre, between, held)
        if value > most:
            most, mixed = value, (centre, between)
    return mixed if isinstance(mixed, Gaussian) else Gaussian(*mixed)


def _covariance(law: Gaussian) -> Tensor:
    assert law.basis is not None
    rest = torch.eye(len(law.basis), dtype=torch.float64, device=law.basis.device) - law.basis @ law.basis.T
    return (law.basis * law.eigenvalues) @ law.basis.T + law.remainder * rest


def _log_likelihood(mean: Tensor, covariance: Tensor, rows: State) -> float:
    """Mean over rows, by a factorisation that costs a tenth of a spectrum."""
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (rows.double() - mean).flatten(1).T, upper=False)
    log_det = 2.0 * factor.diagonal().log().sum()
    return float(-0.5 * (white.square().sum(0).mean() + log_det + len(factor) * math.log(2.0 * math.pi)))
