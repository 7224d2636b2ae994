"""Public callables with one valid call each, and odd values for their arguments by name.

A new callable is one line of :data:`DOORS`, a new oddity one line of :data:`SERVED` or :data:`REFUSED`; the laws of
``tests/test_doors.py`` then run over both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any

import numpy as np
import pandas as pd
import torch

import girsanov as gv
from girsanov import stein
from girsanov.likelihoods import Replicates, categorical_elbo, fit_proposal, loss_bound, tune
from girsanov.likelihoods.denoising import MonteCarlo
from girsanov.likelihoods.discrete import LatticePoints
from girsanov.objectives import ScoreMatchingObjective
from girsanov.stein import WildBootstrap
from tests.seeds import seeded

PROCESS = gv.VariancePreserving()
LAW = gv.Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.3], [0.3, 0.8]]).double())
MIXTURE = gv.GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.full((2, 2), 0.5))
ORACLE = LAW.score(PROCESS)
X = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
MANY = torch.randint(-4, 5, (24, 2), generator=seeded(1)).double()
LOT = torch.randint(-4, 5, (64, 2), generator=seeded(4)).double()


def SCORE(t, x):  # noqa: N802  (a constant of this module)
    """An exact score that says nothing else of itself."""
    return ORACLE(t, x)


def conditional(t, x, condition):
    """A score that takes labels 0, 1, ..."""
    return SCORE(t, x) + 0.1 * condition.reshape(-1, 1).to(x)


def static(x):
    """The score of LAW at no noise."""
    return -x


@cache
def pair() -> gv.ScorePair:
    return gv.ScorePair(SCORE, PROCESS, event_shape=(2,))


@cache
def model() -> gv.DensityModel:
    config = gv.Config(steps=1, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False, gaussianise=False)
    return gv.fit(torch.randn(60, 2, generator=seeded(2)), config=config)


@cache
def novelty() -> gv.applications.Novelty:
    return gv.applications.Novelty(samples=8).fit(model(), torch.randn(16, 2, generator=seeded(3)))


@cache
def classifier() -> gv.DiffusionClassifier:
    return gv.DiffusionClassifier(gv.ScorePair(conditional, PROCESS), classes=["a", "b"], samples=8)


@cache
def bridge() -> Any:
    return gv.gaussian_bridge(
        torch.zeros(2), torch.eye(2), torch.ones(2), 0.5 * torch.eye(2), reference=gv.BrownianMotion()
    )


@dataclass(frozen=True)
class Door:
    """A callable, and arguments by name with which it works."""

    call: Callable[..., Any]
    given: dict[str, Any]


def log_prob(pair: gv.ScorePair, x: Any, condition: Any = None) -> Any:
    """PyTorch's face of a pair."""
    return gv.distribution(pair, condition, solver=gv.solvers.FixedGrid(steps=4)).log_prob(x)


def of_pair(call: Callable[..., Any]) -> Callable[..., Any]:
    """What takes a pair, with the arguments of the pair among its own."""

    @wraps(getattr(call, "func", call))
    def door(*, score: Any, process: Any, event_shape: Any = None, **given: Any) -> Any:
        return call(gv.ScorePair(score, process, event_shape=event_shape), **given)

    return door


def denoiser(x, sigma):
    """That of LAW, exact."""
    return x + sigma.square()[:, None] * LAW.diffused_score(torch.ones_like(sigma), sigma, x)


def elbo_of(adapt: Callable[..., Any]) -> Callable[..., Any]:
    """The bound of a network's pair, whose rows are those that its self-test sees."""

    def door(x: Any, **given: Any) -> gv.Estimate:
        return gv.elbo(adapt(check=x, **given), MANY, samples=8)

    return door


LINEAR = {"score": SCORE, "process": PROCESS}
ROWS = {**LINEAR, "x": X}
LABELLED = {"score": conditional, "process": PROCESS, "x": X}
LABEL = torch.tensor([0, 1, 0])
STEIN = {"x": MANY, "score": static}

DOORS: dict[str, Callable[[], Door]] = {
    "elbo": lambda: Door(of_pair(gv.elbo), {**ROWS, "samples": 8}),
    "elbo-labels": lambda: Door(of_pair(gv.elbo), {**LABELLED, "samples": 8, "condition": LABEL}),
    "density": lambda: Door(of_pair(gv.density), {**ROWS, "samples": 8}),
    "ode_log_prob": lambda: Door(of_pair(gv.ode_log_prob), {**ROWS, "solver": gv.solvers.FixedGrid(steps=4)}),
    "distribution": lambda: Door(of_pair(log_prob), {**ROWS, "event_shape": (2,)}),
    "distribution-labels": lambda: Door(of_pair(log_prob), {**LABELLED, "event_shape": (2,), "condition": LABEL}),
    "categorical_elbo": lambda: Door(
        of_pair(categorical_elbo),
        {**ROWS, "samples": 8, "lattice": LatticePoints(torch.full((2,), -4.0), torch.ones(2), 9)},
    ),
    "chain_elbo": lambda: Door(gv.chain_elbo, {"pair": pair(), "x": X, "steps": 4, "paths": 2}),
    "importance_bound": lambda: Door(
        gv.importance_bound, {"pair": pair(), "x": X, "steps": 4, "paths": 2, "groups": 2}
    ),
    "path_log_weight": lambda: Door(gv.path_log_weight, {"pair": pair(), "x": X, "steps": 4, "paths": 2}),
    "feynman_kac": lambda: Door(gv.likelihoods.feynman_kac, {"pair": pair(), "x": X, "steps": 4, "paths": 8}),
    "chain_bracket": lambda: Door(gv.chain_bracket, {"pair": pair(), "n": 4, "steps": 4, "paths": 2}),
    "chain.sample": lambda: Door(gv.AncestralChain(gv.ScorePair(ORACLE, PROCESS), 4).sample, {"n": 4}),
    "ScorePair": lambda: Door(lambda process: gv.ScorePair(SCORE, process), {"process": PROCESS}),
    "AncestralChain": lambda: Door(
        lambda process, steps: gv.AncestralChain(gv.ScorePair(SCORE, process), steps), {"process": PROCESS, "steps": 4}
    ),
    "EulerChain": lambda: Door(gv.EulerChain, {"pair": pair(), "steps": 4}),
    "squared_errors": lambda: Door(
        of_pair(gv.likelihoods.squared_errors), {**ROWS, "levels": torch.tensor([-1.0, 1.0]), "noise": MonteCarlo(2)}
    ),
    "ddpm_bound": lambda: Door(of_pair(gv.likelihoods.ddpm_bound), {**ROWS, "noise": MonteCarlo(2)}),
    "difference": lambda: Door(of_pair(gv.difference), {**LABELLED, "c1": 0, "c2": 1, "samples": 8}),
    "pointwise_information": lambda: Door(
        of_pair(gv.pointwise_information),
        {**LABELLED, "score": lambda t, x, c=None: SCORE(t, x), "condition": LABEL, "samples": 8},
    ),
    "difference_curve": lambda: Door(
        of_pair(gv.likelihoods.difference_curve), {**LABELLED, "c1": 0, "c2": 1, "levels": torch.zeros(1)}
    ),
    "tune": lambda: Door(of_pair(tune), {**LINEAR, "rows": MANY}),
    "fit_proposal": lambda: Door(of_pair(fit_proposal), ROWS),
    "sample": lambda: Door(of_pair(gv.sample), {**LINEAR, "n": 3, "event_shape": (2,), "steps": 4}),
    "sample-labels": lambda: Door(
        of_pair(gv.sample),
        {"score": conditional, "process": PROCESS, "n": 3, "event_shape": (2,), "steps": 4, "condition": LABEL},
    ),
    "sample_with_log_prob": lambda: Door(
        of_pair(gv.sample_with_log_prob), {**LINEAR, "n": 3, "event_shape": (2,), "steps": 4}
    ),
    "loss_bound": lambda: Door(of_pair(partial(loss_bound, ScoreMatchingObjective())), {**ROWS, "samples": 8}),
    "Gaussian.log_prob": lambda: Door(LAW.log_prob, {"x": X}),
    "Gaussian.sample": lambda: Door(LAW.sample, {"n": 3}),
    "Gaussian.fit": lambda: Door(gv.Gaussian.fit, {"x": MANY}),
    "GaussianMixture.log_prob": lambda: Door(MIXTURE.log_prob, {"x": X}),
    "GaussianMixture.sample": lambda: Door(MIXTURE.sample, {"n": 3}),
    "score_matching": lambda: Door(gv.stein.score_matching, STEIN),
    "kernel_stein_discrepancy": lambda: Door(gv.stein.kernel_stein_discrepancy, STEIN),
    "sliced": lambda: Door(gv.stein.kernel_stein_discrepancy, {**STEIN, "slices": 2}),
    "goodness_of_fit": lambda: Door(gv.goodness_of_fit, {**STEIN, "method": WildBootstrap(19)}),
    "compare_scores": lambda: Door(stein.compare_scores, {"x": MANY, "first": static, "second": lambda x: -2.0 * x}),
    "stein_thinning": lambda: Door(stein.stein_thinning, {**STEIN, "count": 3}),
    "stein_weights": lambda: Door(stein.stein_weights, STEIN),
    "median_bandwidth": lambda: Door(stein.median_bandwidth, {"x": MANY}),
    "score_test": lambda: Door(
        of_pair(gv.score_test), {**LINEAR, "x": MANY, "levels": [0.0], "method": WildBootstrap(19)}
    ),
    "model.elbo": lambda: Door(model().elbo, {"x": X, "samples": 8}),
    "model.density": lambda: Door(model().density, {"x": X, "samples": 8}),
    "model.log_prob": lambda: Door(model().log_prob, {"x": X, "solver": gv.solvers.FixedGrid(steps=2)}),
    "model.sample": lambda: Door(model().sample, {"n": 3, "steps": 4}),
    "model.score_test": lambda: Door(model().score_test, {"x": MANY, "levels": [0.0], "method": WildBootstrap(19)}),
    "compare": lambda: Door(lambda x, **more: gv.compare(model(), model(), x, **more), {"x": X, "samples": 8}),
    "certify": lambda: Door(lambda x: gv.certify(model(), x, noise=MonteCarlo(2)).discrete.value, {"x": X}),
    "denoising_curve": lambda: Door(
        lambda x: gv.evaluation.denoising_curve(model(), x, levels=torch.zeros(1)).model, {"x": X}
    ),
    "Novelty.score": lambda: Door(novelty().score, {"x": X}),
    "classifier": lambda: Door(classifier().predict_proba, {"x": X}),
    "density_regulariser": lambda: Door(
        lambda x, **more: gv.applications.density_regulariser(model(), x, **more), {"x": X}
    ),
    "bridge.sample_path": lambda: Door(bridge().sample_path, {"times": torch.tensor([0.0, 0.5]), "n": 3}),
    "from_denoiser": lambda: Door(
        elbo_of(partial(gv.from_denoiser, denoiser)), {"sigma_range": (0.01, 50.0), "x": LOT}
    ),
    "from_score": lambda: Door(
        elbo_of(partial(gv.from_score, lambda x, t: SCORE(t, x))), {"process": PROCESS, "x": LOT}
    ),
    "from_noise_prediction": lambda: Door(
        elbo_of(partial(gv.from_noise_prediction, denoiser, order="x, t", alphas_cumprod=[0.999, 0.1, 0.0001])),
        {"x": LOT},
    ),
    "from_velocity": lambda: Door(
        lambda score, x: gv.elbo(gv.from_velocity(score, order="t, x", check=x), MANY, samples=8),
        {"score": SCORE, "x": LOT},
    ),
    "Replicates": lambda: Door(Replicates, {"count": 4}),
    "FixedGrid": lambda: Door(gv.solvers.FixedGrid, {"steps": 4}),
    "Hutchinson": lambda: Door(gv.calculus.Hutchinson, {"probes": 4}),
    "Sliced": lambda: Door(gv.stein.Sliced, {"probes": 4}),
    "Annealing": lambda: Door(gv.applications.Annealing, {"particles": 16}),
    "Config": lambda: Door(gv.Config, {"steps": 4, "batch_size": 8}),
    "MLPConfig": lambda: Door(gv.networks.MLPConfig, {"width": 8}),
}

COUNTS = ("n", "samples", "steps", "paths", "groups", "replicates", "slices", "count", "probes", "particles", "width")
ALIKE = {"numpy": lambda x: x.numpy(), "lists": lambda x: x.tolist(), "frame": lambda x: pd.DataFrame(x.numpy())}
WHOLE = {"int64": lambda x: x.long(), "int32 array": lambda x: x.numpy().astype(np.int32)}

#: argument -> oddity -> the value in its place, which gives the same result
SERVED: dict[str, dict[str, Callable[[Any], Any]]] = {
    "x": {**ALIKE, **WHOLE, "view": lambda x: np.flip(np.flip(x.numpy(), 1), 1)},
    "score": {"numpy": lambda score: lambda *given: np.asarray(score(*given).detach())},
    "condition": {"numpy": lambda c: c.numpy(), "list": lambda c: c.tolist()},
    "levels": {"list": lambda levels: torch.as_tensor(levels).tolist()},
    **{name: {"numpy": np.int64} for name in COUNTS},
}


def _spoiled(x: Any, value: float) -> Any:
    rows = torch.as_tensor(x).double().clone()
    rows[1, 0] = value
    return rows


def _silent(score: Any, values: Callable[[Any], Any]) -> Any:
    return lambda *given: values(given[-1] if len(given) == 1 else given[1])


NO_COUNTS: dict[str, Callable[[Any], Any]] = {
    "0": lambda _: 0,
    "negative": lambda _: -3,
    "fraction": lambda _: 16.5,
    "float": lambda _: 8.0,
    "bool": lambda _: True,
    "text": lambda _: "8",
    "nan": lambda _: float("nan"),
    "tensor": lambda _: torch.tensor([3, 4]),
}

#: argument -> oddity -> what is refused in its place
REFUSED: dict[str, dict[str, Callable[[Any], Any]]] = {
    "x": {
        "no rows": lambda x: x[:0],
        "one axis": lambda x: x[:, 0],
        "a number": lambda x: 3.0,
        "nan": lambda x: _spoiled(x, np.nan),
        "inf": lambda x: _spoiled(x, np.inf),
        "1e200": lambda x: _spoiled(x, 1e200),
        "complex": lambda x: x + 1j,
        "text": lambda x: [["a", "b"]] * len(x),
        "none": lambda x: None,
        "ragged": lambda x: [[1.0, 2.0], [3.0]],
        "sparse": lambda x: x.to_sparse(),
    },
    "score": {
        "wrong shape": lambda score: _silent(score, lambda x: -x[:, :1]),
        "one axis": lambda score: _silent(score, lambda x: -x[:, 0]),
        "nan": lambda score: _silent(score, lambda x: x * np.nan),
        "inf": lambda score: _silent(score, lambda x: x / 0.0),
        "nothing": lambda score: _silent(score, lambda x: None),
        "text": lambda score: _silent(score, lambda x: "score"),
        "complex": lambda score: _silent(score, lambda x: x + 1j),
        "no arguments": lambda score: lambda: 0.0,
        "widths": lambda score: _silent(score, lambda x: x @ torch.ones(7, 7).to(x)),
    },
    "process": {"none": lambda process: None, "score": lambda process: ORACLE, "rows": lambda process: X},
    "generator": {"a seed": lambda _: 5, "numpy": lambda _: np.random.default_rng(0), "text": lambda _: "0"},
    "condition": {
        "too few": lambda c: c[:2],
        "nan": lambda c: torch.full(c.shape, np.nan),
        "text": lambda c: ["a"] * len(c),
        "mapping": lambda c: {"class": 1},
    },
    "event_shape": {"0": lambda _: (0,), "fraction": lambda _: (2.5,), "other": lambda _: (3,)},
    **{name: NO_COUNTS for name in COUNTS},
}
