import pytest
import torch
from torch import nn

import girsanov as gv
from girsanov.likelihoods import chain_elbo
from girsanov.objectives import Batch, ChainObjective
from girsanov.pairs import EulerChain, Pair
from girsanov.processes import Process
from girsanov.training import ShuffledBatches, TrainingConfig, train
from tests.laws import gaussian_case
from tests.seeds import seeded


class Encoder(Process):
    """A reference drift and a learned part that starts at zero."""

    def __init__(self, d):
        super().__init__()
        self.net = nn.Linear(d, d)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def drift(self, t, x):
        return -0.5 * x + self.net(x.flatten(1)).reshape(x.shape)

    def diffusion(self, t, x):
        return torch.ones(len(x))


class Decoder(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.net = nn.Linear(d + 1, d)

    def forward(self, t, x):
        return self.net(torch.cat([x.flatten(1), t[:, None].to(x.dtype)], 1)).reshape(x.shape)


def test_the_loss_is_the_negative_bound_per_dimension():
    torch.manual_seed(0)
    chain = EulerChain(Pair(Encoder(4), Decoder(4), gv.Gaussian(torch.zeros(2, 2), 1.0)), 5)
    x = torch.ones(1, 2, 2)
    bound = chain_elbo(chain, x, paths=4000)
    loss = ChainObjective()(chain, Batch(x.expand(4000, 2, 2)), seeded(0), 0).detach()
    error = 4 * (float(loss.std()) / 4000**0.5 + float(bound.stderr) / 4)
    assert abs(float(loss.mean()) + float(bound.value) / 4) < error


@pytest.mark.slow
def test_learned_inference_closes_the_gap_of_a_linear_model(tmp_path):
    """Encoder, decoder and step variances learned through the paths reach the Gaussian's entropy within 0.05 nats."""
    case = gaussian_case((2,), seed=3)
    x = case.rows(4000).float()
    torch.manual_seed(0)
    chain = EulerChain(
        Pair(Encoder(2), Decoder(2), gv.Gaussian(torch.zeros(2), 1.0)), 6, learn_variances=True, per_dimension=True
    )
    shuffled = ShuffledBatches(len(x), 256, 0)
    config = TrainingConfig(steps=600, batch_size=256, learning_rate=2e-2, weight_decay=0.0, ema_decay=0.95)
    result = train(chain, ChainObjective(checkpoint=True), lambda step: Batch(x[shuffled(step)]), config=config)
    held = case.rows(2000, seed=9)
    truth = case.log_prob(held)
    bound = chain_elbo(result.module, held.float(), paths=16).value
    gap = float((truth - bound).mean())
    assert -0.02 < gap < 0.05
