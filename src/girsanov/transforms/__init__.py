"""Maps of data space with their log-determinants: dequantise, standardise, logit, flows."""

__all__ = [
    "TRANSFORMS",
    "Compose",
    "Dequantise",
    "Gaussianise",
    "Logit",
    "OnLattice",
    "SplineFlow",
    "Standardise",
    "Transform",
    "TruncatedNormalDequantise",
    "VariationalDequantise",
]

from girsanov.transforms.base import Compose, Transform
from girsanov.transforms.discrete import OnLattice, TruncatedNormalDequantise, VariationalDequantise
from girsanov.transforms.elementwise import Dequantise, Logit, Standardise
from girsanov.transforms.flow import SplineFlow
from girsanov.transforms.gaussianise import Gaussianise

#: by the name under which a saved model records them
TRANSFORMS: dict[str, type[Transform]] = {
    "dequantise": Dequantise,
    "truncated-normal": TruncatedNormalDequantise,
    "variational": VariationalDequantise,
    "categorical": OnLattice,
    "standardise": Standardise,
    "gaussianise": Gaussianise,
    "flow": SplineFlow,
    "logit": Logit,
}
