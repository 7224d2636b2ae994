"""Identities of paper 4, each with its largest error: closed forms, the flow theorem, its limits in time and noise.

The Stein kernel in tiles against its definition by nested autodiff, for every kernel and kind of matrix, wide ones too
(relative to the largest entry). Affine, spline, continuous, elementwise and composed flows in d = 1, 2 and 5, one model
that is neither Gaussian nor radial: pushed scores, losses and their gradients, Fisher divergences, the Riemannian form,
the entries of the Stein kernel with value and gradient. The ODE of the change along a continuous flow; the entropy rate
of geometric Brownian motion, and its integral (note of paper 4, sections 2.3 to 2.6). Errors are absolute but for the
first. Run from the root of the repository:

    OMP_NUM_THREADS=1 python -m benchmarks.paper4.identities
"""

__all__: list[str] = []

import math

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from benchmarks._record import Command, record
from girsanov.stein import (
    ContinuousFlow,
    FlowMatrix,
    Function,
    divergence_change,
    entropy_rate,
    fisher_divergence,
    flow_score_matching,
    loss_change,
    push_forward,
    riemannian_score_matching,
    score_matching,
    transport,
)
from girsanov.stein.gram import dense_gram
from girsanov.stein.points import SteinPoints
from tests.linear.registry import DIMENSIONS, FLOWS
from tests.stein.registry import potential, score_of
from tests.stein.test_drifts import VOLATILITY, divergence, log_normal, log_normal_score
from tests.stein.test_flows import velocity
from tests.stein.test_gram import KERNELS, MATRICES, definition, points_of

ROWS = 6


def largest(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.detach() - b.detach()).abs().max())


def closed_forms(d: int) -> float:
    """The largest error of a Stein kernel's entry over kernels and matrices, relative to the largest entry."""
    errors, (i, j) = [], (~torch.eye(ROWS, dtype=torch.bool)).nonzero(as_tuple=True)
    for name, (_, field) in MATRICES.items():
        x, points = points_of(name, n=ROWS, d=d)
        for kernel, profile in KERNELS.values():
            expected = vmap(lambda x, y, p=profile, m=field: definition(p, m, x, y))(x[i], x[j])
            gram = dense_gram(points, kernel)
            errors.append(largest(gram[i, j], expected) / float(gram.abs().max()))
    return max(errors)


def flow_identities(name: str, d: int) -> dict[str, float]:
    """Of one flow in one dimension."""
    flow = FLOWS[name](d)
    x, matrix = 0.8 * torch.randn(ROWS, d, generator=torch.Generator().manual_seed(d)), FlowMatrix(flow)
    strength = torch.tensor(0.25, requires_grad=True)
    model = score_of(lambda x: potential(x, strength))
    at_image = flow_score_matching(x, model, flow).rows
    at_data = score_matching(x, model, diffusion=matrix).rows
    other = flow_score_matching(x, torch.neg, flow).rows - score_matching(x, torch.neg, diffusion=matrix).rows
    gradients = [
        torch.stack([torch.autograd.grad(row, strength, retain_graph=True)[0] for row in rows])
        for rows in (at_image, at_data)
    ]
    y, pushed = push_forward(x, model, flow)
    general = SteinPoints.at(x, model, Function(matrix.matrix), attached=True).b  # div m by autograd, without Piola
    pushed_other = push_forward(x, torch.neg, flow)[1]
    return {
        "generalised score is the pushed score": largest(general, pushed),
        "losses differ by a term free of the model": largest(at_image - at_data, other),
        "gradients of the losses": largest(*gradients),
        "fisher divergences": largest(
            fisher_divergence(x, model, torch.neg, matrix), fisher_divergence(y, pushed, pushed_other)
        ),
        "riemannian loss": largest(riemannian_score_matching(x, model, matrix).rows, at_image),
        **kernel_identities(matrix, x, y, pushed, general, strength),
    }


def kernel_identities(
    matrix: FlowMatrix, x: Tensor, y: Tensor, pushed: Tensor, b: Tensor, strength: Tensor
) -> dict[str, float]:
    """Stein kernels between rows with kernels at images, by the general closed form, and of the images alone."""
    m, jacobian = matrix.matrix(x), torch.linalg.inv(matrix.matrix(x))
    difference = y[:, None] - y[None]
    u = difference.square().sum(2)
    phi = (1.0 + u).rsqrt()
    first, second = -0.5 * phi**3, 0.75 * phi**5
    # derivatives of k(F(x), F(x')) in x and x' are J' times those in y and y'
    slope_left = torch.einsum("iba,ijb->ija", jacobian, 2.0 * first[..., None] * difference)
    slope_right = torch.einsum("jba,ijb->ija", jacobian, -2.0 * first[..., None] * difference)
    eye = torch.eye(x.shape[1])
    mixed = -2.0 * first[..., None, None] * eye - 4.0 * second[..., None, None] * torch.einsum(
        "ija,ijb->ijab", difference, difference
    )
    mixed = torch.einsum("iba,ijbc,jcd->ijad", jacobian, mixed, jacobian)
    entries = (
        phi * (b @ b.T)
        + torch.einsum("ic,jac,ija->ij", b, m, slope_right)
        + torch.einsum("jc,iac,ija->ij", b, m, slope_left)
        + torch.einsum("iac,ijab,jbc->ij", m, mixed, m)
    )
    plain = phi * (pushed @ pushed.T) - 2.0 * first * x.shape[1] - 4.0 * second * u
    plain = plain + 2.0 * first * torch.einsum("ija,ija->ij", pushed[None] - pushed[:, None], difference)
    slopes = [
        torch.stack([torch.autograd.grad(entry, strength, retain_graph=True)[0] for entry in table.flatten()])
        for table in (entries, plain)
    ]
    return {"stein kernel entries": largest(entries, plain), "gradients of the entries": largest(*slopes)}


def change_identities(d: int) -> dict[str, float]:
    """Along a nonlinear, time-dependent velocity, against central differences of the transported model."""
    x, model = 0.8 * torch.randn(3, d, generator=torch.Generator().manual_seed(d)), score_of(potential)
    t, h, steps = 0.3, 2e-4, 12
    before, state, after = (transport(velocity, x, model, steps=steps, horizon=t + k * h) for k in (-1, 0, 1))
    times = torch.full((3,), t)

    def difference(horizon: float) -> Tensor:
        flow = ContinuousFlow(velocity, steps=steps, horizon=horizon)
        return push_forward(x, model, flow)[1] - push_forward(x, torch.neg, flow)[1]

    low, middle, high = (difference(t + k * h) for k in (-1, 0, 1))
    slope = (high.square().sum(1) - low.square().sum(1)) / (4.0 * h)
    return {
        "change of the loss": largest(loss_change(velocity, times, state), (after.loss - before.loss) / (2.0 * h)),
        "change of the fisher divergence": largest(divergence_change(velocity, times, state.x, middle), slope),
    }


Law = tuple[float, float]  #: mean and variance of the logarithm at time 0


def entropy_rate_at(q: Law, p: Law, t: float) -> float:
    """Minus the change of KL in time, by quadrature of the diffusion score matching with G = 0.6 x."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    q_t, p_t = log_normal(*q, t), log_normal(*p, t)
    x = (q_t[0] + math.sqrt(q_t[1]) * points).exp()[:, None]
    scores = log_normal_score(*p_t), log_normal_score(*q_t)
    rows = entropy_rate(torch.full((len(x),), t), x, *scores, lambda t, x: VOLATILITY * x)
    return float(weights / weights.sum() @ rows)


def entropy_identities(q: Law, p: Law, t: float) -> dict[str, float]:
    """The rate against the closed-form derivative of KL, and its integral from 0 to t against the change of KL."""
    q_t, p_t = log_normal(*q, t), log_normal(*p, t)
    # both laws' log-variances grow by the squared volatility and their means by the same drift
    gap, rise = q_t[0] - p_t[0], VOLATILITY**2
    slope = 0.5 * rise * (1.0 / p_t[1] - q_t[1] / p_t[1] ** 2 - 1.0 / q_t[1] + 1.0 / p_t[1] - gap**2 / p_t[1] ** 2)
    nodes, lengths = np.polynomial.legendre.leggauss(30)
    times = 0.5 * t * (1.0 + nodes)
    drop = 0.5 * t * sum(w * entropy_rate_at(q, p, float(s)) for s, w in zip(times, lengths, strict=True))
    return {
        "entropy rate": abs(entropy_rate_at(q, p, t) + slope),
        "integral of the entropy rate": abs(drop - divergence(q, p) + divergence(q_t, p_t)),
    }


def main() -> None:
    """Every identity, printed and recorded."""
    parser = Command(__doc__)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dimensions, rows = DIMENSIONS[:2] if arguments.quick else DIMENSIONS, []
    for d in dimensions:
        rows.append({"flow": "none", "d": d, "identity": "closed form is the definition", "error": closed_forms(d)})
        for name in FLOWS:
            found = flow_identities(name, d)
            rows += [{"flow": name, "d": d, "identity": key, "error": value} for key, value in found.items()]
        rows += [{"flow": "ode", "d": d, "identity": key, "error": e} for key, e in change_identities(d).items()]
    for case in (((0.2, 0.3), (-0.1, 0.6), 0.5), ((0.2, 0.5), (-0.3, 0.9), 0.7)):
        rows += [{"flow": "brownian", "d": 1, "identity": k, "error": e} for k, e in entropy_identities(*case).items()]
    for identity in dict.fromkeys(row["identity"] for row in rows):
        worst = max((row for row in rows if row["identity"] == identity), key=lambda row: row["error"])
        print(f"{identity:44s} {worst['error']:.1e}  ({worst['flow']}, d={worst['d']})")
    if not arguments.quick:
        print(f"wrote {record('paper4-identities', rows).name}")


if __name__ == "__main__":
    main()
