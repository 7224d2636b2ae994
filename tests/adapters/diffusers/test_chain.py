"""Samplers of diffusers as chains: the pipelines' own draws, bounds of their own densities, and what is refused."""

import copy
import math
import threading

import pytest
import torch

pytest.importorskip("diffusers")

import girsanov as gv
from girsanov.adapters.diffusers import from_diffusers
from girsanov.adapters.diffusers.loading import quiet
from girsanov.pairs import Guidance
from tests.adapters.diffusers.exact import STEPS, ExactNetwork, GaussianNetwork, diffusers, scheduled
from tests.seeds import seeded

ROUNDING = 2e-5  # of a few steps in single precision, relative to the largest number
each_sampler = pytest.mark.parametrize("name", STEPS)


def unet(**settings):
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return diffusers.UNet2DModel(**{"in_channels": 1, "out_channels": 1, **sizes, **blocks, **settings}).eval()


def silent(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def loop(network, scheduler, steps, n, generator, predict=None, **options):
    """The loop that pipelines have around a network and a scheduler."""
    with quiet():
        scheduler.set_timesteps(steps)
    x = torch.randn(n, 1, 8, 8, generator=generator) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    predict = predict or (lambda shown, t: network(shown, t).sample)
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(predict(shown, t), t, x, generator=generator, **options).prev_sample
    return x


def close(found, expected):
    found = found.detach()
    assert float((found - expected).abs().max()) < ROUNDING * float(expected.abs().max().clamp_min(1.0))


@pytest.mark.parametrize(
    ("kind", "scheduler", "eta"),
    [("DDPMPipeline", "DDPMScheduler", None), ("DDIMPipeline", "DDIMScheduler", 1.0)],
)
def test_a_pipeline_with_the_same_seed_draws_the_same_images(kind, scheduler, eta):
    pipeline = silent(getattr(diffusers, kind)(unet=unet(), scheduler=getattr(diffusers, scheduler)()))
    chain = gv.chain_from_diffusers(pipeline, steps=6, eta=eta, floor=1e-3)
    path = chain.sample_path(3, generator=seeded(2))
    options = {} if eta is None else {"eta": eta}
    drawn = pipeline(3, generator=seeded(2), num_inference_steps=6, output_type="pt", **options)
    close((chain.last_mean(path) / 2 + 0.5).clamp(0, 1), drawn.images)
    assert path.x.dtype == torch.float32
    torch.testing.assert_close(path.x - chain.last_mean(path), 1e-3 * path.noise[:, -1], atol=1e-6, rtol=0.0)


@each_sampler
def test_the_loop_of_a_scheduler_draws_the_same_images(name):
    with quiet():
        scheduler, settings, options = STEPS[name]()
    network = unet(out_channels=2 if settings.get("variances") else 1)
    chain = gv.chain_from_diffusers(network, scheduler, 5, floor=1e-3, **options)
    assert vars(scheduler).get("num_inference_steps") is None  # it is left as it was
    path = chain.sample_path(3, generator=seeded(2))
    expected = loop(network, copy.deepcopy(scheduler), 5, 3, seeded(2), **options)
    close(chain.last_mean(path) if not chain.schedule.deviations[-1] else path.x, expected)
    backwards = chain.step_log_prob(path, only=[4, 0, 2])
    assert torch.equal(backwards, path.step_log_prob[:, [4, 0, 2]])


def test_guided_classes_are_those_of_a_loop_with_both_calls():
    network, scheduler = (
        unet(num_class_embeds=4, out_channels=2),
        diffusers.DDPMScheduler(variance_type="learned_range"),
    )
    labels, null = torch.tensor([0, 1, 2]), torch.tensor([3])
    chain = gv.chain_from_diffusers(network, scheduler, 4, floor=1e-3, guidance=Guidance(2.0, null))

    def predict(shown, t):
        free, own = (network(shown, t, class_labels=given).sample for given in (null.expand(3), labels))
        guided = free[:, :1] + 2.0 * (own[:, :1] - free[:, :1])
        return torch.cat([guided, own[:, 1:]], 1)  # the variances of the condition, as DiT's pipeline has them

    path = chain.sample_path(3, generator=seeded(2), condition=labels)
    close(chain.last_mean(path), loop(network, copy.deepcopy(scheduler), 4, 3, seeded(2), predict))
    assert torch.equal(chain.step_log_prob(path), path.step_log_prob)
    with pytest.raises(gv.InputError, match="Guidance needs condition="):
        chain.sample_path(1)
    without = gv.chain_from_diffusers(network, scheduler, 4, floor=1e-3, null_class=3)
    free = [without.step(0, path.states[:, 0], given) for given in (None, torch.full((3,), -1), null.expand(3))]
    assert torch.equal(free[0].shift, free[1].shift)
    assert torch.equal(free[0].shift, free[2].shift)


def marginal(chain):
    """Mean and variance of the last states of a chain whose steps are affine in each entry, in closed form."""
    start = chain.schedule.start
    mean, variance = torch.zeros(1, 2), torch.full((1, 2), start**2)
    for j in range(chain.steps):
        at = [chain.step(j, torch.full((1, 2), value)) for value in (0.0, 1.0)]
        drift, slope = at[0].shift, 1.0 + at[1].shift - at[0].shift
        mean, variance = drift + slope * mean, slope.square() * variance + at[0].scale.value[0].square()
    return gv.Gaussian(mean[0], variance[0])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["DDPM", "DDIM", "Euler ancestral", "flow matching", "LCM", "SDE-DPM-Solver++"])
@torch.no_grad()
def test_bounds_are_those_of_the_sampler_itself(name):
    """Against its own density in closed form; 4.5 standard errors, of the bracket by Markov 1e-4 a row."""
    chain, _ = scheduled(name, steps=3)
    exact = marginal(chain)
    bracket = gv.chain_bracket(chain, 300, paths=8, generator=seeded(3))
    gap = exact.log_prob(bracket.x) - bracket.lower.value, bracket.upper.value - exact.log_prob(bracket.x)
    for side in gap:
        assert float(side.mean()) > -4.5 * float(side.std()) / math.sqrt(len(side))
        assert float(side.min()) > -math.log(1e6)
    x = bracket.x[:40]
    bound = gv.chain_elbo(chain, x, paths=64, generator=seeded(4))
    assert bound.kind == "lower_bound"
    assert bool((bound.value - exact.log_prob(x) < 4.5 * bound.stderr).all())


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_many_steps_of_an_exact_network_have_the_density_of_the_data():
    network = GaussianNetwork()
    x = network.law.sample(200, generator=seeded(5))
    gaps = []
    for steps in (10, 40, 160):
        scheduler = diffusers.DDPMScheduler(clip_sample=False, variance_type="fixed_large")
        chain = gv.chain_from_diffusers(network, scheduler, steps, floor=0.01, event_shape=(2,))
        gap = network.law.log_prob(x) - gv.chain_elbo(chain, x, paths=16, generator=seeded(6)).value
        assert float(gap.mean()) > -4.5 * float(gap.std()) / math.sqrt(len(x))
        gaps.append(float(gap.mean()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05


@pytest.mark.usefixtures("float64")
@each_sampler
def test_gradients_of_step_log_probabilities_are_derivatives(name):
    chain, _ = scheduled(name)
    path, move = chain.sample_path(5, generator=seeded(2)), chain.network.network.move
    (found,) = torch.autograd.grad(chain.step_log_prob(path).sum(), move)
    (saved,) = torch.autograd.grad(chain.step_log_prob(path, checkpoint=True).sum(), move)
    torch.testing.assert_close(saved, found)
    step, sums = 1e-2, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            move += sign * torch.tensor([step, 0.0])
            sums.append(chain.step_log_prob(path).sum())
            move -= sign * torch.tensor([step, 0.0])
    # the log-density is quadratic in the shift of means; some schedulers compute in single precision
    assert abs(float((sums[0] - sums[1]) / (2 * step) - found[0])) < 1e-3 * (1.0 + float(found.abs().max()))


def test_random_numbers_of_others_are_left_alone():
    """Neither the global generator nor another thread notices what a step replaces."""
    chain, _ = scheduled("DDPM", steps=20)
    seen, stop = [], threading.Event()

    def draw():
        while not stop.is_set():
            seen.append(float(torch.randn(4).abs().sum()))

    other = threading.Thread(target=draw)
    other.start()
    chain.sample_path(4)
    stop.set()
    other.join()
    assert seen
    assert 0.0 not in seen
    assert 4.0 not in seen
    state = torch.get_rng_state()
    chain.sample_path(4)
    assert torch.equal(state, torch.get_rng_state())


def test_networks_in_half_precision_have_states_in_single():
    chain = gv.chain_from_diffusers(unet().to(torch.bfloat16), diffusers.DDPMScheduler(), 3, floor=0.01)
    path = chain.sample_path(2)
    assert path.states.dtype == torch.float32
    assert torch.equal(chain.step_log_prob(path), path.step_log_prob)


def test_timesteps_that_were_set_are_taken():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, stochastic_sampling=True)
    with pytest.raises(gv.InputError, match=r"does not take 4 steps .*mu.*set_timesteps and leave steps= out"):
        gv.chain_from_diffusers(unet(), scheduler, 4, floor=0.01)
    with pytest.raises(gv.InputError, match=r"timesteps of this .* are not set.*pass steps="):
        gv.chain_from_diffusers(unet(), diffusers.DDPMScheduler(), floor=0.01)
    scheduler.set_timesteps(4, mu=0.8)
    chain = gv.chain_from_diffusers(unet(), scheduler, floor=0.01)
    assert chain.length == 4
    assert torch.equal(torch.stack(chain.schedule.timesteps), scheduler.timesteps)


def test_a_pair_is_a_network_and_its_scheduler():
    network = ExactNetwork()
    with quiet():
        pair = from_diffusers(network, diffusers.DDPMScheduler())
    paths = [
        gv.chain_from_diffusers(s, t, 3, floor=0.1).sample_path(2, generator=seeded(1))
        for s, t in ((pair, None), (network, diffusers.DDPMScheduler()))
    ]
    assert torch.equal(paths[0].x, paths[1].x)
    with pytest.raises(gv.InputError, match="Of pairs, those that from_diffusers returned"):
        gv.chain_from_diffusers(gv.ScorePair(lambda t, x: -x, gv.VariancePreserving()))


def made(name, **settings):
    with quiet():
        return getattr(diffusers, name)(**settings)


@pytest.mark.parametrize(
    ("scheduler", "options", "sentence"),
    [
        (("PNDMScheduler",), {}, "PNDMScheduler as it is set remembers earlier steps"),
        (("EulerDiscreteScheduler",), {}, "or draws no noise in them"),
        (("DPMSolverMultistepScheduler",), {}, "take DDPM, DDIM with eta=1"),
        (("KDPM2AncestralDiscreteScheduler",), {}, "remembers earlier steps"),
        (("HeunDiscreteScheduler",), {}, "remembers earlier steps"),
        (("DDPMScheduler",), {}, "draws no noise in step 4 of 0 to 4, which so has no density: give floor="),
        (("DDIMScheduler",), {}, "draws no noise in any step, .*: give eta=1, or give floor="),
        (("FlowMatchEulerDiscreteScheduler",), {}, "set its stochastic_sampling=True, or give floor="),
        (("DDPMScheduler",), {"eta": 1.0}, "DDPMScheduler has no eta"),
        (("DDIMScheduler",), {"eta": 2.0}, "eta must be between 0"),
        (("DDPMScheduler",), {"floor": -1.0}, "floor must be a standard deviation above 0"),
        (("DDPMScheduler",), {"steps": 0}, "steps must be a whole number"),
        (("DDPMScheduler",), {"steps": 2000}, "does not take 2000 steps"),
    ],
)
def test_what_has_no_density_is_refused(scheduler, options, sentence):
    with pytest.raises(gv.InputError, match=sentence):
        gv.chain_from_diffusers(unet(), made(*scheduler), **{"steps": 5, **options})


def test_networks_that_do_not_fit_are_refused():
    ddpm, learned = diffusers.DDPMScheduler(), diffusers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(gv.InputError, match="wants learned variances"):
        gv.chain_from_diffusers(unet(), learned, 3, floor=0.1).sample_path(1)
    with pytest.raises(gv.InputError, match="returns shape"):
        gv.chain_from_diffusers(unet(out_channels=3), ddpm, 3, floor=0.1).sample_path(1)
    with pytest.raises(gv.InputError, match="pass event_shape="):
        gv.chain_from_diffusers(GaussianNetwork(), ddpm, 3, floor=0.1).sample_path(1)
    guided = unet()
    guided.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(gv.InputError, match="takes its guidance scale as an input: pass call="):
        gv.chain_from_diffusers(guided, ddpm, 3, floor=0.1)


def test_deterministic_samplers_get_the_floor_as_their_noise():
    chain = gv.chain_from_diffusers(unet(), diffusers.DDIMScheduler(), 3, floor=0.05)
    path = chain.sample_path(2)
    shifts = torch.stack([chain.step(j, path.states[:, j]).shift for j in range(3)], 1)
    torch.testing.assert_close(path.changes, shifts + 0.05 * path.noise)
