"""Likelihoods you can trust, for diffusion models.

Every public name is imported from its module when it is first used, so that ``import girsanov`` and
``girsanov --help`` stay light: neither loads PyTorch. ``_MODULES`` says which module that is; type
checkers and editors read the same from the imports below it.

Example:
    >>> import girsanov as gv
    >>> gv.InputError.__module__
    'girsanov.types'
"""

__all__ = [
    "Adaptive",
    "BrownianMotion",
    "Config",
    "Cosine",
    "Density",
    "DensityEstimator",
    "DensityModel",
    "Estimate",
    "Exact",
    "FixedGrid",
    "Gaussian",
    "GaussianMixture",
    "HarmonicVP",
    "Hutchinson",
    "InputError",
    "LinearProcess",
    "OrnsteinUhlenbeck",
    "Process",
    "ScoreModel",
    "StandardNormal",
    "StraightPath",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "compare",
    "density",
    "elbo",
    "fit",
    "ode_log_prob",
    "sample",
]

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = {
    "Adaptive": "girsanov.solvers",
    "BrownianMotion": "girsanov.processes",
    "Config": "girsanov.density_model",
    "Cosine": "girsanov.processes",
    "Density": "girsanov.densities",
    "DensityEstimator": "girsanov.estimators",
    "DensityModel": "girsanov.density_model",
    "Estimate": "girsanov.types",
    "Exact": "girsanov.calculus",
    "FixedGrid": "girsanov.solvers",
    "Gaussian": "girsanov.densities",
    "GaussianMixture": "girsanov.densities",
    "HarmonicVP": "girsanov.processes",
    "Hutchinson": "girsanov.calculus",
    "InputError": "girsanov.types",
    "LinearProcess": "girsanov.processes",
    "OrnsteinUhlenbeck": "girsanov.processes",
    "Process": "girsanov.processes",
    "ScoreModel": "girsanov.models",
    "StandardNormal": "girsanov.densities",
    "StraightPath": "girsanov.processes",
    "SubVariancePreserving": "girsanov.processes",
    "VarianceExploding": "girsanov.processes",
    "VariancePreserving": "girsanov.processes",
    "compare": "girsanov.density_model",
    "density": "girsanov.likelihoods",
    "elbo": "girsanov.likelihoods",
    "fit": "girsanov.density_model",
    "ode_log_prob": "girsanov.likelihoods",
    "sample": "girsanov.samplers",
}

if TYPE_CHECKING:
    from girsanov.calculus import Exact, Hutchinson
    from girsanov.densities import Density, Gaussian, GaussianMixture, StandardNormal
    from girsanov.density_model import Config, DensityModel, compare, fit
    from girsanov.estimators import DensityEstimator
    from girsanov.likelihoods import density, elbo, ode_log_prob
    from girsanov.models import ScoreModel
    from girsanov.processes import (
        BrownianMotion,
        Cosine,
        HarmonicVP,
        LinearProcess,
        OrnsteinUhlenbeck,
        Process,
        StraightPath,
        SubVariancePreserving,
        VarianceExploding,
        VariancePreserving,
    )
    from girsanov.samplers import sample
    from girsanov.solvers import Adaptive, FixedGrid
    from girsanov.types import Estimate, InputError
else:  # hidden from type checkers, which would otherwise take any misspelt name for a valid one

    def __getattr__(name: str) -> object:
        """Import a public name from its module when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value  # the next use does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
