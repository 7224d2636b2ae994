"""The certificate of DDPM training for a fitted density model: rows in, table out."""

__all__ = ["certify"]

from typing import Any

import torch

from girsanov.calculus import keyed_generators, keyed_uniform, seed_of
from girsanov.density_model.model import DensityModel
from girsanov.likelihoods import ddpm_bound
from girsanov.likelihoods.certificate import Certificate, certificate
from girsanov.likelihoods.denoising import Draws

DRAWS = Draws(2)  # two evaluations per row and step: the fewest that know their error


def certify(model: DensityModel, data: Any, *, generator: torch.Generator | None = None, **options: Any) -> Certificate:
    """Certify a fitted model: L_0, the curve of L_t, L_T, and how far the discrete bound misleads.

    Args:
        model: a fitted density model.
        data: held-out rows in data units, two or more; discrete columns are dequantised, one draw per row.
        generator: read once for a seed; ``None`` means seed 0.
        options: ``schedule``, ``noise`` (here two draws per row and step) and ``condition`` of
            :func:`girsanov.ddpm_bound`.

    Returns:
        The certificate, in the model's coordinates; ``log_det`` leads back to data units. ``str()`` of it is text.

    Raises:
        InputError: for fewer than two rows, or options that do not fit.

    Example:
        >>> import girsanov as gv
        >>> from girsanov.likelihoods.ddpm import SCHEDULES
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2, network="mlp", width=8, blocks=1))
        >>> found = certify(model, torch.randn(8, 2), schedule=SCHEDULES["linear"](50))
        >>> print(str(found).splitlines()[0])
        linear, 50: 8 rows of 2 dimensions, 100 nfe per row
    """
    rows, seed = model.encode(data), seed_of(generator)
    uniform = keyed_uniform(keyed_generators(seed, "dequantise", rows), rows.shape[1:], rows)
    with torch.no_grad():
        y, log_det = model.transforms(rows, uniform)
    options = {"noise": DRAWS, **options, "generator": torch.Generator().manual_seed(seed)}
    bound = ddpm_bound(model.score, model.score.process, y, **options)
    return certificate(bound, model.score.log_snr_range, log_det=float(log_det.mean()))
