"""What step log-probabilities cost beyond drawing: a chain's ``sample_path`` against the same sampler without any.

Of diffusers' schedulers the other side is the loop that pipelines have, by hand; of our own sampler ``gv.sample``. A
U-net of digits and a perceptron of a table, untrained: only time is measured, of one process and thread, in interleaved
repeats, so that other work on the machine weighs less. Once with the C library's allocator as it is, once with its
thresholds raised: as it is, small blocks that are kept between the large ones of a network make it give memory back and
take it again.

    OMP_NUM_THREADS=1 python -m benchmarks.steps.overhead
"""

__all__: list[str] = []

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

import girsanov as gv
from benchmarks._record import Command, record, settings, spread
from girsanov.adapters.diffusers.loading import import_diffusers, quiet

#: allocator -> settings of glibc, in bytes
ALLOCATORS = {
    "as it is": {},
    "raised thresholds": {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456"},
}
COLUMNS, WIDTH, BLOCKS = 8, 128, 3  # of the table, and of the library's default network for one
DIGITS = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1, "sample_size": 8}
#: scheduler -> its settings
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {},
    "DDIMScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": True},
}


class Perceptron(nn.Module):
    """Residual blocks on a row and its timestep, called as diffusers' networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(COLUMNS + 1, WIDTH)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(BLOCKS)]
        self.blocks = nn.ModuleList(blocks)
        self.leave = nn.Linear(WIDTH, COLUMNS)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Something of the shape of the sample."""
        del return_dict
        told = torch.as_tensor(timestep, dtype=sample.dtype).reshape(-1, 1).expand(len(sample), 1) / 1000.0
        h = self.enter(torch.cat([sample, told], 1))
        for block in self.blocks:
            h = h + block(h)
        return (self.leave(h),)


class Called(nn.Module):
    """A network as other loops call it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """What it predicts."""
        return self.network(x, t, return_dict=False)[0]


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks with the shape of their rows."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = import_diffusers().UNet2DModel(in_channels=1, out_channels=1, **DIGITS, **blocks)
    return {"digits": (unet.eval(), (1, 8, 8)), "table": (Perceptron().eval(), (COLUMNS,))}


@torch.no_grad()
def loop(
    network: nn.Module, scheduler: Any, x: Tensor, generator: torch.Generator, options: dict[str, float]
) -> Tensor:
    """What a pipeline does."""
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(shown, t, return_dict=False)[0]
        x = scheduler.step(output, t, x, generator=generator, **options).prev_sample
    return x


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def compared(
    name: str, data: str, ours: Callable[[], object], theirs: Callable[[], object], options: Any
) -> dict[str, Any]:
    """One row: both sides, one after the other in each repeat."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.repeats)]
    ratios = [a / b for a, b in pairs]
    best = [statistics.median(side) for side in zip(*pairs, strict=True)]
    row = {"sampler": name, "data": data, "steps": options.steps, "seconds": best[0], "bare_seconds": best[1]}
    print(row | {"ratio": statistics.median(ratios)}, flush=True)
    return row | {"ratio": statistics.median(ratios), "ratios": spread(ratios)}


def of_schedulers(options: Any) -> Iterator[dict[str, Any]]:
    """Every scheduler on both networks."""
    for data, (network, shape) in networks().items():
        n = getattr(options, data)
        for name, given in SCHEDULERS.items():
            clip = {"clip_sample": data == "digits"} if name in ("DDPMScheduler", "DDIMScheduler") else {}
            with quiet():
                scheduler = getattr(import_diffusers(), name)(**given, **clip)
            eta = {"eta": 1.0} if name == "DDIMScheduler" else {}
            chain = gv.chain_from_diffusers(network, scheduler, options.steps, floor=0.01, event_shape=shape, **eta)

            def bare(scheduler: Any = scheduler, network=network, shape=shape, n=n, eta=eta) -> Tensor:
                with quiet():
                    (own := copy.deepcopy(scheduler)).set_timesteps(options.steps)
                generator = torch.Generator().manual_seed(0)
                x = torch.randn(n, *shape, generator=generator) * float(getattr(own, "init_noise_sigma", 1.0))
                return loop(network, own, x, generator, eta)

            yield compared(name, data, lambda chain=chain, n=n: chain.sample_path(n), bare, options)


def of_pairs(options: Any) -> Iterator[dict[str, Any]]:
    """Our own sampler of the same networks."""
    for data, (network, shape) in networks().items():
        n = getattr(options, data)
        alphas = import_diffusers().DDPMScheduler().alphas_cumprod
        pair = gv.from_noise_prediction(Called(network), alphas_cumprod=alphas)
        pair = pair.replace(event_shape=shape)
        chain = gv.AncestralChain(pair, options.steps)
        yield compared(
            "AncestralChain",
            data,
            lambda chain=chain, n=n: chain.sample_path(n),
            lambda pair=pair, n=n: gv.sample(pair, n, steps=options.steps, order=1),
            options,
        )


def measured(options: Any) -> list[dict[str, Any]]:
    """All rows, of one thread."""
    torch.set_num_threads(1)
    return [*of_schedulers(options), *of_pairs(options)]


def started(allocator: str, options: Any) -> list[dict[str, Any]]:
    """The same in a process of its own, since the allocator reads its settings when it starts."""
    print(allocator, flush=True)
    os.environ |= ALLOCATORS[allocator]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, options).result()


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, steps=3, repeats=2, digits=4, table=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--digits", type=int, default=64, help="rows of a draw")
    parser.add_argument("--table", type=int, default=2048, help="rows of a draw")
    options = parser.parse_args()
    rows = [{"allocator": name, **row} for name in ALLOCATORS for row in started(name, options)]
    print("most:", max(row["ratio"] for row in rows))
    if not options.quick:
        print(f"wrote {record('steps-overhead', rows, settings=settings(options)).name}")


if __name__ == "__main__":
    main()
