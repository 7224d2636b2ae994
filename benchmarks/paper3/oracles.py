r"""What bounds of learned pairs promise, on oracles where every number is known.

- bounds: random linear pairs that do not fit each other; the mean log-weight of the chain against its log-density,
  both exact. The Euler sum of the continuous bound is recorded beside it: it is not a bound at finite steps.
- posterior: the same decoders with their exact posterior as encoder: one weight on every path.
- variances: the table of learned step variances of the note of paper 3, section 3 (d).
- gradient: of the bound at the exact decoder, against the gradient of the prior loss (section 2.4).
- floor: mean negative bounds against the entropy of the data, for exact and wrong drifts of closed-form bridges.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.oracles
"""

import math

import torch

from benchmarks._record import Command, record
from girsanov.likelihoods.weights import chain_elbo, importance_bound
from girsanov.pairs import EulerChain, Pair, euler_log_weights
from tests.bridges import test_identities as identities
from tests.bridges.registry import BRIDGES
from tests.linear_pairs import chain_marginal, mean_of_quadratic, random_linear_pair
from tests.pairs.test_chain import KINDS, Posterior, ornstein

TABLE = {4: (1.43, 0.0745), 8: (0.98, -0.0561), 16: (0.70, -0.0743), 32: (0.46, -0.0779), 64: (0.27, -0.0787)}


def random_case(seed):
    """A pair of 1 to 3 dimensions, 1 to 8 steps, any kind of coefficient, with variances of its own, and a row."""
    generator = torch.Generator().manual_seed(seed)
    d, steps = (int(torch.randint(1, high, (), generator=generator)) for high in (4, 9))
    chain, _, _ = random_linear_pair(d, steps, seed, kind=KINDS[seed % len(KINDS)])
    chain.decoder_log_variance += 0.3 * torch.randn(steps, generator=generator)
    return chain, torch.randn(1, d, generator=generator)


def bounds(count):
    """Violations of the chain's bound, and how often the Euler sum exceeds the same density."""
    gaps, euler = [], []
    for seed in range(count):
        chain, x = random_case(seed)
        truth, n = float(chain_marginal(chain).log_prob(x)), chain.length
        gaps.append(truth - float(mean_of_quadratic(chain.log_weights, x, n + 1)))
        plain = EulerChain(chain.pair, n)
        truth = float(chain_marginal(plain).log_prob(x))

        def weigh(rows, noise, pair=chain.pair, n=n):
            return euler_log_weights(pair, rows, noise, steps=n)

        euler.append(truth - float(mean_of_quadratic(weigh, x, n + 1).detach()))
    gaps, euler = torch.tensor(gaps), torch.tensor(euler)
    return {
        "check": "bounds",
        "pairs": count,
        "violations": int((gaps < -1e-9).sum()),
        "smallest_gap": float(gaps.min()),
        "median_gap": float(gaps.median()),
        "euler_above": float((euler < 0).double().mean()),
        "euler_worst": float(-euler.min()),
    }


def posterior(count):
    """Largest difference between a log-weight and the log-density where the encoder is the exact posterior."""
    worst = 0.0
    for seed in range(count):
        chain, _, _ = random_linear_pair(1 + seed % 3, (1, 4, 64)[seed // 3 % 3], seed)
        x = torch.randn(8, 1 + seed % 3, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        weights = Posterior(chain).log_weights(
            x, lambda count, shape=x.shape, g=generator: torch.randn(count, *shape, generator=g)
        )
        worst = max(worst, float((weights - chain_marginal(chain).log_prob(x)).abs().max()))
    return {"check": "posterior", "chains": count, "worst": worst}


def variances(rows):
    """The table of section 3 (d): mean negative bounds with tied and with fitted step variances."""
    x = math.sqrt(0.05) * torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))
    grid = torch.tensor([[[-1.0]], [[1.0]]]) * math.sqrt(0.05)
    for steps, published in TABLE.items():
        chain = ornstein()(steps)
        tied = -float(sum(mean_of_quadratic(chain.log_weights, row, steps + 1) for row in grid) / 2)
        chain.fit_variances(x)
        fitted = -float(sum(mean_of_quadratic(chain.log_weights, row, steps + 1) for row in grid) / 2)
        error = max(abs(tied - published[0]), abs(fitted - published[1]))
        yield {"check": "variances", "steps": steps, "tied": tied, "fitted": fitted, "error_to_note": error}


def gradient():
    """Gradients in the encoder's slope and offset: of the chain by N, and of the prior loss."""
    h = 1e-4
    truth = [
        (identities.prior_loss(**{name: h}) - identities.prior_loss(**{name: -h})) / (2.0 * h)
        for name in ("slope", "offset")
    ]
    values = []
    for steps in (8, 16, 32, 64, 128):
        chain = EulerChain(identities.pair(identities.reversal), steps)
        loss = -identities.over_data(
            lambda x, chain=chain, n=steps: mean_of_quadratic(chain.log_weights, x, n + 1),
        )
        process = chain.pair.inference
        values.append(torch.stack(torch.autograd.grad(loss, [process.slope, process.offset])))
        yield {"check": "gradient", "steps": steps, "slope": float(values[-1][0]), "offset": float(values[-1][1])}
    limit = identities.extrapolate(values)
    error = float((limit - torch.tensor(truth)).abs().max())
    yield {"check": "gradient_limit", "slope": truth[0], "offset": truth[1], "worst_error": error}


def floor(rows):
    """Excess of mean negative bounds over the entropy, in standard errors: never far below 0."""
    for name, make in BRIDGES.items():
        bridge = make()
        x = bridge.start.sample(rows, generator=torch.Generator().manual_seed(0))
        truth, inference = bridge.start.log_prob(x), bridge.pair().inference
        for error in (0.0, -0.3, 0.3):

            def drift(t, y, bridge=bridge, error=error):
                return bridge.backward_drift(t, y) + error * torch.sin(y + 0.5)

            model = Pair(inference, drift, bridge.end)
            estimates = {
                "chain_elbo": chain_elbo(model, x, steps=16),
                "importance_bound": importance_bound(model, x, steps=16, paths=8, groups=2),
            }
            for method, bound in estimates.items():
                excess = truth - bound.value
                stderr = float(excess.std()) / math.sqrt(rows)
                row = {"check": "floor", "bridge": name, "drift_error": error, "method": method}
                yield {**row, "excess": float(excess.mean()), "stderr": stderr, "z": float(excess.mean()) / stderr}


def main():
    """All checks; with --quick fewer pairs and rows, and nothing is recorded."""
    parser = Command(__doc__)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    pairs, chains, rows = (100, 9, 200) if options.quick else (4000, 90, 2000)
    results = [bounds(pairs), posterior(chains), *variances(100 * rows), *gradient(), *floor(rows)]
    for row in results:
        print(" ".join(f"{key}={value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if not options.quick:
        print(f"wrote {record('paper3-oracles', results).name}")


if __name__ == "__main__":
    main()
