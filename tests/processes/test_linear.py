"""Laws of linear processes, over all of them: kernel, clock, rates and prior agree with each other and the SDE."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from girsanov import processes
from girsanov.densities import Gaussian, StandardNormal
from girsanov.processes import (
    BrownianMotion,
    LearnedSchedule,
    LinearProcess,
    OrnsteinUhlenbeck,
    Section,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from girsanov.types import InputError
from tests.laws import CLOCKS, PROCESSES, REMEMBERING, each_clock, each_process

pytestmark = pytest.mark.usefixtures("float64")

#: the textbook's kernels, with the default parameters of the registry
KERNELS = {
    "VariancePreserving": (
        lambda t: math.exp(-0.05 * t - 4.975 * t * t),
        lambda t: math.sqrt(1.0 - math.exp(-0.1 * t - 9.95 * t * t)),
    ),
    "SubVariancePreserving": (
        lambda t: math.exp(-0.05 * t - 4.975 * t * t),
        lambda t: 1.0 - math.exp(-0.1 * t - 9.95 * t * t),
    ),
    "OrnsteinUhlenbeck": (lambda t: math.exp(-5.0 * t), lambda t: math.sqrt(1.0 - math.exp(-10.0 * t))),
    "Cosine": (lambda t: math.cos(math.pi * t / 2), lambda t: math.sin(math.pi * t / 2)),
    "HarmonicVP": (lambda t: math.sqrt(1.0 - t), math.sqrt),
    "StraightPath": (lambda t: 1.0 - t, lambda t: t),
    "VarianceExploding": (lambda t: 1.0, lambda t: math.sqrt(0.01**2 * (5000.0 ** (2 * t) - 1.0))),
    "BrownianMotion": (lambda t: 1.0, lambda t: 50.0 * math.sqrt(t)),
}


def lowest(process):
    """The log-SNR down to which the clock is asked: those of sections and learned schedules end."""
    return process.end_log_snr if isinstance(process, Section | LearnedSchedule) else -15.0


def test_every_kind_of_process_is_under_the_laws():
    kinds = {kind for kind in vars(processes).values() if isinstance(kind, type) and issubclass(kind, LinearProcess)}
    assert {type(make()) for make in CLOCKS.values()} == kinds - {LinearProcess}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_is_the_textbooks(name):
    times = torch.tensor([0.0, 1e-3, 0.2, 0.5, 0.8, 0.99])
    alpha_t, sigma_t = PROCESSES[name]().marginal(times)
    expected = torch.tensor([[kernel(float(t)) for t in times] for kernel in KERNELS[name]])
    torch.testing.assert_close(torch.stack([alpha_t, sigma_t]), expected, rtol=1e-11, atol=0.0)


@each_clock
def test_kernel_solves_the_moment_equations_of_the_sde(make_process):
    process = make_process()

    def moments(t, y):
        rate, squared = process.rates(torch.tensor(t))
        return [float(rate) * y[0], 2.0 * float(rate) * y[1] + float(squared)]

    times = [0.1, 0.4, 0.9]
    alpha, sigma = process.marginal(torch.zeros(1))
    begin = [float(alpha), float(sigma.square())]  # 1 and 0, but for a schedule that starts with noise
    solution = solve_ivp(moments, (0.0, 0.9), begin, t_eval=times, rtol=1e-10, atol=1e-12, method="DOP853")
    alpha_t, sigma_t = process.marginal(torch.tensor(times))
    torch.testing.assert_close(alpha_t, torch.tensor(solution.y[0]), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(sigma_t.square(), torch.tensor(solution.y[1]), rtol=1e-8, atol=1e-10)


@each_clock
def test_rates_are_the_derivatives_of_the_kernel(make_process):
    process = make_process()
    t = torch.linspace(0.03, 0.97, 13).requires_grad_()
    alpha_t, sigma_t = process.marginal(t)
    rate, squared = process.rates(t)
    (log_alpha_slope,) = torch.autograd.grad((alpha_t.log() + 0.0 * t).sum(), t, retain_graph=True)
    (variance_slope,) = torch.autograd.grad(sigma_t.square().sum(), t)
    torch.testing.assert_close(rate, log_alpha_slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(squared, variance_slope - 2.0 * rate * sigma_t.square(), rtol=1e-8, atol=1e-12)


@each_clock
def test_log_snr_is_the_clock_of_the_noise(make_process):
    process = make_process()
    t = torch.linspace(0.03, 0.97, 13).requires_grad_()
    _, sigma_t = process.marginal(t)
    _, squared = process.rates(t)
    (slope,) = torch.autograd.grad(process.log_snr(t).sum(), t)
    torch.testing.assert_close(squared / sigma_t.square(), -slope, rtol=1e-9, atol=0.0)


@each_clock
def test_drift_and_diffusion_apply_the_rates_to_rows_of_any_shape(make_process):
    process, t = make_process(), torch.tensor([0.3, 0.7])
    x = torch.randn(2, 1, 2, 3)
    rate, squared = process.rates(t)
    torch.testing.assert_close(process.drift(t, x), rate.reshape(2, 1, 1, 1) * x)
    torch.testing.assert_close(process.diffusion(t, x), squared.sqrt())
    assert process.drift(t[:1], x.float()).dtype == torch.float32


@each_clock
def test_time_inverts_log_snr(make_process):
    process = make_process()
    levels = torch.linspace(lowest(process), 15.0, 61)
    times = process.time(levels)
    torch.testing.assert_close(process.log_snr(times), levels, rtol=0.0, atol=2e-8)
    assert bool((times.diff() < 0).all())
    inside = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(process.time(process.log_snr(inside)), inside, rtol=1e-9, atol=0.0)


@each_clock
def test_marginal_at_is_the_marginal_at_that_time(make_process):
    process = make_process()
    levels = torch.linspace(max(-14.0, lowest(process)), 15.0, 59)
    direct, through_time = process.marginal_at(levels), process.marginal(process.time(levels))
    for a, b in zip(direct, through_time, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(2.0 * (direct[0] / direct[1]).log(), levels, rtol=0.0, atol=1e-12)


@each_clock
def test_log_snr_decreases_from_infinity_at_the_data(make_process):
    process = make_process()
    levels = process.log_snr(torch.cat([torch.logspace(-12, -2, 60), torch.linspace(0.011, 1.0, 200)]))
    assert bool((levels.diff() < 0).all())
    for dtype in (torch.float32, torch.float64):
        start = torch.zeros(1, dtype=dtype)
        if isinstance(process, LearnedSchedule):  # which starts at the end of its range, with that much noise
            assert float(process.log_snr(start)) == process.log_snr_range[1]
            continue
        alpha_0, sigma_0 = process.marginal(start)
        assert (float(alpha_0), float(sigma_0), float(process.log_snr(start))) == (1.0, 0.0, math.inf)


@each_clock
def test_float32_arguments_lose_nothing_but_their_own_rounding(make_process):
    process = make_process()
    times = torch.cat([torch.logspace(-7, -1, 25), 1.0 - torch.logspace(-6, -1, 25), torch.ones(1)]).float()
    levels = torch.linspace(lowest(process), 15.0, 61).float()
    for method, argument in (("marginal", times), ("rates", times[:-1]), ("marginal_at", levels)):
        for narrow, wide in zip(
            getattr(process, method)(argument), getattr(process, method)(argument.double()), strict=True
        ):
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow.double(), wide, rtol=2e-7, atol=0.0)
    for method, argument in (("log_snr", times), ("time", levels)):
        narrow, wide = (getattr(process, method)(a) for a in (argument, argument.double()))
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-7, atol=1e-9)


@each_clock
def test_the_range_ends_at_the_horizon_or_at_fifteen(make_process):
    process = make_process()
    end = float(process.log_snr(torch.tensor(process.horizon)))
    assert process.log_snr_range == (max(end, -15.0), 15.0)


@each_process
def test_a_range_may_be_given(make_process):
    assert make_process(log_snr_range=(-3.0, 4.0)).log_snr_range == (-3.0, 4.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_prior_is_standard_unless_the_kernel_remembers_the_data(name):
    process = PROCESSES[name]()
    if name not in REMEMBERING:
        assert isinstance(process.prior(), StandardNormal)
        return
    with pytest.raises(InputError, match=r"remembers the data at log-SNR .* pass prior=, or a reference"):
        process.prior()
    reference = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    prior = process.prior(reference)
    end = process.marginal(torch.tensor(1.0))[1]
    torch.testing.assert_close(prior.mean, reference.mean)
    torch.testing.assert_close(prior.covariance, reference.covariance + end**2 * torch.eye(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VariancePreserving(beta_min=0.0), "beta_min must be a positive number; got 0.0"),
        (lambda: VariancePreserving(beta_max=math.inf), "beta_max must be a positive number"),
        (lambda: SubVariancePreserving(beta_min=-1.0), "beta_min must be a positive number"),
        (lambda: OrnsteinUhlenbeck(beta=math.nan), "beta must be a positive number"),
        (lambda: VarianceExploding(sigma_min=-0.1), "sigma_min must be a positive number"),
        (lambda: VarianceExploding(sigma_min=2.0, sigma_max=1.0), "sigma_max must exceed sigma_min"),
        (lambda: BrownianMotion(sigma=0.0), "sigma must be a positive number"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


OWN = {"LearnedSchedule": LearnedSchedule, "Section": lambda **options: Section(**{**BETWEEN, **options})}
BETWEEN = {"process": VariancePreserving(), "begin": 0.2, "end": 0.7}
CONSTANTS = [
    *((kind, name) for kind in (*PROCESSES, *OWN) for name in ("log_snr_range",) if kind != "Section"),
    *((kind, name) for kind in ("VariancePreserving", "SubVariancePreserving") for name in ("beta_min", "beta_max")),
    ("OrnsteinUhlenbeck", "beta"),
    *(("VarianceExploding", name) for name in ("sigma_min", "sigma_max")),
    ("BrownianMotion", "sigma"),
    ("LearnedSchedule", "units"),
    *(("Section", name) for name in ("begin", "end")),
]


@pytest.mark.parametrize("value", ["a", True, None, [1.0], math.nan, 1j, ("a", "b"), (True, 2.0), torch.ones(2)])
@pytest.mark.parametrize(("kind", "name"), CONSTANTS, ids=str)
def test_what_is_no_number_is_refused_in_one_sentence(kind, name, value):
    make = BrownianMotion if kind == "BrownianMotion" else {**PROCESSES, **OWN}[kind]
    if (name, value) == ("log_snr_range", None) and kind in PROCESSES:
        assert not make(log_snr_range=None).declares_range
        return
    with pytest.raises(InputError, match=r"begin < end" if kind == "Section" else name) as found:
        make(**{name: value})
    assert "\n" not in str(found.value)


def test_constants_of_numpy_and_torch_are_numbers():
    for number in (np.float32(0.5), np.int64(1), torch.tensor(0.5)):
        assert float(BrownianMotion(sigma=number).marginal(torch.tensor([1.0]))[1]) == float(number)
    assert VariancePreserving(log_snr_range=np.array([-3.0, 4.0])).declares_range


def test_variance_preserving_with_a_constant_rate_is_ornstein_uhlenbeck():
    t = torch.linspace(0.0, 1.0, 11)
    constant, stationary = VariancePreserving(beta_min=4.0, beta_max=4.0), OrnsteinUhlenbeck(beta=4.0)
    for a, b in zip(constant.marginal(t), stationary.marginal(t), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(constant.time(constant.log_snr(t[1:])), t[1:])


def test_an_inverted_range_is_refused():
    with pytest.raises(InputError, match="log_snr_range"):
        VariancePreserving(log_snr_range=(5.0, -5.0))
