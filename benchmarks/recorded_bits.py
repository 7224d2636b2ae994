r"""Some sixty small calls across the library and their bits: what a change of its insides must not move.

    python benchmarks/recorded_bits.py --write FILE        # before the change
    python benchmarks/recorded_bits.py --against FILE      # after it: which calls moved, and by how much

Every call is small, seeded and takes one thread. A record holds for one machine and one set of libraries, so that it
is made anew before a change and is not part of the repository.
"""

# ruff: noqa: D103  (a call is named by what it calls)
import argparse
import hashlib
import json
from functools import cache
from pathlib import Path

import torch

import girsanov as gv
from girsanov import applications, bridges, stein
from girsanov.datasets import continuous_table, load
from girsanov.likelihoods.denoising import Quadrature, density_by_quadrature
from girsanov.networks import TwoLayerNetwork
from girsanov.objectives import Batch, DenoisingObjective, PairObjective
from girsanov.transforms import Compose

LAW = gv.GaussianMixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[-2.0, 0.5], [1.5, -0.5]]).double(),
    torch.stack([torch.eye(2), torch.tensor([[0.5, 0.2], [0.2, 0.4]])]).double(),
)
CALLS = {}


def call(function):
    """Register a function without arguments that returns tensors, estimates or numbers."""
    CALLS[function.__name__] = function
    return function


def seeded(number=0):
    """A generator."""
    return torch.Generator().manual_seed(number)


@cache
def rows(n=40, dim=2):
    """Rows near the law."""
    return 1.5 * torch.randn(n, dim, generator=seeded(n + dim), dtype=torch.float64)


PROCESSES = {
    "vp": gv.VariancePreserving(),
    "ve": gv.VarianceExploding(),
    "subvp": gv.processes.SubVariancePreserving(),
    "cosine": gv.processes.Cosine(),
    "harmonic": gv.processes.HarmonicVP(),
    "straight": gv.StraightPath(),
}
VP = PROCESSES["vp"]
REFERENCE = LAW.moment_match()


class Shifted(torch.nn.Module):
    """A score that depends on its condition: the law's, moved."""

    def forward(self, t, x, condition=None):
        """The score."""
        move = 0.0 if condition is None else 0.3 * condition.reshape(-1, 1).to(x)
        return LAW.score(VP)(t, x - move)


for name, process in PROCESSES.items():
    own = {"prior": LAW.marginal(process, 1.0)} if name == "ve" else {}
    plain = gv.ScorePair(LAW.score(process), process, **own)
    CALLS |= {
        f"elbo_{name}": lambda p=plain: gv.elbo(p, rows()),
        f"elbo_with_reference_{name}": lambda p=plain: gv.elbo(p.replace(reference=REFERENCE), rows()),
        f"ode_{name}": lambda p=plain: gv.ode_log_prob(p, rows(8)),
        f"sample_{name}": lambda p=plain: gv.sample(p.replace(event_shape=(2,)), 20, steps=16),
    }


@call
def density_exact():
    return gv.density(gv.ScorePair(LAW.score(VP), reference=REFERENCE), rows(), exact=True)


@call
def density_to_a_target():
    return gv.density(gv.ScorePair(LAW.score(VP), reference=REFERENCE), rows(), target=0.05)


@call
def density_by_grid():
    return density_by_quadrature(
        gv.ScorePair(LAW.score(VP), reference=REFERENCE), rows(4), noise=Quadrature(spacing=0.3)
    )


@call
def elbo_of_a_decoder():
    return gv.elbo(gv.ScorePair(LAW.score(VP), reference=REFERENCE, decoder=REFERENCE), rows(), samples=48)


@call
def elbo_of_a_condition():
    return gv.elbo(gv.ScorePair(Shifted(), VP), rows(), condition=torch.arange(40.0).double()[:, None] / 40)


@call
def ode_hutchinson():
    return gv.ode_log_prob(gv.ScorePair(LAW.score(VP)), rows(8), divergence=gv.calculus.Hutchinson(4))


@call
def ode_fixed_grid():
    return gv.ode_log_prob(gv.ScorePair(LAW.score(VP), reference=REFERENCE), rows(8), solver=gv.solvers.FixedGrid(16))


@call
def squared_errors():
    return gv.likelihoods.squared_errors(
        gv.ScorePair(LAW.score(VP), reference=REFERENCE), rows(8), torch.tensor([-2.0, 0.0, 3.0])
    )


@call
def ddpm():
    return _fields(gv.likelihoods.ddpm_bound(gv.ScorePair(LAW.score(VP)), rows(8)))


@call
def difference():
    return gv.difference(gv.ScorePair(Shifted(), VP), rows(), 0, 1)


@call
def pointwise():
    return _fields(gv.pointwise_information(gv.ScorePair(Shifted(), VP), rows(), 1))


@call
def curve():
    return _fields(gv.likelihoods.difference_curve(gv.ScorePair(Shifted(), VP), rows(8), 0, 1))


@call
def score_test():
    return [t.result.statistic for t in gv.score_test(gv.ScorePair(LAW.score(VP)), rows()).levels]


@call
def sample_ode():
    return gv.sample(gv.ScorePair(LAW.score(VP), event_shape=(2,), reference=REFERENCE), 20, steps=16, lmbd=1.0)


@call
def sample_denoised():
    return gv.sample(gv.ScorePair(LAW.score(VP), event_shape=(2,)), 20, steps=16, lmbd=-0.5, denoise=True)


@call
def sample_with_log_prob():
    x, estimate = gv.sample_with_log_prob(
        gv.ScorePair(LAW.score(VP), event_shape=(2,), reference=REFERENCE), 20, steps=32
    )
    return x, estimate


@cache
def pair(lmbd=0.0):
    """The plug-in pair of the exact score."""
    return gv.ScorePair(LAW.score(VP), event_shape=(2,)).family(lmbd)


def ornstein():
    """A pair that is no plug-in."""
    process = gv.OrnsteinUhlenbeck(2.0)
    return gv.Pair(process, lambda t, x: -process.drift(t, x), gv.densities.StandardNormal(), event_shape=(2,))


for lmbd in (0.0, 0.5, -1.0):
    CALLS[f"path_weights_{lmbd}"] = lambda m=lmbd: gv.path_log_weight(pair(m), rows(8), steps=24)
    CALLS[f"chain_elbo_{lmbd}"] = lambda m=lmbd: gv.chain_elbo(pair(m), rows(8), steps=24)


@call
def path_weights_of_a_pair():
    return gv.path_log_weight(ornstein(), rows(8), steps=24)


@call
def feynman_kac():
    return gv.likelihoods.feynman_kac(pair(), rows(8), steps=24, paths=16)


@call
def importance():
    return gv.importance_bound(pair(), rows(8), steps=24, paths=8)


@call
def bracket():
    found = gv.chain_bracket(pair(), 12, steps=16, paths=8)
    return found.x, found.lower, found.upper


@call
def ancestral_chain():
    chain = gv.AncestralChain(gv.ScorePair(LAW.score(VP), reference=REFERENCE, event_shape=(2,)), 16)
    return gv.chain_elbo(chain, rows(8))


@call
def ancestral_importance():
    chain = gv.AncestralChain(gv.ScorePair(LAW.score(VP), event_shape=(2,)), 16)
    return gv.importance_bound(chain, rows(8), paths=8)


def _two_layer():
    torch.manual_seed(0)
    return TwoLayerNetwork((2,), width=16)


@cache
def trained():
    """A score model after a few steps."""
    network = _two_layer()
    return gv.ScoreModel(network, gv.VariancePreserving(), "noise", reference=REFERENCE)


def _loss(objective):
    x, generator = rows(), seeded(1)
    value = objective(trained(), Batch(x.float()), generator, 0)
    return value.value if hasattr(value, "value") else value


@call
def loss_denoising():
    return _loss(DenoisingObjective(trained(), Compose([])))


@call
def loss_score_matching():
    losses = []
    for matching in (
        gv.objectives.DenoisingScoreMatching(),
        gv.objectives.ImplicitScoreMatching(),
        gv.objectives.SlicedScoreMatching(),
        gv.objectives.ExplicitScoreMatching(gv.ScorePair(LAW.score(VP))),
    ):
        objective = gv.objectives.ScoreMatchingObjective(matching)
        losses.append(objective(gv.ScorePair(LAW.score(VP)), Batch(rows()), seeded(2), 0))
    return losses


@call
def loss_pair():
    return PairObjective()(ornstein(), Batch(rows()), seeded(3), 0)


@call
def loss_chain():
    return gv.objectives.ChainObjective()(gv.EulerChain(pair(), 8), Batch(rows()), seeded(3), 0)


@cache
def table():
    """A fit of fifty steps to a table with two columns."""
    return gv.fit(
        continuous_table(rows(200).exp()), config=gv.Config(steps=50, network=gv.networks.MLPConfig(width=16, blocks=1))
    )


@cache
def digits(conditional=True):
    """A fit of fifty steps to digits."""
    settings = gv.Config(steps=50, network=gv.networks.MLPConfig(width=32, blocks=1), conditional=conditional, rank=16)
    return gv.fit(load("digits"), config=settings)


def pixels(n=6):
    """The first digits."""
    return load("digits").x[:n]


CALLS |= {
    "fit_table": lambda: list(table().state_dict().values()),
    "table_elbo": lambda: table().elbo(rows(8).exp()),
    "table_density": lambda: table().density(rows(8).exp()),
    "table_ode": lambda: table().log_prob(rows(4).exp()),
    "table_sample": lambda: table().sample(8, steps=8),
    "table_score_test": lambda: [t.result.pvalue for t in table().score_test(rows(40).exp()).levels],
    "fit_digits": lambda: list(digits().state_dict().values()),
    "digits_elbo": lambda: digits().elbo(pixels(), condition=[3]),
    "digits_ode": lambda: digits().log_prob(pixels(2), condition=[3], solver=gv.solvers.FixedGrid(6)),
    "digits_sample": lambda: digits().sample(4, steps=8, condition=[3]),
    "digits_difference": lambda: digits().difference(pixels(), 3, 5),
    "digits_weighted": lambda: gv.density_model.weighted_elbo(
        digits(), pixels(2), draws=4, replicates=2, condition=[3]
    ),
    "digits_curve": lambda: _fields(gv.evaluation.denoising_curve(digits(), pixels(), condition=[3])),
    "digits_regulariser": lambda: gv.applications.density_regulariser(digits(), pixels(2), condition=[3]),
}


def _fields(value):
    return [getattr(value, field) for field in value.__dataclass_fields__]


@call
def certificate():
    return _fields(gv.certify(table(), rows(8).exp()))


@call
def compare():
    return gv.compare(table(), table(), rows(8).exp())


@call
def classifier():
    return _fields(gv.DiffusionClassifier(digits(), samples=8, max_samples=16).classify(pixels()))


@call
def novelty():
    held = load("digits").x[100:140]
    return gv.applications.Novelty(samples=16).fit(digits(False), held).score(pixels())


@call
def peers():
    from girsanov.datasets import Splits
    from girsanov.peers import PeerData, fit_gaussian

    data = continuous_table(rows(200).exp())
    found = PeerData(table(), data.x, Splits.from_json(table().record["splits"]))
    return found.estimate(fit_gaussian(found, 1.0), data.x[:8])


@call
def stein_tests():
    score = lambda x: -x  # noqa: E731
    x = LAW.sample(60, generator=seeded(4))
    result = gv.goodness_of_fit(x, score)
    return (
        result.statistic,
        result.pvalue,
        gv.stein.kernel_stein_discrepancy(x, score),
        gv.stein.score_matching(x, score).rows,
    )


@call
def stein_diffusions():
    x = LAW.sample(60, generator=seeded(4))
    return [gv.stein.score_matching(x, lambda y: -y, diffusion=name).rows for name in sorted(stein.DIFFUSIONS)]


@call
def energy():
    from girsanov.training import TrainingConfig

    torch.manual_seed(0)
    tilted = gv.applications.TiltedGaussian(REFERENCE, width=8)
    fitted = gv.applications.fit_energy(tilted, rows(100), config=TrainingConfig(steps=20))
    return fitted.energy(rows(8))


@call
def tokens():
    from girsanov.training import TrainingConfig

    torch.manual_seed(0)
    x = torch.randn(60, 3, 2, generator=seeded(5))
    model = gv.applications.fit_tokens(
        x, config=TrainingConfig(steps=10), width=8, layers=1, heads=2, head_width=8, head_blocks=1
    )
    return model.log_prob(x[:4]).tokens.value


@call
def bridge_closed():
    m, s = torch.zeros(2).double(), torch.eye(2).double()
    bridge = gv.gaussian_bridge(m, s, m + 2.0, 0.5 * s, reference=gv.BrownianMotion(1.0))
    return *bridge.sample_coupling(8, generator=seeded(6)), bridge.forward_drift(0.3, rows(8))


@cache
def bridge():
    """A bridge between rows from its mixture start, and one alternation."""
    made = gv.SchrodingerBridge(
        gv.BrownianMotion(2.0),
        dim=2,
        start=bridges.MixtureStart(components=3),
        steps=8,
        network=bridges.NetworkConfig(width=16),
        alternating=bridges.AlternatingConfig(rounds=1, steps=20),
    )
    return made.fit(rows(80).float(), rows(80).float() + 2.0)


CALLS |= {
    "bridge_sample": lambda: bridge().sample(rows(8).float(), generator=seeded(7)),
    "bridge_backward": lambda: bridge().sample(rows(8).float(), direction="backward", generator=seeded(7)),
    "bridge_path": lambda: bridge().sample(rows(8).float(), generator=seeded(7), return_path=True),
    "bridge_log_prob": lambda: bridge().log_prob(
        rows(4).float(), end=gv.Gaussian(torch.full((2,), 2.0), 2.0), tolerance=1.0
    ),
}


@cache
def joint():
    """A bridge to a prior."""
    made = gv.SchrodingerBridge(
        gv.BrownianMotion(1.0),
        dim=2,
        steps=8,
        network=bridges.NetworkConfig(width=16),
        joint=bridges.JointConfig(steps=20),
    )
    return made.fit(rows(80).float(), prior=gv.Gaussian(torch.zeros(2), 2.0))


@call
def bridge_elbo():
    return joint().elbo(rows(8).float())


@call
def annealing():
    return applications.log_normaliser(
        lambda x: LAW.log_prob(x), REFERENCE, annealing=gv.applications.Annealing(particles=32, levels=10)
    ).__dict__


def numbers(found):
    """All tensors of what a call returned, flattened in order."""
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().double().flatten()]
    if isinstance(found, gv.Estimate):
        return numbers([found.value, found.stderr, torch.tensor(float(found.nfe))])
    if hasattr(found, "__dataclass_fields__"):
        return numbers(_fields(found))
    if isinstance(found, dict):
        return numbers(list(found.values()))
    if isinstance(found, list | tuple):
        return [part for value in found for part in numbers(value)]
    if isinstance(found, int | float | bool):
        return [torch.tensor([float(found)], dtype=torch.float64)]
    if hasattr(found, "to_numpy"):
        return [torch.from_numpy(found.to_numpy(float)).flatten()]
    return []


def measure(names):
    """Bits and numbers of every call."""
    found = {}
    for name in names:
        try:
            parts = numbers(CALLS[name]())
        except Exception as error:  # what fails is recorded too: it must not go unseen
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            print(name, found[name]["error"], flush=True)
            continue
        flat = torch.cat(parts) if parts else torch.empty(0)
        digest = hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]
        found[name] = {"bits": digest, "count": len(flat), "numbers": flat[:64].tolist()}
    return found


def compare_to(before, after):
    """Print what moved; how many calls did."""
    moved = 0
    for name, was in before.items():
        now = after.get(name, {"error": "no longer called"})
        if was.get("bits") == now.get("bits") and was.get("bits"):
            continue
        moved += 1
        if "numbers" in was and "numbers" in now and was["count"] == now["count"]:
            a, b = torch.tensor(was["numbers"]).double(), torch.tensor(now["numbers"]).double()
            print(f"{name}: largest change {float((a - b).abs().max()):.3g} of {float(a.abs().max()):.3g}")
        else:
            print(f"{name}: {was.get('error', was.get('count'))} -> {now.get('error', now.get('count'))}")
    print(f"{len(before) - moved} of {len(before)} calls have the same bits")
    return moved


def main():
    """Write a record, or compare with one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.names or list(CALLS)
    found = measure(names)
    if options.write is not None:
        options.write.write_text(json.dumps(found, indent=1))
    if options.against is not None:
        before = {name: was for name, was in json.loads(options.against.read_text()).items() if name in names}
        return int(compare_to(before, found) > 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
