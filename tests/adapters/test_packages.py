"""Objects of azula, torchcfm, flow_matching, k-diffusion and lucidrains: recognised, exact, and trained for moments."""

import math

import azula.denoise
import azula.guidance
import azula.noise
import flow_matching.path
import flow_matching.path.scheduler as schedulers
import flow_matching.utils
import pytest
import torch
import torchcfm
import torchcfm.models
from torch import nn

import girsanov as gv
from girsanov.adapters.paths import as_path
from girsanov.processes import Cosine, GaussianPath
from tests.adapters import borrowed
from tests.adapters.conventional import TABLE, at_step, law, parts, rows_like
from tests.seeds import seeded

LAW = law(2)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return LAW.sample(n, generator=seeded(1000 * seed + n))


def facts(tested: bool) -> dict:
    """Rows for the self-test, or the law of them that it would have fitted."""
    return {"check": rows(64)} if tested else {"reference": gv.Gaussian.fit(rows(64))}


class Net(nn.Module):
    """A function as a module with a parameter, as networks are."""

    def __init__(self, function):
        super().__init__()
        self.one, self.function = nn.Parameter(torch.ones((), dtype=torch.float64)), function

    def forward(self, x, t, *given):
        return self.one * self.function(x, t, *given)


def exact(kind, scales):
    """The law's exact network, told a time of which ``scales`` makes alpha and sigma."""
    return Net(lambda x, t: parts(LAW, *scales(t.double()), x)[kind].to(x))


def is_the_laws(pair, *, tolerance: float = 1e-5) -> bool:
    """Whether a pair's noise predictions are the law's at levels over its range."""
    low, high = pair.log_snr_range
    levels = torch.linspace(max(low, -9.0), min(high, 9.0), 24, dtype=torch.float64)
    z = torch.randn(24, 2, generator=seeded(7), dtype=torch.float64)
    expected = parts(LAW, torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt(), z)["noise"]
    return torch.allclose(pair.noise(levels, z), expected, rtol=0.0, atol=tolerance)


# --- azula

SCHEDULES = {
    "VE": azula.noise.VESchedule(sigma_min=2e-3, sigma_max=80.0),
    "VP": azula.noise.VPSchedule(),
    "Cosine": azula.noise.CosineSchedule(),
    "Rectified": azula.noise.RectifiedSchedule(),
    "Decay": azula.noise.DecaySchedule(),
}


def preserving(log_ratio):
    """Scales of azula's inputs, which preserve the variance, from what its backbones are told."""
    s = log_ratio.exp()
    return 1.0 / (1.0 + s**2).sqrt(), s / (1.0 + s**2).sqrt()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_denoiser_of_azula_needs_nothing_but_rows(name):
    schedule = SCHEDULES[name]
    denoiser = azula.denoise.SimpleDenoiser(exact("denoised", preserving), schedule)
    pair = gv.from_denoiser(denoiser, **facts(name in ("VE", "Rectified")))
    assert is_the_laws(pair)
    ends = [schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 0.0)]
    assert pair.log_snr_range == pytest.approx(tuple(2.0 * float((a / s).log()) for a, s in ends))
    t = torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(pair.process.marginal(t), schedule(t))  # its own coordinates


def test_azula_as_a_function_with_a_condition():
    """Its networks take conditions by keyword."""
    both = LAW, gv.Gaussian(torch.zeros(2), 1.0)

    def backbone(x, t, label):
        found = [parts(density, *preserving(t.double()), x)["denoised"].to(x) for density in both]
        return torch.where(label[:, None] == 0, *found)

    denoiser = azula.denoise.SimpleDenoiser(Net(backbone), SCHEDULES["VP"])
    denoiser.backbone.forward = lambda x, t, label: backbone(x, t, label)
    pair = gv.from_denoiser(
        lambda x, t, c: denoiser(x, t, label=c).mean, denoiser.schedule, check=rows(64), condition=0
    )
    assert pair.score.network.notes == ()
    x, zero = rows(4), torch.zeros(1, dtype=torch.int64)
    alone = azula.denoise.SimpleDenoiser(exact("denoised", preserving), SCHEDULES["VP"])
    expected = gv.elbo(gv.from_denoiser(alone, check=rows(64)), x, samples=8).value
    torch.testing.assert_close(gv.elbo(pair, x, samples=8, condition=zero).value, expected)


def test_azulas_network_of_another_prediction_is_refused():
    denoiser = azula.denoise.SimpleDenoiser(exact("noise", preserving), SCHEDULES["VP"])
    with pytest.raises(gv.InputError, match=r'pass it to from_noise_prediction\(net, process, predicts="noise"\)'):
        gv.from_denoiser(denoiser, check=rows(256))
    pair = gv.from_noise_prediction(lambda x, t: denoiser(x, t).mean, denoiser.schedule, check=rows(64))
    assert is_the_laws(pair)


# --- velocities on any Gaussian path


def velocity(scales):
    """The law's exact velocity, from scales and their derivatives at a network's time."""

    def net(x, t):
        alpha, sigma, d_alpha, d_sigma = scales(t.double())
        found = parts(LAW, alpha, sigma, x)
        return (rows_like(d_alpha, x) * found["denoised"] + rows_like(d_sigma, x) * found["noise"]).to(x)

    return Net(net)


def scheduled(scheduler):
    def scales(t):
        found = scheduler(t)
        return found.alpha_t, found.sigma_t, found.d_alpha_t, found.d_sigma_t

    return scales


SCHEDULERS = {
    "CondOT": schedulers.CondOTScheduler(),
    "Cosine": schedulers.CosineScheduler(),
    "VP": schedulers.VPScheduler(),
    "LinearVP": schedulers.LinearVPScheduler(),
    "Polynomial": schedulers.PolynomialConvexScheduler(n=2),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_path_of_flow_matching_tells_the_score(name):
    scheduler = SCHEDULERS[name]
    net = flow_matching.utils.ModelWrapper(velocity(scheduled(scheduler)))
    path = flow_matching.path.AffineProbPath(scheduler)
    assert is_the_laws(gv.from_velocity(net, path, **facts(name in ("Cosine", "VP"))))
    assert as_path(scheduler).data_at == 1


def test_other_predictions_on_a_path_of_flow_matching():
    scheduler = SCHEDULERS["Cosine"]
    net = exact("denoised", lambda t: scheduled(scheduler)(t)[:2])
    assert is_the_laws(gv.from_noise_prediction(net, scheduler, predicts="denoised"))
    with pytest.raises(gv.InputError, match=r'pass it to from_noise_prediction\(net, process, predicts="denoised"\)'):
        gv.from_velocity(net, scheduler, check=rows(64))


def test_a_changed_schedule_is_known_by_its_model():
    old, new = SCHEDULERS["CondOT"], SCHEDULERS["Cosine"]
    net = flow_matching.utils.ModelWrapper(velocity(scheduled(old)))
    changed = schedulers.ScheduleTransformedModel(net, old, new)
    assert is_the_laws(gv.from_velocity(changed, check=rows(64)))


def matched(kind, sigma):
    """Textbook scales of torchcfm's independent paths, the noise that is added among them."""

    def scales(t):
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        if kind == "target":
            return t, 1 - (1 - sigma) * t, one, (sigma - 1) * one
        if kind == "straight":
            total = ((1 - t) ** 2 + sigma**2).sqrt()
            return t, total, one, -(1 - t) / total
        c, s, h = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t), math.pi / 2
        total = (c**2 + sigma**2).sqrt()
        return s, total, h * c, zero - h * c * s / total

    return scales


MATCHERS = {
    "straight": torchcfm.ConditionalFlowMatcher,
    "target": torchcfm.TargetConditionalFlowMatcher,
    "trigonometric": torchcfm.VariancePreservingConditionalFlowMatcher,
}


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("kind", MATCHERS)
def test_every_independent_matcher_of_torchcfm_tells_the_score(kind, sigma):
    net = velocity(matched(kind, sigma))
    pair = gv.from_velocity(lambda t, x: net(x, t), MATCHERS[kind](sigma=sigma), **facts(sigma > 0))
    assert is_the_laws(pair)
    assert pair.log_snr_range[1] == pytest.approx(15.0 if sigma == 0 else -2.0 * math.log(sigma))


def test_matchers_by_optimal_transport_do_not():
    net = velocity(matched("straight", 0.0))
    for matcher in (
        torchcfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0),
        torchcfm.SchrodingerBridgeConditionalFlowMatcher(sigma=0.5),
    ):
        with pytest.raises(gv.InputError, match="pairs noise and data, so that its velocity does not tell the score"):
            gv.from_velocity(net, matcher)


def test_any_scales_make_a_path():
    curved = lambda t: (t**2, (1 - t) ** 1.5, 2 * t, -1.5 * (1 - t) ** 0.5)  # noqa: E731
    assert is_the_laws(gv.from_velocity(velocity(curved), lambda t: curved(t)[:2]))
    turned = lambda t: [*curved(1 - t)[:2], *(-part for part in curved(1 - t)[2:])]  # noqa: E731
    assert is_the_laws(gv.from_velocity(velocity(turned), lambda t: tuple(turned(t)[:2]), check=rows(64)))
    net = velocity(matched("trigonometric", 0.0))
    assert is_the_laws(gv.from_velocity(net, Cosine(), data_at=1))


@pytest.mark.parametrize(
    ("net", "process", "advice"),
    [
        (lambda net: lambda x, t: -net(x, t), SCHEDULERS["Cosine"], "lambda x, t: -net(x, t)"),
        (lambda net: lambda x, t: net(x, 1 - t), SCHEDULERS["Cosine"], "lambda x, t: net(x, 1 - t)"),
        (lambda net: net, None, "process=girsanov.processes.Cosine() and data_at=1"),
    ],
)
def test_wrong_velocities_on_a_path_are_refused_with_what_fits(net, process, advice):
    given = net(velocity(matched("trigonometric", 0.0)))
    with pytest.raises(gv.InputError, match="Self-test failed") as caught:
        gv.from_velocity(given, process, check=rows(64, seed=4))
    assert str(caught.value).endswith(advice)


# --- k-diffusion


def wrapped(sigma):
    return 1.0 / (1.0 + sigma**2).sqrt(), sigma / (1.0 + sigma**2).sqrt()


def test_denoisers_of_k_diffusion():
    v = borrowed.VDenoiser(exact("v", lambda t: (torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t))))
    assert is_the_laws(gv.from_denoiser(v, sigma_range=(0.01, 80.0), check=rows(64)))

    def karras(x, sigma):  # v with unit data variance, of the other sign
        return -parts(LAW, *wrapped(sigma.double()), x)["v"].to(x)

    assert is_the_laws(gv.from_denoiser(borrowed.KDenoiser(Net(karras)), sigma_range=(0.01, 80.0), check=rows(64)))
    with pytest.raises(gv.InputError, match=r"Give one range of noise: sigma_range=\(low, high\).*got none"):
        gv.from_denoiser(v)


@pytest.mark.parametrize("quantize", [False, True])
def test_discrete_steps_of_k_diffusion_know_their_range(quantize):
    net = borrowed.DiscreteEpsDDPMDenoiser(exact("noise", at_step), TABLE, quantize)
    pair = gv.from_denoiser(net, reference=gv.Gaussian.fit(rows(64)))
    levels = torch.logit(TABLE)
    assert pair.log_snr_range == pytest.approx((float(levels[-1]), float(levels[0])))
    assert is_the_laws(pair, tolerance=0.1 if quantize else 1e-5)
    assert pair.score.network.notes[1:] == (("Noise levels are rounded to whole steps.",) if quantize else ())


# --- lucidrains


@pytest.mark.parametrize(("objective", "kind"), [("pred_noise", "noise"), ("pred_x0", "denoised"), ("pred_v", "v")])
def test_a_diffusion_of_lucidrains_says_all_itself(objective, kind):
    diffusion = borrowed.GaussianDiffusion(exact(kind, at_step), BETAS, objective)
    pair = gv.from_noise_prediction(diffusion, **facts(kind == "v"))
    assert is_the_laws(pair, tolerance=1e-3)


def test_more_of_lucidrains():
    def edm(x, told):  # unit data variance in place of its 0.5
        sigma = (4.0 * told.double()).exp()
        return -parts(LAW, *wrapped(sigma), x)["v"].to(x)

    elucidated = borrowed.ElucidatedDiffusion(Net(edm), sigma_data=1.0)
    pair = gv.from_denoiser(elucidated, check=rows(64))
    assert is_the_laws(pair)
    assert pair.log_snr_range == pytest.approx((-2 * math.log(80), -2 * math.log(0.002)))
    level = lambda t: (torch.sigmoid(t).sqrt(), torch.sigmoid(-t).sqrt())  # noqa: E731
    continuous = borrowed.ContinuousTimeGaussianDiffusion(exact("noise", level))
    assert is_the_laws(gv.from_noise_prediction(continuous))


class Flow(Net):
    def forward(self, x, *, times):
        return super().forward(x, times)


@pytest.mark.parametrize(
    ("predict", "adapter", "kind"),
    [
        ("flow", gv.from_velocity, None),
        ("noise", gv.from_noise_prediction, "noise"),
        ("clean", gv.from_noise_prediction, "denoised"),
    ],
)
def test_rectified_flows_of_lucidrains(predict, adapter, kind):
    straight = matched("straight", 0.0)
    inner = velocity(straight) if kind is None else exact(kind, lambda t: straight(t)[:2])
    flow = borrowed.RectifiedFlow(Flow(inner.function), predict)
    pair = adapter(flow)
    assert is_the_laws(pair)
    assert pair.log_snr_range[1] == pytest.approx(2.0 * math.log(99.0) if predict == "clean" else 15.0)
    nano = borrowed.NanoFlow(Flow(velocity(straight).function), "times")
    assert is_the_laws(gv.from_velocity(nano))


class Dropping(nn.Module):
    """Drops its classes at random unless it is told not to, as lucidrains' networks of classes do."""

    def __init__(self, given, free):
        super().__init__()
        self.given, self.free = given, free

    def forward(self, x, time, classes, cond_drop_prob=None):
        dropped = torch.rand(len(x), generator=seeded(3)) < (0.5 if cond_drop_prob is None else cond_drop_prob)
        return torch.where(dropped[:, None], self.free(x, time), self.given(x, time))


def test_classes_are_dropped_always_or_never():
    other = gv.Gaussian(torch.zeros(2), 4.0)
    free = Net(lambda x, t: parts(other, *at_step(t.double()), x)["noise"].to(x))
    network = Dropping(exact("noise", at_step), free)
    label, x = torch.zeros(1, dtype=torch.int64), rows(4)
    expected = {
        name: gv.elbo(gv.from_noise_prediction(net, alphas_cumprod=TABLE), x, samples=8).value
        for name, net in (("given", network.given), ("free", free))
    }
    for pair in (
        gv.from_noise_prediction(network, alphas_cumprod=TABLE),
        gv.from_noise_prediction(borrowed.GaussianDiffusion(network, BETAS, "pred_noise")),
    ):
        found = gv.elbo(pair, x, samples=8, condition=label).value, gv.elbo(pair, x, samples=8).value
        torch.testing.assert_close(found, (expected["given"], expected["free"]), rtol=1e-4, atol=1e-4)


# --- guidance, and what is refused


def test_guidance_is_a_model_only_on_purpose():
    denoiser = azula.denoise.SimpleDenoiser(exact("denoised", preserving), SCHEDULES["VP"])
    guided = azula.guidance.CFGDenoiser(denoiser)
    with pytest.raises(gv.InputError, match="CFGDenoiser is guided, and a guided field has no density of its own"):
        gv.from_denoiser(guided, check=rows(64))
    with pytest.raises(gv.InputError, match="is guided"):
        gv.from_denoiser(borrowed.CFGDenoiser(exact("denoised", wrapped)), sigma_range=(0.01, 80.0), check=rows(64))
    on_purpose = gv.from_denoiser(lambda x, t: guided(x, t, {}, {}, 2.0).mean, guided.schedule, check=rows(64))
    assert is_the_laws(on_purpose)  # both of its parts are the same


STRAIGHT = Flow(velocity(matched("straight", 0.0)).function)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: gv.from_velocity(borrowed.GaussianDiffusion(STRAIGHT, BETAS, "pred_v")),
            "This is a GaussianDiffusion that predicts v: pass it to from_noise_prediction",
        ),
        (
            lambda: gv.from_noise_prediction(borrowed.GaussianDiffusion(STRAIGHT, BETAS, "pred_v", immiscible=True)),
            "This immiscible GaussianDiffusion pairs noise and data",
        ),
        (
            lambda: gv.from_noise_prediction(
                borrowed.GaussianDiffusion(STRAIGHT, BETAS, "pred_v", offset_noise_strength=0.1)
            ),
            "trained with offset noise",
        ),
        (lambda: gv.from_velocity(borrowed.RectifiedFlow(STRAIGHT, immiscible=True)), "pairs noise and data"),
        (lambda: gv.from_velocity(borrowed.RectifiedFlow(STRAIGHT, use_consistency=True)), "to be consistent"),
        (lambda: gv.from_velocity(borrowed.NanoFlow(STRAIGHT)), "does not tell its network the time"),
        (
            lambda: gv.from_velocity(STRAIGHT, flow_matching.path.MixtureDiscreteProbPath(SCHEDULERS["Polynomial"])),
            "MixtureDiscreteProbPath adds no Gaussian noise",
        ),
        (lambda: gv.from_velocity(STRAIGHT, SCHEDULERS["VP"], data_at=0), "has the data at time 1: leave data_at= out"),
        (lambda: gv.from_velocity(STRAIGHT, 3), "process must be a process such as"),
        (lambda: gv.from_velocity(STRAIGHT, lambda t: t), "scales must take times"),
        (lambda: gv.from_score(STRAIGHT, lambda t: (t, t)), "with a falling ratio"),
        (lambda: gv.from_denoiser(STRAIGHT, Cosine(), sigma_range=(0.1, 1.0)), "Give one range of noise: .*got both"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(gv.InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_path_ends_where_it_ends():
    path = GaussianPath(SCHEDULES["Rectified"], log_snr_range=(-30.0, 5.0))
    assert path.log_snr_range == (pytest.approx(-2.0 * math.log(1e3)), 5.0)


# --- trained here


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2)
        )

    def forward(self, x, t):
        t = t.expand(len(x))[:, None]
        return self.net(torch.cat([x, t, torch.cos(3.0 * t), torch.sin(3.0 * t)], 1))


def trained(module, loss, steps: int = 300):
    """The same module after some steps of Adam on its package's own loss."""
    data, generator = rows(8192, seed=9).float(), seeded(11)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        module.apply(lambda m: m.reset_parameters() if isinstance(m, nn.Linear) else None)
        optimiser = torch.optim.Adam(module.parameters(), lr=4e-3)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 4e-3 * (1.0 - step / steps)
            optimiser.zero_grad()
            loss(data[torch.randint(len(data), (512,))]).backward()
            optimiser.step()
    return module


def azula_pair():
    denoiser = azula.denoise.KarrasDenoiser(MLP(), azula.noise.VPSchedule())
    return gv.from_denoiser(trained(denoiser, lambda x: denoiser.loss(x, torch.rand(len(x)))), check=rows(256))


def torchcfm_pair():
    matcher = torchcfm.ConditionalFlowMatcher(sigma=0.0)
    model = torchcfm.models.MLP(dim=2, time_varying=True)

    def loss(x):
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (model(torch.cat([x_t, t[:, None]], 1)) - velocity).square().mean()

    return gv.from_velocity(trained(model, loss), matcher, check=rows(256))


def flow_matching_pair():
    path = flow_matching.path.AffineProbPath(schedulers.CosineScheduler())
    model = MLP()

    def loss(x):
        sample = path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        return (model(sample.x_t, sample.t) - sample.dx_t).square().mean()

    return gv.from_velocity(flow_matching.utils.ModelWrapper(trained(model, loss)), path, check=rows(256))


@pytest.mark.parametrize("make", [azula_pair, torchcfm_pair, flow_matching_pair])
def test_a_model_that_was_trained_by_its_package_has_the_laws_density(make):
    """Within what some hundred steps leave: a Gaussian of these rows is far behind."""
    pair, x = make(), rows(16, seed=12)
    assert pair.score.network.notes == ()
    truth, gaussian = LAW.log_prob(x), gv.Gaussian.fit(rows(4096)).log_prob(x)
    found = gv.ode_log_prob(pair, x.float()).value
    assert abs(float((found - truth).mean())) < 0.7 * float((truth - gaussian).mean())
