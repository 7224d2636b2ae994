"""Pretrained models of diffusers as scores, and scores as networks for diffusers' pipelines."""

__all__ = [
    "DiffusersNetwork",
    "SchedulerChain",
    "chain_from_diffusers",
    "encode_latents",
    "event_shape_of",
    "from_diffusers",
    "is_diffusers_folder",
    "latent_scaling",
    "score_pipeline",
]

from girsanov.adapters.diffusers.adapter import event_shape_of, from_diffusers
from girsanov.adapters.diffusers.chain import SchedulerChain, chain_from_diffusers
from girsanov.adapters.diffusers.exporting import score_pipeline
from girsanov.adapters.diffusers.latents import encode_latents, latent_scaling
from girsanov.adapters.diffusers.loading import is_diffusers_folder
from girsanov.adapters.diffusers.network import DiffusersNetwork
