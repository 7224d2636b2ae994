r"""Latents of an autoencoder: their scale as a transform with its log-determinant, and how they are drawn.

A latent diffusion model is a density of *latents*, and of nothing else: the density of an image is not the density of
its latent. With an encoder q(z | x) and a decoder p(x | z) the latter only enters a bound,
:math:`\log p(x) \ge E_q[\log p(z) - \log q(z \mid x) + \log p(x \mid z)]`, and the decoders of such models have no
calibrated noise that would give the last term a value. What is offered here is honest about that:

- :func:`encode_latents` returns latents as the encoder makes them, the posterior's mean or a draw;
- :func:`latent_scaling` is the affine map :math:`y = (z - m) / s` from those to what the network sees, so that
  :math:`\log p(z) = \log p(y) - \sum \log s`: with the usual scaling factor, d log(factor) is added.
"""

__all__ = ["encode_latents", "latent_scaling"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.diffusers.network import setting
from girsanov.transforms import Standardise
from girsanov.types import InputError, State


def latent_scaling(vae: Any, event_shape: Sequence[int]) -> Standardise:
    """The map from an autoencoder's latents to the network's scale, with its log-determinant.

    Args:
        vae: an ``AutoencoderKL`` or the like: ``scaling_factor``, and where they are given ``shift_factor`` or
            ``latents_mean`` and ``latents_std``, are read from its settings.
        event_shape: of one latent, ``(c, h, w)``.

    Raises:
        InputError: if the settings do not say how latents are scaled.

    Example:
        >>> from types import SimpleNamespace
        >>> vae = SimpleNamespace(config={"scaling_factor": 0.5, "shift_factor": 1.0})
        >>> y, log_det = latent_scaling(vae, (1, 1, 2))(torch.full((1, 1, 1, 2), 3.0))
        >>> y.flatten().tolist(), log_det.round(decimals=4)
        ([1.0, 1.0], tensor([-1.3863], dtype=torch.float64))
    """
    factor = setting(vae, "scaling_factor")
    mean, deviation = setting(vae, "latents_mean"), setting(vae, "latents_std")
    if factor is None and deviation is None:
        raise InputError(f"{type(vae).__name__} has no scaling_factor: build a Standardise with the model's own scale")
    shape = tuple(event_shape)
    scale = torch.full(shape, 1.0 / (factor or 1.0), dtype=torch.float64)
    shift = torch.full(shape, float(setting(vae, "shift_factor") or 0.0), dtype=torch.float64)
    if deviation is not None:
        scale = scale * _per_channel(deviation, shape)
    if mean is not None:
        shift = shift + _per_channel(mean, shape)
    return Standardise(shape, shift, scale)


@torch.no_grad()
def encode_latents(vae: Any, images: State, *, generator: torch.Generator | None = None) -> State:
    """Latents of images as the encoder makes them, unscaled.

    Args:
        vae: an autoencoder of diffusers.
        images: in its scale, usually [-1, 1], ``n c h w``.
        generator: draws from the posterior; ``None`` takes its mean.

    Returns:
        Latents ``n c h w``; those of a draw are noisier, so their density is another one.
    """
    encoded = vae.encode(images)
    posterior = getattr(encoded, "latent_dist", None)
    if posterior is None:  # an autoencoder without a posterior
        return encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return posterior.mode() if generator is None else posterior.sample(generator)


def _per_channel(values: Sequence[float], shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
