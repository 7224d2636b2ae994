"""What contenders publish that needs no trained network, reproduced first: a term, a figure of a notebook, two tests.

- DDPM (Ho et al. 2020, section 4) states the divergence from the prior as about 1e-5 bits per dimension: here in closed
  form for the digits scaled to [-1, 1], and for the largest pixels that there are;
- flow_matching's notebook of a plane states a density of 1/32 on its checkerboard and draws two estimates of it: here
  with the exact velocity of that law in place of its network, at the notebook's settings;
- flow_matching's and zuko's own tests of log-densities, with their tolerances.

Bits per dimension of images, of all of them, need their networks and their data, and are not reproduced.

    OMP_NUM_THREADS=1 python -m benchmarks.audit.published --site FOLDER
"""

__all__: list[str] = []

import math

import torch
from torch import Tensor
from torch.special import ndtr

import girsanov as gv
from benchmarks._record import Command, record
from benchmarks.audit._flows import flow_matching_from

SIDE = 1.0 / 0.45  # of a cell: the notebook divides unit cells by 0.45
CELLS = torch.tensor([[a, b] for a in range(-2, 2) for b in range(-2, 2) if (a + b) % 2 == 0], dtype=torch.float64)


def prior_bits(squared: float, steps: int = 1000) -> float:
    """KL of DDPM's last noised law from N(0, I), in bits per dimension, at a mean squared pixel."""
    log_bar = torch.log1p(-torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)).sum()
    bar = float(log_bar.exp())
    return 0.5 * (bar * squared - bar - math.log1p(-bar)) / math.log(2.0)


def checkerboard_velocity(t: Tensor, x: Tensor) -> Tensor:
    """Exact velocity of the straight path to the uniform law on the cells, data at 1."""
    t = t.reshape(-1)[:1].double().clamp(1e-4, 1.0 - 1e-3)
    scale, centre = (1.0 - t) / t, (x / t)[:, None]
    low, high = (SIDE * CELLS - centre) / scale, (SIDE * (CELLS + 1.0) - centre) / scale
    mass = (ndtr(high) - ndtr(low)).clamp_min(1e-300)
    weight = mass.log().sum(2).softmax(1)
    slope = (torch.exp(-0.5 * low.square()) - torch.exp(-0.5 * high.square())) / math.sqrt(2.0 * math.pi)
    mean = centre + scale * slope / mass
    return ((weight[:, :, None] * mean).sum(1) - x) / (1.0 - t)


def checkerboard(site: str | None, count: int) -> list[dict[str, object]]:
    """The notebook's figure: midpoint steps of 0.05, the exact divergence or ten probes averaged."""
    solver = flow_matching_from(site)
    if solver is None:
        return []
    torch.manual_seed(0)
    x = SIDE * (CELLS.repeat_interleave(count, 0) + 0.2 + 0.6 * torch.rand(count * len(CELLS), 2))
    ode = solver.ODESolver(lambda x, t: checkerboard_velocity(t, x))

    def density(*, exact: bool) -> float:
        given = {"step_size": 0.05, "method": "midpoint", "exact_divergence": exact}
        normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        runs = [ode.compute_likelihood(x, normal.log_prob, **given)[1] for _ in range(1 if exact else 10)]
        return float(torch.stack(runs).mean(0).exp().mean())

    about = {"published": 1.0 / 32.0, "closed_form": 1.0 / (len(CELLS) * SIDE**2)}
    return [
        {"what": f"density of the checkerboard, {words}", **about, "reached": density(exact=exact)}
        for words, exact in (("exact divergence", True), ("ten probes", False))
    ]


def moved(site: str | None) -> list[dict[str, object]]:
    """flow_matching's own test: a constant velocity moves a normal law."""
    solver = flow_matching_from(site)
    if solver is None:
        return []
    x = torch.zeros(1, 2)
    ode = solver.ODESolver(lambda x, t: torch.ones_like(x) + 0.0 * x)
    _, value = ode.compute_likelihood(x, lambda x: -0.5 * x.square().sum(1), step_size=0.1, exact_divergence=True)
    return [
        {"what": "flow_matching's test, error in nats", "published": 1e-2, "reached": float((value + 1.0).abs().max())}
    ]


def transformed() -> dict[str, object]:
    """The own test of zuko: the free-form transform's log-determinant beside that of its Jacobian."""
    from zuko.transforms import FreeFormJacobianTransform

    torch.manual_seed(0)
    first, second, x = torch.randn(5, 16), torch.randn(16, 5), torch.randn(5)
    transform = FreeFormJacobianTransform(
        lambda t, x: torch.sigmoid(x @ first) @ second, 0.0, 1.0, atol=1e-7, rtol=1e-6
    )
    expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(transform, x)).logabsdet
    error = (transform.log_abs_det_jacobian(x, transform(x)) - expected).abs()
    return {"what": "zuko's test, error in nats", "published": 1e-4, "reached": float(error)}


def main() -> None:
    """Reproduce, print and record."""
    parser = Command(__doc__, points=4)
    parser.add_argument("--points", type=int, default=50, help="in each cell of the checkerboard")
    parser.add_argument("--site", default=None, help="folder with flow_matching, installed with --no-deps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    digits = gv.datasets.load("digits").x.double()
    pixels = 2.0 * digits / digits.max() - 1.0
    rows: list[dict[str, object]] = [
        {
            "what": "DDPM's prior term, bits per dimension, digits",
            "published": 1e-5,
            "reached": prior_bits(float(pixels.square().mean())),
        },
        {"what": "the same of the largest pixels", "published": 1e-5, "reached": prior_bits(1.0)},
        *checkerboard(options.site, options.points),
        *moved(options.site),
        transformed(),
    ]
    for row in rows:
        print(row, flush=True)
    if not options.quick:
        record("audit-published", rows, points=options.points)


if __name__ == "__main__":
    main()
