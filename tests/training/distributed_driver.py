"""Train on one or two processes, stop on a signal that one rank receives, go on; for test_distributed.py."""

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from girsanov.training import Interrupted, ShuffledBatches, TrainingConfig, train


def main(folder: Path) -> None:
    if "RANK" in os.environ:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank() if dist.is_initialized() else 0
    size = dist.get_world_size() if dist.is_initialized() else 1
    folder.mkdir(exist_ok=True)
    rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    shuffled = ShuffledBatches(100, 16, seed=0)
    noise = []

    def build() -> nn.Module:
        torch.manual_seed(rank)  # rank 0's weights must win
        return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))

    def loss(module, batch, generator, step):
        noise.append(float(torch.rand((), generator=generator)))
        return (module(batch) - batch.flip(1)).square().sum(1)

    def interrupted(step):
        if step == 29 and rank == size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return rows[shuffled(step)]

    config = TrainingConfig(steps=60, batch_size=16, log_every=5, validate_every=20)
    options = {"config": config, "run": folder / "run", "validate": lambda module, step: float(step)}
    resumed_from = None
    try:
        train(build(), loss, interrupted, **options)
    except Interrupted:
        resumed_from = len(noise)
    result = train(build(), loss, lambda step: rows[shuffled(step)], **options)
    weights = [float(value) for p in result.module.parameters() for value in p.flatten()]
    report = {"weights": weights, "noise": noise[0], "resumed_from": resumed_from}
    (folder / f"rank-{rank}.json").write_text(json.dumps(report))
    if dist.is_initialized():
        dist.barrier()  # nobody closes the connection on another's last exchange
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
