"""Maps of data space with their log-determinants: dequantise, standardise, logit, flows."""

__all__ = ["TRANSFORMS", "Compose", "Dequantise", "Logit", "Standardise", "Transform"]

from girsanov.transforms.base import Compose, Transform
from girsanov.transforms.elementwise import Dequantise, Logit, Standardise

#: by the name under which a saved model records them
TRANSFORMS: dict[str, type[Transform]] = {"dequantise": Dequantise, "standardise": Standardise, "logit": Logit}
