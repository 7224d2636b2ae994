"""Settings and arguments of a fit that cannot be: one sentence each, before anything is trained."""

import dataclasses
import io

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov.datasets import from_array
from tests.seeds import rng, seeded

TINY = {"steps": 3, "network": gv.networks.MLPConfig(width=8, blocks=1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"test": "a"}, "test must be a share from 0 to below 1"),
        ({"test": 1.0}, "test must be a share from 0 to below 1"),
        ({"time_budget": "a"}, "time_budget must be a positive number of seconds"),
        ({"flow": "no"}, "flow must be True or False"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63"),
        ({"predicts": "z"}, "Unknown predicts 'z': choose one of noise"),
        ({"ema_decay": 1.0}, "ema_decay must be a number"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(gv.InputError, match=message):
        gv.Config(**settings)


@pytest.mark.parametrize("kind", gv.networks.NETWORKS)
def test_sizes_of_a_network_that_cannot_be_are_refused(kind):
    config = gv.networks.NETWORKS[kind]
    for name, bad in (("width", 0), ("blocks", 1.5), ("dropout", 1.5), ("dropout", "a")):
        if name in {field.name for field in dataclasses.fields(config)}:
            with pytest.raises(gv.InputError, match=f"{name} must be"):
                config(**{name: bad})


def test_sizes_of_a_unet_that_cannot_be_are_refused():
    unet = gv.networks.UNetConfig
    with pytest.raises(gv.InputError, match="must be a multiple of 8; got 12"):
        unet(width=12)
    for bad in (5, {1, 2}, np.array([1, 2]), [1, 2.5], []):
        with pytest.raises(gv.InputError, match="multipliers must be positive whole numbers"):
            unet(multipliers=bad)
    assert hash(unet(multipliers=[1, 2])) == hash(unet(multipliers=(1, 2)))
    assert gv.Config(network=gv.networks.MLPConfig).network == gv.networks.MLPConfig()


def test_a_setting_that_a_kind_does_not_use_is_no_field():
    flow = gv.density_model.ContinuousFlowConfig
    for kind, other in (
        (gv.Config, {"width": 8}),
        (gv.networks.TwoLayerConfig, {"blocks": 2}),
        (gv.networks.MLPConfig, {"multipliers": [1, 2]}),
        (flow, {"flow": False}),
        (flow, {"lattice_head": False}),
    ):
        with pytest.raises(TypeError, match=next(iter(other))):
            kind(**other)
    with pytest.raises(gv.InputError, match="Unknown process 'learned'"):
        flow(process="learned")
    with pytest.raises(gv.InputError, match="Unknown dequantise 'categorical'"):
        flow(dequantise="categorical")


def test_arguments_of_a_fit_that_cannot_be_are_refused():
    x, labels = rng(0).normal(size=(60, 2)), np.arange(60) % 2
    conditional = gv.Config(**TINY, conditional=True)
    for call, message in (
        (lambda: gv.fit(x, config={}), "config must be FitConfig"),
        (lambda: gv.fit(x, labels=labels, config=gv.Config(**TINY)), "conditional=True"),
        (lambda: gv.fit(from_array(x), labels=labels, config=conditional), "bring their own"),
        (lambda: gv.fit("digits", labels=labels, config=conditional), "bring their own"),
        (lambda: gv.fit(x, config=gv.Config(**TINY, moved=0.5)), r"rows of shape \(2,\) are none"),
        (lambda: gv.fit(x, device="nowhere", config=gv.Config(**TINY)), "device"),
        (lambda: gv.fit(x, device="mps", config=gv.Config(**TINY)), "device"),
        (lambda: gv.certify(None, x), "model must be DensityModel"),
        (lambda: gv.compare(None, None, x), "Density models are compared"),
    ):
        with pytest.raises(gv.InputError, match=message):
            call()


@pytest.mark.parametrize("odd", range(4))
def test_a_column_that_varies_in_one_row_only_is_no_obstacle(odd):
    """Wherever the row falls: in a split whose training rows have it constant, too."""
    x = np.zeros((60, 3))
    x[:, :2] = rng(0).normal(size=(60, 2))
    x[odd * 15, 2] = 1.0
    model = gv.fit(x, config=gv.Config(**TINY))
    assert bool(model.elbo(x, samples=8).value.isfinite().all())


def test_other_arguments_that_cannot_be_are_refused():
    dice = torch.randint(6, (60, 2), generator=seeded(0))
    model = gv.fit(dice, config=gv.Config(**TINY))
    for call, message in (
        (lambda: model.log_prob(dice[:2], draws=0), "draws must be a whole number"),
        (lambda: model.log_prob(dice[:2], draws=1.5), "draws must be a whole number"),
        (lambda: from_array(dice, lattice={"x1": "a"}), "step of column 'x1' must be a positive number"),
    ):
        with pytest.raises(gv.InputError, match=message):
            call()
    assert len(model.score_test(dice, 2.0).levels) == 1


def test_settings_are_keywords_of_the_fit(generator):
    x = torch.randn(60, 2, generator=generator)
    by_name = gv.fit(x, **TINY, seed=4)
    by_config = gv.fit(x, config=gv.Config(**TINY, seed=4))
    assert by_name.record["config"] == by_config.record["config"]
    assert torch.equal(by_name.elbo(x).value, by_config.elbo(x).value)
    both = gv.fit(x, config=gv.Config(**TINY, seed=4), steps=2, generator=seeded(5))
    assert (both.record["config"]["steps"], both.record["config"]["network"]) == (2, "mlp")
    assert both.record["config"]["seed"] not in (0, 4)
    assert gv.fit(x, **TINY, conditional=True, labels=torch.arange(60) % 2).classes == ("0", "1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"time_budgt": 60}, "^fit has no setting time_budgt=: did you mean time_budget=\\?$"),
        ({"progres": False}, "^fit has no setting progres=: did you mean progress=\\?$"),
        ({"zzz": 1}, "^fit has no setting zzz=: it takes network, members, process, .*, device$"),
        (
            {"config": gv.density_model.ContinuousFlowConfig(), "lattice_head": True},
            "no setting lattice_head=: it takes",
        ),
        ({"steps": 0}, "steps must be a whole number of 1 or more; got 0"),
        ({"progress": "no"}, "progress must be True, False, or an object"),
    ],
    ids=str,
)
def test_a_setting_that_nobody_reads_is_refused_with_the_nearest(given, message):
    with pytest.raises(gv.InputError, match=message):
        gv.fit(torch.zeros(60, 2), **given)


class Screen(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


def test_a_fit_shows_a_bar_in_a_terminal_and_nothing_elsewhere(monkeypatch, generator, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    x, terminal = torch.randn(60, 2, generator=generator), Screen()
    gv.fit(x, **TINY)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal)
    gv.fit(x, **TINY, progress=False)
    assert terminal.getvalue() == ""
    gv.fit(x, **TINY)
    assert "training" in terminal.getvalue()
