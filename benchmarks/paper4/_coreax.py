"""The same discrepancy by coreax, for speed.py: run by an interpreter that has coreax, prints JSON.

    python _coreax.py POINTS.npy LENGTH BLOCK REPEATS

Points are tested against N(0, I); the first call, which compiles, is not timed.
"""

__all__: list[str] = []

import json
import math
import sys
import time
from importlib.metadata import version

import jax
import numpy as np
from coreax import Data
from coreax.kernels import PCIMQKernel, SteinKernel
from coreax.metrics import KSD


def main() -> None:
    """Time the metric and print its square."""
    path, length, block, repeats = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    data = Data(jax.numpy.asarray(np.load(path)))
    # coreax writes 1 / sqrt(1 + u / (2 l^2))
    metric = KSD(SteinKernel(PCIMQKernel(length_scale=length / math.sqrt(2.0)), lambda x: -x))
    compute = jax.jit(lambda points: metric.compute(points, points, block_size=block))
    value = float(compute(data).block_until_ready())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        compute(data).block_until_ready()
        seconds.append(time.perf_counter() - start)
    facts = {"coreax": version("coreax"), "jax": jax.__version__, "devices": str(jax.devices())}
    print(json.dumps({"v_statistic": value**2, "seconds": seconds, **facts}))


if __name__ == "__main__":
    main()
