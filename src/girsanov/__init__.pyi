"""The names of the package: the one list, which ``__init__.py`` serves and type checkers and editors read."""

from girsanov import (
    applications as applications,
)
from girsanov import (
    bridges as bridges,
)
from girsanov import (
    calculus as calculus,
)
from girsanov import (
    datasets as datasets,
)
from girsanov import (
    densities as densities,
)
from girsanov import (
    density_model as density_model,
)
from girsanov import (
    evaluation as evaluation,
)
from girsanov import (
    likelihoods as likelihoods,
)
from girsanov import (
    linear as linear,
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
    DiffusionClassifier as DiffusionClassifier,
)
from girsanov.bridges import (
    SchrodingerBridge as SchrodingerBridge,
)
from girsanov.bridges import (
    fit_trajectories as fit_trajectories,
)
from girsanov.bridges import (
    gaussian_bridge as gaussian_bridge,
)
from girsanov.densities import (
    Gaussian as Gaussian,
)
from girsanov.densities import (
    GaussianMixture as GaussianMixture,
)
from girsanov.density_model import (
    Config as Config,
)
from girsanov.density_model import (
    DensityModel as DensityModel,
)
from girsanov.density_model import (
    certify as certify,
)
from girsanov.density_model import (
    compare as compare,
)
from girsanov.density_model import (
    fit as fit,
)
from girsanov.density_model.diffusers import (
    density_from_diffusers as density_from_diffusers,
)
from girsanov.density_model.diffusers import (
    to_diffusers as to_diffusers,
)
from girsanov.estimators import (
    DensityEstimator as DensityEstimator,
)
from girsanov.likelihoods import (
    chain_bracket as chain_bracket,
)
from girsanov.likelihoods import (
    chain_elbo as chain_elbo,
)
from girsanov.likelihoods import (
    density as density,
)
from girsanov.likelihoods import (
    difference as difference,
)
from girsanov.likelihoods import (
    elbo as elbo,
)
from girsanov.likelihoods import (
    importance_bound as importance_bound,
)
from girsanov.likelihoods import (
    ode_log_prob as ode_log_prob,
)
from girsanov.likelihoods import (
    path_log_weight as path_log_weight,
)
from girsanov.likelihoods import (
    pointwise_information as pointwise_information,
)
from girsanov.likelihoods import (
    score_test as score_test,
)
from girsanov.models import (
    ScoreModel as ScoreModel,
)
from girsanov.models.diffusers import (
    from_diffusers as from_diffusers,
)
from girsanov.pairs import (
    AncestralChain as AncestralChain,
)
from girsanov.pairs import (
    EulerChain as EulerChain,
)
from girsanov.pairs import (
    Pair as Pair,
)
from girsanov.pairs import (
    ScorePair as ScorePair,
)
from girsanov.processes import (
    BrownianMotion as BrownianMotion,
)
from girsanov.processes import (
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
)
from girsanov.processes import (
    StraightPath as StraightPath,
)
from girsanov.processes import (
    VarianceExploding as VarianceExploding,
)
from girsanov.processes import (
    VariancePreserving as VariancePreserving,
)
from girsanov.samplers import (
    sample as sample,
)
from girsanov.samplers import (
    sample_with_log_prob as sample_with_log_prob,
)
from girsanov.stein import (
    goodness_of_fit as goodness_of_fit,
)
from girsanov.types import (
    Estimate as Estimate,
)
from girsanov.types import (
    InputError as InputError,
)

__version__: str
