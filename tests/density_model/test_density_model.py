"""Density models end to end on small data: the untrained contract, saving, likelihoods, resume."""

import dataclasses
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array, load, split
from girsanov.density_model import Config, prepare
from girsanov.density_model.coordinates import fit_coordinates
from girsanov.randomness import seed_of
from tests.seeds import rng, seeded

TINY = Config(network=gv.networks.MLPConfig(width=16, blocks=1), steps=30, members=1)


def gaussian_rows(n=300, seed=0):
    generator = seeded(seed)
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 2.0]], dtype=torch.float64)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) @ mixing + 5.0


def mixed_rows(n=600, seed=0):
    generator = rng(seed)
    count = generator.poisson(3.0, n)
    return np.stack([count, np.exp(generator.normal(size=n)) + 0.3 * count, generator.normal(size=n)], 1)


@pytest.fixture(scope="module")
def fitted():
    return gv.fit(mixed_rows(), config=TINY)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=["vector", "image"])
@pytest.mark.parametrize("process", ["vp", "sub-vp", "ve", "ou", "cosine", "harmonic", "straight"])
def test_an_untrained_model_is_its_gaussian_with_standard_error_zero(shape, process):
    x = torch.randn(200, *shape, generator=seeded(0), dtype=torch.float64)
    config = dataclasses.replace(TINY, process=process, gaussianise=False)
    data = from_array(x)
    model = prepare(data, split(200, seed=0), config).eval()
    y, log_det = model.encoding.transforms(x)
    expected = model.reference.log_prob(y) + log_det
    for estimate in (model.elbo(x), model.density(x), model.log_prob(x[:5])):
        torch.testing.assert_close(estimate.value, expected[: len(estimate.value)], rtol=0, atol=2e-6)
        assert not estimate.stderr.any()
        assert estimate.measure == "density"


def test_untrained_digits_are_the_gaussian_too_under_the_lattice_head():
    data = load("digits")
    model = prepare(data, split(len(data.x), seed=0), Config(dequantise="uniform")).eval()
    assert type(model.score.head).__name__ == "LatticeHead"
    view = model.encode(data.x[:20]).view(8, seed_of(None))
    expected = (model.reference.log_prob(view.x.flatten(0, 1)) + view.log_det.flatten()).reshape(20, 8).mean(1)
    estimate = model.elbo(data.x[:20])
    torch.testing.assert_close(estimate.value, expected, rtol=1e-6, atol=1e-4)
    assert estimate.measure == "mass"


def test_likelihoods_are_in_data_units():
    """Scaling the data by c shifts every log-density by -d log c; far rows, where a flat law is sampled, vary."""
    x, config = gaussian_rows(), dataclasses.replace(TINY, gaussianise=False)
    models = [prepare(from_array(c * x), split(300, seed=0), config).eval() for c in (1.0, 10.0)]
    small, large = (model.elbo(c * x) for model, c in zip(models, (1.0, 10.0), strict=True))
    near = (small.stderr == 0.0) & (large.stderr == 0.0)
    assert near.sum() > 250
    shift = torch.full((300,), 3.0 * np.log(10.0), dtype=torch.float64)
    torch.testing.assert_close((small.value - large.value)[near], shift[near])


def test_a_fit_never_falls_below_its_start_on_the_rows_that_chose_it(fitted):
    record = fitted.record["training"]
    assert 0 < record["steps"] <= 30
    assert record["best_step"] is not None
    assert record["validation"] >= record["validation_before"]
    estimate = fitted.elbo(mixed_rows(100, seed=1))
    assert bool(estimate.value.isfinite().all())
    assert estimate.measure == "mixed"
    assert estimate.kind == "lower_bound"
    assert set(estimate.terms) >= {"prior", "diffusion", "residual"}


def test_saving_and_loading_keep_every_bit(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"README.md", "config.json", "manifest.json", "model.safetensors"}
    twin = gv.DensityModel.from_pretrained(tmp_path / "model")
    x = mixed_rows(20, seed=2)
    assert torch.equal(twin.elbo(x).value, fitted.elbo(x).value)
    assert torch.equal(twin.sample(5), fitted.sample(5))


def test_a_damaged_model_is_refused(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(gv.InputError, match=r"model\.safetensors"):
        gv.DensityModel.from_pretrained(tmp_path / "model")
    with pytest.raises(gv.InputError, match="no such folder"):
        gv.DensityModel.from_pretrained(tmp_path / "nowhere" / "deeper" / "still")


def test_a_row_does_not_depend_on_its_batch(fitted):
    x = mixed_rows(50, seed=3)
    order = rng(0).permutation(50)
    for method in (
        fitted.elbo,
        fitted.density,
        lambda rows: fitted.log_prob(rows, solver=gv.solvers.Adaptive(1e-2, 1e-2)),
    ):
        together = method(x).value
        alone = torch.cat([method(x[i : i + 1]).value for i in (0, 17, 49)])
        assert torch.equal(together[[0, 17, 49]], alone)
        assert torch.equal(method(x[order]).value, together[torch.from_numpy(order)])


def test_rows_off_the_lattice_and_other_shapes_are_one_clear_error(fitted):
    rows = mixed_rows(5, seed=4)
    rows[2, 0] += 0.5
    with pytest.raises(gv.InputError, match="x1"):
        fitted.elbo(rows)
    with pytest.raises(gv.InputError):
        fitted.elbo(rows[:, :2])


def test_samples_lie_on_the_lattice_in_data_units(fitted):
    x = fitted.sample(200)
    assert torch.equal(x[:, 0], x[:, 0].round())
    assert bool((x[:, 1] > -5.0).all())


def test_compare_pairs_the_noise(fitted):
    x = mixed_rows(40, seed=5)
    same = gv.compare(fitted, fitted, x)
    assert not same.value.any()
    other = gv.fit(mixed_rows(), config=dataclasses.replace(TINY, seed=1))
    paired = gv.compare(fitted, other, x)  # without a generator: seed 0, whatever the offset of tests
    first, second = (model.elbo(x, generator=torch.Generator().manual_seed(0)) for model in (fitted, other))
    torch.testing.assert_close(paired.value, first.value - second.value)
    assert float(paired.stderr.mean()) < float((first.stderr.square() + second.stderr.square()).sqrt().mean())
    assert paired.kind == "estimate"


@pytest.mark.parametrize("flow", [True, False])
def test_coordinates_choose_by_held_out_rows(flow):
    data = from_array(mixed_rows())
    config = dataclasses.replace(TINY, steps=60, flow=flow)
    found = fit_coordinates(data, split(len(data.x), seed=0), config)
    assert set(found.held_out) == {"mixture", "flow"} - (set() if flow else {"flow"})
    assert (type(found.encoding.transforms.members[-1]).__name__ == "SplineFlow") == flow
    if flow and found.mixture is not None:
        assert found.held_out["mixture"] > found.held_out["flow"]


@pytest.mark.parametrize("flow", [True, False])
def test_a_model_of_a_handful_of_rows_is_saved(tmp_path, flow):
    model = gv.fit(gaussian_rows(5), config=dataclasses.replace(TINY, steps=2, flow=flow))
    model.save_pretrained(tmp_path / "few")
    assert gv.DensityModel.from_pretrained(tmp_path / "few").record == model.record


def test_the_odes_values_carry_no_graph_of_the_flow():
    model = gv.fit(gaussian_rows(), config=dataclasses.replace(TINY, steps=3, flow=True))
    assert any(parameter.requires_grad for parameter in model.encoding.transforms.parameters())
    x = gaussian_rows(3)
    assert not model.log_prob(x).value.requires_grad
    assert model.log_prob(torch.as_tensor(x).requires_grad_()).value.requires_grad


def test_probes_of_the_ode_keep_their_replicates():
    x = gaussian_rows(40)
    model = gv.fit(gaussian_rows(), config=TINY)
    for part, kind in ((model.diffusion, "unbiased"), (model, "lower_bound")):  # of a mixture by Jensen's inequality
        estimate = part.log_prob(x, divergence=gv.calculus.Hutchinson(probes=3))
        assert estimate.replicates is not None
        assert estimate.replicates.shape == (3, 40)
        assert estimate.kind == kind


def test_a_condition_without_labels_and_broken_rows_are_refused(fitted):
    with pytest.raises(gv.InputError, match="without labels"):
        fitted.elbo(mixed_rows(3), condition=torch.zeros(3, dtype=torch.int64))
    rows = torch.from_numpy(mixed_rows(3)).requires_grad_()
    with pytest.raises(gv.InputError, match="x1"):
        fitted.elbo(rows + torch.tensor([0.5, 0.0, 0.0]))
    with pytest.raises(gv.InputError, match=r"x\[1\]"):
        gv.elbo(fitted.pair, torch.tensor([[0.0] * 3, [float("nan")] * 3]))


def test_a_second_run_of_a_fit_that_ended_on_time_changes_nothing(tmp_path):
    config = dataclasses.replace(TINY, steps=100_000, time_budget=3.0, patience=None)
    first = gv.fit(gaussian_rows(), config=config, out=tmp_path / "run")
    second = gv.fit(gaussian_rows(), config=config, out=tmp_path / "run")
    assert first.record["training"]["steps"] == second.record["training"]["steps"]
    assert torch.equal(first.elbo(gaussian_rows(5)).value, second.elbo(gaussian_rows(5)).value)


def test_class_conditions_change_the_likelihood():
    generator = seeded(0)
    labels = torch.randint(2, (400,), generator=generator)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64) + 6.0 * labels[:, None]
    config = dataclasses.replace(TINY, conditional=True, steps=200, flow=False, gaussianise=False)
    config = dataclasses.replace(config, network=gv.networks.MLPConfig(width=32, blocks=1))
    data = dataclasses.replace(from_array(x, labels=labels), classes=("a", "b"))
    model = gv.fit(data, config=config)
    right, wrong = (model.elbo(x, condition=c, samples=16).mean().value for c in (labels, 1 - labels))
    assert right > wrong + 1.0


def test_unknown_settings_are_refused():
    with pytest.raises(gv.InputError, match="process"):
        Config(process="vpp")
    with pytest.raises(gv.InputError, match="network"):
        Config(network="transformer")
    with pytest.raises(TypeError, match="sede"):
        Config(sede=1)


KILLED = """
import sys, torch
torch.set_num_threads(1)
import girsanov as gv
from pathlib import Path
config = gv.Config(network=gv.networks.MLPConfig(width=16, blocks=1), steps=int(sys.argv[2]), members=1)
x = torch.randn(150, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
gv.fit(x, config=config, out=sys.argv[1]).save_pretrained(Path(sys.argv[1]) / "model")
"""


def test_kill_and_resume_end_with_the_same_bits(tmp_path, monkeypatch):
    """SIGKILL in the middle of the fit, the same command again: the weights of an uninterrupted run."""
    steps, script = "100", compile(KILLED, "killed", "exec")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    monkeypatch.setattr(sys, "argv", ["killed", str(whole), steps])
    exec(script, {})
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(broken), steps])
    log, deadline = broken / "train.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (broken / "model").exists()
    monkeypatch.setattr(sys, "argv", ["killed", str(broken), steps])
    exec(script, {})
    assert _digest(whole / "model" / "model.safetensors") == _digest(broken / "model" / "model.safetensors")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
