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
    "AncestralChain",
    "Bracket",
    "BrownianMotion",
    "Chain",
    "Config",
    "Cosine",
    "Density",
    "DensityEstimator",
    "DensityModel",
    "Estimate",
    "EulerChain",
    "Exact",
    "FixedGrid",
    "Gaussian",
    "GaussianMixture",
    "HarmonicVP",
    "Hutchinson",
    "InputError",
    "LinearProcess",
    "OrnsteinUhlenbeck",
    "Pair",
    "Process",
    "ScoreModel",
    "ScorePair",
    "StandardNormal",
    "StraightPath",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "chain_bracket",
    "chain_elbo",
    "compare",
    "density",
    "elbo",
    "feynman_kac",
    "fit",
    "importance_bound",
    "ode_log_prob",
    "path_log_weight",
    "sample",
]

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = {
    "Adaptive": "girsanov.solvers",
    "AncestralChain": "girsanov.pairs",
    "Bracket": "girsanov.likelihoods",
    "BrownianMotion": "girsanov.processes",
    "Chain": "girsanov.pairs",
    "Config": "girsanov.density_model",
    "Cosine": "girsanov.processes",
    "Density": "girsanov.densities",
    "DensityEstimator": "girsanov.estimators",
    "DensityModel": "girsanov.density_model",
    "Estimate": "girsanov.types",
    "EulerChain": "girsanov.pairs",
    "Exact": "girsanov.calculus",
    "FixedGrid": "girsanov.solvers",
    "Gaussian": "girsanov.densities",
    "GaussianMixture": "girsanov.densities",
    "HarmonicVP": "girsanov.processes",
    "Hutchinson": "girsanov.calculus",
    "InputError": "girsanov.types",
    "LinearProcess": "girsanov.processes",
    "OrnsteinUhlenbeck": "girsanov.processes",
    "Pair": "girsanov.pairs",
    "Process": "girsanov.processes",
    "ScoreModel": "girsanov.models",
    "ScorePair": "girsanov.pairs",
    "StandardNormal": "girsanov.densities",
    "StraightPath": "girsanov.processes",
    "SubVariancePreserving": "girsanov.processes",
    "VarianceExploding": "girsanov.processes",
    "VariancePreserving": "girsanov.processes",
    "chain_bracket": "girsanov.likelihoods",
    "chain_elbo": "girsanov.likelihoods",
    "compare": "girsanov.density_model",
    "density": "girsanov.likelihoods",
    "elbo": "girsanov.likelihoods",
    "feynman_kac": "girsanov.likelihoods",
    "fit": "girsanov.density_model",
    "importance_bound": "girsanov.likelihoods",
    "ode_log_prob": "girsanov.likelihoods",
    "path_log_weight": "girsanov.likelihoods",
    "sample": "girsanov.samplers",
}

if TYPE_CHECKING:
    from girsanov.calculus import Exact, Hutchinson
    from girsanov.densities import Density, Gaussian, GaussianMixture, StandardNormal
    from girsanov.density_model import Config, DensityModel, compare, fit
    from girsanov.estimators import DensityEstimator
    from girsanov.likelihoods import (
        Bracket,
        chain_bracket,
        chain_elbo,
        density,
        elbo,
        feynman_kac,
        importance_bound,
        ode_log_prob,
        path_log_weight,
    )
    from girsanov.models import ScoreModel
    from girsanov.pairs import AncestralChain, Chain, EulerChain, Pair, ScorePair
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
