"""Continuous conditions through the same interface as labels: learned, standardised, hidden, saved, sampled."""

import dataclasses
import math

import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array
from girsanov.density_model import Config
from girsanov.networks import ConditionMap, Signature
from girsanov.networks.conditioning import Embedding
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.transforms import Compose
from girsanov.types import InputError
from tests.seeds import seeded

TINY = Config(
    network=gv.networks.MLPConfig(width=64, blocks=2), steps=600, members=1, gaussianise=False, conditional=True
)


def regression(n: int = 1500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """x | c = N((c_1, -c_2), 0.3^2 I) for conditions in units of thousands."""
    generator = seeded(seed)
    c = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = c * torch.tensor([1.0, -1.0]) + 0.3 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, 1000.0 * c + 5000.0


@pytest.fixture(scope="module")
def fitted():
    x, c = regression()
    return gv.fit(x, labels=c, config=TINY)


def log_density(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    mean = (c - 5000.0) / 1000.0 * torch.tensor([1.0, -1.0])
    return torch.distributions.Normal(mean, 0.3).log_prob(x).sum(1)


def test_conditions_are_learned_and_their_absence_too(fitted):
    """Knowing c is worth log sqrt(1 + 1/0.09) = 1.25 nats per dimension; nearly all of it is found in 600 steps."""
    x, c = regression(400, seed=1)
    given, marginal = fitted.elbo(x, condition=c, samples=64), fitted.elbo(x, samples=64)
    truth = float(log_density(x, c).mean())
    error = 4 * float((given.value - log_density(x, c)).std()) / 20.0
    assert given.mean().value < truth + error
    assert given.mean().value > truth - 0.4
    assert given.mean().value > marginal.mean().value + 2.0
    ode = fitted.log_prob(x[:20], condition=c[:20])
    assert float(ode.value.mean()) > float(marginal.value[:20].mean()) + 1.5


def test_one_condition_serves_all_rows(fitted):
    x, c = regression(5, seed=2)
    one = fitted.elbo(x, condition=c[:1]).value
    torch.testing.assert_close(one, fitted.elbo(x, condition=c[:1].expand(5, 2)).value, rtol=1e-5, atol=1e-5)


def test_it_samples_given_a_condition_and_is_saved(fitted, tmp_path):
    c = torch.tensor([[6500.0, 4000.0]], dtype=torch.float64)
    drawn = fitted.sample(200, steps=32, condition=c, generator=seeded(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.5, 1.0], dtype=torch.float64), rtol=0, atol=0.25)
    fitted.save_pretrained(tmp_path / "model")
    again = gv.DensityModel.from_pretrained(tmp_path / "model")
    x, c = regression(4, seed=3)
    assert torch.equal(again.elbo(x, condition=c).value, fitted.elbo(x, condition=c).value)


@pytest.mark.parametrize("kind", ["numbers", "array"])
def test_a_single_number_per_row_is_a_condition_unless_all_are_whole(kind):
    x, c = regression(60)
    labels = c[:, 0] / 7.0 if kind == "numbers" else (c[:, :1] / 7.0).numpy()
    model = gv.fit(x, labels=labels, config=dataclasses.replace(TINY, steps=2))
    assert model.record["network"]["config"]["condition_dim"] == 1
    whole = gv.fit(x, labels=(c[:, 0] > 5000.0).double(), config=dataclasses.replace(TINY, steps=2))
    assert whole.record["network"]["config"]["classes"] == 2


def test_bad_conditions_are_refused():
    x, c = regression(60)
    config = dataclasses.replace(TINY, steps=2)
    with pytest.raises(InputError, match="labels must be 60 rows of finite numbers"):
        gv.fit(x, labels=c[:50], config=config)
    with pytest.raises(InputError, match="rows of finite numbers"):
        gv.fit(x, labels=torch.where(c > c.mean(), math.nan, c), config=config)
    with pytest.raises(InputError, match="has no labels"):
        gv.fit(from_array(x), config=config)
    plain = gv.fit(x, config=dataclasses.replace(config, conditional=False))
    with pytest.raises(InputError, match="fitted without labels"):
        plain.elbo(x[:2], condition=c[:2])


def test_a_hidden_condition_is_no_condition():
    embedding = Embedding(8, Signature(condition_dim=2))
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.normal_()
    level, c = torch.zeros(2), torch.tensor([[1.0, 2.0], [math.nan, math.nan]])
    both, none = embedding(level, c), embedding(level, None)
    torch.testing.assert_close(both[1], none[1])
    assert not torch.allclose(both[0], none[0])


def test_conditions_are_standardised():
    encode = ConditionMap(2, 4)
    c = torch.tensor([[1e6, 3.0], [3e6, 3.0], [2e6, 3.0]])
    encode.standardise(c)
    torch.testing.assert_close(encode(torch.zeros(3), c)[2], encode.linear(torch.zeros(2)))


def test_training_hides_conditions_at_the_given_rate(fitted):
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, level, features, condition):
            seen.append(condition)
            return torch.zeros_like(features)

    model = gv.ScoreModel(Recorder(), gv.VariancePreserving(), reference=fitted.reference)
    objective = DenoisingObjective(model, Compose(), drop_condition=0.3)
    x, c = regression(2000)
    objective(model, Batch(x, c), seeded(0), 0)
    share = float(seen[0].isnan().all(1).double().mean())
    assert abs(share - 0.3) < 4.5 * (0.21 / 2000) ** 0.5  # false alarm 7e-6
    assert torch.equal(seen[0][~seen[0].isnan().any(1)], c[~seen[0].isnan().any(1)])


def test_the_unet_takes_continuous_conditions():
    pytest.importorskip("diffusers")
    from girsanov.networks.unet import UNet

    network = UNet((1, 8, 8), Signature(condition_dim=2), width=8, multipliers=(1, 2))
    with torch.no_grad():
        network.net.conv_out.weight.normal_()
    level, features = torch.zeros(3), torch.randn(3, 1, 1, 8, 8)
    c = torch.tensor([[0.0, 1.0], [2.0, -1.0], [math.nan, math.nan]])
    out = network(level, features, c)
    torch.testing.assert_close(out[2], network(level, features, None)[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out[0], network(level, features, None)[0])
