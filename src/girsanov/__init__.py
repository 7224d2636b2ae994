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
    "Annealing",
    "Bracket",
    "BrownianMotion",
    "Chain",
    "ChainObjective",
    "ConditionalPath",
    "Config",
    "Cosine",
    "DebiasedTime",
    "DenoisingScoreMatching",
    "Density",
    "DensityEstimator",
    "DensityModel",
    "DiffusionClassifier",
    "EncodedPath",
    "EnergyModel",
    "Estimate",
    "EulerChain",
    "Exact",
    "ExplicitScoreMatching",
    "FixedGrid",
    "FlowMatrix",
    "Gaussian",
    "GaussianMixture",
    "GaussianScreen",
    "HarmonicVP",
    "Hutchinson",
    "ImplicitScoreMatching",
    "InputError",
    "LearnedSchedule",
    "LinearProcess",
    "MixtureBridge",
    "Novelty",
    "OrnsteinUhlenbeck",
    "Pair",
    "PathObjective",
    "Process",
    "ProcessPath",
    "ScheduledPath",
    "SchrodingerBridge",
    "ScoreMatchingObjective",
    "ScoreModel",
    "ScorePair",
    "Sliced",
    "SlicedScoreMatching",
    "StandardNormal",
    "StraightPath",
    "SubVariancePreserving",
    "TiltedGaussian",
    "TokenModel",
    "Trajectories",
    "UniformTime",
    "VarianceExploding",
    "VariancePreserving",
    "certify",
    "chain_bracket",
    "chain_elbo",
    "compare",
    "ddpm_bound",
    "denoising_curve",
    "density",
    "density_from_diffusers",
    "density_regulariser",
    "difference",
    "difference_curve",
    "elbo",
    "feynman_kac",
    "fit",
    "fit_energy",
    "fit_flow",
    "fit_schedule",
    "fit_tokens",
    "fit_trajectories",
    "from_diffusers",
    "gaussian_bridge",
    "goodness_of_fit",
    "importance_bound",
    "kernel_stein_discrepancy",
    "ode_log_prob",
    "path_log_weight",
    "pointwise_information",
    "push_forward",
    "sample",
    "sample_with_log_prob",
    "score_matching",
    "score_test",
    "squared_errors",
    "to_diffusers",
    "weighted_elbo",
    "weighted_log_prob",
]

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

#: parts of the package that are there without being imported: ``gv.stein.goodness_of_fit``
_PARTS = (
    "applications",
    "bridges",
    "datasets",
    "densities",
    "likelihoods",
    "models",
    "objectives",
    "pairs",
    "peers",
    "processes",
    "solvers",
    "stein",
    "training",
    "transforms",
)

_MODULES = {
    "Adaptive": "girsanov.solvers",
    "AncestralChain": "girsanov.pairs",
    "Annealing": "girsanov.applications",
    "Bracket": "girsanov.likelihoods",
    "BrownianMotion": "girsanov.processes",
    "Chain": "girsanov.pairs",
    "ChainObjective": "girsanov.objectives",
    "ConditionalPath": "girsanov.processes",
    "Config": "girsanov.density_model",
    "Cosine": "girsanov.processes",
    "DebiasedTime": "girsanov.objectives",
    "DenoisingScoreMatching": "girsanov.objectives",
    "Density": "girsanov.densities",
    "DensityEstimator": "girsanov.estimators",
    "DensityModel": "girsanov.density_model",
    "DiffusionClassifier": "girsanov.applications",
    "EncodedPath": "girsanov.processes",
    "EnergyModel": "girsanov.applications",
    "Estimate": "girsanov.types",
    "EulerChain": "girsanov.pairs",
    "Exact": "girsanov.calculus",
    "ExplicitScoreMatching": "girsanov.objectives",
    "FixedGrid": "girsanov.solvers",
    "FlowMatrix": "girsanov.stein",
    "Gaussian": "girsanov.densities",
    "GaussianMixture": "girsanov.densities",
    "GaussianScreen": "girsanov.applications",
    "HarmonicVP": "girsanov.processes",
    "Hutchinson": "girsanov.calculus",
    "ImplicitScoreMatching": "girsanov.objectives",
    "InputError": "girsanov.types",
    "LearnedSchedule": "girsanov.processes",
    "LinearProcess": "girsanov.processes",
    "MixtureBridge": "girsanov.bridges",
    "Novelty": "girsanov.applications",
    "OrnsteinUhlenbeck": "girsanov.processes",
    "Pair": "girsanov.pairs",
    "PathObjective": "girsanov.objectives",
    "Process": "girsanov.processes",
    "ProcessPath": "girsanov.processes",
    "ScheduledPath": "girsanov.processes",
    "ScoreMatchingObjective": "girsanov.objectives",
    "ScoreModel": "girsanov.models",
    "ScorePair": "girsanov.pairs",
    "Sliced": "girsanov.stein",
    "SlicedScoreMatching": "girsanov.objectives",
    "StandardNormal": "girsanov.densities",
    "StraightPath": "girsanov.processes",
    "SubVariancePreserving": "girsanov.processes",
    "TiltedGaussian": "girsanov.applications",
    "TokenModel": "girsanov.applications",
    "UniformTime": "girsanov.objectives",
    "VarianceExploding": "girsanov.processes",
    "VariancePreserving": "girsanov.processes",
    "certify": "girsanov.density_model",
    "chain_bracket": "girsanov.likelihoods",
    "chain_elbo": "girsanov.likelihoods",
    "compare": "girsanov.density_model",
    "ddpm_bound": "girsanov.likelihoods",
    "denoising_curve": "girsanov.evaluation",
    "density": "girsanov.likelihoods",
    "density_from_diffusers": "girsanov.density_model.diffusers",
    "density_regulariser": "girsanov.applications",
    "difference": "girsanov.likelihoods",
    "difference_curve": "girsanov.likelihoods",
    "elbo": "girsanov.likelihoods",
    "feynman_kac": "girsanov.likelihoods",
    "fit": "girsanov.density_model",
    "fit_energy": "girsanov.applications",
    "fit_flow": "girsanov.stein",
    "fit_schedule": "girsanov.objectives",
    "fit_tokens": "girsanov.applications",
    "from_diffusers": "girsanov.models.diffusers",
    "SchrodingerBridge": "girsanov.bridges",
    "Trajectories": "girsanov.bridges",
    "fit_trajectories": "girsanov.bridges",
    "gaussian_bridge": "girsanov.bridges",
    "goodness_of_fit": "girsanov.stein",
    "importance_bound": "girsanov.likelihoods",
    "kernel_stein_discrepancy": "girsanov.stein",
    "ode_log_prob": "girsanov.likelihoods",
    "path_log_weight": "girsanov.likelihoods",
    "pointwise_information": "girsanov.likelihoods",
    "push_forward": "girsanov.stein",
    "sample": "girsanov.samplers",
    "sample_with_log_prob": "girsanov.samplers",
    "score_matching": "girsanov.stein",
    "score_test": "girsanov.likelihoods",
    "squared_errors": "girsanov.likelihoods",
    "to_diffusers": "girsanov.density_model.diffusers",
    "weighted_elbo": "girsanov.density_model",
    "weighted_log_prob": "girsanov.density_model",
}

if TYPE_CHECKING:
    from girsanov import (
        applications as applications,
    )
    from girsanov import (
        bridges as bridges,
    )
    from girsanov import (
        datasets as datasets,
    )
    from girsanov import (
        densities as densities,
    )
    from girsanov import (
        likelihoods as likelihoods,
    )
    from girsanov import (
        models as models,
    )
    from girsanov import (
        objectives as objectives,
    )
    from girsanov import (
        pairs as pairs,
    )
    from girsanov import (
        peers as peers,
    )
    from girsanov import (
        processes as processes,
    )
    from girsanov import (
        solvers as solvers,
    )
    from girsanov import (
        stein as stein,
    )
    from girsanov import (
        training as training,
    )
    from girsanov import (
        transforms as transforms,
    )
    from girsanov.applications import (
        Annealing,
        DiffusionClassifier,
        EnergyModel,
        GaussianScreen,
        Novelty,
        TiltedGaussian,
        TokenModel,
        density_regulariser,
        fit_energy,
        fit_tokens,
    )
    from girsanov.bridges import MixtureBridge, SchrodingerBridge, Trajectories, fit_trajectories, gaussian_bridge
    from girsanov.calculus import Exact, Hutchinson
    from girsanov.densities import Density, Gaussian, GaussianMixture, StandardNormal
    from girsanov.density_model import Config, DensityModel, certify, compare, fit, weighted_elbo, weighted_log_prob
    from girsanov.density_model.diffusers import density_from_diffusers, to_diffusers
    from girsanov.estimators import DensityEstimator
    from girsanov.evaluation import denoising_curve
    from girsanov.likelihoods import (
        Bracket,
        chain_bracket,
        chain_elbo,
        ddpm_bound,
        density,
        difference,
        difference_curve,
        elbo,
        feynman_kac,
        importance_bound,
        ode_log_prob,
        path_log_weight,
        pointwise_information,
        score_test,
        squared_errors,
    )
    from girsanov.models import ScoreModel
    from girsanov.models.diffusers import from_diffusers
    from girsanov.objectives import (
        ChainObjective,
        DebiasedTime,
        DenoisingScoreMatching,
        ExplicitScoreMatching,
        ImplicitScoreMatching,
        PathObjective,
        ScoreMatchingObjective,
        SlicedScoreMatching,
        UniformTime,
        fit_schedule,
    )
    from girsanov.pairs import AncestralChain, Chain, EulerChain, Pair, ScorePair
    from girsanov.processes import (
        BrownianMotion,
        ConditionalPath,
        Cosine,
        EncodedPath,
        HarmonicVP,
        LearnedSchedule,
        LinearProcess,
        OrnsteinUhlenbeck,
        Process,
        ProcessPath,
        ScheduledPath,
        StraightPath,
        SubVariancePreserving,
        VarianceExploding,
        VariancePreserving,
    )
    from girsanov.samplers import sample, sample_with_log_prob
    from girsanov.solvers import Adaptive, FixedGrid
    from girsanov.stein import (
        FlowMatrix,
        Sliced,
        fit_flow,
        goodness_of_fit,
        kernel_stein_discrepancy,
        push_forward,
        score_matching,
    )
    from girsanov.types import Estimate, InputError
else:  # hidden from type checkers, which would otherwise take any misspelt name for a valid one

    def __getattr__(name: str) -> object:
        """Import a public name from its module, or a part of the package, when it is first used."""
        if name in _PARTS:
            return import_module(f"girsanov.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value  # the next use does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
