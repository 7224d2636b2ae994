"""Everything that computes on a device computes there alone, and gives what it gives here: see tests/elsewhere.py."""

from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_map_only

import girsanov as gv
from girsanov.bridge_model import BridgeModel
from girsanov.bridges import AlternatingConfig, JointConfig, MixtureStart, NetworkConfig, SchrodingerBridge
from girsanov.density_model.certificate import certify
from girsanov.evaluation import denoising_curve
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.runs import (
    BridgeConfig,
    BridgeRun,
    DensityRun,
    EndSource,
    EvaluationConfig,
    LawBridgeConfig,
    Source,
    fit_run,
    read_ends,
    select,
)
from tests.elsewhere import DEVICE, Remote, accelerator
from tests.seeds import seeded

MLP = gv.networks.MLPConfig(width=8, blocks=1)
TINY = {"steps": 2, "members": 1, "batch_size": 16}


def images(n=40):
    return torch.randint(0, 5, (n, 1, 4, 4), generator=seeded(0))


def table(n=60):
    x = torch.randn(n, 2, generator=seeded(0), dtype=torch.float64)
    return torch.cat([x[:20] + 4.0, x[20:]])


PLAIN = {"network": MLP, "gaussianise": False}
#: name -> settings, rows, labels
FITS = {
    "spline flow and mixture": ({"network": MLP}, table(), None),
    "learned schedule, conditions": (
        PLAIN | {"process": "learned", "conditional": True},
        table(),
        torch.linspace(0.0, 1.0, 60),
    ),
    "continuous flow": (PLAIN, table(), None),
    "lattice and classes": (PLAIN | {"conditional": True, "dequantise": "uniform"}, images(), torch.arange(40) % 3),
    "variational noise": (PLAIN | {"dequantise": "variational"}, images(), None),
    "cells, convolutions": (
        PLAIN | {"network": gv.networks.ConvConfig(width=8, blocks=1), "dequantise": "categorical"},
        images(),
        None,
    ),
    "many levels and classes": (
        {"network": gv.networks.ImageConfig(width=8, blocks=1), "conditional": True},
        11 * images(),
        torch.arange(40) % 3,
    ),
}


CHANNELS_LAST = {"many levels and classes"}  # another device lays its numbers out otherwise, and sums round otherwise


def likelihoods(model, rows):
    """Values of all likelihoods that the model has, and its draws."""
    given = None
    if model.record["config"]["conditional"]:
        given = torch.tensor([1]) if model.classes else torch.tensor([[0.5]])
        given = given.to(model.reference.mean.device)
    found = {"elbo": model.elbo(rows, samples=4, condition=given), "draws": model.sample(2, steps=2, condition=given)}
    if model.lattice is None:
        found["density"] = model.density(rows, samples=4, condition=given)
        found["ode"] = model.log_prob(rows, solver=gv.solvers.FixedGrid(1), condition=given)
    if model.encoding.measure == "mass" and model.lattice is None:
        found["weighted"] = gv.density_model.weighted_elbo(model, rows, draws=2, condition=given)
    return {name: value if isinstance(value, torch.Tensor) else value.value for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_a_fit_elsewhere_has_the_bits_of_a_fit_here(name, monkeypatch):
    # a processor that multiplies bfloat16 trains images in it, and the other device does not
    monkeypatch.setattr("girsanov.networks.images.takes_bfloat16", lambda kind: False)
    settings, x, labels = FITS[name]
    kind = gv.density_model.ContinuousFlowConfig if name == "continuous flow" else gv.Config
    config = kind(**TINY | settings)
    expected = likelihoods(gv.fit(x, config=config, labels=labels), x[:2])
    with accelerator():
        found = likelihoods(gv.fit(x, config=config, labels=labels, device=DEVICE), x[:2])
    for likelihood, value in expected.items():
        assert isinstance(found[likelihood], Remote), likelihood
        exact = name not in CHANNELS_LAST
        torch.testing.assert_close(found[likelihood].inner, value, rtol=0.0 if exact else 1e-6, atol=0.0)


def score_and_process():
    law = gv.GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.full((2, 2), 0.2))
    process = gv.VariancePreserving()
    return law.score(process), process


PATHS = {
    "elbo": lambda s, p, x: gv.elbo(gv.ScorePair(s, p), x, samples=8).value,
    "density": lambda s, p, x: gv.density(gv.ScorePair(s, p), x, samples=8).value,
    "ode": lambda s, p, x: gv.ode_log_prob(gv.ScorePair(s, p), x, solver=gv.solvers.FixedGrid(4)).value,
    "ode, probes": lambda s, p, x: (
        gv.ode_log_prob(
            gv.ScorePair(s, p), x, solver=gv.solvers.FixedGrid(4), divergence=gv.calculus.Hutchinson(2)
        ).value
    ),
    "path weight": lambda s, p, x: gv.path_log_weight(gv.ScorePair(s, p).family(0.5), x, steps=4, paths=2).value,
    "chain of a pair": lambda s, p, x: gv.chain_elbo(gv.ScorePair(s, p).family(0.5), x, steps=4, paths=2).value,
    "chain": lambda s, p, x: gv.chain_elbo(gv.AncestralChain(gv.ScorePair(s, p), 4), x, paths=2).value,
    "importance": lambda s, p, x: gv.importance_bound(gv.AncestralChain(gv.ScorePair(s, p), 4), x, paths=2).value,
    "bracket": lambda s, p, x: gv.chain_bracket(gv.AncestralChain(gv.ScorePair(s, p), 4), 3, paths=2).upper.value,
    "sample": lambda s, p, x: gv.sample(gv.ScorePair(s, p, event_shape=(2,)), 3, steps=4, lmbd=0.5),
    "sample with density": lambda s, p, x: (
        gv.sample_with_log_prob(gv.ScorePair(s, p, event_shape=(2,)), 3, steps=4)[1].value
    ),
    "loss": lambda s, p, x: (
        gv.likelihoods.loss_bound(gv.objectives.ScoreMatchingObjective(), gv.ScorePair(s, p), x, samples=8).value
    ),
    "sliced loss": lambda s, p, x: (
        gv.likelihoods.loss_bound(
            gv.objectives.ScoreMatchingObjective(gv.objectives.SlicedScoreMatching()), gv.ScorePair(s, p), x, samples=8
        ).value
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_likelihood_elsewhere_has_the_bits_of_the_one_here(name):
    score, process = score_and_process()
    x = torch.randn(3, 2, generator=seeded(1), dtype=torch.float64)
    expected = PATHS[name](score, process, x)
    with accelerator():
        found = PATHS[name](score.to(DEVICE), process.to(DEVICE), x.to(DEVICE))
    assert isinstance(found, Remote)
    assert torch.equal(found.inner, expected)


@pytest.mark.slow
def test_what_a_report_shows_is_computed_there_too():
    x = images()
    config = gv.Config(**PLAIN, **TINY)
    with accelerator():
        model = gv.fit(x, config=config, device=DEVICE)
        rows = model.encode(x[:3])
        assert bool(denoising_curve(model, rows, levels=torch.tensor([0.0])).model.isfinite().all())
        assert "rows of 16 dimensions" in str(certify(model, rows, schedule=SCHEDULES["linear"](50)))
        assert model.score_test(x[:40], levels=(0.0,)).n == 40


@pytest.mark.slow
def test_a_whole_run_elsewhere_writes_what_a_run_here_writes(tmp_path):
    """Fit, bound, peers, report: the held-out values are the same bits."""
    config, evaluation = (
        gv.Config(**PLAIN, **TINY),
        EvaluationConfig(samples=4, ode_rows=0, peers=False, sampler_steps=2),
    )
    chosen = select(Source("iris", limit=40))
    run = DensityRun(chosen, config, evaluation)
    fit_run(run, tmp_path / "here")
    with accelerator():
        fit_run(run, tmp_path / "there", device=DEVICE)
    assert (tmp_path / "there" / "test.csv").read_text() == (tmp_path / "here" / "test.csv").read_text()
    assert (tmp_path / "there" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["digits", "normal"])
def test_a_whole_bridge_elsewhere_writes_what_a_bridge_here_writes(tmp_path, target):
    sources = EndSource("digits", ("0", "1")), EndSource(target, None if target == "normal" else ("7",))
    ends = read_ends(*sources, limit=80)
    settings = {"steps": 2, "width": 8, "blocks": 1, "network": "mlp", "chain_steps": 3}
    settings |= {} if target == "normal" else {"paths": 60, "rounds": 1}
    run = BridgeRun(ends, (LawBridgeConfig if target == "normal" else BridgeConfig)(**settings))
    here = fit_run(run, tmp_path / "here")
    with accelerator():
        there = fit_run(run, tmp_path / "there", device=DEVICE)
    assert there["test"] == here["test"]
    assert (tmp_path / "there" / "forward.npy").read_bytes() == (tmp_path / "here" / "forward.npy").read_bytes()
    again = BridgeModel.load(tmp_path / "there")
    expected = again.translate(ends.part(0, "test")[:5])
    with accelerator():
        again.bridge.to(DEVICE)
        assert torch.equal(again.translate(ends.part(0, "test")[:5]), expected)


def test_a_model_goes_there_and_comes_back_through_its_folder(tmp_path):
    x = table()
    model = gv.fit(x, config=gv.Config(**PLAIN, **TINY))
    expected = model.elbo(x[:3]).value
    with accelerator():
        model.to(DEVICE).save_pretrained(tmp_path / "model")
        again = gv.DensityModel.from_pretrained(tmp_path / "model").to(DEVICE)
        assert torch.equal(again.elbo(x[:3]).value.inner, expected)


@pytest.mark.parametrize(("device", "message"), [("cuda", "finds no CUDA device here"), ("tpu 9", "Unknown device")])
def test_a_device_that_is_not_there_is_named(device, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(gv.InputError, match=message):
        gv.fit(table(), device=device)


def test_the_simulation_refuses_what_an_accelerator_refuses():
    with accelerator():
        there = torch.ones(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3)[torch.zeros(1, dtype=torch.long).to(DEVICE)]
        with pytest.raises(RuntimeError, match="generator elsewhere"):
            torch.randn(3, generator=torch.Generator(), device=DEVICE)
        with pytest.raises(TypeError, match="copy it here first"):
            there.numpy()
        assert float((2.0 * there + torch.tensor(1.0)).sum()) == 9.0
        assert there[torch.tensor([0, 2])].device == DEVICE


def ends(n=40, shape=(2,)):
    x = torch.randn(2, n, *shape, generator=seeded(2))
    return x[0] - 1.0, 2.0 * x[1] + 1.0


SHORT = AlternatingConfig(rounds=1, steps=2, paths=40, batch_size=16, warm_steps=2)
JOINT = JointConfig(steps=2, warm_steps=2, decoder_steps=2, batch_size=16, validate_every=1, freeze=True)
#: name -> options of the bridge, of its fit
BRIDGES = {
    "gaussian start": ({"dim": 2}, {}),
    "mixture start, weights": (
        {"dim": 2, "start": MixtureStart(2, steps=2)},
        {"weights": (torch.rand(40, generator=seeded(0)), None)},
    ),
    "full covariances": (
        {"dim": 2, "start": MixtureStart(2, "full", steps=2), "alternating": SHORT},
        {},
    ),
    "trajectories": ({"dim": 2, "alternating": replace(SHORT, loss="trajectory")}, {}),
    "pairs, images": ({"event_shape": (1, 4, 4), "alternating": replace(SHORT, warm_start="minibatch")}, {}),
    "classes": (
        {"dim": 2, "network": NetworkConfig(width=8, blocks=1, classes=2)},
        {"condition": (torch.arange(40) % 2, torch.arange(40) % 2)},
    ),
    "prior": ({"dim": 2, "joint": JOINT}, {"prior": gv.Gaussian(torch.zeros(2), 1.0)}),
    "prior, covariances": (
        {"dim": 2, "joint": replace(JOINT, step_variances="full", checkpoint=True, reference_weight=(1.0, 0.1))},
        {"prior": gv.Gaussian(torch.zeros(2), 1.0)},
    ),
}


def bridged(options, given, place):
    """What a bridge fitted there gives: rows moved both ways, drifts, and likelihoods where it has them."""
    settings = {"steps": 3, "network": NetworkConfig(width=8, blocks=1), "alternating": SHORT, **options}
    bridge = SchrodingerBridge(gv.BrownianMotion(), **settings)
    x0, x1 = (x.to(place) for x in ends(shape=tuple(bridge.event_shape)))
    there = tree_map_only(torch.Tensor, lambda t: t.to(place), given)
    known = "prior" in given
    bridge.fit(x0, *(() if known else (x1,)), **there)
    condition = {} if "condition" not in given else {"condition": there["condition"][0]}
    found = {
        "forward": bridge.sample(x0, **condition),
        "backward": bridge.sample(x1, "backward", **condition),
        "drift": bridge.forward_drift(0.5, x0, **condition) + bridge.backward_drift(0.5, x0, **condition),
    }
    if known:
        found |= {"elbo": bridge.elbo(x0, paths=2).value, "weighted": bridge.importance_bound(x0, paths=2).value}
        found |= {"draws": bridge.sample(3, "backward")}
    if bridge.event_shape == (2,) and not condition:
        law = None if known else gv.Gaussian(torch.ones(2), 4.0).to(place)
        found["flow"] = bridge.log_prob(x0[:3], end=law, tolerance=1e9).value
    return found


@pytest.mark.parametrize("name", BRIDGES)
def test_a_bridge_elsewhere_has_the_bits_of_a_bridge_here(name):
    expected = bridged(*BRIDGES[name], torch.device("cpu"))
    with accelerator():
        found = bridged(*BRIDGES[name], DEVICE)
    for part, value in expected.items():
        assert isinstance(found[part], Remote), part
        assert torch.equal(found[part].inner, value), part
