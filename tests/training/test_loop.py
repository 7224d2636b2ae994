import json
import math
import os
import signal
import threading

import pytest
import torch
from torch import nn

from girsanov.training import Interrupted, NonFiniteLossError, TrainingConfig, load_latest, train
from girsanov.types import InputError, MeanEstimate


def lines(run):
    return [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]


def steps_to_the_end(run):
    return [line["step"] for line in lines(run)]


def without_time(records):
    timed = {"seconds", "examples_per_second"}
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_it_learns_and_leaves_the_global_generator_alone(problem):
    before = torch.get_rng_state()
    _, result = problem.train(steps=200)
    assert torch.equal(torch.get_rng_state(), before)
    losses = [record["loss"] for record in result.history if record["loss"] is not None]
    assert losses[-1] < losses[0]
    assert (result.step, result.planned_steps, result.stopped) == (200, 200, "finished")


def test_same_seed_same_bits_and_another_seed_other_bits(problem, same):
    first, _ = problem.train()
    torch.manual_seed(99)
    second, _ = problem.train()
    other, _ = problem.train(seed=4)
    assert same(first, second)
    assert not same(first, other)


@pytest.mark.parametrize("crash", [1, 4, 13, 39])
def test_resume_is_bit_exact(problem, same, tmp_path, interrupt_at, crash):
    module, result = problem.train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path / "run", batches=interrupt_at(problem, crash))
    resumed, again = problem.train(tmp_path / "run")
    assert same(module, resumed)
    assert same(result.module, again.module)
    assert (again.best_step, again.best_value) == (result.best_step, result.best_value)
    assert without_time(lines(tmp_path / "run")) == without_time(lines(tmp_path / "whole"))
    assert without_time(again.history) == without_time(result.history)


def test_a_loss_with_state_is_resumed(problem, tmp_path, interrupt_at):
    whole, killed, resumed = RunningMean(), RunningMean(), RunningMean()
    problem.train(loss=whole)
    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path, loss=killed, batches=interrupt_at(problem, 20))
    problem.train(tmp_path, loss=resumed)
    assert torch.equal(resumed.mean, whole.mean)
    assert not torch.equal(killed.mean, whole.mean)


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, module, batch, generator, step):
        value = module(batch).square().mean()
        self.mean.lerp_(value.detach().double(), 0.01)
        return value


def test_a_finished_run_returns_at_once(problem, same, tmp_path):
    _, result = problem.train(tmp_path)

    def never(step):
        raise AssertionError("no step is due")

    fresh, again = problem.train(tmp_path, batches=never)
    assert same(result.module, again.module)
    assert again.stopped == "finished"
    assert again.step == 40
    assert again.history == result.history
    assert not same(fresh, problem.module())


def test_damaged_newest_checkpoint_is_passed_over(problem, same, tmp_path, interrupt_at, caplog):
    module, _ = problem.train()
    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path, batches=interrupt_at(problem, 23))
    root = tmp_path / "checkpoints"
    newest = root / (root / "LATEST").read_text().strip()
    flip(newest / "optimizer.safetensors")
    resumed, _ = problem.train(tmp_path)
    assert same(module, resumed)
    assert "damaged" in caplog.text
    assert steps_to_the_end(tmp_path) == sorted(set(steps_to_the_end(tmp_path)))


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_torn_log_does_not_matter(problem, tmp_path, interrupt_at, cut):
    _, result = problem.train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path / "run", batches=interrupt_at(problem, 23))
    log = tmp_path / "run" / "train.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    problem.train(tmp_path / "run")
    steps = steps_to_the_end(tmp_path / "run")
    assert steps == sorted(set(steps))
    assert steps[-1] == 40
    assert len(result.history) - len(steps) <= 1


def test_the_result_takes_gradients_where_the_module_does(problem):
    """Without, PyTorch computes some products of matrices otherwise, and a saved model would differ from itself."""
    module = problem.module()
    frozen = next(module.parameters()).requires_grad_(False)
    _, result = problem.train(module=module, steps=2)
    assert [p.requires_grad for p in result.module.parameters()] == [p is not frozen for p in module.parameters()]


def test_other_settings_data_or_module_are_refused(problem, tmp_path):
    problem.train(tmp_path, identity="digits")
    with pytest.raises(InputError, match=r"learning_rate=0\.001, not 0\.5"):
        problem.train(tmp_path, identity="digits", learning_rate=0.5)
    with pytest.raises(InputError, match="other data"):
        problem.train(tmp_path, identity="wine")
    with pytest.raises(InputError, match="does not fit"):
        problem.train(tmp_path, identity="digits", module=nn.Linear(3, 3))
    problem.train(tmp_path, identity="digits", log_every=2, checkpoint_seconds=9.0)


def test_a_forged_checkpoint_is_an_input_error(problem, tmp_path):
    from girsanov.training import save

    problem.train(tmp_path)
    found = load_latest(tmp_path / "checkpoints")
    for damage in (
        {"training": {}},
        {"training": 3},
        {"config": []},
        {"training": found.state["training"] | {"step": "x"}},
    ):
        save(tmp_path / "checkpoints", 40, found.tensors, found.state | damage)
        with pytest.raises(InputError):
            problem.train(tmp_path)
    save(tmp_path / "checkpoints", 40, {"model": found.tensors["model"]}, found.state)
    with pytest.raises(InputError, match="does not fit"):
        problem.train(tmp_path)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_the_finished_step_and_resume_is_exact(problem, same, tmp_path, signum, code):
    whole, _ = problem.train()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def batches(step):
        if step == 16:
            os.kill(os.getpid(), signum)
        return problem.rows[:8]

    def plain(step):
        return problem.rows[:8]

    with pytest.raises(Interrupted) as caught:
        problem.train(tmp_path, batches=batches, checkpoint_steps=1000)
    assert caught.value.exit_code == code
    assert load_latest(tmp_path / "checkpoints").step == 17
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    resumed, _ = problem.train(tmp_path, batches=plain, checkpoint_steps=1000)
    expected, _ = problem.train(batches=plain)
    assert same(expected, resumed)
    assert not same(whole, resumed)


def test_second_interrupt_raises_at_once(problem, tmp_path):
    def batches(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return problem.rows[:8]

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        problem.train(tmp_path, batches=batches)
    assert load_latest(tmp_path / "checkpoints").step == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_it_runs_outside_the_main_thread(problem):
    results = []
    thread = threading.Thread(target=lambda: results.append(problem.train(steps=3)))
    thread.start()
    thread.join()
    assert results[0][1].step == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_names_its_step_and_spares_the_checkpoint(problem, tmp_path, bad):
    def loss(module, batch, generator, step):
        value = module(batch).square().mean()
        return value * bad if step == 14 else value

    with pytest.raises(NonFiniteLossError, match=r"at step 14 .*lower learning_rate"):
        problem.train(tmp_path, loss=loss)
    found = load_latest(tmp_path / "checkpoints")
    assert found.step <= 14
    assert all(tensor.isfinite().all() for tensor in found.tensors["model"].values())


def test_non_finite_gradient_under_a_finite_loss(problem):
    def loss(module, batch, generator, step):
        return (module(batch)[0, 0] * 0.0).abs().sqrt()

    with pytest.raises(NonFiniteLossError, match="gradient norm nan at step 0: check the data"):
        problem.train(loss=loss)


def test_non_finite_validation(problem):
    with pytest.raises(NonFiniteLossError, match="validation after 7 steps is nan"):
        problem.train(validate=lambda module, step: math.nan if step == 7 else 0.0)


def test_early_stopping_keeps_the_best_averaged_weights(problem, same):
    kept = {}
    values = {0: -9.0, 7: -5.0, 14: -1.0, 21: -2.0, 28: -1.5, 35: 0.0}

    def validate(module, step):
        assert not module.training
        kept[step] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return MeanEstimate(values[step], 0.25, 0.5, 10)

    _, result = problem.train(steps=400, validate=validate, patience=2)
    assert (result.stopped, result.step) == ("patience", 28)
    assert (result.best_step, result.best_value, result.best_stderr) == (14, -1.0, 0.25)
    best = result.module.state_dict()
    assert all(torch.equal(best[name], kept[14][name]) for name in best)
    assert not torch.equal(best["0.weight"], kept[28]["0.weight"])


def test_patience_survives_a_resume(problem, tmp_path, interrupt_at):
    def validate(module, step):
        return -float(step)

    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path, validate=validate, patience=3, batches=interrupt_at(problem, 17))
    _, result = problem.train(tmp_path, validate=validate, patience=3)
    assert (result.stopped, result.step, result.best_step) == ("patience", 21, 0)


def test_without_validation_the_final_average_is_returned(problem):
    module, result = problem.train(validate=None, ema_decay=0.0)
    assert result.best_value is None
    assert torch.allclose(result.module[0].weight, module[0].weight.detach(), rtol=1e-6)


def test_time_budget_fixes_a_plan_once_and_records_it(problem, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    def batches(step):
        clock.now += 0.01
        return problem.rows[:8]

    def validate(module, step):
        clock.now += 0.1
        return 0.0

    def crash(step):
        if step == 300:
            raise RuntimeError("crash")
        return batches(step)

    options = {
        "steps": 10**6,
        "time_budget": 10.0,
        "validate_every": None,
        "checkpoint_steps": None,
        "validate": validate,
    }
    with pytest.raises(RuntimeError, match="crash"):
        problem.train(tmp_path, batches=crash, **options)
    planned = load_latest(tmp_path / "checkpoints").state["training"]["planned_steps"]
    assert 700 < planned < 1000
    clock.now += 1000.0  # time between processes does not count
    _, result = problem.train(tmp_path, batches=batches, **options)
    assert result.planned_steps == planned
    assert result.step == planned
    assert result.stopped == "finished"
    assert 8.5 < result.seconds <= 10.0
    assert result.history[-1]["learning_rate"] == pytest.approx(1e-5)


def test_budget_is_a_hard_stop_when_steps_become_slower(problem, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    def batches(step):
        clock.now += 0.01 if step < 100 else 0.1
        return problem.rows[:8]

    options = {"steps": 10**6, "validate_every": None, "checkpoint_steps": None, "batches": batches}
    _, result = problem.train(tmp_path, time_budget=10.0, **options)
    assert result.stopped == "time"
    assert result.step < result.planned_steps
    assert 9.8 <= result.seconds <= 10.2
    step = result.step
    assert problem.train(tmp_path, time_budget=10.0, **options)[1].step == step
    longer = problem.train(tmp_path, time_budget=15.0, **options)[1]
    assert step < longer.step < longer.planned_steps == result.planned_steps


def test_validations_stay_within_their_share_of_the_budget(problem, monkeypatch):
    clock, calls = Clock(monkeypatch), []

    def batches(step):
        clock.now += 0.05
        return problem.rows[:8]

    def validate(module, step):
        clock.now += 2.0
        calls.append(step)
        return 0.0

    _, result = problem.train(
        steps=10**6, time_budget=60.0, validate_every=None, validate=validate, batches=batches, checkpoint_steps=None
    )
    assert result.seconds <= 60.5
    assert 3 <= len(calls) <= 6
    assert calls[-1] == result.step == result.planned_steps


class Clock:
    """Stands in for the monotonic clock."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_progress_hears_of_the_run(problem):
    heard = []

    class Recorder:
        def start(self, step, total):
            heard.append(("start", step, total))

        def advance(self, step, total):
            heard.append(("advance", step, total))

        def report(self, record):
            heard.append(("report", record["step"], record["validation"]))

        def stop(self):
            heard.append(("stop",))

    problem.train(progress=Recorder())
    assert heard[0] == ("start", 0, 40)
    assert heard[-1] == ("stop",)
    assert ("advance", 40, 40) in heard
    assert [step for kind, step, value in heard[1:-1] if kind == "report" and value is not None] == [
        0, 7, 14, 21, 28, 35, 40,
    ]  # fmt: skip


def test_two_processes_cannot_train_in_one_folder(problem, tmp_path):
    def batches(step):
        with pytest.raises(InputError, match="another process"):
            problem.train(tmp_path)
        return problem.rows[:8]

    assert problem.train(tmp_path, steps=1, batches=batches)[1].step == 1


def test_scalar_and_per_row_losses_agree(problem, same):
    def per_row(module, batch, generator, step):
        return module(batch).square().sum(1)

    def scalar(module, batch, generator, step):
        return per_row(module, batch, generator, step).mean()

    assert same(problem.train(loss=per_row)[0], problem.train(loss=scalar)[0])


def test_a_run_that_cannot_be_a_folder(problem, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write in"):
        problem.train(tmp_path / "file")


def test_dropout_noise_is_keyed_by_the_step_not_by_the_caller():
    seen = []

    def loss(module, batch, generator, step):
        seen.append((torch.rand(()).item(), torch.rand((), generator=generator).item()))
        torch.rand(step + 1)  # however much a step draws
        return module(batch).mean()

    for _ in range(2):
        train(nn.Linear(1, 1), loss, lambda step: torch.ones(2, 1), config=TrainingConfig(steps=5, batch_size=2))
    assert seen[:5] == seen[5:]
    assert len({value for pair in seen[:5] for value in pair}) == 10
