"""Anyone's network as a pair: the truth in every convention, and the self-test on right, wrong and bad networks."""

import math

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.likelihoods import Replicates
from tests.adapters.conventional import (
    SIGMAS,
    TABLE,
    at_step,
    at_time,
    denoiser,
    law,
    noise_of_steps,
    noise_of_time,
    parts,
    rows_like,
    score_of_time,
    velocity,
)
from tests.seeds import seeded

VP = gv.VariancePreserving()
LAW = law(2)


def rows(n: int, seed: int = 0, d: int = 2) -> torch.Tensor:
    return law(d).sample(n, generator=seeded(1000 * seed + n))


def steps(net, kind="noise", **more):
    return gv.from_noise_prediction(net, alphas_cumprod=TABLE, predicts=kind, **more)


def times(net, kind="noise", **more):
    return gv.from_noise_prediction(net, VP, predicts=kind, **more)


def edm(net, **more):
    return gv.from_denoiser(net, sigma_range=SIGMAS, **more)


def scores(net, **more):
    return gv.from_score(net, VP, **more)


#: convention -> (adapter, exact network of a law)
RIGHT = {
    "steps-noise": (steps, noise_of_steps),
    "steps-denoised": (lambda net, **m: steps(net, "denoised", **m), lambda p: noise_of_steps(p, "denoised")),
    "steps-v": (lambda net, **m: steps(net, "v", **m), lambda p: noise_of_steps(p, "v")),
    "times-noise": (times, noise_of_time),
    "times-v": (lambda net, **m: times(net, "v", **m), lambda p: noise_of_time(p, "v")),
    "denoiser": (edm, denoiser),
    "velocity-1": (gv.from_velocity, velocity),
    "velocity-0": (lambda net, **m: gv.from_velocity(net, data_at=0, **m), lambda p: velocity(p, 0)),
    "score": (scores, score_of_time),
}
each = pytest.mark.parametrize("name", RIGHT)


# --- the truth


@pytest.mark.parametrize(
    ("name", "d"),
    [
        *((name, 2) for name in RIGHT if name not in ("steps-denoised", "times-noise")),
        ("denoiser", 8),
        ("velocity-0", 8),
    ],
)
def test_every_convention_has_the_laws_density(name, d):
    adapt, exact = RIGHT[name]
    pair = adapt(exact(law(d)), check=rows(300, d=d))
    x = rows(12, seed=2, d=d)
    truth = law(d).log_prob(x)
    options = {"samples": 64, "method": Replicates(16)}
    formula, bound = gv.density(pair, x, **options), gv.elbo(pair, x, **options)
    assert abs(float((formula.value - truth).mean())) < 4.0 * formula.mean().stderr
    assert -4.0 * bound.mean().stderr < float((truth - bound.value).mean()) < 4.0 * bound.mean().stderr + 0.02 * d
    assert pair.score.network.notes == ()


@pytest.mark.parametrize("name", ["denoiser", "velocity-1"])
def test_every_conventions_ode_is_the_laws(name):
    adapt, exact = RIGHT[name]
    pair = adapt(exact(LAW), check=rows(300))
    x = rows(1, seed=3)
    estimate = gv.ode_log_prob(pair, x)
    torch.testing.assert_close(estimate.value, LAW.log_prob(x), rtol=0.0, atol=0.02)


def test_ranges_are_those_of_training():
    levels = torch.logit(TABLE)
    assert steps(noise_of_steps(LAW)).log_snr_range == (float(levels[-1]), float(levels[0]))
    low, high = edm(denoiser(LAW), check=rows(64)).log_snr_range
    assert (math.exp(-0.5 * high), math.exp(-0.5 * low)) == pytest.approx(SIGMAS)
    zero = torch.cat([TABLE, torch.zeros(1)])
    assert (
        steps(noise_of_steps(LAW)).log_snr_range
        == gv.from_noise_prediction(noise_of_steps(LAW), alphas_cumprod=zero.numpy()).log_snr_range
    )


# --- the self-test: right conventions


@pytest.mark.parametrize(
    ("name", "n"), [*((name, 64) for name in RIGHT), ("steps-noise", 300), ("velocity-1", 300), ("denoiser", 2000)]
)
def test_right_conventions_stand(name, n):
    adapt, exact = RIGHT[name]
    assert adapt(exact(LAW), check=rows(n, seed=n)).score.network.notes == ()


def shrunk(net, factor):
    return lambda *given: factor * net(*given)


def noisy(net, scale):
    generator = seeded(9)
    return lambda *given: (found := net(*given)) + scale * torch.randn(found.shape, generator=generator).to(found)


BAD = {
    "noisy": lambda net: noisy(net, 0.3),
    "very noisy": lambda net: noisy(net, 1.0),
    "shrunk": lambda net: shrunk(net, 0.7),
    "untrained": lambda net: shrunk(net, 0.0),
}


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ("noisy", "denoiser"),
        ("very noisy", "steps-noise"),
        ("very noisy", "velocity-1"),
        ("shrunk", "denoiser"),
        ("shrunk", "steps-denoised"),
        ("untrained", "times-noise"),
    ],
)
def test_badly_trained_networks_are_never_refused(bad, name):
    adapt, exact = RIGHT[name]
    order = "t, x" if name.startswith("velocity") else "x, t"
    pair = adapt(BAD[bad](exact(LAW)), check=rows(300), order=order)
    assert all(note.startswith("The self-test is undecided: the network leaves") for note in pair.score.network.notes)


def test_what_nothing_fits_is_undecided():
    note = steps(shrunk(noise_of_steps(LAW), 0.0), check=rows(64), order="x, t").score.network.notes[0]
    assert "of the noise in these rows, a Gaussian 0." in note


# --- the self-test: wrong conventions


def wrapped(kind, scales, *, sign=1.0, exploding=False):
    """A network of another kind, clock, sign or scale of its input."""

    def net(x, t):
        alpha, sigma = scales(t.double())
        x = x * rows_like(alpha, x).to(x) if exploding else x
        return sign * parts(LAW, alpha, sigma, x)[kind].to(x)

    return net


def noise_scale(sigma):
    return torch.ones_like(sigma), sigma


def preserving(sigma):
    return 1.0 / (1.0 + sigma.square()).sqrt(), sigma / (1.0 + sigma.square()).sqrt()


def flowing(kind, data_at=1, *, sign=1.0, unit=1.0):
    def net(t, x):
        return sign * velocity(LAW, data_at, kind)((t.double() / unit).clamp(1e-6, 1.0 - 1e-6), x)

    return net


#: (adapter, network, what to pass)
WRONG = {
    "steps, v": (steps, wrapped("v", at_step), 'predicts="v"'),
    "steps, clean rows": (steps, wrapped("denoised", at_step), 'predicts="denoised"'),
    "steps, sign": (steps, wrapped("noise", at_step, sign=-1.0), "lambda x, t: -net(x, t)"),
    "steps, score": (steps, wrapped("score", at_step), 'predicts="noise" and lambda x, t: -sigma_t * net(x, t)'),
    "steps, reversed": (steps, wrapped("noise", lambda t: at_step(999 - t)), "lambda x, t: net(x, 999 - t)"),
    "steps, from 0 to 1": (steps, wrapped("noise", lambda t: at_step(1000 * t)), "lambda x, t: net(x, t / 1000)"),
    "steps, exploding": (steps, wrapped("noise", at_step, exploding=True), "net(x / alphas_cumprod[t].sqrt(), t)"),
    "time, 1000": (times, wrapped("noise", lambda t: at_time(t / 1000)), "lambda x, t: net(x, 1000 * t)"),
    "time, reversed": (times, wrapped("noise", lambda t: at_time(1 - t)), "lambda x, t: net(x, 1 - t)"),
    "score, noise": (scores, wrapped("noise", at_time), "lambda x, t: -net(x, t) / sigma_t"),
    "score, sign": (scores, wrapped("score", at_time, sign=-1.0), "lambda x, t: -net(x, t)"),
    "denoiser, noise": (edm, wrapped("noise", noise_scale), "lambda x, sigma: x - sigma * net(x, sigma)"),
    "denoiser, c_noise": (edm, wrapped("denoised", lambda s: noise_scale((4 * s).exp())), "net(x, sigma.log() / 4)"),
    "denoiser, preserving": (edm, wrapped("denoised", preserving), "net(x / (1 + sigma**2).sqrt(), sigma)"),
    "velocity, data_at": (gv.from_velocity, flowing("flow", 0), "data_at=0"),
    "velocity, sign": (gv.from_velocity, flowing("flow", sign=-1.0), "lambda t, x: -net(t, x)"),
    "velocity, 1000": (gv.from_velocity, flowing("flow", unit=1000.0), "lambda t, x: net(1000 * t, x)"),
    "velocity, both": (gv.from_velocity, flowing("flow", 0, sign=-1.0), "data_at=0 and lambda t, x: -net(t, x)"),
    "velocity, clean rows": (gv.from_velocity, flowing("denoised"), "lambda t, x: (net(t, x) - x) / (1 - t)"),
    "velocity, v": (gv.from_velocity, flowing("v"), "lambda t, x: ((2 * t - 1) * x - net(t, x)) / (t**2 + (1 - t)**2)"),
    "velocity, noise": (gv.from_velocity, flowing("noise"), "lambda t, x: (x - net(t, x)) / t"),
}


FAINT = {"steps, exploding", "denoiser, preserving"}  # the scale of the input matters at few levels


@pytest.mark.parametrize("name", WRONG)
def test_wrong_conventions_are_refused_with_the_one_that_fits(name):
    adapt, net, advice = WRONG[name]
    with pytest.raises(gv.InputError, match="Self-test failed: on these rows the network leaves") as caught:
        adapt(net, check=rows(300 if name in FAINT else 64, seed=4))
    assert str(caught.value).endswith(advice)


@pytest.mark.parametrize("d", [2, 8])
def test_no_gaussian_of_few_rows_hides_a_wrong_convention(d):
    """Of normal rows no network errs less than a Gaussian that is fitted to them."""
    factor = torch.randn(d, d, generator=seeded(d), dtype=torch.float64) / math.sqrt(d)
    normal = gv.Gaussian(torch.linspace(-0.6, 1.2, d).double(), 0.4 * factor @ factor.mT + 0.1 * torch.eye(d).double())
    check = normal.sample(32 * d, generator=seeded(20 + d))
    assert gv.from_velocity(velocity(normal), check=check).score.network.notes == ()
    for at, net in ((0, velocity(normal)), (1, velocity(normal, 0))):
        with pytest.raises(gv.InputError, match=f"pass data_at={1 - at}$"):
            gv.from_velocity(net, data_at=at, check=check)
    with pytest.raises(gv.InputError, match=r"net\(x, sigma.log\(\) / 4\)$"):
        edm(lambda x, sigma: denoiser(normal)(x, (4.0 * sigma).exp()), check=check)


@pytest.mark.parametrize("kind", ["score", "v"])
def test_the_advice_about_other_coordinates_is_right(kind):
    """A score, and v, are those of the input that the network is shown; what is advised is accepted."""

    def shown(x, t):  # x / alpha_t, and the score and v of that
        alpha, sigma = (rows_like(part, x) for part in at_time(t))
        noise = noise_of_time(LAW)(x * alpha, t)
        return (
            -noise * alpha / sigma if kind == "score" else noise - sigma / alpha * (alpha * x - sigma * noise) / alpha
        )

    adapt = scores if kind == "score" else lambda net, **more: times(net, "v", **more)
    with pytest.raises(gv.InputError, match=r"net\(x / alpha_t, t\)") as caught:
        adapt(shown, check=rows(2000, seed=4))
    call = str(caught.value).split("pass lambda x, t: ")[1]
    names = {"net": shown, "alpha_t": None}

    def advised(x, t):
        return eval(call, names | {"x": x, "t": t, "alpha_t": rows_like(at_time(t)[0], x)})

    t, x = torch.tensor([0.3] * 4).double(), rows(4)
    torch.testing.assert_close(advised(x, t), noise_of_time(LAW, kind)(x, t))


@pytest.mark.parametrize("data_at", [0, 1])
@pytest.mark.parametrize("kind", ["noise", "denoised", "v"])
def test_the_advice_is_right(kind, data_at):
    """What is passed as the sentence says is accepted, and is the law's velocity."""
    given = flowing(kind, data_at)
    with pytest.raises(gv.InputError) as caught:
        gv.from_velocity(given, data_at=data_at, check=rows(64, seed=4))
    advised = eval(str(caught.value).split(": pass ")[1], {"net": lambda t, x: given(t, x)})
    t, x = torch.tensor(0.3, dtype=torch.float64), rows(4)
    torch.testing.assert_close(advised(t, x), velocity(LAW, data_at)(t, x))


@pytest.mark.parametrize("data_at", [0, 1])
def test_the_advice_about_a_v_of_variance_1_is_right(data_at):
    def given(t, x):
        share = (t if data_at else 1.0 - t).clamp(1e-6, 1.0 - 1e-6)
        size = rows_like((share.square() + (1.0 - share).square()).sqrt(), x)
        return velocity(LAW, data_at, "v")(t, x) / size

    with pytest.raises(gv.InputError) as caught:
        gv.from_velocity(given, data_at=data_at, check=rows(64, seed=4))
    advised = eval(str(caught.value).split(": pass ")[1], {"net": given})
    t, x = torch.tensor(0.3, dtype=torch.float64), rows(4)
    torch.testing.assert_close(advised(t, x), velocity(LAW, data_at)(t, x))


@pytest.mark.parametrize("coordinates", [noise_scale, preserving], ids=["exploding", "preserving"])
@pytest.mark.parametrize("kind", ["noise", "score", "v"])
def test_the_advice_about_a_denoiser_is_right(kind, coordinates):
    given = wrapped(kind, coordinates)
    with pytest.raises(gv.InputError) as caught:
        edm(given, check=rows(300, seed=4))
    advised = eval(str(caught.value).split(": pass ")[1], {"net": lambda x, sigma: given(x, sigma)})
    sigma, x = torch.tensor(0.7, dtype=torch.float64), rows(4)
    torch.testing.assert_close(advised(x, sigma), denoiser(LAW)(x, sigma))


def test_another_schedule_of_steps_is_named():
    scaled = torch.cumprod(1.0 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double().square(), 0)
    with pytest.raises(gv.InputError, match="pass alphas_cumprod= of the schedule linear"):
        gv.from_noise_prediction(noise_of_steps(LAW), alphas_cumprod=scaled, check=rows(2000))


# --- how a network is called


class Module(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.scale, self.net = torch.nn.Parameter(torch.ones(())), net

    def forward(self, input, sigma, class_labels=None):  # as in k-diffusion
        return self.scale * self.net(input, sigma)


def test_orders_of_arguments_are_read_from_their_names():
    x, net = rows(4), denoiser(LAW)
    known = edm(net, check=rows(64))
    module = edm(Module(net), check=rows(64))
    assert module.score.network.arguments == ("x", "sigma")
    assert not module.score.network.net.training
    torch.testing.assert_close(
        gv.elbo(module, x, samples=8).value, gv.elbo(known, x, samples=8).value, rtol=1e-3, atol=1e-3
    )
    turned = edm(lambda sigma, x: net(x, sigma), check=rows(64))
    torch.testing.assert_close(gv.elbo(turned, x, samples=8).value, gv.elbo(known, x, samples=8).value)
    with pytest.raises(
        gv.InputError, match=r"The arguments \(a, b\) of this network .*: pass order='x, t' for net\(x, t"
    ):
        gv.from_velocity(lambda a, b: a)
    stated = gv.from_velocity(lambda a, b: velocity(LAW)(b, a), order="x, t")
    torch.testing.assert_close(
        gv.elbo(stated, x, samples=8).value, gv.elbo(gv.from_velocity(velocity(LAW)), x, samples=8).value
    )


def test_conditions_are_the_third_argument():
    both = velocity(LAW), velocity(gv.Gaussian(torch.zeros(2), 1.0))

    def net(t, x, label):
        return torch.where(label[:, None] == 0, both[0](t, x), both[1](t, x))

    label = torch.zeros(1, dtype=torch.int64)
    pair = gv.from_velocity(net, check=rows(64), condition=label)
    assert pair.score.network.notes == ()
    x = rows(4)
    expected = gv.elbo(gv.from_velocity(both[0], check=rows(64)), x, samples=8).value
    torch.testing.assert_close(gv.elbo(pair, x, samples=8, condition=label).value, expected)
    with pytest.raises(gv.InputError, match="leading dimension 1 or 64"):
        gv.from_velocity(net, check=rows(64), condition=[0, 1])


def test_steps_are_rounded_where_embeddings_are_tables():
    seen = []

    def net(x, t):
        seen.append(t)
        return noise_of_steps(LAW)(x, t)

    pair = steps(net, fractional=False, check=rows(64))
    assert not seen[0].is_floating_point()
    assert pair.score.network.notes == ("Steps are rounded to whole ones.",)
    embedded = torch.nn.Embedding(len(TABLE), 2)
    for table in (embedded, lambda t: TABLE[t][:, None]):
        with pytest.raises(gv.InputError, match=r"indices.*: pass fractional=False"):
            steps(lambda x, t, table=table: table(t) * x, check=rows(64))


# --- what is refused


def test_data_that_are_not_forgotten_need_a_law():
    net = denoiser(LAW)
    with pytest.raises(
        gv.InputError, match=r"not forgotten at log-SNR -8\.76, where this network's noise ends: pass rows"
    ):
        edm(net)
    reference = gv.Gaussian.fit(rows(300))
    assert isinstance(edm(net, reference=reference).prior, gv.Gaussian)
    prior = gv.Gaussian(torch.zeros(2), 6400.0)
    assert edm(net, prior=prior).prior is prior
    assert edm(net, check=rows(64)).reference is not None
    short = TABLE[:500]
    with pytest.raises(gv.InputError, match="not forgotten at log-SNR"):
        gv.from_noise_prediction(noise_of_steps(LAW), alphas_cumprod=short)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gv.from_velocity(velocity(LAW), data_at=2), "data_at must be 0 or 1"),
        (lambda: gv.from_velocity(3), "callable as net"),
        (lambda: gv.from_velocity(velocity(LAW), order="tx"), 'order must be "x, t" or "t, x"'),
        (lambda: gv.from_denoiser(denoiser(LAW), sigma_range=(80.0, 0.002)), "sigma_range must be"),
        (lambda: gv.from_denoiser(denoiser(LAW), sigma_range=5), "sigma_range must be"),
        (lambda: gv.from_noise_prediction(noise_of_time(LAW)), "Give one schedule"),
        (lambda: gv.from_noise_prediction(noise_of_time(LAW), VP, alphas_cumprod=TABLE), "Give one schedule"),
        (lambda: steps(noise_of_steps(LAW), "flow"), "predicts must be one of noise, denoised, v"),
        (lambda: gv.from_noise_prediction(noise_of_steps(LAW), alphas_cumprod=TABLE.flip(0)), "must fall"),
        (lambda: gv.from_noise_prediction(noise_of_steps(LAW), alphas_cumprod="linear"), "must be numbers"),
        (lambda: gv.from_score(score_of_time(LAW), None), "process must be"),
        (lambda: gv.from_velocity(velocity(LAW), check=rows(63)), "needs 64 rows or more; got 63"),
        (lambda: gv.from_velocity(velocity(LAW), check=np.full((64, 2), np.nan)), "missing or infinite"),
        (lambda: gv.from_velocity(lambda t, x: x[:, :1], check=rows(64)), "network returned shape"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(gv.InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_without_rows_a_note_says_that_nothing_was_tested():
    assert gv.from_velocity(velocity(LAW)).score.network.notes == ("The self-test did not run: pass rows as check=.",)


def test_a_network_outside_the_graph_has_no_ode():
    pair = gv.from_velocity(lambda t, x: velocity(LAW)(t, x).detach(), check=rows(64))
    with pytest.raises(gv.InputError, match="do not follow its rows in PyTorch's graph"):
        gv.ode_log_prob(pair, rows(1))
