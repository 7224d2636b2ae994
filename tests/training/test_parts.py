"""Configuration, schedule, batches, average, optimiser, log and progress, each against its closed form."""

import io
import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from girsanov.randomness import mix
from girsanov.training import MovingAverage, ShuffledBatches, TrainingConfig, as_progress, default_progress
from girsanov.training.ema import warm_decay
from girsanov.training.log import TrainLog
from girsanov.training.optimizer import Optimizer
from girsanov.training.progress import LineProgress, NotebookProgress, RichProgress, SilentProgress
from girsanov.training.schedule import Plan, StepClock, make_plan
from girsanov.training.state import TrainingState
from girsanov.types import InputError
from tests.seeds import seeded


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", 2.0), ("steps", True), ("batch_size", -1), ("learning_rate", 0.0),
        ("learning_rate", "1"), ("learning_rate", math.nan), ("warmup", -1), ("weight_decay", -0.1),
        ("clip_norm", 0.0), ("ema_decay", 1.0), ("time_budget", 0.0), ("time_budget", math.inf),
        ("validate_every", 0), ("patience", 0), ("seed", -1), ("checkpoint_steps", 0),
        ("checkpoint_seconds", -1.0), ("final_rate", 1.5), ("log_every", 0),
    ],
)  # fmt: skip
def test_config_refuses(name, value):
    with pytest.raises(InputError, match=f"^{name} must be "):
        TrainingConfig(**{name: value})


def test_schedule_values():
    config = TrainingConfig(learning_rate=2.0, warmup=10, final_rate=0.1)
    rates = [Plan(110, 5).rate(step, config) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert rates[59] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[-1] == pytest.approx(0.2)
    assert rates[9] == max(rates)


def test_warmup_is_at_most_a_tenth_of_the_plan():
    assert Plan(100, 5).rate(9, TrainingConfig(learning_rate=1.0, warmup=1000)) == 1.0
    assert Plan(3, 1).rate(0, TrainingConfig(learning_rate=1.0)) < 1.0


def test_plan_fits_the_budget_with_validations():
    for validate_every in (None, 100):
        config = TrainingConfig(steps=10**6, validate_every=validate_every)
        plan = make_plan(config, step=50, remaining=100.0, step_seconds=0.01, validation_seconds=1.0)
        validations = plan.steps // plan.validate_every + 1
        spent = (plan.steps - 50) * 0.01 + validations * 1.0
        assert 85.0 < spent <= 101.0
    assert make_plan(TrainingConfig(steps=60), step=50, remaining=100.0, step_seconds=0.01).steps == 60
    assert make_plan(TrainingConfig(), step=50, remaining=-1.0, step_seconds=0.01, validation_seconds=9.0).steps == 51


def test_clock_skips_the_first_steps():
    clock = StepClock(budget=10.0)  # window 0.3 s
    seconds, measured = 1.0, None
    for ticks in range(1, 100):
        seconds += 0.5 if ticks <= 5 else 0.02
        if (measured := clock.tick(seconds)) is not None:
            break
    assert measured == pytest.approx(0.02)
    assert 5 + 10 <= ticks <= 5 + 17


def test_batches_cover_every_row_once_per_epoch():
    batches = ShuffledBatches(10, 4, seed=1)
    epochs = torch.cat([batches(step) for step in range(15)]).view(6, 10)
    assert torch.equal(epochs.sort(1).values, torch.arange(10).expand(6, 10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6
    assert all(batches(step).shape == (4,) for step in (0, 2, 7))


def test_batches_are_a_function_of_the_step_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    forward = [ShuffledBatches(7, 3, seed=5)(step) for step in range(8)]
    batches = ShuffledBatches(7, 3, seed=5)
    backward = [batches(step) for step in reversed(range(8))][::-1]
    assert all(map(torch.equal, forward, backward))
    assert not torch.equal(ShuffledBatches(7, 3, seed=6)(0), forward[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert ShuffledBatches(2, 5, seed=0)(0).shape == (5,)


def test_mix_spreads_bits():
    values = [mix(seed, purpose, step) for seed in range(4) for purpose in range(4) for step in range(500)]
    assert len({value & 0xFFFFFFFF for value in values}) > len(values) - 5
    ones = sum(value.bit_count() for value in values) / len(values)
    assert abs(ones - 32.0) < 5 * 4.0 / math.sqrt(len(values))  # 4 = standard deviation of 64 fair bits


def test_average_closed_form():
    layer = nn.Linear(2, 1).double()
    average = MovingAverage(layer, decay=0.9)
    expected = layer.weight.detach().clone()
    for step in range(120):
        with torch.no_grad():
            layer.weight.add_(0.1 * step)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1.0 - decay) * layer.weight.detach()
    assert torch.allclose(average.evaluated().weight, expected, rtol=1e-12)
    assert warm_decay(0.9, 119) == 0.9


def test_average_has_evaluation_mode_current_buffers_and_no_gradient():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(module, 0.9)
    module(torch.randn(8, 2, generator=seeded(0)))
    averaged = average.evaluated()
    assert torch.equal(averaged[1].running_mean, module[1].running_mean)
    assert not averaged.training
    assert not any(p.requires_grad for p in averaged.parameters())


def test_half_precision_is_averaged_in_float32():
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    average = MovingAverage(layer, decay=0.999)
    start = float(layer.weight.detach())
    with torch.no_grad():
        layer.weight.add_(1.0)
    for step in range(10**4, 10**4 + 100):
        average.update(step)
    expected = start + (float(layer.weight.detach()) - start) * (1 - 0.999**100)
    assert float(average.evaluated().weight) == pytest.approx(expected, rel=1e-4)


def test_no_weight_decay_on_biases_and_norms():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = {name: p.detach().clone() + 0.5 for name, p in module.named_parameters()}
    module.load_state_dict(before)
    optimizer = Optimizer(module, TrainingConfig(weight_decay=0.5))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(learning_rate=0.1)
    for name, parameter in module.named_parameters():
        expected = before[name] * (0.95 if parameter.ndim == 2 else 1.0)
        assert torch.allclose(parameter.detach(), expected, rtol=1e-6), name


def test_clipping_by_the_global_norm():
    def updated(scale, clip):
        module = nn.Linear(2, 2)
        optimizer = Optimizer(module, TrainingConfig(clip_norm=clip))
        module.weight.grad, module.bias.grad = torch.full((2, 2), scale), torch.full((2,), scale)
        norm = optimizer.step(1e-3)
        return float(norm), optimizer.tensors()["weight:exp_avg"]

    norm, momentum = updated(3.0, 1.0)
    assert norm == pytest.approx(3.0 * math.sqrt(6.0))
    assert torch.allclose(momentum, torch.full((2, 2), 0.1 / math.sqrt(6.0)), rtol=1e-5)
    assert torch.allclose(updated(0.1, 1.0)[1], torch.full((2, 2), 0.01))
    assert torch.allclose(updated(3.0, None)[1], torch.full((2, 2), 0.3))


def test_optimizer_refuses_foreign_memory_and_frozen_modules():
    module = nn.Linear(2, 2)
    optimizer = Optimizer(module, TrainingConfig())
    slots = {
        "weight:step": torch.tensor(1.0),
        "weight:exp_avg": torch.zeros(3, 2),
        "weight:exp_avg_sq": torch.zeros(2, 2),
    }
    with pytest.raises(InputError, match="does not fit weight"):
        optimizer.load(slots)
    with pytest.raises(InputError, match="unknown other"):
        optimizer.load({"other:step": torch.tensor(1.0)})
    with pytest.raises(InputError, match="no trainable parameter"):
        Optimizer(module.requires_grad_(False), TrainingConfig())


def test_log_drops_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.1}) for step in (0, 10, 20, 30)]
    path.write_text("\n".join(lines) + '\n{"step": 40, "lo')
    log = TrainLog(path, step=20)
    log.write({"step": 30, "loss": 0.2})
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [0, 10, 20, 30] == [record["step"] for record in log.records]


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[1]\n", b'{"step": "x"}\n', b'{"step": true}\n', b"[" * 10**5])
def test_log_survives_garbage(tmp_path, content):
    (tmp_path / "train.jsonl").write_bytes(b'{"step": 0}\n' + content)
    assert TrainLog(tmp_path / "train.jsonl", step=5).records == [{"step": 0}]


@pytest.mark.parametrize(
    "change", [{"step": -1}, {"step": 1.5}, {"step": None}, {"stopped": "why"}, {"stopped": []}, {"seconds": "1"},
               {"loss_sum": 10**400}, {"extra": 1}]
)  # fmt: skip
def test_malformed_state_is_refused(change):
    with pytest.raises(InputError):
        TrainingState.from_json(TrainingState().to_json() | change)


def test_line_progress_respects_its_interval():
    stream = io.StringIO()
    progress = LineProgress(stream, interval=1000.0)
    progress.start(0, 10)
    progress.report({"step": 5, "loss": 0.1})
    assert stream.getvalue() == ""


def test_rich_progress_writes_to_standard_error_only(capsys):
    progress = RichProgress()
    progress.start(0, 10)
    progress.advance(5, 20)
    progress.report({"step": 5, "loss": 0.125, "validation": -1.0})
    progress.stop()
    assert capsys.readouterr().out == ""


def test_default_progress_without_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(default_progress(), LineProgress)


class Screen(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


def test_progress_is_a_bar_in_a_terminal_and_nothing_elsewhere_unless_asked(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    own = SilentProgress()
    for stream, kinds in ((io.StringIO(), [SilentProgress, LineProgress]), (Screen(), [RichProgress, RichProgress])):
        monkeypatch.setattr("sys.stderr", stream)
        assert [type(as_progress(given)) for given in (None, True)] == kinds
        assert isinstance(as_progress(False), SilentProgress)
        assert as_progress(own) is own
    with pytest.raises(InputError, match="progress must be True, False, or an object that shows the progress; got 3"):
        as_progress(3)


@pytest.fixture
def notebook(monkeypatch):
    """IPython as the kernel of a notebook has it; what its display and the updates were given."""
    shown = []
    handle = SimpleNamespace(update=lambda page, raw: shown.append(page["text/html"]))
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    display.display = lambda page, raw, display_id: shown.append(page["text/html"]) or handle
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_a_notebook_has_a_bar_of_its_own_that_goes_away(notebook):
    progress = as_progress()
    assert isinstance(progress, NotebookProgress)
    progress.stop()  # before anything began
    assert notebook == []
    progress.say("2 < 3")
    for stage in ("spline flow", "training"):
        progress.stage(stage)
        progress.start(0, 1000)
        progress.advance(250, 1000)
        progress.report({"step": 250, "loss": 0.5, "validation": -1.5})
        assert f"{stage}  loss 0.5  validation -1.5  2 &lt; 3" in notebook[-1]
        page = ElementTree.fromstring(notebook[-1])
        assert page.find("progress").attrib == {"value": "250", "max": "1000"}
        progress.stop()
        assert notebook[-1] == ""


def test_a_terminal_with_ipython_is_no_notebook(notebook, monkeypatch):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(default_progress(), LineProgress)
