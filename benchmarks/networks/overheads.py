"""Network evaluations of every face, counted in the network itself, beside what an estimate says that it took.

Faces of a pair are its adapters, the likelihoods of each, and PyTorch's distribution; of a fitted model its methods,
its pair, the data frame of ``evaluation.score``, scikit-learn's estimator and PyTorch's distribution. Bounds are
compared with ``Estimate.nfe``, ODEs, whose ``nfe`` counts derivatives too, with the same solver on the bare score.
Evaluations of an adapter's self-test are counted apart: they are made once.

    OMP_NUM_THREADS=1 python -m benchmarks.networks.overheads
"""

__all__: list[str] = []

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import girsanov as gv
from benchmarks._record import Command, record, settings
from benchmarks.networks._conventions import FAMILIES, STATED, Trained, network, train
from girsanov.networks import Ensemble
from tests.adapters.conventional import law

LEVELS = (-8.0, 9.0)


class Counter:
    """Rows that a network was called with."""

    def __init__(self) -> None:
        self.rows = 0

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Count calls of a module."""
        handle = module.register_forward_hook(lambda _, given, found: self.add(len(found)))
        try:
            yield
        finally:
            handle.remove()

    def add(self, rows: int) -> None:
        """So many more."""
        self.rows += rows

    def of(self, call: Callable[[], Any]) -> tuple[Any, int]:
        """What a call returns, and how many rows the network saw meanwhile."""
        before = self.rows
        return call(), self.rows - before


def line(face: str, what: str, calls: int, expected: int, n: int) -> dict[str, Any]:
    """One row of the table."""
    row = {"face": face, "likelihood": what, "rows": n, "evaluations": calls, "expected": expected}
    print(row | {"ratio": calls / expected}, flush=True)
    return row | {"ratio": calls / expected}


def of_pair(
    face: str, pair: gv.ScorePair, x: Tensor, samples: int, ode: int, count: Counter
) -> Iterator[dict[str, Any]]:
    """Likelihoods of a pair; ``ode`` are the evaluations that its ODE takes by itself."""
    n = len(x)
    for call in (gv.elbo, gv.density):
        found, calls = count.of(lambda call=call: call(pair, x, samples=samples))
        yield line(face, call.__name__, calls, n * found.nfe, n)
    yield line(face, "ode_log_prob", count.of(lambda: gv.ode_log_prob(pair, x))[1], ode, n)
    yield line(face, "distribution.log_prob", count.of(lambda: gv.distribution(pair).log_prob(x))[1], ode, n)


def adapters(x: Tensor, check: Tensor, samples: int, steps: int) -> Iterator[dict[str, Any]]:
    """Every adapter beside the bare score, and what its self-test takes."""
    exact, d, count = law(x.shape[1]), x.shape[1], Counter()
    net = train(exact, d, steps)
    with count.watching(net.net):
        for name, stated in STATED.items():
            order = "t, x" if FAMILIES[stated.family].time_first else "x, t"
            given = {"order": order, "reference": exact.moment_match(), "check": check}
            found, tested = count.of(
                lambda s=stated, g=given: s.adapt(network(net, s.family, *s.right), **g).replace(log_snr_range=LEVELS)
            )
            bare = of_process(net, found)
            _, ode = count.of(lambda bare=bare: gv.ode_log_prob(bare, x))
            for row in of_pair(name, found, x, samples, ode, count):
                yield row | {"self_test": tested, "self_test_rows": len(check)}


def of_process(net: Trained, pair: gv.ScorePair) -> gv.ScorePair:
    """The network as a bare score of the same process, prior and reference."""

    def score(t: Tensor, x: Tensor) -> Tensor:
        return net.diffused_score(*pair.process.marginal(t.double()), x.double())

    laws = {"prior": pair.prior, "reference": pair.reference, "event_shape": pair.event_shape}
    return gv.ScorePair(score, pair.process, log_snr_range=LEVELS, **laws)


def one_of(model: gv.DensityModel) -> nn.Module:
    """A model's network, or one member of an ensemble, which is called as often as all of it."""
    found = model.score.network
    return found.members[0] if isinstance(found, Ensemble) else found  # type: ignore[return-value]


def models(x: Tensor, samples: int, steps: int) -> Iterator[dict[str, Any]]:
    """Faces of a fitted table."""
    config = gv.Config(steps=steps, network=gv.networks.MLPConfig(width=32, blocks=1))
    model, n, count = gv.fit(x, config=config), len(x), Counter()
    with count.watching(one_of(model)):
        own = {"model.elbo": model.elbo, "model.density": model.density}
        for name, call in own.items():
            found, calls = count.of(lambda call=call: call(x, samples=samples))
            yield line(name, found.kind, calls, n * found.nfe, n)
        found, calls = count.of(lambda: gv.elbo(model.pair, model.encode(x), samples=samples))
        yield line("gv.elbo(model.pair, model.encode(x))", found.kind, calls, n * found.nfe, n)
        default = n * model.elbo(x).nfe
        yield line("evaluation.score", "elbo", count.of(lambda: gv.evaluation.score(model, x))[1], default, n)
        seen = model.encode(x).view(1, 0).x[:, 0]
        _, ode = count.of(lambda: gv.ode_log_prob(model.pair, seen))
        yield line("model.log_prob", "ode_log_prob", count.of(lambda: model.log_prob(x))[1], ode, n)
        face = gv.distribution(model)
        yield line("distribution.log_prob", "ode_log_prob", count.of(lambda: face.log_prob(x))[1], ode, n)
    estimator = gv.DensityEstimator(0, max_steps=steps, width=32, blocks=1).fit(x.numpy())
    with count.watching(one_of(estimator.model_)):
        found = estimator.model_.elbo(x, samples=estimator.samples)
        _, calls = count.of(lambda: estimator.score_samples(x.numpy()))
        yield line("DensityEstimator.score_samples", found.kind, calls, n * found.nfe, n)


def main() -> None:
    """Count, print and record."""
    parser = Command(__doc__, rows=64, check=64, steps=3, samples=16)
    parser.add_argument("--rows", type=int, default=256, help="that are evaluated")
    parser.add_argument("--check", type=int, default=256, help="rows of the self-test")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--steps", type=int, default=500, help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    exact = law(2)
    x, check = exact.sample(options.rows + options.check).split([options.rows, options.check])
    rows = [*adapters(x, check, options.samples, options.steps), *models(x, options.samples, options.steps)]
    print("most:", max(row["ratio"] for row in rows))
    if not options.quick:
        print(f"wrote {record('networks-overheads', rows, settings=settings(options)).name}")


if __name__ == "__main__":
    main()
