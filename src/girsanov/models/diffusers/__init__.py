"""Pretrained models of diffusers as scores, and scores as networks for diffusers' pipelines."""

__all__ = [
    "DiffusersNetwork",
    "encode_latents",
    "event_shape_of",
    "from_diffusers",
    "is_diffusers_folder",
    "latent_scaling",
    "score_pipeline",
]

from girsanov.models.diffusers.adapter import event_shape_of, from_diffusers
from girsanov.models.diffusers.exporting import score_pipeline
from girsanov.models.diffusers.latents import encode_latents, latent_scaling
from girsanov.models.diffusers.loading import is_diffusers_folder
from girsanov.models.diffusers.network import DiffusersNetwork
