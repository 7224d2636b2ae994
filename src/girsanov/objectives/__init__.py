"""What training minimises."""

__all__ = ["Batch", "DenoisingObjective"]

from girsanov.objectives.denoising import Batch, DenoisingObjective
