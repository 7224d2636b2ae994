"""Pretrained models as scores: the truth through every real scheduler, item by item of the note's checklist.

Statistics are at fixed seeds; each comparison with the truth has a false alarm of 0.5 % (Student's t, 31 degrees).
"""

import functools
import json
import sys

import pytest
import torch

pytest.importorskip("diffusers")

from girsanov.adapters.diffusers import DiffusersNetwork, from_diffusers, is_diffusers_folder, loading
from girsanov.adapters.diffusers.network import PretrainedHead
from girsanov.adapters.diffusers.readings import convention_of
from girsanov.densities import StandardNormal
from girsanov.likelihoods import Replicates, density, elbo, ode_log_prob
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.types import InputError
from tests.adapters.diffusers.exact import SCHEDULERS, SHAPE, ExactNetwork, diffusers, law, rows
from tests.seeds import seeded

D = law().means[0].numel()
each_scheduler = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(name)``: folder of a real pipeline with that scheduler, and the network that it cannot rebuild."""
    base = tmp_path_factory.mktemp("pipelines")

    def save(name):
        scheduler, settings = SCHEDULERS[name]()
        network = ExactNetwork(**settings)
        folder = base / name
        if not folder.exists():
            diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
        return folder, network

    return save


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real ``UNet2DModel``, untrained, saved alone and in a pipeline."""
    torch.manual_seed(0)
    base, network = tmp_path_factory.mktemp("real"), small_unet()
    network.save_pretrained(base / "unet")
    diffusers.DDPMPipeline(unet=network, scheduler=diffusers.DDPMScheduler()).save_pretrained(base / "pipeline")
    return base


def small_unet(**settings):
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return diffusers.UNet2DModel(**{"in_channels": 1, "out_channels": 1, **sizes, **blocks, **settings})


def conditional_unet(**settings):
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
    more = {"cross_attention_dim": 6, "attention_head_dim": 2, "in_channels": 1, "out_channels": 1}
    return diffusers.UNet2DConditionModel(**{**blocks, **sizes, **more, **settings})


def small_dit(**settings):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8, "patch_size": 4}
    return diffusers.DiTTransformer2DModel(**{"in_channels": 1, "out_channels": 2, **sizes, **settings})


def untested(network, scheduler=None, **options):
    """The adapter around an untrained network, which the self-test would refuse."""
    return DiffusersNetwork(network, convention_of(scheduler or diffusers.DDPMScheduler()), **options).eval()


# --- how a network is called


def forward(self, sample, timestep, class_labels=None, return_dict=True):
    return ExactNetwork.forward(self, sample, timestep, class_labels, return_dict)


def takes_options(self, sample, timestep, **cross_attention_kwargs):
    assert not cross_attention_kwargs
    return forward(self, sample, timestep)


def takes_more(self, sample, timestep, *extra, attention=None):
    assert extra == ()
    return forward(self, sample, timestep)


def by_name(self, *, sample, timestep, flag=False):
    return forward(self, sample, timestep)


def presets(self, mode, sample, timestep):
    assert mode == "eval"
    return forward(self, sample, timestep)


def exact(method):
    return type("Renamed", (ExactNetwork,), {"forward": method})()


def preset():
    network = exact(presets)
    network.forward = functools.partial(network.forward, "eval")
    return network


CALLABLE = {
    "**kwargs": lambda: exact(takes_options),
    "*args": lambda: exact(takes_more),
    "keyword-only": lambda: exact(by_name),
    "partial": preset,
    "compiled": lambda: torch.compile(exact(forward), backend="eager"),
    "parallel": lambda: torch.nn.DataParallel(exact(forward)),
}


@pytest.mark.parametrize("make", CALLABLE.values(), ids=CALLABLE)
def test_a_networks_open_arguments_wrappers_and_presets_are_no_conditions(make):
    network = DiffusersNetwork(make(), convention_of(diffusers.DDPMScheduler())).eval()
    known = untested(ExactNetwork())
    assert (network.slot, network.required, network.fractional) == (known.slot, known.required, known.fractional)
    levels, z = torch.tensor([-1.0, 2.0], dtype=torch.float64), rows(2).float()
    torch.testing.assert_close(network(levels, z), known(levels, z))


def closed(self, sample, timestep, /):
    return forward(self, sample, timestep)


def anything(self, *args, **kwargs):
    return forward(self, *args, **kwargs)


def other_names(self, x, t, **options):
    return forward(self, x, t)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (closed, "Renamed does not take sample and timestep by name: pass call="),
        (anything, "Renamed does not take sample and timestep by name: pass call="),
        (other_names, "Renamed also needs x, t: pass call="),
    ],
)
def test_a_network_whose_call_cannot_be_read_off_asks_for_it(method, sentence):
    with pytest.raises(InputError, match=sentence):
        untested(exact(method))
    called = untested(exact(method), call=lambda network, x, timestep, condition: network(x, timestep))
    levels, z = torch.tensor([-1.0, 2.0], dtype=torch.float64), rows(2).float()
    torch.testing.assert_close(called(levels, z), untested(ExactNetwork())(levels, z))


def test_a_function_is_no_network(saved):
    folder, network = saved("DDPM-epsilon")
    with pytest.raises(InputError, match=r"must be a torch.nn.Module; got partial"):
        from_diffusers(folder, unet=functools.partial(network, return_dict=True))


# --- the truth


@pytest.mark.parametrize("name", SCHEDULERS)
def test_densities_of_a_saved_pipeline_are_the_truth(saved, name):
    folder, network = saved(name)
    x = rows(24, seed=2)
    reference, truth = law().moment_match(), law().log_prob(x)
    pair = from_diffusers(folder, unet=network, check=rows(64, seed=1), reference=reference)
    assert isinstance(pair, ScorePair)
    options = {"samples": 768, "method": Replicates(32)}
    estimate = density(pair, x, **options)
    error, mean = estimate.value - truth, estimate.mean()
    assert abs(float(error.mean())) < 3.0 * mean.stderr
    assert float(estimate.stderr.max()) / D <= 0.02
    bound = elbo(pair, x, **options)
    gap = truth - bound.value
    # the exact score leaves a gap at both ends of the range alone
    assert -3.0 * bound.mean().stderr < float(gap.mean()) < 0.02 * D


def test_every_convention_gives_the_same_number():
    x, reference = rows(8), law().moment_match()
    values = {}
    for name, make in SCHEDULERS.items():
        scheduler, settings = make()
        network = ExactNetwork(**settings)
        pair = from_diffusers(network, scheduler, log_snr_range=(-5.0, 7.0), reference=reference)
        values[name] = torch.stack([f(pair, x, samples=64).value for f in (density, elbo)])
    first = values.pop("DDPM-epsilon")
    for name, value in values.items():
        assert float((value - first).abs().max()) < 1e-5, name


def test_a_reference_may_be_given_now_or_later():
    x, reference = rows(6), law().moment_match()
    alone = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler())
    within = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), reference=reference)
    beside = density(alone.replace(reference=reference), x, samples=32)
    torch.testing.assert_close(density(within, x, samples=32).value, beside.value)
    head = ScoreModel(alone.score.network, alone.process, "noise", reference=reference, head=PretrainedHead(reference))
    torch.testing.assert_close(density(ScorePair(head), x, samples=32).value, beside.value)


def test_the_prior_is_that_of_rows_or_of_a_law_where_the_data_are_not_forgotten():
    network, scheduler = (part() for part in SCALED)
    with pytest.raises(InputError, match=r"not forgotten at log-SNR -5\.\d+, where this .*: pass rows"):
        from_diffusers(network, scheduler)
    fitted, reference = from_diffusers(network, scheduler, check=rows(64)), law().moment_match()
    assert fitted.reference is not None
    assert fitted.event_shape == SHAPE
    told = from_diffusers(network, scheduler, reference=reference)
    torch.testing.assert_close(told.prior.mean, told.noised(reference).mean)
    given = from_diffusers(network, scheduler, prior=reference)
    assert given.prior is reference
    assert isinstance(from_diffusers(ExactNetwork(), diffusers.DDPMScheduler()).prior, StandardNormal)


SCALED = (
    lambda: ExactNetwork(table="scaled_linear"),
    lambda: diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
)


@pytest.mark.slow
def test_the_odes_density_is_the_truth_too():
    pair = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), reference=law().moment_match())
    x = rows(4)
    estimate = ode_log_prob(pair, x)
    torch.testing.assert_close(estimate.value, law().log_prob(x), rtol=0.0, atol=0.05)


# --- the self-test


@pytest.mark.parametrize("told", ["DDPM-epsilon", "DDPM-sample", "DDIM-v-zero-snr", "FlowMatchEuler", "EDMEuler"])
@pytest.mark.parametrize("true", ["DDPM-epsilon", "DDPM-sample", "DDIM-v-zero-snr", "FlowMatchEuler", "EDMEuler-v"])
def test_another_convention_is_refused(told, true):
    if told == true:
        return
    with pytest.raises(InputError, match="Self-test failed: on these rows the network leaves") as caught:
        from_diffusers(ExactNetwork(**SCHEDULERS[true]()[1]), SCHEDULERS[told]()[0], check=rows(64))
    assert str(caught.value).endswith(FITS[true])


#: what a network is, in the words by which it is passed: with the scheduler of its family, or the one that was given
FITS = {
    "DDPM-epsilon": ('prediction="epsilon"', 'scheduler=DDPMScheduler(beta_schedule="linear")'),
    "DDPM-sample": ('prediction="sample"', 'DDPMScheduler(beta_schedule="linear", prediction_type="sample")'),
    "DDIM-v-zero-snr": (
        'prediction="v_prediction"',
        'DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction")',
    ),
    "FlowMatchEuler": ("scheduler=FlowMatchEulerDiscreteScheduler()",),
    "EDMEuler-v": ('scheduler=EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")',),
}


def test_another_schedule_is_refused():
    """From few rows on: a threshold on the errors needed two thousand."""
    for table, other in (("linear", "scaled_linear"), ("scaled_linear", "linear")):
        betas = {"linear": {}, "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}[other]
        scheduler = diffusers.DDPMScheduler(beta_schedule=other, **betas)
        with pytest.raises(InputError, match=rf'pass scheduler=DDPMScheduler\(beta_schedule="{table}"'):
            from_diffusers(ExactNetwork(table=table), scheduler, check=rows(64))


@pytest.mark.parametrize("scale", [(2.0, 0.0), (0.5, 0.0), (0.5, 0.5), (127.5, 127.5)])
@pytest.mark.parametrize("name", ["DDPM-epsilon", "DDIM-v-zero-snr", "FlowMatchEuler", "EDMEuler"])
def test_rows_of_another_scale_are_refused(name, scale):
    scheduler, settings = SCHEDULERS[name]()
    with pytest.raises(InputError, match="Self-test failed"):
        from_diffusers(ExactNetwork(**settings), scheduler, check=scale[0] * rows(64) + scale[1])


def test_a_flipped_sign_is_refused():
    negated = lambda network, x, t, c: -network(x, t).sample  # noqa: E731
    with pytest.raises(InputError, match="pass call= that returns the opposite"):
        from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), call=negated, check=rows(64))


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda network, x, t, c: network(x, 999.0 - t), "call= that passes 999 - timestep"),
        (lambda network, x, t, c: network(x, 1000.0 * t), "call= that passes timestep / 1000"),
    ],
)
def test_another_clock_is_refused(call, advice):
    with pytest.raises(InputError, match="Self-test failed") as caught:
        from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), call=call, check=rows(64))
    assert str(caught.value).endswith(advice)


def test_badly_trained_networks_are_not_refused():
    generator = seeded(3)

    def noisy(network, x, t, c):
        found = network(x, t).sample
        return 0.8 * found + torch.randn(found.shape, generator=generator)

    for call, n in ((noisy, 64), (lambda network, x, t, c: 0.0 * x, 256)):
        pair = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), call=call, check=rows(n))
        assert pair.score.network.notes[0].startswith("The self-test is undecided: the network leaves")


def test_without_rows_noise_must_be_recognised(real):
    with pytest.raises(InputError, match=r"misses \d+% of pure noise at its noise end, so it is untrained"):
        from_diffusers(real / "pipeline")
    with pytest.raises(InputError, match="misses 1"):
        from_diffusers(ExactNetwork(predicts="v"), diffusers.DDPMScheduler())
    fine = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler())
    assert fine.score.network.notes == ("The self-test saw no data: pass rows as check=.",)
    seen = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), check=rows(64))
    assert seen.score.network.notes == ()


def test_a_broken_network_is_refused():
    def nothing(network, x, t, c):
        return torch.full_like(x, torch.nan)

    with pytest.raises(InputError, match="returns numbers that are not finite on these rows: check its weights"):
        from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), call=nothing, check=rows(64))
    broken = small_unet()
    torch.nn.init.constant_(broken.conv_out.bias, torch.inf)
    with pytest.raises(InputError, match="not finite"):
        from_diffusers(broken, diffusers.DDPMScheduler())
    with pytest.raises(InputError, match="needs 64 rows or more; got 1"):
        from_diffusers(ExactNetwork(), diffusers.DDPMScheduler(), check=rows(1))


# --- the checklist of the note, section 5.2, items that the truth above does not cover


def test_item_1_a_prediction_may_be_told():
    model = from_diffusers(ExactNetwork(predicts="v"), diffusers.DDPMScheduler(), prediction="v_prediction")
    assert model.score.network.convention.reading == "v_prediction"
    euler = convention_of(diffusers.EulerDiscreteScheduler(prediction_type="original_sample"))
    assert euler.reading == "sample"


def test_item_3_timesteps_are_fractional_unless_the_embedding_is_a_table():
    network = ExactNetwork()
    untested(network)(torch.tensor([0.123]), torch.zeros(1, *SHAPE))
    told = network.seen[-1][0]
    assert told.dtype == torch.float32
    assert float(told) != round(float(told))
    table = small_unet(time_embedding_type="learned", num_train_timesteps=1000)
    rounded = untested(table)
    assert not rounded.fractional
    assert rounded.notes[0].startswith("Timesteps are rounded")
    assert rounded(torch.tensor([0.123]), torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    assert untested(network, fractional=False).notes == rounded.notes


def test_item_3_rounding_costs_little():
    x, reference = rows(32), law().moment_match()
    scheduler = diffusers.DDPMScheduler()
    exact = from_diffusers(ExactNetwork(), scheduler, reference=reference)
    rounded = from_diffusers(ExactNetwork(), scheduler, fractional=False, reference=reference, check=rows(64))
    first, second = (density(pair, x, samples=512).value for pair in (exact, rounded))
    loss = first - second
    assert bool((loss != 0).all())
    assert float(loss.mean().abs()) / D < 0.005


def test_item_3_ncsn_divides_by_its_noise_scale():
    network = small_unet(time_embedding_type="fourier")
    with pytest.raises(InputError, match="divides its output by the timestep"):
        from_diffusers(network, diffusers.DDPMScheduler())
    assert untested(network, diffusers.ScoreSdeVeScheduler())(torch.zeros(1), torch.zeros(1, 1, 8, 8)).shape[1] == 1


def test_item_4_no_method_of_the_scheduler_is_called(monkeypatch):
    scheduler = diffusers.EulerDiscreteScheduler()
    for name in ("scale_model_input", "add_noise", "set_timesteps", "step"):
        monkeypatch.setattr(scheduler, name, lambda *_, **__: pytest.fail("the scheduler was used"))
    before = dict(vars(scheduler))
    pair = from_diffusers(ExactNetwork(), scheduler, reference=law().moment_match())
    elbo(pair, rows(2), samples=8)
    assert vars(scheduler) == before


def test_item_5_other_channels_than_a_variance_are_an_error():
    network = untested(small_unet(out_channels=3))
    with pytest.raises(InputError, match=r"returns shape \(1, 3, 8, 8\) for an input of shape \(1, 1, 8, 8\)"):
        network(torch.zeros(1), torch.zeros(1, 1, 8, 8))


def test_item_7_labels_of_classes():
    network = ExactNetwork(labels=True)
    scheduler = diffusers.DDPMScheduler()
    x, one = rows(4), torch.zeros(4, dtype=torch.int64)
    model = from_diffusers(network, scheduler, check=rows(64), condition=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="is conditional: pass condition= with its labels"):
        elbo(model, x)
    named = elbo(model, x, condition=one, samples=16).value
    free = from_diffusers(network, scheduler, null_class=0, reference=model.reference)
    torch.testing.assert_close(elbo(free, x, samples=16).value, named)
    torch.testing.assert_close(elbo(free, x, condition=one - 1, samples=16).value, named)
    plain = from_diffusers(small_unet_like_exact(), scheduler)
    with pytest.raises(InputError, match="takes no condition"):
        elbo(plain, x, condition=one)


def small_unet_like_exact():
    """An exact network whose signature has no condition."""

    class Plain(ExactNetwork):
        def forward(self, sample, timestep):
            return super().forward(sample, timestep)

    return Plain()


def test_item_7_a_real_network_of_classes_and_a_dit():
    z, levels, labels = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([1, 2])
    classes = untested(small_unet(num_class_embeds=3))
    assert not torch.equal(classes(levels, z, labels), classes(levels, z, labels.flip(0)))
    dit = untested(small_dit(num_embeds_ada_norm=5))
    assert dit.null_class == 5
    assert dit(levels, z).shape == z.shape  # half of its channels are variances
    assert torch.equal(dit(levels, z), dit(levels, z, torch.tensor([-1, 5])))


def test_item_7_text_and_what_comes_with_it():
    z, levels, text = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.randn(1, 4, 6)
    network = untested(conditional_unet())
    assert network(levels, z, text).shape == z.shape
    with pytest.raises(InputError, match=r"embeddings \(n or 1, tokens, dim\)"):
        network(levels, z)
    both = conditional_unet(num_class_embeds=3)
    with pytest.raises(InputError, match="also needs class_labels and encoder_hidden_states: pass call="):
        untested(both)
    call = lambda net, x, t, c: net(x, t, c, class_labels=torch.ones(len(x), dtype=torch.int64))  # noqa: E731
    assert untested(both, call=call)(levels, z, text.expand(2, 4, 6)).shape == z.shape


def test_item_8_families_say_what_their_pipelines_do():
    class Lumina2Transformer2DModel(torch.nn.Module):
        def forward(self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask): ...

    with pytest.raises(InputError, match=r"encoder_attention_mask \(its pipeline passes 1 - timestep / 1000 and neg"):
        untested(Lumina2Transformer2DModel())


def test_item_10_mode_precision_and_guidance():
    network = small_unet(dropout=0.5).train()
    assert not untested(network).network.training
    with pytest.raises(InputError, match="distilled with guidance"):
        untested(conditional_unet(time_cond_proj_dim=4))
    half = untested(small_unet().to(torch.bfloat16))
    z = torch.randn(2, 1, 8, 8)
    model = ScoreModel(half, from_diffusers(ExactNetwork(), diffusers.DDPMScheduler()).process, "noise")
    assert ScorePair(model).dtype(z) == torch.float32
    assert half(torch.zeros(2), z).dtype == torch.float32


def test_a_rows_value_does_not_depend_on_the_others():
    model = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler())
    x = rows(5)
    together = elbo(model, x, samples=16).value
    torch.testing.assert_close(elbo(model, x[2:3], samples=16).value, together[2:3])


def test_gradients_reach_the_rows():
    model = from_diffusers(ExactNetwork(), diffusers.DDPMScheduler())
    x = rows(2).requires_grad_()
    elbo(model, x, samples=8).value.sum().backward()
    assert bool(x.grad.isfinite().all())


# --- pipelines, folders, pieces


def test_a_real_network_comes_from_a_folder_as_it_was_saved(real):
    parts = loading.find_parts(real / "pipeline")
    alone = loading.find_parts(str(real / "unet"), real / "pipeline")
    assert type(parts.network).__name__ == "UNet2DModel"
    assert type(alone.scheduler).__name__ == "DDPMScheduler"
    for a, b in zip(parts.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(a, b)
    again = loading.find_parts(diffusers.DDPMPipeline(unet=parts.network, scheduler=parts.scheduler))
    assert again.network is parts.network
    assert is_diffusers_folder(real / "pipeline")
    assert is_diffusers_folder(real / "unet")
    assert not is_diffusers_folder(real)


def test_what_is_missing_is_said(real, saved, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="pass the scheduler that it was trained with"):
        from_diffusers(real / "unet")
    with pytest.raises(InputError, match="pass the network as unet="):
        from_diffusers(saved("DDPM-epsilon")[0])
    with pytest.raises(InputError, match="no such folder"):
        from_diffusers("no/such/folder")
    with pytest.raises(InputError, match="Expected a network, a pipeline or a folder; got int"):
        from_diffusers(3)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(InputError, match="cannot be loaded"):
        from_diffusers(tmp_path, diffusers.DDPMScheduler())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r'pip install "girsanov\[diffusers\]"'):
        from_diffusers(real / "unet")


@pytest.mark.parametrize("name", ["import_module", "UNet2DOutput", "../UNet2DModel", 7, "DDPMScheduler"])
def test_no_code_is_chosen_by_a_file(tmp_path, name):
    """Only networks of diffusers are built by name, whatever a folder says."""
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(InputError, match="which diffusers does not have"):
        from_diffusers(tmp_path, diffusers.DDPMScheduler())


class Evil:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code was run",)


def test_pickled_weights_are_read_where_they_are_tensors_alone(tmp_path):
    network = small_unet()
    network.save_pretrained(tmp_path, safe_serialization=False)
    found = loading.find_parts(tmp_path, diffusers.DDPMScheduler()).network
    assert torch.equal(found.conv_out.weight, network.conv_out.weight)
    path = tmp_path / "diffusion_pytorch_model.bin"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(InputError, match="holds more than tensors, or is damaged: load it yourself, if you trust it"):
        from_diffusers(tmp_path, diffusers.DDPMScheduler())
    with pytest.raises(InputError, match="is one file of weights"):
        from_diffusers(path, diffusers.DDPMScheduler())


def test_variants_are_found(tmp_path):
    networks = {name: small_unet() for name in ("fp16", "non_ema")}
    scheduler = diffusers.DDPMScheduler()
    networks["fp16"].half().save_pretrained(tmp_path, variant="fp16")
    only = loading.find_parts(tmp_path, scheduler).network
    assert torch.equal(only.conv_out.weight.half(), networks["fp16"].conv_out.weight)
    networks["non_ema"].save_pretrained(tmp_path, variant="non_ema")
    with pytest.raises(InputError, match="several variants: pass variant= of fp16, non_ema"):
        loading.find_parts(tmp_path, scheduler)
    told = loading.find_parts(tmp_path, scheduler, variant="non_ema").network
    assert torch.equal(told.conv_out.weight, networks["non_ema"].conv_out.weight)
    with pytest.raises(InputError, match=r"of the variant 'bf16'.* there are the variants fp16, non_"):
        from_diffusers(tmp_path, scheduler, variant="bf16")


def test_a_pipelines_bare_network_has_its_scheduler_beside_it(real):
    parts = loading.find_parts(real / "pipeline" / "unet")
    assert type(parts.scheduler).__name__ == "DDPMScheduler"
