"""Density models from pretrained networks, and pipelines from ours: declared bins, data range, both ways."""

import math
from types import SimpleNamespace

import pytest
import torch

from girsanov.pairs import ScorePair

pytest.importorskip("diffusers")

import girsanov as gv
from girsanov.adapters.diffusers import from_diffusers
from girsanov.datasets import load, split
from girsanov.density_model.diffusers import check_density, density_from_diffusers, to_diffusers
from girsanov.density_model.fit import prepare
from girsanov.likelihoods import elbo
from girsanov.pairs import ScoreModel
from girsanov.samplers import sample
from girsanov.types import InputError
from tests.adapters.diffusers.exact import SHAPE, ExactNetwork, diffusers, law, rows
from tests.seeds import seeded

D = math.prod(SHAPE)


@pytest.fixture(scope="module")
def pretrained():
    return density_from_diffusers(
        ExactNetwork(), diffusers.DDPMScheduler(), data_range=(-4.0, 4.0), levels=401, check=rows(64)
    )


def quantised(n, seed=0):
    """Images of the law in levels of -4 to 4 in steps of 0.02."""
    return ((rows(n, seed) + 4.0) / 0.02).round()


def test_a_mass_is_the_density_times_the_declared_bins(pretrained):
    images = quantised(32)
    estimate = pretrained.elbo(images, samples=256)
    assert (estimate.kind, estimate.measure) == ("lower_bound", "mass")
    truth = law().log_prob(images * 0.02 - 4.0) + D * math.log(0.02)  # bins are narrow beside the law
    gap = truth - estimate.value
    assert abs(float(gap.mean())) / D < 0.02 + 3.0 * estimate.mean().stderr / D
    expected = -estimate.value / (D * math.log(2.0))
    torch.testing.assert_close(estimate.bits_per_dim(), expected)


def test_the_density_formula_agrees(pretrained):
    images = quantised(32)
    value, bound = (f(images, samples=256).mean() for f in (pretrained.density, pretrained.elbo))
    assert abs(value.value - bound.value) / D < 0.02 + 3.0 * (value.stderr + bound.stderr) / D


def test_continuous_images_lie_in_the_range_already():
    model = density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), data_range=(-4.0, 4.0), levels=None)
    estimate = model.elbo(rows(32), samples=256)
    assert estimate.measure == "density"
    error = estimate.value - law().log_prob(rows(32))
    assert abs(float(error.mean())) / D < 0.02 + 3.0 * estimate.mean().stderr / D


def test_latents_have_the_density_of_the_scaled_ones_and_its_jacobian():
    """Rows z = y / 0.3 + 0.1 where y has the known law: log p(z) = log p(y) + d log 0.3."""
    vae = SimpleNamespace(config={"scaling_factor": 0.3, "shift_factor": 0.1})
    model = density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), vae=vae, check=rows(64))
    y = rows(32)
    estimate = model.density(y / 0.3 + 0.1, samples=1024)
    assert (estimate.measure, estimate.kind) == ("density", "lower_bound")
    error = estimate.value - (law().log_prob(y) + D * math.log(0.3))
    assert abs(float(error.mean())) < 3.0 * estimate.mean().stderr + 0.02 * D
    check_density(model, y / 0.3 + 0.1, rows=32)
    for options in ({}, {"vae": vae, "data_range": (-1.0, 1.0)}):
        with pytest.raises(InputError, match="or vae= for a model of latents"):
            density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), **options)


def test_values_beyond_the_declared_ones_are_refused(pretrained):
    with pytest.raises(InputError, match="beyond 0 to 400: declare the number of the images' levels"):
        pretrained.elbo(quantised(2) + 400.0)
    with pytest.raises(InputError, match=r"lattice|step"):
        pretrained.elbo(quantised(2) + 0.5)
    with pytest.raises(InputError, match="low < high"):
        density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), data_range=(1.0, -1.0))
    with pytest.raises(InputError, match="at least 2 levels"):
        density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), data_range=(-1.0, 1.0), levels=1)


def test_the_self_test_sees_a_wrong_range(pretrained):
    check_density(pretrained, quantised(64), rows=64)
    wrong = density_from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), data_range=(-8.0, 8.0), levels=401)
    with pytest.raises(InputError, match="Self-test failed"):
        check_density(wrong, quantised(64), rows=64)


def test_few_images_test_nothing(pretrained):
    check_density(pretrained, quantised(3))
    note = "The self-test did not run: it needs 8 rows or more, and got 3."
    assert pretrained.score.network.notes == (note,)
    check_density(pretrained, quantised(16))
    assert pretrained.score.network.notes == ()


def test_a_network_from_diffusers_goes_back_as_it_came(tmp_path):
    unet = diffusers.UNet2DModel(
        in_channels=1,
        out_channels=1,
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    # called as one that recognises noise, which an untrained network does not
    pair = from_diffusers(unet, diffusers.DDPMScheduler(), call=lambda net, x, t, c: x)
    pipeline = to_diffusers(pair, tmp_path)
    assert pipeline.unet is unet
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    for a, b in zip(unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def ours():
    """A model whose rows are images of the law itself: the exact score, whatever it is called through."""

    def network(log_snr, x_t, condition):
        return law().noise(log_snr, x_t)

    return ScoreModel(network, gv.VariancePreserving(log_snr_range=(-10.0, 10.0)), "noise")


@pytest.mark.slow
def test_a_pipeline_of_ours_samples_the_model(ours):
    """First and second moment of 400 images by diffusers' DDPM steps; false alarm below 1e-3 each."""
    pipeline = to_diffusers(ours, event_shape=SHAPE, steps=400)
    pipeline.set_progress_bar_config(disable=True)
    images = torch.randn(400, *SHAPE, generator=seeded(0))
    pipeline.scheduler.set_timesteps(400)
    generator = seeded(1)
    for t in pipeline.scheduler.timesteps:
        images = pipeline.scheduler.step(pipeline.unet(images, t).sample, t, images, generator=generator).prev_sample
    truth = law().moment_match()
    spread = truth.marginal_variance().sqrt()
    assert float(((images.double().mean(0) - truth.mean) / spread).abs().max()) < 4.5 / 400**0.5
    ratio = (images.double() - truth.mean).square().mean() / truth.marginal_variance().mean()
    assert float(ratio) == pytest.approx(1.0, abs=0.15)
    shown = pipeline(batch_size=2, num_inference_steps=4, output_type="np").images
    assert shown.shape == (2, *SHAPE[1:], SHAPE[0])


def test_an_exported_network_is_the_model_in_other_coordinates(ours):
    """What diffusers sees, read back by the adapter, has the model's own densities, image scale included."""
    from girsanov.adapters.diffusers import score_pipeline

    mean, scale = torch.full(SHAPE, 0.2, dtype=torch.float64), 0.5
    pipeline = score_pipeline(ours, SHAPE, mean=mean, scale=scale)
    back = from_diffusers(pipeline, check=0.2 + 0.5 * rows(64))
    x = rows(24)
    options = {"samples": 256}
    own = elbo(ScorePair(ours, ours.process, reference=law().moment_match()), x, **options)
    shifted = gv.Gaussian(mean + scale * law().moment_match().mean, scale**2 * law().moment_match().covariance)
    theirs = elbo(back.replace(reference=shifted), mean + scale * x, **options)
    gap = theirs.value + D * math.log(scale) - own.value
    assert abs(float(gap.mean())) / D < 0.01 + 3.0 * (own.mean().stderr + theirs.mean().stderr) / D


def test_a_fitted_model_is_shown_in_its_own_grey_levels():
    """The untrained model is a Gaussian in its coordinates, so what pipelines draw has its mean and spread."""
    data = load("digits")
    model = prepare(data, split(len(data.x), seed=0), gv.Config(network=gv.networks.MLPConfig(width=8)))
    pipeline = to_diffusers(model, data_range=(0.0, 16.0), steps=50)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler.set_timesteps(50)
    images = torch.randn(64, 1, 8, 8, generator=seeded(0))
    for t in pipeline.scheduler.timesteps:
        noise = pipeline.unet(images, t).sample.detach()
        images = pipeline.scheduler.step(noise, t, images).prev_sample
    levels = 8.0 * (images.double() + 1.0)
    assert float(levels.mean()) == pytest.approx(float(data.x.mean()), abs=0.4)
    assert float(levels.std()) == pytest.approx(float(data.x.std()), rel=0.15)


def test_what_cannot_be_exported_says_so(ours, tmp_path):
    with pytest.raises(InputError, match="save the model itself"):
        to_diffusers(ours, tmp_path, event_shape=SHAPE)
    with pytest.raises(InputError, match=r"pass event_shape=\(c, h, w\)"):
        to_diffusers(ours)
    with pytest.raises(InputError, match="Pipelines sample images"):
        to_diffusers(ours, event_shape=(4,))
    with pytest.raises(InputError, match="save the model itself"):
        to_diffusers(ours, event_shape=SHAPE).save_pretrained(tmp_path)
    table = gv.fit(torch.randn(60, 3), config=gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1)))
    with pytest.raises(InputError, match=r"no scaled images|Pipelines sample images"):
        to_diffusers(table)


def test_sampling_by_our_own_steps_is_there_too(ours):
    assert sample(ScorePair(ours, ours.process, event_shape=SHAPE), 2, steps=4).shape == (2, *SHAPE)
