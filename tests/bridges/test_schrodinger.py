"""Learned bridges against closed forms: both ends, the coupling between them, density, several times, saving."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from girsanov.bridges import (
    AlternatingConfig,
    EndRows,
    JointConfig,
    MixtureStart,
    NetworkConfig,
    SchrodingerBridge,
    gaussian_bridge,
)
from girsanov.densities import Gaussian, GaussianMixture, StandardNormal
from girsanov.processes import BrownianMotion, Cosine, OrnsteinUhlenbeck
from girsanov.types import InputError
from tests.seeds import seeded

SMALL = NetworkConfig(width=16, blocks=1)
QUICK = AlternatingConfig(rounds=1, steps=10, paths=200)
MIXTURE = MixtureStart(components=2, steps=40)
S0, S1 = torch.tensor([[1.0, 0.3], [0.3, 0.5]]), torch.tensor([[0.6, -0.2], [-0.2, 1.4]])
EXACT = gaussian_bridge(torch.tensor([-1.0, 0.0]), S0, torch.tensor([1.0, 0.5]), S1, reference=BrownianMotion())


def ends(n, seed=0):
    generator = seeded(seed)
    return EXACT.start.sample(n, generator=generator).float(), EXACT.end.sample(n, generator=generator).float()


@pytest.fixture(scope="module")
def quick():
    return SchrodingerBridge(BrownianMotion(), dim=2, steps=30, network=SMALL, alternating=QUICK).fit(*ends(5000))


def cross(x0, x1):
    return ((x0 - x0.mean(0)).T @ (x1 - x1.mean(0)) / len(x0)).double()


def test_gaussian_start_is_the_closed_form_of_the_rows_moments(quick):
    x0, _ = ends(20_000, seed=1)
    x1 = quick.sample(x0)
    assert float((cross(x0, x1) - EXACT.cross).norm() / EXACT.cross.norm()) < 0.08
    assert float((x1.mean(0) - EXACT.end.mean).norm()) < 0.08
    t = torch.tensor([0.1, 0.6])
    for ours, theirs in ((quick.forward_drift, EXACT.forward_drift), (quick.backward_drift, EXACT.backward_drift)):
        error = ours(t, x0[:2]).detach() - theirs(t, x0[:2])
        assert float(error.norm()) < 0.25


def test_sampling_backwards_arrives_at_the_start(quick):
    _, x1 = ends(20_000, seed=1)
    x0 = quick.sample(x1, "backward")
    assert float((x0.mean(0) - EXACT.start.mean).norm()) < 0.08
    assert float((torch.cov(x0.T) - S0).norm() / S0.norm()) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "train_steps", "ema_decay"), [("matching", 100, 0.95), ("trajectory", 400, 0.97)])
def test_projections_from_the_reference_reach_the_bridge(loss, train_steps, ema_decay):
    """From the reference, whose ends are uncoupled to the target: the cross-covariance within a few per cent.

    The error of a network of this size is the tolerance; the reference's own is 0.5 in the coupling, 1.8 in the mean.
    """
    settings = AlternatingConfig(
        rounds=6, steps=train_steps, paths=4000, learning_rate=1e-2, loss=loss, ema_decay=ema_decay
    )
    bridge = SchrodingerBridge(
        BrownianMotion(), dim=2, start="reference", steps=20, network=SMALL, alternating=settings
    )
    bridge.fit(*ends(8000))
    x0, _ = ends(20_000, seed=1)
    x1 = bridge.sample(x0)
    assert float((x1.mean(0) - EXACT.end.mean).norm()) < 0.15
    assert float((torch.cov(x1.T) - S1).norm() / S1.norm()) < 0.15
    assert float((cross(x0, x1) - EXACT.cross).norm() / EXACT.cross.norm()) < 0.2
    assert any(entry["accepted"] for entry in bridge.history)


def test_a_correction_that_held_out_paths_do_not_confirm_is_not_made():
    """A learning rate that ruins the networks leaves the closed form as it was."""
    settings = dataclasses.replace(QUICK, learning_rate=1.0, ema_decay=0.0)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=5, network=SMALL, alternating=settings).fit(*ends(500))
    assert not any(entry["accepted"] for entry in bridge.history)
    assert not any(bool(p.any()) for p in [bridge.sections[0].forward_half.network.affine])


def test_between_rows_there_is_no_bound(quick):
    for call in (quick.elbo, quick.importance_bound):
        with pytest.raises(InputError, match="density of neither end is known"):
            call(torch.zeros(3, 2))
    with pytest.raises(InputError, match="density of neither end is known"):
        quick.pair()


def test_flow_density_stands_beside_its_inconsistency(quick):
    x = ends(20, seed=2)[0]
    with pytest.raises(InputError, match="pass end="):
        quick.log_prob(x)
    estimate = quick.log_prob(x, end=EXACT.end)
    assert (estimate.kind, estimate.model) == ("estimate", "ode")
    assert float((estimate.value - EXACT.start.log_prob(x)).abs().mean()) < 0.1
    assert float(estimate.terms["inconsistency"].mean()) < 0.1
    with pytest.raises(InputError, match="halves of this bridge disagree"):
        quick.log_prob(x, end=EXACT.end, tolerance=1e-4)


def test_flow_density_of_halves_that_disagree_is_refused(quick, tmp_path):
    quick.save_pretrained(tmp_path / "bridge")
    broken = SchrodingerBridge.from_pretrained(tmp_path / "bridge")
    with torch.no_grad():
        broken.sections[0].backward_half.network.affine[0, -1] += 2.0
    with pytest.raises(InputError, match="train longer"):
        broken.log_prob(torch.zeros(5, 2), end=EXACT.end)


def test_several_times_are_joined_by_sections():
    """Rows of one Brownian path law at three times: through the middle, and per unit of the user's time."""
    generator = seeded(0)
    rows = {2.0: torch.randn(3000, 2, generator=generator)}
    rows[4.0] = rows[2.0] + 0.5 * torch.randn(3000, 2, generator=generator) + 1.0
    rows[3.0] = 0.7 * torch.randn(3000, 2, generator=generator) + torch.tensor([3.0, 0.0])
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=20, network=SMALL, alternating=QUICK).fit(rows)
    assert bridge.sections.times == [2.0, 3.0, 4.0]
    middle = bridge.sample(rows[2.0], times=(2.0, 3.0))
    assert float((middle.mean(0) - rows[3.0].mean(0)).norm()) < 0.1
    path, times = bridge.sample(rows[2.0], return_path=True), bridge.path_times()
    assert path.shape == (len(times), 3000, 2)
    assert float(times[0]) == 2.0
    assert float(times[-1]) == 4.0
    back = bridge.sample(rows[4.0], "backward", return_path=True)
    assert float((back[0].mean(0) - rows[2.0].mean(0)).norm()) < 0.15
    assert float((path[20].mean(0) - rows[3.0].mean(0)).norm()) < 0.1
    drift = bridge.forward_drift(2.0, rows[2.0]).detach().mean(0)  # three units in one unit of time, at first
    assert abs(float(drift[0]) - 3.0) < 0.4
    with pytest.raises(InputError, match="outside this fit, which knows the times from 2 to 4"):
        bridge.sample(rows[2.0], times=(2.0, 4.5))


def test_weights_move_the_bridge_to_the_rows_that_count():
    """Half of the rows have weight 0: from N(0, 1) to N(3, 1). Two alternations leave 3 rho^4 = 0.44, rho = 0.618."""
    x0 = torch.randn(4000, 1, generator=seeded(0))
    x1 = torch.cat([x0[:2000] - 3.0, x0[2000:] + 3.0])
    weights = torch.cat([torch.zeros(2000), torch.ones(2000)])
    settings = AlternatingConfig(rounds=2, steps=150, paths=4000, learning_rate=5e-3, ema_decay=0.95)
    bridge = SchrodingerBridge(
        BrownianMotion(), dim=1, start="reference", steps=10, network=SMALL, alternating=settings
    )
    moved = bridge.fit(x0, x1, weights=(None, weights)).sample(x0)
    assert abs(float(moved.mean()) - 2.56) < 0.3


def test_closed_form_starts_know_the_weights():
    """Without any projection, rows of weight 0 are as if they were not there, up to the draws of the others."""
    x0, half = ends(4000)
    x1 = torch.cat([half[:2000] + 5.0, half[2000:]])
    weights = torch.cat([torch.zeros(2000), torch.ones(2000)])
    settings = AlternatingConfig(rounds=0)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=20, network=SMALL, alternating=settings)
    moved = bridge.fit(x0, x1, weights=(None, weights)).sample(x0)
    assert float((moved.mean(0) - half[2000:].mean(0)).abs().max()) < 5.0 * (2.0 / 2000) ** 0.5


def test_the_flow_goes_through_sections_one_by_one():
    """Exact Gaussian sections, drifts that jump between them: the flow's density of the start is the start's."""
    g = seeded(0)
    rows = {
        t: m + s * torch.randn(3000, 2, generator=g) for t, m, s in ((0.0, 0.0, 1.0), (1.0, 3.0, 0.3), (3.0, 0.0, 2.0))
    }
    bridge = SchrodingerBridge(
        BrownianMotion(), dim=2, steps=40, network=SMALL, alternating=AlternatingConfig(rounds=0)
    )
    found = bridge.fit(rows).log_prob(rows[0.0][:5], end=Gaussian.fit(rows[3.0]), tolerance=1.0)
    exact = Gaussian.fit(rows[0.0]).log_prob(rows[0.0][:5])
    assert float((found.value - exact).abs().max()) < 2e-3  # the solver's tolerance is 1e-4 a step


def test_arrays_and_rows_of_other_types_are_taken_everywhere():
    x0 = ends(50)[0]
    joint = JointConfig(steps=2, batch_size=16)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=3, network=SMALL, joint=joint)
    bridge.fit(x0, prior=StandardNormal())
    for call in (bridge.sample, bridge.elbo, bridge.importance_bound, lambda x: bridge.forward_drift(0.5, x)):
        found = [call(x) for x in (x0, x0.double(), x0.numpy())]
        values = [f if isinstance(f, torch.Tensor) else f.value for f in found]
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


def test_conditions_choose_the_end():
    x0 = torch.randn(2000, 1, generator=seeded(0))
    label = torch.arange(2000) % 2
    x1 = x0 + torch.where(label[:, None] == 1, 3.0, -3.0)
    settings = AlternatingConfig(rounds=2, steps=200, paths=2000, learning_rate=5e-3, ema_decay=0.95)
    network = NetworkConfig(width=16, blocks=1, classes=2)
    bridge = SchrodingerBridge(
        BrownianMotion(), dim=1, start="reference", steps=10, network=network, alternating=settings
    )
    bridge.fit(x0, x1, condition=(label, label))
    for chosen, sign in ((0, -1.0), (1, 1.0)):
        moved = bridge.sample(x0[:200], condition=torch.tensor([chosen]))
        assert sign * float(moved.mean()) > 2.0
    with pytest.raises(InputError, match="needs condition="):
        bridge.sample(x0)


STORED = {
    "gaussian": lambda: SchrodingerBridge(BrownianMotion(), dim=2, steps=5, network=SMALL, alternating=QUICK),
    "mixture": lambda: SchrodingerBridge(
        OrnsteinUhlenbeck(1.0), dim=2, steps=5, start=MIXTURE, network=SMALL, alternating=QUICK
    ),
    "full mixture": lambda: SchrodingerBridge(
        BrownianMotion(),
        dim=2,
        steps=5,
        start=dataclasses.replace(MIXTURE, covariances="full"),
        network=SMALL,
        alternating=QUICK,
    ),
    "reference": lambda: SchrodingerBridge(
        BrownianMotion(0.5), dim=2, steps=5, start="reference", network=SMALL, alternating=QUICK
    ),
}


@pytest.mark.parametrize("make", STORED.values(), ids=STORED)
def test_saved_and_loaded_it_gives_the_same_bits(make, tmp_path):
    x0, x1 = ends(300)
    bridge = make().fit(x0, x1)
    bridge.save_pretrained(tmp_path / "bridge")
    loaded = SchrodingerBridge.from_pretrained(tmp_path / "bridge")
    assert torch.equal(loaded.sample(x0), bridge.sample(x0))
    assert torch.equal(loaded.sample(x1, "backward"), bridge.sample(x1, "backward"))
    assert loaded.history == json.loads(json.dumps(bridge.history))


@pytest.mark.parametrize("variances", ["diagonal", "full"])
def test_a_bridge_to_a_prior_is_saved_with_it(variances, tmp_path):
    joint = JointConfig(steps=5, batch_size=32, step_variances=variances)
    bridge = SchrodingerBridge(OrnsteinUhlenbeck(2.0), event_shape=(1, 4, 4), steps=4, network=SMALL, joint=joint)
    x = torch.randn(60, 1, 4, 4, generator=seeded(0))
    bridge.fit(x, prior=StandardNormal())
    bridge.save_pretrained(tmp_path / "bridge")
    loaded = SchrodingerBridge.from_pretrained(tmp_path / "bridge")
    assert torch.equal(loaded.elbo(x[:3]).value, bridge.elbo(x[:3]).value)
    assert loaded.sample(7, "backward").shape == (7, 1, 4, 4)


def test_damaged_or_foreign_folders_are_refused(quick, tmp_path):
    quick.save_pretrained(tmp_path / "bridge")
    weights = tmp_path / "bridge" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError):
        SchrodingerBridge.from_pretrained(tmp_path / "bridge")
    with pytest.raises(InputError, match="no such folder"):
        SchrodingerBridge.from_pretrained(tmp_path / "nothing")
    with pytest.raises(InputError, match="not empty"):
        quick.save_pretrained(tmp_path / "bridge")


def test_a_fit_goes_on_from_its_checkpoints_with_the_same_bits(tmp_path):
    def make():
        return SchrodingerBridge(BrownianMotion(), dim=2, steps=5, network=SMALL, alternating=QUICK)

    x0, x1 = ends(300)
    whole = make().fit(x0, x1, run=tmp_path / "run")
    again = make().fit(x0, x1, run=tmp_path / "run")  # finds every projection done
    plain = make().fit(x0, x1)
    assert torch.equal(whole.sample(x0), again.sample(x0))
    assert torch.equal(whole.sample(x0), plain.sample(x0))


def fitted(**options):
    settings = AlternatingConfig(rounds=0)
    return SchrodingerBridge(BrownianMotion(), dim=2, steps=3, network=SMALL, alternating=settings).fit(
        *ends(50), **options
    )


def classed(condition, **options):
    """A bridge of two classes, or of what the options say, at its closed form."""
    network = dataclasses.replace(SMALL, **{"classes": 2, **options})
    settings = AlternatingConfig(rounds=0)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=3, network=network, alternating=settings)
    return bridge.fit(*ends(50), condition=(condition, condition))


KINDS = {
    "list": lambda c: c.tolist(),
    "array": lambda c: c.numpy(),
    "floats": lambda c: c.double(),
    "bytes": lambda c: c.to(torch.uint8),
    "column": lambda c: c[:, None],
    "series": lambda c: pd.Series(c.numpy()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_and_weights_come_in_arrays_of_any_kind(kind):
    """The same numbers are the same bridge; where all rows are of one class, one label is enough."""
    label, make = torch.arange(50) % 2, KINDS[kind]
    x = ends(50)[0]
    expected = trained(label, label).sample(x, condition=label)
    assert torch.equal(trained(make(label), label).sample(x, condition=make(label)), expected)
    weights = label if kind == "column" else make(label)
    assert torch.equal(trained(label, weights).sample(x, condition=label), expected)
    one = torch.ones(50, dtype=torch.int64)
    assert torch.equal(trained(one, label).sample(x, condition=one), trained(1, label).sample(x, condition=[1]))


def trained(condition, weights):
    """A bridge after one step, whose networks know the labels."""
    settings = AlternatingConfig(rounds=1, steps=1, paths=50, warm_start=None)
    network = dataclasses.replace(SMALL, classes=2)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=3, network=network, alternating=settings)
    return bridge.fit(*ends(50), condition=(condition, condition), weights=(weights, weights))


BAD = {
    "dim": (lambda: SchrodingerBridge(BrownianMotion()), "either dim="),
    "start": (lambda: SchrodingerBridge(BrownianMotion(), dim=2, start="best"), "start must be"),
    "steps": (lambda: SchrodingerBridge(BrownianMotion(), dim=2, steps=0), "steps must be"),
    "components": (lambda: MixtureStart(components=0), "components must be"),
    "reference": (lambda: SchrodingerBridge(Cosine(), dim=2), "forgets its start"),
    "unfitted bound": (lambda: SchrodingerBridge(BrownianMotion(), dim=2).elbo(torch.zeros(3, 2)), "call fit first"),
    "unfitted": (lambda: SchrodingerBridge(BrownianMotion(), dim=2).sample(torch.zeros(3, 2)), "call fit first"),
    "both": (
        lambda: SchrodingerBridge(BrownianMotion(), dim=2).fit(*ends(50), prior=StandardNormal()),
        "x0 and x1, to x0 and prior=",
    ),
    "shape": (lambda: SchrodingerBridge(BrownianMotion(), dim=3).fit(*ends(50)), "got rows of shape"),
    "prior shape": (
        lambda: SchrodingerBridge(BrownianMotion(), dim=2).fit(ends(50)[0], prior=Gaussian(torch.zeros(3), 1.0)),
        "The prior is of rows of shape",
    ),
    "condition": (
        lambda: SchrodingerBridge(BrownianMotion(), dim=2).fit(*ends(50), condition=(torch.zeros(50), None)),
        "takes no condition",
    ),
    "direction": (lambda: fitted().sample(ends(5)[0], "forwards"), "forward or backward; got 'forwards'"),
    "width": (lambda: fitted().forward_drift(0.5, torch.zeros(5, 3)), "got rows of shape"),
    "weights of no time": (lambda: fitted(weights={3.0: torch.ones(50)}), "time 3, which has no rows"),
    "infinite weights": (lambda: fitted(weights=(torch.full((50,), torch.inf), None)), "weights has missing, infinite"),
    "a matrix of weights": (lambda: fitted(weights=(torch.ones(50, 2), None)), "weights must be one number"),
    "two labels": (lambda: classed([0, 1]), "leading dimension 1 or 50; got 2"),
    "an unknown class": (lambda: classed(np.arange(50) % 3), "class 2, but this bridge has the classes 0 to 1"),
    "a negative class": (lambda: classed(np.full(50, -1)), "class -1"),
    "half a class": (lambda: classed(np.full(50, 0.5)), "one whole number for each row"),
    "no class": (lambda: classed(np.full(50, np.nan)), "missing, infinite"),
    "a class in words": (lambda: classed(["ash"] * 50), "condition must be numbers"),
    "vectors for classes": (lambda: classed(torch.zeros(50, 2)), "one whole number for each row"),
    "a wrong width": (lambda: classed(torch.zeros(50, 3), classes=0, condition_dim=2), "2 numbers for each row"),
    "an unknown class to draw": (
        lambda: classed(np.arange(50) % 2).sample(ends(50)[0], condition=[5]),
        "class 5, but this bridge has the classes 0 to 1",
    ),
    "pairs with classes": (
        lambda: SchrodingerBridge(
            BrownianMotion(),
            dim=2,
            network=NetworkConfig(classes=2),
            alternating=AlternatingConfig(warm_start="independent"),
        ).fit(*ends(50), condition=(torch.arange(50) % 2, torch.arange(50) % 2)),
        "Pairs of rows know no conditions",
    ),
    "one time": (lambda: SchrodingerBridge(BrownianMotion(), dim=2).fit({0.0: torch.zeros(9, 2)}), "two times or more"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_what_cannot_work_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_annealed_joint_fit_selects_the_schroedinger_bridge():
    """N(-1, 1) to N(1, 1), b = 1, ten steps: cov (sqrt 5 - 1)/2 within 5 %, the bound within 0.02 of the entropy."""
    joint = JointConfig(steps=500, batch_size=256, learning_rate=1e-2, reference_weight=(1.0, 0.003), ema_decay=0.98)
    bridge = SchrodingerBridge(BrownianMotion(), dim=1, steps=10, network=SMALL, joint=joint)
    x = torch.randn(4000, 1, generator=seeded(0)) - 1.0
    bridge.fit(x, prior=Gaussian(torch.ones(1), 1.0))
    x0 = torch.randn(50_000, 1, generator=seeded(1)) - 1.0
    coupling = float(cross(x0, bridge.sample(x0)))
    assert abs(coupling / 0.618034 - 1.0) < 0.05
    estimate = bridge.elbo(x0[:4000]).mean()
    assert abs(estimate.value + 1.418939) < 0.02 + 4.0 * estimate.rows_stderr
    assert bridge.importance_bound(x0[:500]).mean().value > bridge.elbo(x0[:500]).mean().value - 0.01


def test_mixture_prior_is_taken():
    prior = GaussianMixture([0.5, 0.5], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.full((2, 2), 0.5))
    joint = JointConfig(steps=5, batch_size=32)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=4, network=SMALL, joint=joint).fit(
        ends(60)[0], prior=prior
    )
    assert bridge.elbo(ends(3)[0]).value.isfinite().all()


def test_paths_are_held_out_by_row():
    """With many paths of few rows: a row that starts a training path starts no held-out one, in any round."""
    from girsanov.bridges.alternating import _paths, _split

    rows = EndRows(torch.randn(40, 2, generator=seeded(0)), weights=torch.rand(40))
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, steps=3, network=SMALL, alternating=QUICK).fit(*ends(40))
    settings = AlternatingConfig(paths=500)
    for seed in (1, 2):
        generator = seeded(seed)
        held, kept = _paths(bridge.sections[0], rows, "forward", settings, generator)
        seen = {tuple(row.tolist()) for row in kept.states[0]}
        assert not any(tuple(row.tolist()) in seen for row in held.states[0])
        first, rest = _split(rows, settings.seed)
        assert {tuple(row.tolist()) for row in held.states[0]} <= {tuple(row.tolist()) for row in first.x}
        assert len(rest.x) == 36
