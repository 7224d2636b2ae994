"""Other libraries' networks and pipelines as scores, each with a test of what was understood."""

__all__ = ["from_denoiser", "from_diffusers", "from_noise_prediction", "from_score", "from_velocity"]

from girsanov.adapters.denoiser import from_denoiser
from girsanov.adapters.diffusers import from_diffusers
from girsanov.adapters.noise_prediction import from_noise_prediction
from girsanov.adapters.score import from_score
from girsanov.adapters.velocity import from_velocity
