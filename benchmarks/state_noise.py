r"""What the steps of a chain lose where the noise depends on the state: the bound's gap to the continuum's log-density.

Pairs whose generative process undoes the inference process exactly, with log-densities in closed form: geometric
Brownian motion, the square-root process of Cox, Ingersoll and Ross, and a plane curved by a matrix G(x). Bounds of
Euler steps against those of midpoint steps, by the number of steps; the mean absolute gap over rows, with its error.

    OMP_NUM_THREADS=1 python -m benchmarks.state_noise
"""

import math

import torch

import girsanov as gv
from benchmarks._record import Command, record, settings
from girsanov.pairs import EulerChain, MidpointChain
from girsanov.types import InputError
from tests.state_noise import CASES

STEPS = (8, 16, 32, 64, 128, 256)
CHAINS = {"Euler": EulerChain, "midpoint": MidpointChain}


def measure(case, kind, steps, paths):
    """Mean absolute gap over rows and its standard error; what is missing where a step cannot be taken."""
    try:
        chain = CHAINS[kind](case.pair, steps)
        found = gv.chain_elbo(chain, case.x, paths=paths, generator=torch.Generator().manual_seed(steps))
    except InputError as error:
        return {"refused": str(error)}
    gap = (found.value - case.truth).abs().mean()
    return {"gap": float(gap), "stderr": float(found.stderr.square().sum().sqrt()) / len(case.x)}


def order(rows):
    """Power of the step with which a gap falls: least squares of its logarithm, by the gaps' relative errors."""
    fitted = [row for row in rows if "gap" in row]
    x = torch.tensor([-math.log(row["steps"]) for row in fitted])
    y = torch.tensor([math.log(row["gap"]) for row in fitted])
    weight = torch.tensor([(row["gap"] / row["stderr"]) ** 2 for row in fitted])
    x, y = x - (weight * x).sum() / weight.sum(), y - (weight * y).sum() / weight.sum()
    spread = (weight * x.square()).sum()
    return {"order": float((weight * x * y).sum() / spread), "order_stderr": float(spread.rsqrt())}


def main():
    """All cases, chains and numbers of steps."""
    parser = Command(__doc__, paths=200)
    parser.add_argument("--paths", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    rows, orders = [], []
    for name, make in CASES.items():
        for kind in CHAINS:
            mine = [
                {"case": name, "chain": kind, "steps": steps, **measure(make(), kind, steps, options.paths)}
                for steps in (STEPS[:2] if options.quick else STEPS)
            ]
            rows += mine
            orders.append({"case": name, "chain": kind, **order(mine)})
            print(*mine, orders[-1], sep="\n", flush=True)
    if not options.quick:
        print(f"wrote {record('state-noise', rows, orders=orders, settings=settings(options)).name}")


if __name__ == "__main__":
    main()
