"""Other libraries' networks and pipelines as scores, each with a test of what was understood."""

__all__ = ["from_diffusers"]

from girsanov.adapters.diffusers import from_diffusers
