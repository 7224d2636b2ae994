r"""How a model treats discrete data: which dequantiser its cells get, and where the cells of a decoder lie."""

__all__ = ["MAX_CELLS", "lattice_points", "make_dequantiser", "require_dequantisation"]

import torch
from torch import Tensor

from girsanov.datasets import Data, Schema
from girsanov.density_model.config import Config, FitConfig
from girsanov.encoding import Encoding
from girsanov.likelihoods.discrete import LatticePoints
from girsanov.randomness import mix
from girsanov.transforms import Dequantise, OnLattice, TruncatedNormalDequantise, VariationalDequantise
from girsanov.types import InputError, State

MAX_CELLS = 32  # up to which a head knows every cell by itself
BEYOND = 0.005  # share of levels that no training row has, under a decoder of cells


def require_dequantisation(data: Data, config: FitConfig) -> None:
    """Refuse a dequantiser that cannot serve these data, before anything is fitted.

    Raises:
        InputError: for columns that are Gaussianised, which spread cells uniformly, or a categorical decoder or logit
            space for continuous dimensions.
    """
    discrete, table = bool((data.schema.bin_width > 0).all()), data.schema.kind != "images" and config.gaussianise
    if config.logit and (table or not discrete):
        raise InputError(f"{data.name}: logit needs images of whole levels, or a discrete table with gaussianise=False")
    if config.dequantise in (None, "uniform"):
        return
    if table:
        raise InputError(f"dequantise={config.dequantise!r} needs images, or a table with gaussianise=False")
    if config.dequantise == "categorical" and not discrete:
        raise InputError(f"{data.name}: has continuous dimensions, which no categorical decoder can end in")


def make_dequantiser(schema: Schema, rows: State, config: FitConfig) -> Dequantise:
    """The dequantiser that ``config`` names, or that suits the model, for encoded rows."""
    shape, step, offset = schema.event_shape, schema.bin_width, schema.offset
    kind = config.dequantise or ("categorical" if _suits_a_decoder(schema, config) else "uniform")
    if kind == "truncated-normal":
        return TruncatedNormalDequantise(shape, step, offset)
    if kind == "variational":
        spread = rows.std(0).mean().clamp_min(float(step.max())).expand_as(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, 6))
            return VariationalDequantise(shape, step, offset, centre=rows.mean(0), spread=spread)
    if kind == "categorical":
        return OnLattice(shape, step, *_support(schema, rows))
    return Dequantise(shape, step, offset)


def _suits_a_decoder(schema: Schema, config: FitConfig) -> bool:
    """Whether rows are images of whole levels, and the model has a head that knows these."""
    if schema.kind != "images" or config.takes_one_map or config.logit or not isinstance(config, Config):
        return False
    return config.lattice_head and bool((schema.bin_width > 0).all())


def _support(schema: Schema, rows: State) -> tuple[Tensor, int]:
    """The lowest lattice point of each dimension that occurs (of all, for images), and the number of points."""
    low, high = (((end - schema.offset) / schema.bin_width).round() for end in (rows.amin(0), rows.amax(0)))
    if schema.kind == "images":
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    return schema.offset + schema.bin_width * low, int((high - low).max()) + 1


def lattice_points(encoding: Encoding) -> LatticePoints | None:
    """Where the lattice of a categorical model lies in its coordinates; ``None`` for other models."""
    points = encoding.dequantiser
    if not isinstance(points, OnLattice):
        return None
    first, second = (encoding.transforms(points.offset[None] + shift)[0][0] for shift in (0.0, points.step))
    return LatticePoints(first, second - first, points.count, beyond=BEYOND)
