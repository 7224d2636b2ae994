"""Stein kernels, tests, losses and learned matrices on a second device: the same numbers, see tests/elsewhere.py."""

import pytest
import torch

from girsanov.applications.annealing import Annealing, log_normaliser
from girsanov.calculus import Hutchinson
from girsanov.densities import Gaussian
from girsanov.objectives import Batch, PairObjective
from girsanov.pairs import Pair
from girsanov.processes import Process
from girsanov.stein import (
    FiniteSet,
    FlowMatrix,
    IncompleteU,
    MarkovBootstrap,
    NaturalGradient,
    ParametricBootstrap,
    SteinBall,
    WildBootstrap,
    compare_scores,
    fit_exponential_family,
    fit_flow,
    flow_score_matching,
    goodness_of_fit,
    kernel_stein_discrepancy,
    minimum_score_matching,
    minimum_stein_discrepancy,
    push_forward,
    score_matching,
    stein_thinning,
    stein_weights,
    transport,
)
from tests.elsewhere import DEVICE, Remote, accelerator
from tests.seeds import seeded

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]


def score(x):
    return -1.3 * x


def parametric(theta, x):
    return -theta.exp() * x


def wide(x):
    return torch.cat([torch.diag_embed(1.0 + x.square()), torch.cos(x)[..., None]], -1)


def statistics(x):
    return torch.cat([x, -0.5 * x.square()], 1)


def draw(n, generator):
    return torch.randn(n, 2, generator=generator)


class Geometric(Process):
    """A diffusion that depends on the state."""

    def drift(self, t, x):
        return 0.1 * x

    def diffusion(self, t, x):
        return 0.5 + 0.1 * x.square()


def outcome(method, **options):
    def call(x):
        result = goodness_of_fit(x, score, method=method, **options)
        return torch.tensor([result.statistic, result.pvalue, result.effect_size, result.stderr])

    return call


def pair_loss(x):
    pair = Pair(Geometric(), lambda t, x: torch.sin(x), Gaussian(torch.zeros(2).to(x.device), 1.0))
    return PairObjective(2)(pair, Batch(x), seeded(0))


def compared(x):
    result = compare_scores(x, score, torch.neg)
    return torch.tensor([result.statistic, result.stderr, result.pvalue])


def annealed(x):
    reference = Gaussian(torch.zeros(2).to(x.device), 1.0)
    found = log_normaliser(lambda x: x.square().sum(1), reference, annealing=Annealing(16, 3, 1))
    return torch.tensor([found.value, found.stderr])


#: name -> value of rows
CALLS = {
    "discrepancy": lambda x: kernel_stein_discrepancy(x, score, kernel=["imq", "matern"]),
    "wide": lambda x: kernel_stein_discrepancy(x, score, diffusion=wide),
    "robust": lambda x: kernel_stein_discrepancy(x, score, diffusion="robust"),
    "sliced": lambda x: kernel_stein_discrepancy(x, score, slices=2),
    "wild": outcome(WildBootstrap(19)),
    "gaussianise": outcome(WildBootstrap(19), diffusion="gaussianise"),
    "markov": outcome(MarkovBootstrap(19)),
    "ball": outcome(SteinBall(0.05, 0.1, WildBootstrap(19))),
    "parametric": outcome(ParametricBootstrap(draw, resamples=3)),
    "finite set": outcome(FiniteSet(optimise=True, steps=2, resamples=19)),
    "incomplete": outcome(IncompleteU(3, resamples=19)),
    "comparison": compared,
    "thinning": lambda x: stein_thinning(x, score, 5).double(),
    "weights": lambda x: stein_weights(x, score),
    "signed weights": lambda x: stein_weights(x, score, signed=True),
    "loss": lambda x: score_matching(x, score, diffusion=wide).rows,
    "probed loss": lambda x: score_matching(x, score, diffusion="robust", divergence=Hutchinson(2)).rows,
    "flow loss": lambda x: flow_score_matching(x, score, torch.asinh).rows,
    "pushed": lambda x: push_forward(x, score, FlowMatrix(torch.sinh).flow)[1],
    "transport": lambda x: transport(lambda t, x: torch.tanh(x), x[:4], score, steps=2).hessian,
    "family": lambda x: fit_exponential_family(statistics, x).parameters,
    "minimum": lambda x: minimum_score_matching(x, parametric, torch.zeros(2).to(x.device)).stderr,
    "minimum, pairs": lambda x: (
        minimum_stein_discrepancy(x, parametric, torch.zeros(2).to(x.device), optimiser=NaturalGradient()).stderr
    ),
    "pair": pair_loss,
    "annealing": annealed,
    "fitted flow": lambda x: fit_flow(x, steps=2).map(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_elsewhere_gives_what_it_gives_here(name, monkeypatch):
    monkeypatch.setattr("girsanov.stein.johnson.ITERATIONS", 5)  # the same numbers before the end of a fit too
    x = torch.randn(100, 2, generator=seeded(1))
    expected = CALLS[name](x)
    with accelerator():
        found = CALLS[name](x.to(DEVICE))
    found = found.inner if isinstance(found, Remote) else found
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-8, atol=1e-10)
