"""One training loop over (module, loss, batches); it knows no model.

Everything a step computes is a function of the weights and of (seed, step): the rows, the noise,
the learning rate. A checkpoint therefore needs no generator state, and a run that was killed at any
moment and started again ends with the same bits as one that was left alone (same machine, same
thread count).
"""

__all__ = ["Loss", "TrainingResult", "train"]

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from girsanov.display import Shown
from girsanov.files import lock_directory
from girsanov.training import checkpoints
from girsanov.training.config import TrainingConfig
from girsanov.training.ema import MovingAverage
from girsanov.training.log import Record, TrainLog
from girsanov.training.meter import Meter
from girsanov.training.optimizer import Optimizer
from girsanov.training.progress import Progress, SilentProgress
from girsanov.training.schedule import StepClock, make_plan, unplanned_rate
from girsanov.training.signals import Interrupted, StopSignals
from girsanov.training.snapshot import Snapshot
from girsanov.training.state import Outcome, TrainingState
from girsanov.training.steps import Steps
from girsanov.training.validation import Validation, Validator
from girsanov.types import InputError
from girsanov.workers import WorkerLostError

#: ``loss(module, batch, generator, step)``: a scalar, or values of shape ``b`` whose mean is taken.
Loss: TypeAlias = Callable[[nn.Module, Any, torch.Generator, int], Tensor]
#: ``batches(step)``: the batch of step 0, 1, ...
Batches: TypeAlias = Callable[[int], Any]

CHECK_STEPS = 50
CHECK_SECONDS = 0.5
WRITE_COST = 20.0  # a checkpoint that took s seconds is not repeated within 20 s


@dataclass(frozen=True, repr=False)
class TrainingResult(Shown):
    """What training gives back.

    Attributes:
        module: a copy of the module with averaged weights, those of the best validation where there
            was one, in evaluation mode and without gradients.
        step: completed steps.
        planned_steps: the number of steps that the learning rate was scheduled for.
        seconds: time spent, over all resumes.
        stopped: ``finished``, ``patience`` (no improvement) or ``time`` (the budget ran out).
        best_value: best validation, or ``None`` without validation.
        best_stderr: its standard error, where the validation gave one.
        best_step: completed steps at the best validation.
        history: the lines of the log.
    """

    module: nn.Module
    step: int
    planned_steps: int
    seconds: float
    stopped: Outcome
    best_value: float | None
    best_stderr: float | None
    best_step: int | None
    history: tuple[Record, ...]


def train(
    module: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    config: TrainingConfig,
    validate: Validation | None = None,
    run: str | Path | None = None,
    progress: Progress | None = None,
    identity: str = "",
) -> TrainingResult:
    """Minimise a loss with AdamW, average the weights, validate, write checkpoints, resume.

    With ``run``, the folder gets ``train.jsonl`` and ``checkpoints/``; if it has a checkpoint,
    training goes on from it, and a run that had ended returns its result at once. Draw noise from
    the generator that the loss is given (or from the global one, as dropout does): both are keyed
    by the step, and the given one is the CPU's, on whatever device the module is. Within
    :func:`girsanov.workers.leading`, under ``torchrun``, the processes share every step; noise that is
    drawn by :mod:`girsanov.randomness` is then that of one process.

    Args:
        module: trained in place; afterwards it holds the last weights, the result the averaged
            ones.
        loss: ``loss(module, batch, generator, step)``, a scalar or one value per row. If it has
            ``state_dict`` and ``load_state_dict`` (tensors by name), they are part of the
            checkpoint; its own parameters are not trained.
        batches: ``batches(step)`` gives the batch of step 0, 1, ...; a function of the step alone,
            such as ``lambda step: x[shuffled(step)]`` with
            :class:`girsanov.training.ShuffledBatches`.
        config: the settings.
        validate: ``validate(averaged_module, step)`` after so many completed steps (0 first): a
            number to maximise, or a :class:`girsanov.types.MeanEstimate`.
        run: the folder of the run, or ``None`` to write nothing.
        progress: what shows the progress; nothing when omitted.
        identity: describes the data and the model; a resume with another one is refused.

    Returns:
        The averaged module and the facts of the run.

    Raises:
        InputError: if the checkpoint is of another run or all are damaged, or the disk is full.
        NonFiniteLossError: if the loss, gradient, weights or validation are not finite.
        Interrupted: on SIGINT or SIGTERM, after the step was completed and its checkpoint saved.
        WorkerLostError: if a process that shares the steps has died, after a checkpoint was saved.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> def loss(module, batch, generator, step):
        ...     return (module(batch) - 3.0 * batch).square().squeeze(1)
        >>> config = TrainingConfig(steps=300, learning_rate=0.1, ema_decay=0.9)
        >>> result = train(layer, loss, lambda step: torch.ones(4, 1), config=config)
        >>> round(result.module.weight.item(), 2), result.stopped
        (3.0, 'finished')
    """
    loop = _Loop(module, loss, batches, config, validate, identity)
    folder = None if run is None else Path(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(loop.signals)
        stack.enter_context(loop.steps.randomness.restored())
        if folder is not None:
            _open_run(folder, stack)
        return loop.go(folder, progress or SilentProgress())


def _open_run(folder: Path, stack: contextlib.ExitStack) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_directory(folder))
    except OSError as error:
        raise InputError(f"cannot write in {folder} ({error.strerror}): choose another folder") from error


@final
class _Loop:
    """The moving parts of a run; :meth:`go` drives them."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Batches,
        config: TrainingConfig,
        validate: Validation | None,
        identity: str,
    ) -> None:
        self.module, self.loss, self.batches, self.config = module, loss, batches, config
        self.signals = StopSignals()
        self.state = TrainingState()
        self.meter = Meter(self.state)
        self.optimizer = Optimizer(module, config)
        self.steps = Steps(module, loss, self.optimizer, config)
        self.average = MovingAverage(module, config.ema_decay)
        self.validator = Validator(validate, self.state, self.steps.randomness)
        parts = self.average, self.optimizer, self.validator, self.state
        self.snapshot = Snapshot(module, loss, *parts, config, identity)
        self.clock = StepClock(config.time_budget or 0.0)

    def go(self, folder: Path | None, progress: Progress) -> TrainingResult:
        """Begin or resume, train until there is a reason to stop, and end."""
        self._begin(folder, progress)
        if (ended := self._ended()) is not None:
            return self._result(ended)
        self.state.stopped = None
        self.module.train()
        self.progress.start(self.state.step, self._total())
        try:
            if self.state.step == 0 and self.state.last_step is None:
                self._report(*self.validator.run(self.average.evaluated()))
            self.steps.invite()
            while (outcome := self._outcome()) is None:
                self._step()
                self._after_step()
            self.steps.end()
            self._finish(outcome)
        except WorkerLostError:
            self._save()
            raise
        finally:
            self.progress.stop()
        return self._result(outcome)

    # Beginning and end.

    def _begin(self, folder: Path | None, progress: Progress) -> None:
        self.root = None if folder is None else folder / "checkpoints"
        found = None if self.root is None else checkpoints.load_latest(self.root)
        if found is not None:
            self.snapshot.restore(found)
        self.log = TrainLog(folder / "train.jsonl" if folder else None, self.state.step)
        self.progress = progress
        self.earlier, self.started = self.state.seconds, time.monotonic()
        self.checked = self.saved = self.reported = self.state.seconds
        self.saved_step = self.reported_step = self.state.step
        self.save_seconds = self.reported_validation = 0.0
        if self.state.plan is None and self.config.time_budget is None:
            self.state.plan = make_plan(self.config)

    def _ended(self) -> Outcome | None:
        """Why the resumed run had ended before, unless a larger time budget lets it go on."""
        state, budget = self.state, self.config.time_budget
        if state.stopped != "time":
            return state.stopped
        more = budget is None or (state.time_budget is not None and budget > state.time_budget)
        return None if more else "time"

    def _outcome(self) -> Outcome | None:
        """Why to stop now, if there is a reason."""
        state, config = self.state, self.config
        if state.step >= self._total():
            return "finished"
        if config.patience is not None and state.stale >= config.patience:
            return "patience"
        if config.time_budget is not None:
            due = 0.0 if state.last_step == state.step else state.validation_seconds
            if state.seconds + due >= config.time_budget:
                return "time"
        return None

    def _finish(self, outcome: Outcome) -> None:
        self._check()
        if self.state.last_step != self.state.step:
            self._report(*self.validator.run(self.average.evaluated()))
        elif self.reported_step != self.state.step:
            self._report(None, None)
        self._read_clock()
        self.state.stopped, self.state.time_budget = outcome, self.config.time_budget
        self._save()

    def _result(self, outcome: Outcome) -> TrainingResult:
        averaged, state = self.average.evaluated(), self.state
        if self.validator.best is not None:
            averaged.load_state_dict(self.validator.best)
        for mine, theirs in zip(averaged.parameters(), self.module.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)  # some products of matrices are computed otherwise without it
        best = state.best_value, state.best_stderr, state.best_step
        history = tuple(self.log.records)
        return TrainingResult(averaged, state.step, self._total(), state.seconds, outcome, *best, history)

    # One step.

    def _step(self) -> None:
        step = self.state.step
        value, norm = self.steps(step, self._rate(step), self.batches(step))
        self.average.update(step)
        self.meter.add(value, norm)
        self.state.step = step + 1

    def _rate(self, step: int) -> float:
        plan = self.state.plan
        return unplanned_rate(step, self.config) if plan is None else plan.rate(step, self.config)

    def _total(self) -> int:
        return self.config.steps if self.state.planned_steps is None else self.state.planned_steps

    # Whatever is due between two steps.

    def _after_step(self) -> None:
        state = self.state
        signum = self._read_clock()
        planned = state.plan is None and self._plan()
        if len(self.meter) >= CHECK_STEPS or state.seconds - self.checked > CHECK_SECONDS:
            self._check()
        every = self.config.validate_every if state.validate_every is None else state.validate_every
        if every and state.step % every == 0:
            self._check()
            self._report(*self.validator.run(self.average.evaluated()))
        elif state.step % self.config.log_every == 0:
            self._check()
            self._report(None, None)
        if planned or signum or self._save_due():
            self._save()
        if signum:
            self.steps.end()
            raise Interrupted(signum)

    def _read_clock(self) -> int:
        """Note the time; all decisions rest on it. Returns the signal that was received, or 0."""
        self.state.seconds = self.earlier + time.monotonic() - self.started
        return self.signals.received or 0

    def _plan(self) -> bool:
        """Fix the number of steps as soon as their duration is known."""
        step_seconds = self.clock.tick(self.state.seconds - self.validator.seconds)
        if step_seconds is None or self.config.time_budget is None:
            return False
        self.state.plan = make_plan(
            self.config,
            step=self.state.step,
            remaining=self.config.time_budget - self.state.seconds,
            step_seconds=step_seconds,
            validation_seconds=self.state.validation_seconds,
        )
        return True

    def _check(self) -> None:
        self.checked = self.state.seconds
        self.meter.check(self._rate(self.state.step))
        self.progress.advance(self.state.step, self._total())

    def _report(self, validation: float | None, stderr: float | None) -> None:
        """Add a line to the log; there is at most one per step."""
        state = self.state
        busy = state.seconds - self.reported - (self.validator.seconds - self.reported_validation)
        loss, norm = self.meter.take()
        steps = state.step - self.reported_step
        record: Record = {
            "step": state.step,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": self._rate(max(0, state.step - 1)),
            "seconds": round(state.seconds, 3),
            "examples_per_second": round(steps * self.config.batch_size / max(busy, 1e-9), 1) if steps else None,
            "validation": validation,
            "validation_stderr": stderr,
        }
        self.log.write(record)
        self.progress.report(record)
        self.reported, self.reported_step = state.seconds, state.step
        self.reported_validation = self.validator.seconds

    def _save_due(self) -> bool:
        every, since = self.config.checkpoint_steps, self.state.seconds - self.saved
        if every is not None and self.state.step - self.saved_step >= every:
            return True
        return since >= max(self.config.checkpoint_seconds, WRITE_COST * self.save_seconds)

    def _save(self) -> None:
        self._check()
        self.saved, self.saved_step = self.state.seconds, self.state.step
        if self.root is None:
            return
        begun = time.monotonic()
        self.snapshot.save(self.root)
        self.save_seconds = time.monotonic() - begun
