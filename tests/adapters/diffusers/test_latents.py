"""Latents: the affine map to the network's scale, its log-determinant, and mean against draw."""

import math
from types import SimpleNamespace

import pytest
import torch

from girsanov.likelihoods import RandomisedRows

pytest.importorskip("diffusers")

from girsanov.adapters.diffusers import encode_latents, from_diffusers, latent_scaling
from girsanov.likelihoods import elbo
from girsanov.likelihoods.estimator import View
from girsanov.types import InputError
from tests.adapters.diffusers.exact import SHAPE, ExactNetwork, diffusers, law, rows
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=2,
        latent_channels=2,
        scaling_factor=0.3,
        shift_factor=0.1,
    )


def test_the_scale_and_its_log_determinant(vae):
    transform = latent_scaling(vae, (2, 4, 4))
    latents = torch.randn(3, 2, 4, 4)
    y, log_det = transform(latents)
    torch.testing.assert_close(y, (latents - 0.1) * 0.3)
    torch.testing.assert_close(log_det, torch.full((3,), 32 * math.log(0.3)))
    torch.testing.assert_close(transform.inverse(y), latents)


def test_a_mean_and_a_deviation_per_channel():
    settings = {"scaling_factor": 0.5, "latents_mean": [1.0, -1.0], "latents_std": [2.0, 4.0]}
    y, log_det = latent_scaling(SimpleNamespace(config=settings), (2, 1, 1))(torch.tensor([[[[3.0]], [[3.0]]]]))
    assert y.flatten().tolist() == [0.5, 0.5]
    assert float(log_det) == pytest.approx(-math.log(32.0))
    with pytest.raises(InputError, match="has no scaling_factor"):
        latent_scaling(SimpleNamespace(config={}), (2, 1, 1))


def test_a_latent_is_the_posteriors_mean_or_a_draw(vae):
    images = torch.randn(2, 3, 8, 8)
    posterior = vae.encode(images).latent_dist
    torch.testing.assert_close(encode_latents(vae, images), posterior.mean)
    drawn = encode_latents(vae, images, generator=seeded(1))
    torch.testing.assert_close(drawn, encode_latents(vae, images, generator=seeded(1)))
    assert not torch.equal(drawn, posterior.mean)
    assert not drawn.requires_grad


def test_the_density_of_unscaled_latents_has_the_jacobian():
    """A network of scaled latents of the known law gives the density of the latents as the encoder makes them."""
    vae = SimpleNamespace(config={"scaling_factor": 0.18215})
    transform = latent_scaling(vae, SHAPE)
    x = rows(24)
    latents = transform.inverse(x)

    def views(raw, replicates, seed, round_):
        y, log_det = transform(raw)
        return View(y[:, None].expand(-1, replicates, *SHAPE), log_det[:, None].expand(-1, replicates))

    pair = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), reference=law().moment_match())
    value = elbo(pair, RandomisedRows(latents, views), samples=256).value
    scaled = elbo(pair, x, samples=256)
    truth = law().log_prob(x) + 18 * math.log(0.18215)
    assert abs(float((value - truth).mean())) < 4.0 * scaled.mean().stderr + 0.02 * 18
