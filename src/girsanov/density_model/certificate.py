"""The certificate of DDPM training for a fitted density model: rows in, table out."""

__all__ = ["certify"]

from typing import Any

import torch

from girsanov.density_model.model import DensityModel
from girsanov.inputs import checked
from girsanov.likelihoods import ddpm_bound
from girsanov.likelihoods.certificate import Certificate, certificate
from girsanov.likelihoods.denoising import MonteCarlo
from girsanov.randomness import seed_of

DRAWS = MonteCarlo(2)  # two evaluations per row and step: the fewest that know their error


@checked
def certify(
    model: DensityModel,
    data: Any,
    *,
    samples: int = 32,
    condition: Any = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Certificate:
    """Certify a fitted model: L_0, the curve of L_t, L_T, and how far the discrete bound misleads.

    Args:
        model: a fitted density model.
        data: held-out rows in data units, two or more; for the chain, discrete columns are dequantised once.
        samples: network evaluations per row of the continuous bound.
        condition: see :meth:`DensityModel.elbo`.
        generator: read for the seed of the continuous bound, then for the chain's; ``None`` means seed 0 for both.
        options: ``schedule`` and ``noise`` (here two draws per row and step) of
            :func:`girsanov.likelihoods.ddpm_bound`.

    Returns:
        The certificate of the model's diffusion, in data units. Its continuous bound is ``model.diffusion.elbo(data)``
        with the same generator, unless the model decodes cells. ``str()`` of it is text.

    Raises:
        InputError: for fewer than two rows, or options that do not fit.

    Example:
        >>> import girsanov as gv
        >>> from girsanov.likelihoods.ddpm import SCHEDULES
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> found = certify(model, torch.randn(8, 2), schedule=SCHEDULES["linear"](50))
        >>> print(str(found).splitlines()[0])
        linear, 50: 8 rows of 2 dimensions, 132 nfe per row
    """
    decodes = model.lattice is not None
    elbo = None if decodes else model.diffusion.elbo(data, samples=samples, condition=condition, generator=generator)
    rows, seed = model.encode(data), seed_of(generator)
    given = model.encode_condition(condition, len(rows))
    with torch.no_grad():
        view = rows.views(rows.rows, 1, seed, 0)
    y, log_det = view.x[:, 0], view.log_det[:, 0]
    options = {"noise": DRAWS, **options, "condition": given}
    bound = ddpm_bound(model.pair, y, generator=torch.Generator().manual_seed(seed), **options)
    return certificate(bound, model.score.log_snr_range, log_det=log_det, elbo=elbo, decodes=decodes)
