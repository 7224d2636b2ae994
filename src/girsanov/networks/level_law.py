r"""Posterior means of a level whose law is atoms and Gaussians on a lattice, with their slopes in closed form.

Of :math:`y = x + r \varepsilon` with :math:`P(x) = \sum_k e^{g_k} p_k(x)` the posterior mean is
:math:`m = \sum_k w_k m_k` with responsibilities :math:`w`, and a log-weight moves it by

.. math:: \partial m / \partial g_k = w_k (m_k - m).

For a Gaussian of mean :math:`\mu` and variance :math:`s^2` under noise that spans the lattice, with
:math:`T = s^2 + r^2` and :math:`u = (y - \mu) / T`,

.. math::
    m_k = \mu + s^2 u, \qquad
    \frac{\partial m}{\partial \mu} = w_k \Big[(m_k - m)\, u + \frac{r^2}{T}\Big], \qquad
    \frac{\partial m}{\partial s^2} = w_k \Big[\tfrac12 (m_k - m) \big(u^2 - \tfrac1T\big) + \frac{r^2 u}{T}\Big],

and where the noise is finer the sums are over lattice points instead. So a training step needs the values and one
tensor of slopes, in place of the some forty intermediate ones of a recorded graph.
"""

__all__ = ["LevelLaw", "mean_among_points", "mean_over_lattice"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.types import State


@dataclass(frozen=True)
class LevelLaw:
    """A law of each row's levels; maps are along axis 1, ``b a *d`` of atoms and ``b c *d`` of Gaussians.

    Attributes:
        atoms: log-weights of the atoms, up to a number for each pixel.
        gaussians: those of the Gaussians, up to the same number.
        means: of the Gaussians.
        variances: of the Gaussians.
    """

    atoms: Tensor
    gaussians: Tensor
    means: Tensor
    variances: Tensor

    def __getitem__(self, rows: Tensor) -> "LevelLaw":
        return LevelLaw(self.atoms[rows], self.gaussians[rows], self.means[rows], self.variances[rows])


def mean_over_lattice(law: LevelLaw, values: Tensor, y: State, r: Tensor, *, slopes: bool) -> tuple[State, Tensor]:
    """The posterior mean where the noise spans the lattice: that of a mixture of atoms and Gaussians.

    Args:
        law: of the levels.
        values: of the atoms, broadcastable with ``b a *d``.
        y: noisy rows ``b *d``.
        r: their noise, ``b 1 ...``.
        slopes: whether they are asked for.

    Returns:
        The mean ``b *d``, and its slopes with respect to the log-weights of atoms and Gaussians, the means and the
        logarithms of the deviations, ``b a+3c *d``; of none where they are not asked for.
    """
    y, squared = y[:, None], r[:, None].square()
    total, apart = law.variances + squared, y - law.means
    scaled, share = apart / total, squared / total
    bells = law.atoms - 0.5 * ((y - values) / r[:, None]).square()
    weights = torch.softmax(torch.cat([bells, law.gaussians + 0.5 * (share.log() - apart * scaled)], 1), 1)
    of_atoms, of_gaussians = weights.split([law.atoms.shape[1], law.means.shape[1]], 1)
    means = law.means + law.variances * scaled
    mean = (of_atoms * values).sum(1) + (of_gaussians * means).sum(1)
    if not slopes:
        return mean, mean.new_empty(0)
    away, moved = of_gaussians * (means - mean[:, None]), of_gaussians * share
    spread = law.variances * (away * (scaled.square() - 1.0 / total) + 2.0 * moved * scaled)
    return mean, torch.cat([of_atoms * (values - mean[:, None]), away, away * scaled + moved, spread], 1)


def mean_among_points(
    law: LevelLaw, values: Tensor, y: State, r: Tensor, step: Tensor, neighbours: int, *, slopes: bool
) -> tuple[State, Tensor]:
    """The posterior mean where it is the nearest lattice points that count.

    Args:
        law: of the levels.
        values: of the atoms, broadcastable with ``b a *d``.
        y: noisy rows ``b *d``.
        r: their noise, ``b 1 ...``.
        step: between lattice points.
        neighbours: lattice points on each side of the nearest one that are summed over.
        slopes: whether they are asked for.

    Returns:
        As :func:`mean_over_lattice` does.
    """
    count, near = law.means.shape[1], torch.arange(-neighbours, neighbours + 1, device=y.device)
    points = step * ((y / step).round()[:, None] + near.reshape(-1, *(1,) * (y.ndim - 1)))  # b p *d
    means, variances = law.means[:, None], law.variances[:, None]  # b 1 c *d
    apart = points[:, :, None] - means
    masses = law.gaussians[:, None] - 0.5 * (apart.square() / variances + (2.0 * math.pi * variances).log())
    noise = 0.5 * ((y[:, None] - points) / r[:, None]).square()
    bells = law.atoms - 0.5 * ((y[:, None] - values) / r[:, None]).square()
    own = (masses + step.log() - noise[:, :, None]).flatten(1, 2)
    of_atoms, of_points = torch.softmax(torch.cat([bells, own], 1), 1).split([law.atoms.shape[1], own.shape[1]], 1)
    joint = of_points.unflatten(1, (len(near), count))
    mean = (of_atoms * values).sum(1) + (joint.sum(2) * points).sum(1)
    if not slopes:
        return mean, mean.new_empty(0)
    away, scaled = joint * (points - mean[:, None])[:, :, None], apart / variances
    parts = away.sum(1), (away * scaled).sum(1), (away * (apart * scaled - 1.0)).sum(1)
    return mean, torch.cat([of_atoms * (values - mean[:, None]), *parts], 1)
