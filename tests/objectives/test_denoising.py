"""The denoising objective: an unbiased negative gain, whatever the proposal has learned."""

import torch

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods import density
from girsanov.networks import MixtureHead
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import VariancePreserving
from girsanov.transforms import Compose
from tests.seeds import seeded


def exact_model():
    mixture = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.2, 0.5], [0.4, 0.1]])
    )
    head = MixtureHead(mixture.moment_match(), "v", mixture)
    with torch.no_grad():
        head.share.fill_(1.0)
    network = torch.nn.Module()
    network.forward = lambda level, features, condition: features[:, :1] * 0.0
    return ScoreModel(network, VariancePreserving(), reference=head.reference, head=head), mixture


def test_its_mean_is_minus_the_gain_of_the_bound_per_dimension():
    model, mixture = exact_model()
    x = mixture.sample(4096, generator=seeded(0))
    objective = DenoisingObjective(model, Compose())
    with torch.no_grad():
        draws = [objective(model, Batch(x), seeded(i), i).mean() for i in range(40)]
    losses = torch.stack(draws)
    gain = density(ScorePair(model.eval(), model.process), x, samples=64).value - model.reference.log_prob(x)
    expected, spread = -gain.mean() / 2.0, losses.std() / 40**0.5
    # one comparison at 4 standard errors: one false alarm in 16,000 seeds
    assert float((losses.mean() - expected).abs()) < 4.0 * float(spread) + 0.01
    assert float(expected) < -0.1


def test_a_model_equal_to_its_reference_has_loss_zero():
    network = torch.nn.Module()
    network.forward = lambda level, features, condition: torch.zeros_like(features)
    model = ScoreModel(network, VariancePreserving(), reference=Gaussian(torch.zeros(3), 2.0))
    loss = DenoisingObjective(model)(model, Batch(torch.randn(64, 3)), seeded(0), 0)
    assert not loss.any()


def test_the_proposal_follows_the_gain_and_is_part_of_the_state():
    model, mixture = exact_model()
    objective = DenoisingObjective(model, Compose())
    before = objective.second_moment.clone()
    x = mixture.sample(2048, generator=seeded(0))
    for step in range(60):
        objective(model, Batch(x), seeded(step), step)
    level = torch.linspace(objective.low, objective.high, 49, dtype=torch.float64)
    middle = 0.5 * (level[1:] + level[:-1])
    peak = float(middle[objective.second_moment.argmax()])
    assert -4.0 < peak < 6.0
    assert not torch.equal(before, objective.state_dict()["second_moment"])


def test_the_same_step_gives_the_same_bits():
    model, mixture = exact_model()
    x = mixture.sample(64, generator=seeded(0))
    first, second = (DenoisingObjective(model, Compose())(model, Batch(x), seeded(5), 3) for _ in range(2))
    assert torch.equal(first, second)
