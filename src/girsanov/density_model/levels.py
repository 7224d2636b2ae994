r"""The law of the levels of every pixel before learning: frequent levels, and Gaussians fitted to the rest."""

__all__ = ["level_prior"]

import torch
from torch import Tensor
from torch.nn.functional import pad

from girsanov.density_model.lattice import MAX_CELLS
from girsanov.encoding import Encoding
from girsanov.networks import LevelPrior
from girsanov.transforms import OnLattice, Standardise
from girsanov.types import State

ATOMS, GAUSSIANS = 5, 3  # of more levels than have a weight each
AROUND, FREQUENT = 8, 2.0  # levels on each side whose median mass an atom's exceeds so many times
STRENGTH = 8.0  # rows that the histogram of all pixels counts for in each
ROUNDS = 50  # of expectation and maximisation
NARROWEST = 3.0  # standard deviation of a Gaussian in steps, at least
LEAST = 1e-7  # weight
CHUNK = 4096  # rows that are counted at a time


def level_prior(rows: State, encoding: Encoding) -> LevelPrior | None:
    """The prior of rows of images, or ``None`` where their model does not end in one lattice for all pixels.

    Args:
        rows: encoded training rows ``n *d``.
        encoding: of the model, a lattice and an affine map.
    """
    points, members = encoding.dequantiser, encoding.transforms.members
    affine = next((member for member in members if isinstance(member, Standardise)), None)
    if not isinstance(points, OnLattice) or affine is None or rows.ndim != 4 or len(members) != 2:
        return None
    if any(bool((part != part.flatten()[0]).any()) for part in (points.step, affine.scale)):
        return None
    width, scale = float(points.step.flatten()[0]), float(affine.scale.flatten()[0])
    masses = _histogram(rows, points.offset, width, points.count)
    atoms, means, deviations, log_weights = _fitted(masses)
    step, shape = width / scale, (-1, *rows.shape[1:])
    return LevelPrior(
        lowest=(points.offset - affine.mean) / affine.scale,
        step=step,
        atoms=step * atoms,
        means=step * means,
        deviations=step * deviations,
        log_weights=log_weights.reshape(shape),
    )


def _histogram(rows: State, offset: Tensor, width: float, count: int) -> Tensor:
    """Masses of the levels in each pixel, smoothed towards those of all pixels and the uniform, ``d count``."""
    pixels = rows[0].numel()
    counts, places = torch.zeros(pixels * count), count * torch.arange(pixels, device=rows.device)
    for part in rows.split(CHUNK):
        index = ((part - offset) / width).round().long().flatten(1).clamp(0, count - 1)
        counts += torch.bincount((index + places).flatten(), minlength=len(counts)).cpu()
    counts = counts.double().reshape(pixels, count)
    pooled = counts.sum(0) + 1.0
    return (counts + STRENGTH * (0.5 * pooled / pooled.sum() + 0.5 / count)) / (len(rows) + STRENGTH)


def _fitted(masses: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Atoms, means and deviations in steps, and log-weights ``a + c d``, of masses ``d count``."""
    count = masses.shape[1]
    if count <= MAX_CELLS:
        none = masses.new_zeros(0)
        return torch.arange(count, dtype=torch.float64), none, none, masses.T.clamp_min(LEAST).log()
    atoms = _atoms(masses.sum(0))
    rest = masses.clone()
    rest[:, atoms] = 0.0
    levels, share = torch.arange(count, dtype=torch.float64), rest.sum(0) / rest.sum().clamp_min(LEAST)
    means = count * (torch.arange(GAUSSIANS, dtype=torch.float64) + 0.5) / GAUSSIANS
    deviations, weights = torch.full_like(means, count / 4.0), torch.full_like(means, 1.0 / GAUSSIANS)
    for _ in range(ROUNDS):
        part = _responsibilities(levels, means, deviations, weights[:, None])[..., 0] * share
        weights = part.sum(1).clamp_min(LEAST)
        means = (part * levels).sum(1) / weights
        deviations = ((part * (levels - means[:, None]).square()).sum(1) / weights).sqrt().clamp_min(NARROWEST)
    local = weights[:, None].expand(-1, len(masses))
    for _ in range(ROUNDS):
        part = _responsibilities(levels, means, deviations, local)
        local = torch.einsum("ckd,dk->cd", part, rest).clamp_min(LEAST)
    return atoms.double(), means, deviations, torch.cat([masses[:, atoms].T, local]).clamp_min(LEAST).log()


def _atoms(masses: Tensor) -> Tensor:
    """Levels that are much more frequent than those around them, of masses ``count``.

    Example:
        >>> _atoms(torch.ones(256).index_fill(0, torch.tensor([0, 254]), 9.0))
        tensor([  0, 254])
    """
    around = pad(masses[None], (AROUND, AROUND), mode="reflect")[0].unfold(0, 2 * AROUND + 1, 1).median(1).values
    found = (masses > FREQUENT * around).nonzero()[:, 0]
    return found[masses[found].argsort(descending=True)[:ATOMS]].sort().values


def _responsibilities(levels: Tensor, means: Tensor, deviations: Tensor, weights: Tensor) -> Tensor:
    """Share of each of c Gaussians in each of k levels, under weights ``c d``: ``c k d``."""
    distance = (levels - means[:, None]) / deviations[:, None]
    scores = (-0.5 * distance.square() - deviations.log()[:, None])[..., None] + weights.log()[:, None]
    return torch.softmax(scores, 0)
