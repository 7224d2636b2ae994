"""The theorem as tests: scores, losses, their gradients and metrics through flows; the ODE of the change.

Both sides are computed by different means everywhere: through the flow's inverse, by finite differences of the
declared log-determinant, by differentiating a solver, or in closed form for Gaussians.
"""

import math

import pytest
import torch

from girsanov.calculus import Hutchinson
from girsanov.linear.inverse_jacobian import flow_map
from girsanov.stein import (
    ContinuousFlow,
    FlowMatrix,
    divergence_change,
    fisher_divergence,
    flow_score_matching,
    induced_metric,
    loss_change,
    push_forward,
    riemannian_score_matching,
    score_matching,
    transport,
)
from girsanov.types import InputError
from tests.linear.registry import DIMENSIONS, FLOWS, spline
from tests.seeds import seeded
from tests.stein.registry import potential, score_of

pytestmark = pytest.mark.usefixtures("float64")

each_flow = pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
each_dimension = pytest.mark.parametrize("d", DIMENSIONS)
INVERTIBLE = ("spline", "standardise", "torch")  # with a closed-form inverse


def rows(n, d, seed=0):
    return 0.8 * torch.randn(n, d, generator=seeded(seed))


def inverse_of(name, flow):
    if name == "standardise":
        return flow.inverse
    return flow().transform.inv if name == "spline" else flow.inv


@pytest.mark.parametrize("name", INVERTIBLE)
@each_dimension
def test_pushed_score_is_that_of_the_image_density(name, d):
    flow, x = FLOWS[name](d), rows(5, d)
    y, score = push_forward(x, score_of(potential), flow)
    inverse = inverse_of(name, flow)

    def log_density(y):
        back = inverse(y)
        jacobian = torch.stack([torch.autograd.functional.jacobian(lambda r: inverse(r[None])[0], row) for row in y])
        return potential(back) + torch.linalg.slogdet(jacobian)[1]

    for i, unit in enumerate(torch.eye(d)):
        slope = (log_density(y + 1e-5 * unit) - log_density(y - 1e-5 * unit)) / 2e-5
        torch.testing.assert_close(score[:, i], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", INVERTIBLE)
@each_dimension
def test_loss_at_the_image_is_the_plain_loss_there(name, d):
    """The right side is written at y, through the inverse, with no code of the flow's matrix."""
    flow, x = FLOWS[name](d), rows(4, d)
    inverse = inverse_of(name, flow)

    def image_score(y):
        point = y if y.requires_grad else y.detach().requires_grad_()
        back = inverse(point)
        grads = [torch.autograd.grad(b.sum(), point, create_graph=True)[0] for b in back.unbind(1)]
        log_density = potential(back) + torch.linalg.slogdet(torch.stack(grads, 1))[1]
        return torch.autograd.grad(log_density.sum(), point, create_graph=True)[0]

    at_image = score_matching(flow_map(flow)(x), image_score).rows
    torch.testing.assert_close(flow_score_matching(x, score_of(potential), flow).rows, at_image, rtol=1e-8, atol=1e-8)


@each_flow
@each_dimension
def test_the_two_losses_differ_by_a_term_free_of_the_model(make, d):
    flow, x = make(d), rows(5, d)
    strategy = FlowMatrix(flow)

    def difference(score):
        return flow_score_matching(x, score, flow).rows - score_matching(x, score, diffusion=FlowMatrix(flow)).rows

    # 1/2 |div m|^2 + m : grad(div m)
    point = x.clone().requires_grad_()
    matrix, divergence = strategy(point)
    slopes = [
        torch.autograd.grad(c.sum(), point, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        if c.requires_grad
        else torch.zeros_like(x)
        for c in divergence.unbind(1)
    ]
    constant = 0.5 * divergence.square().sum(1) + sum((matrix[:, :, c] * slopes[c]).sum(1) for c in range(d))
    for score in (score_of(potential), lambda x: -x, lambda x: torch.sin(x) - 0.3 * x):
        torch.testing.assert_close(difference(score), constant.detach(), rtol=1e-10, atol=1e-10)


@each_flow
@each_dimension
def test_both_losses_have_the_same_gradient_row_by_row(make, d):
    flow, x = make(d), rows(3, d)
    strength = torch.tensor(0.25, requires_grad=True)
    score = score_of(lambda x: potential(x, strength))
    at_image = flow_score_matching(x, score, flow).rows
    at_data = score_matching(x, score, diffusion=FlowMatrix(flow)).rows
    for a, b in zip(at_image, at_data, strict=True):
        found, expected = (torch.autograd.grad(loss, strength, retain_graph=True)[0] for loss in (a, b))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@each_flow
@each_dimension
def test_fisher_divergences_agree_row_by_row(make, d):
    flow, x = make(d), rows(5, d)
    p, q = score_of(potential), lambda x: -x
    _, pushed_p = push_forward(x, p, flow)
    y, pushed_q = push_forward(x, q, flow)
    at_image = fisher_divergence(y, pushed_p, pushed_q)
    torch.testing.assert_close(fisher_divergence(x, p, q, diffusion=FlowMatrix(flow)), at_image, rtol=1e-10, atol=1e-10)


@each_flow
@each_dimension
def test_riemannian_loss_is_the_loss_at_the_image(make, d):
    flow, x = make(d), rows(4, d)
    metric = induced_metric(x, FlowMatrix(flow))
    jacobian = torch.linalg.inv(FlowMatrix(flow).matrix(x))
    torch.testing.assert_close(metric, jacobian.mT @ jacobian, rtol=1e-8, atol=1e-8)
    intrinsic = riemannian_score_matching(x, score_of(potential), FlowMatrix(flow)).rows
    at_image = flow_score_matching(x, score_of(potential), flow).rows
    torch.testing.assert_close(intrinsic, at_image, rtol=1e-9, atol=1e-9)


def test_riemannian_loss_of_a_matrix_that_is_no_flow_differs_from_the_diffusion_loss_by_a_constant():
    x = rows(5, 2)

    def square(x):
        return torch.stack(
            [1.0 + x[:, :1] ** 2 * x[:, 1:] ** 2, torch.sin(x[:, :1]), 0.0 * x[:, :1], 2.0 + x[:, 1:]], 1
        )

    def matrix(x):
        return square(x).reshape(-1, 2, 2)

    differences = [
        riemannian_score_matching(x, s, matrix).rows - score_matching(x, s, diffusion=matrix).rows
        for s in (score_of(potential), lambda x: -x)
    ]
    torch.testing.assert_close(differences[0], differences[1], rtol=1e-10, atol=1e-10)


def test_trainable_flows_are_refused():
    flow = spline(2).requires_grad_(True)
    with pytest.raises(InputError, match="train it by likelihood"):
        flow_score_matching(rows(3, 2), lambda x: -x, flow)
    with pytest.raises(InputError, match="depends on parameters"):
        score_matching(rows(3, 2), lambda x: -x, diffusion=flow, divergence=Hutchinson(2))


# The ODE of the change.


def velocity(t, x):
    """Nonlinear, time-dependent, not a gradient."""
    turned = x.roll(1, 1)
    return torch.sin(turned + t[:, None]) - 0.4 * x + 0.1 * x * turned


@pytest.mark.parametrize("d", [1, 2])
def test_transported_score_and_hessian_are_those_of_the_discretised_flow(d):
    """The ODE of score and Hessian against the push-forward by differentiating the solver: 1e-7 at 40 steps."""
    x, p = rows(3, d), score_of(potential)
    flow = ContinuousFlow(velocity, steps=40)
    end = transport(velocity, x, p, steps=40)
    y, score = push_forward(x, p, flow)
    torch.testing.assert_close(end.x, y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end.matrix, FlowMatrix(flow).matrix(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(end.score, score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(end.loss, flow_score_matching(x, p, flow).rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_change_of_the_loss_is_its_derivative_along_the_flow(d):
    x, p, t, h = rows(3, d), score_of(potential), 0.3, 2e-4
    before, state, after = (transport(velocity, x, p, steps=10, horizon=t + k * h) for k in (-1, 0, 1))
    slope = (after.loss - before.loss) / (2.0 * h)
    torch.testing.assert_close(loss_change(velocity, torch.full((3,), t), state), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_change_of_the_divergence_is_its_derivative_along_the_flow(d):
    x, t, h = rows(4, d), 0.4, 2e-4

    def difference(horizon):
        flow = ContinuousFlow(velocity, steps=10, horizon=horizon)
        (y, pushed), (_, other) = (push_forward(x, s, flow) for s in (score_of(potential), lambda x: -x))
        return y, pushed - other

    (_, low), (point, middle), (_, high) = (difference(t + k * h) for k in (-1, 0, 1))
    slope = 0.5 * (high.square().sum(1) - low.square().sum(1)) / (2.0 * h)
    torch.testing.assert_close(
        divergence_change(velocity, torch.full((4,), t), point, middle), slope, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("d", [2, 5])
def test_linear_flow_of_gaussians_in_closed_form(d):
    """q_t = N(0, V_q), p_t = N(0, V_p) under w = Ax: the mean of -D'AD is a trace; to 1e-9."""
    generator = seeded(d)
    a = 0.5 * torch.randn(d, d, generator=generator)
    t, v_q, v_p = 0.6, torch.eye(d) * 0.8, torch.eye(d) + 0.3 * torch.ones(d, d)
    jacobian = torch.linalg.matrix_exp(a * t)
    pushed_q, pushed_p = (jacobian @ v @ jacobian.T for v in (v_q, v_p))
    gap = torch.linalg.inv(pushed_q) - torch.linalg.inv(pushed_p)  # Delta = s_p - s_q = gap x
    root = torch.linalg.cholesky(pushed_q)
    x = math.sqrt(d) * torch.cat([root.T, -root.T])  # 2 d rows with exactly the law's second moments
    change = divergence_change(lambda t, x: x @ a.T, torch.full((2 * d,), t), x, x @ gap).mean()
    expected = -torch.trace(gap @ a @ gap @ pushed_q)
    torch.testing.assert_close(change, expected, rtol=1e-9, atol=1e-9)
    # and the divergence itself: at the start with the matrix of the flow, at the end without
    start = torch.linalg.solve(jacobian, x.T).T
    gap_0 = torch.linalg.inv(v_q) - torch.linalg.inv(v_p)
    matrix = torch.linalg.inv(jacobian)
    torch.testing.assert_close(
        fisher_divergence(start, start @ gap_0, torch.zeros_like(start), matrix),
        fisher_divergence(x, x @ gap, torch.zeros_like(x)),
        rtol=1e-12,
        atol=1e-12,
    )


def test_contraction_makes_the_divergence_grow_by_its_rate():
    x, t = rows(5, 3), 0.6
    ends = [transport(lambda t, x: -0.65 * x, x, s, steps=30, horizon=t) for s in (score_of(potential), lambda x: -x)]
    ratio = (ends[0].score - ends[1].score).square().sum(1) / (score_of(potential)(x) + x).square().sum(1)
    torch.testing.assert_close(ratio, torch.full((5,), math.exp(0.78)), rtol=1e-6, atol=1e-6)
