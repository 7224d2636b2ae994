r"""The noise of an estimate's evaluations: independent draws, or in few dimensions a scrambled net.

In up to four dimensions a handful of independent points would leave a replicate as skewed as the squares of its noise,
and intervals short of their promise. There the K points of a replicate are a Sobol' net in log-SNR and noise together,
whose digits are permuted at random (Owen 1995): each point is uniform, so that nothing is biased; the points fill the
space evenly, so that little varies; and the many permutations make a replicate's error nearly normal, which one shift
of all points does not. The noise is drawn wider than it must be, :math:`\varepsilon = s\, \Phi^{-1}(v)` with density
ratio :math:`s^d \exp(-\tfrac12 (s^2 - 1) \|\Phi^{-1}(v)\|^2)`: what is summed is then bounded and falls off to both
ends.
"""

__all__ = ["FEW_DIMENSIONS", "evaluation_noise", "scrambled_net"]

import math

import numpy as np
import torch
from torch import Tensor

from girsanov.randomness import KeyedStreams, keyed_normal, keyed_uniform
from girsanov.types import State

FEW_DIMENSIONS = 4  # up to so many, noise is a net
WIDTH = 1.5  # s^2, the variance of that noise


def evaluation_noise(
    generators: KeyedStreams, replicates: int, points: int, like: State
) -> tuple[State, Tensor | None]:
    """Noise of every evaluation, and its density ratios where it is not drawn from N(0, I) itself.

    Args:
        generators: one stream per row.
        replicates: number R of replicates.
        points: number K of points in each, at increasing levels.
        like: rows ``b *d``: event shape, dtype and device.

    Returns:
        Noise ``b r k *d``, and weights ``b r k`` in float64 or ``None`` for 1.
    """
    shape, d = like.shape[1:], like[0].numel()
    if d > FEW_DIMENSIONS:
        return keyed_normal(generators, (replicates, points, *shape), like), None
    net = scrambled_net(generators, replicates, points, d + 1, like)
    # the k-th point is that of the k-th level: in the first coordinate they are one to a stratum
    order = net[..., :1].argsort(2).expand(-1, -1, -1, d)
    standard = torch.special.ndtri(net[..., 1:].gather(2, order).clamp(1e-12, 1.0 - 1e-12))
    ratio = WIDTH ** (0.5 * d) * torch.exp(-0.5 * (WIDTH - 1.0) * standard.square().sum(-1))
    return (math.sqrt(WIDTH) * standard).to(like.dtype).unflatten(-1, shape), ratio


def scrambled_net(generators: KeyedStreams, replicates: int, points: int, d: int, like: Tensor) -> Tensor:
    """Independently scrambled copies of the first points of Sobol's sequence, float64 ``b r k d``.

    Args:
        generators: one stream per row.
        replicates: number R of copies.
        points: number K of points in each.
        d: dimensions.
        like: gives the device.

    Example:
        >>> from girsanov.randomness import keyed_generators
        >>> rows = torch.zeros(1, 1)
        >>> net = scrambled_net(keyed_generators(0, "demo", rows), 1, 4, 2, rows)
        >>> (4 * net[0, 0, :, 0]).floor().sort().values  # one point in every quarter
        tensor([0., 1., 2., 3.], dtype=torch.float64)
    """
    digits = max(1, math.ceil(math.log2(points)))
    size = 2**digits
    net = torch.quasirandom.SobolEngine(d).draw(size, dtype=torch.float64).to(like.device)
    cell = (net * size).long()[:points]
    shape = (len(generators), replicates)
    flips = _bits(generators, replicates * (size - 1) * d).to(like.device).reshape(*shape, size - 1, d)
    scrambled = cell.new_zeros(*shape, points, d)
    for digit in range(digits):
        # one coin for every digit that a cell's earlier digits lead to
        coin = (2**digit - 1) + (cell >> (digits - digit))
        flip = flips.gather(2, coin.expand(*shape, points, d))
        scrambled = 2 * scrambled + (((cell >> (digits - 1 - digit)) & 1) ^ flip)
    return (scrambled + keyed_uniform(generators, (replicates, points, d), like)) / size


def _bits(generators: KeyedStreams, count: int) -> Tensor:
    """Random bits, int64 ``b count``."""
    return torch.from_numpy((generators.words(count) >> 31).astype(np.int64))
