"""Kill a training run at random moments and start it again until it ends; a script for test_kill.py.

The interpreter imports torch once; each attempt is a fork that trains in one folder.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save as pack
from torch import nn

from girsanov.training import ShuffledBatches, TrainingConfig, train


def attempt(run: Path | None, steps: int) -> str:
    """Train and return a hash of every final tensor."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))
    rows = torch.randn(301, 4, generator=torch.Generator().manual_seed(1))
    shuffled = ShuffledBatches(len(rows), 64, seed=5)

    def loss(module, batch, generator, step):
        eps = torch.randn(batch.shape, generator=generator)
        return (module(batch + eps) - eps).square().sum(1)

    def validate(module, step):
        with torch.no_grad():
            return -float(module(rows).square().mean())

    config = TrainingConfig(steps=steps, batch_size=64, checkpoint_steps=11, log_every=5, validate_every=40, seed=5)
    result = train(module, loss, lambda step: rows[shuffled(step)], config=config, validate=validate, run=run)
    tensors = [*module.state_dict().items(), *((f"best.{k}", v) for k, v in result.module.state_dict().items())]
    return hashlib.sha256(pack(dict(tensors))).hexdigest()


def forked(run: Path, steps: int, delay: float | None) -> str | None:
    """Run an attempt in a child, kill it after ``delay`` seconds, and return its hash if it ended."""
    target = run / "hash.txt"
    child = os.fork()
    if child == 0:
        try:
            target.write_text(attempt(run, steps))
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("an attempt failed")
    return target.read_text() if target.exists() else None


def main(folder: str, kills: int, steps: int) -> None:
    torch.set_num_threads(1)
    generator = random.Random(kills)
    whole, run = Path(folder) / "whole", Path(folder) / "run"
    for path in (whole, run):
        path.mkdir()
    begun = time.monotonic()
    expected = forked(whole, steps, None)
    duration = time.monotonic() - begun
    killed, runs, found = 0, 1, None
    while killed < kills:
        found = forked(run, steps, generator.uniform(0.0, min(duration, 0.25)))
        killed += 1
        if found is not None and killed < kills:  # ended before the signal: begin another run
            assert found == expected, "an interrupted run ended with other bits"
            run = Path(folder) / f"run-{runs}"
            run.mkdir()
            runs += 1
    found = forked(run, steps, None)
    records = [json.loads(line)["step"] for line in (run / "train.jsonl").read_text().splitlines()]
    reference = [json.loads(line)["step"] for line in (whole / "train.jsonl").read_text().splitlines()]
    left = [path.name for path in run.rglob(".tmp-*")]
    print(json.dumps({
        "same": found == expected, "log": records == reference, "leftovers": left, "kills": killed, "runs": runs,
        "seconds": duration,
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
