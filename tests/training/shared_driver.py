"""What processes do for test_shared.py: train, stop on a signal, go on, fit, evaluate; or lose one of them."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

import girsanov as gv
from girsanov.evaluation import evaluate
from girsanov.networks import MLPConfig
from girsanov.randomness import normal_like
from girsanov.training import Interrupted, ShuffledBatches, TrainingConfig, train
from girsanov.workers import leading, leave

ROWS, STEPS, STOPPED, KILLED = 101, 60, 29, 30


def rows():
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    return nn.Sequential(nn.Linear(3, 8, **double), nn.SiLU(), nn.Linear(8, 3, **double))


def loss(module, batch, generator, step):
    """Of noisy rows, with a gradient of a gradient, and with a parameter that some steps do not use."""
    noisy = (batch + normal_like(batch, generator)).requires_grad_()
    inner = module[0](noisy)
    (slope,) = torch.autograd.grad(inner.square().sum(), noisy, create_graph=True)
    return slope.square().sum(1) if step % 3 == 0 else (module(noisy) - batch).square().sum(1)


def fatal(module, batch, generator, step):
    """The same, of which the second process dies."""
    if step == KILLED and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(module, batch, generator, step)


def trained(folder, rule=loss, stop=None):
    """A training of a batch that processes cannot share evenly."""
    x, shuffled = rows(), ShuffledBatches(ROWS, 17, seed=0)

    def batches(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return x[shuffled(step)]

    config = TrainingConfig(steps=STEPS, batch_size=17, log_every=5, validate_every=20)
    return train(network(), rule, batches, config=config, run=folder, validate=lambda module, step: float(step))


def work(folder):
    """All of it, written to ``folder``."""
    try:
        trained(folder / "run", stop=STOPPED)
    except Interrupted:
        (folder / "stopped").touch()
    weights = [p.detach() for p in trained(folder / "run").module.parameters()]
    torch.set_default_dtype(torch.float64)
    config = gv.Config(steps=100, members=1, network=MLPConfig(width=16, blocks=1, dropout=0.0))
    model = gv.fit(rows(), config=config, out=folder / "fit")
    values = [evaluate(model, rows()[:31], name) for name in ("elbo", "density", "ode")]
    torch.save((weights, [(v.value, v.stderr) for v in values]), folder / "found.pt")


if __name__ == "__main__":
    place = Path(sys.argv[2])
    with leading():
        place.mkdir()
        if sys.argv[1] == "work":
            work(place)
        else:
            trained(place / "run", fatal)
    leave(0)
