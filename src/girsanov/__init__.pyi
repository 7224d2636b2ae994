"""The names of the package: the one list, which ``__init__.py`` serves and type checkers and editors read."""

from girsanov import (
    adapters as adapters,
    applications as applications,
    bridges as bridges,
    calculus as calculus,
    datasets as datasets,
    densities as densities,
    density_model as density_model,
    evaluation as evaluation,
    likelihoods as likelihoods,
    linear as linear,
    networks as networks,
    objectives as objectives,
    pairs as pairs,
    peers as peers,
    plots as plots,
    processes as processes,
    solvers as solvers,
    stein as stein,
    training as training,
    transforms as transforms,
)
from girsanov.adapters import (
    from_denoiser as from_denoiser,
    from_noise_prediction as from_noise_prediction,
    from_score as from_score,
    from_velocity as from_velocity,
)
from girsanov.adapters.diffusers import chain_from_diffusers as chain_from_diffusers, from_diffusers as from_diffusers
from girsanov.applications import DiffusionClassifier as DiffusionClassifier
from girsanov.bridges import (
    SchrodingerBridge as SchrodingerBridge,
    fit_trajectories as fit_trajectories,
    gaussian_bridge as gaussian_bridge,
)
from girsanov.densities import Gaussian as Gaussian, GaussianMixture as GaussianMixture
from girsanov.density_model import (
    Config as Config,
    DensityModel as DensityModel,
    certify as certify,
    compare as compare,
    fit as fit,
)
from girsanov.density_model.diffusers import (
    density_from_diffusers as density_from_diffusers,
    to_diffusers as to_diffusers,
)
from girsanov.distributions import distribution as distribution
from girsanov.estimators import DensityEstimator as DensityEstimator
from girsanov.likelihoods import (
    chain_bracket as chain_bracket,
    chain_elbo as chain_elbo,
    density as density,
    difference as difference,
    elbo as elbo,
    importance_bound as importance_bound,
    ode_log_prob as ode_log_prob,
    path_log_weight as path_log_weight,
    pointwise_information as pointwise_information,
    score_test as score_test,
    short_chain as short_chain,
    tune as tune,
)
from girsanov.pairs import (
    AncestralChain as AncestralChain,
    EulerChain as EulerChain,
    Pair as Pair,
    ScoreModel as ScoreModel,
    ScorePair as ScorePair,
)
from girsanov.processes import (
    BrownianMotion as BrownianMotion,
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
    StraightPath as StraightPath,
    VarianceExploding as VarianceExploding,
    VariancePreserving as VariancePreserving,
)
from girsanov.samplers import sample as sample, sample_with_log_prob as sample_with_log_prob
from girsanov.stein import goodness_of_fit as goodness_of_fit
from girsanov.types import Estimate as Estimate, InputError as InputError

__version__: str
