"""Solvers: measured order, tolerances kept, and rows that do not notice each other."""

import itertools
import math

import pytest
import torch

from girsanov.solvers import Adaptive, FixedGrid
from girsanov.types import InputError

pytestmark = pytest.mark.usefixtures("float64")


class Pendulums:
    """y' = rate * cos(rate s) y, so y(s) = y0 exp(sin(rate s)); the integral of cos(rate s) is sin(rate s) / rate.

    One rate per row of the original batch, in event shape (c, h, w); two integrals, the second twice the first.
    """

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, s, y, rows):
        rates = self.rates[rows]
        slope = rates * torch.cos(rates * s)
        gain = torch.cos(rates * s)
        return slope[:, None, None, None] * y, torch.stack([gain, 2.0 * gain])

    def solution(self, y, end):
        factor = torch.exp(torch.sin(self.rates * end))
        integral = torch.sin(self.rates * end) / self.rates
        return factor[:, None, None, None] * y, torch.stack([integral, 2.0 * integral])


RATES = torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64)


def start():
    return 1.0 + torch.arange(12.0).reshape(3, 2, 2, 1)


def errors(solution, field, y, end):
    state, integrals = field.solution(y, end)
    return (solution.state - state).abs().max(), (solution.integrals - integrals).abs().max()


@pytest.mark.parametrize("end", [2.0, -2.0])
def test_runge_kutta_has_order_four(end):
    field, y = Pendulums(torch.tensor([0.7, 1.3, 2.1])), start()
    found = []
    for steps in (40, 80, 160):
        solution = FixedGrid(steps).solve(field, y, torch.linspace(0.0, end, steps + 1))
        found.append(torch.stack(errors(solution, field, y, end)))
        assert bool((solution.evaluations == 4 * steps).all())
    orders = (torch.stack(found[:-1]) / torch.stack(found[1:])).log2()
    assert bool(((orders > 3.8) & (orders < 4.2)).all()), orders


def test_fixed_grid_visits_every_grid_point():
    visited = []

    def field(s, y, rows):
        visited.append(float(s[0]))
        return torch.zeros_like(y), torch.zeros(1, len(y))

    grid = torch.tensor([0.0, 0.1, 0.5, 2.0])
    FixedGrid(3).solve(field, torch.ones(1, 1), grid)
    assert set(grid.tolist()) <= set(visited)
    assert (FixedGrid(3).points(), Adaptive().points()) == (4, 2)


@pytest.mark.parametrize("end", [2.0, -2.0])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_adaptive_steps_keep_their_tolerance(tolerance, end):
    field, y = Pendulums(RATES), start()
    solution = Adaptive(rtol=tolerance, atol=tolerance).solve(field, y, torch.tensor([0.0, end]))
    state_error, integral_error = errors(solution, field, y, end)
    # local errors below the tolerance add up over some tens of steps, relative to states of up to 12 * e
    assert float(state_error) < 30 * tolerance * 12 * math.e
    assert float(integral_error) < 30 * tolerance
    assert bool((solution.evaluations % 7 == 0).all())
    assert solution.evaluations[0] < solution.evaluations[2]
    assert bool((solution.error > 0).all())


def test_smaller_tolerances_give_smaller_errors():
    field, y = Pendulums(RATES), start()
    found = [
        float(max(errors(Adaptive(tol, tol).solve(field, y, torch.tensor([0.0, 2.0])), field, y, 2.0)))
        for tol in (1e-3, 1e-5, 1e-7, 1e-9)
    ]
    assert all(b < 0.1 * a for a, b in itertools.pairwise(found)), found


def test_rows_do_not_notice_each_other():
    field, y, grid = Pendulums(RATES), start(), torch.tensor([0.0, 2.0])
    together = Adaptive().solve(field, y, grid)
    for row in range(3):
        alone = Adaptive().solve(Pendulums(RATES[row : row + 1]), y[row : row + 1], grid)
        torch.testing.assert_close(alone.state[0], together.state[row], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.integrals[:, 0], together.integrals[:, row], rtol=1e-12, atol=1e-12)
        assert int(alone.evaluations) == int(together.evaluations[row])
    order = torch.tensor([2, 0, 1])
    permuted = Adaptive().solve(Pendulums(RATES[order]), y[order], grid)
    torch.testing.assert_close(permuted.state, together.state[order], rtol=1e-12, atol=1e-12)


def test_rows_that_do_not_arrive_are_counted_in_the_error():
    with pytest.raises(InputError, match=r"1 of 3 rows did not converge in 25 adaptive steps: loosen rtol and atol"):
        Adaptive(1e-9, 1e-9, max_steps=25).solve(
            Pendulums(torch.tensor([0.01, 0.02, 500.0])), start(), torch.tensor([0.0, 1.0])
        )


def test_a_field_that_is_not_finite_never_converges_silently():
    def field(s, y, rows):
        return torch.full_like(y, torch.nan), torch.zeros(1, len(y))

    with pytest.raises(InputError, match="2 of 2 rows did not converge"):
        Adaptive(max_steps=20).solve(field, torch.ones(2, 1), torch.tensor([0.0, 1.0]))


def test_the_start_is_left_alone():
    y = start()
    Adaptive().solve(Pendulums(RATES), y, torch.tensor([0.0, 2.0]))
    assert torch.equal(y, start())


@pytest.mark.parametrize("solver", [FixedGrid(16), Adaptive(1e-7, 1e-7)])
def test_gradients_flow_through_both_solvers(solver):
    y = torch.ones(2, 1, requires_grad=True)

    def field(s, y, rows):
        return -y, y.square().sum(1)[None]

    solution = solver.solve(field, y, torch.linspace(0.0, 1.0, 17))
    (gradient,) = torch.autograd.grad(solution.integrals.sum(), y)
    # the integral of y0^2 exp(-2s) is y0^2 (1 - e^-2) / 2
    torch.testing.assert_close(gradient, torch.full((2, 1), 1.0 - math.exp(-2.0)), rtol=1e-5, atol=0.0)


def test_gradients_of_a_row_that_stands_still_are_finite():
    y = torch.ones(2, 1, requires_grad=True)

    def field(s, y, rows):
        return 0.0 * y, (0.0 * y.sum(1))[None]

    solution = Adaptive().solve(field, y, torch.tensor([0.0, 1.0]))
    (gradient,) = torch.autograd.grad(solution.state.sum() + solution.integrals.sum(), y)
    assert gradient.tolist() == [[1.0], [1.0]]
