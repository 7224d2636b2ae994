"""Two density models on the same rows."""

__all__ = ["compare"]

from typing import Any

import torch

from girsanov.density_model.mixed import twins
from girsanov.density_model.model import DensityModel
from girsanov.types import Estimate, InputError


def compare(
    a: DensityModel, b: DensityModel, x: Any, *, samples: int = 32, generator: torch.Generator | None = None
) -> Estimate:
    """Paired difference of two models' bounds, a - b, with noise and dequantisation shared row by row.

    Args:
        a: a density model.
        b: another one, of the same schema.
        x: rows in data units.
        samples: network evaluations per row and model.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        An estimate (of a difference of two lower bounds, so without a bound's guarantee), positive where ``a``
        finds the row more likely; ``.mean()`` has the paired standard errors.

    Raises:
        InputError: if the models are of different data.
    """
    for model in (a, b):
        if not isinstance(model, DensityModel):
            raise InputError(
                f"Density models are compared; got {type(model).__name__}: fit one, or load it from its folder"
            )
    if a.schema.event_shape != b.schema.event_shape or not torch.equal(a.schema.bin_width, b.schema.bin_width):
        raise InputError("The two models were fitted to different columns: fit both to the same data")
    first, second = (
        model.elbo(x, samples=samples, generator=own) for model, own in zip((a, b), twins(generator), strict=True)
    )
    assert first.replicates is not None
    assert second.replicates is not None
    return Estimate.from_replicates(
        first.replicates - second.replicates,
        kind="estimate",
        model="sde",
        nfe=first.nfe + second.nfe,
        event_dim=first.event_dim,
        measure=first.measure,
    )
