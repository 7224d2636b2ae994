"""Every loss that draws noise: processes that share a batch have, row by row, the loss of one process."""

import pytest
import torch

from girsanov.calculus import Hutchinson
from girsanov.densities import GaussianMixture, StandardNormal
from girsanov.networks import ResidualMLP
from girsanov.objectives import (
    Batch,
    ChainObjective,
    DenoisingObjective,
    ImplicitScoreMatching,
    PairObjective,
    PathObjective,
    ScheduledObjective,
    ScoreMatchingObjective,
    gaussian_decoder,
    independent,
)
from girsanov.pairs import EulerChain, Pair, ScoreModel, ScorePair
from girsanov.processes import LearnedSchedule, OrnsteinUhlenbeck, ProcessPath, VariancePreserving
from girsanov.transforms import Compose, Dequantise
from tests.seeds import seeded
from tests.test_workers import share, woven

pytestmark = pytest.mark.usefixtures("float64")

D, COUNT, RANGE = 2, 7, (-5.0, 4.0)


def mixture():
    return GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.2, 0.5], [0.4, 0.1]])
    )


def score_model(process):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResidualMLP((D,), width=8, blocks=1)
        torch.nn.init.normal_(network.leave.weight, std=0.3)
    return ScoreModel(network, process, reference=mixture().moment_match()).eval()


def denoising():
    """Dequantised, with a condition that is hidden now and then."""
    model = score_model(VariancePreserving(log_snr_range=RANGE))
    return DenoisingObjective(model, Compose([Dequantise((D,), torch.ones(D))]), drop_condition=0.5), model


def scheduled():
    model = score_model(LearnedSchedule(RANGE, units=4))
    return ScheduledObjective(model, Compose()), model


def pair():
    return Pair(OrnsteinUhlenbeck(1.0), lambda t, x: -x, StandardNormal())


def score_pair():
    return ScorePair(mixture().score(VariancePreserving(log_snr_range=RANGE)))


#: name -> the loss and what it is of
LOSSES = {
    "denoising": denoising,
    "scheduled": scheduled,
    "score matching": lambda: (ScoreMatchingObjective(), score_pair()),
    "independent times": lambda: (ScoreMatchingObjective(draws=independent), score_pair()),
    "probes": lambda: (ScoreMatchingObjective(ImplicitScoreMatching(Hutchinson(2))), score_pair()),
    "chain": lambda: (ChainObjective(), EulerChain(pair(), 4)),
    "path": lambda: (
        PathObjective(
            ProcessPath(VariancePreserving(log_snr_range=RANGE)), lambda t: torch.ones_like(t), gaussian_decoder(0.3)
        ),
        lambda t, x: -0.5 * x,
    ),
    "pair": lambda: (PairObjective(), pair()),
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_shares_have_the_losses_of_the_whole_batch(make):
    loss, model = make()
    x = mixture().sample(COUNT, generator=seeded(1)).round()
    whole = loss(model, Batch(x), torch.Generator().manual_seed(0), 0)
    parts = [loss(model, Batch(x[first::3]), share(first, 3, COUNT), 0) for first in range(3)]
    assert whole.shape == (COUNT,)
    assert float(whole.detach().std()) > 0.0
    torch.testing.assert_close(woven(parts), whole, rtol=1e-10, atol=1e-10)
