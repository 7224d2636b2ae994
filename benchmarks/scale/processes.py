"""Two processes under torchrun against one: the same losses, the same likelihoods, and how much quicker.

Every process has one thread. Losses: a hundred steps of a perceptron in float64, without dropout. Likelihoods: bounds
and the ODE's log-densities of a fitted table, bit for bit. Quicker: rows per second of trainings of MNIST's network
and a perceptron of twenty columns, and of bounds of its rows, in interleaved rounds; validations and checkpoints aside.

    python -m benchmarks.scale.processes
"""

__all__: list[str] = []

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import girsanov as gv
from benchmarks._record import Command, record, settings, spread
from girsanov.evaluation import evaluate
from girsanov.networks import ImageNetwork, MLPConfig, ResidualMLP
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.pairs import ScoreModel
from girsanov.training import TrainingConfig, train
from girsanov.workers import leading, leave

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LIKELIHOODS = ("elbo", "density", "ode")
#: name -> shape of a row, rows of a batch
TRAININGS = {"images, 28 x 28": ((1, 28, 28), 64), "table, 20 columns": ((20,), 1024)}


def model_of(shape, seed=0):
    """An untrained score model of rows of a shape."""
    torch.manual_seed(seed)
    reference = gv.Gaussian(torch.zeros(shape), 1.0)
    network = ImageNetwork(shape, width=64) if len(shape) == 3 else ResidualMLP(shape, width=128, blocks=3)
    return ScoreModel(network, gv.VariancePreserving(), "v", reference=reference)


def trained(shape, batch, steps, **options):
    """A training on normal rows."""
    model, rows = model_of(shape), torch.randn(4 * batch, *shape, generator=torch.Generator().manual_seed(1))
    config = TrainingConfig(steps=steps, batch_size=batch, **options)
    objective = DenoisingObjective(model)
    return train(model, objective, lambda step: Batch(rows[batch * (step % 4) :][:batch]), config=config)


def losses(steps):
    """The loss of each of so many steps, in float64."""
    torch.set_default_dtype(torch.float64)
    found = trained((3,), 32, steps, log_every=1)
    torch.set_default_dtype(torch.float32)
    return [line["loss"] for line in found.history if line["loss"] is not None]


def fitted(folder):
    """A model of a table, fitted once by one process."""
    rows = torch.randn(1000, 20, generator=torch.Generator().manual_seed(2)).cumsum(1)
    config = gv.Config(steps=50, members=1, network=MLPConfig(width=128, blocks=3))
    gv.fit(rows, config=config, progress=False).save_pretrained(folder)


def table(n):
    """Rows of the same law."""
    return torch.randn(n, 20, generator=torch.Generator().manual_seed(3)).cumsum(1)


def work(options):
    """One process's, or several processes', part of it: what is measured, as tensors in a file."""
    torch.set_num_threads(1)
    with leading():
        if options.part == "numbers":
            model = gv.DensityModel.from_pretrained(options.model)
            values = [evaluate(model, table(101), name).value for name in LIKELIHOODS]
            torch.save({"losses": losses(options.steps), "values": values}, options.file)
            return
        found = {}
        for name, (shape, batch) in TRAININGS.items():
            begun = trained(shape, batch, 8).seconds  # what the first steps set up, apart
            more = trained(shape, batch, 8 + options.steps).seconds
            found[f"training, {name}"] = options.steps * batch / (more - begun)
        model = gv.DensityModel.from_pretrained(options.model)
        rows = table(options.scored)
        evaluate(model, rows[:64])
        begun = time.perf_counter()
        evaluate(model, rows)
        found["bounds, table, 20 columns"] = len(rows) / (time.perf_counter() - begun)
        torch.save(found, options.file)


def asked(part, processes, options, folder):
    """What so many processes find."""
    file = Path(folder) / "found.pt"
    command = LAUNCHER if processes > 1 else [sys.executable]
    given = ["--part", part, "--file", str(file), "--model", str(Path(folder) / "model")]
    sizes = ["--steps", str(options.steps), "--scored", str(options.scored)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    subprocess.run([*command, "-m", "benchmarks.scale.processes", *given, *sizes], check=True, env=environment)
    return torch.load(file)


def main():
    """Numbers once, times in rounds."""
    parser = Command(__doc__, steps=4, scored=64, rounds=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--scored", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("part", "file", "model"):
        parser.add_argument(f"--{name}", help="of the processes that this script starts")
    options = parser.parse_args()
    if options.part:
        work(options)
        leave(0)
    with tempfile.TemporaryDirectory() as folder:
        fitted(Path(folder) / "model")
        one, two = (asked("numbers", processes, options, folder) for processes in (1, 2))
        apart = max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))
        same = [bool(torch.equal(a, b)) for a, b in zip(one["values"], two["values"], strict=True)]
        rows = [{"what": "losses", "steps": len(one["losses"]), "largest_difference": apart}]
        rows.append({"what": "likelihoods", "rows": 101, **dict(zip(LIKELIHOODS, same, strict=True))})
        rounds = [[asked("times", processes, options, folder) for processes in (1, 2)] for _ in range(options.rounds)]
    for name in rounds[0][0]:
        ratios = [two[name] / one[name] for one, two in rounds]
        speed = statistics.median(one[name] for one, _ in rounds)
        rows.append(
            {"what": name, "rows_per_second": speed, "ratio": statistics.median(ratios), "spread": spread(ratios)}
        )
    for row in rows:
        print(row)
    if not options.quick:
        record("scale-processes", rows, **settings(options, "part", "file", "model"))


if __name__ == "__main__":
    main()
