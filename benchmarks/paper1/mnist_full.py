"""Bits per dimension of all MNIST test images under uniform dequantisation and with the categorical decoder.

With an accelerator: the paper's U-Net (32 channels, multipliers 1, 2, 2, two residual blocks; diffusers' UNet2DModel)
on all training images. The goals are 1.00 bits per dimension under uniform dequantisation and 0.45 with the categorical
decoder, standard error at most 0.005, on all 10,000 test images, residual or reconstruction included. On a CPU the same
script runs small and says so in its JSON.

A command works for at most `--minutes` and then stops; the same command goes on where it stopped, in training and in
evaluation alike, until it says that the result is written.

    python -m benchmarks.paper1.mnist_full FOLDER --out RUN --device cuda
    OMP_NUM_THREADS=1 python -m benchmarks.paper1.mnist_full FOLDER --out RUN
"""

__all__: list[str] = []

import contextlib
import math
import os
import signal
import threading
import time
from pathlib import Path

import torch

import girsanov as gv
from benchmarks._record import Command, append_line, read_lines, record
from benchmarks.paper1._pixels import mnist
from girsanov.networks import ConvConfig, UNetConfig
from girsanov.training import Interrupted

DECODERS = {"uniform": 1.00, "categorical": 0.45}  # and their goals in bits per dimension
STANDARD_ERROR = 0.005
BLOCK = 500  # test images evaluated between two notes on disk
PAPER = {"network": UNetConfig(width=32, blocks=2, dropout=0.0, multipliers=[1, 2, 2])}
FULL = {"steps": 80_000, "batch_size": 128, "learning_rate": 5e-4, "ema_decay": 0.9995, "patience": None}
SMALL = {"network": ConvConfig(width=16, blocks=1, dropout=0.0), "steps": 5000, "time_budget": 60.0, "batch_size": 64}
ROWS = {True: (10_000, 300), False: (None, 10_000)}  # training and test images, small or not


def settings(options, small, decoder):
    """All settings of one fit."""
    chosen = (SMALL if small else PAPER | FULL) | {
        "dequantise": decoder,
        "lattice_head": False,
        "members": 1,
    }
    if options.steps is not None:
        chosen |= {"steps": options.steps, "time_budget": None}
    return gv.Config(**chosen)


def fitted(data, config, folder, device):
    """The model, from its folder where an earlier command has finished it."""
    kept = folder / "model"
    if (kept / "manifest.json").exists():
        return gv.DensityModel.from_pretrained(kept).to(device)
    model = gv.fit(data, config=config, out=folder / "fit", device=device)
    model.save_pretrained(kept)
    return model


def evaluated(model, x, folder, samples):
    """Value and standard error of every row, block by block, going on after those that are on disk."""
    path = folder / "values.jsonl"
    lines = read_lines(path)
    done = sum(len(line["value"]) for line in lines)
    for start in range(done, len(x), BLOCK):
        found = model.elbo(x[start : start + BLOCK].to(model.device), samples=samples)
        lines.append({"value": found.value.tolist(), "stderr": found.stderr.tolist(), "nfe": found.nfe})
        append_line(path, lines[-1])
        print(f"{folder.name}: {start + len(lines[-1]['value'])} of {len(x)} test images", flush=True)
    value, stderr = (torch.tensor([v for line in lines for v in line[key]]).double() for key in ("value", "stderr"))
    scale = x[0].numel() * math.log(2)
    return {
        "bits_per_dim": float(-value.mean()) / scale,
        "stderr_estimator": float(stderr.square().sum().sqrt()) / len(x) / scale,
        "stderr_rows": float(value.std()) / math.sqrt(len(x)) / scale,
        "test_rows": len(x),
        "nfe": lines[0]["nfe"],
    }


def result(data, options, small, decoder):
    """One row of the record."""
    config, folder = settings(options, small, decoder), Path(options.out) / decoder
    folder.mkdir(parents=True, exist_ok=True)
    model = fitted(data, config, folder, options.device)
    count = options.test or ROWS[small][1]
    found = evaluated(model, data.x[data.n_train :][:count], folder, options.samples)
    goal = DECODERS[decoder]
    met = not small and found["bits_per_dim"] <= goal and found["stderr_rows"] <= STANDARD_ERROR
    print(f"{decoder}: {found['bits_per_dim']:.4f} bits/dim (goal {goal})", flush=True)
    parameters = sum(parameter.numel() for parameter in model.score.network.parameters())
    facts = {"training": model.record["training"], "settings": config.to_json(), "parameters": parameters}
    return {"decoder": decoder, **found, "goal": goal, "goal_met": met, **facts}


@contextlib.contextmanager
def stopping_after(minutes):
    """Ask the training, or whatever runs, to stop when the time is over; nothing is left behind."""

    def stop(signum, frame):
        raise Interrupted(signum)

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(60.0 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def main():
    """Work until the time is over or the result is written."""
    parser = Command(__doc__, steps=4, test=12, samples=8, minutes=1.0)
    parser.add_argument("data", help="folder of MNIST's idx files")
    parser.add_argument("--out", required=True, help="folder of checkpoints, models and values")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which a command stops")
    parser.add_argument("--decoders", nargs="*", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--steps", type=int, help="training steps, in place of the default")
    parser.add_argument("--test", type=int, help="test images, in place of the default")
    parser.add_argument("--samples", type=int, default=32, help="network evaluations per test image")
    parser.add_argument("--name", default="paper1-mnist-full", help="of the record")
    options = parser.parse_args()
    small = torch.device(options.device).type == "cpu"
    if small:
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
    begun = time.monotonic()
    try:
        with stopping_after(options.minutes):
            data = mnist(options.data, rows=ROWS[small][0])
            rows = [result(data, options, small, decoder) for decoder in options.decoders]
    except Interrupted:
        print(f"stopped after {time.monotonic() - begun:.0f} s: run the same command again to go on")
        return
    device = "cpu" if small else torch.cuda.get_device_name(options.device)
    facts = {"device": device, "small": small, "training_rows": data.n_train, "samples": options.samples}
    if not options.quick:
        print(f"wrote {record(options.name, rows, **facts, standard_error_goal=STANDARD_ERROR).name}")


if __name__ == "__main__":
    main()
