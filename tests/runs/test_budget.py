"""Time that passes as a test says: what there is no time for shrinks, and says so."""

import dataclasses
import json

import pytest

import girsanov as gv
from girsanov.runs import (
    BridgeConfig,
    BridgeRun,
    Budget,
    DensityRun,
    EndSource,
    EvaluationConfig,
    Source,
    density,
    density_measures,
    fit_run,
    read_ends,
    select,
)
from girsanov.types import InputError

CONFIG = gv.Config(steps=4, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False)


class Clock:
    """Seconds pass at every look."""

    def __init__(self, seconds=0.0):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def counted(clock, seconds):
    """A function of a size that takes so long for each, and the sizes that it was called with."""
    sizes = []

    def make(n):
        sizes.append(n)
        clock.now += seconds(n)
        return n

    return make, sizes


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("seconds", [1.0, 7.0, 60.0, 1e4])
def test_a_number_fits_into_its_time(seconds, power):
    clock = Clock()
    make, sizes = counted(clock, lambda n: 0.01 * n**power)
    budget = Budget(seconds, clock=clock)
    found = budget.most("rows", 500, make, least=4, power=power)
    assert found == sizes[-1]
    assert sizes == sorted(set(sizes))
    assert clock.now <= max(seconds, 0.01 * 4**power) + 1e-9
    if found < 500:
        assert budget.shortened == {"rows": f"{found:,} of 500"}
        assert 0.01 * (4 * found) ** power > 0.25 * seconds  # not a small part of what there was time for
    else:
        assert budget.shortened == {}


def test_without_a_limit_everything_is_done_once():
    make, sizes = counted(Clock(), lambda n: n)
    assert Budget().most("rows", 500, make, least=4) == 500
    assert sizes == [500]
    assert Budget().part(0.1).left == float("inf")


def test_parts_tell_the_whole_what_was_shortened():
    clock, said = Clock(), []
    budget = Budget(10.0, clock=clock)
    budget.note = said.append
    make, _ = counted(clock, lambda n: n)
    budget.part(0.5).part(0.5).most("rows", 500, make, least=1)
    assert said == ["rows: 1 of 500, for which there is time"]
    assert budget.shortened == {"rows": "1 of 500"}
    clock.now = 9.8
    with pytest.raises(InputError, match="no time was left for it: give a larger time budget"):
        budget.require()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_that_are_none(seconds):
    with pytest.raises(InputError, match="time_budget must be a positive number of seconds"):
        Budget(seconds)


def test_training_has_the_same_share_of_every_call():
    """So that a run that goes on has the settings of the one that was stopped."""
    run = DensityRun(select(Source("iris")), CONFIG, EvaluationConfig())
    alone = dataclasses.replace(run, evaluation=EvaluationConfig(peers=False))
    assert run.within(None) is run
    assert run.within(60.0).config.time_budget == pytest.approx(30.0)
    assert alone.within(60.0).config.time_budget == pytest.approx(40.0)
    assert run.within(60.0).identity().settings == run.within(60.0).identity().settings


def slowed(clock, function, seconds):
    """The function, whose calls take so long."""

    def slow(*arguments, **options):
        clock.now += seconds(*arguments)
        return function(*arguments, **options)

    return slow


def test_every_phase_of_a_run_shrinks_and_says_so(tmp_path, monkeypatch):
    """Rows and draws cost seconds: whatever there is no time for, the run is whole, and says what it is of."""
    clock, said = Clock(), []
    costs = {"elbo": 0.05, "ode": 0.5}
    evaluate = slowed(clock, density_measures.evaluate, lambda model, rows, likelihood: costs[likelihood] * len(rows))
    monkeypatch.setattr(density_measures, "evaluate", evaluate)
    monkeypatch.setattr(gv.DensityModel, "sample", slowed(clock, gv.DensityModel.sample, lambda model, n: 0.05 * n))
    monkeypatch.setattr(density, "certify", slowed(clock, density.certify, lambda model, rows: 0.5 * len(rows)))
    evaluation = EvaluationConfig(peer_seconds=0.2, sampler_steps=8)
    run = DensityRun(select(Source("iris")), dataclasses.replace(CONFIG, test=0.6), evaluation)
    metrics = fit_run(run, tmp_path / "run", budget=Budget(20.0, clock=clock), note=said.append)
    assert clock.now < 20.0
    assert set(metrics["test"]) == {"elbo", "ode"}
    assert set(metrics["peers"]) == {"gaussian", "mixture", "spline_flow"}
    shortened = {"rows of the bound", "rows of the ODE", "samples drawn", "Certificate of DDPM training (rows)"}
    assert set(metrics["shortened"]) == shortened
    page = (tmp_path / "run" / "report.html").read_text()
    for what, size in metrics["shortened"].items():
        assert f"{what}: {size}, for which there is time" in said
        assert size in page
    assert metrics["rows"]["evaluated"] == metrics["test"]["elbo"]["rows"] == 64
    assert len((tmp_path / "run" / "test.csv").read_text().splitlines()) == 65


def test_what_there_is_no_time_for_is_left_out(tmp_path):
    run = DensityRun(select(Source("iris", limit=60)), CONFIG, EvaluationConfig())
    metrics = fit_run(run, tmp_path / "run", budget=Budget(1.0, clock=Clock(2.0)))
    assert metrics["peers"] == {}
    assert set(metrics["failed"]) == {"likelihood of the ODE", "gaussian", "mixture", "spline flow"}
    assert set(metrics["failed"].values()) == {"no time was left for it: give a larger time budget"}
    assert metrics["test"]["elbo"]["rows"] > 0
    assert "no time was left for it" in (tmp_path / "run" / "report.html").read_text()


def test_a_bridge_shrinks_too(tmp_path):
    ends = read_ends(EndSource("digits", ("0", "1", "2", "3")), EndSource("digits", ("7", "8", "9")))
    settings = {"width": 8, "blocks": 1, "network": "mlp", "paths": 60, "chain_steps": 3, "rounds": 1}
    budget = Budget(5.0, clock=Clock(1.0))
    metrics = fit_run(BridgeRun(ends, BridgeConfig(**settings)), tmp_path / "run", budget=budget)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["shortened"].keys() >= {"rows that are compared"}
    assert metrics["test"]["forward"]["rows"] < 108
    assert (tmp_path / "run" / "report.html").exists()
