"""The whole command ``girsanov fit`` from outside: seconds, memory, and what its ``metrics.json`` says.

Its time is the wall clock around the process. A command can be stopped after some minutes and given again, as a user
would who needs the machine: the row then sums over all of them.
"""

__all__ = ["bits", "fitted", "kept", "parts", "step_seconds"]

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from benchmarks._record import append_line, read_lines
from girsanov.density_model import DensityModel
from girsanov.networks import NETWORKS, Ensemble, default_network
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.peers import compressed
from girsanov.runs.rows import parts_of
from girsanov.training import TrainingConfig, train

STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a command that was stopped: in training, elsewhere
MOST = 20  # commands for one run


def fitted(data, out, *options, seconds=None, threads=2, piece=None):
    """Give the command until it is complete, and describe its run.

    Args:
        data: as the command takes it.
        out: folder of the run; one that an earlier call has begun is gone on with, one that is complete is described.
        options: more of the command's.
        seconds: its time budget; ``None`` leaves it to the defaults.
        threads: processor threads.
        piece: seconds after which the command is stopped, and then given again.
    """
    arguments = ["fit", str(data), "--out", str(out), "--threads", str(threads), *options]
    if seconds is not None:
        arguments += ["--time-budget", f"{seconds:g}"]
    path = Path(out).parent / f"{Path(out).name}.commands.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = read_lines(path)
    while not done or (done[-1]["code"] in STOPPED and len(done) < MOST):
        found = _given(arguments, piece)
        if found["code"] not in (0, *STOPPED):
            raise SystemExit(f"girsanov {' '.join(arguments)} ended with code {found['code']}")
        append_line(path, found)
        done.append(found)
    return {
        "options": [*options],
        "budget_seconds": seconds,
        "threads": threads,
        "seconds": round(sum(command["seconds"] for command in done), 1),
        "commands": len(done),
        "peak_memory_mib": max(command["peak_memory_mib"] for command in done),
        **described(Path(out)),
    }


def _given(arguments, piece):
    """One command: exit code, wall-clock seconds, peak memory of its process."""
    begun = time.monotonic()
    process = subprocess.Popen([str(Path(sys.executable).with_name("girsanov")), *arguments])
    timer = threading.Timer(piece or 0.0, process.send_signal, (signal.SIGTERM,))
    if piece is not None:
        timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, memory = time.monotonic() - begun, usage.ru_maxrss / 1024  # ru_maxrss is in KiB on Linux
    return {"code": process.returncode, "seconds": seconds, "peak_memory_mib": round(memory)}


def described(run):
    """What the run's files say, in bits per dimension."""
    metrics = json.loads((run / "metrics.json").read_text())
    bound, training = metrics["test"]["elbo"], metrics["training"]
    model = DensityModel.from_pretrained(run)
    scale = bound["event_dim"] * math.log(2)
    return {
        **bits(bound),
        "evaluations": bound["nfe"],
        # on validation rows, where training looks: the untrained model, which is the start, and the chosen one
        "untrained_validation_bits_per_dim": _over(training["validation_before"], -scale),
        "validation_bits_per_dim": _over(training["validation"], -scale),
        "steps": training["steps"],
        "stopped": training["stopped"],
        "training_seconds": training["seconds"],
        "phase_seconds": metrics["timing"],  # what remains of the command is reading, drawing and the report
        "shortened": metrics["shortened"],
        "parameters": sum(parameter.numel() for parameter in model.score.network.parameters()),
        "network": type(model.score.network).__name__,
        "settings": metrics["settings"]["config"],
        "peers": {name: bits(entry) | _gap(entry, scale) for name, entry in metrics["peers"].items()},
        "codecs": metrics.get("codecs") or _codecs(model),
        "failed": metrics["failed"],
    }


def bits(entry):
    """Bits per dimension of an entry in nats, with both standard errors: of the estimator and over rows."""
    scale = entry["event_dim"] * math.log(2)
    return {
        "bits_per_dim": -entry["nats"] / scale,
        "stderr_estimator": _over(entry["stderr"], scale),
        "stderr_rows": _over(entry["rows_stderr"], scale),
        "rows": entry["rows"],
        "kind": entry["kind"],
    }


def _over(nats, scale):
    return None if nats is None else nats / scale


def _gap(entry, scale):
    """By how many bits per dimension our bound is better, with its interval over rows."""
    gap = entry["difference"]
    return {} if gap is None else {"ours_is_better_by": [gap[key] / scale for key in ("nats", "low", "high")]}


def _codecs(model):
    """Of all held-out images, where the run has not said it."""
    rows = parts(model)[2].x.long()
    return {name: {"bits_per_dim": value, "rows": len(rows)} for name, value in compressed(rows).items()}


def step_seconds(run, rounds=5, steps=30, threads=2):
    """Seconds of a training step, and of the network alone on the same batch, forward and backward, in turn.

    The network is called with what the objective gives it, as often as the objective does in one step.
    """
    torch.set_num_threads(threads)
    model = DensityModel.from_pretrained(run)
    x, network = parts(model)[0].x, model.score.network
    members = list(network.members) if isinstance(network, Ensemble) else [network]
    config = model.record["config"]
    kind = NETWORKS[config["network"] or default_network(x.shape[1:])]
    each = config["batch_size"] or kind.batch_size(x.shape[1:])
    size = min(len(members) * each, len(x))
    objective, calls = DenoisingObjective(model.score, model.encoding.transforms), []

    def note(member, given):
        calls.append((member, [value.detach() if isinstance(value, torch.Tensor) else value for value in given]))

    hooks = [member.register_forward_pre_hook(note) for member in members]
    _stepped(model.score, objective, x[:size], 1)
    for hook in hooks:
        hook.remove()
    model.score.train()
    found = [(_stepped(model.score, objective, x[:size], steps), _alone(calls, steps)) for _ in range(rounds)]
    whole, alone = (statistics.median(values) for values in zip(*found, strict=True))
    ratio = statistics.median(a / b for a, b in found)
    return {"step_seconds": whole, "network_alone_seconds": alone, "step_over_network": ratio, "batch": size}


def _stepped(score, objective, rows, steps):
    """Seconds per step of the library's loop."""
    config = TrainingConfig(steps=steps, batch_size=len(rows), weight_decay=0.1)
    begun = time.perf_counter()
    train(score, objective, lambda step: Batch(rows), config=config)
    return (time.perf_counter() - begun) / steps


def _alone(calls, steps):
    """Seconds per step of the network and its gradient."""
    begun = time.perf_counter()
    for _ in range(steps):
        for network, arguments in calls:
            found = network(*arguments)
            found.backward(torch.ones_like(found))
            network.zero_grad()
    return (time.perf_counter() - begun) / steps


def parts(model):
    """The training, validation and test rows of a run, as :class:`girsanov.datasets.Data`."""
    return [rows.data for rows in parts_of(model, "fit again").values()]


def kept(path, key, make):
    """The row of a key, made and added to the lines of a file unless it is among them."""
    found = next((row for row in read_lines(path) if row["what"] == key), None)
    if found is None:
        found = {"what": key, **make()}
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, found)
    return found
