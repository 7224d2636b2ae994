r"""What the library costs beyond the network: training step, bound, import, command line.

- a training step against a hand-written loop on the same network, batch, noise, clipping, average and optimiser;
- an evaluation of the bound against its network evaluations alone, same rows and chunks;
- ``import girsanov`` beyond ``import torch``, and ``girsanov --help``, in fresh processes.

Ratios of interleaved repeats in one run; of processor time where one process is measured, so that other work on the
machine weighs less. That time sums over threads: take one.

    python -m benchmarks.overheads --threads 1
"""

import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks._record import Command, record, spread
from girsanov.calculus import expand_as_rows, sum_event
from girsanov.datasets import load, split
from girsanov.density_model import Config, prepare
from girsanov.objectives import Batch, DenoisingObjective
from girsanov.training import TrainingConfig, train

REPEATS = {"digits": 7, "table": 31}  # steps and bounds of tables are short, and other work shows in them


def bare_loop(model, x, steps):
    """What one would write by hand: noise, deviation, loss, clip, AdamW, average."""
    score = model.score.train()
    parameters = [p for p in score.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
    average = [p.detach().clone() for p in parameters]
    begun = time.process_time()
    for _ in range(steps):
        index = torch.randint(len(x), (512,))
        y, _ = model.encoding.transforms(x[index], torch.rand(512, *x.shape[1:], dtype=x.dtype))
        y = y.float()
        levels = -10.0 + 25.0 * torch.rand(512, dtype=torch.float64)
        eps = torch.randn_like(y)
        z = expand_as_rows(torch.sigmoid(levels).sqrt(), y) * y + expand_as_rows(torch.sigmoid(-levels).sqrt(), y) * eps
        target = eps - model.reference.noise(levels, z)
        loss = sum_event((target - score.deviation(levels, z)).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.002)
    return (time.process_time() - begun) / steps


def library_loop(model, x, steps):
    """The same steps by the library."""
    objective = DenoisingObjective(model.score, model.encoding.transforms)
    config = TrainingConfig(steps=steps, batch_size=512, weight_decay=0.1)
    begun = time.process_time()
    train(model.score, objective, lambda step: Batch(x[torch.randint(len(x), (512,))]), config=config)
    return (time.process_time() - begun) / steps


def training(kind):
    """Ratio per repeat for the network of one kind of data."""
    data, config = tables()[kind]
    model = prepare(data, split(len(data.x), seed=0), config)
    steps = 12 if kind == "digits" else 60
    library_loop(model, data.x, 3), bare_loop(model, data.x, 3)
    return [(library_loop(model, data.x, steps), bare_loop(model, data.x, steps)) for _ in range(REPEATS[kind])]


def evaluation(kind):
    """Bound against network evaluations alone."""
    data, config = tables()[kind]
    model = prepare(data, split(len(data.x), seed=0), config).eval()
    x = data.x[:256]
    z = torch.randn(512, *x.shape[1:])
    levels = torch.linspace(-10.0, 15.0, 512, dtype=torch.float64)

    def network():
        begun = time.process_time()
        with torch.no_grad():
            for _ in range(256 * 32 // 512):
                model.score.noise(levels, z)
        return time.process_time() - begun

    def bound():
        begun = time.process_time()
        model.elbo(x, samples=32)
        return time.process_time() - begun

    network(), bound()
    return [(bound(), network()) for _ in range(REPEATS[kind])]


def tables():
    """Digits with their defaults, and a table of ten columns with its own."""
    from girsanov.datasets import continuous_table

    x = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "digits": (load("digits"), Config(network="conv", dequantise="uniform")),
        "table": (continuous_table(x.exp()), Config(gaussianise=False)),
    }


def fresh(code):
    """Best of several fresh processes, in seconds."""
    command = [sys.executable, "-c", code]
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return min(times)


def main():
    """Measure all four."""
    parser = Command(__doc__, only="bound")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("training step", "bound"), help="measure this alone, and no processes")
    parser.add_argument("--name", default="overheads", help="file stem of the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for kind in ("digits", "table"):
        for name, measure in (("training step", training), ("bound", evaluation)):
            if options.only not in (None, name):
                continue
            pairs = measure(kind)
            ratios = [a / b for a, b in pairs]
            rows.append({"what": f"{name}, {kind}", "ratio": spread(ratios), "seconds": spread(a for a, _ in pairs)})
            print(rows[-1]["what"], round(statistics.median(ratios), 3), flush=True)
    if options.only is None:
        rows += processes()
    if not options.quick:
        record(options.name, rows)


def processes():
    """Import and command line, in fresh processes."""
    torch_alone, with_us = fresh("import torch"), fresh("import torch, girsanov")
    rows = [{"what": "import girsanov beyond torch, seconds", "value": with_us - torch_alone}]
    begun = [time.perf_counter()]
    program = str(Path(sys.executable).with_name("girsanov"))
    for _ in range(5):
        subprocess.run([program, "--help"], check=True, capture_output=True)
        begun.append(time.perf_counter())
    rows.append({"what": "girsanov --help, seconds", "value": min(b - a for a, b in pairwise(begun))})
    for row in rows:
        print(row["what"], round(row["value"], 3))
    return rows


if __name__ == "__main__":
    main()
