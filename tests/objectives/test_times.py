"""Laws of every law of times: an exact measure on the log-SNR range, for every process, and an unbiased integral."""

import pytest
import torch

from girsanov.objectives import DebiasedTime, UniformTime, independent, low_discrepancy
from girsanov.processes import VariancePreserving
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError
from tests.laws import each_process
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

RANGE = (-3.0, 4.0)
LAWS = {
    "uniform": lambda process: UniformTime(process, atom=0.1),
    "uniform-without-atom": lambda process: UniformTime(process, atom=0.0),
    "debiased": lambda process: DebiasedTime(process, atom=0.1),
    "truncated": lambda process: DebiasedTime(process, truncation=2.0, atom=0.1),
    "truncated-without-atom": lambda process: DebiasedTime(process, truncation=2.0, atom=0.0),
    "density": lambda process: LogSNRDensity.from_spectrum(*RANGE, torch.tensor([0.3, 2.0]), atom=True),
}

each_law = pytest.mark.parametrize("make_law", LAWS.values(), ids=LAWS)


def fine(count: int = 400_001) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count


@each_process
@each_law
def test_weights_integrate_any_function_over_log_snr(make_law, make_process):
    """By the midpoint rule in the positions, whose error on these integrands is below 1e-3."""
    process = make_process(log_snr_range=RANGE)
    levels, weights, at_end = make_law(process).quantile(fine())
    f = torch.cos(0.3 * levels) + 0.2 * levels
    end = at_end.to(f) * 5.0
    value = (weights * torch.where(at_end, end, f)).mean()
    grid = torch.linspace(*RANGE, 20_001)
    expected = torch.trapezoid(torch.cos(0.3 * grid) + 0.2 * grid, grid) + (5.0 if bool(at_end.any()) else 0.0)
    torch.testing.assert_close(value, expected, rtol=0.0, atol=2e-3)


@each_process
@each_law
def test_positions_run_from_the_noise_end_to_the_data_end(make_law, make_process):
    law = make_law(make_process(log_snr_range=RANGE))
    levels, _, _ = law.quantile(torch.linspace(0.0, 1.0, 2001))
    assert bool((levels.diff() > -1e-9).all())
    torch.testing.assert_close(levels[[0, -1]], torch.tensor(RANGE), rtol=0.0, atol=1e-6)


@each_process
def test_uniform_times_are_uniform_and_debiased_ones_proportional_to_the_rate(make_process):
    process = make_process(log_snr_range=RANGE)
    positions = fine(2000)
    times = process.time(UniformTime(process, atom=0.0).quantile(positions)[0])
    torch.testing.assert_close(times.diff(), times.diff().mean().expand(1999), rtol=1e-5, atol=1e-9)
    levels, weights, _ = DebiasedTime(process, atom=0.0).quantile(positions)
    torch.testing.assert_close(levels.diff(), torch.full((1999,), 7.0 / 2000), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights, torch.full((2000,), 7.0))


def test_the_truncated_law_is_the_closed_form_of_the_variance_preserving_process():
    """Note of paper 1, section 3: y = Z U; t = y / r_e below the truncation, else the quadratic's root."""
    process = VariancePreserving(log_snr_range=RANGE)
    low, cut = 0.1, 2.0
    end, start = (float(process.time(torch.tensor(level))) for level in RANGE[::-1])
    t_cut = float(process.time(torch.tensor(cut)))
    clock = lambda t: 0.1 * t + 0.5 * 19.9 * t**2  # noqa: E731
    rate = (0.1 + 19.9 * t_cut) / -torch.expm1(torch.tensor(-clock(t_cut)))
    phi = lambda t: torch.log(torch.expm1(torch.tensor(clock(t))))  # noqa: E731
    total = rate * (t_cut - end) + phi(start) - phi(t_cut)
    share = fine(501)  # counted from the data end here
    y = total * share
    root = torch.log1p(torch.exp(y + phi(t_cut) - rate * (t_cut - end)))
    expected = torch.where(y < rate * (t_cut - end), end + y / rate, ((low**2 + 2 * 19.9 * root).sqrt() - low) / 19.9)
    levels, _, _ = DebiasedTime(process, truncation=cut, atom=0.0).quantile(1.0 - share)
    torch.testing.assert_close(process.time(levels), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("draws", [independent, low_discrepancy])
def test_positions_are_uniform_and_seeded(draws):
    from scipy.stats import kstest

    positions = torch.cat([draws(8, seeded(k)) for k in range(250)])
    assert kstest(positions.numpy(), "uniform").pvalue > 1e-4  # false alarm 1e-4 (fewer for the stratified ones)
    assert torch.equal(draws(5, seeded(3)), draws(5, seeded(3)))
    assert abs(float(torch.corrcoef(positions.reshape(250, 8).T)[0, 1])) < 0.35


def test_a_truncation_outside_the_range_is_refused():
    with pytest.raises(InputError, match="truncation must lie in the log-SNR range"):
        DebiasedTime(VariancePreserving(log_snr_range=RANGE), truncation=9.0)
