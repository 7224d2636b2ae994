"""Which head a model gets: one that knows the lattice of discrete data, a mixture's where one pays, or the residual."""

__all__ = ["calibrate", "choose_head"]

from dataclasses import replace

import torch
from torch import Tensor

from girsanov.densities import Gaussian, ScaleMixture
from girsanov.density_model.config import Config, FitConfig
from girsanov.density_model.coordinates import Coordinates
from girsanov.density_model.lattice import MAX_CELLS
from girsanov.density_model.levels import level_prior
from girsanov.density_model.model import DensityModel
from girsanov.encoding import Encoding
from girsanov.networks import CellHistogram, ExpertHead, Head, LatticeHead, LevelHead, MixtureHead, ResidualHead
from girsanov.randomness import mix, stream
from girsanov.transforms import Dequantise, Standardise
from girsanov.types import State

CALIBRATION_ROWS = 1024


def choose_head(
    rows: State, coordinates: Coordinates, reference: Gaussian, config: FitConfig, spread: tuple[State, State]
) -> Head:
    """The head of a model.

    Args:
        rows: encoded training rows.
        coordinates: of the model's space.
        reference: fitted there.
        config: of the fit.
        spread: training and validation rows in the model's space, where cells are spread.
    """
    residual = ResidualHead(reference, config.predicts)
    if config.takes_one_map or not isinstance(config, Config):
        return residual
    if coordinates.mixture is not None:
        return MixtureHead(reference, config.predicts, coordinates.mixture)
    if not config.lattice_head:
        return residual
    if (prior := level_prior(rows, coordinates.encoding)) is not None:
        scales = ScaleMixture.fit(reference, *spread).log_weights
        return LevelHead(reference, config.predicts, replace(prior, scales=scales))
    uniform = config.dequantise in (None, "uniform")  # the head's exact moments are those of uniform cells
    lattice = _lattice(rows, coordinates.encoding) if uniform else None
    return residual if lattice is None else LatticeHead(reference, config.predicts, lattice)


def _lattice(rows: State, encoding: Encoding) -> CellHistogram | None:
    """The cells of discrete rows in the model's space, where these are few and stay evenly spaced."""
    schema, members = encoding.schema, encoding.transforms.members
    step = schema.bin_width
    affine = all(isinstance(member, (Dequantise, Standardise)) for member in members)
    if not (affine and bool((step > 0).all())):
        return None
    index = ((rows - schema.offset) / step).round().long()
    first = index.amin()
    cells = int(index.amax() - first) + 1
    if cells > MAX_CELLS:
        return None
    (standardise,) = (member for member in members if isinstance(member, Standardise))
    corner = schema.offset + step * (float(first) - 0.5)
    return CellHistogram(
        lower=(corner - standardise.mean) / standardise.scale,
        step=step / standardise.scale,
        histogram=_histogram(index - first, cells),
    )


def _histogram(index: Tensor, cells: int) -> Tensor:
    """Log-frequencies per dimension, smoothed towards the pooled and the uniform histogram, ``*d cells``."""
    counts = torch.nn.functional.one_hot(index, cells).sum(0).double()
    pooled = counts.flatten(0, -2).sum(0) + 1.0
    smooth = 0.5 * pooled / pooled.sum() + 0.5 / cells
    strength = 8.0
    return ((counts + strength * smooth) / (len(index) + strength)).log()


def calibrate(model: DensityModel, rows: State, seed: int) -> None:
    """Let an expert start from its best share; until here the model is the Gaussian."""
    head = model.score.head
    if isinstance(head, ExpertHead):
        y, _ = model.encoding.spread(rows[:CALIBRATION_ROWS], stream(seed, "calibration"), copies=1)
        head.calibrate(y.float(), torch.Generator().manual_seed(mix(seed, 2)))
