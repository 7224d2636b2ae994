"""The certificate of DDPM training for a fitted density model: rows in, table out."""

__all__ = ["certify", "encoded_certify"]

from typing import Any

import torch
from torch import Tensor

from girsanov.calculus import keyed_generators, keyed_uniform, seed_of
from girsanov.density_model.model import DensityModel
from girsanov.likelihoods.certificate import Certificate, certificate
from girsanov.likelihoods.ddpm import NoiseSchedule
from girsanov.likelihoods.denoising import Noise
from girsanov.types import State


def certify(
    model: DensityModel,
    data: Any,
    *,
    schedule: NoiseSchedule | None = None,
    noise: Noise | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Certificate:
    """Certify a fitted model: L_0, the curve of L_t, L_T, and how far the discrete bound misleads.

    Args:
        model: a fitted density model.
        data: held-out rows in data units; discrete columns are dequantised, one draw per row.
        schedule: the chain; default ``SCHEDULES["linear"](1000)``.
        noise: see :func:`girsanov.likelihoods.certificate.certificate`.
        condition: labels ``n`` or 1 of a conditional model.
        generator: read once for a seed.

    Returns:
        The certificate, in the model's coordinates; ``log_det`` leads back to data units. ``str()`` of it is text.

    Example:
        >>> import girsanov as gv
        >>> from girsanov.likelihoods.ddpm import SCHEDULES
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2, network="mlp", width=8, blocks=1))
        >>> found = certify(model, torch.randn(8, 2), schedule=SCHEDULES["linear"](50))
        >>> print(str(found).splitlines()[0])
        linear, 50: 8 rows of 2 dimensions, 100 nfe per row
    """
    options: dict[str, Any] = {"schedule": schedule, "noise": noise, "condition": condition, "generator": generator}
    return encoded_certify(model, model.encode(data), **options)


def encoded_certify(
    model: DensityModel,
    rows: State,
    *,
    schedule: NoiseSchedule | None = None,
    noise: Noise | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Certificate:
    """:func:`certify` of rows that ``model.encode`` has returned."""
    seed = seed_of(generator)
    uniform = keyed_uniform(keyed_generators(seed, "dequantise", rows), rows.shape[1:], rows)
    with torch.no_grad():
        y, log_det = model.transforms(rows, uniform)
    return certificate(
        model.score,
        model.score.process,
        y,
        schedule=schedule,
        noise=noise,
        condition=condition,
        log_det=float(log_det.mean()),
        generator=torch.Generator().manual_seed(seed),
    )
